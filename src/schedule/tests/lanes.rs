//! Goal: as many lanes as a device has servers, found soon and held. Method: a model of an engine with
//! `k` servers and a queue before them, in which time passes by events.

use super::random::{Random, seed};
use crate::schedule::{LANES_MAX, LaneRun, Lanes};

const RUN_BYTES: u64 = 8 << 20;

/// Each of its servers takes so long for a run, and a part more or less.
struct Engine {
    free_at_us: Vec<u64>,
    service_us: u64,
    noise: u64,
    /// What it takes longer for each lane more than one, of a thousand: heads that go to and fro.
    seek: u64,
}

impl Engine {
    fn new(servers: usize) -> Engine {
        Engine { free_at_us: vec![0; servers], service_us: 80_000, noise: 100, seek: 0 }
    }

    /// When a run ends that is sent now, one of so many.
    fn send(&mut self, now_us: u64, at_work: u64, random: &mut Random) -> u64 {
        let part = 1000 - self.noise + random.below(2 * self.noise + 1) + self.seek * (at_work - 1);
        let server = self.free_at_us.iter_mut().min().expect("there are servers");
        *server = now_us.max(*server) + self.service_us * part / 1000;
        *server
    }
}

/// Runs under way: when they end, when they began, and how many were at work then.
#[derive(Default)]
struct Busy {
    runs: Vec<(u64, u64, u32)>,
    now_us: u64,
    /// Milliseconds at each level, and how often it changed.
    at_level_ms: [u64; LANES_MAX as usize + 1],
    changes: u32,
}

impl Busy {
    /// Writes for so long, with so many lanes at most that have something to write.
    fn go_on(
        &mut self,
        lanes: &mut Lanes,
        engine: &mut Engine,
        for_ms: u64,
        wanted: u32,
        random: &mut Random,
    ) {
        (self.at_level_ms, self.changes) = Default::default();
        let end_us = self.now_us + for_ms * 1000;
        while self.now_us < end_us {
            while (self.runs.len() as u32) < lanes.count().min(wanted) {
                let at_work = self.runs.len() as u32 + 1;
                let done_us = engine.send(self.now_us, u64::from(at_work), random);
                self.runs.push((done_us, self.now_us, at_work));
            }
            let next = self.runs.iter().enumerate().min_by_key(|(_, run)| run.0);
            let index = next.expect("some are under way").0;
            let (done_us, begun_us, at_work) = self.runs.swap_remove(index);
            let before = lanes.count();
            self.at_level_ms[before as usize] += (done_us - self.now_us) / 1000;
            self.now_us = done_us;
            let run = LaneRun { bytes: RUN_BYTES, took_us: done_us - begun_us, at_work };
            let count = lanes.note_run(run, self.now_us / 1000);
            assert!((1..=LANES_MAX).contains(&count), "{count} lanes");
            self.changes += u32::from(count != before);
        }
    }

    fn share(&self, levels: std::ops::RangeInclusive<u32>) -> f64 {
        let at = levels.map(|level| self.at_level_ms[level as usize]).sum::<u64>();
        at as f64 / self.at_level_ms.iter().sum::<u64>().max(1) as f64
    }
}

const MINUTE_MS: u64 = 60_000;

/// Goal: after some minutes there are as many lanes as servers, and tries take a small part of the
/// time.
#[test]
fn as_many_as_servers() {
    let mut random = Random(seed(1));
    for servers in 1..=LANES_MAX {
        let mut engine = Engine::new(servers as usize);
        let (mut lanes, mut busy) = (Lanes::measured(LANES_MAX), Busy::default());
        busy.go_on(&mut lanes, &mut engine, 5 * MINUTE_MS, 99, &mut random);
        busy.go_on(&mut lanes, &mut engine, 60 * MINUTE_MS, 99, &mut random);
        let share = busy.share(servers..=servers);
        assert!(share > 0.9, "{servers} servers: {:?}", busy.at_level_ms);
        assert!(busy.changes < 40, "{servers} servers: {} changes", busy.changes);
    }
}

/// Goal: a disk with heads keeps one lane, also when nobody said that it has them.
#[test]
fn one_for_heads() {
    let mut random = Random(seed(2));
    let mut engine = Engine { seek: 300, ..Engine::new(1) };
    let (mut lanes, mut busy) = (Lanes::measured(LANES_MAX), Busy::default());
    busy.go_on(&mut lanes, &mut engine, 60 * MINUTE_MS, 99, &mut random);
    assert!(busy.share(1..=1) > 0.95, "{:?}", busy.at_level_ms);
}

/// Goal: what becomes another device is followed, up and down.
#[test]
fn a_device_that_changes() {
    let mut random = Random(seed(3));
    let (mut lanes, mut busy) = (Lanes::measured(LANES_MAX), Busy::default());
    for servers in [2, 6, 1, 4] {
        let mut engine = Engine::new(servers as usize);
        busy.go_on(&mut lanes, &mut engine, 60 * MINUTE_MS, 99, &mut random);
        busy.go_on(&mut lanes, &mut engine, 60 * MINUTE_MS, 99, &mut random);
        let share = busy.share(servers..=servers);
        assert!(share > 0.8, "{servers} servers: {:?}", busy.at_level_ms);
    }
}

/// Goal: programs that are slower than the device decide nothing: a level that is never in use is not
/// kept, and one that is in use is not left for one that is slower.
#[test]
fn without_demand_nothing_is_kept() {
    let mut random = Random(seed(4));
    let mut engine = Engine::new(8);
    let (mut lanes, mut busy) = (Lanes::measured(LANES_MAX), Busy::default());
    busy.go_on(&mut lanes, &mut engine, 60 * MINUTE_MS, 2, &mut random);
    assert!(busy.share(2..=2) > 0.8, "{:?}", busy.at_level_ms);
    assert!(busy.share(4..=LANES_MAX) < 1e-9, "{:?}", busy.at_level_ms);
}

#[test]
fn a_number_that_is_given_stays() {
    let mut random = Random(seed(5));
    for count in [1, 3, LANES_MAX] {
        let (mut lanes, mut busy) = (Lanes::fixed(count), Busy::default());
        busy.go_on(&mut lanes, &mut Engine::new(4), 20 * MINUTE_MS, 99, &mut random);
        assert_eq!((lanes.count(), busy.changes), (count, 0));
    }
}

/// Goal: whatever is seen, at whatever times, the bounds hold.
#[test]
fn anything_stays_within_bounds() {
    let mut random = Random(seed(6));
    for _ in 0..200 {
        let most = 1 + random.below(u64::from(LANES_MAX)) as u32;
        let (mut lanes, mut now_ms) = (Lanes::measured(most), 0);
        for _ in 0..2_000 {
            let shift = random.below(64);
            let run = LaneRun {
                bytes: random.next() >> shift,
                took_us: random.next() >> random.below(64),
                at_work: random.below(10) as u32,
            };
            now_ms += random.next() >> (30 + random.below(34));
            let count = lanes.note_run(run, now_ms);
            assert!((1..=most).contains(&count), "{count} of {most}");
        }
    }
}
