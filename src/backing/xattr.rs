//! Extended attributes, of any file a descriptor stands for.
//!
//! The f-calls refuse O_PATH descriptors, so the magic link is followed; for a symlink's O_PATH
//! descriptor it leads to the symlink itself, whose user attributes the kernel refuses as it does
//! for lsetxattr(2).

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use super::{c_string, magic_link, retry};

/// Reads a value; an empty buffer asks for its length. Errors: getxattr(2), `ERANGE` when the
/// buffer is too small.
pub fn get_xattr(fd: BorrowedFd, name: &OsStr, value: &mut [u8]) -> io::Result<usize> {
    let (link, name) = (magic_link(fd), c_string(name)?);
    let (buf, len) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: valid C strings; writes at most the buffer's length.
    Ok(retry(|| unsafe { libc::getxattr(link.as_ptr(), name.as_ptr(), buf, len) })? as usize)
}

/// Sets a value, with the flags of setxattr(2). Errors: setxattr(2).
pub fn set_xattr(fd: BorrowedFd, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
    let (link, name) = (magic_link(fd), c_string(name)?);
    let (buf, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: valid C strings and buffer.
    retry(|| unsafe { libc::setxattr(link.as_ptr(), name.as_ptr(), buf, len, flags) }).map(drop)
}

/// Reads the names, each ended by NUL; an empty buffer asks for their length. Errors:
/// listxattr(2).
pub fn list_xattr(fd: BorrowedFd, names: &mut [u8]) -> io::Result<usize> {
    let link = magic_link(fd);
    let (buf, len) = (names.as_mut_ptr().cast(), names.len());
    // SAFETY: valid C string; writes at most the buffer's length.
    Ok(retry(|| unsafe { libc::listxattr(link.as_ptr(), buf, len) })? as usize)
}

/// Removes an attribute. Errors: removexattr(2).
pub fn remove_xattr(fd: BorrowedFd, name: &OsStr) -> io::Result<()> {
    let (link, name) = (magic_link(fd), c_string(name)?);
    // SAFETY: valid C strings.
    retry(|| unsafe { libc::removexattr(link.as_ptr(), name.as_ptr()) }).map(drop)
}
