//! Looks at something again and again, beside what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that looks until it is asked what it has seen, or dropped.
pub struct Watch<T> {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Watch<T> {
    /// Calls `look` every so often, and a last time when it is asked.
    pub fn begin(
        every: Duration,
        mut seen: T,
        mut look: impl FnMut(&mut T) + Send + 'static,
    ) -> Watch<T> {
        let ended = Arc::new(AtomicBool::new(false));
        let until = ended.clone();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                look(&mut seen);
                std::thread::sleep(every);
            }
            look(&mut seen);
            seen
        });
        Watch { ended, thread: Some(thread) }
    }

    /// What it has seen.
    pub fn end(mut self) -> T {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is there until now");
        thread.join().expect("it does not panic")
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
