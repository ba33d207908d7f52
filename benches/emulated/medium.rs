//! What the bytes lie on: memory of this process, all of it there and locked before the first
//! request. The disk must not wait for memory that is freed only by writing to the disk.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

const NAME: &CStr = c"emulated-disk";

/// Zeros at first. A memory file and not a mapping: requests may overlap, and the kernel does not
/// mind.
pub struct Medium(File);

impl Medium {
    /// `Err`: not enough memory, or it cannot be locked.
    pub fn new(bytes: u64) -> io::Result<Medium> {
        // SAFETY: a C string.
        let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor of ours.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(bytes)?;
        lock(&file, bytes)?;
        Ok(Medium(file))
    }

    /// Fills `to`.
    pub fn read(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(to, offset)
    }

    /// Stores all of `bytes`.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
}

/// Everything this process has and will have, and the pages of `file`, by a mapping that is never
/// used and stays.
fn lock(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: changes no memory.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a new mapping, which nobody looks at.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes as usize, protection, flags, file.as_raw_fd(), 0)
    };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
