//! Threads that may wait for the disk, so that the FUSE threads need not.
//!
//! The queue is bounded by what the kernel has in flight: every job holds one request's reply. Where
//! what is below may hang, there are more threads when all are busy: those that hang hold up no
//! others.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::clock::boottime_ms;
use crate::isolation::{HandedOver, Isolation};

/// Enough to keep a disk's queue busy with reads while some threads wait in fsync(2).
const THREADS: usize = 8;
/// Where threads may hang: each binds a request, and costs some tens of KiB.
const THREADS_MAX: usize = 128;

/// With its number and the request that it belongs to.
type Job = (u64, HandedOver, Box<dyn FnOnce() + Send>);

#[derive(Default)]
struct Crowd {
    threads: usize,
    next_job: u64,
    /// Jobs that have not ended, by number: since when, in milliseconds of CLOCK_BOOTTIME.
    jobs: BTreeMap<u64, u64>,
}

/// A set of threads.
pub(super) struct Pool {
    name: &'static str,
    sender: Sender<Job>,
    receiver: Receiver<Job>,
    isolation: Arc<Isolation>,
    may_grow: AtomicBool,
    crowd: Arc<Mutex<Crowd>>,
}

fn lock(crowd: &Mutex<Crowd>) -> MutexGuard<'_, Crowd> {
    crowd.lock().expect("no panics under this lock")
}

impl Pool {
    pub(super) fn new(name: &'static str, isolation: Arc<Isolation>) -> Pool {
        let (sender, receiver) = unbounded();
        let (may_grow, crowd) = Default::default();
        Pool { name, sender, receiver, isolation, may_grow, crowd }
    }

    pub(super) fn start(&self) -> io::Result<()> {
        let mut crowd = lock(&self.crowd);
        while crowd.threads < THREADS {
            self.add_thread(&mut crowd)?;
        }
        Ok(())
    }

    /// From now on what is below may hang.
    pub(super) fn may_grow(&self) {
        self.may_grow.store(true, Ordering::Relaxed);
    }

    fn add_thread(&self, crowd: &mut Crowd) -> io::Result<()> {
        let (jobs, isolation) = (self.receiver.clone(), self.isolation.clone());
        let name = format!("{}-{}", self.name, crowd.threads);
        let mine = self.crowd.clone();
        std::thread::Builder::new().name(name).spawn(move || {
            for (number, handed, job) in jobs {
                let _in_hand = isolation.resume(handed);
                job();
                lock(&mine).jobs.remove(&number);
            }
        })?;
        crowd.threads += 1;
        Ok(())
    }

    /// Jobs begun or queued before `since_ms` that have not ended: how many, and since when.
    pub(super) fn older_than(&self, since_ms: u64) -> (u64, Option<u64>) {
        let crowd = lock(&self.crowd);
        let old = || crowd.jobs.values().filter(|at_ms| **at_ms <= since_ms);
        (old().count() as u64, old().min().copied())
    }

    /// Runs the rest of the request that this thread has in hand, if any.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.run_handed(self.isolation.hand_over(), job);
    }

    /// As [`Pool::run`], of a request that was handed over before.
    pub(super) fn run_handed(&self, handed: HandedOver, job: impl FnOnce() + Send + 'static) {
        let mut crowd = lock(&self.crowd);
        let number = crowd.next_job;
        crowd.next_job += 1;
        crowd.jobs.insert(number, boottime_ms());
        let may_grow = crowd.threads < THREADS_MAX && self.may_grow.load(Ordering::Relaxed);
        if may_grow
            && crowd.jobs.len() > crowd.threads
            && let Err(error) = self.add_thread(&mut crowd)
        {
            // The others do it, one after the other.
            log::warn!("no more threads: {error}");
        }
        drop(crowd);
        self.sender.send((number, handed, Box::new(job))).expect("the pool keeps a receiver");
    }
}
