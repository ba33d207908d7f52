//! Command line: raw arguments (`args`), resolved options (`resolve`), one file a command.
//!
//! | file | what |
//! |---|---|
//! | `args` | what clap parses; no side effects but looking at the machine for `--help` |
//! | `units` | sizes and durations, in and out |
//! | `rules` | rules by path, in |
//! | `config_file` | options from a file |
//! | `resolve` | from arguments to a checked [`crate::config::MountConfig`] |
//! | `places` | BACKING and MOUNTPOINT: what is wrong with them |
//! | `redirect` | from globs of files to directories to mount over |
//! | `walk` | from a path to what is there, without touching a mount |
//! | `exit` | errors and exit codes, all of them |
//! | `children` | waiting for children and passing signals on |
//! | `drained` | unmounting with progress |
//! | `holders` | who keeps a mount busy |
//! | `trial` | what `demo` and `bench` share: a scratch directory, a mount over it, children |
//! | `topics` | what `help TOPIC` and the manual say beside the options |
//! | `manual` | the command line as manual pages and completions are made from it |
//! | `commands` | mount, run, umount, discard, drain, status, top,
//! | | upgrade, doctor, demo, bench, help |

mod args;
mod below;
mod children;
pub mod commands;
mod config_file;
mod drained;
pub mod exit;
mod holders;
pub mod manual;
mod places;
mod redirect;
mod resolve;
mod rules;
pub mod topics;
mod trial;
mod units;
mod walk;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

use args::{Arguments, Command};
use exit::{CliError, Exit};

/// Runs the command line and gives the exit code.
pub fn main() -> ExitCode {
    let (mut arguments, given) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return exit::of_parser(&error),
    };
    if let Err(error) = config_file::complete(&mut arguments, &given) {
        return exit::of_result(Err(error));
    }
    let level = resolve::log_level(arguments.log.log_level);
    start_log(&level);
    exit::of_result(run(arguments, level))
}

/// The arguments, and what clap made them from.
fn parse() -> Result<(Arguments, ArgMatches), clap::Error> {
    let given = Arguments::command().try_get_matches()?;
    Ok((Arguments::from_arg_matches(&given)?, given))
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
        Command::Help(args) => commands::help::run(&args).map(|()| Exit::Ok),
        Command::Keeper(args) => Ok(Exit::Keeper(crate::keeper::run(args.beginning()))),
    }
}

/// The FUSE library warns of each request that it takes for unsupported: what is answered ENOSYS is
/// for a program to say. `RUST_LOG=warn,fuser=warn` shows it.
fn start_log(level: &str) {
    let mut log = env_logger::Builder::new();
    log.filter_module("fuser", log::LevelFilter::Error).parse_filters(level).init();
}

/// How wide standard output is, where it is a terminal: elsewhere each line is whole, for grep(1).
fn columns() -> Option<usize> {
    let (columns, _) = ratatui::crossterm::terminal::size().ok()?;
    (io::stdout().is_terminal() && columns > 0).then_some(columns.into())
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
