//! Command line.

pub mod commands;

use clap::Parser as _;

#[derive(clap::Parser)]
enum Commands {
    Demo(Box<commands::demo::DemoArgs>),
}

/// Runs the command line and gives the exit code.
pub fn main() -> std::process::ExitCode {
    let Commands::Demo(args) = Commands::parse();
    match commands::demo::run(&args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coalescefs demo: {error}");
            error.exit_code().into()
        }
    }
}
