//! The abstract unix address of a mount's control socket.
//!
//! `coalescefs-MAJOR-MINOR` of the mount's device number. The kernel gives a number to the next
//! mount as soon as the old one is unmounted, while the old daemon may still be storing its last
//! bytes and listening; and anybody may bind any abstract name. So there are [`ATTEMPTS`] names
//! for each number: the keeper takes the first that is free, the client asks all of them which
//! one serves its mount. Whom it believes is another matter: see `peer`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::mount::mountinfo::Device;

/// Names per device number: more daemons than this are hardly storing their last bytes at once.
pub const ATTEMPTS: u32 = 8;

/// The `attempt`-th address for a mount.
pub fn of_mount(device: Device, attempt: u32) -> SocketAddr {
    let name = match attempt {
        0 => format!("coalescefs-{}-{}", device.major, device.minor),
        _ => format!("coalescefs-{}-{}-{attempt}", device.major, device.minor),
    };
    SocketAddr::from_abstract_name(name).expect("shorter than the 107 bytes of an address")
}

/// Listens at the first free address of the mount. `Err(EADDRINUSE)` when all are taken.
pub fn listen(device: Device) -> io::Result<UnixListener> {
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for attempt in 0..ATTEMPTS {
        result = UnixListener::bind_addr(&of_mount(device, attempt));
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    result
}
