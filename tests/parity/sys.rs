//! System calls for the cases, as thin as can be: what libc answers is what is compared.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::log::Log;

/// A call of libc that answers -1 and errno, as a `Result`. The one unsafe block of the cases:
/// they are about system calls, and give pointers only to what outlives the call, with its size.
macro_rules! sys {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: pointers among the arguments are to values that outlive the call and are as
        // large as the other arguments say, or are wrong on purpose where the kernel checks them.
        #[allow(clippy::undocumented_unsafe_blocks)]
        let answer = unsafe { libc::$function($($argument),*) };
        $crate::sys::checked(answer)
    }};
}
pub(crate) use sys;

/// What a call of libc answers.
pub trait Answer {
    /// As a number as large as any of them.
    fn widened(self) -> i64;
}

impl Answer for i32 {
    fn widened(self) -> i64 {
        i64::from(self)
    }
}

impl Answer for i64 {
    fn widened(self) -> i64 {
        self
    }
}

impl Answer for isize {
    fn widened(self) -> i64 {
        self as i64
    }
}

/// -1 is an error.
pub fn checked(answer: impl Answer) -> io::Result<i64> {
    match answer.widened() {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// A C string; names of cases hold no NUL.
pub fn c(name: impl AsRef<[u8]>) -> CString {
    CString::new(name.as_ref()).expect("names hold no NUL")
}

/// open(2) relative to the current directory.
pub fn open(name: impl AsRef<[u8]>, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    openat(libc::AT_FDCWD, name, flags, mode)
}

/// openat(2).
pub fn openat(dir: i32, name: impl AsRef<[u8]>, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let fd = sys!(openat(dir, c(name).as_ptr(), flags | libc::O_CLOEXEC, mode))?;
    // SAFETY: a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A new file of these bytes, opened to read and write.
pub fn file(name: &str, bytes: &[u8]) -> OwnedFd {
    let fd = open(name, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC, 0o644).expect("a new file");
    let written = pwrite(&fd, bytes, 0).expect("room for a small file");
    assert_eq!(written as usize, bytes.len());
    fd
}

/// A FIFO. Some engines have none: the name is then absent, or, at fault, on one side only.
pub fn make_fifo(name: &str, mode: u32) {
    let _ = sys!(mkfifo(c(name).as_ptr(), mode));
}

/// A socket's name, where there can be one.
pub fn make_socket(name: &str, mode: u32) {
    let _ = sys!(mknod(c(name).as_ptr(), libc::S_IFSOCK | mode, 0));
}

/// A FIFO that was made, opened for both directions, with its name.
pub fn both_ways(name: &str) -> Option<(&str, OwnedFd)> {
    Some((name, open(name, libc::O_RDWR, 0).ok()?))
}

/// pwrite(2).
pub fn pwrite(fd: &impl AsRawFd, bytes: &[u8], offset: i64) -> io::Result<i64> {
    sys!(pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset))
}

/// write(2).
pub fn write(fd: &impl AsRawFd, bytes: &[u8]) -> io::Result<i64> {
    sys!(write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()))
}

/// pread(2), as many bytes as there were, as a short text.
pub fn pread(fd: &impl AsRawFd, len: usize, offset: i64) -> io::Result<String> {
    let mut bytes = vec![0u8; len];
    let count = sys!(pread(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), len, offset))?;
    Ok(brief(&bytes[..count as usize]))
}

/// read(2), as many bytes as there were, as a short text.
pub fn read(fd: &impl AsRawFd, len: usize) -> io::Result<String> {
    let mut bytes = vec![0u8; len];
    let count = sys!(read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), len))?;
    Ok(brief(&bytes[..count as usize]))
}

/// Bytes that can be compared at a glance: themselves when few, else length and hash.
pub fn brief(bytes: &[u8]) -> String {
    if bytes.len() <= 40 {
        return bytes.escape_ascii().to_string();
    }
    format!("{} bytes {:016x}", bytes.len(), hash(bytes))
}

/// FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// stat(2) of a name, of a symlink itself.
pub fn lstat(name: impl AsRef<[u8]>) -> io::Result<libc::stat> {
    // SAFETY: plain old data.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    sys!(lstat(c(name).as_ptr(), &mut stat))?;
    Ok(stat)
}

/// fstat(2).
pub fn fstat(fd: &impl AsRawFd) -> io::Result<libc::stat> {
    // SAFETY: plain old data.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    sys!(fstat(fd.as_raw_fd(), &mut stat))?;
    Ok(stat)
}

/// What of stat(2) must not differ.
pub fn shown(stat: &libc::stat) -> String {
    format!(
        "{:o} nlink {} owner {}:{} size {} rdev {}",
        stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size, stat.st_rdev
    )
}

/// Logs what stat(2) says of a name.
pub fn log_stat(log: &Log, name: &str) {
    log.value(format_args!("stat {name}"), lstat(name).map(|stat| shown(&stat)));
}

/// Logs what stat(2) says of a name after a call.
pub fn log_stat_after(log: &Log, call: &str, name: &str) {
    log.value(format_args!("{call}: stat {name}"), lstat(name).map(|stat| shown(&stat)));
}

/// Logs a whole file: size, hash.
pub fn log_file(log: &Log, name: &str) {
    log.value(format_args!("contents of {name}"), fs::read(name).map(|bytes| brief(&bytes)));
}

/// f_type of statfs(2).
pub fn statfs_type(path: &Path) -> i64 {
    // SAFETY: plain old data.
    let mut stats: libc::statfs = unsafe { std::mem::zeroed() };
    let path = c(path.as_os_str().as_bytes());
    sys!(statfs(path.as_ptr(), &mut stats)).expect("a directory of ours");
    stats.f_type
}

/// A process that runs `act` beside this one.
pub struct Child(i32);

impl Child {
    /// Forks. A case is a process with one thread, so the child may do everything.
    pub fn spawn(act: impl FnOnce()) -> Child {
        match sys!(fork()).expect("a process more") {
            0 => {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
                // SAFETY: ends the child without what the parent does at its end.
                unsafe { libc::_exit(if ended.is_ok() { 0 } else { 101 }) }
            }
            pid => Child(pid as i32),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.0
    }

    /// How it ended.
    pub fn wait(self) -> String {
        let mut status = 0;
        while sys!(waitpid(self.0, &mut status, 0)).is_err() {}
        if libc::WIFSIGNALED(status) {
            format!("signal {}", libc::WTERMSIG(status))
        } else {
            format!("exit {}", libc::WEXITSTATUS(status))
        }
    }
}

/// Runs `act` in a child and logs how it ended.
pub fn in_child(log: &Log, what: &str, act: impl FnOnce()) {
    let child = Child::spawn(act);
    log.line(what, child.wait());
}

/// An ordinary user's id, who owns nothing.
pub const NOBODY: u32 = 65534;
/// Another one.
pub const SOMEBODY: u32 = 4321;

/// Runs `act` in a child as an ordinary user with these groups; logs when it did not end well.
/// Without root there is nobody else to be: then nothing is compared.
pub fn as_user(log: &Log, uid: u32, gid: u32, groups: &[u32], act: impl FnOnce()) {
    // SAFETY: reads the effective user id.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let ended = Child::spawn(|| {
        sys!(setgroups(groups.len(), groups.as_ptr())).unwrap();
        sys!(setresgid(gid, gid, gid)).unwrap();
        sys!(setresuid(uid, uid, uid)).unwrap();
        act();
    })
    .wait();
    if ended != "exit 0" {
        log.line(format_args!("as user {uid}"), ended);
    }
}

/// A pipe: reading end, writing end.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    sys!(pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC)).expect("two descriptors more");
    // SAFETY: fresh descriptors.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) }).into()
}

/// Sets the file mode creation mask of this process, which a case has to itself.
pub fn umask(mask: u32) {
    // SAFETY: no pointers, never fails.
    unsafe { libc::umask(mask) };
}
