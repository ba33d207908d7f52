//! The same load by two contenders, one after the other, on the same disk with the same memory:
//! straight into a directory, and through coalescefs over one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use comfy_table::Table;

use super::check::{Figures, measure, sync};
use super::dirty::DirtyPages;
use super::load::{Load, Report};
use super::{Disk, Pace};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coalescefs");

/// Who carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// The kernel alone.
    Straight,
    /// The program under test.
    Coalescefs,
}

/// One contender's result.
pub struct Outcome {
    contender: Contender,
    report: Report,
    /// When all writers had ended, when it was unmounted, when all was on the disk.
    ends: [Duration; 3],
    figures: Figures,
    /// What the kernel held at most, beside the contender's own memory.
    dirty_bytes: u64,
}

impl Contender {
    fn name(self) -> &'static str {
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
        let dirty = DirtyPages::watch();
        let begun = Instant::now();
        let work = || {
            let report = load.run(&dir)?;
            let written = begun.elapsed();
            mount.map_or(Ok(()), Mount::end)?;
            let unmounted = begun.elapsed();
            sync(&root)?;
            Ok((report, [written, unmounted, begun.elapsed()]))
        };
        let ((report, ends), figures) = measure(disk, self.name(), work)?;
        let dirty_bytes = dirty.most();
        disk.set_pace(Pace::Instant)?;
        load.verify(&dir)?;
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        sync(&root)?;
        disk.set_pace(Pace::Modelled)?;
        Ok(Outcome { contender: self, report, ends, figures, dirty_bytes })
    }
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

/// All results, against what one sequential writer got.
pub fn table(results: &[Outcome], load: &Load, sequential: &Figures) -> Table {
    let mut table = Table::new();
    table.set_header([
        "",
        "MB/s, synced",
        "of sequential",
        "written, unmounted, synced",
        "fastest, slowest writer",
        "write(): median",
        "99.9%",
        "longest",
        "seeks",
        "seek time",
        "disk idle",
        "kernel's dirty pages, most",
    ]);
    for Outcome { contender, report, ends, figures, dirty_bytes } in results {
        let rate = load.bytes() as f64 / figures.took.as_secs_f64();
        let nanos = |nanos| format!("{:.2?}", Duration::from_nanos(nanos));
        table.add_row([
            contender.name().to_owned(),
            format!("{:.1}", rate / 1e6),
            format!("{:.3}", rate / sequential.rate()),
            ends.map(|end| format!("{:.1}", end.as_secs_f64())).join(", ") + " s",
            format!("{:.1?}, {:.1?}", report.fastest, report.slowest),
            nanos(report.calls.value_at_quantile(0.5)),
            nanos(report.calls.value_at_quantile(0.999)),
            nanos(report.calls.max()),
            figures.counters.seeks.to_string(),
            format!("{:.2?}", figures.counters.seek_time),
            format!("{:.2?}", figures.took.saturating_sub(figures.counters.busy())),
            format!("{:.0} MB", *dirty_bytes as f64 / 1e6),
        ]);
    }
    table
}
