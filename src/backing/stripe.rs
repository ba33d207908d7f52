//! Where writes below a directory are to begin and end: the stripes of a RAID, or the objects of a
//! storage engine.
//!
//! A write that covers whole stripes needs no reading before; what covers a part of one makes the
//! array read the rest to compute its parity. So chunks are whole stripes. Objects may be written in
//! parts, and are often larger than a chunk; but no write should go on in the next one. Asked are, in
//! this order: the engine (`layout`); the filesystem, which lays its blocks out by what it was made
//! or mounted with; the block device; and what stat(2) gives as the best size of a request. Nothing
//! is read from the disk.

use std::fs;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::device::{DEVICES, disk_of};
use super::layout::Engine;
use super::{attr, fs_stats, ioctl, is_xfs};

/// Smaller ones align nothing that is not aligned anyway; larger ones are no stripe, but the largest
/// request of a controller.
const STRIPE_BYTES: RangeInclusive<u64> = 8 << 10..=16 << 20;
/// Pages are never split.
const PAGE_BYTES: u64 = 4 << 10;
/// Larger than what every filesystem says: one that names such a size means it.
const BLKSIZE_BYTES_MIN: u64 = 128 << 10;

/// Bytes from a multiple of which on writes are to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// How many.
    pub bytes: u64,
    /// So many in a row lie side by side; of a RAID all that do are one.
    pub count: u32,
    /// Who says so.
    pub told_by: ToldBy,
}

/// Who knows of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldBy {
    /// A storage engine.
    Engine(Engine),
    /// XFS: `swidth` of its geometry, see ioctl_xfs_fsgeometry(2).
    Xfs,
    /// ext4: the mount option `stripe`, or what mkfs noted.
    Ext4,
    /// The block device: `queue/optimal_io_size`.
    Device,
    /// stat(2): `st_blksize`, on filesystems without a block device.
    Stat,
}

impl std::fmt::Display for ToldBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ToldBy::Engine(Engine::Ceph) => "CephFS (ceph.file.layout)",
            ToldBy::Engine(Engine::Lustre) => "Lustre (lustre.lov)",
            ToldBy::Engine(Engine::BeeGfs) => "BeeGFS (stripe info)",
            ToldBy::Engine(Engine::MooseFs) => "MooseFS (its chunks)",
            ToldBy::Engine(Engine::Gluster) => "GlusterFS (shard-block-size)",
            ToldBy::Xfs => "XFS (swidth)",
            ToldBy::Ext4 => "ext4 (stripe)",
            ToldBy::Device => "the block device (optimal_io_size)",
            ToldBy::Stat => "stat (st_blksize)",
        })
    }
}

/// What the mount table says of the mount that a directory is in, see proc_pid_mountinfo(5).
#[derive(Clone, Copy, Debug)]
pub struct MountedAs<'a> {
    /// Type of the filesystem, with subtype.
    pub fs_type: &'a [u8],
    /// Source.
    pub source: &'a [u8],
    /// Where it is.
    pub mount_point: &'a Path,
    /// The last field.
    pub super_options: &'a [u8],
}

/// The stripe below a directory that is in such a mount; `file` is a new one in it, if there is one.
/// `None` where nobody knows of one. Waits for an engine, else for no disk but that of the
/// directory's inode.
pub fn stripe(dir: BorrowedFd, file: Option<BorrowedFd>, mounted: MountedAs) -> Option<Stripe> {
    let engine = Engine::of(mounted.fs_type, mounted.source);
    let layout = engine.and_then(|engine| engine.layout(dir, file, mounted.mount_point));
    if let (Some(engine), Some(layout)) = (engine, layout) {
        let told_by = ToldBy::Engine(engine);
        return Some(Stripe { bytes: layout.unit_bytes, count: layout.count, told_by });
    }
    let told = |bytes: Option<u64>, told_by| {
        let bytes = bytes.filter(|bytes| is_plausible(*bytes))?;
        Some(Stripe { bytes, count: 1, told_by })
    };
    told(of_xfs(dir), ToldBy::Xfs)
        .or_else(|| {
            let block_bytes = u64::from(fs_stats(dir).ok()?.frsize);
            told(of_ext4(mounted.super_options, block_bytes), ToldBy::Ext4)
        })
        .or_else(|| {
            let dev = attr(dir).ok()?.dev;
            told(of_device(&disk_of(Path::new(DEVICES), dev)?.join("queue")), ToldBy::Device)
        })
        .or_else(|| {
            let blksize = u64::from(attr(dir).ok()?.blksize);
            told(Some(blksize).filter(|bytes| *bytes >= BLKSIZE_BYTES_MIN), ToldBy::Stat)
        })
}

fn is_plausible(bytes: u64) -> bool {
    bytes.is_multiple_of(PAGE_BYTES) && STRIPE_BYTES.contains(&bytes)
}

fn of_xfs(dir: BorrowedFd) -> Option<u64> {
    /// XFS_IOC_FSGEOMETRY, whose argument has 256 bytes.
    const FSGEOMETRY: u32 = 0x8100_587E;
    let mut geometry = [0; 256];
    if !is_xfs(dir) {
        return None;
    }
    ioctl(dir, FSGEOMETRY, &mut geometry).ok()?;
    width_of_geometry(&geometry)
}

/// `swidth`, and `sunit` where only that is set, in bytes: struct xfs_fsop_geom begins with the size
/// of a block, and has the other two in blocks.
fn width_of_geometry(geometry: &[u8]) -> Option<u64> {
    let field = |at: usize| Some(u32::from_ne_bytes(geometry.get(at..at + 4)?.try_into().ok()?));
    let (block_bytes, unit, width) = (field(0)?, field(80)?, field(84)?);
    let blocks = width.max(unit);
    (blocks > 0).then(|| u64::from(block_bytes) * u64::from(blocks))
}

/// ext4 shows its stripe among the options of a mount, in blocks; nobody else has one of this name.
fn of_ext4(super_options: &[u8], block_bytes: u64) -> Option<u64> {
    let value = super_options
        .split(|byte| *byte == b',')
        .find_map(|option| option.strip_prefix(b"stripe="))?;
    let blocks: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    blocks.checked_mul(block_bytes)
}

/// A disk without stripes gives no optimal size, or the smallest one, or the largest request of its
/// controller, which is a multiple of nothing.
fn of_device(queue: &Path) -> Option<u64> {
    let value = |name: &str| -> Option<u64> {
        fs::read_to_string(queue.join(name)).ok()?.trim().parse().ok()
    };
    let (smallest, optimal) = (value("minimum_io_size")?.max(1), value("optimal_io_size")?);
    (optimal > smallest && optimal.is_multiple_of(smallest)).then_some(optimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the fields are where the kernel has them. As it answered for `mkfs.xfs -d su=64k,sw=4`.
    #[test]
    fn the_geometry_of_xfs() {
        let geometry = |block: u32, unit: u32, width: u32| {
            let mut bytes = [0; 256];
            bytes[..4].copy_from_slice(&block.to_ne_bytes());
            bytes[80..84].copy_from_slice(&unit.to_ne_bytes());
            bytes[84..88].copy_from_slice(&width.to_ne_bytes());
            bytes
        };
        assert_eq!(width_of_geometry(&geometry(4096, 16, 64)), Some(256 << 10));
        assert_eq!(width_of_geometry(&geometry(4096, 16, 0)), Some(64 << 10));
        assert_eq!(width_of_geometry(&geometry(4096, 0, 0)), None);
        assert_eq!(width_of_geometry(&[0; 20]), None);
    }

    #[test]
    fn the_options_of_ext4() {
        let options = b"rw,stripe=384,errors=continue";
        assert_eq!(of_ext4(options, 4096), Some(1536 << 10));
        assert_eq!(of_ext4(b"rw,stripe=x", 4096), None);
        assert_eq!(of_ext4(b"rw,nostripe=8", 4096), None);
    }

    /// Goal: what devices say is taken for a stripe only when it is one. A RAID6 of eight disks with
    /// units of 512 KiB, two disks without stripes, and one on USB.
    #[test]
    fn what_devices_say() {
        let sys = tempfile::tempdir().unwrap();
        let said = |minimum: &str, optimal: &str| {
            fs::write(sys.path().join("minimum_io_size"), minimum).unwrap();
            fs::write(sys.path().join("optimal_io_size"), optimal).unwrap();
            of_device(sys.path()).filter(|bytes| is_plausible(*bytes))
        };
        assert_eq!(said("524288\n", "3145728\n"), Some(3 << 20));
        assert_eq!(said("512\n", "0\n"), None);
        assert_eq!(said("4096\n", "4096\n"), None);
        assert_eq!(said("4096\n", "33553920\n"), None);
        assert_eq!(said("512\n", "33553920\n"), None);
    }
}
