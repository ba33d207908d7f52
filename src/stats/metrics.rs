//! The state of a mount as Prometheus reads it: its text format, version 0.0.4.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` for what only
//! grows. Every sample says of which machine and which mount it is, so that those of many machines
//! can be put together. No label names a file: others than the mount's owner may read this.

use std::fmt::{Display, Write};

use super::Stats;
use super::histogram::Histogram;
use crate::control::protocol::Status;

/// Microseconds in a second, and milliseconds.
const MICRO: f64 = 1e6;
const MILLI: f64 = 1e3;

/// The text. `node` is the name of the machine.
pub fn render(status: &Status, stats: &Stats, node: &str) -> String {
    let mount = status.config.mountpoint.to_string_lossy();
    let labels = format!(r#"node="{}",mount="{}""#, escaped(node), escaped(&mount));
    let mut text = Text { labels, out: String::new() };
    identity(&mut text, status);
    backlog(&mut text, status);
    traffic(&mut text, status);
    health(&mut text, status);
    text.histogram(
        "coalescefs_write_stall_seconds",
        "How long writes were held back for want of memory, of those that were.",
        &stats.write_stall_us,
        MICRO,
    );
    text.histogram(
        "coalescefs_drain_write_size_bytes",
        "Bytes of each contiguous write to a backing file.",
        &stats.drain_write_bytes,
        1.0,
    );
    text.histogram(
        "coalescefs_drain_write_duration_seconds",
        "How long the backing filesystem took for each of them.",
        &stats.drain_write_us,
        MICRO,
    );
    text.out
}

fn identity(text: &mut Text, status: &Status) {
    let version = format!(r#"version="{}""#, escaped(&status.version));
    text.head("coalescefs_build_info", "gauge", "1, with the version that serves the mount.");
    text.sample("coalescefs_build_info", &version, 1);
    let uptime_s = status.uptime_ms as f64 / MILLI;
    text.gauge("coalescefs_uptime_seconds", "Since the mount was made.", uptime_s);
    text.counter(
        "coalescefs_worker_restarts_total",
        "Workers started again after one died.",
        status.worker_restarts,
    );
}

fn backlog(text: &mut Text, status: &Status) {
    let about = "Acknowledged bytes that are not in a backing file.";
    text.gauge("coalescefs_backlog_bytes", about, status.backlog_bytes);
    let oldest_s = status.oldest_age_ms.unwrap_or(0) as f64 / MILLI;
    text.gauge("coalescefs_backlog_oldest_age_seconds", "Age of the oldest of them.", oldest_s);
    text.gauge("coalescefs_backlog_files", "Files that have some of them.", status.streams);
    text.gauge("coalescefs_open_files", "Files open by programs.", status.open_files);
    text.gauge("coalescefs_memory_held_bytes", "Buffer memory in use.", status.held_bytes);
    text.gauge("coalescefs_memory_limit_bytes", "Most of it.", status.memory_bytes);
}

fn traffic(text: &mut Text, status: &Status) {
    text.counter("coalescefs_requests_total", "Requests from the kernel.", status.requests);
    let about = "Requests from the kernel to write.";
    text.counter("coalescefs_write_requests_total", about, status.write_requests);
    text.counter("coalescefs_received_bytes_total", "Bytes of those.", status.bytes_in);
    text.counter("coalescefs_drained_bytes_total", "Written to backing files.", status.bytes_out);
    let about = "Of them, past the page cache.";
    text.counter("coalescefs_drained_direct_bytes_total", about, status.direct_bytes);
    let about = "Of them, in turns of whole chunks.";
    text.counter("coalescefs_drained_whole_chunk_bytes_total", about, status.whole_chunk_bytes);
    let about = "Turns of a file on the disk.";
    text.counter("coalescefs_drain_turns_total", about, status.drain_turns);
    let about = "System calls that wrote to backing files.";
    text.counter("coalescefs_drain_writes_total", about, status.drain_writes);
    let about = "Syncs asked of the backing filesystem.";
    text.counter("coalescefs_syncs_total", about, status.syncs);
}

fn health(text: &mut Text, status: &Status) {
    let about = "Writes held back now.";
    text.gauge("coalescefs_waiting_writes", about, status.waiting_writes);
    let longest_s = status.longest_wait_ms as f64 / MILLI;
    text.gauge("coalescefs_longest_stall_seconds", "The longest of all that were.", longest_s);
    let failing = status.errors.len();
    text.gauge("coalescefs_failing_files", "Files that cannot be stored.", failing);
    let failing_bytes: u64 = status.errors.iter().map(|file| file.backlog_bytes).sum();
    text.gauge("coalescefs_failing_bytes", "Their bytes that are not stored.", failing_bytes);
    text.gauge("coalescefs_lanes", "Writes at the same time, of all disks.", status.lanes_in_all());
    text.gauge("coalescefs_lanes_busy", "Those with a file in hand.", status.lanes.len());
    let longest_ms = status.lanes.iter().map(|lane| lane.for_ms).max().unwrap_or(0);
    text.gauge(
        "coalescefs_lane_longest_write_seconds",
        "How long the longest write that is under way has taken: long when a disk hangs.",
        longest_ms as f64 / MILLI,
    );
    engines(text, status);
    text.counter(
        "coalescefs_files_changed_below_total",
        "Files found changed below by somebody else while they were written here.",
        status.files_changed_below,
    );
    text.gauge(
        "coalescefs_kernel_limits_tuned",
        "1 when the kernel's limits for the mount's dirty pages could be set.",
        u64::from(status.bdi == "tuned"),
    );
}

/// Other processes and machines that keep files.
fn engines(text: &mut Text, status: &Status) {
    let known = || status.disks.iter().filter_map(|disk| disk.engine.as_ref());
    let outages = || known().filter_map(|engine| engine.outage.as_ref());
    let about =
        "Network filesystems below that do not answer, so that they are asked now and then only.";
    text.gauge("coalescefs_engines_unreachable", about, outages().count());
    let longest_ms = outages().map(|outage| outage.for_ms).max().unwrap_or(0);
    let about = "How long the longest of these outages has lasted.";
    text.gauge("coalescefs_engine_outage_seconds", about, longest_ms as f64 / MILLI);
    let late = known().map(|engine| engine.late_writes).sum::<u64>();
    let about = "Writes that do not come back, without which others go on.";
    text.gauge("coalescefs_engine_late_writes", about, late);
    let count = known().map(|engine| engine.outages).sum();
    let about = "Outages since the worker was started.";
    text.counter("coalescefs_engine_outages_total", about, count);
    let about = "Requests that have waited for more than a second for what is below.";
    text.gauge("coalescefs_hanging_requests", about, status.hanging_requests);
}

/// Within a label's quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

struct Text {
    labels: String,
    out: String,
}

// Writing to a String cannot fail.
impl Text {
    fn head(&mut self, name: &str, kind: &str, about: &str) {
        let _ = writeln!(self.out, "# HELP {name} {about}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, more_labels: &str, value: impl Display) {
        let comma = if more_labels.is_empty() { "" } else { "," };
        let _ = writeln!(self.out, "{name}{{{}{comma}{more_labels}}} {value}", self.labels);
    }

    fn gauge(&mut self, name: &str, about: &str, value: impl Display) {
        self.head(name, "gauge", about);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, about: &str, value: u64) {
        self.head(name, "counter", about);
        self.sample(name, "", value);
    }

    /// `unit` is how much of the histogram's is one of the metric's.
    fn histogram(&mut self, name: &str, about: &str, figures: &Histogram, unit: f64) {
        self.head(name, "histogram", about);
        let counted = figures.counted();
        let bucket = format!("{name}_bucket");
        for (bound, count) in &counted.up_to {
            self.sample(&bucket, &format!(r#"le="{}""#, *bound as f64 / unit), count);
        }
        self.sample(&bucket, r#"le="+Inf""#, counted.count);
        self.sample(&format!("{name}_sum"), "", counted.sum as f64 / unit);
        self.sample(&format!("{name}_count"), "", counted.count);
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
