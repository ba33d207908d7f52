//! Keeps what workers died of apart, so that nothing else is blamed for it, and away when that went
//! on: see [`Suspects`](crate::arena::Suspects) for what is noted and counted.
//!
//! A request that was in hand when a worker died is answered with no other request beside it. What
//! workers died of twice has its last try with nothing else beside it: no request, no job of the
//! pool, no turn of a lane. Others wait for that, and it for them, but 200 ms at most: what it
//! does may wait for a disk, and who kills a worker seldom takes long about it.
//!
//! While the last worker left no suspect, nobody waits for anything here.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::arena::{Arena, Task, Verdict};
use crate::clock::boottime_ms;

/// The longest anything is held up for something else to be alone.
const PATIENCE: Duration = Duration::from_millis(200);

/// Who is where.
pub struct Isolation {
    arena: Arena,
    gate: Option<Gate>,
}

/// What kind of thread has it in hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// One that answers requests, and waits for nothing.
    Session,
    /// One that may wait for the disk.
    Disk,
}

impl Isolation {
    /// To be made before any thread begins anything.
    pub fn new(arena: Arena) -> Isolation {
        let gate = arena.suspects().take_over(boottime_ms()).then(Gate::default);
        Isolation { arena, gate }
    }

    /// This thread begins to answer a request. `None` for one that is not to be touched.
    pub fn begin_request(&self, unique: u64) -> Option<InHand<'_>> {
        self.begin(Task::request(unique), Place::Session)
    }

    /// This thread begins to write a file, or to change its blocks. `None` for one that is not to
    /// be touched for now.
    pub fn begin_writing(&self, node_id: u64) -> Option<InHand<'_>> {
        self.begin(Task::writing(node_id), Place::Disk)
    }

    /// The rest of what this thread has in hand is for another one.
    pub fn hand_over(&self) -> HandedOver {
        HandedOver(self.arena.suspects().hand_over())
    }

    /// Another thread goes on with it.
    pub fn resume(&self, handed: HandedOver) -> Option<InHand<'_>> {
        handed.0.and_then(|task| self.begin(task, Place::Disk))
    }

    /// The file is gone: another one may get its node id.
    pub fn forget_file(&self, node_id: u64) {
        if self.gate.is_some() {
            self.arena.suspects().acquit(Task::writing(node_id));
        }
    }

    fn begin(&self, task: Task, place: Place) -> Option<InHand<'_>> {
        let suspects = self.arena.suspects();
        let (verdict, stay) = match &self.gate {
            None => (Verdict::Ordinary, None),
            Some(gate) => match suspects.judge(task, boottime_ms()) {
                Verdict::Condemned => return None,
                verdict => (verdict, Some(gate.enter(verdict, place))),
            },
        };
        suspects.begin(task);
        Some(InHand { arena: &self.arena, verdict, _stay: stay })
    }
}

/// A task between two threads; by default none that is watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandedOver(Option<Task>);

/// A task is noted as long as this lives.
pub struct InHand<'a> {
    arena: &'a Arena,
    verdict: Verdict,
    _stay: Option<Stay<'a>>,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.arena.suspects().end(self.verdict);
    }
}

#[derive(Default)]
struct Inside {
    /// Somebody is alone, or waits until he is.
    alone_since: Option<Instant>,
    in_session: u32,
    at_disk: u32,
}

#[derive(Default)]
struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
}

/// As long as it lives, somebody is inside.
struct Stay<'a> {
    gate: &'a Gate,
    /// `None` for the one that is alone.
    place: Option<Place>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("no panics under this lock")
    }

    fn enter(&self, verdict: Verdict, place: Place) -> Stay<'_> {
        let mut inside = self.lock();
        // Whoever has been alone for too long is waited for no more.
        while let Some(since) = inside.alone_since
            && let Some(left) = PATIENCE.checked_sub(since.elapsed())
        {
            inside = self.changed.wait_timeout(inside, left).expect("no panics under this lock").0;
        }
        let without_disk = match verdict {
            Verdict::LastTry => true,
            Verdict::Suspect => false,
            Verdict::Ordinary | Verdict::Condemned => return self.stay(inside, Some(place)),
        };
        if inside.alone_since.is_some() || (place == Place::Disk && !without_disk) {
            return self.stay(inside, Some(place));
        }
        inside.alone_since = Some(Instant::now());
        let is_awaited =
            |inside: &mut Inside| inside.in_session > 0 || (without_disk && inside.at_disk > 0);
        let inside = self.changed.wait_timeout_while(inside, PATIENCE, is_awaited);
        self.stay(inside.expect("no panics under this lock").0, None)
    }

    fn stay<'a>(&'a self, mut inside: MutexGuard<'a, Inside>, place: Option<Place>) -> Stay<'a> {
        match place {
            Some(Place::Session) => inside.in_session += 1,
            Some(Place::Disk) => inside.at_disk += 1,
            None => {}
        }
        Stay { gate: self, place }
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        match self.place {
            Some(Place::Session) => inside.in_session -= 1,
            Some(Place::Disk) => inside.at_disk -= 1,
            None => inside.alone_since = None,
        }
        drop(inside);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    /// Goal: who is alone is, and others come in after it; each waits for the other.
    #[test]
    fn one_is_alone() {
        let gate = Gate::default();
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            let first = gate.enter(Verdict::Ordinary, Place::Disk);
            scope.spawn(|| {
                let alone = gate.enter(Verdict::LastTry, Place::Session);
                tell.send("alone").unwrap();
                std::thread::sleep(PATIENCE / 10);
                tell.send("ends").unwrap();
                drop(alone);
            });
            while gate.lock().alone_since.is_none() {
                std::thread::yield_now();
            }
            assert_eq!(told.recv_timeout(PATIENCE / 10), Err(RecvTimeoutError::Timeout));
            drop(first);
            assert_eq!(told.recv(), Ok("alone"));
            drop(gate.enter(Verdict::Ordinary, Place::Session));
            assert_eq!(told.try_recv(), Ok("ends"));
        });
    }

    /// Goal: a suspect among requests waits for requests only.
    #[test]
    fn a_suspect_does_not_wait_for_the_disk() {
        let gate = Gate::default();
        let writing = gate.enter(Verdict::Suspect, Place::Disk);
        assert!(gate.enter(Verdict::Suspect, Place::Session).place.is_none());
        assert!(writing.place == Some(Place::Disk));
    }

    /// Goal: nobody is held up for good by one that waits for a disk.
    #[test]
    fn patience_ends() {
        let gate = Gate::default();
        let _hangs = gate.enter(Verdict::LastTry, Place::Disk);
        for verdict in [Verdict::Ordinary, Verdict::LastTry, Verdict::Suspect] {
            assert!(gate.enter(verdict, Place::Session).place.is_some());
        }
        let gate = Gate::default();
        let _hangs = gate.enter(Verdict::Ordinary, Place::Disk);
        assert!(gate.enter(Verdict::LastTry, Place::Disk).place.is_none());
    }
}
