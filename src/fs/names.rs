//! Operations on names: lookup, create, mkdir, mknod, symlink, link, unlink, rmdir, rename.
//!
//! The kernel holds the directories' locks, so that two of these never race for one name. New
//! files belong to the caller.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::attrs::{Lasts, NodeAttr};
use super::caller::Caller;
use super::handles::OpenFile;
use super::nodes::Node;
use super::repeated::{NO_HANDLE, identity};
use super::reserve::Job;
use super::stable::Unsynced;
use super::{Filesystem, errno};
use crate::backing::{self, Attr, Credentials};
use crate::drain::{Access, DataFile};
use crate::killpoint::{self, Point};

/// A name the kernel may now remember.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Attributes, with the node id.
    pub attr: NodeAttr,
    /// Generation of the node id.
    pub generation: u32,
    /// How long the name stands for it.
    pub lasts: Lasts,
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

/// A node that goes from one name to another, each with its directory.
type Move<'a> = (&'a Arc<Node>, (u64, &'a OsStr), (u64, &'a OsStr));

impl Filesystem {
    /// LOOKUP. `ENOENT` when there is no such name.
    pub fn lookup(&self, caller: Caller, parent: u64, name: &OsStr) -> io::Result<Entry> {
        if let Some(found) = self.virtual_lookup(parent, name) {
            return found;
        }
        let dir = self.directory(parent)?;
        self.entry_at(caller, &dir, parent, name)
    }

    /// Looks up what is at a name, and describes it.
    fn entry_at(
        &self,
        caller: Caller,
        dir: &OwnedFd,
        parent: u64,
        name: &OsStr,
    ) -> io::Result<Entry> {
        let moment = self.moment();
        let attr = backing::attr_at_as(dir.as_fd(), name, self.freshness())?;
        let attr = self.met_at(attr, parent, name);
        self.entry(caller, (&attr, moment), parent, name)
    }

    pub(super) fn directory(&self, id: u64) -> io::Result<Arc<OwnedFd>> {
        self.path_fd(&self.node(id)?)
    }

    /// Counts a lookup of what is at `name`, once for each request, and describes it, as it was found
    /// at some moment (`shared`).
    pub(super) fn entry(
        &self,
        caller: Caller,
        (attr, moment): (&Attr, u64),
        parent: u64,
        name: &OsStr,
    ) -> io::Result<Entry> {
        let was_counted = self.given_before(caller).is_some();
        let node = self.remember(attr, parent, name, u64::from(!was_counted))?;
        if !was_counted {
            self.begin_attempt(caller, [identity(attr), Some((node.id(), NO_HANDLE))]);
        }
        let attr = self.revalidated(&node, attr, moment);
        let mut attr = self.overlaid(&node, &attr);
        let mut lasts = if self.is_shared() { attr.lasts } else { Lasts::Settled };
        if self.is_shared() && node.is_regular() {
            lasts = Lasts::Once;
            attr.id = self.kernel_id(&node);
        }
        if attr.id != attr.ino {
            // The inode number to show is told by GETATTR.
            attr.lasts = Lasts::Once;
        }
        Ok(Entry { attr, generation: node.identity.generation, lasts })
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
        self.make(caller, &credentials, (parent, &dir), name, || {
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
        let credentials = caller.credentials(mode.umask);
        self.make(caller, &credentials, (parent, &dir), name, || {
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
        self.make(caller, &caller.credentials(0), (parent, &dir), name, || {
            backing::symlink_at(target, dir.as_fd(), name)
        })
    }

    fn make(
        &self,
        caller: Caller,
        credentials: &Credentials,
        (parent, dir): (u64, &OwnedFd),
        name: &OsStr,
        make: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Entry> {
        self.check_not_reserved(parent, name)?;
        if !self.was_made(caller, dir, (parent, name))? {
            self.begin_attempt(caller, [None, None]);
            backing::as_caller(credentials, make)?;
        }
        self.entry_at(caller, dir, parent, name)
    }

    /// CREATE: makes the file and opens it. Returns the handle, too. The kernel asks for it where it
    /// has found no file, and does not check who may open what is made. So a file that has come
    /// there meanwhile is not opened: `ESTALE` lets the kernel look again, and check.
    pub fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: Mode,
        flags: i32,
    ) -> io::Result<(Entry, OpenFile)> {
        self.check_not_reserved(parent, name)?;
        let dir = self.directory(parent)?;
        if self.was_made(caller, &dir, (parent, name))? {
            let entry = self.lookup(caller, parent, name)?;
            if entry.attr.attr.uid != caller.uid {
                return Err(errno(libc::ESTALE));
            }
            let node = self.node(entry.attr.id)?;
            self.writable_file(&node)?;
            let handle = self.add_handle(caller, &node, entry.attr.id, flags)?;
            return Ok((entry, OpenFile { id: node.id(), handle }));
        }
        self.begin_attempt(caller, [None, None]);
        killpoint::pass(Point::CreateNoted);
        let made = backing::as_caller(&credentials(caller, mode, &dir)?, || {
            backing::create_at(dir.as_fd(), name, mode.bits)
        });
        let fd = made.map_err(|error| match backing::errno(&error) {
            libc::EEXIST if flags & libc::O_EXCL == 0 => errno(libc::ESTALE),
            _ => error,
        })?;
        killpoint::pass(Point::CreateMade);
        let moment = self.moment();
        let attr = self.met_at(backing::attr(fd.as_fd())?, parent, name);
        let mut entry = self.entry(caller, (&attr, moment), parent, name)?;
        let node = self.node(entry.attr.id)?;
        self.files.insert(node.id(), DataFile::new(fd, Access::ReadWrite));
        let handle = self.add_handle(caller, &node, self.kernel_id(&node), flags)?;
        self.note_without_capabilities(&node);
        if self.has_writers_ask(&node) {
            entry.attr.lasts = Lasts::Once;
        }
        killpoint::pass(Point::CreateDone);
        Ok((entry, OpenFile { id: node.id(), handle }))
    }

    /// READLINK.
    pub fn read_link(&self, id: u64) -> io::Result<OsString> {
        backing::read_link(self.path_fd(&self.node(id)?)?.as_fd())
    }

    /// LINK: another name for a node. Errors: link(2).
    pub fn link(&self, caller: Caller, id: u64, parent: u64, name: &OsStr) -> io::Result<Entry> {
        self.check_not_reserved(parent, name)?;
        let node = self.node(id)?;
        let path = self.path_fd(&node)?;
        let dir = self.directory(parent)?;
        if !self.was_made(caller, &dir, (parent, name))? {
            self.begin_attempt(caller, [None, None]);
            backing::link_fd_at(path.as_fd(), dir.as_fd(), name)?;
        }
        self.note_changed(&node, Unsynced::Attributes);
        self.entry_at(caller, &dir, parent, name)
    }

    /// UNLINK. What is buffered of a file without names is dropped once it is closed.
    pub fn unlink(&self, caller: Caller, parent: u64, name: &OsStr) -> io::Result<()> {
        self.remove(caller, parent, name, |dir| backing::unlink_at(dir.as_fd(), name))
    }

    /// RMDIR.
    pub fn rmdir(&self, caller: Caller, parent: u64, name: &OsStr) -> io::Result<()> {
        self.remove(caller, parent, name, |dir| backing::rmdir_at(dir.as_fd(), name))
    }

    fn remove(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        remove: impl FnOnce(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<()> {
        self.check_not_reserved(parent, name)?;
        let dir = self.directory(parent)?;
        if let Some([victim, _]) = self.found_before(caller)
            && self.identity_at(&dir, (parent, name))? != victim
        {
            self.lost_name(self.known_as(victim), (parent, name), None);
            return Ok(());
        }
        let attr = self.met_at(backing::attr_at(dir.as_fd(), name)?, parent, name);
        let victim = self.known(&attr);
        self.keep_reachable(victim.as_ref(), &dir, parent, name)?;
        killpoint::pass(Point::UnlinkPinned);
        self.begin_attempt(caller, [identity(&attr), None]);
        killpoint::pass(Point::UnlinkNoted);
        remove(&dir)?;
        killpoint::pass(Point::UnlinkRemoved);
        self.lost_name(victim, (parent, name), self.was_last_name(&attr));
        Ok(())
    }

    /// Whether the file has no name left, as its attributes were right before one was removed: the
    /// kernel holds the inode's lock, so that none was added. `None` where other nodes may add one, and
    /// where names may not be counted.
    fn was_last_name(&self, before: &Attr) -> Option<bool> {
        (!self.is_shared() && !self.may_hang()).then_some(before.nlink <= 1)
    }

    /// Pins a node whose name is about to go away, if it is the name it is known by.
    fn keep_reachable(
        &self,
        node: Option<&Arc<Node>>,
        dir: &OwnedFd,
        parent: u64,
        name: &OsStr,
    ) -> io::Result<()> {
        match node {
            Some(node) if self.arena.nodes().place(node.slot) == (parent, name.to_os_string()) => {
                self.pin(node, dir.as_fd(), name)
            }
            _ => Ok(()),
        }
    }

    /// The bytes of a file that has lost its last name are dropped when the kernel forgets it, which
    /// it does as soon as nobody has it open.
    fn lost_name(&self, victim: Option<Arc<Node>>, lost: (u64, &OsStr), was_last: Option<bool>) {
        let Some(node) = victim else { return };
        node.other_names.remove(lost);
        self.note_changed(&node, Unsynced::Attributes);
        let Some(data) = node.data_if_any() else { return };
        // One that has other names is reached by them, or by its pin.
        let has_names = || self.backing_attr(&node).is_ok_and(|attr| attr.nlink > 0);
        if !was_last.unwrap_or_else(|| !has_names()) {
            return;
        }
        let mut state = data.lock();
        state.deleted = true;
        if state.reserved.wants_cut() {
            self.space_jobs.add(Job::Trim(node.clone()));
        }
    }

    /// RENAME with the flags of renameat2(2).
    pub fn rename(
        &self,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: u32,
    ) -> io::Result<()> {
        let ((from_parent, from_name), (to_parent, to_name)) = (from, to);
        self.check_not_reserved(from_parent, from_name)?;
        self.check_not_reserved(to_parent, to_name)?;
        let from_dir = self.directory(from_parent)?;
        let to_dir = self.directory(to_parent)?;
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        if let Some([source, target]) = self.found_before(caller)
            && source != target
            && self.identity_at(&to_dir, to)? == source
        {
            let [source, target] = [source, target].map(|mark| self.known_as(mark));
            let moves = [
                source.as_ref().map(|node| (node, from, to)),
                target.as_ref().filter(|_| exchange).map(|node| (node, to, from)),
            ];
            self.note_moved(moves);
            if !exchange {
                self.lost_name(target, to, None);
            }
            return Ok(());
        }
        let source_attr = backing::attr_at(from_dir.as_fd(), from_name)?;
        let source_attr = self.met_at(source_attr, from_parent, from_name);
        let target_attr = match backing::attr_at(to_dir.as_fd(), to_name) {
            Ok(attr) => Some(self.met_at(attr, to_parent, to_name)),
            Err(error) if backing::errno(&error) == libc::ENOENT => None,
            Err(error) => return Err(error),
        };
        let source = self.known(&source_attr);
        let target = target_attr.as_ref().and_then(|attr| self.known(attr));
        if !exchange {
            self.keep_reachable(target.as_ref(), &to_dir, to_parent, to_name)?;
        }
        // Two names of one file: rename(2) does nothing, and both stay.
        let found = [identity(&source_attr), target_attr.as_ref().and_then(identity)];
        let same = found[0] == found[1];
        let moves = [
            source.as_ref().map(|node| (node, from, to)),
            target.as_ref().filter(|_| exchange).map(|node| (node, to, from)),
        ];
        let table = self.arena.nodes();
        let intents = moves
            .each_ref()
            .map(|a_move| a_move.and_then(|(node, _, to)| table.begin_move(node.id(), to.0, to.1)));
        self.begin_attempt(caller, found);
        killpoint::pass(Point::RenameNoted);
        let renamed =
            backing::rename_at(from_dir.as_fd(), from_name, to_dir.as_fd(), to_name, flags);
        killpoint::pass(Point::RenameDone);
        if renamed.is_ok() && !same {
            self.note_moved(moves);
        }
        killpoint::pass(Point::RenameMoved);
        intents.into_iter().for_each(|intent| table.end_move(intent));
        renamed?;
        if !exchange && !same {
            self.lost_name(target, to, None);
        }
        Ok(())
    }

    fn note_moved(&self, moves: [Option<Move>; 2]) {
        for (node, from, to) in moves.into_iter().flatten() {
            node.other_names.note(self.arena.nodes().place(node.slot), to);
            self.move_node(node, to.0, to.1);
            node.other_names.remove(from);
            self.note_changed(node, Unsynced::Attributes);
            self.treat_moved(node);
        }
    }

    /// As `display_path`, for a node that may not be known.
    pub fn path_of_id(&self, id: u64) -> String {
        self.node(id).map_or_else(|_| "an unknown file".to_owned(), |node| self.display_path(&node))
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
