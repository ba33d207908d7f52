//! What travels over the control socket: one JSON document a line, request then answers.
//!
//! Used by the server in the worker and the client in `cli`. Sizes are bytes, ages and
//! durations milliseconds.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::MountConfig;

/// What a client asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// One [`Status`].
    Status,
    /// The files that hold data or have an error.
    Files,
    /// Drain everything, then unmount; answers with progress until the end.
    Umount {
        /// Also when something cannot be stored, which is then lost.
        #[serde(default)]
        discard: bool,
    },
    /// Give up what of a file is not stored.
    Discard {
        /// Its inode number, as stat(2) shows it on the mount.
        id: u64,
        /// Also when nothing is wrong with it.
        force: bool,
    },
    /// Store what was acknowledged until now, and sync it; answers with progress until
    /// [`Answer::Done`], [`Answer::NotStored`] or [`Answer::Failed`]. The mount goes on.
    Drain {
        /// Only of the file with this inode number.
        id: Option<u64>,
    },
    /// Have another build of this program take the place of keeper and worker; answers
    /// [`Answer::Upgrading`] before it does.
    Upgrade {
        /// Its executable.
        program: PathBuf,
    },
}

/// One line from the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// To [`Request::Status`]; also the last state of a mount, before [`Answer::Done`].
    Status(Box<Status>),
    /// To [`Request::Files`].
    Files {
        /// Fullest first.
        files: Vec<FileStatus>,
    },
    /// While draining, several times a second.
    Progress {
        /// Bytes still in memory.
        backlog_bytes: u64,
    },
    /// Everything is in the backing files and synced. To [`Request::Umount`]: and nothing is mounted
    /// any more.
    Done,
    /// The mount stays because it is in use.
    Busy,
    /// Data could not be stored; the mount stays, unless it is lost.
    NotStored {
        /// The files concerned.
        files: Vec<FileStatus>,
        /// It is in memory no more, and the mount is gone.
        #[serde(default)]
        lost: bool,
    },
    /// To [`Request::Discard`].
    Discarded(GivenUp),
    /// The program can take over, and does so now; the connection ends.
    Upgrading,
    /// The request failed.
    Failed {
        /// One line for the user.
        message: String,
    },
}

/// State of a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The options in force.
    pub config: MountConfig,
    /// Version of the program that serves the mount; empty when it is older than this field.
    #[serde(default)]
    pub version: String,
    /// CLOCK_BOOTTIME when the mount was made: with the backing directory, which mount it is.
    #[serde(default)]
    pub mounted_at_ms: u64,
    /// Process that holds the mount.
    pub keeper_pid: i32,
    /// Process that serves it.
    pub worker_pid: i32,
    /// How often a worker was started again after it died.
    pub worker_restarts: u64,
    /// Since the mount was made.
    pub uptime_ms: u64,
    /// Acknowledged and not yet in a backing file.
    pub backlog_bytes: u64,
    /// Arena bytes in use; never above the limit.
    pub held_bytes: u64,
    /// The limit.
    pub memory_bytes: u64,
    /// Files with data to be written.
    pub streams: u64,
    /// Files open by programs.
    pub open_files: u64,
    /// Age of the oldest byte not yet written, if any.
    pub oldest_age_ms: Option<u64>,
    /// Received from programs, to be coalesced.
    pub bytes_in: u64,
    /// WRITE requests received from the kernel.
    pub write_requests: u64,
    /// Written to backing files.
    pub bytes_out: u64,
    /// Turns taken: runs of consecutive writes to one file.
    pub drain_turns: u64,
    /// System calls that wrote.
    pub drain_writes: u64,
    /// Calls that asked the backing filesystem to make a file or directory durable.
    pub syncs: u64,
    /// Bytes per turn.
    pub mean_turn_bytes: u64,
    /// Bytes that left in turns of a whole aligned chunk.
    pub whole_chunk_bytes: u64,
    /// Bytes written with O_DIRECT.
    pub direct_bytes: u64,
    /// WRITE requests whose reply waits for room.
    pub waiting_writes: u64,
    /// Longest time a WRITE reply was held back.
    pub longest_wait_ms: u64,
    /// Requests of all kinds received from the kernel.
    pub requests: u64,
    /// Whether the kernel's limits for the mount's dirty pages could be tuned; else why not.
    pub bdi: String,
    /// Files whose data could not be written.
    pub errors: Vec<FileStatus>,
    /// What the threads that write are doing now.
    #[serde(default)]
    pub lanes: Vec<LaneStatus>,
    /// The devices that files of the mount are on.
    #[serde(default)]
    pub disks: Vec<DiskStatus>,
    /// Requests of programs that have waited for more than a second for what is below.
    #[serde(default)]
    pub hanging_requests: u64,
    /// How long the longest of them has.
    #[serde(default)]
    pub longest_request_ms: u64,
    /// Some of them, about names, attributes and contents: those that have waited longest.
    #[serde(default)]
    pub waiting_requests: Vec<RequestStatus>,
    /// What lanes did in the last seconds.
    #[serde(default)]
    pub recent: RecentDrain,
    /// How often a file that was written here was found changed below by somebody else.
    #[serde(default)]
    pub files_changed_below: u64,
    /// The last of those files; since the worker was started.
    #[serde(default)]
    pub changed_below: Vec<ChangedBelow>,
}

/// A file that somebody else changed below while it was written here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangedBelow {
    /// Below the mountpoint, where it was then.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// How often.
    pub times: u64,
    /// What of it, the last time, in words.
    pub what: String,
    /// How long that is ago.
    pub ago_ms: u64,
}

/// What lanes wrote in the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentDrain {
    /// Length of that time; less at the beginning.
    pub window_ms: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Time that the backing filesystem took for them, of all lanes together.
    pub busy_ms: u64,
    /// Contiguous writes.
    pub writes: u64,
    /// Turns that ended.
    pub turns: u64,
}

/// What is known of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its number, as `8:1`.
    pub device: String,
    /// The chunk in force.
    pub chunk_bytes: u64,
    /// Files that may be written at the same time; 0 from a daemon that does not say.
    #[serde(default)]
    pub lanes: u32,
    /// To go to another file, learned from the runs written; `None` while they do not tell.
    pub positioning_us: Option<f64>,
    /// Written in a second from there on.
    pub bytes_per_s: Option<f64>,
    /// Of a filesystem that is another process's or another machine's.
    #[serde(default)]
    pub engine: Option<EngineStatus>,
    /// What its lanes did in the last seconds; nothing from a daemon that does not say.
    #[serde(default)]
    pub recent: RecentDrain,
}

/// Whether what keeps the files answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// While it does not, so that it is asked now and then only.
    pub outage: Option<OutageStatus>,
    /// Writes that have not come back for so long that others go on without them.
    pub late_writes: u64,
    /// Outages since the worker was started.
    pub outages: u64,
}

/// An engine that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutageStatus {
    /// Since its first failure.
    pub for_ms: u64,
    /// The last error; `ETIMEDOUT` when there was no answer.
    pub errno: i32,
    /// Its name.
    pub name: String,
    /// Until it is tried again; `None` while a try is under way.
    pub next_try_ms: Option<u64>,
}

impl OutageStatus {
    /// What there is to be said of it, in a line.
    pub fn describe(&self, time: impl Fn(u64) -> String) -> String {
        let next = match self.next_try_ms {
            None => "a try is under way".to_owned(),
            Some(0) => "the next try is due".to_owned(),
            Some(ms) => format!("next try in {}", time(ms)),
        };
        let why = std::io::Error::from_raw_os_error(self.errno);
        format!("{}: {why}, for {}; {next}", self.name, time(self.for_ms))
    }
}

/// A request of a program that an engine has not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestStatus {
    /// In a word: `lookup`, `stat`, `read` and the like.
    pub what: String,
    /// Of what, below the mountpoint.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// For how long.
    pub for_ms: u64,
    /// How often it was tried.
    pub tries: u32,
    /// Name of the error of the last try that came back; `None` when none did.
    pub error: Option<String>,
}

impl RequestStatus {
    /// What there is to be said of it, in a line.
    pub fn describe(&self, time: impl Fn(u64) -> String) -> String {
        let path = self.path.display();
        let path = match self.path.as_os_str().is_empty() {
            true => "the mount's root".to_owned(),
            false => path.to_string(),
        };
        let how = match &self.error {
            Some(error) => format!("tried {} times, last {error}", self.tries),
            None => "no answer".to_owned(),
        };
        format!("{} of {path} for {}: {how}", self.what, time(self.for_ms))
    }
}

/// State of one file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FileStatus {
    /// Its inode number, as stat(2) shows it on the mount; 0 from a daemon that does not say.
    #[serde(default)]
    pub id: u64,
    /// Path below the mountpoint, where it is known. Bytes that are not UTF-8 travel as U+FFFD.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// Acknowledged and not yet in the backing file.
    pub backlog_bytes: u64,
    /// Age of the oldest of them.
    pub oldest_age_ms: Option<u64>,
    /// Whether a program has it open.
    pub open: bool,
    /// The last error of writing it, in words; empty when there is none.
    pub error: Option<String>,
    /// More about it.
    #[serde(default)]
    pub failure: Option<FailureStatus>,
}

/// What is known of bytes that could not be stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureStatus {
    /// The last error.
    pub errno: i32,
    /// Its name, as `ENOSPC`.
    pub name: String,
    /// Since it first failed.
    pub for_ms: u64,
    /// How often it was tried since.
    pub attempts: u32,
    /// The backing filesystem took the bytes and failed to sync them: they are not in memory any
    /// more, and which ones they are is not known.
    pub lost: bool,
    /// What of the file is not stored, ascending: the first of them.
    pub ranges: Vec<ByteRange>,
    /// How many ranges are not listed.
    pub more_ranges: u64,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteRange {
    /// Of the first byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What of a file was given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GivenUp {
    /// The file, below the mountpoint.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// How much.
    pub bytes: u64,
    /// Which parts.
    pub ranges: Vec<ByteRange>,
    /// The file's size now.
    pub size: u64,
    /// Why they could not be stored; EIO when they could have been.
    pub errno: i32,
}

/// What a thread that writes is doing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Its number.
    pub lane: u64,
    /// The disk, as [`DiskStatus::device`]; empty from a daemon that does not say.
    #[serde(default)]
    pub device: String,
    /// The file it writes, below the mountpoint.
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    /// The part of it.
    pub range: ByteRange,
    /// Since this part began: long when the disk hangs.
    pub for_ms: u64,
    /// What it wrote in the last second.
    #[serde(default)]
    pub bytes_per_s: u64,
}

#[cfg(test)]
impl Status {
    /// Of a mount to which nothing has happened.
    pub(crate) fn of(config: MountConfig) -> Status {
        Status {
            config,
            version: String::new(),
            mounted_at_ms: 0,
            keeper_pid: 1,
            worker_pid: 2,
            worker_restarts: 0,
            uptime_ms: 0,
            backlog_bytes: 0,
            held_bytes: 0,
            memory_bytes: 0,
            streams: 0,
            open_files: 0,
            oldest_age_ms: None,
            bytes_in: 0,
            write_requests: 0,
            bytes_out: 0,
            drain_turns: 0,
            drain_writes: 0,
            syncs: 0,
            mean_turn_bytes: 0,
            whole_chunk_bytes: 0,
            direct_bytes: 0,
            requests: 0,
            waiting_writes: 0,
            longest_wait_ms: 0,
            bdi: String::new(),
            errors: Vec::new(),
            lanes: Vec::new(),
            disks: Vec::new(),
            hanging_requests: 0,
            longest_request_ms: 0,
            waiting_requests: Vec::new(),
            recent: RecentDrain::default(),
            files_changed_below: 0,
            changed_below: Vec::new(),
        }
    }
}

impl RecentDrain {
    /// Both together, of the same time.
    pub fn and(self, other: RecentDrain) -> RecentDrain {
        RecentDrain {
            window_ms: self.window_ms.max(other.window_ms),
            bytes: self.bytes + other.bytes,
            busy_ms: self.busy_ms + other.busy_ms,
            writes: self.writes + other.writes,
            turns: self.turns + other.turns,
        }
    }
}

impl Status {
    /// The longest outage of an engine of the mount, with its device.
    pub fn outage(&self) -> Option<(&str, &OutageStatus)> {
        let outages = self.disks.iter().filter_map(|disk| {
            Some((disk.device.as_str(), disk.engine.as_ref()?.outage.as_ref()?))
        });
        outages.max_by_key(|(_, outage)| outage.for_ms)
    }

    /// Files that may be written at the same time on all disks together, now.
    pub fn lanes_in_all(&self) -> u32 {
        let learned = self.disks.iter().map(|disk| disk.lanes).sum();
        if learned > 0 { learned } else { self.config.lanes }
    }

    /// The same of one disk.
    pub fn lanes_each(&self) -> u32 {
        let learned = self.disks.iter().map(|disk| disk.lanes).max();
        learned.filter(|lanes| *lanes > 0).unwrap_or(self.config.lanes)
    }
}

impl FileStatus {
    /// One line: the file, how much of it is not stored, why, since when.
    pub fn describe(&self, size: impl Fn(u64) -> String, time: impl Fn(u64) -> String) -> String {
        let why = self.error.as_deref().unwrap_or("unknown error");
        let mut text = format!("{}: {}", self.path.display(), size(self.backlog_bytes));
        let Some(failure) = &self.failure else { return format!("{text}: {why}") };
        text.push_str(&describe_ranges(&failure.ranges, failure.more_ranges));
        text.push_str(&format!(": {}: {why}, for {}", failure.name, time(failure.for_ms)));
        match failure.attempts {
            0 => {}
            1 => text.push_str(", tried once"),
            attempts => text.push_str(&format!(", tried {attempts} times")),
        }
        if failure.lost {
            text.push_str("; the disk lost bytes that it had taken");
        }
        text
    }
}

/// ` at OFFSET+LENGTH, OFFSET+LENGTH and 7 more`, where `unlisted` come after those given.
pub fn describe_ranges(ranges: &[ByteRange], unlisted: u64) -> String {
    /// In one line for people.
    const SHOWN: usize = 4;
    let some = ranges.iter().take(SHOWN);
    let some: Vec<String> = some.map(|r| format!("{}+{}", r.offset, r.length)).collect();
    let more = (ranges.len() - some.len()) as u64 + unlisted;
    match (some.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(" at {}", some.join(", ")),
        (false, more) => format!(" at {} and {more} more", some.join(", ")),
    }
}

/// JSON has only text, and one odd file name must not make all of an answer fail.
fn lossy_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
