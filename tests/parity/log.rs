//! What a case did and what it was answered: one line a call, compared line by line.
//!
//! Written at once, so that children write into the same log and a case that dies leaves what it
//! had. An answer must not hold what differs between two directories by nature: inode numbers,
//! descriptors, times of now.

use std::fmt::{Debug, Display};
use std::io::{self, Write};

/// Between a call and its answer.
pub const ARROW: &str = " -> ";

/// Standard output of a process that runs one case.
pub struct Log;

impl Log {
    /// A line.
    pub fn line(&self, call: impl Display, answer: impl Display) {
        let line = format!("{call}{ARROW}{answer}\n");
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the log is a file");
    }

    /// A call whose result is compared, value and errno.
    pub fn value<T: Debug>(&self, call: impl Display, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.line(call, format_args!("{value:?}"));
                Some(value)
            }
            Err(error) => {
                self.line(call, error);
                None
            }
        }
    }

    /// A call of which only errors are logged; whether there was one.
    pub fn refused<T>(&self, call: impl Display, result: io::Result<T>) -> bool {
        result.map_err(|error| self.line(call, error)).is_err()
    }

    /// A call of which only success or errno is compared.
    pub fn ok<T>(&self, call: impl Display, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.line(call, "ok");
                Some(value)
            }
            Err(error) => {
                self.line(call, error);
                None
            }
        }
    }
}
