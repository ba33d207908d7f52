//! Unmounting, in a process of its own.
//!
//! umount(2) of a FUSE filesystem writes dirty pages back through the daemon and may wait for the
//! disk, so neither keeper nor worker calls it: the keeper forks a child that does, and goes on.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::attach::Method;
use super::mountinfo::{Device, MountTable};
use super::{c_path, check, fusermount, open_directory};
use crate::arena::UnmountMode;

/// Unmounts `device` at `mountpoint` and returns the errno, 0 when it is not mounted there (any
/// more). EBUSY when it is in use or another mount lies on top of it. May wait for the disk, and
/// may become another program: meant for a child process that then exits with the result.
pub fn unmount(mountpoint: &Path, device: Device, mode: UnmountMode, method: Method) -> i32 {
    match MountTable::read() {
        Ok(table) if !table.has(device, mountpoint) => return 0,
        Ok(table) if table.top_at(mountpoint).map(|top| top.device) != Some(device) => {
            return libc::EBUSY;
        }
        _ => {}
    }
    if method == Method::Fusermount {
        return fusermount::exec_unmount(mountpoint, mode).raw_os_error().unwrap_or(libc::EPERM);
    }
    let flags = match mode {
        UnmountMode::Plain => libc::UMOUNT_NOFOLLOW,
        UnmountMode::Lazy => libc::UMOUNT_NOFOLLOW | libc::MNT_DETACH,
    };
    let result = unmount_by_name(mountpoint, flags);
    result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}

/// From within the directory above, which no link can then replace: root must not be led to unmount
/// another place. Changes the current directory.
fn unmount_by_name(mountpoint: &Path, flags: libc::c_int) -> io::Result<()> {
    let (Some(above), Some(name)) = (mountpoint.parent(), mountpoint.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let above = open_directory(above, libc::O_PATH)?;
    // SAFETY: a valid descriptor.
    check(unsafe { libc::fchdir(above.as_raw_fd()) })?;
    let name = c_path(Path::new(name))?;
    // SAFETY: a valid C string.
    check(unsafe { libc::umount2(name.as_ptr(), flags) }).map(drop)
}

/// What the end of a child that called [`unmount`] means: its exit code is the errno, except that
/// the helper's own failures carry none; then the mount table tells.
pub fn interpret_end(
    exit_code: Option<i32>,
    method: Method,
    mountpoint: &Path,
    device: Device,
) -> i32 {
    match (exit_code, method) {
        (Some(0), _) => 0,
        (Some(errno), Method::Syscall) => errno,
        _ if MountTable::read().is_ok_and(|table| !table.has(device, mountpoint)) => 0,
        _ => libc::EBUSY,
    }
}
