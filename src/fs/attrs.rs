//! Attributes: what stat(2) shows while data is buffered, and the ways to change it; extended
//! attributes; statfs.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use crossbeam_channel::bounded;

use super::caller::Caller;
use super::data::{FileData, FileState};
use super::nodes::{Node, ROOT_ID};
use super::seen_attrs::{check_changeable, without_reserved};
use super::shared::Change as Changed;
use super::stable::Unsynced;
use super::virtual_files::is_virtual;
use super::{Filesystem, Reply};
use crate::backing::{self, Attr, FsStats, SetTime, Time, errno};
use crate::drain::is_of_connection;

/// Longest list of names: the kernel's own bound.
const XATTR_LIST_MAX: usize = 64 << 10;
/// Where they are kept.
pub const CAPABILITIES: &str = "security.capability";
const ACCESS_ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";

fn is_acl(name: &OsStr) -> bool {
    name == ACCESS_ACL || name == DEFAULT_ACL
}

/// Attributes of a node as programs are to see them.
#[derive(Clone, Copy, Debug)]
pub struct NodeAttr {
    /// Node id.
    pub id: u64,
    /// The inode number to show.
    pub ino: u64,
    /// The rest.
    pub attr: Attr,
    /// For how long.
    pub lasts: Lasts,
}

/// How long attributes stay as they were told, if nobody asks to change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// For ever.
    Settled,
    /// The file is open or has bytes to be stored, so that blocks are to come: the longer, the more
    /// such files there are.
    Moving {
        /// So long.
        seconds: u8,
    },
    /// The same, and a program that writes the file is to ask again after the longest pass of the gate.
    Passing,
    /// The same, and a program is to ask again before it writes the file.
    Once,
}

impl Lasts {
    /// Of what moves, the shortest: also where set-id bits may go, and where other nodes change files.
    pub const SOON: Lasts = Lasts::Moving { seconds: 1 };

    /// Of a file that is one of so many that are open and have bytes to be stored. The kernel asks
    /// before a write(2) when the time is over, so that a thousand programs would ask as often in a
    /// second; all that may be old by then is the number of blocks.
    fn of_one_among(streams: usize) -> Lasts {
        /// So many ask in a second, about.
        const ASKING: usize = 100;
        const SECONDS_MAX: usize = 30;
        Lasts::Moving { seconds: (streams / ASKING).clamp(1, SECONDS_MAX) as u8 }
    }
}

/// As getxattr(2) gives a value: its length, and the value where `buf` has room. `ERANGE` when it
/// has some and not enough.
fn copy_value(value: &[u8], buf: &mut [u8]) -> io::Result<usize> {
    match (buf.len(), buf.get_mut(..value.len())) {
        (_, Some(to)) => to.copy_from_slice(value),
        (0, None) => {}
        (_, None) => return Err(super::errno(libc::ERANGE)),
    }
    Ok(value.len())
}

/// Attributes that somebody asked for.
#[derive(Clone, Copy, Debug)]
pub struct Looked(pub NodeAttr);

/// The extended attribute with a file's capabilities, and its length, as [`Filesystem::get_xattr`]
/// gives them. The kernel asks for it before a write, each time that it has looked at the file's
/// attributes again (`file_remove_privs` of the kernel).
pub struct Capabilities(pub Vec<u8>, pub usize);

/// What SETATTR is to change; `None` leaves it.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: SetTime,
    /// Time of last modification.
    pub mtime: SetTime,
}

/// How many blocks of 512 bytes the backing file will have more when `backlog_bytes`, the last of
/// them before `end`, are stored. Bytes within a file without holes replace others; in one with
/// holes they are taken to fill these.
fn blocks_to_come(attr: &Attr, backlog_bytes: u64, end: u64) -> u64 {
    let unit = u64::from(attr.blksize.max(512));
    let whole = |bytes: u64| bytes.div_ceil(unit) * (unit / 512);
    let room = if attr.blocks * 512 >= attr.size {
        whole(end).saturating_sub(whole(attr.size))
    } else {
        whole(end.max(attr.size)).saturating_sub(attr.blocks)
    };
    whole(backlog_bytes).min(room)
}

/// Sets the times of a file that may be another user's, which this process may only write. The
/// kernel sends the moment at which a program wrote, cut or touched it, which only the owner may
/// set; that of the backing filesystem's own clock is as good. `EPERM`, or
/// `EOVERFLOW` when nobody could be its owner here, for any other time.
pub(super) fn set_times(fd: BorrowedFd, atime: SetTime, mtime: SetTime) -> io::Result<()> {
    /// What the kernel's page cache holds is handed over within half a minute, or a few when many
    /// wait for a slow disk.
    const MOMENT_SECS: i64 = 3600;
    let set = backing::set_times(fd, atime, mtime);
    let is_of_now = match mtime {
        SetTime::At(time) => (0..MOMENT_SECS).contains(&(crate::clock::realtime().0 - time.secs)),
        SetTime::Now | SetTime::Omit => true,
    };
    let is_denied = |error| matches!(errno(error), libc::EPERM | libc::EOVERFLOW) && is_of_now;
    match (set, atime) {
        (Err(error), SetTime::Now) if is_denied(&error) => {
            backing::set_times(fd, SetTime::Now, SetTime::Now)
        }
        // Writing or cutting it has moved the time.
        (Err(error), SetTime::Omit) if is_denied(&error) => Ok(()),
        (set, _) => set,
    }
}

/// What became of times that were to be set.
enum Timed {
    /// Nothing was changed below.
    Noted,
    Set,
}

impl Change {
    fn is_of_times_only(&self) -> bool {
        self.size.is_none() && self.mode.is_none() && self.uid.is_none() && self.gid.is_none()
    }
}

impl Filesystem {
    /// GETATTR.
    pub fn getattr(&self, id: u64) -> io::Result<NodeAttr> {
        if is_virtual(id) {
            return Ok(self.virtual_attr(id));
        }
        let node = self.node(id)?;
        let attr = self.backing_attr(&node)?;
        Ok(self.overlaid(&node, &attr))
    }

    /// Lays what is buffered over the backing file's attributes: the size it will have, the time
    /// the program wrote, and blocks that count the backlog.
    pub(super) fn overlaid(&self, node: &Node, attr: &Attr) -> NodeAttr {
        self.overlaid_in(node, attr, node.data_if_any().map(|data| data.lock()).as_deref())
    }

    /// What GETATTR would answer if the backing filesystem said what it said last. Does not wait.
    pub(super) fn remembered_attr(&self, id: u64) -> Option<NodeAttr> {
        let node = self.node(id).ok()?;
        let attr = node.seen()?;
        let state = match node.data_if_any() {
            Some(data) => Some(data.lock_soon()?),
            None => None,
        };
        let known = self.overlaid_in(&node, &attr, state.as_deref());
        // It is to be asked again soon.
        let lasts = if known.lasts == Lasts::Settled { Lasts::SOON } else { known.lasts };
        Some(NodeAttr { lasts, ..known })
    }

    fn overlaid_in(&self, node: &Node, attr: &Attr, state: Option<&FileState>) -> NodeAttr {
        let mut attr = *attr;
        let mut lasts = if self.is_shared() { Lasts::SOON } else { Lasts::Settled };
        if let Some(state) = state {
            let backlog_bytes = state.buffer.dirty_bytes() + state.buffer.in_flight_bytes();
            let ahead_blocks = state.reserved.bytes_past(attr.size) / 512;
            attr.blocks = attr.blocks.saturating_sub(ahead_blocks);
            attr.blocks += blocks_to_come(&attr, backlog_bytes, state.buffer.end());
            attr.size = attr.size.max(state.end());
            if backlog_bytes > 0 || self.arena.nodes().open(node.slot) > 0 {
                lasts = match self.has_writers_ask(node) {
                    true => Lasts::Once,
                    false => self.moving(node, attr.mode),
                };
            }
            if let Some((secs, nanos)) = self.arena.nodes().mtime(node.slot) {
                attr.mtime = Time { secs, nanos };
            }
        }
        NodeAttr { id: node.id(), ino: self.nodes.ino_of(node), attr, lasts }
    }

    /// Of a file that is open or has bytes to be stored, if programs need not ask before they write
    /// to it.
    fn moving(&self, node: &Node, mode: u32) -> Lasts {
        match node.data_if_any() {
            Some(data) if !self.is_shared() && mode & (libc::S_ISUID | libc::S_ISGID) == 0 => {
                Lasts::of_one_among(data.queue.open_streams())
            }
            _ => Lasts::SOON,
        }
    }

    /// The same, of attributes that a program is told before it writes.
    pub(super) fn lasts_while_free(&self, told: &NodeAttr) -> Lasts {
        self.node(told.id).map_or(Lasts::SOON, |node| self.moving(&node, told.attr.mode))
    }

    /// SETATTR on behalf of `caller`. The reply waits when a truncation meets bytes that are on their way to the disk.
    pub fn setattr(&self, caller: Caller, id: u64, change: Change, reply: Reply<NodeAttr>) {
        let cut_already = change.size.map(|size| self.is_cut_already(&*self.node(id)?, size));
        match cut_already.transpose() {
            Ok(Some(true)) => return reply(self.getattr(id)),
            Ok(_) => {}
            Err(error) => return reply(Err(error)),
        }
        let node = match self.node(id).and_then(|node| {
            self.change_owner_and_mode(&node, &change)?;
            if change.size.is_some() {
                self.kill_privileges_unless_kept(caller, id)?;
            }
            Ok(node)
        }) {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        let me = self.arc();
        let changed = node.clone();
        let rest = move |resized: io::Result<()>| {
            let finish = || {
                resized?;
                match me.change_times(&changed, &change)? {
                    Timed::Noted if change.is_of_times_only() && me.may_hang() => me
                        .remembered_attr(changed.id())
                        .map_or_else(|| me.getattr(changed.id()), Ok),
                    Timed::Noted | Timed::Set => me.getattr(changed.id()),
                }
            };
            reply(finish());
        };
        match change.size {
            Some(size) => self.set_size(caller, &node, size, Box::new(rest)),
            None => rest(Ok(())),
        }
    }

    fn change_owner_and_mode(&self, node: &Arc<Node>, change: &Change) -> io::Result<()> {
        if change.mode.is_none() && change.uid.is_none() && change.gid.is_none() {
            return Ok(());
        }
        let path = self.path_fd(node)?;
        if change.uid.is_some() || change.gid.is_some() {
            backing::set_owner(path.as_fd(), change.uid, change.gid)?;
        }
        if let Some(mode) = change.mode {
            backing::set_mode(path.as_fd(), mode & 0o7777)?;
        }
        self.note_changed(node, Unsynced::Attributes);
        Ok(())
    }

    /// A modification time given while bytes are buffered is noted, and set on the backing file
    /// once they are stored: storing them moves it on. Then an engine is not asked: the kernel sends
    /// times before it writes other files back, and all who write wait for that.
    fn change_times(&self, node: &Arc<Node>, change: &Change) -> io::Result<Timed> {
        let table = self.arena.nodes();
        let mut mtime = change.mtime;
        let mut state = node.data_if_any().map(|data| data.lock());
        let is_moving = |state: &MutexGuard<FileState>| {
            // Of a file without names only the kernel shows it, which sends one with each removal.
            !state.buffer.is_clean() || state.reserved.is_allocating || state.deleted
        };
        let buffered = state.as_ref().is_some_and(is_moving);
        if buffered {
            match mtime {
                SetTime::At(time) => table.set_mtime(node.slot, Some((time.secs, time.nanos))),
                SetTime::Now => table.set_mtime(node.slot, Some(crate::clock::realtime())),
                SetTime::Omit => {}
            }
            mtime = SetTime::Omit;
        } else if mtime != SetTime::Omit {
            table.set_mtime(node.slot, None);
        }
        if change.atime == SetTime::Omit && mtime == SetTime::Omit {
            return Ok(Timed::Noted);
        }
        node.note_seen(None);
        self.changing(node, Changed::Times, || match self.files.get(node.id()) {
            Some(file) => set_times((*file).as_fd(), change.atime, mtime),
            None => set_times(self.path_fd(node)?.as_fd(), change.atime, mtime),
        })?;
        if let Some(state) = &mut state {
            state.stability.note(Unsynced::Attributes);
        }
        Ok(Timed::Set)
    }

    /// A write or truncation by somebody who may not keep the set-user-id and set-group-id bits:
    /// they go as setattr_should_drop_suidgid of the kernel has it. Returns whether any was there.
    pub fn kill_privileges(&self, caller: Caller, id: u64) -> io::Result<bool> {
        let node = self.node(id)?;
        let attr = self.backing_attr(&node)?;
        let mut kept = attr.mode & !libc::S_ISUID;
        let has_group_bit = attr.mode & libc::S_ISGID != 0;
        if has_group_bit && (attr.mode & libc::S_IXGRP != 0 || !caller.is_in_group(attr.gid)) {
            kept &= !libc::S_ISGID;
        }
        if kept != attr.mode {
            backing::set_mode(self.path_fd(&node)?.as_fd(), kept & 0o7777)?;
            self.note_changed(&node, Unsynced::Attributes);
        }
        Ok(kept != attr.mode)
    }

    /// As [`Filesystem::kill_privileges`], for operations of which the kernel does not say that the
    /// caller may not keep them.
    pub fn kill_privileges_unless_kept(&self, caller: Caller, id: u64) -> io::Result<bool> {
        // The look at the mode comes first: hardly any file has such bits.
        let mode = self.backing_attr(&self.node(id)?)?.mode;
        if mode & (libc::S_ISUID | libc::S_ISGID) == 0 || caller.keeps_set_ids() {
            return Ok(false);
        }
        self.kill_privileges(caller, id)
    }

    /// The file was just made, and nobody has given it capabilities; or it was asked.
    pub(super) fn note_without_capabilities(&self, node: &Node) {
        if let Some(data) = node.data_if_any() {
            data.without_capabilities.store(true, Ordering::Release);
        }
    }

    /// The kernel asks before the first write to each file. Other nodes may set what this one does not
    /// know of.
    fn has_no_capabilities(&self, node: &Node) -> bool {
        let is_known = |data: &FileData| data.without_capabilities.load(Ordering::Acquire);
        !self.is_shared() && node.data_if_any().is_some_and(is_known)
    }

    /// File capabilities do not outlive a change of the file, whoever makes it (capabilities(7)).
    /// Looked at once per file: only `set_xattr` can bring them back. Of an engine's files they go when
    /// the first byte is stored: writes are not to wait for it.
    pub(super) fn kill_capabilities(&self, node: &Arc<Node>) {
        let Some(data) = node.data_if_any() else { return };
        let is_elsewhere = self.may_hang() && data.queue.is_elsewhere();
        if is_elsewhere || data.without_capabilities.swap(true, Ordering::AcqRel) {
            return;
        }
        let remove = || {
            let path = self.path_fd(node)?;
            let name = OsStr::new(CAPABILITIES);
            // Asked first: an ordinary user may not even try to remove what is not there.
            backing::get_xattr(path.as_fd(), name, &mut [])?;
            backing::remove_xattr(path.as_fd(), name)
        };
        match remove() {
            Err(error) if !matches!(errno(&error), libc::ENODATA | libc::EOPNOTSUPP) => {
                // They go when the first byte is stored: the backing filesystem sees to it.
                log::debug!("capabilities of {}: {error}", self.display_path(node));
            }
            _ => {}
        }
    }

    /// STATFS of the backing filesystem that the node is on; what is held for bytes to come counts
    /// as free.
    pub fn statfs(&self, id: u64) -> io::Result<FsStats> {
        let node = self.node(if is_virtual(id) { ROOT_ID } else { id })?;
        let mut stats = backing::fs_stats(self.path_fd(&node)?.as_fd())?;
        let devices = self.devices.read().expect("no panics under this lock");
        if let Some((_, device)) = devices.iter().find(|(dev, _)| *dev == node.identity.dev) {
            let blocks = device.space.unused_bytes() / u64::from(stats.frsize.max(1));
            stats.bfree = (stats.bfree + blocks).min(stats.blocks);
            stats.bavail = (stats.bavail + blocks).min(stats.bfree);
        }
        Ok(stats)
    }

    /// Whether the backing directory's filesystem has POSIX ACLs. Waits for it for some seconds; one
    /// that does not answer has none.
    pub fn has_acls(&self) -> bool {
        const LIMIT: Duration = Duration::from_secs(5);
        if let Some(has_acls) = self.config.abilities.has_acls {
            return has_acls;
        }
        if !self.may_hang() {
            return self.ask_for_acls();
        }
        let (me, (tell, told)) = (self.arc(), bounded(1));
        self.pool.run(move || {
            // Nobody listens after the limit.
            let _ = tell.send(me.ask_for_acls());
        });
        told.recv_timeout(LIMIT).unwrap_or(false)
    }

    fn ask_for_acls(&self) -> bool {
        let mut none = [];
        match backing::get_xattr(self.root(), OsStr::new(ACCESS_ACL), &mut none) {
            Ok(_) => true,
            Err(error) => errno(&error) == libc::ENODATA,
        }
    }

    /// GETXATTR of a file's capabilities. That an engine's file has none is remembered, so that writes
    /// need not wait while it cannot be asked.
    pub fn capabilities(&self, id: u64, value_bytes_max: usize) -> io::Result<Capabilities> {
        let mut value = vec![0; value_bytes_max];
        match self.get_xattr(id, OsStr::new(CAPABILITIES), &mut value) {
            Ok(len) => {
                value.truncate(len);
                Ok(Capabilities(value, len))
            }
            Err(error) => {
                if matches!(errno(&error), libc::ENODATA | libc::EOPNOTSUPP) {
                    self.note_of_engine_without_capabilities(id);
                }
                Err(error)
            }
        }
    }

    fn note_of_engine_without_capabilities(&self, id: u64) {
        let Ok(node) = self.node(id) else { return };
        if node.data_if_any().is_some_and(|data| data.queue.is_elsewhere()) {
            self.note_without_capabilities(&node);
        }
    }

    /// What is known of that without asking; `false` is not known. Capabilities that another node
    /// gave a file meanwhile are not seen: who runs it then does without them.
    pub(super) fn remembers_no_capabilities(&self, id: u64) -> bool {
        let Ok(node) = self.node(id) else { return false };
        node.data_if_any().is_some_and(|data| data.without_capabilities.load(Ordering::Acquire))
    }

    /// GETXATTR into `buf`; an empty one asks for the length. A file that cannot have an ACL has
    /// none: the kernel asks for it whenever it checks permissions, and takes any other error for
    /// their result.
    pub fn get_xattr(&self, id: u64, name: &OsStr, buf: &mut [u8]) -> io::Result<usize> {
        if is_virtual(id) {
            return Err(super::errno(libc::ENODATA));
        }
        if let Some(value) = self.seen_attribute(id, name) {
            return copy_value(&value?, buf);
        }
        let node = self.node(id)?;
        if name == CAPABILITIES && self.has_no_capabilities(&node) {
            return Err(super::errno(libc::ENODATA));
        }
        let got = backing::get_xattr(self.path_fd(&node)?.as_fd(), name, buf);
        match got {
            Err(error) if errno(&error) == libc::EOPNOTSUPP && is_acl(name) => {
                Err(super::errno(libc::ENODATA))
            }
            other => other,
        }
    }

    /// SETXATTR with the flags of setxattr(2), on behalf of `caller`: an access ACL set by somebody
    /// who is not of the file's group takes the set-group-id bit away, see posix_acl_update_mode of
    /// the kernel.
    pub fn set_xattr(
        &self,
        caller: Caller,
        id: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> io::Result<()> {
        check_changeable(name)?;
        let node = self.node(id)?;
        let path = self.path_fd(&node)?;
        if flags & libc::XATTR_CREATE == 0 || !self.was_xattr_changed(caller, &path, name)? {
            backing::set_xattr(path.as_fd(), name, value, flags)?;
        }
        if name == CAPABILITIES
            && let Some(data) = node.data_if_any()
        {
            data.without_capabilities.store(false, Ordering::Release);
        }
        if name == ACCESS_ACL {
            let attr = backing::attr(path.as_fd())?;
            let has_bit = attr.mode & libc::S_ISGID != 0;
            if has_bit && !caller.keeps_set_ids() && !caller.is_in_group(attr.gid) {
                backing::set_mode(path.as_fd(), attr.mode & 0o7777 & !libc::S_ISGID)?;
            }
        }
        self.note_changed(&node, Unsynced::Attributes);
        Ok(())
    }

    /// LISTXATTR: the names, each ended by NUL. Whether those that only CAP_SYS_ADMIN may read are
    /// shown to others is the backing filesystem's choice, see xattr(7).
    pub fn list_xattr(&self, caller: Caller, id: u64) -> io::Result<Vec<u8>> {
        if is_virtual(id) {
            return Ok(Vec::new());
        }
        let node = self.node(id)?;
        let path = self.path_fd(&node)?;
        let list = || {
            let mut names = vec![0; XATTR_LIST_MAX];
            let len = backing::list_xattr(path.as_fd(), &mut names)?;
            names.truncate(len);
            Ok(without_reserved(names))
        };
        let mut names = list()?;
        let mut each = names.split(|byte| *byte == 0);
        if each.any(|name| name.starts_with(b"trusted.")) && !caller.is_admin() {
            names = backing::without_admin(list)?;
        }
        self.list_seen(caller, &node, &mut names);
        Ok(names)
    }

    /// REMOVEXATTR.
    pub fn remove_xattr(&self, caller: Caller, id: u64, name: &OsStr) -> io::Result<()> {
        check_changeable(name)?;
        let node = self.node(id)?;
        let path = self.path_fd(&node)?;
        if self.was_xattr_changed(caller, &path, name)? {
            return Ok(());
        }
        backing::remove_xattr(path.as_fd(), name)?;
        self.note_changed(&node, Unsynced::Attributes);
        Ok(())
    }

    /// Whether the first attempt of a repeated request has made or removed the attribute; if not,
    /// notes whether it is there.
    fn was_xattr_changed(&self, caller: Caller, path: &OwnedFd, name: &OsStr) -> io::Result<bool> {
        let is_there = match backing::get_xattr(path.as_fd(), name, &mut []) {
            Err(error) if is_of_connection(errno(&error)) => return Err(error),
            found => found.is_ok(),
        };
        let mark = is_there.then_some((0, 0));
        if self.found_before(caller).is_some_and(|[found, _]| found != mark) {
            return Ok(true);
        }
        self.begin_attempt(caller, [mark, None]);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::attr;

    #[test]
    fn blocks_to_come_are_those_of_a_plain_copy() {
        let file = tempfile::tempfile().unwrap();
        let of = |size, blocks| Attr { size, blocks, blksize: 4096, ..attr(file.as_fd()).unwrap() };
        assert_eq!(blocks_to_come(&of(0, 0), 10, 10), 8, "a block for a few bytes");
        assert_eq!(blocks_to_come(&of(10, 8), 10, 20), 0, "in the last block");
        assert_eq!(blocks_to_come(&of(4096, 8), 8192, 12288), 16, "appended");
        assert_eq!(blocks_to_come(&of(8192, 16), 8192, 8192), 0, "overwritten");
        assert_eq!(blocks_to_come(&of(1 << 20, 0), 4096, 8192), 8, "into a hole");
        assert_eq!(blocks_to_come(&of(8192, 8), 8192, 8192), 8, "half a hole");
        assert_eq!(blocks_to_come(&of(0, 0), 10, 1 << 30), 8, "far behind the end");
    }
}
