//! When a WRITE may be acknowledged.
//!
//! The data of a WRITE is in the arena already when it is offered (a reserve is kept for what
//! the kernel may have in flight); only its reply is held back while the bytes held exceed the
//! limit. A writer that is acknowledged will soon send the next request of about the same size,
//! so a grant counts against the room left. Room is given out in small shares, deficit
//! round-robin over files: a file gets a share of bytes each time round and keeps what it could
//! not use for a request larger than that. Rejected: one order of arrival for all, because a
//! file with many requests in flight would take most of the room.
//!
//! `fs` offers, `drain` grants as memory comes free; both under the caller's lock. The ticket is
//! whatever sends the reply: replies go out after the lock is released.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::FileId;

/// A share is at least a page, the smallest WRITE of the writeback cache: a request of 1 MiB
/// then waits for at most 256 visits.
const MIN_SHARE_BYTES: u64 = 4 << 10;

/// A reply that may be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted<T> {
    /// What was offered.
    pub ticket: T,
    /// How long it was held back.
    pub waited_ms: u64,
}

#[derive(Debug)]
struct Parked<T> {
    bytes: u64,
    since_ms: u64,
    ticket: T,
}

/// The parked requests of one file; never empty.
#[derive(Debug)]
struct Waiters<T> {
    parked: VecDeque<Parked<T>>,
    /// Bytes the file may be granted in this visit.
    credit_bytes: u64,
}

/// Holds replies back while memory is short. Every ticket comes out exactly once.
#[derive(Debug)]
pub struct Admission<T> {
    limit_bytes: u64,
    share_bytes: u64,
    files: HashMap<FileId, Waiters<T>>,
    /// The files that wait, each once; the visit is at the front.
    ring: VecDeque<FileId>,
    /// Whether the file in front got its share for this visit already.
    front_has_share: bool,
    /// How many requests were parked at which time.
    parked_at: BTreeMap<u64, usize>,
    waiting: usize,
    waiting_bytes: u64,
}

impl<T> Admission<T> {
    /// Nobody waits. Up to `limit_bytes` held, requests pass at once; `share_bytes` is what one
    /// file is granted before the next one's turn (raised to a page).
    pub fn new(limit_bytes: u64, share_bytes: u64) -> Self {
        Self {
            limit_bytes,
            share_bytes: share_bytes.max(MIN_SHARE_BYTES),
            files: HashMap::new(),
            ring: VecDeque::new(),
            front_has_share: false,
            parked_at: BTreeMap::new(),
            waiting: 0,
            waiting_bytes: 0,
        }
    }

    /// Asks to acknowledge a request whose data is counted in `held_bytes`. `Some`: now, which
    /// is when no more than the limit is held and nobody waits. `None`: parked.
    pub fn offer(
        &mut self,
        file: FileId,
        bytes: u64,
        held_bytes: u64,
        now_ms: u64,
        ticket: T,
    ) -> Option<T> {
        if self.waiting == 0 && held_bytes <= self.limit_bytes {
            return Some(ticket);
        }
        let waiters = self.files.entry(file).or_insert_with(|| {
            self.ring.push_back(file);
            Waiters { parked: VecDeque::new(), credit_bytes: 0 }
        });
        waiters.parked.push_back(Parked { bytes, since_ms: now_ms, ticket });
        *self.parked_at.entry(now_ms).or_default() += 1;
        self.waiting += 1;
        self.waiting_bytes += bytes;
        None
    }

    /// Appends the replies that may be sent while `held_bytes` are held: up to the room below
    /// the limit, at least one when there is any room, all when nothing is held. In order within
    /// a file. To be called whenever memory was freed; what a call grants is not remembered, so
    /// calling it again without need gives the same room out twice. While requests wait, keep
    /// [`Urgency::Pressure`](super::Urgency::Pressure) up: else small and young data is not
    /// written, nothing is freed, and nobody calls.
    pub fn grant(&mut self, held_bytes: u64, now_ms: u64, out: &mut Vec<Granted<T>>) {
        if held_bytes == 0 {
            return self.drain_all(now_ms, out);
        }
        let Some(mut room_bytes) = self.limit_bytes.checked_sub(held_bytes) else { return };
        let mut may_exceed = room_bytes > 0;
        while let Some(bytes) = self.visit_next() {
            if bytes > room_bytes && !may_exceed {
                return;
            }
            room_bytes = room_bytes.saturating_sub(bytes);
            may_exceed = false;
            self.release_front(now_ms, out);
        }
    }

    /// Appends the replies held back for one file, which are to be errors.
    pub fn refuse(&mut self, file: FileId, now_ms: u64, out: &mut Vec<Granted<T>>) {
        let Some(waiters) = self.files.remove(&file) else { return };
        if self.ring.front() == Some(&file) {
            self.front_has_share = false;
        }
        self.ring.retain(|other| *other != file);
        for parked in waiters.parked {
            out.push(self.unpark(parked, now_ms));
        }
    }

    /// Appends all replies held back, for unmounting.
    pub fn drain_all(&mut self, now_ms: u64, out: &mut Vec<Granted<T>>) {
        while self.visit_next().is_some() {
            self.release_front(now_ms, out);
        }
    }

    /// Requests held back.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of the requests held back.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// How long the oldest of them waits.
    pub fn oldest_wait_ms(&self, now_ms: u64) -> Option<u64> {
        self.parked_at.first_key_value().map(|(since_ms, _)| now_ms.saturating_sub(*since_ms))
    }

    /// Goes round until the file in front has credit for its first request; the bytes of that.
    /// Ends, because each round adds a share to every file.
    fn visit_next(&mut self) -> Option<u64> {
        loop {
            let file = self.ring.front()?;
            let waiters = self.files.get_mut(file).expect("a file in the ring has waiters");
            if !self.front_has_share {
                waiters.credit_bytes += self.share_bytes;
                self.front_has_share = true;
            }
            let bytes = waiters.parked.front().expect("waiters are never empty").bytes;
            if bytes <= waiters.credit_bytes {
                return Some(bytes);
            }
            self.ring.rotate_left(1);
            self.front_has_share = false;
        }
    }

    /// Lets the request that [`Admission::visit_next`] found go.
    fn release_front(&mut self, now_ms: u64, out: &mut Vec<Granted<T>>) {
        let file = *self.ring.front().expect("visit_next found a file");
        let waiters = self.files.get_mut(&file).expect("a file in the ring has waiters");
        let parked = waiters.parked.pop_front().expect("waiters are never empty");
        waiters.credit_bytes -= parked.bytes;
        if waiters.parked.is_empty() {
            self.files.remove(&file);
            self.ring.pop_front();
            self.front_has_share = false;
        }
        out.push(self.unpark(parked, now_ms));
    }

    /// Counts a request that waits no longer.
    fn unpark(&mut self, parked: Parked<T>, now_ms: u64) -> Granted<T> {
        self.waiting -= 1;
        self.waiting_bytes -= parked.bytes;
        if let Some(count) = self.parked_at.get_mut(&parked.since_ms) {
            *count -= 1;
            if *count == 0 {
                self.parked_at.remove(&parked.since_ms);
            }
        }
        let waited_ms = now_ms.saturating_sub(parked.since_ms);
        Granted { ticket: parked.ticket, waited_ms }
    }
}
