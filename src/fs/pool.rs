//! Threads that may wait for the disk, so that the FUSE threads need not.
//!
//! The queue is bounded by what the kernel has in flight: every job holds one request's reply.

use std::io;

use crossbeam_channel::{Receiver, Sender, unbounded};

/// Enough to keep a disk's queue busy with reads while some threads wait in fsync(2).
const THREADS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of threads.
pub(super) struct Pool {
    sender: Sender<Job>,
    receiver: Receiver<Job>,
}

impl Pool {
    pub(super) fn new() -> Pool {
        let (sender, receiver) = unbounded();
        Pool { sender, receiver }
    }

    pub(super) fn start(&self) -> io::Result<()> {
        for number in 0..THREADS {
            let jobs = self.receiver.clone();
            std::thread::Builder::new().name(format!("pool-{number}")).spawn(move || {
                for job in jobs {
                    job();
                }
            })?;
        }
        Ok(())
    }

    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.sender.send(Box::new(job)).expect("the pool keeps a receiver");
    }
}
