//! BACKING and MOUNTPOINT: what is wrong with them, before anything is changed.
//!
//! The mount table is asked first, so that a path below a mount that hangs is never touched when
//! the mount itself is named.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::exit::{CliError, complain};
use super::walk::{self, Found};
use crate::mount::dead::{self, is_dead};
use crate::mount::mountinfo::{Mount, MountTable};
use crate::mount::{c_path, check, resolve_name};

/// Canonical paths of a mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The backing directory.
    pub backing: PathBuf,
    /// Where to mount: maybe the same.
    pub mountpoint: PathBuf,
}

/// Checks and resolves BACKING and MOUNTPOINT of `mount`; without the second, over BACKING itself.
pub fn resolve(backing: &Path, mountpoint: Option<&Path>) -> Result<Places, CliError> {
    resolve_named("BACKING", backing, mountpoint)
}

/// Checks and resolves a directory to be mounted over; `name` is what messages call it.
pub fn resolve_over(name: &str, directory: &Path) -> Result<Places, CliError> {
    resolve_named(name, directory, None)
}

fn resolve_named(
    name: &str,
    backing: &Path,
    mountpoint: Option<&Path>,
) -> Result<Places, CliError> {
    let mountpoint = mountpoint.unwrap_or(backing);
    let table = clear_dead(mountpoint)?;
    refuse_ours(&table, mountpoint)?;
    let places = Places {
        backing: directory(name, backing)?,
        mountpoint: directory("MOUNTPOINT", mountpoint)?,
    };
    // Again, as a final symbolic link is resolved now.
    refuse_ours(&table, &places.mountpoint)?;
    refuse_mounted(&table, &places.backing)?;
    refuse_unusable(name, &places)?;
    Ok(places)
}

/// What a daemon that was killed left at `mountpoint` only stands in the way. Gives the table as it
/// is then.
fn clear_dead(mountpoint: &Path) -> Result<MountTable, CliError> {
    loop {
        let table = MountTable::read()
            .map_err(|error| CliError::Failed(format!("/proc/self/mountinfo: {error}")))?;
        let name = resolve_name(mountpoint).ok();
        let found = name.and_then(|name| table.top_at(&name).cloned());
        let Some(mount) = found.filter(|mount| mount.is_ours() && is_dead(&mount.mount_point))
        else {
            return Ok(table);
        };
        let path = mount.mount_point.display();
        dead::clear(&mount).map_err(|error| {
            CliError::Failed(format!(
                "{path} is a mount whose daemon is gone, and it cannot be cleared: {error}"
            ))
        })?;
        complain(&format!(
            "{path} was a mount whose daemon is gone; it is cleared. Data that was acknowledged \
             and not yet stored is lost"
        ));
    }
}

fn refuse_ours(table: &MountTable, path: &Path) -> Result<(), CliError> {
    match resolve_name(path) {
        Ok(name) if table.top_at(&name).is_some_and(|mount| mount.is_ours()) => {
            Err(CliError::Failed(format!(
                "{0} is already a coalescefs mount: 'coalescefs umount {0}' ends it",
                name.display()
            )))
        }
        // What does not resolve is complained about where it is looked at.
        _ => Ok(()),
    }
}

/// A mount in another one, or over one, would buffer everything twice; checked before the directory
/// is touched.
pub fn refuse_nested(name: &str, directory: &Path) -> Result<(), CliError> {
    let failed = |error| CliError::Failed(format!("{name} {}: {error}", directory.display()));
    let table = MountTable::read().map_err(failed)?;
    let (outer, inner) = match walk::find(directory, &table) {
        Ok(Found::Mount(mount) | Found::InMount(mount)) if !is_dead(&mount.mount_point) => {
            (Some(mount), None)
        }
        Ok(Found::Elsewhere(path)) => {
            let is_below = |mount: &&Mount| mount.mount_point.starts_with(&path);
            (None, table.ours().find(is_below).cloned())
        }
        // What is wrong with it is said where it is resolved.
        Ok(_) | Err(_) => return Ok(()),
    };
    let directory = directory.display();
    let why = match (outer, inner) {
        (Some(mount), _) => format!(
            "lies in the coalescefs mount at {}, which coalesces it already: run the command \
             without another mount, or end that one",
            mount.mount_point.display()
        ),
        (None, Some(mount)) => format!(
            "has the coalescefs mount at {} in it, whose files would be buffered twice: end that \
             one, or choose other directories",
            mount.mount_point.display()
        ),
        (None, None) => return Ok(()),
    };
    Err(CliError::Failed(format!("{name} {directory} {why}")))
}

/// Two mounts of one directory would each think it has it alone. The keeper makes sure of that even
/// where this table does not show the other one; here it can be named.
fn refuse_mounted(table: &MountTable, backing: &Path) -> Result<(), CliError> {
    let here = |mount: &&Mount| mount.source == backing.as_os_str();
    match table.ours().filter(here).find(|mount| !is_dead(&mount.mount_point)) {
        Some(mount) => Err(CliError::Failed(format!(
            "{} is already mounted through coalescefs, at {1}: 'coalescefs umount {1}' ends it",
            backing.display(),
            mount.mount_point.display()
        ))),
        None => Ok(()),
    }
}

fn directory(what: &str, path: &Path) -> Result<PathBuf, CliError> {
    let complain = |why: &str| {
        let path = path.display();
        CliError::Failed(format!("{what} {path}: {why}"))
    };
    let canonical = path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => complain("does not exist: create the directory first"),
        io::ErrorKind::NotADirectory => complain("is not a directory"),
        io::ErrorKind::PermissionDenied => complain("permission denied"),
        _ if error.raw_os_error() == Some(libc::ENOTCONN) => {
            complain("lies in a mount whose daemon is gone: 'coalescefs umount' clears it")
        }
        _ => complain(&error.to_string()),
    })?;
    if !canonical.is_dir() {
        return Err(complain("is not a directory"));
    }
    if canonical.to_str().is_none() {
        return Err(complain("its name is not UTF-8, which mounts here need: rename it"));
    }
    Ok(canonical)
}

/// Checks and resolves a directory as [`resolve_over`] does, but for mounts that are there already.
pub fn usable(name: &str, path: &Path) -> Result<PathBuf, CliError> {
    let backing = directory(name, path)?;
    refuse_unusable(name, &Places { backing: backing.clone(), mountpoint: backing.clone() })?;
    Ok(backing)
}

/// What to do where no file can be made in a directory, by the error of trying.
pub fn writing_remedy(error: &io::Error) -> &'static str {
    // By kind: errors of tempfile keep only that.
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "the filesystem is read-only: mount it for writing",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room first",
        _ => "give this user the right to write to it",
    }
}

fn refuse_unusable(name: &str, places: &Places) -> Result<(), CliError> {
    let (backing, mountpoint) = (places.backing.display(), places.mountpoint.display());
    if let Err(error) = access(&places.backing, libc::R_OK | libc::X_OK) {
        return Err(CliError::Failed(format!(
            "{name} {backing}: {error}: it must be readable and searchable"
        )));
    }
    if places.mountpoint == Path::new("/") {
        return Err(CliError::Failed("cannot mount over /: choose a directory in it".to_owned()));
    }
    if places.mountpoint == places.backing {
        return Ok(());
    }
    if is_or_lies_in(&places.mountpoint, &places.backing) {
        return Err(CliError::Failed(format!(
            "MOUNTPOINT {mountpoint} lies in BACKING {backing}: the mount would contain itself; \
             mount over BACKING, or elsewhere"
        )));
    }
    if is_or_lies_in(&places.backing, &places.mountpoint) {
        return Err(CliError::Failed(format!(
            "BACKING {backing} lies in MOUNTPOINT {mountpoint} and would be hidden; mount over \
             BACKING, or elsewhere"
        )));
    }
    match fs::read_dir(&places.mountpoint).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::Failed(format!(
            "MOUNTPOINT {mountpoint} is not empty: use an empty directory, or mount over BACKING"
        ))),
        Err(error) => Err(CliError::Failed(format!("MOUNTPOINT {mountpoint}: {error}"))),
    }
}

fn access(path: &Path, mode: libc::c_int) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: a valid C string.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) })
        .map(drop)
}

/// By device and inode, so that bind mounts and the like are seen through.
fn is_or_lies_in(path: &Path, directory: &Path) -> bool {
    let identity = |meta: Metadata| (meta.dev(), meta.ino());
    let Ok(wanted) = directory.metadata().map(identity) else { return false };
    path.ancestors().any(|above| above.metadata().map(identity).is_ok_and(|it| it == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(backing: &Path, mountpoint: Option<&Path>) -> String {
        let error = resolve(backing, mountpoint).unwrap_err();
        assert!(matches!(error, CliError::Failed(_)));
        assert!(!error.to_string().contains('\n'));
        error.to_string()
    }

    #[test]
    fn over_itself_and_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (backing, mountpoint) = (root.join("b"), root.join("m"));
        fs::create_dir(&backing).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        fs::write(backing.join("full"), "x").unwrap();
        std::os::unix::fs::symlink("b", root.join("link")).unwrap();
        let over = Places { backing: backing.clone(), mountpoint: backing.clone() };
        assert_eq!(resolve(&backing, None).unwrap(), over);
        assert_eq!(resolve(&root.join("link"), None).unwrap(), over);
        let elsewhere = Places { backing: backing.clone(), mountpoint: mountpoint.clone() };
        assert_eq!(resolve(&backing, Some(&mountpoint)).unwrap(), elsewhere);
    }

    #[test]
    fn each_wrong_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["b", "b/in", "full", "full/in"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::write(root.join("file"), "x").unwrap();
        let at = |name: &str| root.join(name);
        assert!(words(&at("missing"), None).contains("does not exist"));
        assert!(words(&at("file"), None).contains("not a directory"));
        assert!(words(&at("file/x"), None).contains("not a directory"));
        assert!(words(&at("b"), Some(&at("missing"))).contains("MOUNTPOINT"));
        assert!(words(&at("b"), Some(&at("full"))).contains("not empty"));
        assert!(words(&at("b"), Some(&at("b/in"))).contains("would contain itself"));
        assert!(words(&at("b/in"), Some(&at("b"))).contains("would be hidden"));
        assert!(words(Path::new("/"), None).contains("over /"));
        let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"odd\xff");
        let odd = root.join::<&std::ffi::OsStr>(odd);
        fs::create_dir(&odd).unwrap();
        assert!(words(&odd, None).contains("UTF-8"));
    }
}
