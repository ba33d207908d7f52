//! How the program ends: all error kinds and all exit codes.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; nothing was changed unless the message says so. `doctor`: there is a problem |
//! | 2 | the command line makes no sense |
//! | 75 | acknowledged data is not in the backing files (EX_TEMPFAIL: it is still in memory, or the message says it is lost) |
//! | other | `run`: the command's own; 128+n when signal n killed it, 126 or 127 when it could not be started |

use std::process::ExitCode;

use super::commands::demo::DemoError;
use super::trial::TrialError;
use super::units;

/// Failed.
const FAILED: u8 = 1;
/// Wrong usage, as clap has it.
const USAGE: u8 = 2;
/// Data is not on disk.
const NOT_STORED: u8 = crate::worker::EXIT_NOT_STORED as u8;
/// As shells have it: found, and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// As shells have it: not found.
const NOT_FOUND: u8 = 127;

/// An end that is not an error of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// `doctor` found something, and has said what.
    Problem,
    /// The code of the keeper this process is, or waited for.
    Keeper(i32),
    /// The command of `run` ended.
    Command(std::process::ExitStatus),
}

/// An error, with one line for the user that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something did not work.
    #[error("{0}")]
    Failed(String),
    /// Acknowledged data is not in the backing files.
    #[error("{0}")]
    NotStored(String),
    /// The demo did not come to its end.
    #[error("demo: {0}")]
    Demo(#[from] DemoError),
    /// The benchmark did not come to its end.
    #[error("bench: {0}")]
    Bench(#[from] TrialError),
    /// The command of `run` could not be started.
    #[error("{}: {error}", command.to_string_lossy())]
    Command {
        /// Its name.
        command: std::ffi::OsString,
        /// Why.
        error: std::io::Error,
    },
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            CliError::Usage(_) => USAGE,
            CliError::Failed(_) => FAILED,
            CliError::NotStored(_) => NOT_STORED,
            CliError::Demo(error) => error.exit_code(),
            CliError::Bench(error) => error.exit_code(),
            CliError::Command { error, .. } => match error.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            },
        }
    }
}

impl Exit {
    fn code(self) -> u8 {
        use std::os::unix::process::ExitStatusExt;
        match self {
            Exit::Ok => 0,
            Exit::Problem => FAILED,
            Exit::Keeper(code) => u8::try_from(code).unwrap_or(FAILED),
            Exit::Command(status) => match (status.code(), status.signal()) {
                (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
                (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(FAILED),
                (None, None) => FAILED,
            },
        }
    }
}

/// The error to end with when several things went wrong: data not stored before anything else, and
/// what came first. The others are said at once.
pub fn worst_of(results: impl IntoIterator<Item = Result<(), CliError>>) -> Result<(), CliError> {
    let mut worst = Ok(());
    for error in results.into_iter().filter_map(Result::err) {
        match (&worst, &error) {
            (Ok(()), _) => worst = Err(error),
            (Err(CliError::Failed(first)), CliError::NotStored(_)) => {
                complain(first);
                worst = Err(error);
            }
            _ => complain(&error.to_string()),
        }
    }
    worst
}

/// The end of the program after a command; prints the error.
pub fn of_result(result: Result<Exit, CliError>) -> ExitCode {
    ExitCode::from(match result {
        Ok(exit) => exit.code(),
        Err(error) => {
            let message = error.to_string();
            match error {
                // A list, a line for each file.
                CliError::NotStored(_) | CliError::Demo(_) => complain(&message),
                _ => complain(&units::printable(&message)),
            }
            error.code()
        }
    })
}

/// The end of the program when clap does not go on: an error in one line, or help as it is.
pub fn of_parser(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help or version; whoever closed standard output does not want it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        complain("what shall be done? Try 'coalescefs --help'");
    } else {
        let said = error.to_string();
        let hint = command_hint(error.kind(), &said);
        let command = command_of(&said);
        complain(&format!("{}{hint} (try 'coalescefs {command}--help')", one_line(&said)));
    }
    ExitCode::from(USAGE)
}

/// The command that the usage is of, with a space; or nothing.
fn command_of(said: &str) -> String {
    let usage = said.split_once("Usage: coalescefs ").map_or("", |(_, usage)| usage);
    let name = usage.split_whitespace().next().unwrap_or_default();
    match name.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        true => format!("{name} "),
        false => String::new(),
    }
}

/// What is most often forgotten before a word that `run` takes for no option: the shell makes several
/// words of a glob, and the command's own options are not ours.
fn command_hint(kind: clap::error::ErrorKind, said: &str) -> &'static str {
    let is_of_run = said.contains("Usage: coalescefs run ");
    match kind {
        clap::error::ErrorKind::UnknownArgument if is_of_run => {
            ": the command stands behind '--', and a GLOB in quotes"
        }
        _ => "",
    }
}

/// Writes `coalescefs: MESSAGE` to standard error. That nobody can read it is no error.
pub fn complain(message: &str) {
    use std::io::Write;
    let lines: Vec<String> = message.split('\n').map(units::printable).collect();
    let _ = writeln!(std::io::stderr(), "coalescefs: {}", lines.join("\n"));
}

/// What clap says in several paragraphs: the error and its tips, without the usage.
pub fn one_line(message: &str) -> String {
    let mut words = String::new();
    for line in message.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        let line = line.strip_prefix("error: ").unwrap_or(line);
        let line = line.strip_prefix("tip: ").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        if !words.is_empty() {
            words.push_str(if words.ends_with(':') { " " } else { "; " });
        }
        words.push_str(line);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn codes() {
        assert_eq!(Exit::Ok.code(), 0);
        assert_eq!(Exit::Keeper(75).code(), 75);
        assert_eq!(Exit::Command(ExitStatus::from_raw(3 << 8)).code(), 3);
        assert_eq!(Exit::Command(ExitStatus::from_raw(libc::SIGKILL)).code(), 137);
        assert_eq!(CliError::Usage(String::new()).code(), 2);
        assert_eq!(CliError::Failed(String::new()).code(), 1);
        assert_eq!(CliError::NotStored(String::new()).code(), 75);
        let command = |errno| CliError::Command {
            command: "x".into(),
            error: std::io::Error::from_raw_os_error(errno),
        };
        assert_eq!(command(libc::ENOENT).code(), 127);
        assert_eq!(command(libc::EACCES).code(), 126);
    }

    #[test]
    fn the_command_is_that_of_the_usage() {
        assert_eq!(
            command_of("error: x\n\nUsage: coalescefs mount [OPTIONS] <BACKING>\n"),
            "mount "
        );
        assert_eq!(command_of("error: x\n\nUsage: coalescefs [OPTIONS] <COMMAND>\n"), "");
        assert_eq!(command_of("error: x"), "");
    }

    #[test]
    fn several_paragraphs_become_one_line() {
        let message = "error: unexpected argument '--memry' found\n\n  tip: a similar argument \
                       exists: '--memory'\n\nUsage: coalescefs mount <BACKING>\n\nFor more \
                       information, try '--help'.\n";
        assert_eq!(
            one_line(message),
            "unexpected argument '--memry' found; a similar argument exists: '--memory'"
        );
        let message = "error: the following required arguments were not provided:\n  <BACKING>\n";
        assert_eq!(
            one_line(message),
            "the following required arguments were not provided: <BACKING>"
        );
    }
}
