//! The node table: what the kernel knows by number, so that a new worker knows it too.
//!
//! One entry a node: identity on the backing filesystem, where it was last found (parent and
//! name), how often the kernel looked it up, how many handles are open, the descriptor that keeps
//! an unlinked file alive, and the modification time that the program is to see. The table grows
//! by extending its memfd under a mapping reserved once.
//!
//! A move (rename) is first written down as an *intent*; a worker that dies in the middle leaves
//! both places, and the next one looks where the file is.
//!
//! Allocation is the caller's to serialise (`fs` holds its tree lock); fields are atomics.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::attach::{AttachError, file_bytes};
use super::{Size, map_memfd, map_new_memfd};

/// Longest name of a directory entry on Linux (NAME_MAX).
const NAME_MAX: usize = 255;
/// Most nodes of one mount: 16 Mi, 6 GiB of address space, memory only as it is used.
const NODES_MAX: u32 = 16 << 20;
/// The table grows by this many entries at a time.
const GROW_BY: u32 = 4096;
/// Moves that can be under way at once; more than there are threads that rename.
const INTENTS: usize = 64;

/// A place of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeSlot(pub u32);

/// Which file a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Node id of the FUSE protocol.
    pub id: u64,
    /// Generation of the FUSE protocol: tells apart files that had the same inode number.
    pub generation: u32,
    /// Device of the backing file.
    pub dev: u64,
    /// Inode number of the backing file.
    pub ino: u64,
    /// File type bits of st_mode.
    pub kind: u32,
}

#[repr(C)]
struct Place {
    parent: AtomicU64,
    name_len: AtomicU32,
    name: [AtomicU8; NAME_MAX + 1],
}

impl Place {
    fn set(&self, parent: u64, name: &OsStr) {
        let bytes = name.as_bytes();
        let len = bytes.len().min(NAME_MAX);
        for (cell, byte) in self.name.iter().zip(&bytes[..len]) {
            cell.store(*byte, Ordering::Relaxed);
        }
        self.name_len.store(len as u32, Ordering::Relaxed);
        self.parent.store(parent, Ordering::Release);
    }

    fn get(&self) -> (u64, OsString) {
        let parent = self.parent.load(Ordering::Acquire);
        let len = (self.name_len.load(Ordering::Relaxed) as usize).min(NAME_MAX);
        let name = self.name[..len].iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
        (parent, OsString::from_vec(name))
    }
}

#[repr(C)]
struct NodeEntry {
    used: AtomicU32,
    generation: AtomicU32,
    id: AtomicU64,
    dev: AtomicU64,
    ino: AtomicU64,
    kind: AtomicU32,
    open: AtomicU32,
    lookups: AtomicU64,
    kept_fd_plus_one: AtomicI32,
    mtime_set: AtomicU32,
    mtime_secs: AtomicI64,
    mtime_nanos: AtomicU32,
    is_reserved: AtomicU32,
    writers: AtomicU32,
    epoch: AtomicU32,
    place: Place,
}

/// Takes one off, not below 0; what is left.
fn count_off(count: &AtomicU32) -> u32 {
    let subtract = |count: u32| Some(count.saturating_sub(1));
    let before = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract).unwrap_or(0);
    before.saturating_sub(1)
}

#[repr(C)]
struct Intent {
    used: AtomicU32,
    id: AtomicU64,
    place: Place,
}

/// The mapped table.
#[derive(Clone, Copy, Debug)]
pub struct NodeTable {
    base: NonNull<u8>,
    fd: RawFd,
}

#[repr(C)]
struct TableHeader {
    capacity: AtomicU32,
    /// Entries at and above this were never used: bounds every scan.
    high_water: AtomicU32,
    intents: [Intent; INTENTS],
}

const ENTRIES_OFFSET: usize = size_of::<TableHeader>().next_multiple_of(4096);

fn table_bytes(capacity: u32) -> usize {
    ENTRIES_OFFSET + capacity as usize * size_of::<NodeEntry>()
}

impl NodeTable {
    pub(super) fn create() -> io::Result<NodeTable> {
        let (len, reserve) = (table_bytes(GROW_BY), table_bytes(NODES_MAX));
        let (fd, base) = map_new_memfd(c"coalescefs-nodes", len, reserve, Size::Grows)?;
        let table = NodeTable { base, fd: fd.into_raw_fd() };
        table.header().capacity.store(GROW_BY, Ordering::Relaxed);
        Ok(table)
    }

    /// Maps a table that another process made, and checks that what it says of its size is so.
    pub(super) fn attach(fd: RawFd) -> Result<NodeTable, AttachError> {
        if file_bytes(fd)? < table_bytes(GROW_BY) as u64 {
            return Err(AttachError::Damaged("the node table is too short".to_owned()));
        }
        let table = NodeTable { base: map_memfd(fd, table_bytes(NODES_MAX))?, fd };
        // In the order opposite to that in which they grow.
        let high_water = table.high_water();
        let capacity = table.header().capacity.load(Ordering::Acquire);
        let fits = high_water <= capacity
            && capacity <= NODES_MAX
            && table_bytes(capacity) as u64 <= file_bytes(fd)?;
        if !fits {
            let what = format!("{high_water} nodes in a table for {capacity}");
            return Err(AttachError::Damaged(what));
        }
        Ok(table)
    }

    /// Whether an entry in use can have been written by a worker.
    pub(super) fn is_plausible(&self, slot: NodeSlot) -> bool {
        let entry = self.entry(slot);
        let (_, name) = entry.place.get();
        entry.id.load(Ordering::Relaxed) != 0
            && entry.kept_fd_plus_one.load(Ordering::Acquire) >= 0
            && entry.mtime_nanos.load(Ordering::Relaxed) < 1_000_000_000
            && entry.place.name_len.load(Ordering::Relaxed) as usize <= NAME_MAX
            && !name.as_bytes().iter().any(|byte| matches!(byte, 0 | b'/'))
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.fd
    }

    fn header(&self) -> &TableHeader {
        // SAFETY: the start of the mapping, atomics only, all-zero is valid.
        unsafe { self.base.cast::<TableHeader>().as_ref() }
    }

    fn entry(&self, slot: NodeSlot) -> &NodeEntry {
        assert!(slot.0 < self.header().capacity.load(Ordering::Acquire), "node slot {}", slot.0);
        // SAFETY: below the capacity, so within the file and the mapping; atomics only.
        unsafe { self.base.add(ENTRIES_OFFSET).cast::<NodeEntry>().add(slot.0 as usize).as_ref() }
    }

    /// Slots ever used.
    pub fn high_water(&self) -> u32 {
        self.header().high_water.load(Ordering::Acquire)
    }

    /// Takes a never used slot. `Err(ENFILE)` at the table's bound, or the errno of growing it.
    /// The caller serialises calls.
    pub fn extend(&self) -> io::Result<NodeSlot> {
        let header = self.header();
        let slot = header.high_water.load(Ordering::Relaxed);
        let capacity = header.capacity.load(Ordering::Relaxed);
        if slot == capacity {
            if capacity + GROW_BY > NODES_MAX {
                return Err(io::Error::from_raw_os_error(libc::ENFILE));
            }
            let bytes = table_bytes(capacity + GROW_BY) as libc::off_t;
            // SAFETY: grows our own memfd.
            if unsafe { libc::ftruncate(self.fd, bytes) } < 0 {
                return Err(io::Error::last_os_error());
            }
            header.capacity.store(capacity + GROW_BY, Ordering::Release);
        }
        header.high_water.store(slot + 1, Ordering::Release);
        Ok(NodeSlot(slot))
    }

    /// Fills a free slot, but for its epoch, which goes on; visible to later workers when it returns.
    pub fn fill(&self, slot: NodeSlot, identity: &Identity, parent: u64, name: &OsStr) {
        let entry = self.entry(slot);
        entry.id.store(identity.id, Ordering::Relaxed);
        entry.generation.store(identity.generation, Ordering::Relaxed);
        entry.dev.store(identity.dev, Ordering::Relaxed);
        entry.ino.store(identity.ino, Ordering::Relaxed);
        entry.kind.store(identity.kind, Ordering::Relaxed);
        entry.open.store(0, Ordering::Relaxed);
        entry.lookups.store(0, Ordering::Relaxed);
        entry.kept_fd_plus_one.store(0, Ordering::Relaxed);
        entry.mtime_set.store(0, Ordering::Relaxed);
        entry.is_reserved.store(0, Ordering::Relaxed);
        entry.writers.store(0, Ordering::Relaxed);
        entry.place.set(parent, name);
        entry.used.store(1, Ordering::Release);
    }

    /// Makes a slot free.
    pub fn clear(&self, slot: NodeSlot) {
        self.entry(slot).used.store(0, Ordering::Release);
    }

    /// What a slot holds; `None` when it is free.
    pub fn identity(&self, slot: NodeSlot) -> Option<Identity> {
        let entry = self.entry(slot);
        (entry.used.load(Ordering::Acquire) != 0).then(|| Identity {
            id: entry.id.load(Ordering::Relaxed),
            generation: entry.generation.load(Ordering::Relaxed),
            dev: entry.dev.load(Ordering::Relaxed),
            ino: entry.ino.load(Ordering::Relaxed),
            kind: entry.kind.load(Ordering::Relaxed),
        })
    }

    /// Where the node was last found.
    pub fn place(&self, slot: NodeSlot) -> (u64, OsString) {
        self.entry(slot).place.get()
    }

    /// Notes where the node is now. The caller serialises calls for a node.
    pub fn set_place(&self, slot: NodeSlot, parent: u64, name: &OsStr) {
        self.entry(slot).place.set(parent, name);
    }

    /// Adds to the lookup count the kernel will give back by FORGET.
    pub fn add_lookups(&self, slot: NodeSlot, count: u64) {
        self.entry(slot).lookups.fetch_add(count, Ordering::AcqRel);
    }

    /// Takes from the lookup count; returns what is left.
    pub fn sub_lookups(&self, slot: NodeSlot, count: u64) -> u64 {
        let lookups = &self.entry(slot).lookups;
        let left = lookups.load(Ordering::Acquire).saturating_sub(count);
        lookups.store(left, Ordering::Release);
        left
    }

    /// The lookup count.
    pub fn lookups(&self, slot: NodeSlot) -> u64 {
        self.entry(slot).lookups.load(Ordering::Acquire)
    }

    /// Counts an open handle.
    pub fn add_open(&self, slot: NodeSlot) {
        self.entry(slot).open.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a handle off; returns how many are left.
    pub fn sub_open(&self, slot: NodeSlot) -> u32 {
        count_off(&self.entry(slot).open)
    }

    /// Counts an open handle that may write.
    pub fn add_writer(&self, slot: NodeSlot) {
        self.entry(slot).writers.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one of them off.
    pub fn sub_writer(&self, slot: NodeSlot) {
        count_off(&self.entry(slot).writers);
    }

    /// Open handles that may write.
    pub fn writers(&self, slot: NodeSlot) -> u32 {
        self.entry(slot).writers.load(Ordering::Acquire)
    }

    /// Which of the inodes that the kernel has had for what this slot holds is the valid one; 0 where
    /// it never had to change.
    pub fn epoch(&self, slot: NodeSlot) -> u32 {
        self.entry(slot).epoch.load(Ordering::Acquire)
    }

    /// Begins another one. Calls for one slot are serialised by the caller.
    pub fn set_epoch(&self, slot: NodeSlot, epoch: u32) {
        self.entry(slot).epoch.store(epoch, Ordering::Release);
    }

    /// Open handles.
    pub fn open(&self, slot: NodeSlot) -> u32 {
        self.entry(slot).open.load(Ordering::Acquire)
    }

    /// Notes the descriptor by which a later worker reaches the node although its name is gone.
    pub fn set_kept_fd(&self, slot: NodeSlot, fd: Option<RawFd>) {
        self.entry(slot).kept_fd_plus_one.store(fd.map_or(0, |fd| fd + 1), Ordering::Release);
    }

    /// Parts a node from its file: none is it from now on, not even one that gets the same inode
    /// number, which nothing keeps from others any more.
    pub fn cut_off(&self, slot: NodeSlot) {
        self.entry(slot).kind.store(0, Ordering::Release);
        self.set_kept_fd(slot, None);
    }

    /// The descriptor noted by [`NodeTable::set_kept_fd`].
    pub fn kept_fd(&self, slot: NodeSlot) -> Option<RawFd> {
        match self.entry(slot).kept_fd_plus_one.load(Ordering::Acquire) {
            0 => None,
            fd => Some(fd - 1),
        }
    }

    /// Notes the modification time to show and to restore: seconds and nanoseconds since 1970.
    pub fn set_mtime(&self, slot: NodeSlot, mtime: Option<(i64, u32)>) {
        let entry = self.entry(slot);
        entry.mtime_set.store(0, Ordering::Release);
        if let Some((secs, nanos)) = mtime {
            entry.mtime_secs.store(secs, Ordering::Relaxed);
            entry.mtime_nanos.store(nanos, Ordering::Relaxed);
            entry.mtime_set.store(1, Ordering::Release);
        }
    }

    /// The time noted by [`NodeTable::set_mtime`].
    pub fn mtime(&self, slot: NodeSlot) -> Option<(i64, u32)> {
        let entry = self.entry(slot);
        (entry.mtime_set.load(Ordering::Acquire) != 0).then(|| {
            (entry.mtime_secs.load(Ordering::Relaxed), entry.mtime_nanos.load(Ordering::Relaxed))
        })
    }

    /// Notes whether blocks beyond the end of the backing file are allocated for what is to come.
    pub fn set_reserved(&self, slot: NodeSlot, is_reserved: bool) {
        self.entry(slot).is_reserved.store(u32::from(is_reserved), Ordering::Release);
    }

    /// What was noted by [`NodeTable::set_reserved`].
    pub fn is_reserved(&self, slot: NodeSlot) -> bool {
        self.entry(slot).is_reserved.load(Ordering::Acquire) != 0
    }

    /// Writes down that node `id` is about to move to a new place. `None` when too many moves are
    /// under way; the move then is not protected against the worker's death in the middle.
    pub fn begin_move(&self, id: u64, parent: u64, name: &OsStr) -> Option<usize> {
        let taken = |intent: &Intent| {
            intent.used.compare_exchange(0, 2, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let at = self.header().intents.iter().position(taken)?;
        let intent = &self.header().intents[at];
        intent.id.store(id, Ordering::Relaxed);
        intent.place.set(parent, name);
        intent.used.store(1, Ordering::Release);
        Some(at)
    }

    /// The move is over, done or not, and the node's place says where it is.
    pub fn end_move(&self, intent: Option<usize>) {
        if let Some(at) = intent {
            self.header().intents[at].used.store(0, Ordering::Release);
        }
    }

    /// Takes the moves that a former worker did not end: node id, new parent and name.
    pub fn take_unfinished_moves(&self) -> Vec<(u64, u64, OsString)> {
        let mut moves = Vec::new();
        for intent in &self.header().intents {
            if intent.used.swap(0, Ordering::AcqRel) == 1 {
                let (parent, name) = intent.place.get();
                moves.push((intent.id.load(Ordering::Relaxed), parent, name));
            }
        }
        moves
    }
}
