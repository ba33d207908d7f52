//! Attributes: what stat(2) shows while data is buffered, and the ways to change it; extended
//! attributes; statfs.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::nodes::Node;
use super::{Filesystem, Reply};
use crate::backing::{self, Attr, FsStats, SetTime, Time};

/// Attributes of a node as programs are to see them.
#[derive(Clone, Copy, Debug)]
pub struct NodeAttr {
    /// Node id; also the inode number shown.
    pub id: u64,
    /// The rest.
    pub attr: Attr,
}

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

impl Filesystem {
    /// GETATTR.
    pub fn getattr(&self, id: u64) -> io::Result<NodeAttr> {
        let node = self.node(id)?;
        let attr = self.backing_attr(&node)?;
        Ok(self.overlaid(&node, &attr))
    }

    /// Lays what is buffered over the backing file's attributes: the size it will have, the time
    /// the program wrote, and blocks that count the backlog.
    pub(super) fn overlaid(&self, node: &Node, attr: &Attr) -> NodeAttr {
        let mut attr = *attr;
        if let Some(data) = node.data_if_any() {
            let state = data.lock();
            attr.size = attr.size.max(state.end());
            let backlog_bytes = state.buffer.dirty_bytes() + state.buffer.in_flight_bytes();
            attr.blocks += backlog_bytes.div_ceil(512);
            if let Some((secs, nanos)) = self.arena.nodes().mtime(node.slot) {
                attr.mtime = Time { secs, nanos };
            }
        }
        NodeAttr { id: node.id(), attr }
    }

    /// SETATTR. The reply waits when a truncation meets bytes that are on their way to the disk.
    pub fn setattr(&self, id: u64, change: Change, reply: Reply<NodeAttr>) {
        let node = match self.node(id).and_then(|node| {
            self.change_owner_and_mode(&node, &change)?;
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
                me.change_times(&changed, &change)?;
                me.getattr(changed.id())
            };
            reply(finish());
        };
        match change.size {
            Some(size) => self.set_size(&node, size, Box::new(rest)),
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
        Ok(())
    }

    /// A modification time given while bytes are buffered is noted, and set on the backing file
    /// once they are stored: storing them moves it on.
    fn change_times(&self, node: &Arc<Node>, change: &Change) -> io::Result<()> {
        let table = self.arena.nodes();
        let mut mtime = change.mtime;
        let state = node.data_if_any().map(|data| data.lock());
        let buffered = state.as_ref().is_some_and(|state| !state.buffer.is_clean());
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
            return Ok(());
        }
        match self.files.get(node.id()) {
            Some(file) => backing::set_times((*file).as_fd(), change.atime, mtime),
            None => backing::set_times(self.path_fd(node)?.as_fd(), change.atime, mtime),
        }
    }

    /// A write by somebody who may not keep the set-user-id and set-group-id bits.
    pub fn kill_privileges(&self, id: u64) -> io::Result<()> {
        let node = self.node(id)?;
        let mode = self.backing_attr(&node)?.mode;
        let mut kept = mode & !libc::S_ISUID;
        if mode & libc::S_IXGRP != 0 {
            kept &= !libc::S_ISGID;
        }
        if kept != mode {
            backing::set_mode(self.path_fd(&node)?.as_fd(), kept & 0o7777)?;
        }
        Ok(())
    }

    /// STATFS of the backing filesystem.
    pub fn statfs(&self) -> io::Result<FsStats> {
        backing::fs_stats(self.root())
    }

    /// GETXATTR into `buf`; an empty one asks for the length.
    pub fn get_xattr(&self, id: u64, name: &OsStr, buf: &mut [u8]) -> io::Result<usize> {
        backing::get_xattr(self.path_fd(&self.node(id)?)?.as_fd(), name, buf)
    }

    /// SETXATTR with the flags of setxattr(2).
    pub fn set_xattr(&self, id: u64, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
        backing::set_xattr(self.path_fd(&self.node(id)?)?.as_fd(), name, value, flags)
    }

    /// LISTXATTR into `buf`; an empty one asks for the length.
    pub fn list_xattr(&self, id: u64, buf: &mut [u8]) -> io::Result<usize> {
        backing::list_xattr(self.path_fd(&self.node(id)?)?.as_fd(), buf)
    }

    /// REMOVEXATTR.
    pub fn remove_xattr(&self, id: u64, name: &OsStr) -> io::Result<()> {
        backing::remove_xattr(self.path_fd(&self.node(id)?)?.as_fd(), name)
    }
}
