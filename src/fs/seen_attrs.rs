//! The extended attributes by which a program asks how much of a file waits: `user.coalescefs.*`.
//!
//! They are not stored, and nobody may set or remove one. Asked for by name they answer; the kernel
//! lets those ask who may read the file. What is below of such a name is not shown.
//!
//! They are listed to a program that names them in its own command line, as
//! `getfattr -d -m user.coalescefs FILE` does, and to no other: what copies attributes, or compares
//! lists of them, finds what is stored below and nothing else.
//!
//! Rejected: to list them to everybody behind `system.`, which what copies attributes leaves out; but
//! some warn of it, and who compares trees sees a difference.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, TryLockError};
use std::time::Duration;

use crossbeam_channel::bounded;

use super::caller::Caller;
use super::data::{FileData, FileState};
use super::nodes::Node;
use super::{Filesystem, errno};
use crate::clock::boottime_ms;
use crate::control::errno as errnos;

/// All of them in one value, and what the names of the others begin with.
const NAME: &[u8] = b"user.coalescefs";
/// The others that are listed: of every regular file, whatever their values are.
const LISTED: [&[u8]; 4] = [b"backlog_bytes", b"oldest_age_ms", b"error", b"changed_below"];
/// A command line is read in microseconds, unless its process sees to it that it is not.
const COMMAND_PATIENCE: Duration = Duration::from_millis(250);
/// The longest list that the kernel takes.
const LIST_MAX: usize = 64 << 10;
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
fn is_reserved(name: &OsStr) -> bool {
    part(name).is_some()
}

/// Whether an attribute may be set or removed. `EPERM` for one of ours.
pub(super) fn check_changeable(name: &OsStr) -> io::Result<()> {
    match is_reserved(name) {
        true => Err(errno(libc::EPERM)),
        false => Ok(()),
    }
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
    changed_below: u64,
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
                b"changed_below" => seen.changed_below.to_string(),
                b"" => format!(
                    "backlog_bytes={} oldest_age_ms={} error={error} changed_below={}",
                    seen.backlog_bytes, seen.oldest_age_ms, seen.changed_below
                ),
                _ => return Err(errno(libc::ENODATA)),
            }
            .into_bytes())
        }))
    }

    /// Adds the names that a regular file has to a list of names, each ended by NUL, if the caller's
    /// command line names them; none where there is no room.
    pub(super) fn list_seen(&self, caller: Caller, node: &Node, names: &mut Vec<u8>) {
        if !node.is_regular() || !self.is_named_by(caller) {
            return;
        }
        let listed = LISTED.map(|part| [NAME, b".", part, b"\0"].concat()).concat();
        if names.len() + listed.len() <= LIST_MAX {
            names.extend(listed);
        }
    }

    /// Whether the caller's command line names them. While that of another caller cannot be read,
    /// nobody's does. By a thread of its own, as any of ours might be held for good.
    fn is_named_by(&self, caller: Caller) -> bool {
        let unread = self.unread_command_lines.clone();
        if unread.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let (answer, answered) = bounded(0);
        let read = move || {
            if answer.send(caller.mentions(NAME)).is_err() {
                unread.fetch_sub(1, Ordering::Relaxed);
            }
        };
        if std::thread::Builder::new().name("caller".to_owned()).spawn(read).is_err() {
            return false;
        }
        answered.recv_timeout(COMMAND_PATIENCE).unwrap_or_else(|_| {
            // Before `answered` goes, which is what the reader finds.
            self.unread_command_lines.fetch_add(1, Ordering::Relaxed);
            false
        })
    }

    fn seen(&self, id: u64) -> io::Result<Seen> {
        let node = self.node(id)?;
        if !node.is_regular() {
            return Err(errno(libc::ENODATA));
        }
        let changed_below = self.conflicts(&node);
        let Some(data) = node.data_if_any() else {
            return Ok(Seen { backlog_bytes: 0, oldest_age_ms: 0, errno: None, changed_below });
        };
        let state = data.lock_soon().ok_or_else(|| errno(libc::EAGAIN))?;
        let loss = state.stability.loss.filter(|loss| loss.is_listed);
        let born_ms = state.buffer.oldest_ms();
        Ok(Seen {
            backlog_bytes: state.buffer.dirty_bytes() + state.buffer.in_flight_bytes(),
            oldest_age_ms: born_ms.map_or(0, |born_ms| boottime_ms().saturating_sub(born_ms)),
            errno: state.failure.as_ref().map(|failure| failure.errno).or(loss.map(|l| l.errno)),
            changed_below,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only names of ours are taken, and a listing is changed only where it has some.
    #[test]
    fn names_are_told_apart() {
        let refused =
            |name: &str| check_changeable(OsStr::new(name)).err().and_then(|e| e.raw_os_error());
        for name in ["user.coalescefs", "user.coalescefs.", "user.coalescefs.error"] {
            assert_eq!(refused(name), Some(libc::EPERM), "{name}");
        }
        let others = [
            "user.coalescefsx",
            "user.coalesce",
            "trusted.coalescefs",
            "system.user.coalescefs",
            "",
        ];
        for name in others {
            assert_eq!(refused(name), None, "{name}");
        }
        let names = b"user.a\0user.coalescefs.error\0user.b\0".to_vec();
        assert_eq!(without_reserved(names), b"user.a\0user.b\0");
        assert_eq!(without_reserved(b"user.a\0".to_vec()), b"user.a\0");
        assert!(without_reserved(Vec::new()).is_empty());
    }
}
