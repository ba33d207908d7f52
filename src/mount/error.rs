//! Why a directory could not be mounted over, in words that say what to do.

use std::io;
use std::path::PathBuf;

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel offers no FUSE.
    #[error("/dev/fuse is missing: load the module with 'modprobe fuse'")]
    NoDevice,
    /// `/dev/fuse` cannot be opened.
    #[error(
        "/dev/fuse may not be opened by this user: as root, 'chmod 666 /dev/fuse' (its usual mode)"
    )]
    DeviceNotPermitted,
    /// An ordinary user needs the helper.
    #[error(
        "only root may mount without fusermount3: install the fuse3 package, or use \
         'coalescefs run', which mounts in a user namespace"
    )]
    NoFusermount,
    /// mount(2) failed.
    #[error("cannot mount over {}: {error}", mountpoint.display())]
    Refused {
        /// Where.
        mountpoint: PathBuf,
        /// Its errno.
        error: io::Error,
    },
    /// `fusermount3` failed; its own words.
    #[error("cannot mount over {}: {message}", mountpoint.display())]
    Fusermount {
        /// Where.
        mountpoint: PathBuf,
        /// What it wrote to stderr, one line.
        message: String,
    },
}
