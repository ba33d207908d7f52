//! What a contender takes of the machine while it is measured: memory and processors.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::watch::Watch;
use crate::common::process::{field, process_time, read};

/// Of `/proc/stat`: user, nice, system, then idle and waiting, then interrupts.
const BUSY: [usize; 5] = [0, 1, 2, 5, 6];

/// A look at forty processes costs a millisecond or two.
const EVERY: Duration = Duration::from_millis(100);

/// Most bytes at one time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Of the contender's processes: private memory, and memory files once for those who share them.
    pub processes_bytes: u64,
    /// Pages that are dirty or on their way to a disk, on the whole machine, beyond what there was
    /// before.
    pub kernel_bytes: u64,
    /// Both together.
    pub both_bytes: u64,
}

/// What was seen of a contender.
#[derive(Default)]
pub struct Usage {
    /// Its memory.
    pub memory: Memory,
    /// Processor time by process, when it was last seen.
    cpu: HashMap<u32, Duration>,
}

impl Usage {
    /// Begins to look at it. Each of `families` are processes that share memory, with their
    /// children.
    pub fn watch(families: Vec<Vec<u32>>) -> Watch<Usage> {
        let before = kernel_bytes();
        Watch::begin(EVERY, Usage::default(), move |seen: &mut Usage| {
            let families = families.iter().map(|family| with_children(family));
            let processes = families.map(|family| seen.family(&family)).sum();
            let kernel = kernel_bytes().saturating_sub(before);
            let most = &mut seen.memory;
            most.processes_bytes = most.processes_bytes.max(processes);
            most.kernel_bytes = most.kernel_bytes.max(kernel);
            most.both_bytes = most.both_bytes.max(processes + kernel);
        })
    }

    /// The bytes that it has.
    fn family(&mut self, pids: &[u32]) -> u64 {
        let (mut own, mut shared) = (0, 0);
        for &pid in pids {
            let text = read(&format!("/proc/{pid}/status"));
            own += field(&text, "RssAnon:");
            shared = field(&text, "RssShmem:").max(shared);
            let cpu = self.cpu.entry(pid).or_default();
            *cpu = process_time(pid).max(*cpu);
        }
        own + shared
    }

    /// The processor time of its processes, up to a tenth of a second before each ended.
    pub fn cpu(&self) -> Duration {
        self.cpu.values().sum()
    }
}

fn with_children(pids: &[u32]) -> Vec<u32> {
    let mut all = pids.to_vec();
    for pid in pids {
        let children = read(&format!("/proc/{pid}/task/{pid}/children"));
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn kernel_bytes() -> u64 {
    let text = read("/proc/meminfo");
    field(&text, "Dirty:") + field(&text, "Writeback:")
}

/// The time of all processors since the machine was started in which they did something, the
/// kernel's threads and interrupts included. By ticks of 10 ms.
pub fn machine_time() -> Duration {
    let text = read("/proc/stat");
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
    let busy: u64 = BUSY.iter().filter_map(|&at| ticks.get(at)).sum();
    // SAFETY: no memory is involved.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_secs_f64(busy as f64 / a_second.max(1) as f64)
}
