//! Holds programs back before they write while memory is scarce: [`Gate`] says who may go on.
//!
//! With its writeback cache the kernel takes bytes without asking. But before each write(2) it asks
//! for the file's attributes, when those it has are no longer valid (`fuse_cache_write_iter` of the
//! kernel, GETATTR with a file handle; stat(2) comes without one). So a file of which bytes arrive
//! while memory is scarce has its attributes invalidated, and the replies then wait here.
//! Rejected: late acknowledgements alone. The kernel's own throttle stops the programs then, in no
//! order, some of them for more than a second, and needs seconds to learn how fast the disk is.
//!
//! What is held here has no bytes yet. Writes through mappings, and those of a mount without the
//! writeback cache, do not ask; [`room`](super::room) bounds what they fill.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::attrs::{Lasts, NodeAttr};
use super::nodes::Node;
use super::room::Limits;
use super::treatment::passes_through;
use super::{Filesystem, Reply};
use crate::clock::boottime_us;
use crate::priority;
use crate::schedule::{FileId, Gate, Pass, Seen};

/// Whoever waits is looked at so often: a disk of 100 MB/s takes 25 pages in that time.
const TICK: Duration = Duration::from_millis(1);

/// A reply that lets a program write a file.
struct Held {
    id: u64,
    reply: Box<dyn FnOnce(Option<Lasts>) + Send>,
}

/// Whose programs are to ask from now on.
enum Asked {
    File(u64),
    /// Of all files that are open, and may be written.
    All,
}

/// What the thread of the gate shares with those that ask.
struct Shared {
    gate: Mutex<Gate<Held>>,
    changed: Condvar,
    is_over: AtomicBool,
    /// Each file once while the gate is shut: as many as there are.
    asked: (Sender<Asked>, Receiver<Asked>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Gate<Held>> {
        self.gate.lock().expect("no panics under this lock")
    }

    /// Waits until a pass ends, whoever waits is to be looked at again, or something has changed.
    fn wait_for_work(&self) {
        let gate = self.lock();
        if self.is_over.load(Ordering::Relaxed) || !self.asked.1.is_empty() {
            return;
        }
        let until_end = gate
            .next_end_us()
            .map(|at_us| Duration::from_micros(at_us.saturating_sub(boottime_us()).max(1)));
        let tick = (gate.waiting() > 0).then_some(TICK);
        match until_end.into_iter().chain(tick).min() {
            Some(wait) => drop(self.changed.wait_timeout(gate, wait)),
            None => drop(self.changed.wait(gate)),
        }
    }

    /// Tells the thread what it looks at without the lock: under it, so that it is not between
    /// looking and waiting.
    fn wake(&self) {
        let _gate = self.lock();
        self.changed.notify_one();
    }
}

/// The gate, and who wakes its thread.
pub(super) struct WriterGate {
    shared: Arc<Shared>,
    /// Mirrors whether it is shut, for the fast path.
    is_shut: AtomicBool,
    /// Whether the pool has the kernel look a file up, to learn its size.
    is_looking_up: AtomicBool,
}

impl Drop for WriterGate {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.wake();
    }
}

impl WriterGate {
    pub(super) fn new(limits: &Limits) -> WriterGate {
        let shared = Shared {
            gate: Mutex::new(Gate::new(limits.gate_bytes, limits.limit_bytes)),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
            asked: unbounded(),
        };
        WriterGate {
            shared: Arc::new(shared),
            is_shut: AtomicBool::new(false),
            is_looking_up: AtomicBool::new(false),
        }
    }

    pub(super) fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Relaxed)
    }

    /// Programs held.
    pub(super) fn waiting(&self) -> u64 {
        self.shared.lock().waiting() as u64
    }

    pub(super) fn oldest_wait_ms(&self) -> Option<u64> {
        self.shared.lock().oldest_wait_us(boottime_us()).map(|wait_us| wait_us / 1000)
    }

    /// The thread of the gate makes the kernel ask: it gets a processor before the programs, and
    /// while they are not asked they write at the speed of memory.
    fn have_asked(&self, asked: Asked) {
        // The other end is here, too.
        drop(self.shared.asked.0.send(asked));
        self.shared.wake();
    }
}

impl Filesystem {
    /// Starts the thread that lets programs pass as time goes by, and makes them ask again. It lives
    /// as long as the filesystem.
    pub(super) fn start_gate(&self) -> io::Result<()> {
        let (me, shared) = (self.me.clone(), self.gate.shared.clone());
        std::thread::Builder::new().name("gate".into()).spawn(move || {
            priority::run_at_once();
            while !shared.is_over.load(Ordering::Relaxed) {
                let Some(filesystem) = me.upgrade() else { return };
                filesystem.let_pass();
                drop(filesystem);
                shared.wait_for_work();
            }
        })?;
        Ok(())
    }

    /// GETATTR of a program that has the file open, and is likely to write: the reply waits while
    /// memory is scarce, for a fraction of a second at most.
    pub fn hold_before_write(&self, found: io::Result<NodeAttr>, reply: Reply<NodeAttr>) {
        let mut attr = match found {
            Ok(attr) if attr.lasts == Lasts::Once => attr,
            found => return reply(found),
        };
        let id = attr.id;
        let (me, since) = (self.arc(), Instant::now());
        let told = move |lasts: Option<Lasts>| {
            me.note_stall(since.elapsed());
            attr.lasts = lasts.unwrap_or_else(|| me.lasts_while_free(&attr));
            reply(Ok(attr));
        };
        let held = Held { id, reply: Box::new(told) };
        let (seen, held_bytes) = (self.seen_of(&attr), self.held_bytes());
        let mut gate = self.gate.shared.lock();
        let passing = gate.ask(FileId(id), seen, held_bytes, boottime_us(), held);
        // Who waits already is looked at soon.
        let is_news = passing.is_some() || gate.waiting() == 1;
        drop(gate);
        if is_news {
            self.gate.shared.changed.notify_one();
        }
        if let Some((held, pass)) = passing {
            self.let_write(held, pass);
        }
    }

    /// Bytes of a file arrived: whoever writes it is to ask from now on, if memory is scarce.
    pub(super) fn gate_arrived(&self, node: &Node, bytes: usize) {
        if !self.gate.is_shut() {
            return;
        }
        let (id, bytes) = (node.id(), bytes as u64);
        let is_new = self.gate.shared.lock().note_arrived(FileId(id), bytes, boottime_us());
        if is_new {
            self.gate.have_asked(Asked::File(id));
        }
    }

    /// Whether programs are to ask before they write to a file.
    pub(super) fn has_writers_ask(&self, node: &Node) -> bool {
        self.gate.is_shut() && !passes_through(node)
    }

    /// Somebody opened a file to write to it: attributes that the kernel has of it may last.
    pub(super) fn gate_opened(&self, node: &Node) {
        if self.has_writers_ask(node) {
            self.gate.have_asked(Asked::File(node.id()));
        }
    }

    fn seen_of(&self, attr: &NodeAttr) -> Seen {
        let size_bytes = self.size_in_kernel(attr.id);
        let in_kernel_bytes = size_bytes.map_or(0, |bytes| bytes.saturating_sub(attr.attr.size));
        let node = self.node(attr.id).ok();
        let dirty_bytes =
            node.as_ref().and_then(|node| Some(node.data_if_any()?.lock().buffer.dirty_bytes()));
        Seen { size_bytes, taken_bytes: in_kernel_bytes + dirty_bytes.unwrap_or(0) }
    }

    /// What its programs have written is part of it, also what the kernel has not sent yet.
    fn size_in_kernel(&self, id: u64) -> Option<u64> {
        let pages = self.kernel_pages.get()?;
        let node = self.node(id).ok()?;
        let path = self.path_of(&node);
        let numbers = [id, self.kernel_id(&node), self.nodes.ino_of(&node)];
        let size_bytes = pages.size_bytes(numbers, &path);
        if size_bytes.is_none() && !self.gate.is_looking_up.swap(true, Ordering::Relaxed) {
            let me = self.arc();
            self.pool.run(move || {
                if let Some(pages) = me.kernel_pages.get() {
                    pages.look_up(&path);
                }
                me.gate.is_looking_up.store(false, Ordering::Relaxed);
            });
        }
        size_bytes
    }

    fn forget_attributes(&self, id: u64) {
        if let (Some(pages), Ok(node)) = (self.kernel_pages.get(), self.node(id)) {
            pages.forget_attributes(self.kernel_id(&node));
        }
    }

    /// Files that a program has open, and that may be written.
    pub(super) fn open_for_data(&self) -> Vec<u64> {
        let nodes = self.nodes.read();
        let is_open = |node: &Node| self.arena.nodes().open(node.slot) > 0;
        let with_data = nodes.values().filter(|node| node.data_if_any().is_some());
        with_data.filter(|node| is_open(node)).map(|node| node.id()).collect()
    }

    /// What is held has changed, by `freed_bytes` that came back among others.
    pub(super) fn note_held(&self, held_bytes: u64, freed_bytes: u64) {
        let was_shut = self.gate.is_shut();
        // Memory may fill fast.
        let is_little = held_bytes < self.limits.gate_bytes / 32;
        let may_matter = !is_little || was_shut || freed_bytes > 0;
        if !may_matter {
            return;
        }
        let now_us = boottime_us();
        let mut gate = self.gate.shared.lock();
        if freed_bytes > 0 {
            gate.note_freed(freed_bytes, held_bytes, now_us);
        }
        let is_shut = gate.note_held(held_bytes, now_us);
        let soon_bytes = gate.filling_bytes();
        drop(gate);
        self.note_filling(soon_bytes);
        if self.gate.is_shut.swap(is_shut, Ordering::Relaxed) != is_shut && is_shut {
            // Not only those of which bytes arrive: the kernel may hold many of a few.
            self.gate.have_asked(Asked::All);
        }
    }

    fn let_pass(&self) {
        // First: while they do not know, they write at the speed of memory.
        for asked in self.gate.shared.asked.1.try_iter() {
            let ids = match asked {
                Asked::File(id) => vec![id],
                Asked::All => self.open_for_data(),
            };
            ids.into_iter().for_each(|id| self.have_asked(id));
        }
        let held_bytes = self.held_bytes();
        let (mut ended, mut passing) = (Vec::new(), Vec::new());
        let mut gate = self.gate.shared.lock();
        let now_us = boottime_us();
        gate.end_passes(now_us, &mut ended);
        gate.grant(held_bytes, now_us, &mut passing);
        drop(gate);
        ended.into_iter().for_each(|file| self.have_asked(file.0));
        passing.into_iter().for_each(|(held, pass)| self.let_write(held, pass));
    }

    fn let_write(&self, held: Held, pass: Pass) {
        let lasts = match pass {
            Pass::Once => {
                // Makes the kernel throw the reply away: if it took it, it would ask for the
                // capabilities that a write has to clear, too. It drops nothing, since the program
                // has the file open.
                self.forget_attributes(held.id);
                Some(Lasts::SOON)
            }
            // Made invalid when the pass is over, and for the case that our thread comes late then.
            Pass::Timed => Some(Lasts::Passing),
            Pass::Free => None,
        };
        (held.reply)(lasts);
    }

    /// Makes the kernel ask before the next write to a file. Not one that nobody has open: it might
    /// have to be dropped then, which waits.
    fn have_asked(&self, id: u64) {
        let is_open = |node: &Arc<Node>| self.arena.nodes().open(node.slot) > 0;
        if self.node(id).is_ok_and(|node| is_open(&node)) {
            self.forget_attributes(id);
        }
    }
}
