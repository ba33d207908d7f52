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

use super::peer::{self, Peer};
use crate::mount::mountinfo::Device;

/// Names per device number: more daemons than this are hardly storing their last bytes at once.
pub const ATTEMPTS: u32 = 8;

/// The `attempt`-th address for a mount.
pub fn of_mount(device: Device, attempt: u32) -> SocketAddr {
    numbered(&format!("coalescefs-{}-{}", device.major, device.minor), attempt)
}

/// The `attempt`-th address of a name, which must be short.
pub fn numbered(name: &str, attempt: u32) -> SocketAddr {
    let name = match attempt {
        0 => name.to_owned(),
        _ => format!("{name}-{attempt}"),
    };
    SocketAddr::from_abstract_name(name).expect("shorter than the 107 bytes of an address")
}

/// Listens at the first free address of the mount. `Err(AddrInUse)`, naming who has them, when all
/// are taken.
pub fn listen(device: Device) -> io::Result<UnixListener> {
    let mut holder = None;
    for attempt in 0..ATTEMPTS {
        let address = of_mount(device, attempt);
        match UnixListener::bind_addr(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
        holder = holder.or_else(|| holder_of(&address).ok());
    }
    let holder = holder.map_or("processes that do not answer".to_owned(), |it| it.to_string());
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("its addresses are taken by {holder}: end it and try again"),
    ))
}

/// Who listens at an address. Errors: as of [`peer::connect`].
pub fn holder_of(address: &SocketAddr) -> io::Result<Peer> {
    peer::of(&peer::connect(address)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: who takes an address beforehand, or all of them, neither keeps a daemon from listening
    /// nor stays unnamed.
    #[test]
    fn squatters_are_passed_over_and_named() {
        let device = Device { major: u32::MAX - 1, minor: std::process::id() };
        let mut squatters: Vec<_> =
            (0..3).map(|n| UnixListener::bind_addr(&of_mount(device, n)).unwrap()).collect();
        let ours = listen(device).unwrap();
        assert_eq!(
            ours.local_addr().unwrap().as_abstract_name(),
            of_mount(device, 3).as_abstract_name()
        );
        squatters
            .extend((4..ATTEMPTS).map(|n| UnixListener::bind_addr(&of_mount(device, n)).unwrap()));
        let error = listen(device).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let named = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&named), "{error}");
    }

    /// Goal: an address whose holder never accepts is an error and not a wait for ever.
    #[test]
    fn a_full_queue_is_not_waited_for() {
        let address = numbered(&format!("coalescefs-full-{}", std::process::id()), 0);
        let _squatter = UnixListener::bind_addr(&address).unwrap();
        let mut held = Vec::new();
        let error = loop {
            match peer::connect(&address) {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(!held.is_empty());
    }
}
