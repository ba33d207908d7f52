//! Operations on names: lookup, create, mkdir, mknod, symlink, link, unlink, rmdir, rename.
//!
//! The kernel holds the directories' locks, so that two of these never race for one name. New
//! files belong to the caller.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::Filesystem;
use super::attrs::NodeAttr;
use super::caller::Caller;
use super::nodes::Node;
use crate::backing::{self, Attr, Credentials};
use crate::drain::{Access, DataFile};

/// A name the kernel may now remember.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Attributes, with the node id.
    pub attr: NodeAttr,
    /// Generation of the node id.
    pub generation: u32,
}

/// The mode a file is to be made with.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Type and permissions as the caller gave them.
    pub bits: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// What a file that is no directory is made with. In a set-group-id directory it may keep the bit
/// itself only when its maker is of the directory's group.
fn credentials(caller: Caller, mode: Mode, dir: &OwnedFd) -> io::Result<Credentials> {
    let mut credentials = caller.credentials(mode.umask);
    if mode.bits & libc::S_ISGID != 0 {
        let gid = backing::attr(dir.as_fd())?.gid;
        credentials.group = caller.is_in_group(gid).then_some(gid);
    }
    Ok(credentials)
}

impl Filesystem {
    /// LOOKUP. `ENOENT` when there is no such name.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> io::Result<Entry> {
        let dir = self.directory(parent)?;
        let attr = backing::attr_at(dir.as_fd(), name)?;
        self.entry(&attr, parent, name)
    }

    pub(super) fn directory(&self, id: u64) -> io::Result<Arc<OwnedFd>> {
        self.path_fd(&self.node(id)?)
    }

    /// Counts a lookup of what is at `name`, and describes it.
    pub(super) fn entry(&self, attr: &Attr, parent: u64, name: &OsStr) -> io::Result<Entry> {
        let node = self.remember(attr, parent, name)?;
        let attr = self.overlaid(&node, attr);
        Ok(Entry { attr, generation: node.identity.generation })
    }

    /// MKNOD: files, FIFOs, sockets, devices. Errors: mknod(2).
    pub fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: Mode,
        rdev: u32,
    ) -> io::Result<Entry> {
        let dir = self.directory(parent)?;
        let credentials = credentials(caller, mode, &dir)?;
        self.make(&credentials, (parent, &dir), name, || {
            backing::mknod_at(dir.as_fd(), name, mode.bits, rdev)
        })
    }

    /// MKDIR. Errors: mkdir(2).
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: Mode,
    ) -> io::Result<Entry> {
        let dir = self.directory(parent)?;
        self.make(&caller.credentials(mode.umask), (parent, &dir), name, || {
            backing::mkdir_at(dir.as_fd(), name, mode.bits)
        })
    }

    /// SYMLINK. Errors: symlink(2).
    pub fn symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        target: &Path,
    ) -> io::Result<Entry> {
        let dir = self.directory(parent)?;
        self.make(&caller.credentials(0), (parent, &dir), name, || {
            backing::symlink_at(target, dir.as_fd(), name)
        })
    }

    fn make(
        &self,
        credentials: &Credentials,
        (parent, dir): (u64, &OwnedFd),
        name: &OsStr,
        make: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Entry> {
        backing::as_caller(credentials, make)?;
        let attr = backing::attr_at(dir.as_fd(), name)?;
        self.entry(&attr, parent, name)
    }

    /// CREATE: makes the file if it is not there, and opens it. Returns the handle, too.
    pub fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: Mode,
        flags: i32,
    ) -> io::Result<(Entry, u64)> {
        let dir = self.directory(parent)?;
        let flags = libc::O_RDWR | flags & libc::O_EXCL;
        let fd = backing::as_caller(&credentials(caller, mode, &dir)?, || {
            backing::create_at(dir.as_fd(), name, flags, mode.bits)
        })?;
        let attr = backing::attr(fd.as_fd())?;
        let entry = self.entry(&attr, parent, name)?;
        let node = self.node(entry.attr.id)?;
        self.files.insert(node.id(), DataFile::new(fd, Access::ReadWrite));
        let handle = self.add_handle(&node)?;
        Ok((entry, handle))
    }

    /// READLINK.
    pub fn read_link(&self, id: u64) -> io::Result<OsString> {
        backing::read_link(self.path_fd(&self.node(id)?)?.as_fd())
    }

    /// LINK: another name for a node. Errors: link(2).
    pub fn link(&self, id: u64, parent: u64, name: &OsStr) -> io::Result<Entry> {
        let node = self.node(id)?;
        let path = self.path_fd(&node)?;
        let dir = self.directory(parent)?;
        backing::link_fd_at(path.as_fd(), dir.as_fd(), name)?;
        let attr = backing::attr_at(dir.as_fd(), name)?;
        self.entry(&attr, parent, name)
    }

    /// UNLINK. What is buffered of a file without names is dropped once it is closed.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        self.remove(parent, name, |dir| backing::unlink_at(dir.as_fd(), name))
    }

    /// RMDIR.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        self.remove(parent, name, |dir| backing::rmdir_at(dir.as_fd(), name))
    }

    fn remove(
        &self,
        parent: u64,
        name: &OsStr,
        remove: impl FnOnce(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<()> {
        let dir = self.directory(parent)?;
        let victim = self.find(&dir, parent, name)?;
        remove(&dir)?;
        self.lost_name(victim);
        Ok(())
    }

    /// The known node at a name that is about to go away, pinned.
    fn find(
        &self,
        dir: &OwnedFd,
        parent: u64,
        name: &OsStr,
    ) -> io::Result<Option<(Arc<Node>, Attr)>> {
        let attr = backing::attr_at(dir.as_fd(), name)?;
        let Some(node) = self.known(&attr) else { return Ok(None) };
        if self.arena.nodes().place(node.slot) == (parent, name.to_os_string()) {
            self.pin(&node, dir.as_fd(), name)?;
        }
        Ok(Some((node, attr)))
    }

    fn lost_name(&self, victim: Option<(Arc<Node>, Attr)>) {
        let Some((node, attr)) = victim else { return };
        if node.is_regular() && attr.nlink > 1 {
            return;
        }
        if let Some(data) = node.data_if_any() {
            data.lock().deleted = true;
            if self.arena.nodes().open(node.slot) == 0 {
                self.discard(&node);
            }
        }
    }

    /// RENAME with the flags of renameat2(2).
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> io::Result<()> {
        let ((from_parent, from_name), (to_parent, to_name)) = (from, to);
        let from_dir = self.directory(from_parent)?;
        let to_dir = self.directory(to_parent)?;
        let source = self.known(&backing::attr_at(from_dir.as_fd(), from_name)?);
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        let target = match backing::attr_at(to_dir.as_fd(), to_name) {
            Ok(attr) if exchange => self.known(&attr).map(|node| (node, attr)),
            Ok(_) => self.find(&to_dir, to_parent, to_name)?,
            Err(error) if backing::errno(&error) == libc::ENOENT => None,
            Err(error) => return Err(error),
        };
        let same = match (&source, &target) {
            (Some(source), Some((target, _))) => Arc::ptr_eq(source, target),
            _ => false,
        };
        let moves = [
            source.as_ref().map(|node| (node, to_parent, to_name)),
            target.as_ref().filter(|_| exchange).map(|(node, _)| (node, from_parent, from_name)),
        ];
        let table = self.arena.nodes();
        let intents = moves.each_ref().map(|a_move| {
            a_move.and_then(|(node, parent, name)| table.begin_move(node.id(), parent, name))
        });
        let renamed =
            backing::rename_at(from_dir.as_fd(), from_name, to_dir.as_fd(), to_name, flags);
        // Two names of one file: rename(2) does nothing, and both stay.
        if renamed.is_ok() && !same {
            for (node, parent, name) in moves.into_iter().flatten() {
                table.set_place(node.slot, parent, name);
            }
        }
        intents.into_iter().for_each(|intent| table.end_move(intent));
        renamed?;
        if !exchange && !same {
            self.lost_name(target);
        }
        Ok(())
    }

    /// A path for messages; parts that are not known are left out.
    pub(super) fn display_path(&self, node: &Node) -> String {
        self.path_of(node).display().to_string()
    }

    /// The path below the mountpoint by which the node was last found.
    pub(super) fn path_of(&self, node: &Node) -> std::path::PathBuf {
        let mut names: Vec<OsString> = Vec::new();
        let (mut parent, name) = self.arena.nodes().place(node.slot);
        names.push(name);
        // Bounded: a damaged table must not make this go round for ever.
        for _ in 0..4096 {
            if parent == super::nodes::ROOT_ID {
                break;
            }
            let Ok(dir) = self.node(parent) else { break };
            let (next, name) = self.arena.nodes().place(dir.slot);
            names.push(name);
            parent = next;
        }
        names.iter().rev().collect()
    }
}
