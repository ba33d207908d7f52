//! The `coalescefs` program; everything is in the library.

#[global_allocator]
static ALLOCATOR: coalescefs::fuse::PresentReadBuffers = coalescefs::fuse::PresentReadBuffers;

fn main() -> std::process::ExitCode {
    coalescefs::cli::main()
}
