//! What this process may do, and giving up what it does not need: capabilities(7).
//!
//! Keeper and worker give up all but a list each once the mount is made. The sets belong to a
//! thread: called while there is only one.

use std::io;

use super::attach::Method;
use super::check;

const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;
const CAP_LINUX_IMMUTABLE: u32 = 9;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_NICE: u32 = 23;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_MKNOD: u32 = 27;
const CAP_SETFCAP: u32 = 31;
/// Numbers are below 64: that is how the kernel keeps a set.
const CAPABILITIES_MAX: u32 = 64;

/// A capability set: bit `n` is capability number `n`.
type Set = u64;

const fn set(capabilities: &[u32]) -> Set {
    let mut bits = 0;
    let mut at = 0;
    while at < capabilities.len() {
        bits |= 1 << capabilities[at];
        at += 1;
    }
    bits
}

/// What requests need that root, or the filesystem itself, may make.
const WORKER: Set = set(&[
    // chown, and making files in the caller's name.
    CAP_CHOWN,
    // The kernel has checked the caller's permissions already (`default_permissions`).
    CAP_DAC_OVERRIDE,
    // The same; and linking a file by its descriptor.
    CAP_DAC_READ_SEARCH,
    // chmod, times and attributes of everybody's files.
    CAP_FOWNER,
    // Modes with set-id bits are set as given.
    CAP_FSETID,
    // The caller's filesystem ids, and the one group that matters.
    CAP_SETGID,
    CAP_SETUID,
    // chattr +i and +a.
    CAP_LINUX_IMMUTABLE,
    CAP_MKNOD,
    // security.capability
    CAP_SETFCAP,
    // Threads that others wait for get a processor first.
    CAP_SYS_NICE,
    // trusted.* and the other security.* attributes.
    CAP_SYS_ADMIN,
]);
/// What a worker needs only until it serves: limits raised, the arena locked in memory.
const START: Set = set(&[CAP_SYS_RESOURCE, CAP_IPC_LOCK]);
/// What the keeper uses itself: unmounting a place that its user's directories lead to.
const KEEPER: Set = set(&[CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH]);

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

impl CapWord {
    /// What is permitted of these; nothing to be inherited.
    fn limited(self, at: usize, permitted: Set, effective: Set) -> CapWord {
        let word = |set: Set| (set >> (32 * at)) as u32;
        let permitted = self.permitted & word(permitted);
        CapWord { effective: permitted & word(effective), permitted, inheritable: 0 }
    }
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

fn set_capabilities(words: &[CapWord; 2]) -> io::Result<()> {
    let mut header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: as in `capabilities`.
    let result = unsafe { libc::syscall(libc::SYS_capset, &mut header, words.as_ptr()) };
    check(result as libc::c_int).map(drop)
}

/// Lets the next exec keep CAP_SYS_ADMIN although the user is not root: ambient, see
/// capabilities(7). Only makes system calls, so it may run between fork and exec.
/// `Err(EPERM)` when it is not permitted here.
pub fn keep_sys_admin_over_exec() -> io::Result<()> {
    let mut words = capabilities()?;
    words[0].inheritable |= 1 << CAP_SYS_ADMIN;
    set_capabilities(&words)?;
    // SAFETY: changes a set of the calling thread; no pointers.
    check(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0)
    })?;
    Ok(())
}

/// Gives up, in the keeper, all that neither it nor its workers need, and hides it from debuggers
/// and from /proc for everybody but root. A setuid helper that is to unmount must stay able to
/// gain its rights. `Err` is the errno of capset(2) or prctl(2).
pub fn limit_keeper(method: Method) -> io::Result<()> {
    let kept = WORKER | START;
    if method == Method::Syscall {
        drop_from_bounding_set(!kept)?;
        forbid_new_privileges()?;
    }
    keep_only(kept, KEEPER)?;
    // Last: a change of capabilities may set it.
    // SAFETY: a flag of the process; no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Lets a worker use what it needs at its start only, until [`limit_worker`]; nothing to be used
/// that the keeper has not kept.
pub fn prepare_worker() -> io::Result<()> {
    keep_only(WORKER | START, WORKER | START)
}

/// Gives up, in the worker, what neither requests need nor a keeper, which it becomes when that
/// dies: see [`limit_keeper`] for the setuid helper.
pub fn limit_worker(method: Method) -> io::Result<()> {
    // Without root's ids it is there for unmounting only: attributes are asked for by the user.
    let used = if is_root() { WORKER } else { WORKER & !set(&[CAP_SYS_ADMIN]) };
    if method == Method::Syscall {
        forbid_new_privileges()?;
    }
    keep_only(WORKER, used)
}

/// Before a worker execs to become the keeper: that one must be able to unmount. Root's exec has
/// what was permitted before; others keep only what is ambient.
pub fn prepare_successor(method: Method) -> io::Result<()> {
    if method == Method::Syscall && !is_root() { keep_sys_admin_over_exec() } else { Ok(()) }
}

fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn keep_only(permitted: Set, effective: Set) -> io::Result<()> {
    let mut words = capabilities()?;
    for (at, word) in words.iter_mut().enumerate() {
        *word = word.limited(at, permitted, effective);
    }
    // The ambient set goes with the inheritable one.
    set_capabilities(&words)
}

/// What an exec could bring back. Needs CAP_SETPCAP: without it, as in a user's own daemon, the
/// set stays, and with it nothing can be gained but by a setuid program.
fn drop_from_bounding_set(dropped: Set) -> io::Result<()> {
    if capabilities()?[0].effective & (1 << CAP_SETPCAP) == 0 {
        return Ok(());
    }
    for capability in (0..CAPABILITIES_MAX).filter(|number| dropped & (1 << number) != 0) {
        // SAFETY: changes a set of the calling thread; no pointers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match check(result) {
            // The kernel knows fewer.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => drop(result?),
        }
    }
    Ok(())
}

fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: a flag of the calling thread; no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limiting_keeps_what_is_permitted_and_listed() {
        let all = CapWord { effective: u32::MAX, permitted: u32::MAX, inheritable: u32::MAX };
        let kept = set(&[CAP_CHOWN, CAP_SYS_ADMIN, 40]);
        let low = all.limited(0, kept, set(&[CAP_SYS_ADMIN]));
        assert_eq!((low.permitted, low.effective, low.inheritable), (1 | 1 << 21, 1 << 21, 0));
        assert_eq!(all.limited(1, kept, kept).permitted, 1 << 8);
        let none = CapWord::default().limited(0, kept, kept);
        assert_eq!((none.permitted, none.effective), (0, 0));
    }
}
