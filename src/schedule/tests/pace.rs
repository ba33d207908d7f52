//! Acknowledgements as memory fills: driven by writers that are always faster, and by a disk that
//! gives memory back in runs, as lanes do.

use crate::schedule::pace::Pace;

const MIB: u64 = 1 << 20;
const FROM: u64 = 100 * MIB;
const LIMIT: u64 = 200 * MIB;
const REQUEST: u64 = MIB;
const TICK_MS: u64 = 4;
/// A lane's run: never more than a sixteenth of memory.
const RUN_MS: u64 = 100;

/// A disk that takes so much in a millisecond, in runs of a tenth of a second, and writers that
/// send the next request at once.
struct Machine {
    pace: Pace,
    held: u64,
    now_ms: u64,
    run_ms: u64,
    /// Memory comes back so often.
    every_ms: u64,
    /// Acknowledged in all.
    acknowledged: u64,
    /// No acknowledgement for so long, at most.
    longest_ms: u64,
    last_ms: u64,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            pace: Pace::new(FROM, LIMIT),
            held: 0,
            now_ms: 0,
            run_ms: 0,
            every_ms: RUN_MS,
            acknowledged: 0,
            longest_ms: 0,
            last_ms: 0,
        }
    }

    /// Lets time pass; the disk takes `rate` bytes in a millisecond.
    fn run(&mut self, for_ms: u64, rate: u64) {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms {
            self.now_ms += TICK_MS;
            self.run_ms += TICK_MS;
            if self.run_ms >= self.every_ms {
                self.run_ms = 0;
                let freed = (rate * self.every_ms).min(self.held);
                self.held -= freed;
                if freed > 0 {
                    self.pace.note_freed(freed, self.held, self.now_ms);
                }
            }
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        while self.held <= LIMIT && self.pace.room_bytes(self.held, self.now_ms) > 0 {
            self.pace.spend(REQUEST as f64);
            self.held += REQUEST;
            self.acknowledged += REQUEST;
            self.longest_ms = self.longest_ms.max(self.now_ms - self.last_ms);
            self.last_ms = self.now_ms;
        }
        assert!(self.held <= LIMIT + REQUEST);
    }
}

#[test]
fn everything_at_once_while_there_is_room() {
    let mut machine = Machine::new();
    machine.run(TICK_MS, 0);
    assert!((FROM..FROM + 2 * REQUEST).contains(&machine.held), "{}", machine.held);
}

/// The first seconds of an overload: fewer and fewer, never none for long, and none above the
/// limit. Then as much as the disk takes.
#[test]
fn slows_down_to_the_disk() {
    for rate in [20 << 10, 100 << 10, 125 << 10] {
        let mut machine = Machine::new();
        let mut before = u64::MAX / 2;
        for _ in 0..6 {
            let acknowledged = machine.acknowledged;
            machine.run(1000, rate);
            let now = machine.acknowledged - acknowledged;
            assert!(now <= before + before / 4, "{now} after {before} at {rate}");
            before = now;
        }
        machine.longest_ms = 0;
        let acknowledged = machine.acknowledged;
        machine.run(10_000, rate);
        let per_ms = (machine.acknowledged - acknowledged) / 10_000;
        assert!((rate * 9 / 10..rate * 11 / 10).contains(&per_ms), "{per_ms} for {rate}");
        let request_ms = REQUEST / rate + 1;
        assert!(machine.longest_ms <= 2 * request_ms + 2 * TICK_MS, "{} ms", machine.longest_ms);
        assert!(machine.held > FROM && machine.held < LIMIT, "{} at {rate}", machine.held);
    }
}

/// What is left of memory is there for a disk that does nothing for a while.
#[test]
fn a_disk_that_pauses_is_waited_out() {
    let mut machine = Machine::new();
    machine.run(5000, 100 << 10);
    let left = LIMIT - machine.held;
    assert!(left >= 2 * REQUEST, "{left} bytes are left");
    let acknowledged = machine.acknowledged;
    machine.run(5000, 0);
    assert!(machine.acknowledged - acknowledged >= left - REQUEST);
    assert!(machine.held + REQUEST > LIMIT, "{}", machine.held);
    machine.longest_ms = 0;
    machine.last_ms = machine.now_ms;
    machine.run(5000, 100 << 10);
    assert!(machine.longest_ms < 250, "{} ms after the pause", machine.longest_ms);
}

/// A disk that is left to others for seconds, and then gives much back at once: its pauses count, so
/// that memory is not full. Some writer still waits for a good part of a pause: here 208, 484 and
/// 1004 ms.
#[test]
fn long_pauses_are_part_of_the_rate() {
    for every_ms in [700, 1500, 2500] {
        let mut machine = Machine::new();
        machine.every_ms = every_ms;
        machine.run(20_000, 15 << 10);
        machine.longest_ms = 0;
        machine.run(20_000, 15 << 10);
        assert!(machine.longest_ms < every_ms / 2, "{} ms, every {every_ms}", machine.longest_ms);
        assert!(machine.held < LIMIT);
    }
}

/// Nobody is held back for long by what a disk did before.
#[test]
fn a_disk_that_gets_faster_is_used() {
    let mut machine = Machine::new();
    machine.run(10_000, 10 << 10);
    let acknowledged = machine.acknowledged;
    machine.run(10_000, 500 << 10);
    let per_ms = (machine.acknowledged - acknowledged) / 10_000;
    assert!(per_ms > 450 << 10, "{per_ms}");
}
