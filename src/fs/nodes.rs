//! Which backing file a node id is, and how to reach it.
//!
//! The node id is the inode number on the backing filesystem, so that programs see the numbers
//! they would see without us; the root is 1 as FUSE demands, and files of other filesystems below
//! the backing directory get ids with the highest bit set: an index of the device and the inode
//! number there, or, for numbers that leave no room for it, a number of our own.
//!
//! A node is reached by the descriptor that pins it, else by parent and name. A node whose name
//! goes away while the kernel knows it is pinned first: the descriptor keeps the inode number from
//! being given to another file, and outlives the worker in the shared descriptor table.
//!
//! The kernel may forget a file that still has bytes to be stored, and the directories above it: a
//! node is kept as long as it is the parent of another.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::data::FileData;
use super::foreign::{FOREIGN, Foreign};
use super::look_anew::OtherNames;
use super::numbers::{Number, Numbers};
use super::reopen::may_be_of_descriptor;
use super::shared::Watch;
use super::virtual_files::is_virtual;
use super::{Filesystem, errno};
use crate::arena::{Arena, Identity, Mark, NodeSlot};
use crate::backing::{self, Attr};
use crate::drain::{Access, DataFile, Need};

/// The root's node id in the FUSE protocol.
pub(super) const ROOT_ID: u64 = 1;

/// A file the kernel knows, or that still has bytes to be written.
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) slot: NodeSlot,
    /// Nodes that are reached by way of this one. Changed under the map's lock.
    children: AtomicU32,
    pin: Mutex<Option<Arc<OwnedFd>>>,
    /// What the backing filesystem said last, if nothing was changed since: for the time in which it
    /// says nothing.
    seen: Mutex<Option<Attr>>,
    pub(super) watch: Mutex<Watch>,
    data: OnceLock<Box<FileData>>,
    pub(super) other_names: OtherNames,
}

impl Node {
    pub(super) fn new(identity: Identity, slot: NodeSlot) -> Node {
        Node {
            identity,
            slot,
            children: AtomicU32::new(0),
            pin: Mutex::default(),
            seen: Mutex::default(),
            watch: Mutex::default(),
            data: OnceLock::new(),
            other_names: OtherNames::default(),
        }
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

    pub(super) fn seen(&self) -> Option<Attr> {
        *self.seen.lock().expect("no panics under this lock")
    }

    pub(super) fn note_seen(&self, attr: Option<Attr>) {
        *self.seen.lock().expect("no panics under this lock") = attr;
    }

    /// Device and inode number, as it was met: see `numbers`.
    fn number(&self) -> Number {
        (self.identity.dev, self.identity.ino)
    }

    /// Whether it is what has these attributes, which have the number that it was met with.
    fn is(&self, attr: &Attr) -> bool {
        self.identity.dev == attr.dev
            && self.identity.ino == attr.ino
            && self.identity.kind == attr.mode & libc::S_IFMT
    }
}

type Map = HashMap<u64, Arc<Node>>;

fn gain_child(map: &Map, parent: u64) {
    if let Some(parent) = map.get(&parent) {
        parent.children.fetch_add(1, Ordering::Relaxed);
    }
}

fn lose_child(map: &Map, parent: u64) {
    if let Some(parent) = map.get(&parent) {
        let before = parent.children.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "node {} had no child to lose", parent.id());
    }
}

/// All nodes.
pub(super) struct Nodes {
    arena: Arena,
    root_dev: u64,
    map: RwLock<Map>,
    free: Mutex<Vec<NodeSlot>>,
    foreign: Mutex<Foreign>,
    pub(super) numbers: Numbers,
}

impl Nodes {
    /// `of_names`: see [`Numbers::new`].
    pub(super) fn new(arena: Arena, root: RawFd, of_names: bool) -> io::Result<Nodes> {
        let table = arena.nodes();
        let identities = (0..table.high_water()).filter_map(|slot| table.identity(NodeSlot(slot)));
        let known_root = identities.into_iter().find(|identity| identity.id == ROOT_ID);
        // SAFETY: the keeper's descriptor, open as long as the process.
        let root = unsafe { BorrowedFd::borrow_raw(root) };
        let numbers = Numbers::new(of_names);
        // A worker that comes after another one does without: a network may be down.
        let root_dev = match known_root {
            Some(identity) => {
                let now = backing::cached_attr(root).map_or(identity.dev, |attr| attr.dev);
                if now != identity.dev && !of_names {
                    numbers.device_became(identity.dev, now);
                }
                identity.dev
            }
            None => backing::attr(root)?.dev,
        };
        Ok(Nodes {
            arena,
            root_dev,
            map: RwLock::default(),
            free: Mutex::default(),
            foreign: Mutex::default(),
            numbers,
        })
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().expect("no panics under this lock")
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().expect("no panics under this lock")
    }

    /// The node id of a backing file; the root is known by its id alone.
    pub(super) fn id_of(&self, dev: u64, ino: u64) -> u64 {
        if self.is_own_id(dev, ino) {
            return ino;
        }
        self.foreign.lock().expect("no panics under this lock").id_of(dev, ino)
    }

    /// The same, if that is known already.
    pub(super) fn known_id_of(&self, dev: u64, ino: u64) -> Option<u64> {
        if self.is_own_id(dev, ino) {
            return Some(ino);
        }
        self.foreign.lock().expect("no panics under this lock").known_id_of(dev, ino)
    }

    /// Whether the inode number is the node id, too.
    fn is_own_id(&self, dev: u64, ino: u64) -> bool {
        dev == self.root_dev && ino > ROOT_ID && ino < FOREIGN
    }

    /// The inode number to show for an entry of a directory on `dev`: that of the backing directory's
    /// device as it is, and elsewhere one that is nobody else's.
    pub(super) fn shown_ino(&self, dev: u64, ino: u64) -> u64 {
        if dev == self.root_dev { ino } else { self.id_of(dev, ino) }
    }

    /// The same for a node. Not of sockets: the kernel finds who listens by the number that it was told
    /// first (`unix_bsd_hash`), which is the node id.
    pub(super) fn ino_of(&self, node: &Node) -> u64 {
        let is_socket = node.identity.kind == libc::S_IFSOCK;
        let is_shown = node.identity.dev == self.root_dev && !is_socket;
        if is_shown { node.identity.ino } else { node.id() }
    }

    /// The node id of what programs see with an inode number, which may be the id itself.
    pub(super) fn id_shown_as(&self, ino: u64) -> u64 {
        let number = if ino & FOREIGN != 0 { self.known_id_of(self.root_dev, ino) } else { None };
        number.unwrap_or(ino)
    }

    /// Takes over a node of a former worker.
    pub(super) fn adopt(&self, identity: Identity, slot: NodeSlot) -> Arc<Node> {
        if identity.id & FOREIGN != 0 {
            self.foreign.lock().expect("no panics under this lock").adopt(&identity);
        }
        let node = Arc::new(Node::new(identity, slot));
        let (parent, name) = self.arena.nodes().place(slot);
        self.numbers.put(node.number(), parent, &name);
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

    /// Under the map's lock.
    fn release_slot(&self, node: &Node) {
        let (slot, table) = (node.slot, self.arena.nodes());
        self.lose_place(node);
        table.clear(slot);
        self.adopt_free(slot);
    }

    /// Nobody knows the node by its id any more. Under the map's lock.
    fn forget_id(&self, node: &Node) {
        if node.id() & FOREIGN != 0 {
            self.foreign.lock().expect("no panics under this lock").forget(&node.identity);
        }
    }

    /// What is at the node's name from now on is another file.
    fn lose_place(&self, node: &Node) {
        if self.numbers.are_of_names() {
            let (parent, name) = self.arena.nodes().place(node.slot);
            self.numbers.take(node.number(), parent, &name);
        }
    }
}

impl Filesystem {
    /// The node id of a file, by that or by the inode number that programs see.
    pub fn id_shown_as(&self, ino: u64) -> u64 {
        self.nodes.id_shown_as(ino)
    }

    /// Attributes of what is at a name, with the number that it was met with.
    pub(super) fn met_at(&self, attr: Attr, parent: u64, name: &OsStr) -> Attr {
        let attr = self.nodes.numbers.as_met(attr);
        let Some((dev, ino)) = self.nodes.numbers.at(parent, name) else { return attr };
        if self.known(&attr).is_some() {
            return attr;
        }
        let met = Attr { dev, ino, ..attr };
        if self.known(&met).is_none_or(|node| node.pinned().is_some()) {
            return attr;
        }
        self.nodes.numbers.file_became((dev, ino), (attr.dev, attr.ino));
        met
    }

    /// The node of an id the kernel gave us. `ESTALE` when it is not known, `EPERM` for the virtual
    /// files, with which nothing can be done that is not theirs.
    pub(super) fn node(&self, id: u64) -> io::Result<Arc<Node>> {
        let unknown = || errno(if is_virtual(id) { libc::EPERM } else { libc::ESTALE });
        self.nodes.read().get(&self.own_id(id)).cloned().ok_or_else(unknown)
    }

    /// The node of a backing file, if it is known.
    pub(super) fn known(&self, attr: &Attr) -> Option<Arc<Node>> {
        let map = self.nodes.read();
        let id = self.nodes.known_id_of(attr.dev, attr.ino)?;
        map.get(&id).filter(|node| node.is(attr)).cloned()
    }

    /// The node of a file that was noted by device and inode number, if it is known.
    pub(super) fn known_as(&self, mark: Mark) -> Option<Arc<Node>> {
        let (dev, ino) = mark?;
        let map = self.nodes.read();
        let found = map.get(&self.nodes.known_id_of(dev, ino)?);
        found.filter(|node| node.number() == (dev, ino)).cloned()
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

    /// The node for a backing file found under `parent` and `name`, counted as looked up `lookups`
    /// times more.
    pub(super) fn remember(
        &self,
        attr: &Attr,
        parent: u64,
        name: &OsStr,
        lookups: u64,
    ) -> io::Result<Arc<Node>> {
        let table = self.arena.nodes();
        let mut map = self.nodes.write();
        // Under the lock, under which ids are forgotten.
        let id = self.nodes.id_of(attr.dev, attr.ino);
        let node = match map.get(&id) {
            Some(node) if node.is(attr) => {
                let node = node.clone();
                if attr.nlink > 1 && node.is_regular() && self.rules.is_any() {
                    node.other_names.note(table.place(node.slot), (parent, name));
                }
                self.set_place(&map, &node, parent, name);
                node
            }
            Some(stale) => {
                // Another file has the number now: a new generation tells the kernel.
                let known = table.lookups(stale.slot);
                let generation = stale.identity.generation + 1;
                let children = stale.children.load(Ordering::Relaxed);
                lose_child(&map, table.place(stale.slot).0);
                self.forget_descriptors(id);
                self.nodes.release_slot(stale);
                let node = self.insert(&mut map, id, generation, attr, parent, name)?;
                node.children.store(children, Ordering::Relaxed);
                table.add_lookups(node.slot, known);
                node
            }
            None => self.insert(&mut map, id, 0, attr, parent, name)?,
        };
        table.add_lookups(node.slot, lookups);
        node.note_seen(Some(*attr));
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
        self.nodes.numbers.put(node.number(), parent, name);
        gain_child(map, parent);
        map.insert(id, node.clone());
        Ok(node)
    }

    /// Notes that a node is reached by another parent or name from now on.
    pub(super) fn move_node(&self, node: &Node, parent: u64, name: &OsStr) {
        self.set_place(&self.nodes.write(), node, parent, name);
    }

    fn set_place(&self, map: &Map, node: &Node, parent: u64, name: &OsStr) {
        let table = self.arena.nodes();
        let (former, _) = table.place(node.slot);
        if former != parent {
            gain_child(map, parent);
            lose_child(map, former);
        }
        self.nodes.lose_place(node);
        table.set_place(node.slot, parent, name);
        self.nodes.numbers.put(node.number(), parent, name);
    }

    /// Counts the children of nodes that were taken over from a former worker.
    pub(super) fn count_children(&self) {
        let map = self.nodes.read();
        for node in map.values() {
            gain_child(&map, self.arena.nodes().place(node.slot).0);
        }
    }

    /// FORGET: the kernel gives `count` lookups back.
    pub fn forget(&self, id: u64, count: u64) {
        let Some(node) = self.nodes.read().get(&self.own_id(id)).cloned() else { return };
        if self.arena.nodes().sub_lookups(node.slot, count) > 0 {
            return;
        }
        // Nobody can reach a file without names any more: what is buffered of it is not written.
        if node.data_if_any().is_some_and(|data| data.lock().deleted) {
            self.discard(&node);
        }
        self.drop_if_unused(&node);
    }

    /// Lets go of a node that the kernel does not know any more, that holds nothing, and by which no
    /// other is reached; and of those above it for which the same is true then.
    pub(super) fn drop_if_unused(&self, node: &Arc<Node>) {
        let mut next = Some(node.clone());
        while let Some(node) = next {
            // Looked at before the map is locked: a file's lock comes first. It stays true, since
            // only the kernel could add bytes, and it would have to look the node up first.
            let is_settled = node.data_if_any().is_none_or(|data| {
                let mut state = data.lock();
                // Stored a moment ago, and the lane's turn not yet over: nobody else would.
                self.restore_times(&node, &mut state);
                state.is_settled()
            });
            if node.id() == ROOT_ID || !is_settled {
                return;
            }
            let table = self.arena.nodes();
            let mut map = self.nodes.write();
            let is_current = map.get(&node.id()).is_some_and(|known| Arc::ptr_eq(known, &node));
            let is_parent = node.children.load(Ordering::Relaxed) > 0;
            // What is open is known: the handle count need not be asked.
            if !is_current || is_parent || table.lookups(node.slot) > 0 {
                return;
            }
            map.remove(&node.id());
            let (parent, _) = table.place(node.slot);
            lose_child(&map, parent);
            let parent = map.get(&parent).cloned();
            self.nodes.release_slot(&node);
            self.nodes.forget_id(&node);
            drop(map);
            self.forget_descriptors(node.id());
            self.isolation.forget_file(node.id());
            next = parent;
        }
    }

    pub(super) fn forget_descriptors(&self, id: u64) {
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
        let (parent, _) = self.arena.nodes().place(node.slot);
        if !node.is(&self.met_at(backing::attr(fd.as_fd())?, parent, name)) {
            return Err(errno(libc::ESTALE));
        }
        // Before it is noted: from then on it may be needed by the program this one becomes.
        backing::keep_over_exec(fd.as_fd())?;
        self.arena.nodes().set_kept_fd(node.slot, Some(fd.as_raw_fd()));
        *pin = Some(Arc::new(fd));
        self.nodes.lose_place(node);
        Ok(())
    }

    /// Takes over a pin of a former worker.
    pub(super) fn adopt_pin(&self, node: &Node, fd: OwnedFd) {
        self.nodes.lose_place(node);
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
            let (parent, name) = self.arena.nodes().place(node.slot);
            let fd = backing::open_path_at(dir.as_fd(), &name)?;
            if !node.is(&self.met_at(backing::attr(fd.as_fd())?, parent, &name)) {
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
        let attr = self.ask_attr(node)?;
        node.note_seen(Some(attr));
        Ok(attr)
    }

    fn ask_attr(&self, node: &Arc<Node>) -> io::Result<Attr> {
        // A descriptor stays that of the file.
        let as_met = |attr| Attr { dev: node.identity.dev, ino: node.identity.ino, ..attr };
        if let Some(file) = self.files.get(node.id()) {
            match backing::attr_as((*file).as_fd(), self.freshness()) {
                // The way by its name may work.
                Err(error) if self.may_hang() && may_be_of_descriptor(backing::errno(&error)) => {}
                found => return found.map(as_met),
            }
        }
        if let Some(fd) = self.path_fd_at_hand(node)? {
            return backing::attr_as(fd.as_fd(), self.freshness()).map(as_met);
        }
        let (parent, name) = self.arena.nodes().place(node.slot);
        let dir = self.path_fd(&self.node(parent)?)?;
        let attr = backing::attr_at_as(dir.as_fd(), &name, self.freshness())?;
        let attr = self.met_at(attr, parent, &name);
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
        let device = self.device(node.identity.dev)?;
        let make = || Box::new(FileData::new(self.segment_bytes, self.treatment(node), device));
        Ok(node.data.get_or_init(make))
    }
}
