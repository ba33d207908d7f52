//! Where a directory lies in a filesystem that may be mounted again: an engine whose client died is
//! there again under another device number, and maybe at another place.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mountinfo::{Device, Mount, MountTable};
use crate::backing;

/// FUSE clients on libfuse's interface of paths that leave the inode numbers to it (no `use_ino`).
const NUMBERING_NAMES: [&str; 1] = ["fuse.sshfs"];

/// Clients whose source names the servers and what of them is mounted, so that nobody else's directory
/// has the same. Not `fuse.s3fs` or `fuse.ceph-fuse`, which are the sources of all.
const NAMING_SOURCES: [&str; 3] = ["fuse.sshfs", "fuse.glusterfs", "fuse.mfs"];

/// Clients that add up a file's size from what each write seems to add to it. GlusterFS with sharding:
/// the sum is wrong for good where the size is asked for while more than one write is on its way
/// (issues 2246, 2680 and 2892 of gluster/glusterfs).
const ADDING_SIZES: [&str; 1] = ["fuse.glusterfs"];

/// MooseFS's client may be of type `fuse`; what its source begins with then.
const MOOSEFS_SOURCE: &[u8] = b"mfs#";

/// A directory of an engine, by what the mount table calls both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    fs_type: OsString,
    source: OsString,
    /// From the engine's root.
    inside: PathBuf,
}

impl Origin {
    /// Of a directory, absolute and without symbolic links. `None` where its source tells too little of
    /// it, and where it is this machine's: a disk is there again only with its device. Asks nobody but
    /// the table.
    pub fn of(table: &MountTable, directory: &Path) -> Option<Origin> {
        let mount = table.holding(directory).filter(|mount| source_tells(mount))?;
        let below = directory.strip_prefix(&mount.mount_point).ok()?;
        Some(Origin {
            fs_type: mount.fs_type.clone(),
            source: mount.source.clone(),
            inside: mount.root.join(below),
        })
    }

    /// Whether inode numbers are the client's own: they count the names that it knows, so that a file
    /// may get another one when it is looked up again. Its name is all that tells a file then.
    pub fn numbers_names(&self) -> bool {
        NUMBERING_NAMES.iter().any(|client| self.fs_type == *client)
    }

    /// Whether a file is to be as long as it will be before several writes go to it: one that seems to
    /// add nothing to the size cannot make it wrong.
    pub fn adds_sizes(&self) -> bool {
        ADDING_SIZES.iter().any(|client| self.fs_type == *client)
    }

    /// Whether a mount shows the same engine, and the directory's path below its mount point.
    fn below<'a>(&'a self, mount: &Mount) -> Option<&'a Path> {
        let is_same = mount.fs_type == self.fs_type && mount.source == self.source;
        self.inside.strip_prefix(&mount.root).ok().filter(|_| is_same)
    }

    /// Opens the directory in other mounts of the engine than that of `lost`: the first one that
    /// `is_it` takes for it. May wait for the engine.
    pub fn open_again(
        &self,
        table: &MountTable,
        lost: Device,
        is_it: &dyn Fn(BorrowedFd) -> bool,
    ) -> Option<OwnedFd> {
        let others = table.all().filter(|mount| mount.device != lost);
        let mut opened = others.filter_map(|mount| open_in(mount, self.below(mount)?).ok());
        opened.find(|dir| is_it(dir.as_fd()))
    }
}

fn source_tells(mount: &Mount) -> bool {
    NAMING_SOURCES.iter().any(|client| mount.fs_type == *client)
        || (mount.fs_type == "fuse" && mount.source.as_bytes().starts_with(MOOSEFS_SOURCE))
}

/// `EXDEV` when something else covers the mount point, or lies on the way.
fn open_in(mount: &Mount, below: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_RDONLY;
    let fd = backing::open_without_links(&mount.mount_point.join(below), flags, 0)?;
    let device = Device::from_st_dev(backing::attr(fd.as_fd())?.dev);
    if device != mount.device {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> MountTable {
        MountTable::parse(lines.join("\n").as_bytes())
    }

    const ROOT: &str = "20 1 8:1 / / rw - ext4 /dev/sda1 rw";
    const ENGINE: &str = "30 20 0:50 / /mnt/e rw - fuse.mfs mfs#host:9421 rw";

    /// Goal: the directory is found in any mount of the same engine that shows it, and in no other.
    #[test]
    fn the_directory_is_found_in_other_mounts_of_the_engine() {
        let origin = |path: &str| Origin::of(&table(&[ROOT, ENGINE]), Path::new(path));
        assert_eq!(origin("/home"), None, "a disk's");
        let bucket = "37 20 0:52 / /mnt/s3 rw - fuse.s3fs s3fs rw";
        assert_eq!(Origin::of(&table(&[ROOT, bucket]), Path::new("/mnt/s3/a")), None, "anyone's");
        let origin = origin("/mnt/e/job/out").unwrap();
        let below = |line: &str| {
            let table = table(&[line]);
            let mount = table.all().next().unwrap();
            origin.below(mount).map(|path| path.to_str().unwrap().to_owned())
        };
        assert_eq!(below(ENGINE).as_deref(), Some("job/out"));
        let again = "31 20 0:51 / /mnt/again rw - fuse.mfs mfs#host:9421 rw";
        assert_eq!(below(again).as_deref(), Some("job/out"));
        let part = "32 20 0:51 /job /mnt/part rw - fuse.mfs mfs#host:9421 rw";
        assert_eq!(below(part).as_deref(), Some("out"));
        for other in [
            "33 20 0:51 /other /mnt/part rw - fuse.mfs mfs#host:9421 rw",
            "34 20 0:51 / /mnt/again rw - fuse.mfs mfs#elsewhere:9421 rw",
            "35 20 0:51 / /mnt/again rw - fuse.glusterfs mfs#host:9421 rw",
        ] {
            assert_eq!(below(other), None, "{other}");
        }
    }

    /// Goal: what a bind mount covers is told by its root.
    #[test]
    fn a_bind_mount_is_traced_to_the_engine() {
        let bound = "36 20 0:50 /job /out rw - fuse.mfs mfs#host:9421 rw";
        let origin = Origin::of(&table(&[ROOT, ENGINE, bound]), Path::new("/out/a")).unwrap();
        assert_eq!(origin.inside, Path::new("/job/a"));
    }
}
