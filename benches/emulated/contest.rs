//! The same load by two contenders, one after the other, on the same disk with the same memory:
//! straight into a directory, and through coalescefs over one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::check::{measure, sync};
use super::load::Load;
use super::model::Counters;
use super::progress::{Fairness, Moment};
use super::usage::{Memory, machine_time, process_time, watch_memory};
use super::{Disk, Pace};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coalescefs");

/// Who carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// The kernel alone.
    Straight,
    /// The program under test.
    Coalescefs,
}

/// One contender's result. Times since the writers began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Whose it is.
    pub contender: Contender,
    /// Of all files.
    pub bytes: u64,
    /// When the first writer had closed its file.
    pub first_writer_s: f64,
    /// When the last one had.
    pub last_writer_s: f64,
    /// When the contender had handed everything to the filesystem on the disk.
    pub carried_s: f64,
    /// When all was on the disk.
    pub synced_s: f64,
    /// How long a write() took: half of them no longer.
    pub write_median_s: f64,
    /// 99.9% of them no longer.
    pub write_p999_s: f64,
    /// 99.99% of them no longer.
    pub write_p9999_s: f64,
    /// None longer.
    pub write_longest_s: f64,
    /// How evenly the writers came along.
    pub fairness: Fairness,
    /// What the disk did.
    pub counters: Counters,
    /// Extents of a file.
    pub extents_mean: f64,
    /// Of the file with the most.
    pub extents_most: u32,
    /// What the processors did, but for the disk's process and the benchmark's.
    pub cpu_s: f64,
    /// What was held.
    pub memory: Memory,
    /// How far each writer was when.
    pub progress: Vec<Moment>,
}

impl Outcome {
    /// As disks are sold.
    pub fn gigabytes(&self) -> f64 {
        self.bytes as f64 / 1e9
    }
}

impl Contender {
    /// As it is called in results.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Straight => "straight",
            Contender::Coalescefs => "coalescefs",
        }
    }

    /// Writes, brings everything to the disk, compares it, and deletes it. `memory` is what the
    /// contender may hold.
    pub fn run(self, disk: &mut Disk, load: &Load, memory: u64) -> Result<Outcome, String> {
        let dir = disk.path().join(self.name());
        std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let root = disk.path().to_owned();
        let mount = match self {
            Contender::Straight => None,
            Contender::Coalescefs => Some(Mount::over(&dir, memory)?),
        };
        let pids = mount.as_ref().map_or(Ok(Vec::new()), Mount::pids)?;
        let memory = watch_memory(vec![pids]);
        let cpu_before = cpu_time(disk);
        let begun = Instant::now();
        let work = || {
            let report = load.run(&dir)?;
            mount.map_or(Ok(()), Mount::end)?;
            let carried = begun.elapsed();
            sync(&root)?;
            Ok((report, carried))
        };
        let ((report, carried), figures) = measure(disk, self.name(), work)?;
        let cpu = cpu_time(disk).saturating_sub(cpu_before);
        let memory = memory.end();
        disk.set_pace(Pace::Instant)?;
        load.verify(&dir)?;
        let extents = load.extents(&dir)?;
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        sync(&root)?;
        disk.set_pace(Pace::Modelled)?;
        let write_s = |nanos| Duration::from_nanos(nanos).as_secs_f64();
        Ok(Outcome {
            contender: self,
            bytes: load.bytes(),
            first_writer_s: report.fastest.as_secs_f64(),
            last_writer_s: report.slowest.as_secs_f64(),
            carried_s: carried.as_secs_f64(),
            synced_s: figures.took.as_secs_f64(),
            write_median_s: write_s(report.calls.value_at_quantile(0.5)),
            write_p999_s: write_s(report.calls.value_at_quantile(0.999)),
            write_p9999_s: write_s(report.calls.value_at_quantile(0.9999)),
            write_longest_s: write_s(report.calls.max()),
            fairness: report.fairness,
            counters: figures.counters,
            extents_mean: extents.iter().sum::<u32>() as f64 / extents.len() as f64,
            extents_most: extents.iter().copied().max().unwrap_or(0),
            cpu_s: cpu.as_secs_f64(),
            memory,
            progress: report.progress,
        })
    }
}

/// Of all processors, but for who only measures.
fn cpu_time(disk: &Disk) -> Duration {
    let measuring = disk.cpu_time() + process_time(std::process::id());
    machine_time().saturating_sub(measuring)
}

/// A mount of coalescefs.
struct Mount(PathBuf);

impl Mount {
    /// A fifth of `memory` is for what the kernel keeps of the mount: it takes a quarter of what the
    /// daemon has, see `src/mount/bdi.rs`.
    fn over(dir: &Path, memory: u64) -> Result<Mount, String> {
        let daemons = (memory / 5 * 4).to_string();
        program(Command::new(PROGRAM).args(["mount", "--memory", &daemons]).arg(dir))?;
        Ok(Mount(dir.to_owned()))
    }

    /// Its daemon's processes.
    fn pids(&self) -> Result<Vec<u32>, String> {
        let mut command = Command::new(PROGRAM);
        let output = command.args(["status", "--json"]).arg(&self.0).output();
        let output = output.map_err(|error| format!("{PROGRAM}: {error}"))?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{PROGRAM} status: {error}"))?;
        let pid = |name: &str| status[name].as_u64().and_then(|pid| u32::try_from(pid).ok());
        Ok(["keeper_pid", "worker_pid"].into_iter().filter_map(pid).collect())
    }

    /// Everything has been handed to the filesystem below then.
    fn end(self) -> Result<(), String> {
        program(Command::new(PROGRAM).arg("umount").arg(&self.0))?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Only after a failure.
        let _ = program(Command::new(PROGRAM).arg("umount").arg(&self.0));
    }
}

fn program(command: &mut Command) -> Result<(), String> {
    let status = command.stdin(Stdio::null()).status();
    match status.map_err(|error| format!("{PROGRAM}: {error}"))?.success() {
        true => Ok(()),
        false => Err(format!("{PROGRAM} failed")),
    }
}
