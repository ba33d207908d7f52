//! A private mount namespace for `coalescefs run`: what is mounted in it is seen only by the
//! command, and goes when the last process in it ends.

use std::io;
use std::time::Duration;

use super::{check, privilege};

/// Threads that end are waited for, a fifth of a second at most.
const ENDING_TRIES: u32 = 100;
const ENDING_PAUSE: Duration = Duration::from_millis(2);

/// How the namespace was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// By CAP_SYS_ADMIN: only the mounts are private.
    AsRoot,
    /// With a user namespace in which the caller keeps his ids.
    InUserNamespace,
}

/// How [`enter_private`] would do it.
pub fn plan() -> Entered {
    if privilege::has_sys_admin() { Entered::AsRoot } else { Entered::InUserNamespace }
}

/// A thread that has said what it found is gone soon, but not at once, nor when it was joined: the
/// kernel counts it until it has cleaned up after it.
fn unshare(flags: libc::c_int) -> io::Result<()> {
    for _ in 0..ENDING_TRIES {
        // SAFETY: changes the namespaces of this process only.
        match check(unsafe { libc::unshare(flags) }) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                std::thread::sleep(ENDING_PAUSE);
            }
            result => return result.map(drop),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Moves this process into a new mount namespace from which no mount leaks out, and into which
/// unmounting elsewhere still reaches: else other mounts would live as long as the command. It must have one
/// thread. `Err` is the errno of unshare(2), of writing the id maps or of mount(2); EPERM or EACCES
/// where user namespaces are restricted. The process is then in a state fit only for exiting.
pub fn enter_private() -> io::Result<Entered> {
    let entered = plan();
    // SAFETY: no arguments, cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let flags = match entered {
        Entered::AsRoot => libc::CLONE_NEWNS,
        Entered::InUserNamespace => libc::CLONE_NEWNS | libc::CLONE_NEWUSER,
    };
    unshare(flags)?;
    if entered == Entered::InUserNamespace {
        // Without this the kernel does not let a user write gid_map: user_namespaces(7).
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    // SAFETY: changes the propagation of mounts; null where the call ignores the argument.
    check(unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_SLAVE,
            std::ptr::null(),
        )
    })?;
    Ok(entered)
}
