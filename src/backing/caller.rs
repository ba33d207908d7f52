//! Making files on behalf of the calling process.
//!
//! As root, the thread takes the caller's filesystem user and group id (setfsuid(2), per thread),
//! so that new files, quotas and the set-group-id rules are the caller's. The kernel has checked
//! permissions already (`default_permissions`), with the caller's supplementary groups, which we
//! do not know: so the capabilities that override permissions, which setfsuid drops, are raised
//! again. CAP_FSETID is not: whether a set-group-id bit stays is decided by the caller's rights.

use std::io;

/// Of the capabilities that setfsuid(2) drops, those that only override permission checks:
/// CAP_DAC_OVERRIDE (1), CAP_DAC_READ_SEARCH (2), and CAP_MKNOD (27), which the kernel has
/// checked for the caller as well; see capabilities(7).
const RAISED: u64 = 1 << 1 | 1 << 2 | 1 << 27;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Runs `act` with the caller's ids on this thread. When this process is not root, or the caller
/// is, it just runs it. `Err` of its own only when the thread's capabilities cannot be set.
pub fn as_caller<T>(uid: u32, gid: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: reads the effective user id.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root || (uid == 0 && gid == 0) {
        return act();
    }
    let _restored = Restore;
    set_ids(uid, gid);
    if uid != 0 {
        raise_capabilities()?;
    }
    act()
}

/// Gives the thread root's ids back; with them the kernel raises the capabilities again.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        set_ids(0, 0);
    }
}

fn set_ids(uid: u32, gid: u32) {
    // SAFETY: per-thread ids, by the raw system calls; they return the former id and cannot fail
    // for root. Group first: it needs the rights of the user.
    unsafe {
        if uid == 0 {
            libc::syscall(libc::SYS_setfsuid, uid);
        }
        libc::syscall(libc::SYS_setfsgid, gid);
        if uid != 0 {
            libc::syscall(libc::SYS_setfsuid, uid);
        }
    }
}

fn raise_capabilities() -> io::Result<()> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: structures of version 3, for this thread.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = [RAISED as u32, (RAISED >> 32) as u32];
    for (data, wanted) in data.iter_mut().zip(wanted) {
        data.effective |= wanted & data.permitted;
    }
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
