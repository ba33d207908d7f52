//! What each operation means, driven without a kernel: the FUSE adapter only unpacks and replies.
//!
//! | file | responsibility |
//! |---|---|
//! | `nodes` | which backing file a node id is, and how to reach it |
//! | `foreign` | node ids of files of other filesystems below |
//! | `numbers` | what an engine's other client calls the same files |
//! | `names` | lookup, create, link, rename, unlink |
//! | `attrs` | attributes, times, truncation, extended attributes, statfs |
//! | `caller` | who asks, and what he may do |
//! | `ioctl` | file attributes by ioctl |
//! | `handles` | open files and directories, readdir |
//! | `data` | one file's buffered bytes: write, read, steps on the arena |
//! | `space` | disk space: what buffered bytes need, what is held for them |
//! | `reserve` | finds space for writes, allocates ahead of streams, gives it back |
//! | `failing` | files that cannot be written: what is known, when it is tried, who is refused |
//! | `asking` | requests that an engine does not answer: tried again, and answered in bounded time |
//! | `outage` | engines that do not answer: what files and programs hear of it, and when
//! | `give_up` | bytes that the user gives up |
//! | `again` | another client of an engine, in the place of one that died |
//! | `reopen` | another descriptor, where one is dead that was opened before |
//! | `gate` | programs that are held back before they write |
//! | `room` | memory: admission of writes, those that wait, pressure |
//! | `quiet` | operations that need the file clean or idle first: truncate, fallocate |
//! | `stable` | fsync: what is not known to be on stable storage, and who waits |
//! | `treatment` | what the rules say of a file's path |
//! | `through` | writes to files that are not coalesced |
//! | `shared` | files that other nodes change, too |
//! | `look_anew` | has the kernel look up anew what was written so |
//! | `source` | what lanes take from here and report back |
//! | `rebuild` | a new worker takes over what the former one left |
//! | `repeated` | requests that come again after a worker died |
//! | `report` | figures for the control socket |
//! | `virtual_files` | the hidden directory that shows them |
//! | `seen_attrs` | a file's own figures, as extended attributes |
//! | `drain_now` | storing what was written so far, on demand |
//! | `pool` | threads that may wait for the disk |
//!
//! No function here waits for the disk to take data, or for memory: what must wait takes a
//! [`Reply`] and parks it. Locks, in the order in which they may be taken: writes that found no
//! room, a file's state, then any one of node map, lane queue, slot pool, admission, gate. Only names and
//! attributes are looked up in the backing directory on the calling thread: where that may hang,
//! `fuse` asks by way of [`Filesystem::ask`].

mod again;
mod ahead;
mod asking;
mod attrs;
mod caller;
mod chunk;
mod data;
mod drain_now;
mod failing;
mod foreign;
mod gate;
mod give_up;
mod handles;
mod ioctl;
mod look_anew;
mod names;
mod nodes;
mod numbers;
mod outage;
mod pool;
mod quiet;
mod rebuild;
mod reopen;
mod repeated;
mod report;
mod reserve;
mod room;
mod seen_attrs;
mod shared;
mod source;
mod space;
mod stable;
mod through;
mod treatment;
mod virtual_files;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::time::Duration;

use crate::arena::{Arena, SlotPool};
use crate::backing::{DescriptorCache, DiskReads, ReadSoFar, Storage, is_rotational};
use crate::config::MountConfig;
use crate::config::rules::Rules;
use crate::drain::{Crew, DataFile, LaneQueue, Look, LookAtReads, Throttle};
use crate::isolation::Isolation;
use crate::schedule::{LANES_MAX, Lanes, Policy, Reads};
use crate::stats::Stats;
use crate::stats::recent::Recent;

pub use crate::schedule::PASS_US_MAX;
pub use asking::{About, Answer, Question};
pub use attrs::{CAPABILITIES, Capabilities, Change, Lasts, Looked, NodeAttr};
pub use caller::Caller;
pub use data::Mtime;
pub use drain_now::Draining;
pub use give_up::{GiveUp, KernelPages};
pub use handles::{DirectoryEntry, Listed, OpenDirectory, OpenFile};
pub use names::{Entry, Mode};
pub use outage::Engines;
pub use room::{Limits, WRITE_BYTES_MAX};
pub use virtual_files::is_virtual;

use again::Again;
use asking::Asking;
use chunk::Chunk;
use gate::WriterGate;
use handles::Handles;
use look_anew::LookAnew;
use nodes::Nodes;
use pool::Pool;
use reserve::Jobs;
use room::Room;
use shared::Shared;
use space::{Charges, Space};
use virtual_files::VirtualFiles;

/// Where the result of an operation that may have to wait goes. Called exactly once, from any
/// thread.
pub type Reply<T> = Box<dyn FnOnce(io::Result<T>) + Send>;

/// A closed file is written this long after it was closed: a temporary file may be gone by then.
const CLOSED_DELAY_MS: u64 = 1000;

/// What a filesystem is made from.
pub struct Parts {
    /// The resolved options.
    pub config: Arc<MountConfig>,
    /// The shared memory.
    pub arena: Arena,
    /// The backing directory; stays open as long as the process.
    pub backing_fd: RawFd,
    /// What lanes write through.
    pub storage: Arc<dyn Storage>,
    /// Which of what is below may hang while this machine works.
    pub engines: Box<dyn Engines>,
    /// Descriptors that the file caches may use.
    pub descriptors: u64,
}

/// What the files of one backing device have in common.
#[derive(Clone)]
struct Device {
    queue: Arc<LaneQueue>,
    space: Arc<Space>,
    chunk: Arc<Chunk>,
    recent: Arc<Mutex<Recent>>,
}

/// A mounted filesystem: the backing directory with what is buffered laid over it.
pub struct Filesystem {
    me: Weak<Filesystem>,
    config: Arc<MountConfig>,
    arena: Arena,
    segment_bytes: u32,
    policy: Policy,
    rules: Rules,
    limits: Limits,
    root: RawFd,
    nodes: Nodes,
    paths: DescriptorCache<OwnedFd>,
    files: DescriptorCache<DataFile>,
    handles: Handles,
    slots: SlotPool,
    room: Room,
    gate: WriterGate,
    isolation: Arc<Isolation>,
    pool: Pool,
    /// Requests about names and attributes, where what is below may hang.
    askers: Pool,
    asking: Asking,
    again: Again,
    may_hang: AtomicBool,
    /// Callers whose command lines are still being read, although nobody waits for that any more.
    unread_command_lines: Arc<AtomicUsize>,
    engines: Box<dyn Engines>,
    storage: Arc<dyn Storage>,
    throttle: Arc<Throttle>,
    devices: RwLock<Vec<(u64, Device)>>,
    charges: Charges,
    space_jobs: Jobs,
    /// The longest file of each backing device, asked when it first matters.
    longest_files: RwLock<Vec<(u64, u64)>>,
    /// Files with an error of writing, by node id.
    failing: Mutex<std::collections::BTreeSet<u64>>,
    backlog_bytes: AtomicU64,
    kernel_pages: OnceLock<Box<dyn KernelPages>>,
    look_anew: LookAnew,
    shared: Shared,
    virtual_files: VirtualFiles,
    stats: Stats,
}

impl Filesystem {
    /// Attaches to the arena: empty for a new mount, else with what a former worker left, which
    /// is taken over. Starts the pool, and lanes as backing devices are met.
    pub fn attach(parts: Parts) -> io::Result<Arc<Filesystem>> {
        let Parts { config, arena, backing_fd, storage, engines, descriptors } = parts;
        let rules = Rules::new(&config).map_err(io::Error::other)?;
        let isolation = Arc::new(Isolation::new(arena));
        let (slots, held) = SlotPool::rebuild(&arena);
        let limits = Limits::new(&arena);
        let nodes = Nodes::new(arena, backing_fd, engines.number_names())?;
        // Three tenths are left to what cannot be closed: directories, files without a name, requests.
        let paths = (descriptors / 5).clamp(64, 1 << 16) as usize;
        // A data file has up to two descriptors: buffered and direct.
        let files = (descriptors / 4).clamp(64, 1 << 18) as usize;
        let policy = Policy { max_age_ms: config.max_age_ms, closed_delay_ms: CLOSED_DELAY_MS };
        let filesystem = Arc::new_cyclic(|me| Filesystem {
            me: me.clone(),
            segment_bytes: arena.segment_bytes(),
            policy,
            rules,
            root: backing_fd,
            nodes,
            paths: DescriptorCache::new(paths),
            files: DescriptorCache::new(files),
            handles: Handles::default(),
            slots,
            room: Room::new(&limits),
            gate: WriterGate::new(&limits),
            pool: Pool::new("pool", isolation.clone()),
            askers: Pool::new("ask", isolation.clone()),
            asking: Asking::new(config.patience_ms),
            again: Again::default(),
            may_hang: AtomicBool::new(false),
            unread_command_lines: Arc::default(),
            engines,
            isolation,
            storage,
            throttle: Arc::new(Throttle::new(config.drain_rate)),
            devices: RwLock::default(),
            charges: Charges::new(arena.segments()),
            space_jobs: Jobs::new(),
            longest_files: RwLock::default(),
            failing: Mutex::default(),
            backlog_bytes: AtomicU64::new(0),
            kernel_pages: OnceLock::new(),
            look_anew: LookAnew::new(),
            shared: Shared::default(),
            virtual_files: VirtualFiles::new(),
            stats: Stats::default(),
            limits,
            config,
            arena,
        });
        filesystem.pool.start()?;
        filesystem.askers.start()?;
        filesystem.start_patience()?;
        if filesystem.engines.is_any_below() {
            filesystem.note_may_hang();
        }
        filesystem.start_reserving()?;
        filesystem.start_gate()?;
        filesystem.start_looking_anew()?;
        filesystem.rebuild(held)?;
        filesystem.hold_first_space()?;
        Ok(filesystem)
    }

    /// What the kernel may have in flight, which the session has to agree with it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &std::path::Path {
        &self.config.mountpoint
    }

    /// Whether the kernel is to collect writes in its page cache.
    pub fn uses_writeback_cache(&self) -> bool {
        self.config.writeback_cache
    }

    /// The steps in which the backing directory's filesystem keeps times: a nanosecond where that is
    /// not known.
    pub fn time_step(&self) -> Duration {
        Duration::from_nanos(self.config.abilities.time_step_ns.unwrap_or(1))
    }

    /// The figures that survive the worker.
    pub fn counters(&self) -> &crate::arena::Counters {
        self.arena.counters()
    }

    /// Runs `job` on a thread that may wait for the disk, or for other requests to be answered.
    pub fn on_pool(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.run(job);
    }

    /// What keeps apart what workers died of.
    pub fn isolation(&self) -> Arc<Isolation> {
        self.isolation.clone()
    }

    fn root(&self) -> BorrowedFd<'_> {
        // SAFETY: opened by the keeper before the mount and never closed.
        unsafe { BorrowedFd::borrow_raw(self.root) }
    }

    fn arc(&self) -> Arc<Filesystem> {
        self.me.upgrade().expect("methods are called through an Arc")
    }

    fn root_dev(&self) -> io::Result<u64> {
        self.nodes
            .read()
            .get(&nodes::ROOT_ID)
            .map(|root| root.identity.dev)
            .map_or_else(|| Ok(crate::backing::attr(self.root())?.dev), Ok)
    }

    /// What belongs to a backing device; its lanes are started when it is first asked for.
    fn device(&self, dev: u64) -> io::Result<Device> {
        let find = |devices: &Vec<(u64, Device)>| {
            devices.iter().find(|(known, _)| *known == dev).map(|(_, device)| device.clone())
        };
        if let Some(device) = find(&self.devices.read().expect("no panics under this lock")) {
            return Ok(device);
        }
        let crew = self.crew(dev);
        let mut devices = self.devices.write().expect("no panics under this lock");
        if let Some(device) = find(&devices) {
            return Ok(device);
        }
        let queue = Arc::new(LaneQueue::new(self.policy, crew, self.look_at_reads(dev, &crew)));
        let source: Arc<dyn crate::drain::Source> = self.arc();
        crate::drain::spawn_lanes(
            &queue,
            &source,
            &self.storage,
            &self.throttle,
            self.arena,
            &self.isolation,
        )?;
        let space = Arc::new(Space::new(self.config.min_free_bytes));
        let chunk = Arc::new(Chunk::new(&self.config));
        let device = Device { queue, space, chunk, recent: Arc::default() };
        devices.push((dev, device.clone()));
        Ok(device)
    }

    /// Several lanes leave a disk to nobody: they are asked for where heads do not matter. Nor does
    /// one while memory is full: programs would be stopped.
    fn look_at_reads(&self, dev: u64, crew: &Crew) -> Option<LookAtReads> {
        let reads = DiskReads::of_disk_with_heads(dev).filter(|_| crew.lanes.most() == 1)?;
        let (me, limit_bytes) = (self.me.clone(), self.limits.limit_bytes);
        Some(Box::new(move || {
            let held_bytes = me.upgrade().map_or(0, |me| me.held_bytes());
            let ReadSoFar { bytes, under_way } = reads.look();
            Look { reads: Reads { bytes, under_way }, is_urgent: held_bytes > limit_bytes }
        }))
    }

    /// More than one lane makes a disk with heads seek, which need not be tried.
    pub(super) fn lanes_of(&self, dev: u64) -> Lanes {
        match self.config.lanes {
            count if !self.config.lanes_auto => Lanes::fixed(count),
            _ if is_rotational(dev) == Some(true) => Lanes::fixed(1),
            _ => Lanes::measured(LANES_MAX),
        }
    }

    fn each_queue(&self, mut act: impl FnMut(&LaneQueue)) {
        for (_, device) in self.devices.read().expect("no panics under this lock").iter() {
            act(&device.queue);
        }
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests;
