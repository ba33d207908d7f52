//! How a storage engine lays a file out, where it says so: after how many bytes another object
//! begins, and over how many servers they go round.
//!
//! An object is what a server locks, copies and repairs as one; a write across the end of one is two
//! writes to two servers. Asked is a new file, as it has the layout that others will have, then its
//! directory, then what was mounted. Parsers are pure, look at no more than they are given, and take
//! nothing on trust. Sources of the formats are at each.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::{get_xattr, ioctl};

/// Smaller ones are no objects; of larger ones a file has few ends, and the writes of a chunk
/// hardly meet one.
const UNIT_BYTES: RangeInclusive<u64> = 64 << 10..=4 << 30;
/// Pages are never split.
const PAGE_BYTES: u64 = 4 << 10;
/// No engine goes round over more servers.
const COUNT_MAX: u32 = 2000;
/// Longest value of an attribute: XATTR_SIZE_MAX.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
/// No graph of GlusterFS has more parts that are looked through.
const GRAPH_PARTS_MAX: usize = 4096;
/// No file of GlusterFS's that is read is longer.
const META_BYTES_MAX: u64 = 64 << 10;

/// A file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// After so many bytes the next object begins.
    pub unit_bytes: u64,
    /// So many of them lie side by side.
    pub count: u32,
}

impl Layout {
    /// `None` when that cannot be.
    fn new(unit_bytes: u64, count: u32) -> Option<Layout> {
        let is_plausible =
            UNIT_BYTES.contains(&unit_bytes) && unit_bytes.is_multiple_of(PAGE_BYTES);
        is_plausible.then_some(Layout { unit_bytes, count: count.clamp(1, COUNT_MAX) })
    }
}

/// Those that say how they lay files out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// CephFS, the kernel's client or FUSE.
    Ceph,
    /// Lustre.
    Lustre,
    /// BeeGFS.
    BeeGfs,
    /// MooseFS.
    MooseFs,
    /// GlusterFS with sharding.
    Gluster,
}

impl Engine {
    /// By type and source of a mount, as mountinfo has them. MooseFS's client is of type `fuse` with
    /// a source `mfs#ADDRESS:PORT`, or of type `fuse.mfs`.
    pub fn of(fs_type: &[u8], source: &[u8]) -> Option<Engine> {
        match fs_type {
            b"ceph" | b"fuse.ceph" | b"fuse.ceph-fuse" => Some(Engine::Ceph),
            b"lustre" => Some(Engine::Lustre),
            b"beegfs" => Some(Engine::BeeGfs),
            b"fuse.mfs" => Some(Engine::MooseFs),
            b"fuse" if source.starts_with(b"mfs#") => Some(Engine::MooseFs),
            b"fuse.glusterfs" => Some(Engine::Gluster),
            _ => None,
        }
    }

    /// The layout of new files in `dir`, asked of a new file where there is one. `mount_point` is
    /// where the engine is mounted. May wait for it.
    pub fn layout(
        self,
        dir: BorrowedFd,
        file: Option<BorrowedFd>,
        mount_point: &Path,
    ) -> Option<Layout> {
        let of_file = |name| attribute(file?, name);
        let of_dir = |name| attribute(dir, name);
        match self {
            Engine::Ceph => of_file("ceph.file.layout")
                .and_then(|text| ceph(&text))
                .or_else(|| ceph(&of_dir("ceph.dir.layout")?)),
            Engine::Lustre => of_file("lustre.lov")
                .and_then(|value| lustre(&value))
                .or_else(|| lustre(&of_dir("lustre.lov")?)),
            Engine::BeeGfs => beegfs_of(file?),
            Engine::MooseFs => Layout::new(MOOSEFS_CHUNK_BYTES, 1),
            Engine::Gluster => gluster_of(mount_point),
        }
    }
}

/// A chunk of MooseFS, the same everywhere: "Files in MooseFS are divided into fragments (chunks)
/// with a maximum of 64 MiB each", MooseFS User's Manual.
const MOOSEFS_CHUNK_BYTES: u64 = 64 << 20;

fn attribute(fd: BorrowedFd, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; ATTRIBUTE_BYTES_MAX];
    let len = get_xattr(fd, OsStr::new(name), &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

/// `stripe_unit=4194304 stripe_count=1 object_size=4194304 pool=cephfs_data`, in any order: Ceph
/// documentation, "File layouts". Units go round over objects until each is full, so where there is
/// one object at a time its end is what matters.
fn ceph(text: &[u8]) -> Option<Layout> {
    let field = |name: &[u8]| -> Option<u64> {
        let mut words = text.split(|byte| *byte == b' ');
        let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()?.parse().ok()
    };
    match field(b"stripe_count")? {
        1 => Layout::new(field(b"object_size")?, 1),
        count => Layout::new(field(b"stripe_unit")?, u32::try_from(count).ok()?),
    }
}

/// Little-endian, as it travels and as `lustre.lov` has it on all common machines.
fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(BYTES)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// `struct lov_user_md_v1`, `_v3` or `lov_comp_md_v1` of Lustre's lustre_user.h. Of a composite
/// layout the component that begins last decides: there long files lie, and components begin with a
/// stripe.
fn lustre(value: &[u8]) -> Option<Layout> {
    const COMPOSITE: u64 = 0x0BD6_0BD0;
    const HEADER_BYTES: usize = 32;
    const ENTRY_BYTES: usize = 48;
    if number::<4>(value, 0)? != COMPOSITE {
        return lustre_plain(value);
    }
    let count = number::<2>(value, 14)? as usize;
    let entries = value.get(HEADER_BYTES..)?.chunks_exact(ENTRY_BYTES).take(count);
    let component = |entry: &[u8]| {
        let (start, offset) = (number::<8>(entry, 8)?, number::<4>(entry, 24)? as usize);
        Some((start, lustre_plain(value.get(offset..)?)?))
    };
    entries.filter_map(component).max_by_key(|(start, _)| *start).map(|(_, layout)| layout)
}

/// One component. What lies with its metadata (DoM), is released to an archive or is something else
/// has no stripes.
fn lustre_plain(value: &[u8]) -> Option<Layout> {
    const MAGICS: [u64; 3] = [0x0BD1_0BD0, 0x0BD3_0BD0, 0x0BD5_0BD0];
    /// RAID0, by 0 in a default and by 1 in a file, and overstriping.
    const STRIPED: [u64; 4] = [0, 1, 0x200, 0x201];
    /// All servers, as many as there are.
    const ALL: u64 = 0xFFFF;
    let (magic, pattern) = (number::<4>(value, 0)?, number::<4>(value, 4)?);
    let (stripe_bytes, count) = (number::<4>(value, 24)?, number::<2>(value, 28)?);
    let count = if count == ALL { 1 } else { count as u32 };
    let is_striped = MAGICS.contains(&magic) && STRIPED.contains(&pattern);
    is_striped.then(|| Layout::new(stripe_bytes, count)).flatten()
}

/// BEEGFS_IOC_GET_STRIPEINFO, which only regular files have.
fn beegfs_of(file: BorrowedFd) -> Option<Layout> {
    /// `_IOR('f', 25, struct BeegfsIoctl_GetStripeInfo_Arg)`.
    const GET_STRIPEINFO: u32 = 0x800C_6619;
    let mut info = [0; 12];
    ioctl(file, GET_STRIPEINFO, &mut info).ok()?;
    beegfs(&info)
}

/// `struct BeegfsIoctl_GetStripeInfo_Arg` of beegfs_ioctl.h: type of the pattern, bytes of a chunk,
/// and in 16 bits the number of targets, in the machine's order.
fn beegfs(info: &[u8; 12]) -> Option<Layout> {
    /// BEEGFS_STRIPEPATTERN_INVALID.
    const INVALID: u32 = 0;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let targets = u16::from_ne_bytes([info[8], info[9]]);
    (word(0) != INVALID).then(|| Layout::new(u64::from(word(4)), u32::from(targets))).flatten()
}

/// Clients do not see `trusted.glusterfs.shard.block-size`, which the shard translator hides; but
/// each shows its graph in the directory `.meta` of its root, and there the translator `VOLUME-shard`
/// with its state: GlusterFS documentation, "Meta xlator".
fn gluster_of(mount_point: &Path) -> Option<Layout> {
    let graph = mount_point.join(".meta/graphs/active");
    let parts = fs::read_dir(graph).ok()?.take(GRAPH_PARTS_MAX).filter_map(Result::ok);
    let shard = parts.map(|part| part.path()).find(|path| {
        let name = path.file_name().map(OsStr::as_encoded_bytes);
        name.is_some_and(|name| name.ends_with(b"-shard"))
    })?;
    let mut text = Vec::new();
    File::open(shard.join("private")).ok()?.take(META_BYTES_MAX).read_to_end(&mut text).ok()?;
    gluster(&text)
}

/// A line `shard-block-size = 64.0MB` under `[features/shard.VOLUME-shard]`. Units are powers of 1024,
/// and one digit follows the point.
fn gluster(text: &[u8]) -> Option<Layout> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.lines();
    lines.next()?.strip_prefix("[features/shard.")?;
    let value = lines.find_map(|line| line.strip_prefix("shard-block-size = "))?.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (digits, unit) = value.split_at(digits);
    let shift = match unit {
        "B" => 0,
        "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    // Other fractions are rounded, and would put the ends of shards elsewhere.
    let whole: u64 = digits.strip_suffix(".0").unwrap_or(digits).parse().ok()?;
    Layout::new(whole.checked_mul(1 << shift)?, 1)
}

#[cfg(test)]
mod tests;
