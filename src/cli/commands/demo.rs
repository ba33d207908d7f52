//! `coalescefs demo`: 40 unmodified programs, a splitter and a script, once straight into a
//! directory and once with a mount over it; compared, and explained in one table.
//!
//! The first thing a new user runs, so every way out leaves nothing behind: see `cli::trial`.
//! Called by `cli`; runs this same executable for the mount and, under hidden arguments, for the
//! helpers the script needs.

mod measure;
mod pipeline;
mod report;

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use self::measure::{DeviceWrites, ProbeReport, SplitReport, WatchReport};
use self::pipeline::{OUT_DIR, PROBE_REPORT, Pipeline, Program, SPLIT_REPORT};
use self::report::{Figures, Report, Workload, Writes};
use crate::cli::trial::TrialError;
use crate::cli::trial::frame::Frame;
use crate::cli::trial::measure::{Place, load_report, ms, save_report, sync_filesystem};
use crate::cli::trial::mounting::{self, Mounter, Way};
use crate::cli::trial::process::{self, Group, OnInterrupt};
use crate::cli::trial::progress::{self, Progress};
use crate::cli::trial::record::{self, RECORD_BYTES};
use crate::cli::trial::scratch::Scratch;
use crate::cli::units;

/// More than a very slow disk needs; a run that takes longer hangs.
const RUN_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// The script, in the demo's directory.
const SCRIPT: &str = "demo.sh";
/// Report of the watch, in the directory of a run.
const WATCH_REPORT: &str = "watch.json";
/// Standard error of the script, in the directory of a run.
const SCRIPT_LOG: &str = "script.log";
/// Asked for beyond twice the outputs: logs, metadata, preallocation.
const SPARE_BYTES: u64 = 64 << 20;

/// Show on this machine what a mount does: 40 programs that write tiny records, without and with it
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true, after_help = "More about each option: 'coalescefs help demo'.")]
pub struct DemoArgs {
    /// Number of programs that write at the same time
    #[arg(long, value_name = "N", default_value_t = 40,
          value_parser = clap::value_parser!(u32).range(1..=1001))]
    streams: u32,
    /// What each program writes; 4M is 4 MiB
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = units::parse_size)]
    bytes: u64,
    /// Make the temporary directory in DIR, to test the disk it is on
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Memory of the mount
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = units::parse_size)]
    memory: u64,
    /// What the mount writes to one file before it goes on to the next
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = units::parse_size)]
    chunk: u64,
    /// The program that writes the records [default: the first that works]
    #[arg(long, value_name = "NAME")]
    program: Option<Program>,
    /// Keep the directory with the script, the outputs and the logs
    #[arg(long)]
    keep: bool,
    /// Print the script and do nothing else
    #[arg(long)]
    show_script: bool,
    /// Print help
    #[arg(short, long, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,
    #[command(flatten)]
    helper: HelperArgs,
}

/// How the script and the demo call this program again.
#[derive(Clone, Debug, clap::Args)]
struct HelperArgs {
    #[arg(long, hide = true, value_name = "REPORT", requires = "records")]
    splitter: Option<PathBuf>,
    #[arg(long, hide = true)]
    records: Option<u64>,
    #[arg(long, hide = true, value_name = "REPORT", conflicts_with = "splitter")]
    probe: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "REPORT", conflicts_with_all = ["splitter", "probe"])]
    watch: Option<PathBuf>,
    #[arg(last = true, hide = true, requires = "watch")]
    command: Vec<OsString>,
}

/// Why the demo did not succeed: one line each, with what to do.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DemoError {
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("{dir}: {free} free, the demo needs {needed}; choose another directory with --dir, or write less with --bytes", dir = dir.display())]
    NoSpace { dir: PathBuf, free: HumanBytes, needed: HumanBytes },
    #[error("`{command}` does not work here; leave out --program to take one that does")]
    NoProgram { command: &'static str },
    #[error("found nothing here that writes record by record, not even sh: install GNU grep")]
    NoProgramAtAll,
    #[error("the script failed {run}: {reason}; --keep leaves its directory to look at")]
    Script { run: &'static str, reason: String },
    #[error("outputs that are wrong: {count}, the first is {path}, at byte {offset}; --keep leaves them to look at", path = path.display())]
    Mismatch { count: u32, path: PathBuf, offset: u64 },
    /// Of a helper process, for its log.
    #[error("{0}")]
    Helper(io::Error),
    /// The watched script's own exit code; it has said why.
    #[error("the script failed with exit code {0}")]
    Watched(i32),
}

impl DemoError {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            DemoError::Trial(error) => error.exit_code(),
            DemoError::Watched(code) => u8::try_from(*code).unwrap_or(1),
            _ => 1,
        }
    }

    fn io(action: &'static str, object: impl Display, error: io::Error) -> DemoError {
        TrialError::io(action, object, error).into()
    }
}

/// Runs the demo to its end and prints the result; or, with hidden arguments, one of its helpers.
pub fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let helper = &args.helper;
    if let (Some(report), Some(records)) = (&helper.splitter, helper.records) {
        return pipeline::split(Path::new("."), args.streams, records)
            .and_then(|split| save_report(report, &split))
            .map_err(DemoError::Helper);
    }
    if let Some(report) = &helper.probe {
        return probe(report).map_err(DemoError::Helper);
    }
    if let Some(report) = &helper.watch {
        return watch(report, &helper.command);
    }
    let pipeline = plan_pipeline(args)?;
    if args.show_script {
        print(&pipeline.script());
        return Ok(());
    }
    process::catch_signals();
    let progress = Progress::new();
    let demo = Demo::prepare(args, pipeline, &progress)?;
    let result = demo.measure_both(&progress);
    drop(progress);
    if args.keep {
        progress::say(&format!("kept: {}", demo.dir.path().display()));
    }
    let report = result?;
    drop(demo);
    print(&format!("{}\n{report}", report.table(Frame::of_locale())));
    Ok(())
}

fn plan_pipeline(args: &DemoArgs) -> Result<Pipeline, DemoError> {
    let program = match args.program {
        Some(program) if program.works() => program,
        Some(program) => return Err(DemoError::NoProgram { command: program.command() }),
        None => Program::choose().ok_or(DemoError::NoProgramAtAll)?,
    };
    let executable = std::env::current_exe()
        .map_err(|error| DemoError::io("find", "this program's file", error))?;
    let records = (args.bytes / RECORD_BYTES as u64).max(1);
    Ok(Pipeline { programs: args.streams, records, program, executable })
}

fn probe(report: &Path) -> io::Result<()> {
    // Not through `Stdout`, which would gather the records.
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    save_report(report, &pipeline::probe(&mut io::stdin(), &mut output)?)
}

fn watch(report: &Path, command: &[OsString]) -> Result<(), DemoError> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let watched = measure::watch(Command::new(program).args(arguments))
        .and_then(|watched| save_report(report, &watched).map(|()| watched))
        .map_err(DemoError::Helper)?;
    match watched.exit_code {
        0 => Ok(()),
        code => Err(DemoError::Watched(code)),
    }
}

/// A demo with everything checked that can be before it writes.
#[derive(Debug)]
struct Demo {
    pipeline: Pipeline,
    mounter: Mounter,
    way: Way,
    dir: Scratch,
}

impl Demo {
    fn prepare(
        args: &DemoArgs,
        pipeline: Pipeline,
        progress: &Progress,
    ) -> Result<Demo, DemoError> {
        let parent = args.dir.clone().unwrap_or_else(default_parent);
        // Mount tables have no symbolic links.
        let parent = parent
            .canonicalize()
            .map_err(|error| DemoError::io("use the directory", parent.display(), error))?;
        let place = Place::of(&parent)
            .map_err(|error| DemoError::io("use the directory", parent.display(), error))?;
        let needed = pipeline.total_bytes().saturating_mul(2).saturating_add(SPARE_BYTES);
        if place.free_bytes < needed {
            let (free, needed) = (HumanBytes(place.free_bytes), HumanBytes(needed));
            return Err(DemoError::NoSpace { dir: parent, free, needed });
        }
        let mut dir = Scratch::create_in(&parent, "coalescefs-demo-")
            .map_err(|error| DemoError::io("create a directory in", parent.display(), error))?;
        if args.keep {
            dir.keep();
        }
        progress.note(&format!(
            "{} programs (`{}`) write {} each in records of {RECORD_BYTES} bytes,",
            pipeline.programs,
            pipeline.program.command(),
            HumanBytes(pipeline.records * RECORD_BYTES as u64),
        ));
        progress.note(&format!("in {}", dir.path().display()));
        if place.in_memory {
            progress.note("This directory is in memory: choose one on a disk with --dir.");
        }
        progress.stage("trying a mount".to_owned());
        let mounter = Mounter {
            executable: pipeline.executable.clone(),
            memory_bytes: args.memory,
            chunk_bytes: args.chunk,
            log_dir: dir.path().to_owned(),
        };
        let way = mounting::choose(&mounter)?;
        let script = dir.path().join(SCRIPT);
        fs::write(&script, pipeline.script())
            .map_err(|error| DemoError::io("write", script.display(), error))?;
        Ok(Demo { pipeline, mounter, way, dir })
    }

    fn measure_both(&self, progress: &Progress) -> Result<Report, DemoError> {
        progress.stage("1 of 3: straight into a directory".to_owned());
        let straight_dir = self.make_run_dir("straight")?;
        let mut straight = self.run_straight(&straight_dir)?;
        progress.stage("2 of 3: the same script, with a mount over the directory".to_owned());
        let through_dir = self.make_run_dir("through")?;
        let mut through = match self.way {
            Way::MountCommand => self.run_mounted(&through_dir)?,
            Way::RunCommand => self.run_in_namespace(&through_dir)?,
        };
        progress.stage("3 of 3: comparing every byte".to_owned());
        straight.extents = self.mean_extents(&straight_dir);
        through.extents = self.mean_extents(&through_dir);
        self.compare([&straight_dir, &through_dir])?;
        let workload = Workload {
            streams: self.pipeline.streams(),
            records: self.pipeline.records,
            machine_memory_bytes: crate::mount::machine::ram_bytes(),
        };
        Ok(Report { workload, straight, through })
    }

    fn make_run_dir(&self, name: &str) -> Result<PathBuf, DemoError> {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(dir.join(OUT_DIR))
            .map_err(|error| DemoError::io("create", dir.display(), error))?;
        // What others have still to write is not counted as ours.
        sync(&dir)?;
        Ok(dir)
    }

    fn run_straight(&self, run_dir: &Path) -> Result<Figures, DemoError> {
        let device = DeviceWrites::read(run_dir);
        let start = Instant::now();
        let mut command = Command::new(&self.pipeline.executable);
        command.args(&self.watched_script()[1..]);
        self.run_to_end("straight", run_dir, &mut command)?;
        sync(run_dir)?;
        let mut figures = self.figures(run_dir, start.elapsed(), device)?;
        // Each write() of a program is one of the filesystem.
        figures.backing = Some(Writes {
            count: figures.write_calls.unwrap_or(self.total_records()),
            bytes: self.pipeline.total_bytes(),
        });
        Ok(figures)
    }

    fn run_mounted(&self, run_dir: &Path) -> Result<Figures, DemoError> {
        let device = DeviceWrites::read(run_dir);
        let mounted = self.mounter.mount(&run_dir.join(OUT_DIR))?;
        let start = Instant::now();
        let mut command = Command::new(&self.pipeline.executable);
        command.args(&self.watched_script()[1..]);
        self.run_to_end("through the mount", run_dir, &mut command)?;
        let status = mounted.unmount()?;
        let mut figures = self.figures(run_dir, start.elapsed(), device)?;
        if let Some(status) = status {
            figures.backing = Some(Writes { count: status.drain_writes, bytes: status.bytes_out });
            figures.turns = Some(Writes { count: status.drain_turns, bytes: status.bytes_out });
        }
        Ok(figures)
    }

    fn run_in_namespace(&self, run_dir: &Path) -> Result<Figures, DemoError> {
        let device = DeviceWrites::read(run_dir);
        let start = Instant::now();
        let mut command = self.mounter.run_over(&run_dir.join(OUT_DIR), &self.watched_script());
        self.run_to_end("through `coalescefs run`", run_dir, &mut command)?;
        self.figures(run_dir, start.elapsed(), device)
    }

    /// `coalescefs demo --watch REPORT -- sh ../demo.sh`, for the directory of a run.
    fn watched_script(&self) -> Vec<OsString> {
        let script = self.dir.path().join(SCRIPT).into_os_string();
        let mut command = vec![self.pipeline.executable.clone().into_os_string()];
        command.extend(["demo", "--watch", WATCH_REPORT, "--", "sh"].map(OsString::from));
        command.push(script);
        command
    }

    /// Runs a command that runs the script, in a process group of its own.
    fn run_to_end(
        &self,
        run: &'static str,
        run_dir: &Path,
        command: &mut Command,
    ) -> Result<(), DemoError> {
        let log = run_dir.join(SCRIPT_LOG);
        let log =
            File::create(&log).map_err(|error| DemoError::io("create", log.display(), error))?;
        command.current_dir(run_dir).stdout(std::process::Stdio::null()).stderr(log);
        let mut group =
            Group::spawn(command).map_err(|error| DemoError::io("start", "the script", error))?;
        match group.wait(RUN_LIMIT, OnInterrupt::Stop)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                group.end();
                let reason = self.why_script_failed(run_dir);
                match status.code() {
                    Some(crate::worker::EXIT_NOT_STORED) => {
                        Err(TrialError::NotStored { reason }.into())
                    }
                    _ => Err(DemoError::Script { run, reason }),
                }
            }
            None => {
                let reason = format!("no end within {} s", RUN_LIMIT.as_secs());
                Err(DemoError::Script { run, reason })
            }
        }
    }

    /// What the first program that complained said: the splitter only sees that it has gone.
    fn why_script_failed(&self, run_dir: &Path) -> String {
        let programs = (1..=self.pipeline.streams()).map(|stream| format!("s_p{stream}.log"));
        let complained = programs
            .chain(["splitter.log".to_owned()])
            .map(|name| run_dir.join(name))
            .find(|log| fs::metadata(log).is_ok_and(|log| log.len() > 0));
        mounting::last_lines(&complained.unwrap_or_else(|| run_dir.join(SCRIPT_LOG)))
    }

    /// From the reports of the run; what the caller alone knows is left out.
    fn figures(
        &self,
        run_dir: &Path,
        on_disk: Duration,
        device_before: Option<DeviceWrites>,
    ) -> Result<Figures, DemoError> {
        let watched: WatchReport = load(&run_dir.join(WATCH_REPORT))?;
        let split: SplitReport = load(&run_dir.join(SPLIT_REPORT))?;
        let probed: ProbeReport = load(&run_dir.join(PROBE_REPORT))?;
        let device = device_before
            .zip(DeviceWrites::read(run_dir))
            .map(|(before, after)| after.since(before).into());
        Ok(Figures {
            write_calls: programs_write_calls(&watched, &split, &probed),
            backing: None,
            turns: None,
            device,
            longest_write_ms: probed.longest_write_ms,
            longest_sleep_ms: probed.longest_sleep_ms,
            longest_wait_ms: split.longest_wait_ms,
            script_ms: watched.script_ms,
            on_disk_ms: ms(on_disk),
            extents: None,
        })
    }

    fn total_records(&self) -> u64 {
        u64::from(self.pipeline.streams()) * self.pipeline.records
    }

    fn outputs<'a>(&'a self, run_dir: &'a Path) -> impl Iterator<Item = (u32, PathBuf)> + 'a {
        (1..=self.pipeline.streams())
            .map(move |stream| (stream, pipeline::output_path(run_dir, stream)))
    }

    /// `None` where the filesystem does not tell.
    fn mean_extents(&self, run_dir: &Path) -> Option<f64> {
        let extents: io::Result<Vec<u32>> =
            self.outputs(run_dir).map(|(_, path)| measure::extents_of(&path)).collect();
        let extents = extents.ok()?;
        Some(extents.iter().sum::<u32>() as f64 / extents.len() as f64)
    }

    /// Every output of both runs against what the splitter sent, so also against each other.
    fn compare(&self, run_dirs: [&Path; 2]) -> Result<(), DemoError> {
        let mut wrong = Vec::new();
        for (stream, path) in run_dirs.into_iter().flat_map(|dir| self.outputs(dir)) {
            process::check_interrupted()?;
            let difference = File::open(&path)
                .and_then(|mut file| {
                    record::first_difference(&mut file, stream, self.pipeline.records)
                })
                .map_err(|error| DemoError::io("read", path.display(), error))?;
            wrong.extend(difference.map(|offset| (path, offset)));
        }
        let count = wrong.len() as u32;
        match wrong.into_iter().next() {
            Some((path, offset)) => Err(DemoError::Mismatch { count, path, offset }),
            None => Ok(()),
        }
    }
}

/// All the shell waited for, without the helpers' own; the probe's records are records.
fn programs_write_calls(
    watched: &WatchReport,
    split: &SplitReport,
    probed: &ProbeReport,
) -> Option<u64> {
    let helpers = split.write_calls? + probed.write_calls?;
    Some((watched.write_calls? + probed.records).saturating_sub(helpers))
}

fn load<T: for<'a> serde::Deserialize<'a>>(path: &Path) -> Result<T, DemoError> {
    load_report(path).map_err(|error| DemoError::io("read", path.display(), error))
}

fn sync(dir: &Path) -> Result<(), DemoError> {
    sync_filesystem(dir).map_err(|error| DemoError::io("sync", dir.display(), error))
}

/// The usual temporary directory, unless that is in memory and /var/tmp is not.
fn default_parent() -> PathBuf {
    let usual = std::env::temp_dir();
    let in_memory = |dir: &Path| Place::of(dir).map(|place| place.in_memory);
    let other = Path::new("/var/tmp");
    match (in_memory(&usual), in_memory(other)) {
        (Ok(true), Ok(false)) => other.to_owned(),
        _ => usual,
    }
}

/// A reader that has gone is no reason to fail.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_the_helpers_are_not_the_programs() {
        let watched =
            WatchReport { script_ms: 0.0, write_calls: Some(4000 + 77 + 1003), exit_code: 0 };
        let split = SplitReport { longest_wait_ms: 0.0, write_calls: Some(77) };
        let probed = ProbeReport {
            records: 1000,
            longest_write_ms: 0.0,
            longest_sleep_ms: 0.0,
            write_calls: Some(1003),
        };
        assert_eq!(programs_write_calls(&watched, &split, &probed), Some(5000));
        let unknown = SplitReport { write_calls: None, ..split };
        assert_eq!(programs_write_calls(&watched, &unknown, &probed), None);
    }

    #[test]
    fn exit_codes_tell_what_kind_of_failure() {
        let mismatch = DemoError::Mismatch { count: 1, path: "x".into(), offset: 0 };
        assert_eq!(mismatch.exit_code(), 1);
        let not_stored = TrialError::NotStored { reason: String::new() };
        assert_eq!(DemoError::from(not_stored).exit_code(), 75);
        assert_eq!(DemoError::from(TrialError::Interrupted).exit_code(), 130);
        assert_eq!(DemoError::Watched(256).exit_code(), 1);
        assert_eq!(DemoError::Watched(75).exit_code(), 75);
    }
}
