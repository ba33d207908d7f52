//! The filesystems to compare on: that of the temporary directory, and, as root, new ones.

use std::path::Path;

use crate::support::image::{self, Image};

/// Enough for every case, and what mkfs.xfs takes.
const IMAGE_BYTES: u64 = 400 << 20;

/// Names the kind of filesystem that the temporary directory is on, where statfs(2) does not tell:
/// one of the engines of `tests/engines`.
const KIND_VARIABLE: &str = "COALESCEFS_PARITY_KIND";
const ENGINES: [&str; 4] = ["gluster", "moosefs", "sshfs", "overlay"];

/// Where the directory is, for as long as it is needed.
enum Holder {
    Here(tempfile::TempDir),
    Made(Image),
}

/// A place for mounts and plain directories on one filesystem.
pub struct Ground {
    /// The kind of filesystem.
    pub kind: &'static str,
    /// Entries of a large directory; fewer where time is better spent on other things.
    pub entries: usize,
    /// Whether it is one of `tests/engines`.
    pub is_engine: bool,
    holder: Holder,
}

impl Ground {
    /// The temporary directory.
    pub fn here() -> Ground {
        let holder = image::holder();
        let told = std::env::var(KIND_VARIABLE).unwrap_or_default();
        let of_superblock = || match crate::sys::statfs_type(holder.path()) {
            0xEF53 => "ext4",
            0x5846_5342 => "xfs",
            0x9123_683E => "btrfs",
            0x0102_1994 => "tmpfs",
            _ => "other",
        };
        let engine = ENGINES.into_iter().find(|kind| *kind == told);
        // An engine's servers take a millisecond or more for a name.
        let entries = if engine.is_some() { 2000 } else { 100_000 };
        let (kind, is_engine) = (engine.unwrap_or_else(of_superblock), engine.is_some());
        Ground { kind, entries, is_engine, holder: Holder::Here(holder) }
    }

    /// Those that can be made, or why not.
    pub fn made() -> Vec<(&'static str, Result<Ground, String>)> {
        let make = |kind| {
            let image = Image::make(kind, IMAGE_BYTES)?;
            Ok(Ground { kind, entries: 10_000, is_engine: false, holder: Holder::Made(image) })
        };
        image::KINDS.map(|(kind, _)| (kind, make(kind))).into()
    }

    /// Where to make directories.
    pub fn path(&self) -> &Path {
        match &self.holder {
            Holder::Here(dir) => dir.path(),
            Holder::Made(image) => image.path(),
        }
    }
}
