//! The shared memory that outlives the worker.
//!
//! Two memfds made by the keeper and mapped before the worker is forked, so that keeper and every
//! worker see them at the same address:
//!
//! - the *arena*: header (geometry, recorded INIT, counters, [`ControlPage`]), the [`Attempts`], the
//!   [`Suspects`], the segment table, and the data. Its size is fixed: `--memory` plus tables.
//! - the [`NodeTable`], which grows with the number of nodes the kernel knows.
//!
//! Order of stores: bytes first, then the segment's range (release), then the acknowledgement.
//! A worker that dies between any two instructions leaves tables from which the next one rebuilds.
//! Nothing here is locked: `fs` holds the file's lock around every change of its segments.
//!
//! A worker that becomes the keeper maps both again, at other addresses (`attach`).

mod attach;
mod attempts;
mod control_page;
mod nodes;
mod segments;
mod suspects;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use attach::AttachError;
pub use attempts::{Attempts, Kept, Mark};
pub use control_page::{ControlPage, Phase, UnmountMode};
pub use nodes::{Identity, NodeSlot, NodeTable};
pub use segments::{Held, SlotPool};
pub use suspects::{Suspects, Task, Verdict};

use crate::buffer::{Published, Slot};
use crate::config::MountConfig;
use attempts::{ATTEMPTS, Attempt};
use segments::SegmentEntry;

const MAGIC: u64 = u64::from_le_bytes(*b"coalesce");
/// Raised whenever the meaning of the arena's bytes changes.
const LAYOUT_VERSION: u32 = 7;
/// Room for the header; the control page has its own.
const HEADER_BYTES: usize = 4096;
/// Where the attempts begin.
const ATTEMPTS_OFFSET: usize = HEADER_BYTES * 2;
/// Where the suspects begin.
const SUSPECTS_OFFSET: usize =
    (ATTEMPTS_OFFSET + size_of::<[Attempt; ATTEMPTS]>()).next_multiple_of(4096);
/// Where the segment table begins.
const TABLE_OFFSET: usize = (SUSPECTS_OFFSET + size_of::<suspects::Table>()).next_multiple_of(4096);
/// Longest INIT request that is recorded; Linux sends 104 bytes.
const INIT_BYTES_MAX: usize = 256;

/// Figures that survive the worker.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes received in WRITE requests.
    pub bytes_in: AtomicU64,
    /// WRITE requests received.
    pub write_requests: AtomicU64,
    /// Bytes written to backing files.
    pub bytes_out: AtomicU64,
    /// Turns that wrote something.
    pub drain_turns: AtomicU64,
    /// System calls that wrote.
    pub drain_writes: AtomicU64,
    /// Calls that asked the backing filesystem to make something durable.
    pub syncs: AtomicU64,
    /// Bytes that left in turns of one whole aligned chunk.
    pub whole_chunk_bytes: AtomicU64,
    /// Bytes written with O_DIRECT.
    pub direct_bytes: AtomicU64,
    /// Longest time a WRITE reply was held back, in milliseconds.
    pub longest_wait_ms: AtomicU64,
    /// All requests received from the kernel.
    pub requests: AtomicU64,
    /// How often a file that is written here was found changed below by somebody else.
    pub changed_below: AtomicU64,
}

impl Counters {
    /// Adds to one of the figures.
    pub fn add(figure: &AtomicU64, amount: u64) {
        figure.fetch_add(amount, Ordering::Relaxed);
    }
}

#[repr(C)]
struct Header {
    magic: u64,
    layout_version: u32,
    segment_bytes: u32,
    segments: u32,
    init_done: AtomicU32,
    init_len: AtomicU32,
    init: [u8; INIT_BYTES_MAX],
    next_seq: AtomicU64,
    next_handle: AtomicU64,
    counters: Counters,
}

/// The mapped arena. Lives as long as the process: it is never unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    base: NonNull<u8>,
    data_offset: usize,
    segment_bytes: u32,
    segments: u32,
    nodes: NodeTable,
    fd: RawFd,
}

// SAFETY: the mapping lives for the whole process, all shared words are atomics, and the data of a
// segment is accessed under the lock of the file that holds it or, while it is being written to
// the backing file, only read.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes an empty arena for `config`. Called once per mount, by the keeper.
    ///
    /// Memory is taken from the system as it is used, not here. `Err` is the errno of
    /// memfd_create(2), ftruncate(2) or mmap(2).
    pub fn create(config: &MountConfig) -> io::Result<Arena> {
        let segment_bytes = config.segment_bytes();
        let segments = u32::try_from(config.memory_bytes / u64::from(segment_bytes))
            .map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let (data_offset, total) = attach::extent(segments, segment_bytes);
        let (fd, base) = map_new_memfd(c"coalescefs-arena", total, total, Size::Fixed)?;
        let arena = Arena {
            base,
            data_offset,
            segment_bytes,
            segments,
            nodes: NodeTable::create()?,
            // Kept open on purpose: it lives as long as the shared descriptor table.
            fd: std::os::fd::IntoRawFd::into_raw_fd(fd),
        };
        // SAFETY: the mapping is fresh, zeroed, larger than the header, and nobody else has it.
        unsafe {
            let header = base.cast::<Header>().as_ptr();
            (*header).magic = MAGIC;
            (*header).layout_version = LAYOUT_VERSION;
            (*header).segment_bytes = segment_bytes;
            (*header).segments = segments;
        }
        arena.header().next_seq.store(1, Ordering::Relaxed);
        arena.header().next_handle.store(1, Ordering::Relaxed);
        Ok(arena)
    }

    fn header(&self) -> &Header {
        // SAFETY: initialised in `create`, lives for the whole process.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    /// The words keeper and worker exchange.
    pub fn control(&self) -> &ControlPage {
        // SAFETY: the second page of the mapping; all-zero is a valid ControlPage, and it consists
        // of atomics only.
        unsafe { self.base.add(HEADER_BYTES).cast::<ControlPage>().as_ref() }
    }

    /// Requests that must not be done twice.
    pub fn attempts(&self) -> Attempts<'_> {
        // SAFETY: within the mapping; all-zero is valid, and it consists of atomics only.
        Attempts(unsafe { self.base.add(ATTEMPTS_OFFSET).cast().as_ref() })
    }

    /// What workers died of, maybe.
    pub fn suspects(&self) -> Suspects<'_> {
        // SAFETY: within the mapping; all-zero is valid, and it consists of atomics only.
        Suspects(unsafe { self.base.add(SUSPECTS_OFFSET).cast().as_ref() })
    }

    /// Figures that survive the worker.
    pub fn counters(&self) -> &Counters {
        &self.header().counters
    }

    /// The nodes the kernel knows.
    pub fn nodes(&self) -> &NodeTable {
        &self.nodes
    }

    /// Descriptors that belong to the arena and must stay open.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.fd, self.nodes.descriptor()]
    }

    /// Keeps what the arena holds from being swapped out, page by page as it is used: mlock2(2),
    /// for this process. `Err(ENOMEM)` or `Err(EPERM)` where RLIMIT_MEMLOCK does not allow it.
    pub fn lock_in_memory(&self) -> io::Result<()> {
        let total = self.data_offset + self.segments as usize * self.segment_bytes as usize;
        // SAFETY: the whole mapping, made in `create`; changes no byte of it.
        let result =
            unsafe { libc::mlock2(self.base.as_ptr().cast(), total, libc::MLOCK_ONFAULT as _) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Bytes of one segment.
    pub fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Number of segments.
    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// A number larger than every one given out before, also by former workers: orders writes.
    pub fn next_seq(&self) -> u64 {
        self.header().next_seq.fetch_add(1, Ordering::Relaxed)
    }

    /// A file handle number never used before in this mount.
    pub fn next_handle(&self) -> u64 {
        self.header().next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// The kernel's INIT request, as it was received; empty before [`Arena::record_init`].
    pub fn recorded_init(&self) -> Vec<u8> {
        let header = self.header();
        let len = header.init_len.load(Ordering::Acquire) as usize;
        header.init[..len.min(INIT_BYTES_MAX)].to_vec()
    }

    /// Keeps the INIT request for later workers. `Err(EMSGSIZE)` when it is implausibly long.
    pub fn record_init(&self, request: &[u8]) -> io::Result<()> {
        if request.len() > INIT_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        // SAFETY: called before any other thread of the worker exists, once per mount; readers
        // look only after `init_len` is stored.
        unsafe {
            let to = (&raw mut (*self.base.cast::<Header>().as_ptr()).init).cast::<u8>();
            std::ptr::copy_nonoverlapping(request.as_ptr(), to, request.len());
        }
        self.header().init_len.store(request.len() as u32, Ordering::Release);
        Ok(())
    }

    /// Whether INIT was answered.
    pub fn init_done(&self) -> bool {
        self.header().init_done.load(Ordering::Acquire) != 0
    }

    /// Notes that INIT was answered.
    pub fn set_init_done(&self) {
        self.header().init_done.store(1, Ordering::Release);
    }

    fn entry(&self, slot: Slot) -> &SegmentEntry {
        assert!(slot.0 < self.segments, "slot {} of {}", slot.0, self.segments);
        // SAFETY: in bounds by the assertion; the table consists of atomics only.
        unsafe { self.base.add(TABLE_OFFSET).cast::<SegmentEntry>().add(slot.0 as usize).as_ref() }
    }

    /// Makes `range` of a slot part of what a later worker finds, or changes it.
    pub fn publish(&self, node: u64, published: &Published) {
        self.entry(published.slot).publish(node, published);
    }

    /// Takes a slot out of what a later worker finds.
    pub fn unpublish(&self, slot: Slot) {
        self.entry(slot).unpublish();
    }

    /// What a former worker published in `slot`, and for which node.
    pub fn published(&self, slot: Slot) -> Option<(u64, Published)> {
        self.entry(slot).read(slot)
    }

    fn data(&self, slot: Slot, at: u32, len: u32) -> *mut u8 {
        assert!(slot.0 < self.segments, "slot {} of {}", slot.0, self.segments);
        let end = at.checked_add(len).expect("segment offsets fit 32 bits");
        assert!(end <= self.segment_bytes, "{at}+{len} in a segment of {}", self.segment_bytes);
        let offset = self.data_offset + slot.0 as usize * self.segment_bytes as usize + at as usize;
        // SAFETY: within the mapping by the two assertions.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Copies bytes into a slot. The caller holds the file's lock, and the range is not in flight.
    pub fn copy_in(&self, slot: Slot, at: u32, bytes: &[u8]) {
        let to = self.data(slot, at, bytes.len() as u32);
        // SAFETY: `data` checked the bounds; the file's lock excludes other accesses.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies bytes out of a slot. The caller holds the file's lock.
    pub fn copy_out(&self, slot: Slot, at: u32, bytes: &mut [u8]) {
        let from = self.data(slot, at, bytes.len() as u32);
        // SAFETY: as in `copy_in`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies the same range from one slot to another. The caller holds the file's lock.
    pub fn copy_between(&self, from: Slot, to: Slot, at: u32, len: u32) {
        let (source, target) = (self.data(from, at, len), self.data(to, at, len));
        // SAFETY: bounds checked by `data`; `copy` allows equal slots.
        unsafe { std::ptr::copy(source, target, len as usize) };
    }

    /// A view of bytes in flight: they do not change until the write is reported complete.
    pub fn in_flight(&self, slot: Slot, at: u32, len: u32) -> &[u8] {
        let from = self.data(slot, at, len);
        // SAFETY: bounds checked; `buffer` freezes what is in flight, so nobody writes to it.
        unsafe { std::slice::from_raw_parts(from, len as usize) }
    }
}

/// Whether a memfd keeps its first size.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Fixed,
    Grows,
}

/// Makes a memfd of `len` bytes and maps `reserve` bytes of it. Sealed: whoever got hold of the
/// descriptor could else shrink it, and the next access would be SIGBUS. Left out of core dumps,
/// which would hold everybody's data.
fn map_new_memfd(
    name: &std::ffi::CStr,
    len: usize,
    reserve: usize,
    size: Size,
) -> io::Result<(OwnedFd, NonNull<u8>)> {
    let fd = new_memfd(name)?;
    // SAFETY: valid descriptor.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let seals = match size {
        Size::Fixed => libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL,
        Size::Grows => libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL,
    };
    // SAFETY: valid descriptor.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let base = map_memfd(fd.as_raw_fd(), reserve)?;
    Ok((fd, base))
}

/// Maps `reserve` bytes of a memfd, shared and left out of core dumps.
fn map_memfd(fd: RawFd, reserve: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new shared mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            reserve,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            fd,
            0,
        )
    };
    match NonNull::new(base.cast::<u8>()) {
        Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => {
            // SAFETY: the mapping just made; a flag that changes no byte. It cannot fail there.
            unsafe { libc::madvise(base.as_ptr().cast(), reserve, libc::MADV_DONTDUMP) };
            Ok(base)
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// A memfd that can be sealed and, since Linux 6.3, never be executed.
fn new_memfd(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let mut error = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in [flags | libc::MFD_NOEXEC_SEAL, flags] {
        // SAFETY: plain system call with a valid C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: a fresh descriptor of ours.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            break;
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests;
