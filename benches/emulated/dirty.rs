//! How much the kernel holds of what was written, while it is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A look costs some ten microseconds.
const EVERY: Duration = Duration::from_millis(20);

/// Looks at the machine's dirty pages, and those on their way to a disk, until it is asked.
pub struct DirtyPages {
    ended: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl DirtyPages {
    /// Begins to look.
    pub fn watch() -> DirtyPages {
        let (ended, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, peak) = (ended.clone(), most.clone());
        let before = now();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                peak.fetch_max(now().saturating_sub(before), Ordering::Relaxed);
                std::thread::sleep(EVERY);
            }
        });
        DirtyPages { ended, most, thread }
    }

    /// The most there were at a time, in bytes, beyond what there was before.
    pub fn most(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic");
        self.most.load(Ordering::Relaxed)
    }
}

/// In bytes; none where the kernel does not say.
fn now() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let counts = |line: &&str| line.starts_with("Dirty:") || line.starts_with("Writeback:");
    text.lines().filter(counts).filter_map(kib).sum::<u64>() * 1024
}
