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
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::attrs::{Lasts, NodeAttr};
use super::nodes::Node;
use super::room::Limits;
use super::{Filesystem, Reply};
use crate::clock::boottime_ms;
use crate::isolation::HandedOver;
use crate::schedule::{FileId, Gate, Pass};

/// Whoever waits is looked at so often: a disk of 100 MB/s takes 25 pages in that time.
const TICK: Duration = Duration::from_millis(1);

/// A reply that says how long the attributes last.
type Held = Box<dyn FnOnce(Pass) + Send>;

/// The gate, and who wakes its thread.
pub(super) struct WriterGate {
    gate: Mutex<Gate<Held>>,
    /// Mirrors whether it is shut, for the fast path.
    is_shut: AtomicBool,
    held: (Sender<()>, Receiver<()>),
}

impl WriterGate {
    pub(super) fn new(limits: &Limits) -> WriterGate {
        WriterGate {
            gate: Mutex::new(Gate::new(limits.gate_bytes, limits.limit_bytes)),
            is_shut: AtomicBool::new(false),
            held: bounded(1),
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Gate<Held>) -> R) -> R {
        act(&mut self.gate.lock().expect("no panics under this lock"))
    }

    /// Programs held.
    pub(super) fn waiting(&self) -> u64 {
        self.with(|gate| gate.waiting()) as u64
    }

    pub(super) fn oldest_wait_ms(&self) -> Option<u64> {
        self.with(|gate| gate.oldest_wait_ms(boottime_ms()))
    }
}

impl Filesystem {
    /// Starts the thread that lets programs pass as time goes by, while any wait. It lives as long
    /// as the process.
    pub(super) fn start_gate(&self) -> io::Result<()> {
        let (me, held) = (self.me.clone(), self.gate.held.1.clone());
        std::thread::Builder::new().name("gate".into()).spawn(move || {
            for () in held {
                let Some(me) = me.upgrade() else { return };
                while me.let_pass() {
                    std::thread::sleep(TICK);
                }
            }
        })?;
        Ok(())
    }

    /// GETATTR of a program that has the file open, and is likely to write: the reply waits while
    /// memory is scarce, for a fraction of a second at most.
    pub fn getattr_before_write(&self, id: u64, reply: Reply<NodeAttr>) {
        let found = self.getattr(id);
        let mut attr = match found {
            Ok(attr) if attr.lasts == Lasts::Once => attr,
            found => return reply(found),
        };
        // Makes the kernel throw the reply away: if it took it, it would ask for the capabilities that
        // a write has to clear, too. It drops nothing, since the program has the file open.
        self.forget_attributes(id);
        let (me, since) = (self.arc(), Instant::now());
        let held: Held = Box::new(move |pass| {
            me.stats.note_stall(since.elapsed());
            attr.lasts = pass.into();
            reply(Ok(attr));
        });
        let held_bytes = self.held_bytes();
        let passing = self.gate.with(|gate| gate.ask(FileId(id), held_bytes, boottime_ms(), held));
        match passing {
            Some(held) => held(self.pass()),
            // Full: it is awake.
            None => drop(self.gate.held.0.try_send(())),
        }
    }

    /// How long attributes of a file that is written last.
    pub(super) fn pass(&self) -> Pass {
        if self.gate.is_shut.load(Ordering::Relaxed) { Pass::Once } else { Pass::Open }
    }

    /// Bytes of a file arrived: whoever writes it is to ask from now on, if memory is scarce.
    pub(super) fn gate_arrived(&self, node: &Node, bytes: usize) {
        if !self.gate.is_shut.load(Ordering::Relaxed) {
            return;
        }
        let (id, bytes) = (node.id(), bytes as u64);
        if self.gate.with(|gate| gate.note_arrived(FileId(id), bytes, boottime_ms())) {
            self.have_asked(vec![id]);
        }
    }

    /// The programs that write these files are to ask from now on.
    fn have_asked(&self, ids: Vec<u64>) {
        let me = self.arc();
        // The kernel may drop a file by that, which waits for its writes to be answered.
        self.pool.run_handed(HandedOver::default(), move || {
            ids.into_iter().for_each(|id| me.forget_attributes(id));
        });
    }

    fn forget_attributes(&self, id: u64) {
        if let Some(pages) = self.kernel_pages.get() {
            pages.forget_attributes(id);
        }
    }

    /// Files that a program has open, and that may be written.
    fn open_for_data(&self) -> Vec<u64> {
        let nodes = self.nodes.read();
        let is_open = |node: &Node| self.arena.nodes().open(node.slot) > 0;
        let with_data = nodes.values().filter(|node| node.data_if_any().is_some());
        with_data.filter(|node| is_open(node)).map(|node| node.id()).collect()
    }

    /// What is held has changed, by `freed_bytes` that came back among others.
    pub(super) fn note_held(&self, held_bytes: u64, freed_bytes: u64) {
        let was_shut = self.gate.is_shut.load(Ordering::Relaxed);
        let may_matter = held_bytes > self.limits.gate_bytes || was_shut || freed_bytes > 0;
        if !may_matter {
            return;
        }
        let now_ms = boottime_ms();
        let is_shut = self.gate.with(|gate| {
            if freed_bytes > 0 {
                gate.note_freed(freed_bytes, held_bytes, now_ms);
            }
            gate.note_held(held_bytes, now_ms)
        });
        if self.gate.is_shut.swap(is_shut, Ordering::Relaxed) != is_shut && is_shut {
            // Not only those of which bytes arrive: the kernel may hold many of a few.
            self.have_asked(self.open_for_data());
        }
    }

    /// Whether any still wait.
    fn let_pass(&self) -> bool {
        let held_bytes = self.held_bytes();
        let mut passing = Vec::new();
        let (pass, waiting) = self.gate.with(|gate| {
            gate.grant(held_bytes, boottime_ms(), &mut passing);
            (gate.pass(), gate.waiting())
        });
        passing.into_iter().for_each(|held| held(pass));
        waiting > 0
    }
}
