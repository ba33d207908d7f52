//! Why programs that write are slow, as far as the state of a mount tells. Pure.

use std::path::PathBuf;

use crate::control::protocol::{
    DiskStatus, LaneStatus, OutageStatus, RecentDrain, RequestStatus, Status,
};

/// A lane that takes longer for one write waits for a disk that hangs.
pub const STUCK_MS: u64 = 1000;
/// Programs are held back when about so much of the memory is held (`fs::Limits`).
const PRESSED_PERCENT: u64 = 45;
/// Lanes that write for less of the time leave the disk idle.
const BUSY_PERCENT: u64 = 50;
/// A drain that is nearer than this to its limit is held back by it.
const AT_LIMIT_PERCENT: u64 = 80;
/// One chunk of each file fills while another one waits for its turn.
const CHUNKS_PER_FILE: u64 = 2;
const MIB: u64 = 1 << 20;

/// What holds programs back: the first that applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slowness {
    /// Another process or machine, which keeps the files, does not answer.
    Outage {
        /// What is known of it.
        outage: OutageStatus,
    },
    /// A write to the disk does not come back.
    StuckLane {
        /// Which lane.
        lane: u64,
        /// Its disk, where there are several.
        device: Option<String>,
        /// The file, below the mountpoint.
        path: PathBuf,
        /// For how long.
        for_ms: u64,
        /// How many more lanes are stuck, on this disk or another.
        others: usize,
    },
    /// Names, attributes or contents that another process or machine is asked for, in vain so far.
    Requests {
        /// How many.
        count: u64,
        /// The one that has waited longest.
        longest: RequestStatus,
    },
    /// Memory is full of bytes that the disk refuses.
    Refused {
        /// How many files.
        files: usize,
        /// How many bytes.
        bytes: u64,
    },
    /// `--drain-rate`.
    RateLimit {
        /// Bytes per second.
        limit_bytes: u64,
    },
    /// There is less memory than the files need for long turns on the disk.
    Memory {
        /// What would do, for `--memory`.
        wanted_bytes: u64,
        /// Files that are written.
        streams: u64,
        /// Bytes of a turn, of late.
        turn_bytes: u64,
    },
    /// The disk does not take more.
    Device {
        /// Which, where there are several: the one that is written to most of the time.
        device: Option<String>,
        /// Bytes per second that the lanes wrote of late.
        drained_bytes: u64,
        /// The part of the time in which they wrote.
        busy_percent: u64,
        /// Bytes per second that came from programs, where two states are known.
        received_bytes: Option<u64>,
    },
    /// Nobody is held back, but threads wait for what is below: their programs have got an error.
    Hanging {
        /// How many.
        count: u64,
        /// For how long, at most.
        for_ms: u64,
    },
    /// The kernel's own throttle, which could not be tuned.
    Kernel {
        /// Why not.
        why: String,
    },
    /// Nothing that is known here.
    Nothing,
}

/// Says it of `now`; with `before`, a state of the same mount some moments earlier, also how fast
/// programs write.
pub fn explain(now: &Status, before: Option<&Status>) -> Slowness {
    if let Some((_, outage)) = now.outage() {
        return Slowness::Outage { outage: outage.clone() };
    }
    let stuck = || now.lanes.iter().filter(|lane| lane.for_ms >= STUCK_MS);
    if let Some(LaneStatus { lane, path, for_ms, device, .. }) = stuck().max_by_key(|it| it.for_ms)
    {
        let (lane, path, for_ms, device) = (*lane, path.clone(), *for_ms, named(now, device));
        return Slowness::StuckLane { lane, device, path, for_ms, others: stuck().count() - 1 };
    }
    if let Some(longest) = now.waiting_requests.first() {
        let count = now.hanging_requests.max(now.waiting_requests.len() as u64);
        return Slowness::Requests { count, longest: longest.clone() };
    }
    let is_pressed =
        now.waiting_writes > 0 || now.held_bytes > now.memory_bytes / 100 * PRESSED_PERCENT;
    if is_pressed { of_pressure(now, before) } else { of_kernel(now, before) }
}

/// Programs are held back here.
fn of_pressure(now: &Status, before: Option<&Status>) -> Slowness {
    let refused_bytes: u64 = now.errors.iter().map(|file| file.backlog_bytes).sum();
    if refused_bytes > 0 && refused_bytes >= now.backlog_bytes / 2 {
        return Slowness::Refused { files: now.errors.len(), bytes: refused_bytes };
    }
    let per_second = |bytes: u64, ms: u64| bytes.saturating_mul(1000) / ms.max(1);
    if let Some(limit_bytes) = now.config.drain_rate
        && per_second(now.recent.bytes, now.recent.window_ms)
            >= limit_bytes / 100 * AT_LIMIT_PERCENT
    {
        return Slowness::RateLimit { limit_bytes };
    }
    let Busiest { device, recent, busy_percent, chunk_bytes } = busiest(now);
    let drained_bytes = per_second(recent.bytes, recent.window_ms);
    let turn_bytes = recent.bytes.checked_div(recent.turns).unwrap_or(0);
    let for_chunks = now.streams * CHUNKS_PER_FILE * chunk_bytes;
    let has_short_turns = recent.turns > 0 && turn_bytes < chunk_bytes;
    if has_short_turns && for_chunks > now.memory_bytes {
        let wanted_bytes = for_chunks.next_multiple_of(MIB);
        return Slowness::Memory { wanted_bytes, streams: now.streams, turn_bytes };
    }
    if recent.turns > 0 && busy_percent < BUSY_PERCENT {
        // What comes at a time is more than memory takes, though the disk would take it.
        let wanted_bytes = for_chunks.max(2 * now.memory_bytes).next_multiple_of(MIB);
        return Slowness::Memory { wanted_bytes, streams: now.streams, turn_bytes };
    }
    let received_bytes = before.map(|before| {
        let bytes = now.bytes_in.saturating_sub(before.bytes_in);
        per_second(bytes, now.uptime_ms.saturating_sub(before.uptime_ms))
    });
    Slowness::Device { device, drained_bytes, busy_percent, received_bytes }
}

/// For which part of the time the lanes of the busiest disk wrote, of late.
pub fn busy_percent(now: &Status) -> u64 {
    busiest(now).busy_percent
}

/// The disk that is written to most of the time: memory is full of what it has not taken.
struct Busiest {
    device: Option<String>,
    recent: RecentDrain,
    busy_percent: u64,
    chunk_bytes: u64,
}

fn busiest(now: &Status) -> Busiest {
    let percent = |recent: &RecentDrain, lanes: u32| {
        let lane_ms = recent.window_ms * u64::from(lanes.max(1));
        (recent.busy_ms * 100 / lane_ms.max(1)).min(100)
    };
    let of_disk = |disk: &DiskStatus| percent(&disk.recent, disk.lanes);
    let disks = now.disks.iter().filter(|disk| disk.recent.window_ms > 0);
    if let Some(disk) = disks.max_by_key(|disk| of_disk(disk)) {
        return Busiest {
            device: named(now, &disk.device),
            recent: disk.recent,
            busy_percent: of_disk(disk),
            chunk_bytes: disk.chunk_bytes,
        };
    }
    // A daemon of an older version does not tell disks apart, or says nothing of them.
    let learned = now.disks.iter().map(|disk| disk.chunk_bytes).max();
    Busiest {
        device: None,
        recent: now.recent,
        busy_percent: percent(&now.recent, now.lanes_each()),
        chunk_bytes: learned.unwrap_or(now.config.chunk_bytes),
    }
}

/// A disk is named only where it could be another.
fn named(now: &Status, device: &str) -> Option<String> {
    (now.disks.len() > 1 && !device.is_empty()).then(|| device.to_owned())
}

/// Nobody is held back here.
fn of_kernel(now: &Status, before: Option<&Status>) -> Slowness {
    if now.hanging_requests > 0 {
        let (count, for_ms) = (now.hanging_requests, now.longest_request_ms);
        return Slowness::Hanging { count, for_ms };
    }
    let is_written = before.map_or(now.backlog_bytes > 0, |before| now.bytes_in > before.bytes_in);
    if now.bdi != "tuned" && is_written {
        return Slowness::Kernel { why: now.bdi.clone() };
    }
    Slowness::Nothing
}

impl Slowness {
    /// In a line, with bytes and milliseconds as `size` and `time` write them.
    pub fn in_words(&self, size: impl Fn(u64) -> String, time: impl Fn(u64) -> String) -> String {
        match self {
            Slowness::Outage { outage } => {
                format!("waits for the engine: {}", outage.describe(time))
            }
            Slowness::StuckLane { lane, device, path, for_ms, others } => {
                let others = match others {
                    0 => String::new(),
                    1 => "; so is another lane".to_owned(),
                    more => format!("; so are {more} other lanes"),
                };
                format!(
                    "lane {lane} has been stuck in one write to {} for {}: {} does not answer{others}",
                    path.display(),
                    time(*for_ms),
                    the_disk(device)
                )
            }
            Slowness::Requests { count, longest } => format!(
                "{count} requests of programs wait for the engine, the longest: {}",
                longest.describe(time)
            ),
            Slowness::Refused { files, bytes } => format!(
                "memory is full of {} of {files} files that the disk refuses: mend it, or \
                 'coalescefs discard' them",
                size(*bytes)
            ),
            Slowness::RateLimit { limit_bytes } => {
                format!("--drain-rate holds the disk to {}/s", size(*limit_bytes))
            }
            Slowness::Memory { wanted_bytes, streams, turn_bytes } => format!(
                "memory: {streams} files leave in turns of {}; --memory {} would help",
                size(*turn_bytes),
                size(*wanted_bytes)
            ),
            Slowness::Device { device, drained_bytes, busy_percent, received_bytes } => {
                let mut text = format!(
                    "{}: it takes {}/s, and is written to {busy_percent}% of the time",
                    the_disk(device),
                    size(*drained_bytes)
                );
                if let Some(bytes) = received_bytes {
                    text.push_str(&format!("; {}/s come from programs", size(*bytes)));
                }
                text
            }
            Slowness::Hanging { count, for_ms } => format!(
                "{count} requests to the filesystem below have not come back, for up to {}",
                time(*for_ms)
            ),
            Slowness::Kernel { why } => format!(
                "nothing here; but the kernel's limits for this mount are {why}, so that it may \
                 hold programs back itself: root could tune them"
            ),
            Slowness::Nothing => "nothing is slow".to_owned(),
        }
    }
}

fn the_disk(device: &Option<String>) -> String {
    device.as_ref().map_or_else(|| "the disk".to_owned(), |device| format!("the disk {device}"))
}

#[cfg(test)]
#[path = "slow_tests.rs"]
mod tests;
