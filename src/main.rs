//! The `coalescefs` program; everything is in the library.

fn main() -> std::process::ExitCode {
    coalescefs::cli::main()
}
