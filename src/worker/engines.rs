//! Which filesystems below the mount are another process's or another machine's, by what the mount
//! table calls them: it can be read while they hang.

use std::path::PathBuf;

use crate::config::MountConfig;
use crate::fs::Engines;
use crate::mount::mountinfo::{Device, Mount, MountTable};

/// Types of them, as far as they end in no dot: `fuse.sshfs` is one of `fuse`. Not `fuseblk`, which
/// is a disk of this machine.
const ELSEWHERE: [&str; 16] = [
    "fuse",
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "virtiofs",
    "ceph",
    "afs",
    "lustre",
    "beegfs",
    "gpfs",
    "orangefs",
    "pvfs2",
    "glusterfs",
];

fn is_elsewhere(mount: &Mount) -> bool {
    let of = mount.fs_type.to_string_lossy();
    ELSEWHERE.contains(&of.split('.').next().unwrap_or_default())
}

/// The mount table, as it is when it is asked.
pub(super) struct Mounted {
    backing: PathBuf,
    mountpoint: PathBuf,
}

impl Mounted {
    pub(super) fn new(config: &MountConfig) -> Mounted {
        Mounted { backing: config.backing.clone(), mountpoint: config.mountpoint.clone() }
    }
}

fn table() -> MountTable {
    MountTable::read().unwrap_or_else(|error| {
        log::warn!("/proc/self/mountinfo: {error}; the backing directory counts as local");
        MountTable::default()
    })
}

impl Engines for Mounted {
    fn is_elsewhere(&self, dev: u64) -> bool {
        table().of(Device::from_st_dev(dev)).is_some_and(is_elsewhere)
    }

    fn is_any_below(&self) -> bool {
        let is_own = |mount: &Mount| mount.is_ours() && mount.mount_point == self.mountpoint;
        table().below(&self.backing).any(|mount| !is_own(mount) && is_elsewhere(mount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: network filesystems and FUSE are told from disks, with and without a subtype.
    #[test]
    fn types_are_told_apart() {
        let table = |kind: &str| {
            let line = format!("36 35 0:52 / /mnt rw - {kind} source rw");
            let table = MountTable::parse(line.as_bytes());
            table.of(Device { major: 0, minor: 52 }).is_some_and(is_elsewhere)
        };
        for kind in ["fuse", "fuse.sshfs", "fuse.mfs", "nfs4", "ceph", "9p"] {
            assert!(table(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "fuseblk.ntfs"] {
            assert!(!table(kind), "{kind}");
        }
    }
}
