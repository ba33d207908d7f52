//! What `demo` and `bench` share: trying things in a directory of their own, without and with a
//! mount, so that every way out leaves nothing behind: no process, no mount, no directory.
//!
//! Values that are dropped see to that ([`process::Group`], [`mounting::Mounted`],
//! [`scratch::Scratch`]); Ctrl-C only makes the waits end.
//!
//! | file | what |
//! |---|---|
//! | `scratch` | the directory |
//! | `mounting` | the mount |
//! | `process` | children, signals |
//! | `measure` | the place, calls of a writer, reports |
//! | `record` | what is written |
//! | `progress`, `frame` | what is shown |

pub mod frame;
pub mod measure;
pub mod mounting;
pub mod process;
pub mod progress;
pub mod record;
pub mod scratch;

use std::fmt::Display;
use std::io;

/// Why a trial did not come to its end: one line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("cannot {action} {object}: {error}")]
    Io { action: &'static str, object: String, error: io::Error },
    #[error("FUSE cannot be used here: /dev/fuse: {error}; {remedy}")]
    NoFuse { error: io::Error, remedy: String },
    #[error("`coalescefs {command}` failed: {reason}")]
    Command { command: String, reason: String },
    #[error("not all data could be stored: {reason}")]
    NotStored { reason: String },
    #[error("interrupted; everything was cleaned up")]
    Interrupted,
}

impl TrialError {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            TrialError::NotStored { .. } => crate::worker::EXIT_NOT_STORED as u8,
            TrialError::Interrupted => 130,
            _ => 1,
        }
    }

    /// `action` completes "cannot".
    pub fn io(action: &'static str, object: impl Display, error: io::Error) -> TrialError {
        TrialError::Io { action, object: object.to_string(), error }
    }

    /// Of a command of this program.
    pub fn command(command: &str, reason: impl Display) -> TrialError {
        TrialError::Command { command: command.to_owned(), reason: reason.to_string() }
    }
}
