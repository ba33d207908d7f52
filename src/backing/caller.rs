//! Making files on behalf of the calling process.
//!
//! The thread takes the caller's umask, which the backing filesystem applies or, where the
//! directory has a default ACL, does not. As root, it also takes the caller's filesystem user and
//! group id (setfsuid(2), per thread), so that new files, quotas and the set-group-id rules are the
//! caller's. The kernel has checked permissions already (`default_permissions`), with the caller's
//! supplementary groups: so the capabilities that override permissions, which setfsuid drops, are
//! raised again. CAP_FSETID is not: whether a set-group-id bit stays is decided by the caller's
//! rights.

use std::cell::Cell;
use std::io;

/// Of the capabilities that setfsuid(2) drops, those that only override permission checks:
/// CAP_DAC_OVERRIDE (1), CAP_DAC_READ_SEARCH (2), and CAP_MKNOD (27), which the kernel has
/// checked for the caller as well; see capabilities(7).
const RAISED: u64 = 1 << 1 | 1 << 2 | 1 << 27;
/// CAP_SYS_ADMIN, in the first word of the set.
const ADMIN: u32 = 1 << 21;
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

/// Whose a new file is to be.
#[derive(Clone, Copy, Debug)]
pub struct Credentials {
    /// Filesystem user id.
    pub uid: u32,
    /// Filesystem group id.
    pub gid: u32,
    /// Permissions that new files are not to have, unless the directory has a default ACL.
    pub umask: u32,
    /// A supplementary group that matters: only with it may the file keep a set-group-id bit.
    pub group: Option<u32>,
}

/// Runs `act` with the caller's ids and umask on this thread. `EPERM` when this process is not root
/// and the caller is another user: the file would not be his. Errors of its own else only when the
/// thread's capabilities cannot be set.
pub fn as_caller<T>(caller: &Credentials, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _umask = Umask::of_thread(caller.umask)?;
    // SAFETY: reads the effective user id.
    let own_uid = unsafe { libc::geteuid() };
    if own_uid != 0 && own_uid != caller.uid {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    if own_uid != 0 || (caller.uid == 0 && caller.gid == 0) {
        return act();
    }
    let _groups = caller.group.map(Groups::only).transpose()?;
    let _restored = Restore;
    set_ids(caller.uid, caller.gid)?;
    if caller.uid != 0 {
        raise_capabilities()?;
    }
    act()
}

/// The umask belongs to a structure that threads share unless told otherwise: CLONE_FS of
/// unshare(2).
struct Umask;

impl Umask {
    fn of_thread(umask: u32) -> io::Result<Umask> {
        thread_local! {
            static IS_OWN: Cell<bool> = const { Cell::new(false) };
        }
        if !IS_OWN.get() {
            // SAFETY: affects this thread only; needs no right.
            if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
                return Err(io::Error::last_os_error());
            }
            IS_OWN.set(true);
        }
        // SAFETY: cannot fail.
        unsafe { libc::umask(umask) };
        Ok(Umask)
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        // SAFETY: cannot fail.
        unsafe { libc::umask(0) };
    }
}

/// Puts one supplementary group in the place of the thread's own, and back. By the raw system
/// calls: those of the library change all threads.
struct Groups(Vec<libc::gid_t>);

impl Groups {
    fn only(group: libc::gid_t) -> io::Result<Groups> {
        // SAFETY: asks for the number only.
        let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
        let mut own = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: writes at most the given number.
        if unsafe { libc::getgroups(count, own.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        set_groups(&[group]);
        Ok(Groups(own))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        set_groups(&self.0);
    }
}

/// Where it is not permitted (in some user namespaces) the groups stay, and a set-group-id bit may
/// be dropped that could have been kept.
fn set_groups(groups: &[libc::gid_t]) {
    // SAFETY: reads the given number of group ids.
    unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
}

/// Gives the thread root's ids back; with them the kernel raises the capabilities again.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // Back to what it was, which is always permitted.
        let _ = set_ids(0, 0);
    }
}

/// `EPERM` when the ids are none of this user namespace's.
fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // The calls report the former id and no error; -1 changes nothing.
    let set = |call: libc::c_long, id: u32| {
        // SAFETY: per-thread ids, by the raw system calls.
        unsafe {
            libc::syscall(call, id);
            libc::syscall(call, u32::MAX) as u32 == id
        }
    };
    // Setting the group needs the rights of root.
    let done = if uid == 0 {
        set(libc::SYS_setfsuid, uid) & set(libc::SYS_setfsgid, gid)
    } else {
        set(libc::SYS_setfsgid, gid) && set(libc::SYS_setfsuid, uid)
    };
    if done { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Runs `act` on this thread without CAP_SYS_ADMIN, for what the backing filesystem decides by it.
/// Errors of its own only when the thread's capabilities cannot be set.
pub fn without_admin<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    struct Raise;
    impl Drop for Raise {
        fn drop(&mut self) {
            // It was there before, so it is permitted.
            let _ = change_effective(|data| data[0].effective |= ADMIN & data[0].permitted);
        }
    }
    change_effective(|data| data[0].effective &= !ADMIN)?;
    let _raise = Raise;
    act()
}

fn raise_capabilities() -> io::Result<()> {
    let wanted = [RAISED as u32, (RAISED >> 32) as u32];
    change_effective(|data| {
        for (data, wanted) in data.iter_mut().zip(wanted) {
            data.effective |= wanted & data.permitted;
        }
    })
}

fn change_effective(change: impl FnOnce(&mut [Data; 2])) -> io::Result<()> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: structures of version 3, for this thread.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    change(&mut data);
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
