//! The directory of a trial, which goes with its value, but never through a mount.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::progress::say;
use crate::mount::mountinfo::MountTable;

/// A temporary directory of a name of its own.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes it in `parent`, which is absolute and has no symbolic links, as in mount tables.
    pub fn create_in(parent: &Path, prefix: &str) -> io::Result<Scratch> {
        tempfile::Builder::new().prefix(prefix).tempdir_in(parent).map(|dir| Scratch { dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves it when the value goes.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A table that cannot be read shows no mount, and none could have been made.
        let table = MountTable::read().unwrap_or_else(|_| MountTable::parse(b""));
        let left = table.ours().find(|mount| mount.mount_point.starts_with(self.dir.path()));
        if let Some(mount) = left {
            self.dir.disable_cleanup(true);
            say(&format!(
                "still mounted: {}; `umount -l` it, then remove {}",
                mount.mount_point.display(),
                self.dir.path().display()
            ));
        }
    }
}
