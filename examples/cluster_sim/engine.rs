//! The storage engine: servers, each with one queue, served in the order of arrival.
//!
//! When a request will be done is known when it arrives, since nothing overtakes and the time in
//! which the first server is bad is known from the beginning.

use std::collections::VecDeque;

use crate::random::Random;
use crate::setup::{Fault, Setup, Trouble};

/// The server that is slow or fails.
pub const BAD: usize = 0;

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    pub at_us: u64,
    pub is_taken: bool,
}

#[derive(Debug, Default)]
struct Server {
    /// When those in the queue are done.
    queue: VecDeque<u64>,
    free_us: u64,
    busy_us: u64,
}

pub struct Engine {
    servers: Vec<Server>,
    request_us: u64,
    bytes_per_s: u64,
    object_bytes: u64,
    width: usize,
    seed: u64,
    trouble: Option<Trouble>,
}

impl Engine {
    pub fn new(setup: &Setup) -> Engine {
        Engine {
            servers: (0..setup.servers).map(|_| Server::default()).collect(),
            request_us: setup.request_us,
            bytes_per_s: setup.server_bytes_per_s,
            object_bytes: setup.object_bytes,
            width: setup.width,
            seed: setup.seed,
            trouble: setup.trouble,
        }
    }

    /// Where the byte lies.
    pub fn server_of(&self, stream: usize, offset: u64) -> usize {
        let stripe = (offset / self.object_bytes) as usize % self.width;
        (self.first_server(stream) + stripe) % self.servers.len()
    }

    /// Whether the file has objects on the bad server.
    pub fn is_on_bad(&self, stream: usize) -> bool {
        let first = self.first_server(stream);
        (0..self.width).any(|stripe| (first + stripe) % self.servers.len() == BAD)
    }

    fn first_server(&self, stream: usize) -> usize {
        Random(self.seed ^ (stream as u64) << 20).below(self.servers.len() as u64) as usize
    }

    /// What a request takes of a server that works.
    pub fn work_us(&self, bytes: u64) -> u64 {
        self.request_us + bytes * 1_000_000 / self.bytes_per_s
    }

    /// A request comes to a server: how it ends.
    pub fn arrive(&mut self, server: usize, bytes: u64, now_us: u64) -> Fate {
        let work_us = self.work_us(bytes);
        let trouble = self.trouble.filter(|_| server == BAD);
        let server = &mut self.servers[server];
        let begin_us = server.free_us.max(now_us);
        let fate = match trouble {
            None => Fate { at_us: begin_us + work_us, is_taken: true },
            Some(trouble) => fate(&trouble, begin_us, work_us, now_us),
        };
        if fate.is_taken {
            server.busy_us += work_us;
        }
        server.free_us = fate.at_us.max(server.free_us);
        server.queue.push_back(fate.at_us);
        fate
    }

    /// Requests in a server's queue, with the one that is served.
    pub fn queued(&mut self, server: usize, now_us: u64) -> usize {
        let queue = &mut self.servers[server].queue;
        while queue.front().is_some_and(|done_us| *done_us <= now_us) {
            queue.pop_front();
        }
        queue.len()
    }

    /// How long somebody who came now would wait to be served.
    pub fn wait_us(&self, server: usize, now_us: u64) -> u64 {
        self.servers[server].free_us.saturating_sub(now_us)
    }

    /// Work of all servers in requests that were taken.
    pub fn busy_us(&self) -> u64 {
        self.servers.iter().map(|server| server.busy_us).sum()
    }
}

/// Of work that begins at `begin_us` for somebody who came at `now_us`.
fn fate(trouble: &Trouble, begin_us: u64, work_us: u64, now_us: u64) -> Fate {
    let done_us = done_us(trouble, begin_us, work_us);
    let is_down = trouble.fault == Fault::Refuses && now_us < trouble.to_us;
    if is_down && done_us > trouble.from_us {
        return Fate { at_us: now_us.max(trouble.from_us), is_taken: false };
    }
    Fate { at_us: done_us, is_taken: true }
}

/// When work is done that is slower, or rests, meanwhile.
fn done_us(trouble: &Trouble, begin_us: u64, work_us: u64) -> u64 {
    let (from_us, to_us, speed) = (trouble.from_us, trouble.to_us, trouble.speed());
    let before_us = from_us.saturating_sub(begin_us).min(work_us);
    let left_us = work_us - before_us;
    let at_us = begin_us + before_us;
    if left_us == 0 || at_us >= to_us {
        return at_us + left_us;
    }
    let possible_us = ((to_us - at_us) as f64 * speed) as u64;
    if left_us <= possible_us {
        at_us + (left_us as f64 / speed) as u64
    } else {
        to_us + left_us - possible_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_slower_or_rests_while_the_server_is_bad() {
        let slow = Trouble { fault: Fault::Slow, from_us: 1000, to_us: 2000 };
        let hangs = Trouble { fault: Fault::Hangs, ..slow };
        for (trouble, begin_us, work_us, wanted_us) in [
            (slow, 0, 1000, 1000),
            (slow, 900, 150, 1500),
            (slow, 1500, 10, 1600),
            (slow, 1500, 100, 2050),
            (slow, 2000, 100, 2100),
            (hangs, 900, 100, 1000),
            (hangs, 900, 150, 2050),
            (hangs, 1500, 10, 2010),
        ] {
            let found_us = done_us(&trouble, begin_us, work_us);
            assert_eq!(found_us, wanted_us, "{trouble:?} {begin_us} {work_us}");
        }
    }

    #[test]
    fn who_waits_when_a_server_goes_down_is_refused_and_who_was_served_is_not() {
        let down = Trouble { fault: Fault::Refuses, from_us: 1000, to_us: 2000 };
        assert_eq!(fate(&down, 900, 100, 900), Fate { at_us: 1000, is_taken: true });
        assert_eq!(fate(&down, 900, 101, 100), Fate { at_us: 1000, is_taken: false });
        assert_eq!(fate(&down, 1500, 10, 1500), Fate { at_us: 1500, is_taken: false });
        assert_eq!(fate(&down, 2000, 10, 2000), Fate { at_us: 2010, is_taken: true });
    }
}
