//! A filesystem of its own on a loop device, whose power can be cut.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::image::Image;
use crate::support::{SOON, succeed};

/// What mkfs.xfs takes; sparse.
const IMAGE_BYTES: u64 = 400 << 20;
/// Those whose power can be cut.
const KINDS: [&str; 2] = ["ext4", "xfs"];

/// Why these tests cannot run here, if they cannot.
pub fn cannot_make() -> Option<String> {
    KINDS.iter().find_map(|kind| Image::cannot_make(kind))
}

/// A filesystem to be cut off.
pub struct Disk {
    pub image: Image,
}

impl Disk {
    pub fn each() -> impl Iterator<Item = Disk> {
        KINDS.iter().map(|kind| Disk { image: Image::make(kind, IMAGE_BYTES).unwrap() })
    }

    /// From now on nothing reaches the disk, not even the log: FS_IOC_SHUTDOWN with
    /// FS_SHUTDOWN_FLAGS_NOLOGFLUSH, see ioctl_xfs_goingdown(2).
    pub fn cut_power(&self) {
        const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let no_log_flush: u32 = 2;
        let root = File::open(self.image.path()).unwrap();
        // SAFETY: the command reads one u32.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &no_log_flush) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Mounts what the power left; the filesystem replays its journal. Nobody may use it any more,
    /// or soon. A copy: other mount namespaces may keep the dead one alive, and a mount of the same
    /// device would be that again.
    pub fn power_up(&self) {
        let until = Instant::now() + SOON;
        while !self.image.unmount() {
            assert!(Instant::now() < until, "{} is still in use", self.image.path().display());
            std::thread::sleep(Duration::from_millis(50));
        }
        let file = self.image.file();
        let copy = file.with_extension("copy");
        succeed(Command::new("cp").arg("--sparse=always").arg(&file).arg(&copy));
        fs::rename(copy, file).unwrap();
        let options: &[&str] = if self.image.kind() == "xfs" { &["-o", "nouuid"] } else { &[] };
        self.image.mount(options).unwrap();
    }
}
