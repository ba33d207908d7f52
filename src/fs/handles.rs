//! Open files and directories.
//!
//! A handle of a former worker is not known here; it is made anew when the kernel uses it, so that
//! a restart shows to nobody.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use super::caller::Caller;
use super::names::Entry;
use super::nodes::Node;
use super::repeated::NO_HANDLE;
use super::reserve::Job;
use super::virtual_files::is_virtual;
use super::{Filesystem, errno, shared};
use crate::backing::{self, DirReader};
use crate::drain::{Access, is_of_connection};

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct DirectoryEntry {
    /// Inode number, as stat(2) shows it here.
    pub ino: u64,
    /// Where to go on after it; as the backing filesystem numbers its entries.
    pub next_offset: u64,
    /// File type as `d_type` of getdents64(2).
    pub kind: u8,
    /// Its name.
    pub name: OsString,
}

/// A file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Its node, by the id under which it is kept: another one of the kernel's may be outdated soon.
    pub id: u64,
    /// Its handle.
    pub handle: u64,
}

/// The handle of a directory that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDirectory(pub u64);

/// An entry with what LOOKUP says of it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The entry.
    pub entry: DirectoryEntry,
    /// The look-up, which is counted but for the dot entries.
    pub found: Entry,
}

impl Listed {
    /// What it takes of a READDIRPLUS.
    pub fn bytes(&self) -> usize {
        plus_bytes(&self.entry)
    }

    fn is_dot(&self) -> bool {
        matches!(self.entry.name.as_encoded_bytes(), b"." | b"..")
    }
}

/// Of an entry of READDIRPLUS, without its name: `struct fuse_direntplus`.
const PLUS_HEADER_BYTES: usize = 152;

fn plus_bytes(entry: &DirectoryEntry) -> usize {
    (PLUS_HEADER_BYTES + entry.name.len()).next_multiple_of(8)
}

/// Bytes of directory entries read at a time; what a READDIR can take.
const DIRECTORY_BATCH_BYTES: usize = 64 << 10;

/// Closers told apart for one handle; the one told first is forgotten first.
const CLOSERS_MAX: usize = 16;

/// How many failures of writing a handle has been told of.
#[derive(Default)]
struct Told {
    all: u64,
    /// By close, each who shares the handle for himself: a child that a program starts closes its
    /// copies of the descriptors, unasked and deaf, and must not take the news away.
    closers: Vec<(u64, u64)>,
}

impl Told {
    fn of(failures: u64) -> Told {
        Told { all: failures, closers: Vec::new() }
    }

    /// Tells everybody or one closer of all failures; returns how many he knew of.
    fn tell(&mut self, closer: Option<u64>, failures: u64) -> u64 {
        let Some(closer) = closer else { return std::mem::replace(&mut self.all, failures) };
        let known = self.closers.iter().position(|(other, _)| *other == closer);
        let seen = known.map_or(0, |at| self.closers.remove(at).1);
        self.closers.truncate(CLOSERS_MAX - 1);
        self.closers.insert(0, (closer, failures));
        seen.max(self.all)
    }
}

/// The handles that are known.
#[derive(Default)]
pub(super) struct Handles {
    files: Mutex<HashMap<u64, Told>>,
    directories: Mutex<HashMap<u64, Arc<Mutex<DirReader>>>>,
}

impl Handles {
    pub(super) fn open_files(&self) -> u64 {
        self.files.lock().expect("no panics under this lock").len() as u64
    }
}

impl Filesystem {
    /// OPEN. Returns the handle. Errors: open(2) on the backing file.
    pub fn open(&self, caller: Caller, id: u64, flags: i32) -> io::Result<OpenFile> {
        if is_virtual(id) {
            return Ok(OpenFile { id, handle: self.virtual_open(id, flags)? });
        }
        let node = self.node(id)?;
        self.data(&node)?;
        let access = flags & libc::O_ACCMODE;
        let file = match access {
            libc::O_RDONLY => self.data_file(&node)?,
            _ => self.writable_file(&node)?,
        };
        // The kernel knows the mode, but not what is denied to this process.
        if file.access() == Access::WriteOnly && matches!(access, libc::O_RDONLY | libc::O_RDWR) {
            return Err(errno(libc::EACCES));
        }
        let handle = self.add_handle(caller, &node, id, flags)?;
        if access != libc::O_RDONLY {
            self.owe_failure(&node, handle);
            self.gate_opened(&node);
        }
        Ok(OpenFile { id: node.id(), handle })
    }

    /// Who opens a file to write to it while that fails is told, too.
    fn owe_failure(&self, node: &Node, handle: u64) {
        let Some(data) = node.data_if_any() else { return };
        let state = data.lock();
        if state.failure.is_some() {
            let told = Told::of(state.failures - 1);
            self.handles.files.lock().expect("no panics under this lock").insert(handle, told);
        }
    }

    /// Whether an open file can be written but not read, so that the kernel cannot keep pages of it.
    pub fn is_write_only(&self, id: u64) -> bool {
        let file = self.files.get(self.own_id(id));
        file.is_some_and(|file| file.access() == Access::WriteOnly)
    }

    /// A handle of what the kernel knows by `id`, opened with the flags of open(2). `ESTALE` when that
    /// is not valid any more.
    pub(super) fn add_handle(
        &self,
        caller: Caller,
        node: &Arc<Node>,
        id: u64,
        flags: i32,
    ) -> io::Result<u64> {
        let data = self.data(node)?;
        self.treat_anew(node);
        let handle = match self.given_before(caller) {
            Some((_, handle)) if handle != NO_HANDLE => handle,
            _ => {
                let is_writer = flags & libc::O_ACCMODE != libc::O_RDONLY;
                self.count_open(node, id, is_writer)?;
                let handle = shared::handle_of(self.arena.next_handle(), is_writer);
                self.begin_attempt(caller, [None, Some((node.id(), handle))]);
                handle
            }
        };
        let state = data.lock();
        self.tell_queue(node, data, &state);
        let told = Told::of(state.failures);
        drop(state);
        self.handles.files.lock().expect("no panics under this lock").insert(handle, told);
        Ok(handle)
    }

    /// The check of a write and after fsync: an error of writing is reported to each handle once.
    pub fn check(&self, id: u64, handle: u64) -> io::Result<()> {
        self.report(id, handle, None)
    }

    /// FLUSH: to each who closes the handle once, unless all have been told.
    pub fn flush(&self, id: u64, handle: u64, closer: u64) -> io::Result<()> {
        self.report(id, handle, Some(closer))
    }

    fn report(&self, id: u64, handle: u64, closer: Option<u64>) -> io::Result<()> {
        if is_virtual(id) {
            return Ok(());
        }
        let node = self.node(id)?;
        let Some(data) = node.data_if_any() else { return Ok(()) };
        let (failures, failure, loss) = {
            let state = data.lock();
            let told = state.failure.as_ref().filter(|failure| failure.is_told());
            // Who asks now is to hear of it later, if it stays.
            let untold = u64::from(state.failure.is_some() && told.is_none());
            (state.failures - untold, told.map(|failure| failure.errno), state.stability.loss)
        };
        let mut files = self.handles.files.lock().expect("no panics under this lock");
        let seen = files.entry(handle).or_default().tell(closer, failures);
        match (failure, loss) {
            (Some(code), _) if seen < failures => Err(errno(code)),
            (_, Some(loss)) if seen < loss.number => Err(errno(loss.errno)),
            _ => Ok(()),
        }
    }

    /// RELEASE: the last descriptor of an open file is closed.
    pub fn release(&self, caller: Caller, id: u64, handle: u64) {
        if is_virtual(id) {
            return self.virtual_release(handle);
        }
        self.handles.files.lock().expect("no panics under this lock").remove(&handle);
        let Ok(node) = self.node(id) else { return };
        if self.found_before(caller).is_none() {
            self.begin_attempt(caller, [None, None]);
            self.arena.nodes().sub_open(node.slot);
            if shared::is_writer(handle) {
                self.arena.nodes().sub_writer(node.slot);
            }
        }
        self.look_anew_if_written(&node);
        let Some(data) = node.data_if_any() else { return };
        let state = data.lock();
        self.tell_queue(&node, data, &state);
        if state.reserved.wants_cut() && self.arena.nodes().open(node.slot) == 0 {
            self.space_jobs.add(Job::Trim(node.clone()));
        }
    }

    /// OPENDIR. Returns the handle.
    pub fn open_directory(&self, id: u64) -> io::Result<OpenDirectory> {
        if is_virtual(id) {
            return Ok(OpenDirectory(self.arena.next_handle()));
        }
        let reader = self.reader(id)?;
        let handle = self.arena.next_handle();
        let mut directories = self.handles.directories.lock().expect("no panics under this lock");
        directories.insert(handle, reader);
        Ok(OpenDirectory(handle))
    }

    fn reader(&self, id: u64) -> io::Result<Arc<Mutex<DirReader>>> {
        let path = self.path_fd(&self.node(id)?)?;
        let dir = backing::reopen(path.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY)?;
        Ok(Arc::new(Mutex::new(DirReader::new(dir))))
    }

    /// RELEASEDIR.
    pub fn release_directory(&self, handle: u64) {
        self.handles.directories.lock().expect("no panics under this lock").remove(&handle);
    }

    /// READDIR: a batch of entries from `offset` on; none at the end.
    pub fn list(&self, id: u64, handle: u64, offset: u64) -> io::Result<Vec<DirectoryEntry>> {
        let mut entries = Vec::new();
        self.read_directory(id, handle, offset, |entry| {
            entries.push(entry.clone());
            true
        })?;
        Ok(entries)
    }

    /// READDIRPLUS: entries from `offset` on, each looked up, as many as fit into `bytes`. What is
    /// gone since the directory was read is left out. What an engine cannot be asked for ends the
    /// list; it is the request's error if it comes first.
    pub fn list_plus(
        &self,
        caller: Caller,
        (id, handle): (u64, u64),
        offset: u64,
        bytes: usize,
    ) -> io::Result<Vec<Listed>> {
        let (mut listed, mut left, mut failed) = (Vec::new(), bytes, None);
        self.read_directory(id, handle, offset, |entry| {
            let Some(rest) = left.checked_sub(plus_bytes(entry)) else { return false };
            match self.look_up_listed(caller, id, entry) {
                Ok(found) => {
                    left = rest;
                    listed.push(Listed { entry: entry.clone(), found });
                }
                Err(error) if self.may_hang() && is_of_connection(backing::errno(&error)) => {
                    failed = Some(error);
                    return false;
                }
                Err(_) => {}
            }
            true
        })?;
        match failed {
            Some(error) if listed.is_empty() => Err(error),
            _ => Ok(listed),
        }
    }

    /// The dot entries are not looked up: the kernel does not count them.
    fn look_up_listed(
        &self,
        caller: Caller,
        dir: u64,
        entry: &DirectoryEntry,
    ) -> io::Result<Entry> {
        match entry.name.as_encoded_bytes() {
            b"." | b".." => {
                let attr = self.getattr(dir)?;
                Ok(Entry { attr, generation: 0, lasts: attr.lasts })
            }
            // Each entry is counted, also when the request comes again.
            _ => self.lookup(Caller { is_repeated: false, ..caller }, dir, &entry.name),
        }
    }

    /// The kernel was not told of it.
    pub fn forget_listed(&self, listed: &Listed) {
        if !listed.is_dot() {
            self.forget(listed.found.attr.id, 1);
        }
    }

    /// Hands entries from `offset` on to `take` until it returns `false` or a batch is through.
    fn read_directory(
        &self,
        id: u64,
        handle: u64,
        offset: u64,
        mut take: impl FnMut(&DirectoryEntry) -> bool,
    ) -> io::Result<()> {
        if is_virtual(id) {
            return self.virtual_entries(offset, take);
        }
        let known = self.handles.directories.lock().expect("no panics under this lock");
        let found = known.get(&handle).cloned();
        drop(known);
        let reader = match found {
            Some(reader) => reader,
            None => {
                let reader = self.reader(id)?;
                let mut known = self.handles.directories.lock().expect("no panics under this lock");
                known.insert(handle, reader.clone());
                reader
            }
        };
        let dev = self.node(id)?.identity.dev;
        let mut buf = vec![0; DIRECTORY_BATCH_BYTES];
        let mut reader = reader.lock().expect("no panics under this lock");
        let batch = reader.next_batch(offset, &mut buf).inspect_err(|_| {
            // Its descriptor may be dead: the next one opens another.
            self.release_directory(handle);
        })?;
        for entry in batch {
            let entry = DirectoryEntry {
                ino: self.nodes.shown_ino(dev, entry.ino),
                next_offset: entry.next_offset,
                kind: entry.kind,
                name: entry.name.to_os_string(),
            };
            if !take(&entry) {
                break;
            }
        }
        Ok(())
    }

    /// Number of open handles.
    pub(super) fn open_files(&self) -> u64 {
        self.handles.open_files()
    }
}
