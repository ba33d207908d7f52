//! Which filesystems below the mount are another process's or another machine's, by what the mount
//! table calls them: it can be read while they hang.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::config::MountConfig;
use crate::fs::Engines;
use crate::mount::mountinfo::{Device, Mount, MountTable};
use crate::mount::origin::Origin;

/// The mount table, as it is when it is asked.
pub(super) struct Mounted {
    backing: PathBuf,
    mountpoint: PathBuf,
    origin: Option<Origin>,
}

impl Mounted {
    pub(super) fn new(config: &MountConfig) -> Mounted {
        Mounted {
            backing: config.backing.clone(),
            mountpoint: config.mountpoint.clone(),
            origin: config.origin.clone(),
        }
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
        let table = table();
        let mount = table.of(Device::from_st_dev(dev));
        // One that was unmounted while we have it open is in the table no more.
        mount.map_or(self.origin.is_some(), Mount::is_elsewhere)
    }

    fn is_any_below(&self) -> bool {
        let is_own = |mount: &Mount| mount.is_ours() && mount.mount_point == self.mountpoint;
        table().below(&self.backing).any(|mount| !is_own(mount) && mount.is_elsewhere())
    }

    fn number_names(&self) -> bool {
        self.origin.as_ref().is_some_and(Origin::numbers_names)
    }

    fn open_again(&self, lost: u64, is_it: &dyn Fn(BorrowedFd) -> bool) -> Option<OwnedFd> {
        self.origin.as_ref()?.open_again(&table(), Device::from_st_dev(lost), is_it)
    }
}
