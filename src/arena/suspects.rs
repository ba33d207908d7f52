//! What workers had in hand when they died.
//!
//! Each thread notes the task it has begun and not ended: a request, or the writing of a file. The
//! next worker counts a death for those it finds: the first time the guilty one and whatever others
//! were in hand beside it. From then on such a *suspect* is kept apart from others
//! (`isolation` sees to that), so that further deaths are its own. At [`DEATHS_MAX`] it is
//! *condemned*: not touched any more, or not for long. One that was done is none any longer.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// More than a worker has threads that note what they do, also where its pools have grown.
const IN_HAND: usize = 384;
/// More than can be in hand when a worker dies; the oldest make room.
const SUSPECTS: usize = 512;
/// So many workers die of a task. Once is an accident, and so may be a second time.
pub const DEATHS_MAX: u32 = 3;
/// For so long nobody tries to write a file that workers died of. Its bytes are kept, so that one
/// that was blamed wrongly, or for what happens seldom, is stored in the end.
const PENANCE_MS: u64 = 600_000;

/// What a thread can have in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task(u64);

impl Task {
    /// Marks the writing of a file. Numbers of requests are counted from 0.
    const WRITING: u64 = 1 << 63;

    /// A request, by its number.
    pub fn request(unique: u64) -> Task {
        Task(unique)
    }

    /// Writing a file to the backing directory, by its node. Two that differ in the highest bit
    /// alone are not told apart.
    pub fn writing(node_id: u64) -> Task {
        Task(node_id | Task::WRITING)
    }

    fn is_writing(self) -> bool {
        self.0 & Task::WRITING != 0
    }
}

#[repr(C)]
struct Suspect {
    /// 0 when there is none.
    task: AtomicU64,
    /// When the last worker was found dead of it, in milliseconds of CLOCK_BOOTTIME.
    died_ms: AtomicU64,
    deaths: AtomicU32,
}

#[repr(C)]
pub(super) struct Table {
    in_hand: [AtomicU64; IN_HAND],
    suspects: [Suspect; SUSPECTS],
}

/// What is to be done with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known against it.
    Ordinary,
    /// It was in hand when a worker died.
    Suspect,
    /// It is condemned if one more dies.
    LastTry,
    /// Workers died of it: not to be touched.
    Condemned,
}

/// The table.
#[derive(Clone, Copy)]
pub struct Suspects<'a>(pub(super) &'a Table);

impl Suspects<'_> {
    /// Counts a death for what the last worker had in hand; says whether there is any suspect.
    /// Called before any thread of this worker begins anything.
    pub fn take_over(&self, now_ms: u64) -> bool {
        // Two threads may have had a part of the same one each.
        let found = self.0.in_hand.iter().map(|in_hand| in_hand.load(Ordering::Acquire));
        let found: BTreeSet<u64> = found.filter(|task| *task != 0).collect();
        found.into_iter().for_each(|task| self.count_death(Task(task), now_ms));
        for in_hand in &self.0.in_hand {
            in_hand.store(0, Ordering::Release);
        }
        self.0.suspects.iter().any(|suspect| suspect.task.load(Ordering::Relaxed) != 0)
    }

    fn count_death(&self, task: Task, now_ms: u64) {
        if let Some(known) = self.find(task) {
            known.died_ms.store(now_ms, Ordering::Relaxed);
            known.deaths.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A free one, else the oldest: numbers of requests grow.
        let age = |suspect: &&Suspect| suspect.task.load(Ordering::Relaxed);
        let free = self.0.suspects.iter().min_by_key(age).expect("the table has entries");
        free.deaths.store(1, Ordering::Relaxed);
        free.died_ms.store(now_ms, Ordering::Relaxed);
        free.task.store(task.0, Ordering::Release);
    }

    fn find(&self, task: Task) -> Option<&Suspect> {
        let is_it = |suspect: &&Suspect| suspect.task.load(Ordering::Acquire) == task.0;
        self.0.suspects.iter().find(is_it)
    }

    /// What is known against a task. A condemned request is forgotten with that, since it is
    /// answered; a condemned file gets another last try after a while.
    pub fn judge(&self, task: Task, now_ms: u64) -> Verdict {
        let Some(known) = self.find(task) else { return Verdict::Ordinary };
        let deaths = known.deaths.load(Ordering::Relaxed);
        if deaths + 1 < DEATHS_MAX {
            return Verdict::Suspect;
        }
        let served_ms = now_ms.saturating_sub(known.died_ms.load(Ordering::Relaxed));
        if deaths < DEATHS_MAX || (task.is_writing() && served_ms >= PENANCE_MS) {
            return Verdict::LastTry;
        }
        if !task.is_writing() {
            self.acquit(task);
        }
        Verdict::Condemned
    }

    /// Nothing is known against it any more: it was done, or will never be.
    pub fn acquit(&self, task: Task) {
        if let Some(known) = self.find(task) {
            known.task.store(0, Ordering::Release);
        }
    }

    /// Notes that this thread has begun with a task.
    pub fn begin(&self, task: Task) {
        HANDED_OVER.set(false);
        self.own().store(task.0, Ordering::Release);
    }

    /// Notes that this thread is through with its task, and alive. Then it is done, unless the
    /// rest was handed over.
    pub fn end(&self, verdict: Verdict) {
        let task = self.own().swap(0, Ordering::AcqRel);
        if verdict != Verdict::Ordinary && !HANDED_OVER.get() {
            self.acquit(Task(task));
        }
    }

    /// What this thread has in hand, of which another one will do the rest.
    pub fn hand_over(&self) -> Option<Task> {
        let task = self.own().load(Ordering::Relaxed);
        HANDED_OVER.set(true);
        (task != 0).then_some(Task(task))
    }

    /// This thread's place. Two share one only where a worker has more threads than places; then
    /// one of them goes unnoticed.
    fn own(&self) -> &AtomicU64 {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: Cell<Option<usize>> = const { Cell::new(None) };
        }
        let own = OWN.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % IN_HAND);
        OWN.set(Some(own));
        &self.0.in_hand[own]
    }
}

thread_local! {
    /// Whether the rest of what this thread has in hand is for another.
    static HANDED_OVER: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Box<Table> {
        // SAFETY: consists of atomics only, for which zeroes are valid.
        Box::new(unsafe { std::mem::zeroed() })
    }

    const KILLER: Task = Task(8);
    const OTHER: Task = Task(22);

    /// Goal: what was in hand at three deaths is condemned, once; what was done in between is
    /// free of suspicion, and so is what was not in hand.
    #[test]
    fn three_deaths_condemn() {
        let table = table();
        let suspects = Suspects(&table);
        assert!(!suspects.take_over(0));
        for expected in [Verdict::Ordinary, Verdict::Suspect, Verdict::LastTry] {
            assert_eq!(suspects.judge(KILLER, 0), expected);
            suspects.begin(KILLER);
            assert!(suspects.take_over(0));
            assert_eq!(suspects.judge(Task(10), 0), Verdict::Ordinary);
        }
        assert_eq!(suspects.judge(KILLER, 0), Verdict::Condemned);
        assert!(!suspects.take_over(0));

        suspects.begin(OTHER);
        suspects.take_over(0);
        suspects.begin(OTHER);
        suspects.end(suspects.judge(OTHER, 0));
        assert_eq!(suspects.judge(OTHER, 0), Verdict::Ordinary);
        assert!(!suspects.take_over(0));
    }

    /// Goal: a request that leaves its rest to another thread is suspected until that has done it.
    #[test]
    fn what_is_handed_over_is_not_done() {
        let table = table();
        let suspects = Suspects(&table);
        suspects.begin(KILLER);
        let beside = table.in_hand.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        beside.unwrap().store(KILLER.0, Ordering::Relaxed);
        suspects.take_over(0);
        assert_eq!(
            suspects.judge(KILLER, 0),
            Verdict::Suspect,
            "one death, although twice in hand"
        );
        suspects.begin(KILLER);
        assert_eq!(suspects.hand_over(), Some(KILLER));
        suspects.end(Verdict::Suspect);
        assert_eq!(suspects.hand_over(), None, "nothing is in hand now");
        assert_eq!(suspects.judge(KILLER, 0), Verdict::Suspect);
        suspects.begin(KILLER);
        suspects.end(Verdict::Suspect);
        assert_eq!(suspects.judge(KILLER, 0), Verdict::Ordinary);
    }

    /// Goal: a file that workers died of is left alone for a while, again and again, until it was
    /// written, or is gone.
    #[test]
    fn a_condemned_file_is_tried_again() {
        let table = table();
        let suspects = Suspects(&table);
        let file = Task::writing(KILLER.0);
        for now_ms in [0, 0, 5] {
            suspects.begin(file);
            suspects.take_over(now_ms);
        }
        for round in 0..3 {
            let condemned_ms = 5 + round * PENANCE_MS;
            assert_eq!(suspects.judge(file, condemned_ms), Verdict::Condemned);
            assert_eq!(suspects.judge(file, condemned_ms + PENANCE_MS - 1), Verdict::Condemned);
            assert_eq!(suspects.judge(file, condemned_ms + PENANCE_MS), Verdict::LastTry);
            suspects.begin(file);
            suspects.take_over(condemned_ms + PENANCE_MS);
        }
        assert_eq!(suspects.judge(KILLER, 0), Verdict::Ordinary, "a request of that number");
        suspects.begin(file);
        suspects.end(Verdict::LastTry);
        assert_eq!(suspects.judge(file, u64::MAX), Verdict::Ordinary);
    }

    /// Goal: of two that were in hand at a death only the guilty one is condemned. Method: each is
    /// alone from then on, so that one ends and the other kills.
    #[test]
    fn a_suspect_that_is_alone_dies_of_itself_only() {
        let table = table();
        let suspects = Suspects(&table);
        suspects.begin(KILLER);
        let beside = table.in_hand.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        beside.unwrap().store(OTHER.0, Ordering::Relaxed);
        assert!(suspects.take_over(0));
        assert_eq!([KILLER, OTHER].map(|task| suspects.judge(task, 0)), [Verdict::Suspect; 2]);
        suspects.begin(OTHER);
        suspects.end(suspects.judge(OTHER, 0));
        for expected in [Verdict::Suspect, Verdict::LastTry] {
            assert_eq!(suspects.judge(KILLER, 0), expected);
            suspects.begin(KILLER);
            suspects.take_over(0);
            assert_eq!(suspects.judge(OTHER, 0), Verdict::Ordinary);
        }
        assert_eq!(suspects.judge(KILLER, 0), Verdict::Condemned);
    }

    /// Goal: the table never overflows; the newest are kept.
    #[test]
    fn old_suspects_make_room() {
        let table = table();
        let suspects = Suspects(&table);
        let last = 3 * SUSPECTS as u64;
        for unique in 1..=last {
            suspects.begin(Task::request(unique));
            suspects.take_over(0);
        }
        assert_eq!(suspects.judge(Task::request(1), 0), Verdict::Ordinary);
        assert_eq!(suspects.judge(Task::request(last), 0), Verdict::Suspect);
    }
}
