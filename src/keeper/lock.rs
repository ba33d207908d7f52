//! One daemon for one backing directory: each would think it has it alone, and show stale data.
//!
//! The lock is an abstract unix address named after the directory's inode, because it goes with the
//! last process that holds it and leaves the directory itself untouched (a flock on it would meet
//! those of programs). Anybody may bind any such address, so there are some of them, and a holder
//! is believed only when he may write to the directory; the others are passed over.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::address::{self, ATTEMPTS};
use crate::control::peer::{self, Peer};

/// How long a new mount waits for the daemon of the last one to store its last bytes.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at whether it is gone.
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);

/// Why the directory is not ours.
enum Refused {
    /// By a daemon that is believed, or one that does not say whose it is.
    Held(Option<Peer>),
    /// All names are taken by others.
    Squatted(Peer),
    Failed(io::Error),
}

/// What is thought of a holder who lets callers wait. A keeper does so for moments at most.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Silent {
    Believed,
    PassedOver,
}

/// Takes the lock for an open directory. A daemon that is still storing its last bytes is waited
/// for, some seconds. `Err` has one line for the user.
pub(super) fn take(backing: &OwnedFd, path: &Path) -> Result<UnixListener, String> {
    let path = path.display();
    let in_words = |error: io::Error| format!("{path}: {error}");
    let directory = backing.try_clone().map(File::from).map_err(in_words)?;
    let meta = directory.metadata().map_err(in_words)?;
    let name = format!("coalescefs-backing-{:x}-{:x}", meta.dev(), meta.ino());
    let believed = |holder: &Peer| may_write(holder.uid, meta.uid(), meta.mode());
    let give_up = Instant::now() + PREDECESSOR_TIMEOUT;
    loop {
        let is_last = Instant::now() >= give_up;
        let silent = if is_last { Silent::PassedOver } else { Silent::Believed };
        let refused = match try_take(&name, &believed, silent) {
            Ok(lock) => return Ok(lock),
            Err(refused) => refused,
        };
        match refused {
            Refused::Failed(error) => return Err(in_words(error)),
            _ if !is_last => std::thread::sleep(PREDECESSOR_PAUSE),
            Refused::Held(holder) => {
                let who = holder.map_or(String::new(), |holder| format!(" ({holder})"));
                return Err(format!(
                    "{path} is in use by another coalescefs{who}: it is mounted elsewhere, or its \
                     last bytes are still being stored ('ps -C coalescefs' shows it)"
                ));
            }
            Refused::Squatted(holder) => {
                return Err(format!(
                    "{path}: {holder}, who may not write to it, has taken all addresses that keep \
                     two daemons apart: end it and try again"
                ));
            }
        }
    }
}

/// Whether a process of `uid` may be writing to the directory. Users that this namespace does not
/// know may be anybody.
fn may_write(uid: u32, owner: u32, mode: u32) -> bool {
    const OTHERS: u32 = libc::S_IWGRP | libc::S_IWOTH;
    uid == 0 || uid == owner || uid == peer::own_uid() || mode & OTHERS != 0 || !knows_all_users()
}

/// Whether every user has a number of his own here: not so in most user namespaces.
fn knows_all_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Takes the first free name; none when one of them is held by somebody who is believed. The names
/// after the first free one are looked at, too: its squatter may have gone since they were taken.
fn try_take(
    name: &str,
    believed: &dyn Fn(&Peer) -> bool,
    silent: Silent,
) -> Result<UnixListener, Refused> {
    let mut lock = None;
    let mut squatter = None;
    for attempt in 0..ATTEMPTS {
        let address = address::numbered(name, attempt);
        if lock.is_none() {
            match UnixListener::bind_addr(&address) {
                Ok(bound) => {
                    bound.set_nonblocking(true).map_err(Refused::Failed)?;
                    lock = Some(bound);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(Refused::Failed(error)),
            }
        }
        match address::holder_of(&address) {
            Ok(holder) if believed(&holder) => return Err(Refused::Held(Some(holder))),
            Ok(holder) => squatter = Some(holder),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) if silent == Silent::PassedOver => {}
            Err(_) => return Err(Refused::Held(None)),
        }
    }
    if let Some(squatter) = &squatter {
        log::warn!("{squatter} has taken the address of a lock: not believed");
    }
    match (lock, squatter) {
        (Some(lock), _) => Ok(lock),
        (None, Some(squatter)) => Err(Refused::Squatted(squatter)),
        (None, None) => Err(Refused::Held(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(of: &str) -> String {
        format!("coalescefs-lock-{of}-{}", std::process::id())
    }

    /// Goal: holders who are not believed are passed over, the lock then still excludes, also when
    /// they have gone meanwhile.
    #[test]
    fn squatters_neither_deny_nor_break_the_lock() {
        let name = name("squat");
        let squatters: Vec<_> = (0..2)
            .map(|n| UnixListener::bind_addr(&address::numbered(&name, n)).unwrap())
            .collect();
        let lock =
            try_take(&name, &|_| false, Silent::Believed).ok().expect("the third name is free");
        drop(squatters);
        let other = try_take(&name, &|_| true, Silent::Believed);
        assert!(matches!(other, Err(Refused::Held(Some(_)))), "the first name is free again");
        drop(lock);
        assert!(try_take(&name, &|_| true, Silent::Believed).is_ok());
    }

    #[test]
    fn one_who_takes_all_names_is_named() {
        let name = name("all");
        let _squatters: Vec<_> = (0..ATTEMPTS)
            .map(|n| UnixListener::bind_addr(&address::numbered(&name, n)).unwrap())
            .collect();
        let refused = try_take(&name, &|_| false, Silent::Believed);
        let Err(Refused::Squatted(holder)) = refused else { panic!("taken") };
        assert_eq!(holder.pid as u32, std::process::id());
    }

    #[test]
    fn believed_is_who_may_write() {
        assert!(may_write(0, 7, 0o755) && may_write(7, 7, 0o755));
        assert!(may_write(8, 7, 0o775) && may_write(8, 7, 0o757));
        assert!(!may_write(8, 7, 0o755) || !knows_all_users());
    }
}
