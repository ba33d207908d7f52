//! The same load by several contenders, one after the other, on the same disk with the same memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::check::{measure, sync};
use super::contender::{Carrier, Contender};
use super::fairness::{Fairness, Moment};
use super::lateness::Lateness;
use super::load::{Load, Report};
use super::model::Counters;
use super::reader::{self, Reading};
use super::usage::{Memory, Usage, machine_time};
use super::watch::Watch;
use super::{Disk, Pace};
use crate::common::process::process_time;

/// One contender's result. Times since the writers began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Whose it is.
    pub contender: Contender,
    /// Of which round, from 1.
    pub round: u64,
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
    /// None of slow writers longer, if there were some.
    pub write_longest_slow_s: Option<f64>,
    /// What a reader got meanwhile, if there was one.
    pub reading: Option<Reading>,
    /// How evenly the writers came along.
    pub fairness: Fairness,
    /// What the disk did.
    pub counters: Counters,
    /// Extents of a file.
    pub extents_mean: f64,
    /// Of the file with the most.
    pub extents_most: u32,
    /// What the processors did, but for the disk's process and the benchmark's.
    pub machine_cpu_s: f64,
    /// What the writers and the contender's processes took of that.
    pub processes_cpu_s: f64,
    /// What was held.
    pub memory: Memory,
    /// How late the machine itself was.
    #[serde(default)]
    pub lateness: Option<Lateness>,
    /// How far each writer was when.
    pub progress: Vec<Moment>,
}

impl Outcome {
    /// As disks are sold.
    pub fn gigabytes(&self) -> f64 {
        self.bytes as f64 / 1e9
    }
}

/// What is the same for all contenders.
pub struct Contest {
    /// What is written.
    pub load: Load,
    /// What a contender may hold.
    pub memory_bytes: u64,
    /// What somebody reads meanwhile, see [`reader::prepare`].
    pub read: Option<PathBuf>,
}

/// What was measured until all was on the disk.
struct Measured {
    report: Report,
    reading: Option<Reading>,
    carried: Duration,
    synced: Duration,
    counters: Counters,
    usage: Usage,
    machine: Duration,
    lateness: Lateness,
}

impl Contest {
    /// Has `contender` carry the load, brings everything to the disk, compares it, and deletes it.
    pub fn run(&self, contender: Contender, disk: &mut Disk) -> Result<Outcome, String> {
        let dir = disk.path().join(contender.name());
        std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        disk.limit_dirty(contender.dirty_bytes(self.memory_bytes))?;
        let carrier = Carrier::start(contender, &dir, &self.load, self.memory_bytes)?;
        let inlet = carrier.inlet().map(Path::to_owned);
        let measured =
            self.carry(carrier, inlet.as_deref().unwrap_or(&dir), contender.name(), disk)?;
        disk.set_pace(Pace::Instant)?;
        self.load.verify(&dir)?;
        let extents = self.load.extents(&dir)?;
        for dir in inlet.iter().chain([&dir]) {
            std::fs::remove_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        sync(disk.path())?;
        disk.set_pace(Pace::Modelled)?;
        Ok(outcome(contender, self.load.bytes(), measured, &extents))
    }

    fn carry(
        &self,
        carrier: Carrier,
        dir: &Path,
        name: &str,
        disk: &mut Disk,
    ) -> Result<Measured, String> {
        let writers = self.load.prepare(dir)?;
        let root = disk.path().to_owned();
        let usage = Usage::watch(carrier.families());
        let machine = machine_without(disk);
        let reader = self.read.as_deref().map(reader::begin).transpose()?;
        let lateness = Lateness::watch();
        let begun = Instant::now();
        let work = || {
            let report = writers.run()?;
            carrier.end()?;
            let carried = begun.elapsed();
            sync(&root)?;
            Ok((report, carried))
        };
        let ((report, carried), figures) = measure(disk, name, work)?;
        let reading = reader.map(Watch::end).transpose();
        Ok(Measured {
            report,
            reading: reading.map_err(|error| format!("the reader: {error}"))?,
            carried,
            synced: figures.took,
            counters: figures.counters,
            machine: machine_without(disk).saturating_sub(machine),
            usage: usage.end(),
            lateness: lateness.end(),
        })
    }
}

/// The time of all processors, but for who only measures.
fn machine_without(disk: &Disk) -> Duration {
    let measuring = disk.cpu_time() + process_time(std::process::id());
    machine_time().saturating_sub(measuring)
}

fn outcome(contender: Contender, bytes: u64, measured: Measured, extents: &[u32]) -> Outcome {
    let Measured { report, reading, carried, synced, counters, usage, machine, lateness } =
        measured;
    let write_s = |nanos| Duration::from_nanos(nanos).as_secs_f64();
    Outcome {
        contender,
        round: 1,
        bytes,
        first_writer_s: report.fastest.as_secs_f64(),
        last_writer_s: report.slowest.as_secs_f64(),
        carried_s: carried.as_secs_f64(),
        synced_s: synced.as_secs_f64(),
        write_median_s: write_s(report.calls.value_at_quantile(0.5)),
        write_p999_s: write_s(report.calls.value_at_quantile(0.999)),
        write_p9999_s: write_s(report.calls.value_at_quantile(0.9999)),
        write_longest_s: write_s(report.calls.max()),
        write_longest_slow_s: report.slow_longest.map(|longest| longest.as_secs_f64()),
        reading,
        fairness: report.fairness,
        counters,
        extents_mean: extents.iter().sum::<u32>() as f64 / extents.len() as f64,
        extents_most: extents.iter().copied().max().unwrap_or(0),
        machine_cpu_s: machine.as_secs_f64(),
        processes_cpu_s: (report.cpu + usage.cpu()).as_secs_f64(),
        memory: usage.memory,
        lateness: Some(lateness),
        progress: report.progress,
    }
}
