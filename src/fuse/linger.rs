//! A moment awake for the next request, before a thread sleeps until it comes.
//!
//! A program that creates files sends one request after the other, each some microseconds after it
//! has the answer to the one before. Waking a thread on another processor takes longer than most
//! answers do, in a virtual machine several times as long. So one thread, after it has answered,
//! looks for the next request as long as that often pays; another program that wants its processor
//! gets it. The others sleep in read(2), and take what comes meanwhile.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than a program takes from an answer to its next request, and than it takes to wake it.
const MOMENT: Duration = Duration::from_micros(50);

/// The next requests of a device, waited for awake.
pub(super) struct Linger {
    device: RawFd,
    /// A second processor is there, on which programs go on.
    is_useful: bool,
    /// One thread lingers.
    is_taken: AtomicBool,
    worth: Worth,
}

impl Linger {
    /// Of a device that stays open as long as this is used.
    pub(super) fn new(device: RawFd) -> Linger {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let (is_taken, worth) = Default::default();
        Linger { device, is_useful: processors > 1, is_taken, worth }
    }

    /// To be called after each answer, with nothing in hand. Returns after 50 microseconds at the
    /// latest, unless others want the processor.
    pub(super) fn linger(&self) {
        if !self.is_useful || !self.worth.is_due() || self.is_taken.swap(true, Ordering::Acquire) {
            return;
        }
        let before = self.worth.answered();
        let comes = self.next_comes();
        // Where another thread was quicker nothing is learned.
        if comes || self.worth.answered() == before {
            self.worth.note(comes);
        }
        self.is_taken.store(false, Ordering::Release);
    }

    /// Whether there is something to read before the moment is over.
    fn next_comes(&self) -> bool {
        let begun = Instant::now();
        let mut poll = libc::pollfd { fd: self.device, events: libc::POLLIN, revents: 0 };
        loop {
            // SAFETY: one structure, which lives as long as the call.
            if unsafe { libc::poll(&mut poll, 1, 0) } != 0 {
                return true;
            }
            if begun.elapsed() > MOMENT {
                return false;
            }
            std::thread::yield_now();
        }
    }
}

/// Whether to linger again: after each request while it pays, after one in hundreds while it does not.
#[derive(Default)]
struct Worth {
    /// Requests, modulo 2^32.
    answered: AtomicU32,
    /// Those that are to be passed over.
    left: AtomicU32,
    /// How many were, the last time.
    rest: AtomicU32,
}

impl Worth {
    const REST_MAX: u32 = 255;

    /// One more request is answered.
    fn is_due(&self) -> bool {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let less = |left: u32| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }

    fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    fn note(&self, has_paid: bool) {
        let rest = self.rest.load(Ordering::Relaxed);
        let rest = if has_paid { rest / 2 } else { (rest * 2 + 1).min(Self::REST_MAX) };
        self.rest.store(rest, Ordering::Relaxed);
        self.left.store(rest, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};
    use std::os::fd::AsRawFd;

    use super::*;

    /// The part of requests after which one lingers, while `has_paid` says of each whether it pays.
    fn part_of(worth: &Worth, has_paid: impl Fn(u32) -> bool) -> f64 {
        let requests = 10_000;
        let due = (0..requests).filter(|number| {
            let is_due = worth.is_due();
            if is_due {
                worth.note(has_paid(*number));
            }
            is_due
        });
        due.count() as f64 / f64::from(requests)
    }

    /// Goal: it is done after almost each request where it mostly pays, hardly ever where it never
    /// does, and again soon after that has changed.
    #[test]
    fn what_pays_is_done_again() {
        let worth = Worth::default();
        assert_eq!(part_of(&worth, |_| true), 1.0);
        assert!(part_of(&worth, |_| false) < 0.01);
        assert!(part_of(&worth, |_| true) > 0.9);
        assert!(part_of(&worth, |number| number % 8 > 0) > 0.6);
    }

    /// Goal: who lingers returns when there is something, also the end, and when nothing comes.
    #[test]
    fn it_ends() {
        let (reader, mut writer) = pipe().unwrap();
        let linger = Linger::new(reader.as_raw_fd());
        assert!(!linger.next_comes());
        writer.write_all(b"x").unwrap();
        assert!(linger.next_comes());
        let (reader, writer) = pipe().unwrap();
        let linger = Linger::new(reader.as_raw_fd());
        drop(writer);
        assert!(linger.next_comes(), "the end is something, too");
    }
}
