//! Making the worker process.
//!
//! clone(2) with `CLONE_FILES` and without exec: keeper and worker have **one descriptor table**.
//! What the worker opens (files unlinked since, locks, connections) stays open when it dies, and
//! the next worker adopts it. The memory is copied as by fork(2), apart from what is mapped shared.
//! The keeper has one thread, so the child may use all of std; the C library's fork handlers are
//! not needed, as no other thread can hold one of its locks.

use std::io;
use std::os::fd::OwnedFd;

use super::sys::{self, Signals};
use crate::mount::check;

/// The word in the command line, and the one that takes its place: `ps` tells the two apart.
const KEEPER: &[u8; 6] = b"keeper";
const WORKER: &[u8; 6] = b"worker";

/// Signals that ask a keeper for the end of the mount.
const END: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// Keeper: has the signals that matter to it come by a descriptor, also those that it ignored as
/// a worker.
pub fn take_signals() -> io::Result<OwnedFd> {
    let signals = sys::block_into_signalfd(&[END[0], END[1], libc::SIGCHLD])?;
    for signal in END {
        // SAFETY: no handler, only a disposition; the signal is blocked.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(signals)
}

/// Starts a process that calls `life` and ends with the code it returns. Signals that ask for an
/// end are ignored there: ending the mount in order is started by the keeper alone. `Err(EAGAIN)`
/// or `Err(ENOMEM)`. Must be called by the only thread.
pub fn spawn(life: impl FnOnce() -> i32) -> io::Result<libc::pid_t> {
    let flags = (libc::CLONE_FILES | libc::SIGCHLD) as libc::c_ulong;
    // SAFETY: without a stack argument clone returns twice, as fork does; see the module head for
    // why the child may go on in Rust. All other arguments are zero, in whatever order.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } as libc::c_int)?;
    if pid > 0 {
        return Ok(pid);
    }
    for signal in END {
        // SAFETY: no handler, only a disposition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Signals::of(&[]).set_as_mask();
    rename_argument();
    let code = life();
    // SAFETY: ends the process at once: what the keeper registered for its own exit is not ours.
    unsafe { libc::_exit(code) }
}

/// Kills a child that has not been waited for.
pub fn kill(child: libc::pid_t) {
    // SAFETY: no pointers. It cannot fail for a child of ours, whose number nobody else gets.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

/// Starts a plain copy of this process, with its own descriptor table, that ends with the errno
/// `task` returns. Must be called by the only thread.
pub fn spawn_task(task: impl FnOnce() -> i32) -> io::Result<libc::pid_t> {
    // SAFETY: the keeper has one thread, so the child may do anything.
    let pid = check(unsafe { libc::fork() })?;
    if pid > 0 {
        return Ok(pid);
    }
    // Else it would keep /dev/fuse open, and the mount alive, beyond the keeper's end.
    super::sys::close_descriptors_from(3);
    Signals::of(&[]).set_as_mask();
    let code = task();
    // SAFETY: as in `spawn`.
    unsafe { libc::_exit(code) }
}

/// The name that `ps -C` and `top` show: an exec of /proc/self/exe left "exe".
pub fn set_name() {
    // SAFETY: a C string of less than 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"coalescefs".as_ptr()) };
}

/// Turns `coalescefs keeper MOUNTPOINT` into `coalescefs worker MOUNTPOINT` where `ps` looks. Does
/// nothing when the arguments are others.
fn rename_argument() {
    let Some(word) = second_argument() else { return };
    // SAFETY: `word` lies in this process's own argument strings, writable, with as many bytes left;
    // nobody has a reference to them, since std copies its arguments.
    unsafe {
        if std::slice::from_raw_parts(word, KEEPER.len()) == KEEPER {
            std::ptr::copy_nonoverlapping(WORKER.as_ptr(), word, WORKER.len());
        }
    }
}

/// Where the second argument string begins, if it is long enough for [`KEEPER`].
fn second_argument() -> Option<*mut u8> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name in parentheses comes field 3; fields 48 and 49 are arg_start and arg_end, see
    // proc_pid_stat(5).
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(48 - 3);
    let arg_start: usize = fields.next()?.parse().ok()?;
    let arg_end: usize = fields.next()?.parse().ok()?;
    let begin = arg_start + std::env::args_os().next()?.len() + 1;
    let valid = arg_start != 0 && begin + KEEPER.len() <= arg_end;
    valid.then(|| std::ptr::with_exposed_provenance_mut(begin))
}
