//! The extended attributes by which a program asks how much of a file waits: `user.coalescefs.*`.
//!
//! They are not stored, and not listed: whoever copies files with their attributes would else copy
//! them. Asked for by name they answer; the kernel lets those ask who may read the file. Nobody may
//! set or remove one. What is below of such a name is not shown.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{MutexGuard, TryLockError};
use std::time::Duration;

use super::data::{FileData, FileState};
use super::{Filesystem, errno};
use crate::clock::boottime_ms;
use crate::control::errno as errnos;

/// All of them in one value, and what the names of the others begin with.
const NAME: &[u8] = b"user.coalescefs";
/// A file's lock is held for moments, but by a call below that hangs: so often it is tried, with a
/// pause each.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

/// What follows the common part of a name that is reserved; `None` for any other name.
fn part(name: &OsStr) -> Option<&[u8]> {
    match name.as_bytes().strip_prefix(NAME)? {
        rest @ [] => Some(rest),
        [b'.', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Whether the name is one that is not stored.
pub(super) fn is_reserved(name: &OsStr) -> bool {
    part(name).is_some()
}

/// A list of names, each ended by NUL, without those that are not shown.
pub(super) fn without_reserved(names: Vec<u8>) -> Vec<u8> {
    let each = || names.split_inclusive(|byte| *byte == 0);
    let is_hidden =
        |name: &[u8]| is_reserved(OsStr::from_bytes(name.strip_suffix(&[0]).unwrap_or(name)));
    match each().any(is_hidden) {
        true => each().filter(|name| !is_hidden(name)).flatten().copied().collect(),
        false => names,
    }
}

/// What a file shows of itself.
struct Seen {
    backlog_bytes: u64,
    oldest_age_ms: u64,
    errno: Option<i32>,
}

impl FileData {
    /// The lock, unless it is held for long. Waits for a tenth of a second at most.
    pub(super) fn lock_soon(&self) -> Option<MutexGuard<'_, FileState>> {
        for _ in 0..TRIES {
            match self.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Poisoned(_)) => return None,
            }
        }
        None
    }
}

impl Filesystem {
    /// GETXATTR of a reserved name. `None` for any other. Errors: `ENODATA` for an unknown name and
    /// for what is no regular file, `EAGAIN` when the file is held by a call below that hangs.
    pub(super) fn seen_attribute(&self, id: u64, name: &OsStr) -> Option<io::Result<Vec<u8>>> {
        let part = part(name)?;
        Some(self.seen(id).and_then(|seen| {
            let error = seen.errno.map_or_else(String::new, errnos::name);
            Ok(match part {
                b"backlog_bytes" => seen.backlog_bytes.to_string(),
                b"oldest_age_ms" => seen.oldest_age_ms.to_string(),
                b"error" => error,
                b"" => format!(
                    "backlog_bytes={} oldest_age_ms={} error={error}",
                    seen.backlog_bytes, seen.oldest_age_ms
                ),
                _ => return Err(errno(libc::ENODATA)),
            }
            .into_bytes())
        }))
    }

    fn seen(&self, id: u64) -> io::Result<Seen> {
        let node = self.node(id)?;
        if !node.is_regular() {
            return Err(errno(libc::ENODATA));
        }
        let Some(data) = node.data_if_any() else {
            return Ok(Seen { backlog_bytes: 0, oldest_age_ms: 0, errno: None });
        };
        let state = data.lock_soon().ok_or_else(|| errno(libc::EAGAIN))?;
        let loss = state.stability.loss.filter(|loss| loss.is_listed);
        let born_ms = state.buffer.oldest_ms();
        Ok(Seen {
            backlog_bytes: state.buffer.dirty_bytes() + state.buffer.in_flight_bytes(),
            oldest_age_ms: born_ms.map_or(0, |born_ms| boottime_ms().saturating_sub(born_ms)),
            errno: state.failure.as_ref().map(|failure| failure.errno).or(loss.map(|l| l.errno)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only names of ours are taken, and a listing is changed only where it has some.
    #[test]
    fn names_are_told_apart() {
        for name in ["user.coalescefs", "user.coalescefs.", "user.coalescefs.error"] {
            assert!(is_reserved(OsStr::new(name)), "{name}");
        }
        for name in ["user.coalescefsx", "user.coalesce", "trusted.coalescefs", "security.x", ""] {
            assert!(!is_reserved(OsStr::new(name)), "{name}");
        }
        let names = b"user.a\0user.coalescefs.error\0user.b\0".to_vec();
        assert_eq!(without_reserved(names), b"user.a\0user.b\0");
        assert_eq!(without_reserved(b"user.a\0".to_vec()), b"user.a\0");
        assert!(without_reserved(Vec::new()).is_empty());
    }
}
