//! `coalescefs status`: what the daemons say about their mounts.

use std::fmt::Write;
use std::time::Duration;

use comfy_table::Table;
use serde_json::{Value, json};

use crate::cli::args::StatusArgs;
use crate::cli::exit::CliError;
use crate::cli::{below, columns, print, units};
use crate::config::{FsyncPolicy, Layout, MountConfig};
use crate::control::client::{Client, ClientError, find_mount};
use crate::control::protocol::{FileStatus, Status};
use crate::mount::mountinfo::{Mount, MountTable};
use crate::stats::slow;

/// Between the two states that tell how fast programs write.
const SAMPLE: Duration = Duration::from_millis(250);

/// Requests that wait which are named.
const REQUESTS_SHOWN: usize = 3;

/// What one daemon said, or why it said nothing.
struct Reply {
    mount: Mount,
    said: Result<Said, ClientError>,
}

struct Said {
    status: Status,
    /// A moment earlier, where something is going on.
    before: Option<Status>,
    files: Option<Vec<FileStatus>>,
}

/// Prints the state of one mount or of all. `Err` when one of them does not answer; the others are
/// printed all the same.
pub fn run(args: &StatusArgs) -> Result<(), CliError> {
    let mounts = match &args.mountpoint {
        Some(path) => vec![find_mount(path).map_err(|e| CliError::Failed(e.to_string()))?],
        None => all_mounts()?,
    };
    let replies: Vec<Reply> =
        mounts.into_iter().map(|mount| ask(mount, args.files, !args.json)).collect();
    let answered = replies.iter().filter(|reply| reply.said.is_ok());
    print(&if args.json {
        let mut values: Vec<Value> = replies.iter().map(in_json).collect();
        let value = match (&args.mountpoint, values.pop()) {
            (Some(_), Some(only)) => only,
            (_, last) => values.into_iter().chain(last).collect(),
        };
        format!("{value:#}\n")
    } else if replies.is_empty() {
        "no coalescefs mounts\n".to_owned()
    } else {
        let columns = columns();
        answered.map(|reply| in_words(reply, columns)).collect::<Vec<_>>().join("\n")
    })?;
    let errors: Vec<String> =
        replies.iter().filter_map(|reply| Some(reply.said.as_ref().err()?.to_string())).collect();
    if errors.is_empty() { Ok(()) } else { Err(CliError::Failed(errors.join("; "))) }
}

fn all_mounts() -> Result<Vec<Mount>, CliError> {
    let table = MountTable::read()
        .map_err(|error| CliError::Failed(format!("/proc/self/mountinfo: {error}")))?;
    Ok(table.ours().cloned().collect())
}

fn ask(mount: Mount, files: bool, is_for_people: bool) -> Reply {
    let said = Client::connect_to(mount.clone()).and_then(|mut client| {
        let mut before = None;
        if is_for_people && client.status().backlog_bytes > 0 {
            std::thread::sleep(SAMPLE);
            before = Some(client.status().clone());
            client = Client::connect_to(mount.clone())?;
        }
        let files = if files { Some(client.files()?) } else { None };
        Ok(Said { status: client.status().clone(), before, files })
    });
    Reply { mount, said }
}

fn in_json(reply: &Reply) -> Value {
    match &reply.said {
        Ok(Said { status, files, .. }) => {
            let mut value = json!(status);
            value["why_slow"] = json!(why_slow(status, None));
            if let Some(files) = files {
                value["files"] = json!(files);
            }
            value
        }
        Err(error) => json!({
            "config": { "mountpoint": reply.mount.mount_point.to_string_lossy() },
            "error": error.to_string(),
        }),
    }
}

/// What stands before the values.
const INDENT: usize = 16;

fn in_words(reply: &Reply, columns: Option<usize>) -> String {
    let Ok(Said { status, before, files }) = &reply.said else { return String::new() };
    let mut text = String::new();
    let why = ("slow", why_slow(status, before.as_ref()));
    for (key, value) in lines(status).into_iter().chain([why]) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:>14}: {}", units::fold(&value, INDENT, columns));
    }
    if let Some(files) = files.as_ref().filter(|files| !files.is_empty()) {
        let _ = writeln!(text, "{}", file_table(files));
    }
    text
}

fn lines(status: &Status) -> Vec<(&'static str, String)> {
    let size = units::size;
    let config = &status.config;
    let share = |part: u64| format!("{:.0}%", percentage(part, status.bytes_out));
    let mut lines = vec![
        ("mountpoint", config.mountpoint.display().to_string()),
        ("backing", config.backing.display().to_string()),
        ("uptime", units::duration_ms(status.uptime_ms)),
        (
            "processes",
            format!(
                "keeper {}, worker {} (restarted {} times)",
                status.keeper_pid, status.worker_pid, status.worker_restarts
            ),
        ),
        (
            "backlog",
            format!(
                "{} in {} files, oldest {}",
                size(status.backlog_bytes),
                status.streams,
                status.oldest_age_ms.map_or_else(|| "none".to_owned(), units::duration_ms)
            ),
        ),
        ("memory", format!("{} of {} held", size(status.held_bytes), size(status.memory_bytes))),
        (
            "options",
            format!(
                "chunk {}{}{}, layout {}, max age {}, lanes {}, writeback cache {}, fsync {}{}",
                if config.chunk_auto { "auto, from " } else { "" },
                size(config.chunk_bytes),
                config
                    .stripe_bytes
                    .map_or_else(String::new, |bytes| format!(" (stripe {})", size(bytes))),
                match config.layout {
                    Layout::Ring => "ring",
                    Layout::File => "file",
                },
                units::duration_ms(config.max_age_ms),
                if config.lanes_auto { "auto".to_owned() } else { config.lanes.to_string() },
                if config.writeback_cache { "on" } else { "off" },
                match config.fsync {
                    FsyncPolicy::Strict => "strict",
                    FsyncPolicy::Lazy => "lazy (not kept over a power loss)",
                },
                limits(config)
            ),
        ),
        ("consistency", units::printable(&config.consistency_in_words())),
        ("backing can", below::in_words(&config.abilities)),
        ("open files", status.open_files.to_string()),
        ("received", format!("{} in {} requests", size(status.bytes_in), status.write_requests)),
        (
            "written",
            format!(
                "{} in {} turns of {} ({} calls; {} in whole chunks, {} direct)",
                size(status.bytes_out),
                status.drain_turns,
                size(status.mean_turn_bytes),
                status.drain_writes,
                share(status.whole_chunk_bytes),
                share(status.direct_bytes)
            ),
        ),
        (
            "waiting",
            format!(
                "{} writes, longest ever {}",
                status.waiting_writes,
                units::duration_ms(status.longest_wait_ms)
            ),
        ),
        ("synced", format!("{} times for programs", status.syncs)),
        ("kernel limits", status.bdi.clone()),
    ];
    for disk in &status.disks {
        let learned = match (disk.positioning_us, disk.bytes_per_s) {
            (Some(us), Some(rate)) => {
                format!("; {:.1} ms to position, {} a second", us / 1e3, size(rate as u64))
            }
            _ => String::new(),
        };
        let lanes = match disk.lanes {
            0 | 1 => String::new(),
            count => format!(", {count} lanes"),
        };
        let chunk = size(disk.chunk_bytes);
        lines.push(("disk", format!("{}: chunk {chunk}{lanes}{learned}", disk.device)));
    }
    for disk in &status.disks {
        let Some(engine) = &disk.engine else { continue };
        if let Some(outage) = &engine.outage {
            let what = outage.describe(units::duration_ms);
            lines.push(("engine", format!("{}: waits for the engine: {what}", disk.device)));
        }
        if engine.late_writes > 0 {
            let late = engine.late_writes;
            lines.push(("engine", format!("{}: {late} writes do not come back", disk.device)));
        }
    }
    if status.hanging_requests > 0 {
        let what = format!(
            "{} requests of programs wait for what is below, the longest for {}",
            status.hanging_requests,
            units::duration_ms(status.longest_request_ms)
        );
        lines.push(("hanging", what));
    }
    for request in status.waiting_requests.iter().take(REQUESTS_SHOWN) {
        let what = units::printable(&request.describe(units::duration_ms));
        lines.push(("waits", what));
    }
    for lane in status.lanes.iter().filter(|lane| lane.for_ms >= slow::STUCK_MS) {
        let range = match lane.range.length {
            0 => "about to begin".to_owned(),
            length => format!("{} at {}", size(length), lane.range.offset),
        };
        let what = format!(
            "lane {} for {} at {}: {range}",
            lane.lane,
            units::duration_ms(lane.for_ms),
            units::printable(&lane.path.to_string_lossy())
        );
        lines.push(("stuck", what));
    }
    for file in &status.changed_below {
        let path = units::printable(&file.path.to_string_lossy());
        let ago = units::duration_ms(file.ago_ms);
        let (times, what) = (file.times, &file.what);
        let what = format!("{path}, by somebody else: {what}, {ago} ago; {times} in all");
        lines.push(("changed below", what));
    }
    for file in &status.errors {
        lines.push(("not stored", units::printable(&file.describe(size, units::duration_ms))));
    }
    lines
}

/// What was asked for beside the defaults.
fn limits(config: &MountConfig) -> String {
    let rules = config.rules.len();
    let only = config.only.join(" ");
    let all = [
        config.drain_rate.map(|bytes| format!("drain rate {}/s", units::size(bytes))),
        (config.min_free_bytes > 0)
            .then(|| format!("min free {}", units::size(config.min_free_bytes))),
        (rules > 0).then(|| format!("{rules} rules")),
        (!only.is_empty()).then(|| format!("coalesces only {}", units::printable(&only))),
    ];
    all.into_iter().flatten().map(|limit| format!(", {limit}")).collect()
}

fn why_slow(status: &Status, before: Option<&Status>) -> String {
    let why = slow::explain(status, before).in_words(units::size, units::duration_ms);
    units::printable(&why)
}

fn percentage(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn file_table(files: &[FileStatus]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["backlog", "oldest", "open", "file", "error"]);
    for file in files {
        table.add_row([
            units::size(file.backlog_bytes),
            file.oldest_age_ms.map_or_else(String::new, units::duration_ms),
            if file.open { "yes" } else { "no" }.to_owned(),
            units::printable(&file.path.to_string_lossy()),
            file.error.clone().unwrap_or_default(),
        ]);
    }
    table
}
