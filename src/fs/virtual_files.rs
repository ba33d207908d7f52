//! The hidden directory `.coalescefs` at the root of the mount: files that show its state.
//!
//! It is not below and in no listing; it is found by its name only, which nobody can make, remove or
//! rename. Where the backing directory has something of that name, that is found, and these files
//! are not there. A file's contents are made when it is opened, so that a reader sees one moment;
//! nothing of it waits for the disk. Permissions are the kernel's to check, by mode and owner: what
//! names files is for the mount's owner and root, `metrics` for whoever may use the mount.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::attrs::{Lasts, NodeAttr};
use super::handles::DirectoryEntry;
use super::names::Entry;
use super::nodes::ROOT_ID;
use super::{Filesystem, errno};
use crate::backing::{self, Attr, Time};
use crate::clock;
use crate::control::peer;
use crate::stats::{metrics, slow};

/// The directory's name.
pub const NAME: &str = ".coalescefs";

/// The directory and, after it, its files: above all ids that files get, which count up from far
/// below (`nodes::Foreign`).
const DIRECTORY_ID: u64 = u64::MAX - 15;
/// Snapshots held at the same time: each may be as large as the list of files.
const SNAPSHOTS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Status,
    Files,
    Metrics,
}

const FILES: [(File, &str, u32); 3] = [
    (File::Status, "status", 0o400),
    (File::Files, "files", 0o400),
    (File::Metrics, "metrics", 0o444),
];

fn id_of(index: usize) -> u64 {
    DIRECTORY_ID + 1 + index as u64
}

fn index_of(id: u64) -> Option<usize> {
    let index = id.checked_sub(DIRECTORY_ID + 1)? as usize;
    (index < FILES.len()).then_some(index)
}

/// Whether a node is the hidden directory or one of its files.
pub fn is_virtual(id: u64) -> bool {
    id >= DIRECTORY_ID
}

/// What is open, and since when the directory is there.
pub(super) struct VirtualFiles {
    snapshots: Mutex<HashMap<u64, Arc<Vec<u8>>>>,
    since: Time,
    /// Nothing below has the name, and through the mount nobody can make it.
    is_known: AtomicBool,
}

impl VirtualFiles {
    pub(super) fn new() -> VirtualFiles {
        let (secs, nanos) = clock::realtime();
        let since = Time { secs, nanos };
        VirtualFiles { snapshots: Mutex::default(), since, is_known: AtomicBool::new(false) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Vec<u8>>>> {
        self.snapshots.lock().expect("no panics under this lock")
    }
}

impl Filesystem {
    /// What is at a name of the hidden directory, or the directory itself. `None` for any other
    /// name.
    pub(super) fn virtual_lookup(&self, parent: u64, name: &OsStr) -> Option<io::Result<Entry>> {
        if parent == DIRECTORY_ID {
            let index = FILES.iter().position(|(_, known, _)| name == *known);
            let found = index.ok_or_else(|| errno(libc::ENOENT));
            return Some(found.map(|index| self.virtual_entry(id_of(index))));
        }
        let is_there = self.is_reserved(parent, name).unwrap_or(false);
        is_there.then(|| Ok(self.virtual_entry(DIRECTORY_ID)))
    }

    /// Whether a name is looked up without asking what is below.
    pub fn is_at_hand(&self, parent: u64, name: &OsStr) -> bool {
        let is_known = || self.virtual_files.is_known.load(Ordering::Relaxed);
        is_virtual(parent) || (parent == ROOT_ID && name == NAME && is_known())
    }

    fn virtual_entry(&self, id: u64) -> Entry {
        Entry { attr: self.virtual_attr(id), generation: 0, lasts: Lasts::Settled }
    }

    /// Whether the name is the hidden directory's, and nothing below has it.
    fn is_reserved(&self, parent: u64, name: &OsStr) -> io::Result<bool> {
        if parent != ROOT_ID || name != NAME {
            return Ok(false);
        }
        // Asked once: it is to be seen also while what is below hangs.
        if self.virtual_files.is_known.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match backing::attr_at(self.root(), name) {
            Ok(_) => Ok(false),
            Err(error) if backing::errno(&error) == libc::ENOENT => {
                self.virtual_files.is_known.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// `EPERM` for a name that is not to be made, removed or moved.
    pub(super) fn check_not_reserved(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        match is_virtual(parent) || self.is_reserved(parent, name)? {
            true => Err(errno(libc::EPERM)),
            false => Ok(()),
        }
    }

    /// Attributes of a node for which [`is_virtual`] holds. As in /proc, files have no size: it is
    /// known when they are opened.
    pub(super) fn virtual_attr(&self, id: u64) -> NodeAttr {
        let since = self.virtual_files.since;
        let (mode, nlink) = match index_of(id) {
            Some(index) => (libc::S_IFREG | FILES[index].2, 1),
            None => (libc::S_IFDIR | 0o555, 2),
        };
        let (uid, gid) = peer::own_ids();
        let attr = Attr {
            dev: 0,
            ino: id,
            mode,
            nlink,
            uid,
            gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: since,
            mtime: since,
            ctime: since,
        };
        NodeAttr { id, ino: id, attr, lasts: Lasts::Settled }
    }

    /// OPEN: takes the snapshot. `EPERM` for writing, `ENFILE` when too many are open.
    pub(super) fn virtual_open(&self, id: u64, flags: i32) -> io::Result<u64> {
        let index = index_of(id).ok_or_else(|| errno(libc::EISDIR))?;
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(errno(libc::EPERM));
        }
        if self.virtual_files.lock().len() >= SNAPSHOTS_MAX {
            return Err(errno(libc::ENFILE));
        }
        let contents = Arc::new(self.contents(FILES[index].0));
        let handle = self.arena.next_handle();
        self.virtual_files.lock().insert(handle, contents);
        Ok(handle)
    }

    /// READ of what was there when the handle was opened. A handle of a former worker has a snapshot
    /// of now. `EISDIR` for the directory.
    pub fn virtual_read(&self, id: u64, handle: u64, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        let index = index_of(id).ok_or_else(|| errno(libc::EISDIR))?;
        let known = self.virtual_files.lock().get(&handle).cloned();
        let contents = known.unwrap_or_else(|| {
            let contents = Arc::new(self.contents(FILES[index].0));
            self.virtual_files.lock().insert(handle, contents.clone());
            contents
        });
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        let end = start.saturating_add(len as usize).min(contents.len());
        Ok(contents[start..end].to_vec())
    }

    pub(super) fn virtual_release(&self, handle: u64) {
        self.virtual_files.lock().remove(&handle);
    }

    /// READDIR of the hidden directory.
    pub(super) fn virtual_entries(
        &self,
        offset: u64,
        mut take: impl FnMut(&DirectoryEntry) -> bool,
    ) -> io::Result<()> {
        let dots = [(DIRECTORY_ID, ".", libc::DT_DIR), (ROOT_ID, "..", libc::DT_DIR)];
        let files = FILES.iter().enumerate();
        let files = files.map(|(index, (_, name, _))| (id_of(index), *name, libc::DT_REG));
        let entries = dots.into_iter().chain(files).zip(1..);
        for ((ino, name, kind), next_offset) in entries.skip(offset as usize) {
            let name = OsString::from(name);
            if !take(&DirectoryEntry { ino, next_offset, kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn contents(&self, file: File) -> Vec<u8> {
        match file {
            File::Status => in_lines(&self.status_in_words()),
            File::Files => in_lines(&json!(self.files())),
            File::Metrics => metrics::render(&self.status(), &self.stats, &node_name()).into(),
        }
    }

    /// The state as `status --json` has it.
    fn status_in_words(&self) -> Value {
        let status = self.status();
        let size = |bytes: u64| format!("{} KiB", bytes / 1024);
        let time = |ms: u64| format!("{:?}", Duration::from_millis(ms));
        let why = slow::explain(&status, None).in_words(size, time);
        let mut value = json!(status);
        value["why_slow"] = Value::String(why);
        value
    }
}

fn in_lines(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The machine's name, as uname(2) has it.
fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}
