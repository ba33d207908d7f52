//! Requests that workers had in hand when they died.
//!
//! Each thread that serves requests notes the one it has begun and not ended. The next worker
//! counts a death for those it finds: the first time the guilty one and whatever others were in
//! hand beside it. From then on such a *suspect* is served alone (`fuse::guard` sees to that), so
//! that further deaths are its own. At [`DEATHS_MAX`] it is *condemned*: not touched any more. One
//! that was served is none any longer.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// More than a worker has threads that serve requests.
const IN_HAND: usize = 32;
/// More than can be in hand when a worker dies; the oldest make room.
const SUSPECTS: usize = 64;
/// So many workers die of a request. Once is an accident, and so may be a second time.
pub const DEATHS_MAX: u32 = 3;

#[repr(C)]
struct Suspect {
    /// 0 when there is none.
    unique: AtomicU64,
    deaths: AtomicU32,
}

#[repr(C)]
pub(super) struct Table {
    in_hand: [AtomicU64; IN_HAND],
    suspects: [Suspect; SUSPECTS],
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known against it.
    Ordinary,
    /// It was in hand when a worker died: to be served alone.
    Suspect,
    /// Workers died of it: not to be touched.
    Condemned,
}

/// The table.
#[derive(Clone, Copy)]
pub struct Suspects<'a>(pub(super) &'a Table);

impl Suspects<'_> {
    /// Counts a death for what the last worker had in hand; says whether there is any suspect.
    /// Called before any thread of this worker serves requests.
    pub fn take_over(&self) -> bool {
        for in_hand in &self.0.in_hand {
            match in_hand.load(Ordering::Acquire) {
                0 => continue,
                unique => self.count_death(unique),
            }
            in_hand.store(0, Ordering::Release);
        }
        self.0.suspects.iter().any(|suspect| suspect.unique.load(Ordering::Relaxed) != 0)
    }

    fn count_death(&self, unique: u64) {
        if let Some(known) = self.find(unique) {
            known.deaths.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A free one, else the oldest: numbers of requests grow.
        let age = |suspect: &&Suspect| suspect.unique.load(Ordering::Relaxed);
        let free = self.0.suspects.iter().min_by_key(age).expect("the table has entries");
        free.deaths.store(1, Ordering::Relaxed);
        free.unique.store(unique, Ordering::Release);
    }

    fn find(&self, unique: u64) -> Option<&Suspect> {
        let is_it = |suspect: &&Suspect| suspect.unique.load(Ordering::Acquire) == unique;
        self.0.suspects.iter().find(is_it)
    }

    /// What is known against a request; one that is condemned is forgotten with that.
    pub fn judge(&self, unique: u64) -> Verdict {
        match self.find(unique) {
            None => Verdict::Ordinary,
            Some(known) if known.deaths.load(Ordering::Relaxed) < DEATHS_MAX => Verdict::Suspect,
            Some(known) => {
                known.unique.store(0, Ordering::Release);
                Verdict::Condemned
            }
        }
    }

    /// Notes that this thread has begun with a request.
    pub fn begin(&self, unique: u64) {
        self.own().store(unique, Ordering::Release);
    }

    /// Notes that it has ended with it, and is alive.
    pub fn end(&self, verdict: Verdict) {
        let unique = self.own().swap(0, Ordering::AcqRel);
        if verdict == Verdict::Suspect
            && let Some(known) = self.find(unique)
        {
            known.unique.store(0, Ordering::Release);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Box<Table> {
        // SAFETY: consists of atomics only, for which zeroes are valid.
        Box::new(unsafe { std::mem::zeroed() })
    }

    /// Goal: what was in hand at three deaths is condemned, once; what was served in between is
    /// free of suspicion, and so is what was not in hand.
    #[test]
    fn three_deaths_condemn() {
        let table = table();
        let suspects = Suspects(&table);
        assert!(!suspects.take_over());
        for deaths in 0..DEATHS_MAX {
            let expected = if deaths == 0 { Verdict::Ordinary } else { Verdict::Suspect };
            assert_eq!(suspects.judge(8), expected);
            suspects.begin(8);
            assert!(suspects.take_over());
            assert_eq!(suspects.judge(10), Verdict::Ordinary);
        }
        assert_eq!(suspects.judge(8), Verdict::Condemned);
        assert!(!suspects.take_over());

        suspects.begin(12);
        suspects.take_over();
        suspects.begin(12);
        suspects.end(suspects.judge(12));
        assert_eq!(suspects.judge(12), Verdict::Ordinary);
        assert!(!suspects.take_over());
    }

    /// Goal: of two that were in hand at a death only the guilty one is condemned. Method: each is
    /// served alone from then on, so that one ends and the other kills.
    #[test]
    fn a_suspect_that_is_alone_dies_of_itself_only() {
        let table = table();
        let suspects = Suspects(&table);
        suspects.begin(8);
        let beside = table.in_hand.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        beside.unwrap().store(22, Ordering::Relaxed);
        assert!(suspects.take_over());
        assert_eq!([8, 22].map(|unique| suspects.judge(unique)), [Verdict::Suspect; 2]);
        suspects.begin(22);
        suspects.end(suspects.judge(22));
        for _ in 1..DEATHS_MAX {
            assert_eq!(suspects.judge(8), Verdict::Suspect);
            suspects.begin(8);
            suspects.take_over();
            assert_eq!(suspects.judge(22), Verdict::Ordinary);
        }
        assert_eq!(suspects.judge(8), Verdict::Condemned);
    }

    /// Goal: the table never overflows; the newest are kept.
    #[test]
    fn old_suspects_make_room() {
        let table = table();
        let suspects = Suspects(&table);
        for unique in 1..=200 {
            suspects.begin(unique);
            suspects.take_over();
        }
        assert_eq!(suspects.judge(1), Verdict::Ordinary);
        assert_eq!(suspects.judge(200), Verdict::Suspect);
    }
}
