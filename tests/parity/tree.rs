//! A directory tree as a map that can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys::{self, brief, c, sys};

/// Times before this were set on purpose: 2015. Others are of now and differ.
const LONG_AGO: i64 = 1_420_070_400;

/// What is at each path.
pub fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    walk(root, root, &mut tree);
    tree
}

fn walk(root: &Path, at: &Path, tree: &mut BTreeMap<String, String>) {
    let name = at.strip_prefix(root).expect("below the root").as_os_str().as_bytes();
    let name = format!("tree: ./{}", name.escape_ascii());
    let (shown, is_dir) = match describe(at) {
        Ok(described) => described,
        Err(error) => (error.to_string(), false),
    };
    tree.insert(name, shown);
    if !is_dir {
        return;
    }
    match fs::read_dir(at) {
        Ok(entries) => entries.flatten().for_each(|entry| walk(root, &entry.path(), tree)),
        Err(error) => {
            tree.insert(format!("list: {}", at.display()), error.to_string());
        }
    }
}

fn describe(path: &Path) -> io::Result<(String, bool)> {
    let stat = sys::lstat(path.as_os_str().as_bytes())?;
    let kind = stat.st_mode & libc::S_IFMT;
    let mut shown = format!(
        "{:o} nlink {} owner {}:{} rdev {}",
        stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_rdev
    );
    match kind {
        libc::S_IFREG => {
            let bytes = match fs::read(path) {
                Ok(bytes) => brief(&bytes),
                Err(error) => error.to_string(),
            };
            shown += &format!(" size {} {bytes}", stat.st_size);
        }
        libc::S_IFLNK => shown += &format!(" to {:?}", fs::read_link(path)?),
        _ => {}
    }
    if fs::symlink_metadata(path)?.mtime() < LONG_AGO {
        shown += &format!(" mtime {}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
    }
    for name in xattr_names(path)? {
        shown += &format!(" {}={}", name.escape_ascii(), xattr(path, &name)?);
    }
    Ok((shown, kind == libc::S_IFDIR))
}

fn xattr_names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0u8; 1 << 16];
    let path = c(path.as_os_str().as_bytes());
    let len = match sys!(llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len())) {
        Ok(len) => len as usize,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    let mut names: Vec<Vec<u8>> = list[..len]
        .split_inclusive(|byte| *byte == 0)
        .map(|name| name[..name.len() - 1].to_vec())
        .collect();
    names.sort();
    Ok(names)
}

fn xattr(path: &Path, name: &[u8]) -> io::Result<String> {
    let mut value = vec![0u8; 1 << 16];
    let path = c(path.as_os_str().as_bytes());
    let name = c(name);
    let pointer = value.as_mut_ptr().cast();
    let len = sys!(lgetxattr(path.as_ptr(), name.as_ptr(), pointer, value.len()))?;
    Ok(brief(&value[..len as usize]))
}
