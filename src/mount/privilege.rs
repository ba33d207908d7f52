//! What this process may do: CAP_SYS_ADMIN, and keeping it over an exec.

use std::io;

use super::check;

const CAP_SYS_ADMIN: u32 = 21;
/// `_LINUX_CAPABILITY_VERSION_3`: two words per set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether mount(2) may be tried: CAP_SYS_ADMIN is effective, in whatever user namespace.
pub fn has_sys_admin() -> bool {
    capabilities().is_ok_and(|words| words[0].effective & (1 << CAP_SYS_ADMIN) != 0)
}

fn capabilities() -> io::Result<[CapWord; 2]> {
    let mut header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut words = [CapWord::default(); 2];
    // SAFETY: both structures have the layout of capget(2), version 3.
    let result = unsafe { libc::syscall(libc::SYS_capget, &mut header, words.as_mut_ptr()) };
    check(result as libc::c_int)?;
    Ok(words)
}

/// Lets the next exec keep CAP_SYS_ADMIN although the user is not root: ambient, see
/// capabilities(7). Only makes system calls, so it may run between fork and exec.
/// `Err(EPERM)` when it is not permitted here.
pub fn keep_sys_admin_over_exec() -> io::Result<()> {
    let mut words = capabilities()?;
    words[0].inheritable |= 1 << CAP_SYS_ADMIN;
    let mut header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: as in `capabilities`.
    let result = unsafe { libc::syscall(libc::SYS_capset, &mut header, words.as_ptr()) };
    check(result as libc::c_int)?;
    // SAFETY: changes a set of the calling thread; no pointers.
    check(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0)
    })?;
    Ok(())
}
