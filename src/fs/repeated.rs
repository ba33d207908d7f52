//! Requests that come again, because a worker died before it answered or because an engine could
//! not be reached (`asking`), and that would not find what they found the first time: the name is
//! made, gone or moved, the attribute set or removed.
//!
//! What they found is noted in the arena before they are carried out ([`Attempts`]). The kernel
//! holds the directory's lock, or the inode's, until the request is answered, and where nobody else
//! changes the backing directory whatever is different now, the first attempt has done. Where nodes
//! share it, another may have made or removed the same name in between, and is taken for it: the
//! program is told success, and the name is there, or gone, as it wanted.
//! Lookups and handles that a request gave out are noted right after they are counted: a worker
//! that dies in between leaves one too many, which keeps a node in memory, and never one too few.
//!
//! [`Attempts`]: crate::arena::Attempts

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Filesystem;
use super::caller::Caller;
use crate::arena::Mark;
use crate::backing::{self, Attr};

/// In place of a handle: the request has given out a node only.
pub(super) const NO_HANDLE: u64 = 0;

/// Which file it is.
pub(super) fn identity(attr: &Attr) -> Mark {
    Some((attr.dev, attr.ino))
}

impl Filesystem {
    /// Which file is at a name now. Errors: fstatat(2), but for that of a name that is not there.
    pub(super) fn identity_at(
        &self,
        dir: &OwnedFd,
        (parent, name): (u64, &OsStr),
    ) -> io::Result<Mark> {
        match backing::attr_at(dir.as_fd(), name) {
            Ok(attr) => Ok(identity(&self.met_at(attr, parent, name))),
            Err(error) if backing::errno(&error) == libc::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the first attempt of a repeated request found; `None` for a request that is new, or of
    /// which nothing was done.
    pub(super) fn found_before(&self, caller: Caller) -> Option<[Mark; 2]> {
        caller.is_repeated.then(|| self.arena.attempts().find(caller.unique)).flatten()
    }

    /// Notes what a request finds, before it is carried out.
    pub(super) fn begin_attempt(&self, caller: Caller, found: [Mark; 2]) {
        self.arena.attempts().begin(caller.unique, found);
    }

    /// The node id and handle that the first attempt of a repeated request gave out and counted; the
    /// kernel, which never heard of it, will give it back once.
    pub(super) fn given_before(&self, caller: Caller) -> Option<(u64, u64)> {
        self.found_before(caller).and_then(|[_, given]| given)
    }

    /// For a request that makes a name, which the kernel sends only when it is not there.
    pub(super) fn was_made(
        &self,
        caller: Caller,
        dir: &OwnedFd,
        (parent, name): (u64, &OsStr),
    ) -> io::Result<bool> {
        let is_again = self.found_before(caller).is_some();
        Ok(is_again && self.identity_at(dir, (parent, name))?.is_some())
    }
}

#[cfg(test)]
mod tests;
