//! Mounts whose daemon is gone: every call on them answers ENOTCONN until they are unmounted.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::attach::Method;
use super::mountinfo::Mount;
use super::patience::within;
use super::{c_path, check, fusermount, privilege, unmount};
use crate::arena::UnmountMode;

/// A dead mount answers at once; one that does not is not dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether nobody serves the mount at `mount_point`. Waits some seconds at most.
pub fn is_dead(mount_point: &Path) -> bool {
    let path = mount_point.to_owned();
    within(ANSWER_TIMEOUT, move || answers_not_connected(&path)).unwrap_or(false)
}

/// By statfs(2), which always asks the daemon: attributes may come from the kernel's cache. The last
/// process may be dying while it is asked: the question is then answered ECONNABORTED.
fn answers_not_connected(path: &Path) -> bool {
    let Ok(path) = c_path(path) else { return false };
    // SAFETY: an all-zero statvfs is a valid value to be written over.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid C string and structure.
    let result = check(unsafe { libc::statvfs(path.as_ptr(), &mut stat) });
    let gone = [libc::ENOTCONN, libc::ECONNABORTED];
    result.is_err_and(|error| error.raw_os_error().is_some_and(|code| gone.contains(&code)))
}

/// Unmounts a dead mount, also one that is in use. `Err` is the errno; EPERM when it is another
/// user's. Does not wait for anything but the helper.
pub fn clear(mount: &Mount) -> io::Result<()> {
    let (mount_point, mode) = (&mount.mount_point, UnmountMode::Lazy);
    if privilege::has_sys_admin() {
        return match unmount::unmount(mount_point, mount.device, mode, Method::Syscall) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
    }
    let refused = || io::Error::from_raw_os_error(libc::EPERM);
    let mut helper = Command::new(fusermount::find().ok_or_else(refused)?);
    helper.args(["-u", "-z", "--"]).arg(mount_point);
    let ended = helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if ended.success() { Ok(()) } else { Err(refused()) }
}
