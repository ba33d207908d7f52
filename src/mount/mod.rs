//! Making and ending mounts: mount(2) or `fusermount3`, private namespaces, the kernel's dirty
//! limits of a mount, and reading what is mounted.
//!
//! Knows nothing of what is served over `/dev/fuse`. Called by `keeper` (mounts, unmounts, tunes)
//! and by `cli` and `control` (look at the mount table). Nothing here but `dead` opens, stats or lists
//! anything below a mountpoint: the caller may be the process that has to answer for it.

pub mod attach;
pub mod bdi;
pub mod dead;
mod error;
pub mod fusermount;
pub mod generic;
pub mod machine;
pub mod mountinfo;
pub mod namespace;
pub mod origin;
pub mod patience;
pub mod privilege;
pub mod unmount;

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use error::MountError;

use crate::backing;

/// What follows `fuse.` in the type of our mounts.
pub const SUBTYPE: &str = "coalescefs";
/// Type of our mounts in `/proc/self/mountinfo`.
pub const FS_TYPE: &str = "fuse.coalescefs";

/// Turns the -1 of a system call into its errno.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `Err(EINVAL)` for a path with a zero byte, as the kernel could not know it.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Opens a directory by its canonical path, with `flags` of open(2) besides. `Err(ELOOP)` when a
/// symbolic link has taken the place of a directory since the path was made.
pub(crate) fn open_directory(path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    backing::open_without_links(path, flags | libc::O_DIRECTORY, 0)
}

/// The absolute path of `path` as the mount table shows it, without asking what is mounted there:
/// a mount whose server hangs or died can still be named. A final symbolic link is therefore not
/// followed. `Err` is the errno of resolving the directories above.
pub fn resolve_name(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !ends_in_dot(path) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

/// `Path::file_name` drops a final `.`, which names the directory itself and not an entry.
fn ends_in_dot(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes == b"." || bytes.ends_with(b"/.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nobody turns a path to a place of his choice once it was checked.
    #[test]
    fn directories_are_opened_without_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/inner")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let open = |path: &str| open_directory(&root.join(path), libc::O_PATH);
        open("real/inner").unwrap();
        for link in ["link", "link/inner"] {
            assert_eq!(open(link).unwrap_err().raw_os_error(), Some(libc::ELOOP), "{link}");
        }
    }

    /// Goal: a final link or a dead mount is not followed, everything above it is.
    #[test]
    fn resolve_name_follows_only_what_is_above() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("real/dangling")).unwrap();

        assert_eq!(resolve_name(&root.join("link")).unwrap(), root.join("link"));
        assert_eq!(resolve_name(&root.join("link/dangling")).unwrap(), root.join("real/dangling"));
        assert_eq!(resolve_name(&root.join("real/.")).unwrap(), root.join("real"));
        assert_eq!(resolve_name(&root.join("real/..")).unwrap(), root);
        assert_eq!(resolve_name(&root.join("real/")).unwrap(), root.join("real"));
        assert!(resolve_name(&root.join("missing/x")).is_err());
        assert_eq!(resolve_name(Path::new("/")).unwrap(), Path::new("/"));
    }
}
