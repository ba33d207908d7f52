//! The few system calls that std does not have, made safe. Used by `keeper` and `cli`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::mount::check;

fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the caller's system call just made it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A counter of zero, not blocking, close-on-exec: eventfd(2).
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Adds one to an eventfd. Cannot fail: it never gets full.
pub fn ring(eventfd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes to a valid descriptor.
    unsafe { libc::write(eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Sets an eventfd back to zero.
pub fn clear(eventfd: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: room for the eight bytes of a valid descriptor that does not block.
    unsafe { libc::read(eventfd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    /// These and no others.
    pub fn of(signals: &[libc::c_int]) -> Signals {
        // SAFETY: sigemptyset initialises the whole set; the signal numbers are libc's.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
            Signals(set)
        }
    }

    /// Blocks exactly these, and gives back what was blocked before. Only makes a system call, so
    /// it may run between fork and exec.
    pub fn set_as_mask(&self) -> Signals {
        let mut before = Signals::of(&[]);
        // SAFETY: two valid sets.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.0, &mut before.0) };
        before
    }
}

/// Blocks these signals and makes a descriptor that gives them, not blocking: signalfd(2).
pub fn block_into_signalfd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = Signals::of(signals);
    set.set_as_mask();
    // SAFETY: a valid set.
    own(unsafe { libc::signalfd(-1, &set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })
}

/// The next signal of a signalfd, if there is one.
pub fn take_signal(signalfd: BorrowedFd<'_>) -> Option<libc::c_int> {
    // SAFETY: an all-zero structure of integers is valid.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let bytes = size_of_val(&info);
    // SAFETY: room for one structure.
    let read = unsafe { libc::read(signalfd.as_raw_fd(), (&raw mut info).cast(), bytes) };
    (read == bytes as isize).then_some(info.ssi_signo as libc::c_int)
}

/// Waits until one of the descriptors is readable, or broken at its other end; `None` waits without
/// end. Says which are.
pub fn poll<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> [bool; N] {
    // poll(2) passes over negative descriptors.
    let mut list = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // Rounded up, so that a wait for a moment does not end just before it, again and again.
    let timeout_ms = timeout.map_or(-1, |timeout| {
        i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    });
    // SAFETY: a valid list and its length. An interruption shows no descriptor as ready.
    unsafe { libc::poll(list.as_mut_ptr(), N as libc::nfds_t, timeout_ms) };
    list.map(|entry| entry.revents != 0)
}

/// Lets the descriptor `number` be a duplicate of `fd`, open over exec: dup2(2).
pub fn replace_descriptor(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: a valid descriptor; `number` is a standard one, of which nobody is the owner.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Closes everything from `first` on: what was open by accident in the program that started us.
pub fn close_descriptors_from(first: libc::c_uint) {
    // SAFETY: called before this process opened anything of its own, or in a child about to end.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

/// Sends bytes over a connected socket, and a descriptor with them (SCM_RIGHTS, unix(7)).
pub fn send_with_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // Room for one descriptor, aligned as a control message must be.
    let mut control = [0u64; 4];
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: only computes; the two hold a header and a descriptor, which `control` has room
        // for, so that CMSG_FIRSTHDR is not null.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
    }
    // SAFETY: everything the header points to lives until the end of the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
    check(sent as libc::c_int).map(drop)
}

/// The next child that ended, without waiting; `None` when there is none.
pub fn take_ended_child() -> Option<(libc::pid_t, ExitStatus)> {
    wait_for_any(libc::WNOHANG)
}

/// Waits for a child to end; `None` when there is none.
pub fn wait_for_child() -> Option<(libc::pid_t, ExitStatus)> {
    wait_for_any(0)
}

/// Whether this process has no such child, or one that has ended and can be reaped, which it is not.
pub fn is_child_ended(pid: libc::pid_t) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: one siginfo_t to write to; with WNOHANG its pid stays 0 when there is nothing to say.
    unsafe {
        let result = libc::waitid(libc::P_PID, pid as libc::id_t, info.as_mut_ptr(), flags);
        result < 0 || info.assume_init().si_pid() != 0
    }
}

fn wait_for_any(flags: libc::c_int) -> Option<(libc::pid_t, ExitStatus)> {
    let mut status = 0;
    loop {
        // SAFETY: one integer to write to.
        let pid = unsafe { libc::waitpid(-1, &mut status, flags) };
        match pid {
            0 => return None,
            1.. => return Some((pid, ExitStatus::from_raw(status))),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

/// Sends a signal. A process that is gone already is no error.
pub fn kill(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, signal) };
}

/// Sends a signal to the process of a pidfd: pidfd_send_signal(2). `Err(ESRCH)` when it is gone.
pub fn kill_by_pidfd(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    let (fd, no_info) = (pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: without information the kernel fills it in as kill(2) does.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
    check(result as libc::c_int).map(drop)
}

/// Has this process get `signal` when its parent ends. Only makes a system call.
pub fn die_with_parent(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) }).map(drop)
}

/// The process that gets this one's exit status.
pub fn parent() -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::getppid() as u32 }
}

/// Makes this process the parent of descendants whose own parent ended: PR_SET_CHILD_SUBREAPER of
/// prctl(2).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map(drop)
}

/// A descriptor that becomes readable when the process ends: pidfd_open(2). `Err(ESRCH)` when it is
/// gone.
pub fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)
}
