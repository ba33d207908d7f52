//! ioctl(2) on open files, for commands whose argument is one flat structure.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::retry;

/// Bytes of the largest argument that a command of `_IOC` form can have.
const ARGUMENT_BYTES_MAX: usize = 1 << 14;

/// Calls `command` with `argument`, which it reads and writes as far as its own size says: the
/// bits 16 to 29 of the command, see Documentation/userspace-api/ioctl/ioctl-decoding.rst. Returns
/// the call's value. Errors: those of the command.
pub fn ioctl(fd: BorrowedFd, command: u32, argument: &mut [u8]) -> io::Result<i32> {
    // Whatever a command says and does, it finds that much memory.
    let mut memory = vec![0u8; ARGUMENT_BYTES_MAX.max(argument.len())];
    memory[..argument.len()].copy_from_slice(argument);
    let at = memory.as_mut_ptr();
    // SAFETY: a command of the callers' list, none of which reaches past its own argument.
    let value = retry(|| unsafe { libc::ioctl(fd.as_raw_fd(), command as _, at) })?;
    argument.copy_from_slice(&memory[..argument.len()]);
    Ok(value)
}
