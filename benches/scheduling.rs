//! What scheduling costs: nanoseconds for each decision and each turn, bytes of memory for each
//! stream, from 40 to 100 000 streams.
//!
//! `cargo bench --bench scheduling`. Runs the simulation of the tests (skewed writers that want
//! twice what the disk takes, so that memory is full) and times each call to the scheduler, the
//! admission and the buffers; disks, kernel and clock are simulated. One thread, no I/O. Of the
//! rounds the least of each column counts: what else runs on a machine only adds.

#![allow(clippy::unwrap_used)] // a benchmark fails by panicking

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use coalescefs::{buffer, schedule};

#[path = "../src/schedule/tests/simulation/engine.rs"]
#[allow(dead_code)] // the tests use the rest
mod engine;
#[path = "../src/schedule/tests/simulation/loads.rs"]
#[allow(dead_code)] // the tests use the rest
mod loads;
#[path = "../src/schedule/tests/random.rs"]
#[allow(dead_code)] // the tests use the rest
mod random;
#[path = "../src/schedule/tests/simulation/report.rs"]
#[allow(dead_code)] // the tests use the rest
mod report;

use engine::{Call, Meter, Setup, Simulation};
use random::Random;

const ROUNDS: usize = 5;

/// Counts the bytes that are allocated.
struct Counting;

static ALLOCATED_BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: what is asked for and given is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Of one kind of call.
#[derive(Clone, Copy, Default)]
struct Cost {
    calls: u64,
    ns: u64,
}

impl Cost {
    fn mean_ns(&self) -> u64 {
        self.ns / self.calls.max(1)
    }
}

/// Times each call, and notes what it leaves allocated.
struct Clock {
    /// What looking at the clock twice takes.
    empty_ns: u64,
    costs: [Cost; 6],
    /// Since the start, not since the warm-up.
    allocated_bytes: [i64; 6],
}

impl Clock {
    fn new() -> Clock {
        let mut empty: Vec<_> = (0..10_001)
            .map(|_| {
                let begun = Instant::now();
                begun.elapsed().as_nanos() as u64
            })
            .collect();
        empty.sort_unstable();
        let empty_ns = empty[empty.len() / 2];
        Clock { empty_ns, costs: [Cost::default(); 6], allocated_bytes: [0; 6] }
    }

    fn cost(&self, call: Call) -> Cost {
        self.costs[call as usize]
    }

    fn sum<T: std::iter::Sum>(of: impl Fn(usize) -> T) -> T {
        let scheduler = [Call::Update, Call::NextTurn, Call::NoTurn, Call::EndTurn];
        scheduler.into_iter().map(|call| of(call as usize)).sum()
    }
}

impl Meter for Clock {
    fn measure<R>(&mut self, call: impl FnOnce() -> R, kind: impl FnOnce(&R) -> Call) -> R {
        let allocated_bytes = ALLOCATED_BYTES.load(Ordering::Relaxed);
        let begun = Instant::now();
        let result = call();
        let ns = (begun.elapsed().as_nanos() as u64).saturating_sub(self.empty_ns);
        let kind = kind(&result) as usize;
        let cost = &mut self.costs[kind];
        cost.calls += 1;
        cost.ns += ns;
        self.allocated_bytes[kind] += ALLOCATED_BYTES.load(Ordering::Relaxed) - allocated_bytes;
        result
    }
}

/// Memory is full when the warm-up is over; then some ten thousand turns.
fn crowded(streams: usize) -> Setup {
    let warm_up_us = 15_000_000;
    let measured_us = 500_000_000_000 / streams as u64;
    Setup {
        warm_up_us,
        end_us: warm_up_us + measured_us.clamp(5_000_000, 2_000_000_000),
        ..loads::skewed(streams, 2.0, &mut Random(1))
    }
}

const COLUMNS: [&str; 9] = [
    "turns",
    "update, ns",
    "next turn, ns",
    "end of turn, ns",
    "scheduler, ns a turn",
    "admission, ns a turn",
    "buffers, ns a turn",
    "scheduler, B a stream",
    "buffers, B a stream",
];

/// The columns of one run.
fn measure(streams: usize) -> [u64; COLUMNS.len()] {
    let (report, clock) = Simulation::run(crowded(streams), Clock::new(), |clock| {
        clock.costs = [Cost::default(); 6];
    });
    let held = report.streams_held as i64;
    [
        report.turns,
        clock.cost(Call::Update).mean_ns(),
        clock.cost(Call::NextTurn).mean_ns(),
        clock.cost(Call::EndTurn).mean_ns(),
        Clock::sum(|call| clock.costs[call].ns) / report.turns,
        clock.cost(Call::Admission).ns / report.turns,
        clock.cost(Call::Buffer).ns / report.turns,
        (Clock::sum(|call| clock.allocated_bytes[call]) / held) as u64,
        (clock.allocated_bytes[Call::Buffer as usize] / held) as u64,
    ]
}

fn main() {
    println!("| streams | {} |", COLUMNS.join(" | "));
    println!("|{}", "---|".repeat(COLUMNS.len() + 1));
    for streams in [40, 1_000, 10_000, 100_000] {
        let mut least = [u64::MAX; COLUMNS.len()];
        for _ in 0..ROUNDS {
            let row = measure(streams);
            least.iter_mut().zip(row).for_each(|(least, value)| *least = value.min(*least));
        }
        let row: Vec<_> = least.iter().map(u64::to_string).collect();
        println!("| {streams} | {} |", row.join(" | "));
    }
}
