//! Figures for the control socket.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::asking::Question;
use super::data::FileState;
use super::nodes::Node;
use super::{Device, Filesystem};
use crate::clock::boottime_ms;
use crate::control::errno;
use crate::control::protocol::{
    ByteRange, DiskStatus, EngineStatus, FailureStatus, FileStatus, LaneStatus, OutageStatus,
    RecentDrain, RequestStatus, Status,
};
use crate::drain::EngineState;
use crate::schedule::requests::Waiting;

/// Most files named in one answer; the fullest come first.
const FILES_MAX: usize = 10_000;
/// Requests that wait for so long for what is below are counted as hanging.
const HANGING_MS: u64 = 1000;
/// Most requests named that wait for what is below.
const REQUESTS_MAX: usize = 16;
/// Most ranges named of one file.
const RANGES_MAX: usize = 32;

impl Filesystem {
    /// Acknowledged bytes that are not in a backing file.
    pub fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes.load(Ordering::Relaxed)
    }

    /// The same, after each lock that a write takes last was to be had: one that is never let go
    /// shows. Waits for no disk.
    pub fn pulse(&self) -> u64 {
        self.each_queue(|queue| queue.with(|_| ()));
        self.backlog_bytes()
    }

    /// State of the mount.
    pub fn status(&self) -> Status {
        let control = self.arena.control();
        let counters = self.counters();
        let (keeper_pid, worker_pid) = control.pids();
        let now_ms = boottime_ms();
        let get = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed);
        let (mut streams, mut oldest_ms) = (0, None::<u64>);
        self.each_queue(|queue| {
            queue.with(|scheduler| {
                streams += scheduler.streams() as u64;
                oldest_ms = oldest_ms.into_iter().chain(scheduler.oldest_ms()).min();
            });
        });
        let drain_turns = get(&counters.drain_turns);
        let bytes_out = get(&counters.bytes_out);
        let waits = [self.room.oldest_wait_ms(), self.gate.oldest_wait_ms()];
        let waited_ms = waits.into_iter().flatten().max().unwrap_or(0);
        let waiting_requests = self.unanswered(now_ms.saturating_sub(HANGING_MS));
        let hanging = self.hanging(&waiting_requests, now_ms);
        let disks = self.disks();
        Status {
            config: (*self.config).clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mounted_at_ms: control.mounted_at_ms(),
            keeper_pid,
            worker_pid,
            worker_restarts: control.worker_restarts(),
            uptime_ms: now_ms.saturating_sub(control.mounted_at_ms()),
            backlog_bytes: self.backlog_bytes(),
            held_bytes: self.held_bytes(),
            memory_bytes: self.config.memory_bytes,
            streams,
            open_files: self.open_files(),
            oldest_age_ms: oldest_ms.map(|oldest_ms| now_ms.saturating_sub(oldest_ms)),
            bytes_in: get(&counters.bytes_in),
            write_requests: get(&counters.write_requests),
            bytes_out,
            drain_turns,
            drain_writes: get(&counters.drain_writes),
            syncs: get(&counters.syncs),
            mean_turn_bytes: bytes_out.checked_div(drain_turns).unwrap_or(0),
            whole_chunk_bytes: get(&counters.whole_chunk_bytes),
            direct_bytes: get(&counters.direct_bytes),
            requests: get(&counters.requests),
            waiting_writes: self.room.waiting() + self.gate.waiting() + self.space_jobs.waiting(),
            longest_wait_ms: get(&counters.longest_wait_ms).max(waited_ms),
            bdi: match control.bdi_errno() {
                0 => "tuned".into(),
                code => format!("not tuned: {}", std::io::Error::from_raw_os_error(code as i32)),
            },
            errors: self.failing_files(),
            lanes: self.lanes(),
            recent: disks
                .iter()
                .map(|disk| disk.recent)
                .fold(RecentDrain::default(), RecentDrain::and),
            disks,
            hanging_requests: hanging.0,
            longest_request_ms: hanging.1,
            waiting_requests: waiting_requests
                .iter()
                .take(REQUESTS_MAX)
                .map(|(waiting, question)| self.request_status(waiting, question, now_ms))
                .collect(),
            files_changed_below: get(&counters.changed_below),
            changed_below: self.changed_below(),
        }
    }

    /// Requests that wait for what is below: how many, and for how many milliseconds at most. Those
    /// that are between two tries have no thread.
    fn hanging(&self, waiting: &[(Waiting, Question)], now_ms: u64) -> (u64, u64) {
        let since_ms = now_ms.saturating_sub(HANGING_MS);
        let [names, bytes] = [&self.askers, &self.pool].map(|pool| pool.older_than(since_ms));
        let parked = waiting.iter().filter(|(waiting, _)| waiting.is_parked).count() as u64;
        let asked_ms = waiting.first().map(|(waiting, _)| waiting.since_ms);
        let oldest_ms = [names.1, bytes.1, asked_ms].into_iter().flatten().min();
        (names.0 + bytes.0 + parked, oldest_ms.map_or(0, |at_ms| now_ms.saturating_sub(at_ms)))
    }

    fn request_status(&self, waiting: &Waiting, question: &Question, now_ms: u64) -> RequestStatus {
        let path = |id: u64| self.node(id).map(|node| self.path_of(&node)).unwrap_or_default();
        let path = match question.names.first() {
            Some((dir, name)) => path(*dir).join(name),
            None => path(question.id),
        };
        RequestStatus {
            what: question.what.to_owned(),
            path,
            for_ms: now_ms.saturating_sub(waiting.since_ms),
            tries: waiting.tries,
            error: waiting.last_errno.map(errno::name),
        }
    }

    fn disks(&self) -> Vec<DiskStatus> {
        let devices = self.devices.read().expect("no panics under this lock");
        let disk = |(dev, device): &(u64, Device)| {
            let service = device.chunk.service();
            DiskStatus {
                device: device_name(*dev),
                chunk_bytes: device.chunk.bytes(),
                lanes: device.queue.lanes(),
                positioning_us: service.map(|service| service.positioning_us),
                bytes_per_s: service.map(|service| service.bytes_per_s),
                engine: engine_status(&device.queue.engine()),
                recent: device.recent.lock().expect("no panics under this lock").sum(boottime_ms()),
            }
        };
        devices.iter().map(disk).collect()
    }

    /// What each lane that is at work has in hand.
    fn lanes(&self) -> Vec<LaneStatus> {
        let (mut lanes, mut first) = (Vec::new(), 0);
        for (dev, device) in self.devices.read().expect("no panics under this lock").iter() {
            for (number, work) in (first..).zip(device.queue.at_work()) {
                first = number + 1;
                let Some(work) = work else { continue };
                let Ok(node) = self.node(work.file.0) else { continue };
                lanes.push(LaneStatus {
                    lane: number,
                    device: device_name(*dev),
                    path: self.path_of(&node),
                    range: in_bytes(&work.range),
                    for_ms: boottime_ms().saturating_sub(work.since_ms),
                    bytes_per_s: work.bytes_per_s,
                });
            }
        }
        lanes
    }

    /// Files that hold data or have an error, fullest first.
    pub fn files(&self) -> Vec<FileStatus> {
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        let mut files: Vec<FileStatus> =
            nodes.iter().filter_map(|node| self.file_status(node)).collect();
        files.sort_by(|a, b| b.backlog_bytes.cmp(&a.backlog_bytes).then(a.path.cmp(&b.path)));
        files.truncate(FILES_MAX);
        files
    }

    /// Files whose data could not be written.
    pub fn failing_files(&self) -> Vec<FileStatus> {
        let failing = self.failing.lock().expect("no panics under this lock").clone();
        let status = |id| self.node(id).ok().and_then(|node| self.file_status(&node));
        failing.into_iter().take(FILES_MAX).filter_map(status).collect()
    }

    fn file_status(&self, node: &Node) -> Option<FileStatus> {
        let state = node.data_if_any()?.lock_soon()?;
        let backlog_bytes = state.buffer.dirty_bytes() + state.buffer.in_flight_bytes();
        let failure = failure_status(&state);
        if backlog_bytes == 0 && failure.is_none() {
            return None;
        }
        let now_ms = boottime_ms();
        Some(FileStatus {
            id: node.id(),
            path: self.path_of(node),
            backlog_bytes,
            oldest_age_ms: state.buffer.oldest_ms().map(|born_ms| now_ms.saturating_sub(born_ms)),
            open: self.arena.nodes().open(node.slot) > 0,
            error: failure.as_ref().map(|failure| super::errno(failure.errno).to_string()),
            failure,
        })
    }
}

/// As /proc/self/mountinfo has it.
fn device_name(dev: u64) -> String {
    format!("{}:{}", libc::major(dev), libc::minor(dev))
}

fn engine_status(engine: &EngineState) -> Option<EngineStatus> {
    let now_ms = boottime_ms();
    let outage = engine.outage.map(|outage| OutageStatus {
        for_ms: now_ms.saturating_sub(outage.since_ms),
        errno: outage.errno,
        name: errno::name(outage.errno),
        next_try_ms: outage.next_try_ms.map(|at_ms| at_ms.saturating_sub(now_ms)),
    });
    let (late_writes, outages) = (engine.late as u64, engine.outages);
    engine.is_elsewhere.then_some(EngineStatus { outage, late_writes, outages })
}

fn failure_status(state: &FileState) -> Option<FailureStatus> {
    let loss = state.stability.loss.filter(|loss| loss.is_listed);
    let (errno, since_ms, attempts) = match (&state.failure, loss) {
        (Some(failure), _) => (failure.errno, failure.since_ms, failure.attempts),
        (None, Some(loss)) => (loss.errno, loss.since_ms, 0),
        (None, None) => return None,
    };
    let ranges = state.unstored();
    Some(FailureStatus {
        errno,
        name: errno::name(errno),
        for_ms: boottime_ms().saturating_sub(since_ms),
        attempts,
        lost: loss.is_some(),
        ranges: ranges.iter().take(RANGES_MAX).map(in_bytes).collect(),
        more_ranges: ranges.len().saturating_sub(RANGES_MAX) as u64,
    })
}

pub(super) fn in_bytes(range: &Range<u64>) -> ByteRange {
    ByteRange { offset: range.start, length: range.end - range.start }
}
