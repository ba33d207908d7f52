//! The scheduler against a naive model under random calls.
//!
//! The model keeps no queues: for each turn it looks at every file, keeps those that qualify,
//! and takes the one that has waited longest by the rule of the class. Compared after each
//! call: the turn, the totals, and that `wake_at_ms` is the time at which a turn appears.

use super::Random;
use crate::schedule::{
    FileId, Filling, Load, Outcome, Policy, Priority, Reason, Scheduler, Turn, Urgency,
};

const FILES: u64 = 10;
const POLICY: Policy = Policy { max_age_ms: 200, closed_delay_ms: 30 };

#[derive(Clone, Debug, Default)]
struct File {
    load: Load,
    holds: u32,
    turn: Option<Reason>,
    removed_in_turn: bool,
    not_before_ms: u64,
    /// Order of events: when it was demanded, had a whole chunk, had its last turn.
    demanded: Option<u64>,
    whole: Option<u64>,
    served: u64,
    closed_due_ms: Option<u64>,
    age_served_ms: u64,
    /// Turn's view: bytes not written since before the turn, bytes written by it.
    before_bytes: u64,
    came_bytes: u64,
    out_of_reach_bytes: u64,
}

impl File {
    fn set(&mut self, load: Load, now_ms: u64, event: u64) {
        if self.turn.is_none() && self.load.dirty_bytes == 0 {
            *self = File { holds: self.holds, served: event, ..File::default() };
        }
        let before = self.load;
        self.load = load;
        if load.dirty_bytes == 0 {
            self.load.oldest_ms = None;
        } else if load.oldest_ms.is_none() {
            self.load.oldest_ms = Some(before.oldest_ms.unwrap_or(now_ms));
        }
        if load.open {
            self.closed_due_ms = None;
        } else if self.closed_due_ms.is_none() {
            self.closed_due_ms = Some(now_ms + POLICY.closed_delay_ms);
        }
        if !load.has_whole_chunk {
            self.whole = None;
        } else if self.whole.is_none() {
            self.whole = Some(event);
        }
        if self.turn.is_none() && load.dirty_bytes == 0 {
            *self = File { holds: self.holds, ..File::default() };
        }
    }

    fn over_age_ms(&self) -> u64 {
        let max_age_ms = self.load.max_age_ms.unwrap_or(POLICY.max_age_ms);
        (self.load.oldest_ms.unwrap() + max_age_ms / 2).max(self.age_served_ms)
    }

    fn may(&self, now_ms: u64) -> bool {
        self.load.dirty_bytes > 0
            && self.turn.is_none()
            && self.holds == 0
            && self.not_before_ms <= now_ms
    }
}

struct Model {
    files: Vec<File>,
    urgency: Urgency,
    events: u64,
    old_in_a_row: u32,
    demanded_in_a_row: u32,
    high_in_a_row: u32,
}

impl Model {
    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    fn least<K: Ord>(&self, now_ms: u64, key: impl Fn(&File) -> Option<K>) -> Option<usize> {
        (0..self.files.len())
            .filter(|i| self.files[*i].may(now_ms))
            .filter_map(|i| key(&self.files[i]).map(|key| (key, i)))
            .min()
            .map(|(_, i)| i)
    }

    fn choose(&mut self, now_ms: u64) -> Option<(usize, Reason)> {
        let demanded = self.least(now_ms, |f| f.demanded);
        let old =
            self.least(now_ms, |f| Some((f.over_age_ms(), f.served)).filter(|key| key.0 <= now_ms));
        let whole_of =
            |priority| self.least(now_ms, |f| f.whole.filter(|_| f.load.priority == priority));
        let (high, normal) = (whole_of(Priority::High), whole_of(Priority::Normal));
        let whole = high.filter(|_| normal.is_none() || self.high_in_a_row < 4).or(normal);
        let others_wait = old.is_some() || whole.is_some();
        if let Some(i) = demanded.filter(|_| !others_wait || self.demanded_in_a_row < 16) {
            self.demanded_in_a_row = if others_wait { self.demanded_in_a_row + 1 } else { 0 };
            return Some((i, Reason::Demanded));
        }
        self.demanded_in_a_row = 0;
        if let Some(i) = old.filter(|_| whole.is_none() || self.old_in_a_row < 4) {
            self.old_in_a_row = if whole.is_some() { self.old_in_a_row + 1 } else { 0 };
            return Some((i, Reason::Age));
        }
        self.old_in_a_row = 0;
        if let Some(i) = whole {
            let before_normal = whole == high && normal.is_some();
            self.high_in_a_row = if before_normal { self.high_in_a_row + 1 } else { 0 };
            return Some((i, Reason::WholeChunk));
        }
        let closed = self.least(now_ms, |f| {
            f.closed_due_ms.filter(|due_ms| *due_ms <= now_ms).map(|due_ms| (due_ms, f.served))
        });
        if let Some(i) = closed {
            return Some((i, Reason::Closed));
        }
        let reach = |f: &File| f.load.dirty_bytes.saturating_sub(f.out_of_reach_bytes);
        match self.urgency {
            Urgency::Normal => None,
            Urgency::Pressure | Urgency::Filling(_) => self
                .least(now_ms, |f| Some((u64::MAX - reach(f), f.served)))
                .filter(|i| self.is_worth(reach(&self.files[*i])))
                .map(|i| (i, Reason::Pressure)),
            Urgency::Everything => {
                self.least(now_ms, |f| Some(f.served)).map(|i| (i, Reason::Everything))
            }
        }
    }

    /// Whether so many bytes, the most that a turn would give, are worth one.
    fn is_worth(&self, bytes: u64) -> bool {
        let Urgency::Filling(filling) = self.urgency else { return true };
        let dirty_bytes: u64 = self.files.iter().map(|f| f.load.dirty_bytes).sum();
        let part = bytes as f64 / dirty_bytes as f64;
        let then_bytes = bytes as f64 + filling.soon_bytes as f64 * part;
        // Who has a chunk, and none that is whole, has larger ones.
        let is_soon_whole =
            bytes < filling.chunk_bytes && then_bytes + 1e-9 >= filling.chunk_bytes as f64;
        bytes >= filling.least_bytes && !is_soon_whole
    }

    fn update(&mut self, i: usize, load: Load, now_ms: u64) {
        let event = self.event();
        let file = &mut self.files[i];
        if file.turn.is_some() {
            file.came_bytes += load.dirty_bytes.saturating_sub(file.load.dirty_bytes);
            if load.dirty_bytes > 0 {
                file.removed_in_turn = false;
            }
        }
        file.set(load, now_ms, event);
    }

    fn remove(&mut self, i: usize) {
        let file = &mut self.files[i];
        let turn = file.turn;
        let removed_in_turn = turn.is_some();
        *file = File { holds: file.holds, turn, removed_in_turn, ..File::default() };
    }

    fn begin(&mut self, i: usize, reason: Reason) {
        let file = &mut self.files[i];
        file.turn = Some(reason);
        file.before_bytes = file.load.dirty_bytes;
        file.came_bytes = 0;
        file.removed_in_turn = false;
    }

    fn end(&mut self, i: usize, load: Load, retry_at_ms: Option<u64>, now_ms: u64) {
        let event = self.event();
        let file = &mut self.files[i];
        let load = if file.removed_in_turn { Load::default() } else { load };
        let written = (file.before_bytes + file.came_bytes).saturating_sub(load.dirty_bytes);
        file.out_of_reach_bytes = file.before_bytes.saturating_sub(written).saturating_sub(written);
        match file.turn.unwrap() {
            Reason::Age => file.age_served_ms = now_ms,
            Reason::Closed if file.closed_due_ms.is_some() => file.closed_due_ms = Some(now_ms),
            _ => {}
        }
        file.whole = None;
        // Still counts as in turn here, so that a file that was clean meanwhile keeps its past.
        file.set(load, now_ms, event);
        file.turn = None;
        file.served = event;
        file.demanded = file.demanded.map(|_| event);
        file.not_before_ms = retry_at_ms.unwrap_or(0);
        if load.dirty_bytes == 0 {
            *file = File { holds: file.holds, ..File::default() };
        }
    }
}

/// Both sides, driven by the same calls.
struct Pair {
    model: Model,
    scheduler: Scheduler,
    random: Random,
    now_ms: u64,
    turns: u64,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let model = Model {
            files: vec![File::default(); FILES as usize],
            urgency: Urgency::Normal,
            events: 0,
            old_in_a_row: 0,
            demanded_in_a_row: 0,
            high_in_a_row: 0,
        };
        let scheduler = Scheduler::new(POLICY);
        Self { model, scheduler, random: Random(seed), now_ms: 1_000, turns: 0 }
    }

    fn random_load(&mut self) -> Load {
        let random = &mut self.random;
        if random.one_in(4) {
            return Load { open: random.one_in(2), ..Load::default() };
        }
        Load {
            dirty_bytes: 1 + random.below(9),
            has_whole_chunk: random.one_in(3),
            oldest_ms: (!random.one_in(8)).then(|| self.now_ms - random.below(150)),
            open: !random.one_in(3),
            place: None,
            priority: if random.one_in(3) { Priority::High } else { Priority::Normal },
            max_age_ms: random.one_in(4).then(|| random.below(400)),
        }
    }

    fn step(&mut self) {
        let i = self.random.below(FILES) as usize;
        let file = FileId(i as u64);
        match self.random.below(20) {
            0..6 => {
                let load = self.random_load();
                self.model.update(i, load, self.now_ms);
                self.scheduler.update(file, load, self.now_ms);
            }
            6 if self.random.one_in(3) => {
                self.model.remove(i);
                self.scheduler.remove(file);
            }
            7 => {
                let event = self.model.event();
                let f = &mut self.model.files[i];
                if f.load.dirty_bytes > 0 || f.turn.is_some() {
                    f.demanded.get_or_insert(event);
                }
                self.scheduler.demand(file);
            }
            8 if self.random.one_in(2) => {
                self.model.files[i].holds += 1;
                self.scheduler.hold(file);
            }
            9..11 if self.model.files[i].holds > 0 => {
                self.model.files[i].holds -= 1;
                self.scheduler.unhold(file);
            }
            11 if self.random.one_in(4) => {
                let filling =
                    Filling { chunk_bytes: 12, least_bytes: 4, soon_bytes: self.random.below(40) };
                let others = [Urgency::Normal, Urgency::Pressure, Urgency::Everything];
                let all = [&others[..], &[Urgency::Filling(filling)]].concat();
                self.model.urgency = all[self.random.below(4) as usize];
                self.scheduler.set_urgency(self.model.urgency);
            }
            12 => self.now_ms += self.random.below(40),
            13..17 => self.next_turn(),
            17..20 => self.end_turn(i),
            _ => {}
        }
    }

    fn next_turn(&mut self) {
        let expected = self.model.choose(self.now_ms);
        let turn = self.scheduler.next_turn(self.now_ms);
        assert_eq!(
            turn,
            expected.map(|(i, reason)| Turn { file: FileId(i as u64), reason }),
            "at {} ms: {:#?}",
            self.now_ms,
            self.model.files
        );
        let Some((i, reason)) = expected else { return self.check_wake() };
        self.turns += 1;
        self.model.begin(i, reason);
    }

    /// Nothing to do now: the model must have nothing until the time to wake, and then a turn.
    fn check_wake(&mut self) {
        let wake_ms = self.scheduler.wake_at_ms();
        assert!(wake_ms.is_none_or(|wake_ms| wake_ms > self.now_ms), "would spin");
        let quiet_ms = wake_ms.unwrap_or(self.now_ms + 10_000) - 1;
        assert_eq!(self.model.choose(quiet_ms), None, "late");
        let retry = |f: &File| f.not_before_ms > self.now_ms && f.load.dirty_bytes > 0;
        if let Some(wake_ms) = wake_ms.filter(|_| !self.model.files.iter().any(retry)) {
            assert!(self.model.choose(wake_ms).is_some(), "woken for nothing");
        }
    }

    fn end_turn(&mut self, start: usize) {
        let n = self.model.files.len();
        let in_turn = |i: &usize| self.model.files[*i].turn.is_some();
        let Some(i) = (start..start + n).map(|i| i % n).find(in_turn) else { return };
        let load = self.random_load();
        let retry_at_ms = self.random.one_in(4).then(|| self.now_ms + self.random.below(100));
        let outcome = retry_at_ms.map_or(Outcome::Written, Outcome::RetryAt);
        self.model.end(i, load, retry_at_ms, self.now_ms);
        self.scheduler.end_turn(FileId(i as u64), load, outcome, self.now_ms);
    }

    fn check_totals(&self) {
        let dirty = || self.model.files.iter().filter(|f| f.load.dirty_bytes > 0);
        assert_eq!(self.scheduler.streams(), dirty().count());
        assert_eq!(self.scheduler.dirty_bytes(), dirty().map(|f| f.load.dirty_bytes).sum::<u64>());
        assert_eq!(
            self.scheduler.oldest_ms(),
            dirty().map(|f| f.load.oldest_ms.expect("a dirty file has an age")).min()
        );
    }
}

#[test]
fn random_calls_agree_with_the_naive_model() {
    let mut turns = 0;
    for seed in 0..150 {
        println!("seed {seed}");
        let mut pair = Pair::new(seed);
        for _ in 0..3_000 {
            pair.step();
            pair.check_totals();
        }
        turns += pair.turns;
    }
    assert!(turns > 10_000, "only {turns} turns: the test lost its subject");
}
