//! What the backing filesystem can do: found out by trying, once, before it is mounted over.
//!
//! What needs a file or names is tried in a directory of our own, [`TRIAL_DIR`], which is gone
//! afterwards; so is one that a process left that was killed meanwhile, the next time. The
//! directory's time of modification is put back where that is allowed and nobody else changed it.
//! Where no directory can be made, what needs one is not known. About forty system calls, of which
//! a dozen change names; each may wait for the filesystem, so callers set a limit.
//!
//! Rejected: to conclude from the type of the filesystem, which says nothing of versions, options
//! and servers; and a file without a name (O_TMPFILE), which NFS and FUSE do not have, and which
//! cannot be renamed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{
    Attr, DirReader, DirectIo, SetTime, Time, allocate, attr, attr_at, create_at, errno, fs_stats,
    get_xattr, link_fd_at, longest_file_bytes, mkdir_at, open_path_at, probe_direct, rename_at,
    reopen, retry, rmdir_at, set_times, set_xattr, symlink_at, unlink_at,
};

/// Where names are tried. Always the same, so that one that was left is found.
pub const TRIAL_DIR: &str = ".coalescefs-trial";
/// The file in it, and how it is called where case does not matter.
const FILE: &str = "file";
const UPPER: &str = "FILE";
/// What else is made there.
const LINK: &str = "link";
const SYMLINK: &str = "symlink";
const MOVED: &str = "moved";
const OTHER: &str = "other";
/// How the names begin that libfuse and NFS give to files that are removed while they are open.
const HIDDEN: [&[u8]; 2] = [b".fuse_hidden", b".nfs"];
/// How often, and after which time, those are looked for again.
const HIDDEN_TRIES: u32 = 100;
const HIDDEN_PAUSE: Duration = Duration::from_millis(10);
/// Space that is allocated, and of which a part is given back.
const TRIAL_BYTES: u64 = 64 << 10;
/// 2001, on an odd second, and with another digit at each place.
const TRIAL_TIME: Time = Time { secs: 1_000_000_001, nanos: 987_654_321 };
const SECOND_NS: u64 = 1_000_000_000;

/// What is known. `None` is not known: it could not be tried, or failed for another reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Abilities {
    /// O_DIRECT, and what it needs.
    pub direct_io: Option<DirectIo>,
    /// fallocate(2).
    pub allocates: Option<bool>,
    /// The same beyond the end of a file that stays as long as it is.
    pub allocates_behind: Option<bool>,
    /// FALLOC_FL_PUNCH_HOLE.
    pub punches_holes: Option<bool>,
    /// openat2(2) with RESOLVE_BENEATH.
    pub opens_beneath: Option<bool>,
    /// name_to_handle_at(2).
    pub has_handles: Option<bool>,
    /// Extended attributes `user.*`.
    pub has_attributes: Option<bool>,
    /// POSIX ACLs.
    pub has_acls: Option<bool>,
    /// What times of files are multiples of, in nanoseconds.
    pub time_step_ns: Option<u64>,
    /// RENAME_NOREPLACE.
    pub renames_noreplace: Option<bool>,
    /// RENAME_EXCHANGE.
    pub renames_exchange: Option<bool>,
    /// link(2).
    pub has_hard_links: Option<bool>,
    /// symlink(2).
    pub has_symlinks: Option<bool>,
    /// Whether `a` and `A` are one name.
    pub folds_case: Option<bool>,
    /// Longest name, in bytes.
    pub name_bytes_max: Option<u32>,
    /// Longest file, in bytes.
    pub file_bytes_max: Option<u64>,
    /// What it took to find out, in microseconds.
    pub took_us: u64,
}

/// The calls that the probe makes: the kernel's, or those of a test.
pub trait Calls {
    /// O_DIRECT.
    fn direct_io(&self, file: BorrowedFd) -> DirectIo {
        probe_direct(file).0
    }

    /// fallocate(2) with such a mode.
    fn allocate(&self, file: BorrowedFd, mode: i32) -> io::Result<()> {
        allocate(file, mode, 0, TRIAL_BYTES)
    }

    /// openat2(2), beneath.
    fn open_beneath(&self, dir: BorrowedFd) -> io::Result<()> {
        open_beneath(dir)
    }

    /// name_to_handle_at(2).
    fn handle(&self, dir: BorrowedFd) -> io::Result<()> {
        handle(dir)
    }

    /// setxattr(2).
    fn set_attribute(&self, file: BorrowedFd) -> io::Result<()> {
        set_xattr(file, OsStr::new("user.coalescefs.trial"), b"x", 0)
    }

    /// getxattr(2) of the ACL.
    fn acl(&self, dir: BorrowedFd) -> io::Result<usize> {
        get_xattr(dir, OsStr::new("system.posix_acl_access"), &mut [])
    }

    /// The time that a file has after it was set to this one.
    fn keep_time(&self, file: BorrowedFd, time: Time) -> io::Result<Time> {
        set_times(file, SetTime::Omit, SetTime::At(time))?;
        Ok(attr(file)?.mtime)
    }

    /// renameat2(2) within a directory.
    fn rename(&self, dir: BorrowedFd, from: &str, to: &str, flags: u32) -> io::Result<()> {
        rename_at(dir, OsStr::new(from), dir, OsStr::new(to), flags)
    }

    /// link(2).
    fn link(&self, file: BorrowedFd, dir: BorrowedFd, name: &str) -> io::Result<()> {
        link_fd_at(file, dir, OsStr::new(name))
    }

    /// symlink(2).
    fn symlink(&self, dir: BorrowedFd, name: &str) -> io::Result<()> {
        symlink_at(Path::new(FILE), dir, OsStr::new(name))
    }

    /// stat(2).
    fn attr_at(&self, dir: BorrowedFd, name: &str) -> io::Result<Attr> {
        attr_at(dir, OsStr::new(name))
    }

    /// statvfs(3).
    fn name_bytes_max(&self, dir: BorrowedFd) -> io::Result<u32> {
        Ok(fs_stats(dir)?.namelen)
    }

    /// lseek(2), again and again.
    fn file_bytes_max(&self, file: BorrowedFd) -> u64 {
        longest_file_bytes(file)
    }

    /// mkdir(2).
    fn make_dir(&self, dir: BorrowedFd) -> io::Result<()> {
        mkdir_at(dir, OsStr::new(TRIAL_DIR), 0o700)
    }
}

/// The kernel's calls, unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelCalls;

impl Calls for KernelCalls {}

/// Tries everything in `dir`. `ask` is called with a new, empty file in it, if one can be made: for
/// what only files tell. The error says why none could be; the rest is known all the same. Waits for
/// the filesystem.
pub fn probe(
    calls: &dyn Calls,
    dir: BorrowedFd,
    ask: &mut dyn FnMut(BorrowedFd),
) -> (Abilities, Option<io::Error>) {
    let begun = Instant::now();
    let mut found = Abilities {
        opens_beneath: answer(calls.open_beneath(dir)),
        has_handles: answer(calls.handle(dir)),
        has_acls: match calls.acl(dir) {
            Err(error) if errno(&error) == libc::ENODATA => Some(true),
            result => answer(result),
        },
        name_bytes_max: calls.name_bytes_max(dir).ok().filter(|bytes| *bytes > 0),
        ..Abilities::default()
    };
    let tried = TrialDir::make(calls, dir).and_then(|trial| {
        let trial_dir = trial.fd.as_fd();
        let file = create_at(trial_dir, OsStr::new(FILE), 0o600)?;
        try_file(calls, file.as_fd(), &mut found);
        ask(file.as_fd());
        try_names(calls, trial_dir, file.as_fd(), &mut found);
        // Before the directory goes: NFS keeps a name for an open file that has none.
        drop(file);
        Ok(())
    });
    found.took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    (found, tried.err())
}

fn try_file(calls: &dyn Calls, file: BorrowedFd, found: &mut Abilities) {
    found.direct_io = Some(calls.direct_io(file));
    let behind = libc::FALLOC_FL_KEEP_SIZE;
    found.allocates_behind = answer(calls.allocate(file, behind));
    found.allocates = answer(calls.allocate(file, 0));
    found.punches_holes = answer(calls.allocate(file, behind | libc::FALLOC_FL_PUNCH_HOLE));
    found.has_attributes = answer(calls.set_attribute(file));
    found.file_bytes_max = Some(calls.file_bytes_max(file)).filter(|bytes| *bytes > 0);
    let kept = calls.keep_time(file, TRIAL_TIME).ok();
    found.time_step_ns = kept.and_then(|kept| time_step_ns(TRIAL_TIME, kept));
}

fn try_names(calls: &dyn Calls, dir: BorrowedFd, file: BorrowedFd, found: &mut Abilities) {
    found.folds_case = match calls.attr_at(dir, UPPER) {
        Ok(_) => Some(true),
        Err(error) => (errno(&error) == libc::ENOENT).then_some(false),
    };
    found.has_hard_links = answer(calls.link(file, dir, LINK));
    found.has_symlinks = answer(calls.symlink(dir, SYMLINK));
    if create_at(dir, OsStr::new(OTHER), 0o600).is_ok() {
        found.renames_exchange = answer(calls.rename(dir, FILE, OTHER, libc::RENAME_EXCHANGE));
    }
    found.renames_noreplace = answer(calls.rename(dir, FILE, MOVED, libc::RENAME_NOREPLACE));
}

/// `Some(false)` only for errors that mean that it cannot be done at all, or not by this user.
fn answer<T>(result: io::Result<T>) -> Option<bool> {
    match result.map_err(|error| errno(&error)) {
        Ok(_) => Some(true),
        Err(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM | libc::ENOTTY) => {
            Some(false)
        }
        Err(_) => None,
    }
}

/// The smallest usual step of which `kept` is the largest multiple that is not after `set`.
fn time_step_ns(set: Time, kept: Time) -> Option<u64> {
    let in_ns =
        |time: Time| Some(u64::try_from(time.secs).ok()? * SECOND_NS + u64::from(time.nanos));
    let (set, kept) = (in_ns(set)?, in_ns(kept)?);
    let powers = (0..=9).map(|power| 10u64.pow(power));
    powers.chain([2 * SECOND_NS]).find(|step| set - set % step == kept)
}

/// The directory for trials; goes with what is in it.
struct TrialDir<'a> {
    parent: BorrowedFd<'a>,
    fd: OwnedFd,
    /// The parent's time before and after it was made.
    times: Option<(Time, Time)>,
}

impl<'a> TrialDir<'a> {
    /// `EBUSY` when another process is at it.
    fn make(calls: &dyn Calls, parent: BorrowedFd<'a>) -> io::Result<TrialDir<'a>> {
        let name = OsStr::new(TRIAL_DIR);
        let before = attr(parent).map(|attr| attr.mtime);
        match calls.make_dir(parent) {
            Err(error) if errno(&error) == libc::EEXIST => {}
            result => result?,
        }
        let opened = open_path_at(parent, name)
            .and_then(|path| reopen(path.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY));
        let fd = opened.inspect_err(|_| drop(rmdir_at(parent, name)))?;
        lock(fd.as_fd())?;
        let after = attr(parent).map(|attr| attr.mtime);
        let times = before.ok().zip(after.ok());
        let trial = TrialDir { parent, fd, times };
        trial.clear();
        Ok(trial)
    }

    /// Removes what was tried, and what somebody left who was killed.
    fn clear(&self) {
        for name in [FILE, LINK, SYMLINK, MOVED, OTHER] {
            // Most are not there.
            let _ = unlink_at(self.fd.as_fd(), OsStr::new(name));
        }
    }

    /// Removes the names that a client gave to files that were still open to it when they were
    /// removed: it hears of their end later, and sshfs may forget them for good. Returns how many
    /// there were.
    fn clear_hidden(&self) -> io::Result<usize> {
        let listed = reopen(self.fd.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY)?;
        let is_hidden =
            |name: &OsStr| HIDDEN.iter().any(|prefix| name.as_bytes().starts_with(prefix));
        let mut buf = vec![0; 4096];
        let mut found = 0;
        for entry in DirReader::new(listed).next_batch(0, &mut buf)? {
            if is_hidden(entry.name) {
                found += 1;
                // Once more if it is hidden again, or not yet closed.
                let _ = unlink_at(self.fd.as_fd(), entry.name);
            }
        }
        Ok(found)
    }

    fn remove(&self) -> io::Result<()> {
        let remove = || rmdir_at(self.parent, OsStr::new(TRIAL_DIR));
        for _ in 0..HIDDEN_TRIES {
            match remove() {
                Err(error) if errno(&error) == libc::ENOTEMPTY => {}
                result => return result,
            }
            if self.clear_hidden()? == 0 {
                break;
            }
            std::thread::sleep(HIDDEN_PAUSE);
        }
        remove()
    }
}

impl Drop for TrialDir<'_> {
    fn drop(&mut self) {
        self.clear();
        let now = attr(self.parent).map(|attr| attr.mtime).ok();
        if let Err(error) = self.remove() {
            log::warn!("{TRIAL_DIR} cannot be removed: {error}");
        }
        let Some((before, after)) = self.times else { return };
        if now == Some(after) {
            // Not permitted where the directory is another user's.
            let _ = set_times(self.parent, SetTime::Omit, SetTime::At(before));
        }
    }
}

/// Where there are no locks, none is needed to be the only one on this machine, as a rule.
fn lock(dir: BorrowedFd) -> io::Result<()> {
    // SAFETY: a valid descriptor.
    let locked = retry(|| unsafe { libc::flock(dir.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) });
    match locked {
        Err(error) if errno(&error) == libc::EWOULDBLOCK => {
            Err(io::Error::from_raw_os_error(libc::EBUSY))
        }
        _ => Ok(()),
    }
}

fn open_beneath(dir: BorrowedFd) -> io::Result<()> {
    // SAFETY: all zeros is a valid open_how.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH;
    let (how, size) = (&raw const how, size_of::<libc::open_how>());
    let call = || {
        // SAFETY: a valid C string and open_how; see openat2(2).
        unsafe { libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), c".".as_ptr(), how, size) }
    };
    let fd = retry(call)? as libc::c_int;
    // SAFETY: a fresh descriptor of ours.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

fn handle(dir: BorrowedFd) -> io::Result<()> {
    /// MAX_HANDLE_SZ of the kernel.
    const HANDLE_BYTES: usize = 128;
    #[repr(C)]
    struct Handle {
        head: libc::file_handle,
        bytes: [u8; HANDLE_BYTES],
    }
    // SAFETY: all zeros is a valid one.
    let mut handle: Handle = unsafe { std::mem::zeroed() };
    handle.head.handle_bytes = HANDLE_BYTES as u32;
    let (mut mount_id, path, flags) = (0, c"".as_ptr(), libc::AT_EMPTY_PATH);
    let at = &raw mut handle.head;
    let call = || {
        // SAFETY: writes a handle of at most as many bytes as it has behind it, and one number.
        unsafe { libc::name_to_handle_at(dir.as_raw_fd(), path, at, &mut mount_id, flags) }
    };
    retry(call).map(drop)
}

#[cfg(test)]
mod tests;
