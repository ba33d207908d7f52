//! Command line: raw arguments (`args`), resolved options (`resolve`), one file a command.
//!
//! | file | what |
//! |---|---|
//! | `args` | what clap parses; no side effects but looking at the machine for `--help` |
//! | `units` | sizes and durations, in and out |
//! | `resolve` | from arguments to a checked [`crate::config::MountConfig`] |
//! | `places` | BACKING and MOUNTPOINT: what is wrong with them |
//! | `walk` | from a path to what is there, without touching a mount |
//! | `exit` | errors and exit codes, all of them |
//! | `children` | waiting for children and passing signals on |
//! | `drained` | unmounting with progress |
//! | `holders` | who keeps a mount busy |
//! | `trial` | what `demo` and `bench` share: a scratch directory, a mount over it, children |
//! | `commands` | mount, run, umount, discard, drain, status, top, upgrade, doctor, demo, bench |

mod args;
mod children;
pub mod commands;
mod drained;
pub mod exit;
mod holders;
mod places;
mod resolve;
mod trial;
mod units;
mod walk;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use exit::{CliError, Exit};

/// Runs the command line and gives the exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::of_parser(&error),
    };
    let level = resolve::log_level(arguments.log.log_level);
    start_log(&level);
    exit::of_result(run(arguments, level))
}

fn run(arguments: Arguments, log_level: String) -> Result<Exit, CliError> {
    let log = resolve::Log::new(log_level, arguments.log.log_file)?;
    match arguments.command {
        Command::Mount(args) => commands::mount::run(&args, log),
        Command::Run(args) => commands::run::run(&args, log),
        Command::Umount(args) => commands::umount::run(&args).map(|()| Exit::Ok),
        Command::Discard(args) => commands::discard::run(&args).map(|()| Exit::Ok),
        Command::Drain(args) => commands::drain::run(&args).map(|()| Exit::Ok),
        Command::Top(args) => commands::top::run(&args).map(|()| Exit::Ok),
        Command::Status(args) => commands::status::run(&args).map(|()| Exit::Ok),
        Command::Upgrade(args) => commands::upgrade::run(&args).map(|()| Exit::Ok),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Demo(args) => Ok(commands::demo::run(&args).map(|()| Exit::Ok)?),
        Command::Bench(args) => commands::bench::run(&args).map(|()| Exit::Ok),
        Command::Keeper(args) => Ok(Exit::Keeper(crate::keeper::run(args.beginning()))),
    }
}

fn start_log(level: &str) {
    env_logger::Builder::new().parse_filters(level).init();
}

/// Writes to standard output. A reader that went away, as `head` does, is no error.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
