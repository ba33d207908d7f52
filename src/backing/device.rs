//! What the kernel tells in sysfs of the disk that a filesystem is on. Reading there does not wait for
//! the disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// All block devices, by their numbers.
pub(super) const DEVICES: &str = "/sys/dev/block";
/// In `stat` of a block device, whatever its blocks are (Documentation/block/stat.rst of the kernel).
const SECTOR_BYTES: u64 = 512;

/// The directory of a block device below such a directory of all devices; for a partition that of its
/// disk, which has the queue and the head.
pub(super) fn disk_of(devices: &Path, dev: u64) -> Option<PathBuf> {
    let name = format!("{}:{}", libc::major(dev), libc::minor(dev));
    let device = fs::canonicalize(devices.join(name)).ok()?;
    let is_partition = device.join("partition").exists();
    if is_partition { Some(device.parent()?.to_owned()) } else { Some(device) }
}

/// Whether a block device, or what it is made of, has heads that move: `queue/rotational`. `None` where
/// there is no such device, as below network filesystems and btrfs. Does not wait.
pub fn is_rotational(dev: u64) -> Option<bool> {
    rotational(&disk_of(Path::new(DEVICES), dev)?)
}

fn rotational(disk: &Path) -> Option<bool> {
    match fs::read_to_string(disk.join("queue/rotational")).ok()?.trim() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// What everybody has read from a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSoFar {
    /// In all since the disk was found.
    pub bytes: u64,
    /// Some read is waiting for the disk now.
    pub under_way: bool,
}

/// What is read from a disk, by whomever: `stat` and `inflight` of the block device.
#[derive(Debug)]
pub struct DiskReads {
    stat: File,
    inflight: File,
}

impl DiskReads {
    /// Of the disk with a filesystem, where the kernel says that it has heads.
    pub fn of_disk_with_heads(dev: u64) -> Option<DiskReads> {
        let disk = disk_of(Path::new(DEVICES), dev)?;
        if rotational(&disk) == Some(true) { DiskReads::open(&disk) } else { None }
    }

    fn open(disk: &Path) -> Option<DiskReads> {
        let open = |name: &str| File::open(disk.join(name)).ok();
        Some(DiskReads { stat: open("stat")?, inflight: open("inflight")? })
    }

    /// As the kernel counts now. Nothing where it does not: a disk may be gone.
    pub fn look(&self) -> ReadSoFar {
        let sectors = number(&self.stat, 2).unwrap_or_default();
        let under_way = number(&self.inflight, 0).unwrap_or_default() > 0;
        ReadSoFar { bytes: sectors * SECTOR_BYTES, under_way }
    }
}

/// A number of those in the only line of a file.
fn number(file: &File, index: usize) -> Option<u64> {
    let mut line = [0; 256];
    let len = file.read_at(&mut line, 0).ok()?;
    std::str::from_utf8(&line[..len]).ok()?.split_ascii_whitespace().nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_with_heads() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(rotational(sys.path()), None);
        fs::create_dir(sys.path().join("queue")).unwrap();
        for (said, expected) in [("1\n", Some(true)), ("0\n", Some(false)), ("x\n", None)] {
            fs::write(sys.path().join("queue/rotational"), said).unwrap();
            assert_eq!(rotational(sys.path()), expected);
        }
        assert_eq!(is_rotational(0), None, "no device has this number");
    }

    #[test]
    fn a_partition_is_of_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let partition = sys.path().join("sda/sda1");
        fs::create_dir_all(&partition).unwrap();
        fs::write(partition.join("partition"), "1").unwrap();
        std::os::unix::fs::symlink(&partition, sys.path().join("8:1")).unwrap();
        let disk = fs::canonicalize(sys.path().join("sda")).unwrap();
        assert_eq!(disk_of(sys.path(), libc::makedev(8, 1)), Some(disk));
        assert_eq!(disk_of(sys.path(), libc::makedev(8, 2)), None);
    }

    /// Goal: the fields are where the kernel has them; a disk that has gone is one that nobody reads.
    #[test]
    fn reads_are_counted_as_the_kernel_does() {
        let sys = tempfile::tempdir().unwrap();
        let stat = sys.path().join("stat");
        fs::write(&stat, "  35 2 4096 17 6 0 512 8 0 20 25 0 0 0 0 3 1\n").unwrap();
        fs::write(sys.path().join("inflight"), "       1        4\n").unwrap();
        let reads = DiskReads::open(sys.path()).unwrap();
        assert_eq!(reads.look(), ReadSoFar { bytes: 2 << 20, under_way: true });
        fs::write(sys.path().join("inflight"), "       0        4\n").unwrap();
        assert_eq!(reads.look(), ReadSoFar { bytes: 2 << 20, under_way: false });
        fs::write(&stat, "").unwrap();
        assert_eq!(reads.look(), ReadSoFar::default());
    }
}
