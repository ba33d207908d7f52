//! The backing directory: system calls, relative to descriptors, as safe functions.
//!
//! The root was opened before it was mounted over; everything below is reached from it by one
//! name at a time, never through a symlink, so no path leaves the directory. Every function is one
//! system call (or the few that make up for one), retries EINTR, and may wait for the disk unless
//! it says otherwise. Errors are those of the man page named. No policy, no locks but the
//! descriptor cache's.

mod abilities;
mod attr;
mod ballast;
mod cache;
mod caller;
mod data;
mod device;
mod dir;
mod ioctl;
mod layout;
mod names;
mod probe;
mod storage;
mod stripe;
mod xattr;

pub use abilities::{Abilities, Calls, KernelCalls, TRIAL_DIR, probe};
pub use attr::{
    Attr, Freshness, FsStats, SetTime, Time, attr, attr_as, attr_at, attr_at_as, cached_attr,
    copies_on_write, fs_stats, is_in_memory, is_xfs, keeps_extents, set_mode, set_owner, set_times,
};
pub use ballast::Ballast;
pub use cache::{
    DescriptorCache, raise_descriptor_limit, raise_file_size_limit, raise_locked_memory_limit,
};
pub use caller::{Credentials, as_caller, without_admin};
pub use data::{
    allocate, copy_range, extents, flush_range, place_on_device, read_at, seek, set_size,
    settle_range, sync_all, sync_data, sync_filesystem, try_read_at, write_at,
};
pub use device::{DiskReads, ReadSoFar, is_rotational};
pub use dir::{DirEntry, DirReader};
pub use ioctl::ioctl;
pub use layout::Engine;
pub use names::{
    create_at, link_fd_at, mkdir_at, mknod_at, open_flags, open_path_at, open_root,
    open_without_links, read_link, rename_at, reopen, reopen_as_owner, rmdir_at, symlink_at,
    unlink_at,
};
pub use probe::{DirectIo, is_elsewhere, longest_file_bytes, probe_direct};
pub use storage::{KernelStorage, Storage, SyncKind};
pub use stripe::{MountedAs, Stripe, ToldBy, stripe};
pub use xattr::{get_xattr, list_xattr, remove_xattr, set_xattr};

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The errno of an error; `EIO` when it has none.
pub fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// close(2), with the error that dropping the descriptor would not tell: a filesystem that sends
/// data at that moment (FUSE, NFS) reports there what it could not store. May block.
pub fn close(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: nobody else has the descriptor; it is gone afterwards also when there is an error.
    match unsafe { libc::close(fd.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the program that this process becomes have the descriptor: clears FD_CLOEXEC.
pub fn keep_over_exec(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: changes a flag of a valid descriptor.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A name or path for a system call. `EINVAL` when it holds a NUL byte.
fn c_string(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// One name in a directory, for a system call. `EINVAL` for what would lead elsewhere: the kernel
/// asks for no such name, and no other source of names is to be trusted to.
fn entry_name(name: &OsStr) -> io::Result<CString> {
    let bytes = name.as_bytes();
    if bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    c_string(name)
}

/// The magic link to an open file, for calls that have no form for O_PATH descriptors.
fn magic_link(fd: BorrowedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits hold no NUL")
}

/// The result of a system call; repeated while a signal interrupts it.
fn retry<T: Copy + PartialEq + From<i8>>(mut call: impl FnMut() -> T) -> io::Result<T> {
    loop {
        let result = call();
        if result != T::from(-1) {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests;
