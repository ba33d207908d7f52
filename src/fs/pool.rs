//! Threads that may wait for the disk, so that the FUSE threads need not.
//!
//! The queue is bounded by what the kernel has in flight: every job holds one request's reply.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::isolation::{HandedOver, Isolation};

/// Enough to keep a disk's queue busy with reads while some threads wait in fsync(2).
const THREADS: usize = 8;

/// With the request that it belongs to.
type Job = (HandedOver, Box<dyn FnOnce() + Send>);

/// A fixed set of threads.
pub(super) struct Pool {
    sender: Sender<Job>,
    receiver: Receiver<Job>,
    isolation: Arc<Isolation>,
}

impl Pool {
    pub(super) fn new(isolation: Arc<Isolation>) -> Pool {
        let (sender, receiver) = unbounded();
        Pool { sender, receiver, isolation }
    }

    pub(super) fn start(&self) -> io::Result<()> {
        for number in 0..THREADS {
            let (jobs, isolation) = (self.receiver.clone(), self.isolation.clone());
            std::thread::Builder::new().name(format!("pool-{number}")).spawn(move || {
                for (handed, job) in jobs {
                    let _in_hand = isolation.resume(handed);
                    job();
                }
            })?;
        }
        Ok(())
    }

    /// Runs the rest of the request that this thread has in hand, if any.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.run_handed(self.isolation.hand_over(), job);
    }

    /// As [`Pool::run`], of a request that was handed over before.
    pub(super) fn run_handed(&self, handed: HandedOver, job: impl FnOnce() + Send + 'static) {
        self.sender.send((handed, Box::new(job))).expect("the pool keeps a receiver");
    }
}
