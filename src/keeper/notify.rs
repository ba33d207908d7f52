//! Telling the service manager how it goes: the protocol of sd_notify(3), without its library.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::sys;

/// Where the manager listens: a path, or an abstract name behind `@`.
pub(super) const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// The keeper must not wait for a manager that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to the service manager.
#[derive(Debug)]
pub(super) struct Notifier(UnixDatagram);

impl Notifier {
    /// `None` when this is no service, or the manager cannot be reached, which is logged.
    pub(super) fn from_environment() -> Option<Notifier> {
        let name = std::env::var_os(SOCKET_VARIABLE)?;
        match connect(&name) {
            Ok(socket) => Some(Notifier(socket)),
            Err(error) => {
                log::warn!("the service manager at {} is not told: {error}", name.display());
                None
            }
        }
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends lines of `VARIABLE=value`, and a descriptor with them. What fails is logged: the mount
    /// goes on without.
    pub(super) fn tell(&self, lines: &str, fd: Option<BorrowedFd<'_>>) {
        if let Err(error) = sys::send_with_descriptor(self.0.as_fd(), lines.as_bytes(), fd) {
            log::warn!("the service manager is not told '{}': {error}", lines.replace('\n', " "));
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.connect_addr(&address)?;
    Ok(socket)
}
