//! What all clients share: the time, the network, the engine, and what is known of each stream.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::engine::Engine;
use crate::figures::Figures;
use crate::random::Random;
use crate::setup::Setup;
use crate::stream::Stream;

/// Programs write in steps of this time, and memory is looked at.
pub const TICK_US: u64 = 200_000;
/// Queues of servers are looked at so often.
const SAMPLE_US: u64 = 50_000;

/// Why a client is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Programs write.
    Tick,
    /// A stream's next record is due.
    Record(u32),
    /// Lanes look for work.
    Lanes,
    /// Attempts may be late.
    Deadline,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Wake(u32, Alarm),
    /// A request comes to its server.
    Arrive(u32),
    /// Its answer comes back: taken or refused.
    Answer(u32, bool),
    /// Looks at the queues.
    Sample,
}

/// On its way to the engine.
#[derive(Clone, Debug)]
pub struct Request {
    pub node: usize,
    /// On its node.
    pub file: usize,
    pub range: Range<u64>,
    pub server: usize,
    /// The client's own.
    pub tag: u32,
}

pub struct World {
    pub setup: Setup,
    pub engine: Engine,
    pub figures: Figures,
    streams: Vec<Stream>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    caused: u64,
    now_us: u64,
    random: Random,
    requests: Vec<Option<Request>>,
    free: Vec<u32>,
    /// When each node's network has sent what it was given.
    sent_us: Vec<u64>,
    unsettled_bytes: u64,
}

impl World {
    pub fn new(setup: &Setup) -> World {
        let mut random = Random(setup.seed);
        let mut stream = || {
            let start_us = random.below(setup.spread_us.max(1));
            Stream::new(setup.record_bytes, setup.period_us, start_us, setup.end_us)
        };
        let streams: Vec<_> = (0..setup.all_streams()).map(|_| stream()).collect();
        let mut world = World {
            engine: Engine::new(setup),
            figures: Figures::new(setup),
            streams,
            events: BinaryHeap::new(),
            caused: 0,
            now_us: 0,
            random,
            requests: Vec::new(),
            free: Vec::new(),
            sent_us: vec![0; setup.nodes],
            unsettled_bytes: 0,
            setup: setup.clone(),
        };
        world.schedule(0, Event::Sample);
        world
    }

    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Whether the programs have ended.
    pub fn is_over(&self) -> bool {
        self.now_us >= self.setup.end_us
    }

    /// Whether, in addition, everything is stored or lost.
    pub fn is_done(&self) -> bool {
        self.is_over() && self.unsettled_bytes == 0
    }

    /// Evenly from nothing to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.random.below(end.max(1))
    }

    pub fn wake(&mut self, node: usize, at_us: u64, alarm: Alarm) {
        self.schedule(at_us, Event::Wake(node as u32, alarm));
    }

    /// The next event that clients are to hear of, or that time has gone on.
    pub fn next(&mut self) -> Event {
        loop {
            let next = self.events.pop().expect("the queues are looked at again and again");
            let Reverse((now_us, _, event)) = next;
            self.now_us = now_us;
            self.figures.note_time(now_us, &self.streams, &self.engine);
            match event {
                Event::Arrive(number) => self.arrive(number),
                Event::Sample => {
                    self.sample();
                    return event;
                }
                event => return event,
            }
        }
    }

    pub fn stream(&self, node: usize, file: usize) -> &Stream {
        &self.streams[node * self.setup.streams + file]
    }

    pub fn stream_mut(&mut self, node: usize, file: usize) -> &mut Stream {
        &mut self.streams[node * self.setup.streams + file]
    }

    /// The programs of a node write what is due, and what they have room for in equal shares. Tells
    /// `note` of each file.
    pub fn write(&mut self, node: usize, room_bytes: u64, mut note: impl FnMut(usize, u64)) {
        let (count, now_us) = (self.setup.streams, self.now_us);
        let first = (now_us / TICK_US) as usize;
        let mut left_bytes = room_bytes;
        for step in 0..count {
            let file = (first + step) % count;
            let share_bytes = left_bytes / (count - step) as u64;
            let bytes = self.stream_mut(node, file).write(now_us, share_bytes);
            left_bytes -= bytes;
            self.unsettled_bytes += bytes;
            if bytes > 0 {
                note(file, bytes);
            }
        }
    }

    /// A program without a cache writes one record.
    pub fn write_one(&mut self, node: usize, file: usize) -> Range<u64> {
        let now_us = self.now_us;
        let range = self.stream_mut(node, file).write_one(now_us);
        self.unsettled_bytes += range.end - range.start;
        range
    }

    /// Sends a range, which does not cross objects, to the engine. The client hears of it again.
    pub fn send(&mut self, node: usize, file: usize, range: Range<u64>, tag: u32) {
        let bytes = range.end - range.start;
        let server = self.engine.server_of(node * self.setup.streams + file, range.start);
        let request = Request { node, file, range, server, tag };
        let number = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() as u32 - 1
        });
        self.requests[number as usize] = Some(request);
        let begin_us = self.sent_us[node].max(self.now_us);
        self.sent_us[node] = begin_us + bytes * 1_000_000 / self.setup.node_bytes_per_s;
        let arrive_us = self.sent_us[node] + self.delay_us();
        self.schedule(arrive_us, Event::Arrive(number));
    }

    /// What an answer is to.
    pub fn take_request(&mut self, number: u32) -> Request {
        self.free.push(number);
        self.requests[number as usize].take().expect("answered once")
    }

    /// The range is stored for good.
    pub fn note_stored(&mut self, node: usize, file: usize, range: Range<u64>) {
        let now_us = self.now_us;
        let stream = &self.streams[node * self.setup.streams + file];
        let first_us = stream.written_us(range.start);
        let last_us = stream.written_us(range.end - 1);
        self.figures.note_stored(range.end - range.start, now_us - last_us, now_us - first_us);
        self.settle(node, file, range);
    }

    /// The range was refused, and nobody has it any more.
    pub fn note_lost(&mut self, node: usize, file: usize, range: Range<u64>) {
        self.figures.lost_bytes += range.end - range.start;
        self.settle(node, file, range);
    }

    /// Whether all that was written of every file is settled, by each file's own account.
    pub fn is_settled(&self) -> bool {
        self.streams.iter().all(Stream::is_settled)
    }

    /// Bytes written by all programs.
    pub fn written_bytes(&self) -> u64 {
        self.streams.iter().map(Stream::head).sum()
    }

    fn settle(&mut self, node: usize, file: usize, range: Range<u64>) {
        self.unsettled_bytes -= range.end - range.start;
        self.stream_mut(node, file).settle(range);
    }

    /// Events of the same microsecond come in the order in which they were caused.
    fn schedule(&mut self, at_us: u64, event: Event) {
        self.caused += 1;
        self.events.push(Reverse((at_us.max(self.now_us), self.caused, event)));
    }

    fn delay_us(&mut self) -> u64 {
        self.setup.delay_us + self.random.below(self.setup.jitter_us + 1)
    }

    fn arrive(&mut self, number: u32) {
        let request = self.requests[number as usize].as_ref().expect("not answered yet");
        let (server, bytes) = (request.server, request.range.end - request.range.start);
        let wait_us = self.engine.wait_us(server, self.now_us);
        let fate = self.engine.arrive(server, bytes, self.now_us);
        self.figures.note_arrival(bytes, wait_us);
        let answer_us = fate.at_us + self.delay_us();
        self.schedule(answer_us, Event::Answer(number, fate.is_taken));
    }

    fn sample(&mut self) {
        for server in 0..self.setup.servers {
            let queued = self.engine.queued(server, self.now_us);
            self.figures.note_queue(queued);
        }
        self.schedule(self.now_us + SAMPLE_US, Event::Sample);
    }
}
