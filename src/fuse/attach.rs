//! Attaching a session to a `/dev/fuse` descriptor that may be in the middle of its life.
//!
//! fuser insists on the INIT handshake. The first worker reads INIT from the kernel and records it
//! in the arena; then it, and every later one, plays it to fuser over a socket pair, and puts the
//! real descriptor in the socket's place (dup3) when the handshake is over. Only the first answer
//! goes to the kernel. A later worker asks the kernel to send again what its predecessor had read
//! and not answered (FUSE_NOTIFY_RESEND, Linux 6.9).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use fuser::{Config, Session, SessionACL};

use super::answering::Adapter;
use super::guard::Guard;
use super::kernel_pages::Pages;
use super::linger::Linger;
use crate::arena::Arena;
use crate::fs::Filesystem;

/// `FUSE_NOTIFY_RESEND` of `<linux/fuse.h>`.
const NOTIFY_RESEND: i32 = 7;
/// Larger than any INIT request, and the least the kernel accepts for a read.
const INIT_BUFFER_BYTES: usize = 8192;

/// Serves the mount until it ends. `restarted` says that a former worker has served it. Calls
/// `ready` once requests are answered. `Err` is the errno of attaching or of reading requests.
pub fn serve(
    filesystem: Arc<Filesystem>,
    arena: &Arena,
    fuse_fd: RawFd,
    threads: usize,
    ready: impl FnOnce(),
) -> io::Result<()> {
    // SAFETY: the keeper's descriptor, open as long as the process.
    let device = unsafe { BorrowedFd::borrow_raw(fuse_fd) };
    let was_done = arena.init_done();
    let request = init_request(arena, device)?;
    let (ours, sessions) = socket_pair()?;
    let session_fd = sessions.as_raw_fd();
    send(&ours, &request)?;
    let mut config = Config::default();
    config.n_threads = Some(threads);
    let notifier = Arc::new(OnceLock::new());
    let mountpoint = filesystem.mountpoint().to_owned();
    filesystem.set_kernel_pages(Box::new(Pages { notifier: notifier.clone(), mountpoint }));
    let isolation = filesystem.isolation();
    let adapter = Adapter::new(filesystem, notifier.clone());
    let guard = Guard::new(adapter, isolation, Linger::new(fuse_fd));
    let session = Session::from_fd(guard, sessions, SessionACL::All, config)?;
    notifier.get_or_init(|| session.notifier());
    if !was_done {
        let mut answer = [0; INIT_BUFFER_BYTES];
        let len = receive(&ours, &mut answer)?;
        answer_init(device, &answer[..len])?;
        arena.set_init_done();
    }
    // SAFETY: replaces the session's descriptor, which it goes on using by number.
    if unsafe { libc::dup3(fuse_fd, session_fd, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(ours);
    if was_done && let Err(error) = resend(device) {
        // Before Linux 6.9. Programs whose request it was wait until they are killed; all others
        // go on.
        log::error!("the kernel does not send requests of the dead worker again: {error}");
    }
    ready();
    session.run()
}

/// The INIT request: recorded, or read from the kernel and recorded.
fn init_request(arena: &Arena, device: BorrowedFd) -> io::Result<Vec<u8>> {
    let recorded = arena.recorded_init();
    if !recorded.is_empty() {
        return Ok(recorded);
    }
    let mut buf = vec![0; INIT_BUFFER_BYTES];
    let len = loop {
        // SAFETY: reads into a buffer of the given length.
        let len = unsafe { libc::read(device.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        if len >= 0 {
            break len as usize;
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    };
    arena.record_init(&buf[..len])?;
    buf.truncate(len);
    Ok(buf)
}

/// Sends fuser's answer on. `ENOENT`: a former worker answered and died before it could note it.
fn answer_init(device: BorrowedFd, answer: &[u8]) -> io::Result<()> {
    match write_device(device, answer) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

fn resend(device: BorrowedFd) -> io::Result<()> {
    let mut message = [0u8; 16];
    message[0..4].copy_from_slice(&16u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    write_device(device, &message)
}

fn write_device(device: BorrowedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: writes a buffer of the given length.
    let written = unsafe { libc::write(device.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: writes two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh descriptors of ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: sends a buffer of the given length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive(socket: &OwnedFd, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: receives into a buffer of the given length.
    let received =
        unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if received < 0 { Err(io::Error::last_os_error()) } else { Ok(received as usize) }
}
