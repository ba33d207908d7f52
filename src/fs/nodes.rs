//! Which backing file a node id is, and how to reach it.
//!
//! The node id is the inode number on the backing filesystem, so that programs see the numbers
//! they would see without us; the root is 1 as FUSE demands, and files of other filesystems below
//! the backing directory get ids with the highest bit set.
//!
//! A node is reached by the descriptor that pins it, else by parent and name. A node whose name
//! goes away while the kernel knows it is pinned first: the descriptor keeps the inode number from
//! being given to another file, and outlives the worker in the shared descriptor table.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::data::FileData;
use super::{Filesystem, errno};
use crate::arena::{Arena, Identity, NodeSlot};
use crate::backing::{self, Attr};
use crate::drain::{Access, DataFile, Need};

/// The root's node id in the FUSE protocol.
pub(super) const ROOT_ID: u64 = 1;
/// Ids of files on other devices than the root's.
const FOREIGN: u64 = 1 << 63;
/// Bits of a foreign id that hold the inode number.
const FOREIGN_INO_BITS: u32 = 48;

/// A file the kernel knows, or that still has bytes to be written.
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) slot: NodeSlot,
    pin: Mutex<Option<Arc<OwnedFd>>>,
    data: OnceLock<Box<FileData>>,
}

impl Node {
    pub(super) fn new(identity: Identity, slot: NodeSlot) -> Node {
        Node { identity, slot, pin: Mutex::default(), data: OnceLock::new() }
    }

    pub(super) fn id(&self) -> u64 {
        self.identity.id
    }

    pub(super) fn is_regular(&self) -> bool {
        self.identity.kind == libc::S_IFREG
    }

    /// The buffered bytes, if the file ever had any or was opened.
    pub(super) fn data_if_any(&self) -> Option<&FileData> {
        self.data.get().map(|data| &**data)
    }

    pub(super) fn pinned(&self) -> Option<Arc<OwnedFd>> {
        self.pin.lock().expect("no panics under this lock").clone()
    }

    fn is(&self, attr: &Attr) -> bool {
        self.identity.dev == attr.dev
            && self.identity.ino == attr.ino
            && self.identity.kind == attr.mode & libc::S_IFMT
    }
}

type Map = HashMap<u64, Arc<Node>>;

/// All nodes.
pub(super) struct Nodes {
    arena: Arena,
    root_dev: u64,
    map: RwLock<Map>,
    free: Mutex<Vec<NodeSlot>>,
    foreign_devs: Mutex<Vec<u64>>,
}

impl Nodes {
    pub(super) fn new(arena: Arena, root: RawFd) -> io::Result<Nodes> {
        // SAFETY: the keeper's descriptor, open as long as the process.
        let attr = backing::attr(unsafe { BorrowedFd::borrow_raw(root) })?;
        Ok(Nodes {
            arena,
            root_dev: attr.dev,
            map: RwLock::default(),
            free: Mutex::default(),
            foreign_devs: Mutex::default(),
        })
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().expect("no panics under this lock")
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().expect("no panics under this lock")
    }

    /// The node id of a backing file; the root is known by its id alone.
    pub(super) fn id_of(&self, attr: &Attr) -> u64 {
        if attr.dev == self.root_dev && attr.ino > ROOT_ID && attr.ino < FOREIGN {
            return attr.ino;
        }
        let mut devs = self.foreign_devs.lock().expect("no panics under this lock");
        let index = devs.iter().position(|dev| *dev == attr.dev).unwrap_or_else(|| {
            devs.push(attr.dev);
            devs.len() - 1
        });
        let ino_mask = (1 << FOREIGN_INO_BITS) - 1;
        FOREIGN | (index as u64) << FOREIGN_INO_BITS | (attr.ino & ino_mask)
    }

    /// Takes over a node of a former worker.
    pub(super) fn adopt(&self, identity: Identity, slot: NodeSlot) -> Arc<Node> {
        if identity.id & FOREIGN != 0 {
            let index = ((identity.id & !FOREIGN) >> FOREIGN_INO_BITS) as usize;
            let mut devs = self.foreign_devs.lock().expect("no panics under this lock");
            if devs.len() <= index {
                devs.resize(index + 1, 0);
            }
            devs[index] = identity.dev;
        }
        let node = Arc::new(Node::new(identity, slot));
        self.write().insert(identity.id, node.clone());
        node
    }

    pub(super) fn adopt_free(&self, slot: NodeSlot) {
        self.free.lock().expect("no panics under this lock").push(slot);
    }

    fn take_slot(&self) -> io::Result<NodeSlot> {
        let free = self.free.lock().expect("no panics under this lock").pop();
        // Serialised by the map's lock, which every caller holds.
        free.map_or_else(|| self.arena.nodes().extend(), Ok)
    }

    fn release_slot(&self, slot: NodeSlot) {
        self.arena.nodes().clear(slot);
        self.adopt_free(slot);
    }
}

impl Filesystem {
    /// The node of an id the kernel gave us. `ESTALE` when it is not known.
    pub(super) fn node(&self, id: u64) -> io::Result<Arc<Node>> {
        self.nodes.read().get(&id).cloned().ok_or_else(|| errno(libc::ESTALE))
    }

    /// The node of a backing file, if it is known.
    pub(super) fn known(&self, attr: &Attr) -> Option<Arc<Node>> {
        let id = self.nodes.id_of(attr);
        self.nodes.read().get(&id).filter(|node| node.is(attr)).cloned()
    }

    /// Makes the root known, for as long as the mount lives.
    pub(super) fn remember_root(&self) -> io::Result<()> {
        if self.nodes.read().contains_key(&ROOT_ID) {
            return Ok(());
        }
        let attr = backing::attr(self.root())?;
        let mut map = self.nodes.write();
        self.insert(&mut map, ROOT_ID, 0, &attr, ROOT_ID, OsStr::new(""))?;
        Ok(())
    }

    /// The node for a backing file found under `parent` and `name`, counted as looked up once.
    pub(super) fn remember(&self, attr: &Attr, parent: u64, name: &OsStr) -> io::Result<Arc<Node>> {
        let id = self.nodes.id_of(attr);
        let table = self.arena.nodes();
        let mut map = self.nodes.write();
        let node = match map.get(&id) {
            Some(node) if node.is(attr) => {
                table.set_place(node.slot, parent, name);
                node.clone()
            }
            Some(stale) => {
                // Another file has the number now: a new generation tells the kernel.
                let (slot, lookups) = (stale.slot, table.lookups(stale.slot));
                let generation = stale.identity.generation + 1;
                self.forget_descriptors(id);
                self.nodes.release_slot(slot);
                let node = self.insert(&mut map, id, generation, attr, parent, name)?;
                table.add_lookups(node.slot, lookups);
                node
            }
            None => self.insert(&mut map, id, 0, attr, parent, name)?,
        };
        table.add_lookups(node.slot, 1);
        Ok(node)
    }

    fn insert(
        &self,
        map: &mut Map,
        id: u64,
        generation: u32,
        attr: &Attr,
        parent: u64,
        name: &OsStr,
    ) -> io::Result<Arc<Node>> {
        let kind = attr.mode & libc::S_IFMT;
        let identity = Identity { id, generation, dev: attr.dev, ino: attr.ino, kind };
        let slot = self.nodes.take_slot()?;
        self.arena.nodes().fill(slot, &identity, parent, name);
        let node = Arc::new(Node::new(identity, slot));
        map.insert(id, node.clone());
        Ok(node)
    }

    /// FORGET: the kernel gives `count` lookups back.
    pub fn forget(&self, id: u64, count: u64) {
        let Some(node) = self.nodes.read().get(&id).cloned() else { return };
        if self.arena.nodes().sub_lookups(node.slot, count) == 0 {
            self.drop_if_unused(&node);
        }
    }

    /// Lets go of a node that the kernel does not know any more and that holds nothing.
    pub(super) fn drop_if_unused(&self, node: &Arc<Node>) {
        // Looked at before the map is locked: a file's lock comes first. It stays true, since only
        // the kernel could add bytes, and it would have to look the node up first.
        if node.id() == ROOT_ID || node.data_if_any().is_some_and(|data| !data.lock().is_settled())
        {
            return;
        }
        let table = self.arena.nodes();
        let mut map = self.nodes.write();
        let is_current = map.get(&node.id()).is_some_and(|known| Arc::ptr_eq(known, node));
        if !is_current || table.lookups(node.slot) > 0 || table.open(node.slot) > 0 {
            return;
        }
        map.remove(&node.id());
        self.nodes.release_slot(node.slot);
        drop(map);
        self.forget_descriptors(node.id());
    }

    fn forget_descriptors(&self, id: u64) {
        self.paths.remove(id);
        self.files.remove(id);
    }

    /// Keeps the node reachable while its name goes away. To be called before the name does.
    pub(super) fn pin(&self, node: &Node, dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
        let mut pin = node.pin.lock().expect("no panics under this lock");
        if pin.is_some() {
            return Ok(());
        }
        let fd = backing::open_path_at(dir, name)?;
        if !node.is(&backing::attr(fd.as_fd())?) {
            return Err(errno(libc::ESTALE));
        }
        self.arena.nodes().set_kept_fd(node.slot, Some(fd.as_raw_fd()));
        *pin = Some(Arc::new(fd));
        Ok(())
    }

    /// Takes over a pin of a former worker.
    pub(super) fn adopt_pin(&self, node: &Node, fd: OwnedFd) {
        *node.pin.lock().expect("no panics under this lock") = Some(Arc::new(fd));
    }

    /// An O_PATH descriptor of the node. May wait for the disk to look
    /// up names. `ESTALE` when the file is not where it was.
    pub(super) fn path_fd(&self, node: &Arc<Node>) -> io::Result<Arc<OwnedFd>> {
        // Ancestors are opened from the nearest one that is at hand, in a loop: paths may be
        // longer than a stack allows.
        let mut missing = vec![node.clone()];
        let mut dir = loop {
            let next = missing.last().expect("starts with one");
            if let Some(fd) = self.path_fd_at_hand(next)? {
                missing.pop();
                break fd;
            }
            let (parent, _) = self.arena.nodes().place(next.slot);
            let parent = self.node(parent)?;
            missing.push(parent);
        };
        while let Some(node) = missing.pop() {
            let (_, name) = self.arena.nodes().place(node.slot);
            let fd = backing::open_path_at(dir.as_fd(), &name)?;
            if !node.is(&backing::attr(fd.as_fd())?) {
                return Err(errno(libc::ESTALE));
            }
            dir = self.paths.insert(node.id(), fd);
        }
        Ok(dir)
    }

    fn path_fd_at_hand(&self, node: &Node) -> io::Result<Option<Arc<OwnedFd>>> {
        if let Some(fd) = node.pinned().or_else(|| self.paths.get(node.id())) {
            return Ok(Some(fd));
        }
        if node.id() == ROOT_ID {
            let root = self.root().try_clone_to_owned()?;
            return Ok(Some(self.paths.insert(ROOT_ID, root)));
        }
        Ok(None)
    }

    /// The node's attributes as the backing filesystem has them.
    pub(super) fn backing_attr(&self, node: &Arc<Node>) -> io::Result<Attr> {
        if let Some(file) = self.files.get(node.id()) {
            return backing::attr((*file).as_fd());
        }
        if let Some(fd) = self.path_fd_at_hand(node)? {
            return backing::attr(fd.as_fd());
        }
        let (parent, name) = self.arena.nodes().place(node.slot);
        let dir = self.path_fd(&self.node(parent)?)?;
        let attr = backing::attr_at(dir.as_fd(), &name)?;
        if node.is(&attr) { Ok(attr) } else { Err(errno(libc::ESTALE)) }
    }

    /// The descriptors for a regular file's bytes, for reading at least. May wait for the disk.
    pub(super) fn data_file(&self, node: &Arc<Node>) -> io::Result<Arc<DataFile>> {
        if let Some(file) = self.files.get(node.id()) {
            return Ok(file);
        }
        let path = self.path_fd(node)?;
        Ok(self.files.insert(node.id(), DataFile::open(path.as_fd(), Need::Read)?))
    }

    /// As [`Filesystem::data_file`], for writing. `EACCES`, `EROFS` or `ETXTBSY` when the file
    /// cannot be written.
    pub(super) fn writable_file(&self, node: &Arc<Node>) -> io::Result<Arc<DataFile>> {
        let file = self.data_file(node)?;
        if file.access() != Access::ReadOnly {
            return Ok(file);
        }
        let path = self.path_fd(node)?;
        let file = DataFile::open(path.as_fd(), Need::Write)?;
        if file.access() == Access::ReadOnly {
            backing::reopen(path.as_fd(), libc::O_WRONLY)?;
            return Err(errno(libc::EACCES));
        }
        self.files.remove(node.id());
        Ok(self.files.insert(node.id(), file))
    }

    /// The buffered bytes of a regular file. `EINVAL` for other files.
    pub(super) fn data<'a>(&self, node: &'a Node) -> io::Result<&'a FileData> {
        if let Some(data) = node.data_if_any() {
            return Ok(data);
        }
        if !node.is_regular() {
            return Err(errno(libc::EINVAL));
        }
        let queue = self.queue(node.identity.dev)?;
        Ok(node.data.get_or_init(|| Box::new(FileData::new(self.geometry, queue))))
    }
}
