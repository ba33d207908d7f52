//! Who is at the other end of a unix socket, and connecting without waiting for him.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use crate::mount::check;

/// Another process, as this one's namespaces show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 for one that is not seen from here.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

/// Who connected, or who made the listening socket (SO_PEERCRED, unix(7)): what the kernel noted
/// then, not what the other end says.
pub fn of(stream: &UnixStream) -> io::Result<Peer> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure and its length belong together.
    check(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut len,
        )
    })?;
    Ok(Peer { pid: peer.pid, uid: peer.uid })
}

/// The effective user of this process.
pub fn own_uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

/// The effective user and group of this process.
pub fn own_ids() -> (u32, u32) {
    // SAFETY: no arguments, cannot fail.
    (own_uid(), unsafe { libc::getegid() })
}

/// Connects to an abstract address. `Err(ResourceBusy)` when the other end has let its queue fill:
/// whoever squats an address could else make everybody wait for ever. `Err(ConnectionRefused)` when
/// nobody listens.
pub fn connect(address: &SocketAddr) -> io::Result<UnixStream> {
    let name = address.as_abstract_name().ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: all zeros is a valid address structure.
    let mut to: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    to.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // The first byte stays zero: that is what makes it abstract.
    let room = to.sun_path.get_mut(1..=name.len()).ok_or(io::ErrorKind::InvalidInput)?;
    for (cell, byte) in room.iter_mut().zip(name) {
        *cell = *byte as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len();
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: a fresh descriptor of ours.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: a valid address and its length.
    check(unsafe { libc::connect(fd, (&raw const to).cast(), len as libc::socklen_t) }).map_err(
        |error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "it lets everybody wait")
            }
            _ => error,
        },
    )?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}
