//! Which filesystems below the mount are another process's or another machine's, by what the mount
//! table calls them: it can be read while they hang.

use std::path::PathBuf;

use crate::config::MountConfig;
use crate::fs::Engines;
use crate::mount::mountinfo::{Device, Mount, MountTable};

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
        table().of(Device::from_st_dev(dev)).is_some_and(Mount::is_elsewhere)
    }

    fn is_any_below(&self) -> bool {
        let is_own = |mount: &Mount| mount.is_ours() && mount.mount_point == self.mountpoint;
        table().below(&self.backing).any(|mount| !is_own(mount) && mount.is_elsewhere())
    }
}
