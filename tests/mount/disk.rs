//! A filesystem of its own on a loop device, whose power can be cut.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{self, SOON, succeed};

/// What mkfs.xfs takes; sparse.
const IMAGE_BYTES: u64 = 400 << 20;

/// What can be made, and by what. Inodes of 256 bytes have nanoseconds and times past 2038.
const KINDS: [(&str, &[&str]); 2] = [
    ("ext4", &["mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256"]),
    ("xfs", &["mkfs.xfs", "-q", "-f"]),
];

/// Why these tests cannot run here, if they cannot.
pub fn cannot_make() -> Option<String> {
    let is_missing = |program: &&str| {
        let mut command = Command::new(program);
        command.arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    };
    let missing = KINDS.iter().map(|(_, mkfs)| mkfs[0]).find(is_missing);
    support::cannot_be_root().or(missing.map(|program| format!("no {program}")))
}

/// A mounted filesystem; taken away by `Drop`.
pub struct Disk {
    pub kind: &'static str,
    holder: TempDir,
}

impl Disk {
    pub fn each() -> impl Iterator<Item = Disk> {
        KINDS.iter().map(|(kind, mkfs)| {
            let holder = tempfile::Builder::new().prefix("coalescefs-disk-").tempdir().unwrap();
            let disk = Disk { kind, holder };
            fs::create_dir(disk.path()).unwrap();
            File::create(disk.image()).unwrap().set_len(IMAGE_BYTES).unwrap();
            succeed(Command::new(mkfs[0]).args(&mkfs[1..]).arg(disk.image()));
            disk.mount(&[]);
            disk
        })
    }

    pub fn path(&self) -> PathBuf {
        self.holder.path().join("fs")
    }

    fn image(&self) -> PathBuf {
        self.holder.path().join("image")
    }

    fn mount(&self, options: &[&str]) {
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", self.kind, "-o", "loop"]).args(options);
        succeed(mount.arg(self.image()).arg(self.path()));
    }

    /// From now on nothing reaches the disk, not even the log: FS_IOC_SHUTDOWN with
    /// FS_SHUTDOWN_FLAGS_NOLOGFLUSH, see ioctl_xfs_goingdown(2).
    pub fn cut_power(&self) {
        const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let no_log_flush: u32 = 2;
        let root = File::open(self.path()).unwrap();
        // SAFETY: the command reads one u32.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &no_log_flush) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Mounts what the power left; the filesystem replays its journal. Nobody may use it any more,
    /// or soon. A copy: other mount namespaces may keep the dead one alive, and a mount of the same
    /// device would be that again.
    pub fn power_up(&self) {
        let until = Instant::now() + SOON;
        while !unmount(&self.path(), &[]) {
            assert!(Instant::now() < until, "{} is still in use", self.path().display());
            std::thread::sleep(Duration::from_millis(50));
        }
        let copy = self.holder.path().join("copy");
        succeed(Command::new("cp").arg("--sparse=always").arg(self.image()).arg(&copy));
        fs::rename(copy, self.image()).unwrap();
        self.mount(if self.kind == "xfs" { &["-o", "nouuid"] } else { &[] });
    }
}

fn unmount(path: &Path, how: &[&str]) -> bool {
    let mut umount = Command::new("umount");
    umount.args(how).arg(path).stderr(Stdio::null()).status().unwrap().success()
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what a failed test left must not keep it.
        unmount(&self.path(), &["-l"]);
    }
}
