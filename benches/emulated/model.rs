//! A rotating disk, or a RAID of them, as a function of time: when is which request done?
//!
//! Pure: no I/O, no clock, no threads. [`Model::submit`] hands a request in, [`Model::next_done`]
//! takes the finished ones out, both with the time since the start. A late caller changes nothing:
//! the next request begins when the last one ended, not when somebody asked. Called by the
//! filesystem in `disk.rs` and by `tests/emulated.rs`. Offsets and lengths are in bytes.
//!
//! Whole arrays are modelled as one disk with the rate of its data disks together: their heads move
//! alike under large requests. What small ones could gain from many heads is left out.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the disk is like.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Drive {
    /// Its size, which is also what a full stroke passes over.
    pub capacity_bytes: u64,
    /// Bytes a second while the head stands over them.
    pub rate: u64,
    /// The shortest seek.
    pub track_to_track: Duration,
    /// The longest.
    pub full_stroke: Duration,
    /// One turn of the platter; half of it passes before the first byte after a seek.
    pub rotation: Duration,
    /// Requests among which the drive chooses; more wait outside in their order.
    pub queue: usize,
    /// Who has been in the queue for that long is served before anything cheaper.
    pub age_limit: Duration,
    /// Parity, if it is an array.
    pub stripe: Option<Stripe>,
}

impl Drive {
    /// A SATA disk of 7200 turns a minute, as it is at the inner third; of that size.
    pub fn sata(capacity_bytes: u64) -> Drive {
        Drive {
            capacity_bytes,
            rate: 100_000_000,
            track_to_track: Duration::from_millis(1),
            full_stroke: Duration::from_millis(16),
            rotation: Duration::from_micros(8333),
            queue: 32,
            age_limit: Duration::from_secs(1),
            stripe: None,
        }
    }

    /// How long `bytes` take under the head.
    pub fn transfer(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate as f64)
    }

    /// The time the head takes to move over `distance` bytes: it speeds up half the way and slows
    /// down the other half, hence the root.
    pub fn seek(&self, distance: u64) -> Duration {
        let part = (distance as f64 / self.capacity_bytes as f64).min(1.0).sqrt();
        self.track_to_track + self.full_stroke.saturating_sub(self.track_to_track).mul_f64(part)
    }

    /// Reading the old data and parity of a stripe, all disks at once, and coming round again.
    fn rewrite(&self, stripe: Stripe) -> Duration {
        self.rotation + self.transfer(stripe.bytes())
    }
}

/// The geometry of RAID5 and RAID6 alike: parity disks are read and written beside the others.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stripe {
    /// Disks without those for parity.
    pub data_disks: u64,
    /// What lies on one disk before the next one follows.
    pub unit_bytes: u64,
}

impl Stripe {
    /// The user's bytes of a whole stripe.
    pub fn bytes(self) -> u64 {
        self.data_disks * self.unit_bytes
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// A request of the host.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The host's name for it.
    pub id: u64,
    /// Read or write.
    pub direction: Direction,
    /// The first byte.
    pub start: u64,
    /// How many.
    pub bytes: u64,
}

impl Request {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

/// What the disk has done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Requests that were begun.
    pub requests: u64,
    /// How often the head had to move or to wait for the platter.
    pub seeks: u64,
    /// The time that took.
    pub seek_time: Duration,
    /// The time under the head.
    pub transfer_time: Duration,
    /// Stripes that were not written whole.
    pub rewrites: u64,
    /// What they cost on top.
    pub rewrite_time: Duration,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

impl Counters {
    /// The time in which it did something.
    pub fn busy(&self) -> Duration {
        self.seek_time + self.transfer_time + self.rewrite_time
    }

    /// What has been done since `earlier`.
    pub fn since(&self, earlier: &Counters) -> Counters {
        Counters {
            requests: self.requests - earlier.requests,
            seeks: self.seeks - earlier.seeks,
            seek_time: self.seek_time - earlier.seek_time,
            transfer_time: self.transfer_time - earlier.transfer_time,
            rewrites: self.rewrites - earlier.rewrites,
            rewrite_time: self.rewrite_time - earlier.rewrite_time,
            read_bytes: self.read_bytes - earlier.read_bytes,
            written_bytes: self.written_bytes - earlier.written_bytes,
        }
    }
}

/// A stripe that was begun at its start, or whose old contents were read: a write that goes on at
/// `at` fills it, as a controller's cache lets it; anything else leaves it as it is.
#[derive(Clone, Copy)]
struct Unfinished {
    at: u64,
    /// The old contents were read already.
    paid: bool,
}

/// What serving a request now would take.
struct Plan {
    positioning: Duration,
    moves: bool,
    rewrites: u32,
    rewriting: Duration,
    transfer: Duration,
    unfinished: Option<Unfinished>,
}

struct Queued {
    request: Request,
    since: Duration,
}

/// The disk at a moment.
pub struct Model {
    drive: Drive,
    head: u64,
    unfinished: Option<Unfinished>,
    /// What is being served, and when it will be done.
    serving: Option<(Request, Duration)>,
    /// When the last request ended.
    ended: Duration,
    /// Oldest first; at most `drive.queue`.
    queue: Vec<Queued>,
    outside: VecDeque<Request>,
    done: VecDeque<u64>,
    counters: Counters,
}

impl Model {
    /// A disk at rest, its head at the start.
    pub fn new(drive: Drive) -> Model {
        Model {
            drive,
            head: 0,
            unfinished: None,
            serving: None,
            ended: Duration::ZERO,
            queue: Vec::with_capacity(drive.queue),
            outside: VecDeque::new(),
            done: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a request that was issued at `now`; time must not go backwards.
    pub fn submit(&mut self, now: Duration, request: Request) {
        self.run_until(now);
        self.outside.push_back(request);
        self.admit(now);
        self.begin(now);
    }

    /// A request that is done at `now`, in the order of their ends.
    pub fn next_done(&mut self, now: Duration) -> Option<u64> {
        self.run_until(now);
        self.done.pop_front()
    }

    /// When the request that is being served will be done.
    pub fn busy_until(&self) -> Option<Duration> {
        self.serving.map(|(_, until)| until)
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn run_until(&mut self, now: Duration) {
        while let Some((request, until)) = self.serving
            && until <= now
        {
            self.done.push_back(request.id);
            self.serving = None;
            self.ended = until;
            self.admit(until);
            self.begin(until);
        }
    }

    fn admit(&mut self, now: Duration) {
        while self.queue.len() < self.drive.queue
            && let Some(request) = self.outside.pop_front()
        {
            self.queue.push(Queued { request, since: now });
        }
    }

    fn begin(&mut self, now: Duration) {
        if self.serving.is_some() || self.queue.is_empty() {
            return;
        }
        let request = self.queue.remove(self.choose(now)).request;
        let plan = self.plan(&request);
        let takes = plan.positioning + plan.rewriting + plan.transfer;
        self.serving = Some((request, now.max(self.ended) + takes));
        self.head = request.end();
        self.unfinished = plan.unfinished;
        self.count(&request, &plan);
    }

    fn choose(&self, now: Duration) -> usize {
        if now.saturating_sub(self.queue[0].since) >= self.drive.age_limit {
            return 0;
        }
        let cost = |queued: &Queued| {
            let plan = self.plan(&queued.request);
            // No drive goes backwards through what lies in one piece: its start comes first.
            let is_inside = !plan.positioning.is_zero() && self.follows_another(&queued.request);
            (is_inside, plan.positioning + plan.rewriting)
        };
        let cheapest = self.queue.iter().enumerate().min_by_key(|(_, queued)| cost(queued));
        cheapest.map_or(0, |(at, _)| at)
    }

    fn follows_another(&self, request: &Request) -> bool {
        self.queue.iter().any(|other| other.request.end() == request.start)
    }

    fn plan(&self, request: &Request) -> Plan {
        let (positioning, moves) = self.position(request.start);
        let (rewrites, unfinished) = self.stripes(request);
        let each = self.drive.stripe.map_or(Duration::ZERO, |stripe| self.drive.rewrite(stripe));
        let transfer = self.drive.transfer(request.bytes);
        Plan { positioning, moves, rewrites, rewriting: each * rewrites, transfer, unfinished }
    }

    /// The time until the head is over `start`, and whether it has to move for it: what lies close
    /// ahead comes by itself.
    fn position(&self, start: u64) -> (Duration, bool) {
        let distance = start.abs_diff(self.head);
        let turn = self.drive.seek(distance) + self.drive.rotation / 2;
        let pass = self.drive.transfer(distance);
        if start >= self.head && pass <= turn { (pass, false) } else { (turn, true) }
    }

    /// How many stripes have to be read because of this request, and what it leaves behind.
    fn stripes(&self, request: &Request) -> (u32, Option<Unfinished>) {
        let Some(stripe) = self.drive.stripe else { return (0, None) };
        let writes = request.direction == Direction::Write;
        let continued = self.unfinished.filter(|left| writes && left.at == request.start);
        let leaves = continued.is_none() && self.unfinished.is_some_and(|left| !left.paid);
        let mut rewrites = u32::from(leaves);
        if !writes {
            return (rewrites, None);
        }
        let enters_inside = continued.is_none() && !request.start.is_multiple_of(stripe.bytes());
        rewrites += u32::from(enters_inside);
        let first_is_paid = enters_inside || continued.is_some_and(|left| left.paid);
        let stays = request.start / stripe.bytes() == request.end() / stripe.bytes();
        let unfinished = (!request.end().is_multiple_of(stripe.bytes()))
            .then_some(Unfinished { at: request.end(), paid: stays && first_is_paid });
        (rewrites, unfinished)
    }

    fn count(&mut self, request: &Request, plan: &Plan) {
        let counters = &mut self.counters;
        counters.requests += 1;
        counters.seeks += u64::from(plan.moves);
        counters.seek_time += plan.positioning;
        counters.transfer_time += plan.transfer;
        counters.rewrites += u64::from(plan.rewrites);
        counters.rewrite_time += plan.rewriting;
        match request.direction {
            Direction::Read => counters.read_bytes += request.bytes,
            Direction::Write => counters.written_bytes += request.bytes,
        }
    }
}
