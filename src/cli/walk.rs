//! From a path to what is there, without touching a coalescefs mount: it may be dead or hang.
//!
//! The path is resolved name by name, and each name is looked up in the mount table before the
//! filesystem is asked about it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::mount::mountinfo::{Mount, MountTable};
use crate::mount::patience::within;

/// As many as the kernel follows: path_resolution(7).
const LINKS_MAX: usize = 40;
/// For a filesystem that is not ours, as one of a server that is away.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a path leads to.
pub enum Found {
    /// The mountpoint of a coalescefs mount.
    Mount(Mount),
    /// Something in such a mount.
    InMount(Mount),
    /// A path without symbolic links that leads through no such mount.
    Elsewhere(PathBuf),
}

/// Resolves a path. `Err` is the errno of readlink(2), or `TimedOut`.
pub fn find(path: &Path, table: &MountTable) -> io::Result<Found> {
    let mut left: VecDeque<OsString> = names(&std::path::absolute(path)?).collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        if let Some(mount) = table.top_at(&next).filter(|mount| mount.is_ours()) {
            let is_last = left.is_empty();
            let wrap = if is_last { Found::Mount } else { Found::InMount };
            return Ok(wrap(mount.clone()));
        }
        match link_target(&next)? {
            None => at = next,
            Some(_) if links == LINKS_MAX => return Err(io::Error::from_raw_os_error(libc::ELOOP)),
            Some(target) => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    left.push_front(name);
                }
            }
        }
    }
    Ok(Found::Elsewhere(at))
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

/// `None` for what is no symbolic link.
fn link_target(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = path.to_owned();
    let read = within(LINK_TIMEOUT, move || std::fs::read_link(path));
    match read.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: links are followed as the kernel does, and what lies behind a mount of ours is not
    /// asked for: it does not exist here.
    #[test]
    fn mounts_are_found_and_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/out")).unwrap();
        std::os::unix::fs::symlink("real/../real/out", root.join("link")).unwrap();
        std::os::unix::fs::symlink("round", root.join("round")).unwrap();
        let line = format!("30 1 0:50 / {}/real/out rw - fuse.coalescefs x rw\n", root.display());
        let table = MountTable::parse(line.as_bytes());
        let find = |path: &str| find(&root.join(path), &table);
        for path in ["real/out", "link", "real/./out", "link/"] {
            assert!(matches!(find(path), Ok(Found::Mount(_))), "{path}");
        }
        for path in ["real/out/no/such", "link/x"] {
            assert!(matches!(find(path), Ok(Found::InMount(_))), "{path}");
        }
        let real = root.join("real");
        assert!(matches!(find("real"), Ok(Found::Elsewhere(path)) if path == real));
        assert_eq!(find("round").err().unwrap().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(find("missing").err().unwrap().raw_os_error(), Some(libc::ENOENT));
    }
}
