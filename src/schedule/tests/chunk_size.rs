//! Goal: the chunk becomes what the disk needs, within what memory allows, whatever single runs
//! take. Method: model disks with noise and stalls, random runs; seeds are printed.

use super::random::{Random, seed};
use crate::schedule::{ChunkSize, RunTime};

const MIB: u64 = 1 << 20;
const ROOMY: u64 = 16 << 30;

/// Turns of up to a chunk, in runs of up to 10 MiB.
struct Model {
    positioning_us: f64,
    bytes_per_us: f64,
    /// One run in so many takes fifty times as long.
    stalls: u64,
    random: Random,
    now_us: u64,
}

impl Model {
    fn new(positioning_us: f64, bytes_per_us: f64, stalls: u64) -> Model {
        let random = Random(seed(1));
        Model { positioning_us, bytes_per_us, stalls, random, now_us: 0 }
    }

    fn turns(&mut self, size: &mut ChunkSize, turns: u64, streams: u64) {
        for _ in 0..turns {
            let mut left = size.bytes() / (1 + self.random.below(3));
            let mut has_moved = true;
            while left > 0 {
                let bytes = left.min(10 * MIB);
                left -= bytes;
                let took_us = self.service_us(bytes, has_moved);
                self.now_us += took_us;
                size.note_run(RunTime { bytes, took_us, has_moved }, self.now_us / 1000);
                has_moved = false;
            }
            size.step(streams, self.now_us / 1000);
        }
    }

    /// Seeks differ by up to a half, and rates by a tenth.
    fn service_us(&mut self, bytes: u64, has_moved: bool) -> u64 {
        let around =
            |random: &mut Random, by: f64| 1.0 + by * (random.below(2001) as f64 / 1000.0 - 1.0);
        let seek =
            self.positioning_us * around(&mut self.random, 0.5) * f64::from(u8::from(has_moved));
        let transfer = bytes as f64 / self.bytes_per_us * around(&mut self.random, 0.1);
        let is_stall = self.stalls > 0 && self.random.one_in(self.stalls);
        ((seek + transfer) * if is_stall { 50.0 } else { 1.0 }) as u64
    }
}

/// Learns on such a disk; the chunk, `a` in microseconds and the rate in bytes a microsecond.
fn settled(model: &mut Model, streams: u64, memory_bytes: u64) -> (u64, f64, f64) {
    let mut size = ChunkSize::new(MIB, 64 << 10, memory_bytes);
    model.turns(&mut size, 2000, streams);
    let service = size.service().expect("runs of many sizes tell");
    (size.bytes(), service.positioning_us, service.bytes_per_s / 1e6)
}

#[track_caller]
fn assert_near(found: f64, right: f64, by: f64) {
    assert!((found / right - 1.0).abs() < by, "{found}, and it is {right}");
}

/// Positioning then costs 3% at most, and with half the chunk it would cost about that: chunks
/// shrink only when that is well below.
#[test]
fn chunks_are_as_large_as_positioning_asks_for() {
    for (positioning_us, bytes_per_us) in [(10_000.0, 40.0), (10_000.0, 80.0), (2_000.0, 200.0)] {
        let mut model = Model::new(positioning_us, bytes_per_us, 0);
        let (bytes, a, rate) = settled(&mut model, 20, ROOMY);
        println!("{positioning_us} us, {bytes_per_us} B/us: {bytes}, a {a:.0} us, {rate:.1} B/us");
        assert_near(a, positioning_us, 0.3);
        assert_near(rate, bytes_per_us, 0.05);
        let share = |bytes: u64| a / (a + bytes as f64 / rate);
        assert!(share(bytes) <= 0.03 && share(bytes / 2) > 0.024, "{}", share(bytes));
    }
}

/// Goal: where nothing is to be positioned that takes no time, never less, and the chunk stays.
#[test]
fn disks_that_do_not_position_keep_the_first_chunk() {
    let mut model = Model::new(0.0, 500.0, 0);
    for disk in 0..30 {
        let (bytes, a, rate) = settled(&mut model, 20, ROOMY);
        println!("{disk}: {bytes}, a {a:.0} us, {rate:.1} B/us");
        assert!((0.0..200.0).contains(&a), "{a}");
        assert_near(rate, 500.0, 0.05);
        assert_eq!(bytes, MIB);
    }
}

/// One run in twenty takes fifty times as long.
#[test]
fn stalls_hardly_change_it() {
    let mut model = Model::new(10_000.0, 40.0, 20);
    for disk in 0..30 {
        let (bytes, a, rate) = settled(&mut model, 20, ROOMY);
        println!("{disk}: {bytes}, a {a:.0} us, {rate:.1} B/us");
        assert_near(a, 10_000.0, 0.5);
        assert_near(rate, 40.0, 0.05);
        assert!((8 * MIB..=32 * MIB).contains(&bytes), "right are 16 MiB: {bytes}");
    }
}

/// Stalls that come before anything is expected are outweighed soon by what comes then.
#[test]
fn stalls_at_the_beginning_are_forgotten() {
    for disk in 0..30 {
        let mut model = Model::new(10_000.0, 40.0, 4);
        model.random = Random(seed(1) + disk);
        let mut size = ChunkSize::new(MIB, 64 << 10, ROOMY);
        model.turns(&mut size, 12, 20);
        model.stalls = 0;
        model.turns(&mut size, 400, 20);
        let service = size.service().expect("runs of many sizes tell");
        println!("{disk}: {}, {service:?}", size.bytes());
        assert!((5_000.0..20_000.0).contains(&service.positioning_us), "{service:?}");
        assert_near(service.bytes_per_s / 1e6, 40.0, 0.1);
    }
}

#[test]
fn a_disk_that_becomes_another_is_believed() {
    let mut model = Model::new(2_000.0, 100.0, 0);
    let mut size = ChunkSize::new(MIB, 64 << 10, ROOMY);
    model.turns(&mut size, 1000, 20);
    assert_eq!(size.bytes(), 8 * MIB);
    model.positioning_us = 8_000.0;
    model.turns(&mut size, 3000, 20);
    assert_near(size.service().unwrap().positioning_us, 8_000.0, 0.2);
    assert_eq!(size.bytes(), 32 * MIB);
    model.positioning_us = 400.0;
    model.turns(&mut size, 6000, 20);
    assert_eq!(size.bytes(), 2 * MIB, "and back");
}

/// Streams x chunk / 2 stays within half of the memory; when streams come, chunks shrink, and they
/// grow when streams go.
#[test]
fn memory_bounds_it() {
    let mut model = Model::new(10_000.0, 100.0, 0);
    assert_eq!(settled(&mut model, 40, 256 * MIB).0, 4 * MIB);
    let mut size = ChunkSize::new(4 * MIB, 64 << 10, 256 * MIB);
    model.turns(&mut size, 500, 400);
    assert_eq!(size.bytes(), 512 << 10);
    model.turns(&mut size, 1000, 100_000);
    assert_eq!(size.bytes(), 256 << 10, "the smallest");
    model.turns(&mut size, 2000, 4);
    assert_eq!(size.bytes(), 16 * MIB, "a sixteenth");
}

/// Also the sizes between are whole stripes.
#[test]
fn chunks_stay_multiples_of_the_stripe() {
    let mut model = Model::new(10_000.0, 100.0, 0);
    let stripe = 1280 << 10;
    let mut size = ChunkSize::new(8 * stripe, stripe, ROOMY);
    for streams in [1, 10_000, 100_000, 40, 1_000_000, 3] {
        model.turns(&mut size, 500, streams);
        assert!(size.bytes().is_multiple_of(stripe), "{}", size.bytes());
    }
}

/// Runs of about one size, each of another file, do not tell seek and rate apart.
#[test]
fn what_is_not_known_changes_nothing() {
    let mut size = ChunkSize::new(4 * MIB, 64 << 10, ROOMY);
    let mut random = Random(seed(1));
    for turn in 0..1000 {
        let bytes = 4 * MIB - random.below(3) * (64 << 10);
        let took_us = 50_000 + random.below(5_000);
        size.note_run(RunTime { bytes, took_us, has_moved: true }, turn * 50);
        assert_eq!(size.step(10, turn * 50), 4 * MIB);
    }
    assert_eq!(size.service(), None);
}

/// Goal: nothing that a clock or a disk may say makes it lose its bounds.
#[test]
fn any_runs_keep_it_within_bounds() {
    let mut random = Random(seed(7));
    for _ in 0..200 {
        let memory_bytes = (4 * MIB) << random.below(13);
        let mut size = ChunkSize::new(256 << 10, 4 << 10, memory_bytes);
        let mut now_ms = 0;
        for _ in 0..300 {
            let shift = random.below(60);
            let (bytes, took_us) = (random.below(64 * MIB), random.next() >> (shift + 4));
            let has_moved = random.one_in(2);
            size.note_run(RunTime { bytes, took_us, has_moved }, now_ms);
            now_ms += random.below(5_000);
            let shift = random.below(20);
            let bytes = size.step(random.below(1 << shift), now_ms);
            let most = (64 * MIB).min(memory_bytes / 16).max(256 << 10);
            assert!((256 << 10..=most).contains(&bytes), "{bytes} of {memory_bytes}");
        }
    }
}
