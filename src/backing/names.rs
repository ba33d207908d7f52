//! Names in directories, and opening.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::{c_string, entry_name, errno, magic_link, retry};

fn open_at(dir: libc::c_int, name: &std::ffi::CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: valid C string; the result is a fresh descriptor.
    let fd = retry(|| unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC, mode) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the backing directory. Errors: open(2).
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    open_at(libc::AT_FDCWD, &path, libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// Opens a path that leads through no symbolic link, nor through more than `resolve` of openat2(2)
/// allows. `ELOOP` for a link; with `RESOLVE_CACHED` `EAGAIN` for what the kernel would have to ask
/// somebody for, and `EINVAL` before Linux 5.12. Others: open(2).
pub fn open_without_links(path: &Path, flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    // SAFETY: all zeros is a valid structure.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_NO_SYMLINKS | resolve;
    let (at, bytes) = (&raw const how, size_of::<libc::open_how>());
    let open =
        // SAFETY: a valid C string and structure.
        || unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), at, bytes) };
    let fd = retry(open)? as libc::c_int;
    // SAFETY: a fresh descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An O_PATH descriptor of what is at `name`, a symlink itself included. Errors: open(2).
pub fn open_path_at(dir: BorrowedFd, name: &OsStr) -> io::Result<OwnedFd> {
    open_at(dir.as_raw_fd(), &entry_name(name)?, libc::O_PATH | libc::O_NOFOLLOW, 0)
}

/// Opens the file that a descriptor stands for once more, with other flags; works for O_PATH
/// descriptors and for files without a name. For regular files and directories. Errors: open(2).
pub fn reopen(fd: BorrowedFd, flags: i32) -> io::Result<OwnedFd> {
    open_at(libc::AT_FDCWD, &magic_link(fd), flags, 0)
}

/// As [`reopen`], for a file of our own whose mode forbids it: its owner may change the mode, so it
/// is changed for the moment of opening. `EACCES` for files of others.
pub fn reopen_as_owner(fd: BorrowedFd, flags: i32) -> io::Result<OwnedFd> {
    let attr = super::attr(fd)?;
    // SAFETY: reads the effective user id.
    if attr.uid != unsafe { libc::geteuid() } {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    let mode = attr.mode & 0o7777;
    super::set_mode(fd, mode | libc::S_IRUSR | libc::S_IWUSR)?;
    let opened = reopen(fd, flags);
    super::set_mode(fd, mode)?;
    opened
}

/// Makes a regular file that must not be there, and opens it for reading and writing. Errors:
/// open(2).
pub fn create_at(dir: BorrowedFd, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    open_at(dir.as_raw_fd(), &entry_name(name)?, flags, mode)
}

/// The flags of an open file: fcntl(2), F_GETFL. Does not wait.
pub fn open_flags(fd: BorrowedFd) -> io::Result<i32> {
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

/// Makes a directory. Errors: mkdir(2).
pub fn mkdir_at(dir: BorrowedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let name = entry_name(name)?;
    // SAFETY: valid C string.
    retry(|| unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Makes a file, FIFO, socket or device. `rdev` is in the kernel's 32-bit encoding, as FUSE has it.
/// Errors: mknod(2).
pub fn mknod_at(dir: BorrowedFd, name: &OsStr, mode: u32, rdev: u32) -> io::Result<()> {
    let name = entry_name(name)?;
    let (major, minor) = (rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xfff00);
    let dev = libc::makedev(major, minor);
    // SAFETY: valid C string.
    retry(|| unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) }).map(drop)
}

/// Makes a symlink. Errors: symlink(2).
pub fn symlink_at(target: &Path, dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
    let (target, name) = (c_string(target.as_os_str())?, entry_name(name)?);
    // SAFETY: valid C strings.
    retry(|| unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

fn remove_at(dir: BorrowedFd, name: &OsStr, flags: i32) -> io::Result<()> {
    let name = entry_name(name)?;
    // SAFETY: valid C string.
    retry(|| unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) }).map(drop)
}

/// Removes a name that is not a directory's. Errors: unlink(2).
pub fn unlink_at(dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
    remove_at(dir, name, 0)
}

/// Removes an empty directory. Errors: rmdir(2).
pub fn rmdir_at(dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
    remove_at(dir, name, libc::AT_REMOVEDIR)
}

/// Moves a name, with the flags of renameat2(2). Errors: renameat2(2).
pub fn rename_at(
    from_dir: BorrowedFd,
    from: &OsStr,
    to_dir: BorrowedFd,
    to: &OsStr,
    flags: u32,
) -> io::Result<()> {
    let (from, to) = (entry_name(from)?, entry_name(to)?);
    // SAFETY: valid C strings.
    let rename = || unsafe {
        libc::renameat2(from_dir.as_raw_fd(), from.as_ptr(), to_dir.as_raw_fd(), to.as_ptr(), flags)
    };
    retry(rename).map(drop)
}

/// Gives the file that a descriptor stands for (O_PATH allowed) another name. AT_EMPTY_PATH needs
/// CAP_DAC_READ_SEARCH; without it the magic link serves, except for symlinks. Errors: link(2).
pub fn link_fd_at(fd: BorrowedFd, dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
    let name = entry_name(name)?;
    let link = |from: libc::c_int, path: &std::ffi::CStr, flags| {
        // SAFETY: valid C strings.
        let call =
            || unsafe { libc::linkat(from, path.as_ptr(), dir.as_raw_fd(), name.as_ptr(), flags) };
        retry(call).map(drop)
    };
    match link(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH) {
        Err(error) if matches!(errno(&error), libc::ENOENT | libc::EPERM) => {
            link(libc::AT_FDCWD, &magic_link(fd), libc::AT_SYMLINK_FOLLOW)
        }
        result => result,
    }
}

/// Where a symlink points, given its O_PATH descriptor. Errors: readlink(2).
pub fn read_link(fd: BorrowedFd) -> io::Result<OsString> {
    let mut target = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: writes at most the buffer's length.
    let read = || unsafe {
        libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), target.as_mut_ptr().cast(), target.len())
    };
    let len = retry(read)? as usize;
    target.truncate(len);
    debug_assert!(OsStr::from_bytes(&target).len() == len);
    Ok(OsString::from_vec(target))
}
