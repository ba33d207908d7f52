//! `coalescefs bench DIR`: what the disk of a directory takes, what forty writers get from it
//! without and with a mount, and which `--chunk` and `--memory` follow.
//!
//! Writes only into a directory of its own in DIR, which goes with every way out: see `cli::trial`.
//!
//! | file | what |
//! |---|---|
//! | `device` | measures turns of several sizes |
//! | `fit` | from these to a cost of going to another file, and a rate; pure |
//! | `recommend` | from these to options; pure |
//! | `writers` | the user's case |
//! | `report` | what is printed; pure |

mod device;
mod fit;
mod recommend;
mod report;
mod writers;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::recommend::{Demand, Recommendation};
use self::report::{Case, Report, Run};
use self::writers::{Load, WritersReport};
use crate::cli::exit::CliError;
use crate::cli::trial::TrialError;
use crate::cli::trial::frame::Frame;
use crate::cli::trial::measure::{self, Place, ms};
use crate::cli::trial::mounting::{self, Mounter, Way};
use crate::cli::trial::process::{self, Group, OnInterrupt};
use crate::cli::trial::progress::Progress;
use crate::cli::trial::scratch::Scratch;
use crate::cli::walk::{self, Found};
use crate::cli::{places, print, units};
use crate::mount::machine;
use crate::mount::mountinfo::{MountTable, type_name};

const MIB: u64 = 1 << 20;
/// `--size` where there is room.
const DEFAULT_SIZE: u64 = 512 * MIB;
/// Less would be no measurement.
const MIN_SIZE: u64 = 32 * MIB;
/// Half of `--size` is for the disk, a quarter for each run of the writers.
const DEVICE_PART: u64 = 2;
const RUN_PART: u64 = 4;
/// What to do where there is too little room.
const WRITE_LESS: &str = "make room, or write less with --size";
/// More than a very slow disk needs; a run that takes longer hangs.
const RUN_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// Of all memory and of what is available, a mount is to have so much: the rest is for programs.
const RAM_PART: u64 = 4;
const AVAILABLE_PART: u64 = 2;
/// Of the mount that is only to show that one can be made: little of both.
const TRIAL_MEMORY: u64 = 64 * MIB;
const TRIAL_CHUNK: u64 = MIB;
/// In the scratch directory: where the writers of a run write, what they say, what they complain.
const OUT_DIR: &str = "out";
const REPORT: &str = "writers.json";
const LOG: &str = "writers.log";

/// Measure what a directory's disk takes, and what a mount over it would do for small writes
///
/// Writes up to --size into a directory of its own in DIR, and removes it. Touches nothing else.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// The directory that is to be mounted over, or another one on the same disk
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Most bytes written altogether [default: 512M, or half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    size: Option<u64>,
    /// Number of files that are written at the same time
    #[arg(long, value_name = "N", default_value_t = 40,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    writers: u32,
    /// Bytes of one write() of a writer
    #[arg(long, value_name = "BYTES", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    record: u32,
    /// How long the writers may be twice as fast as the disk before a mount slows them down
    #[arg(long, value_name = "DURATION", default_value = "10s",
          value_parser = units::parse_duration)]
    overload: Duration,
    /// As JSON: sizes in bytes, times as named
    #[arg(long)]
    json: bool,
    /// Only write records into DIR, as much of each file, and say in REPORT how it went
    #[arg(long, hide = true, value_name = "REPORT", requires = "bytes_each")]
    write: Option<PathBuf>,
    #[arg(long, hide = true)]
    bytes_each: Option<u64>,
}

/// Runs the benchmark to its end and prints the result; or, with hidden arguments, its writers.
pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    if let (Some(report), Some(bytes_each)) = (&args.write, args.bytes_each) {
        let load = Load { writers: args.writers, record_bytes: args.record, bytes_each };
        let written = load.write(&args.dir).and_then(|said| measure::save_report(report, &said));
        return written.map_err(|error| CliError::Failed(said_of(&error)));
    }
    let ground = Ground::check(args)?;
    process::catch_signals();
    let bench = Bench::prepare(args, &ground)?;
    let report = bench.measure().map_err(with_remedy)?;
    drop(bench);
    print(&match args.json {
        true => format!("{:#}\n", report.json()),
        false => report.text(Frame::of_locale()),
    })
}

/// On a full disk, what to do about it.
fn with_remedy(error: TrialError) -> CliError {
    match &error {
        TrialError::Io { error: cause, .. } if is_full(cause) => {
            CliError::Failed(format!("bench: {error}; {WRITE_LESS}"))
        }
        _ => CliError::Bench(error),
    }
}

/// The same, of a writer.
fn said_of(error: &io::Error) -> String {
    if is_full(error) { format!("{error}; {WRITE_LESS}") } else { error.to_string() }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What is known, and checked, before anything is written.
struct Ground {
    dir: PathBuf,
    filesystem: String,
    in_memory: bool,
    size_bytes: u64,
    load: Load,
}

impl Ground {
    fn check(args: &BenchArgs) -> Result<Ground, CliError> {
        let table = MountTable::read()
            .map_err(|error| CliError::Failed(format!("/proc/self/mountinfo: {error}")))?;
        refuse_mounted(&args.dir, &table)?;
        let dir = places::usable("DIR", &args.dir)?;
        let place = Place::of(&dir)
            .map_err(|error| CliError::Failed(format!("DIR {}: {error}", dir.display())))?;
        let size_bytes = size(args.size, &dir, place.free_bytes)?;
        let load = load(args, size_bytes)?;
        let filesystem = table.holding(&dir).map(|mount| type_name(&mount.fs_type));
        let filesystem = filesystem.unwrap_or_else(|| "unknown".to_owned());
        Ok(Ground { dir, filesystem, in_memory: place.in_memory, size_bytes, load })
    }
}

/// Through a mount its memory would be measured; below one nobody else may write.
fn refuse_mounted(dir: &Path, table: &MountTable) -> Result<(), CliError> {
    let refused = |why: &str, mountpoint: &Path| {
        let (dir, mountpoint) = (dir.display(), mountpoint.display());
        Err(CliError::Failed(format!(
            "DIR {dir} {why} at {mountpoint}: choose another directory on the same disk, or end it \
             first with 'coalescefs umount {mountpoint}'"
        )))
    };
    match walk::find(dir, table) {
        Ok(Found::Mount(mount) | Found::InMount(mount)) => {
            refused("is served by the coalescefs mount", &mount.mount_point)
        }
        Ok(Found::Elsewhere(found)) => {
            match table.ours().find(|mount| found.starts_with(&mount.source)) {
                Some(mount) => refused("belongs to the coalescefs mount", &mount.mount_point),
                None => Ok(()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(CliError::Failed(format!(
            "DIR {}: does not answer: is its disk or server away?",
            dir.display()
        ))),
        // What is wrong with it is said where it is looked at.
        Err(_) => Ok(()),
    }
}

/// `--size`, or what is sensible in so much room.
fn size(given: Option<u64>, dir: &Path, free_bytes: u64) -> Result<u64, CliError> {
    let too_little = |needed: u64, remedy: &str| {
        let (free, needed) = (units::size(free_bytes), units::size(needed));
        CliError::Failed(format!("{}: {free} free, {needed} needed: {remedy}", dir.display()))
    };
    match given {
        Some(size) if size < MIN_SIZE => Err(CliError::Usage(format!(
            "--size {} is too little to measure anything: at least {}",
            units::size(size),
            units::size(MIN_SIZE)
        ))),
        Some(size) if size > free_bytes => Err(too_little(size, WRITE_LESS)),
        Some(size) => Ok(size),
        None if free_bytes / 2 < MIN_SIZE => Err(too_little(2 * MIN_SIZE, "make room first")),
        None => Ok((free_bytes / 2).min(DEFAULT_SIZE)),
    }
}

/// What the writers write in one run: whole records, the same for all.
fn load(args: &BenchArgs, size_bytes: u64) -> Result<Load, CliError> {
    let record = u64::from(args.record);
    let writers = u64::from(args.writers);
    let bytes_each = size_bytes / RUN_PART / writers / record * record;
    if bytes_each == 0 {
        return Err(CliError::Usage(format!(
            "--size {} is less than a record of {} bytes for each of {} writers: at least --size {}",
            units::size(size_bytes),
            args.record,
            args.writers,
            units::option_size((record * writers * RUN_PART).next_multiple_of(MIB)),
        )));
    }
    Ok(Load { writers: args.writers, record_bytes: args.record, bytes_each })
}

/// A benchmark that has its directory.
struct Bench<'a> {
    args: &'a BenchArgs,
    ground: &'a Ground,
    executable: PathBuf,
    scratch: Scratch,
}

impl<'a> Bench<'a> {
    fn prepare(args: &'a BenchArgs, ground: &'a Ground) -> Result<Bench<'a>, CliError> {
        let executable = std::env::current_exe()
            .map_err(|error| TrialError::io("find", "this program's file", error))?;
        let scratch = Scratch::create_in(&ground.dir, ".coalescefs-bench-").map_err(|error| {
            let remedy = places::writing_remedy(&error);
            CliError::Failed(format!("DIR {}: {}; {remedy}", ground.dir.display(), error.kind()))
        })?;
        Ok(Bench { args, ground, executable, scratch })
    }

    fn measure(&self) -> Result<Report, TrialError> {
        let progress = Progress::new();
        progress.stage("trying a mount".to_owned());
        let way = match mounting::choose(&self.mounter(TRIAL_MEMORY, TRIAL_CHUNK)) {
            Err(TrialError::Interrupted) => return Err(TrialError::Interrupted),
            Err(error) => Err(error.to_string()),
            Ok(way) => Ok(way),
        };
        progress.stage("1 of 3: what the disk takes".to_owned());
        let dir = self.make_run_dir("disk")?;
        let device = device::measure(&dir, self.ground.size_bytes / DEVICE_PART)?;
        let service = fit::fit(&device.samples()).expect("turns were made, and took time");
        let demand = Demand {
            writers: self.args.writers,
            overload_s: self.args.overload.as_secs_f64(),
            usable_memory_bytes: (machine::ram_bytes() / RAM_PART)
                .min(machine::available_bytes() / AVAILABLE_PART),
        };
        let recommendation = recommend::recommend(&service, &demand);
        let case = match way {
            Ok(way) => self.compare(way, &recommendation, &progress)?,
            Err(why) => Case::NoMount(why),
        };
        Ok(Report {
            dir: self.ground.dir.clone(),
            filesystem: self.ground.filesystem.clone(),
            in_memory: self.ground.in_memory,
            machine_memory_bytes: machine::ram_bytes(),
            size_bytes: self.ground.size_bytes,
            device,
            service,
            load: self.ground.load,
            case,
            recommendation,
        })
    }

    fn compare(
        &self,
        way: Way,
        recommendation: &Recommendation,
        progress: &Progress,
    ) -> Result<Case, TrialError> {
        let writers = self.args.writers;
        progress.stage(format!("2 of 3: {writers} writers, straight"));
        let straight = self.run_straight()?;
        progress.stage(format!("3 of 3: {writers} writers, through a mount"));
        let Recommendation { memory_bytes, chunk_bytes, .. } = *recommendation;
        let mounter = self.mounter(memory_bytes, chunk_bytes);
        let through = self.run_through(way, &mounter)?;
        Ok(Case::Compared { straight, through })
    }

    fn mounter(&self, memory_bytes: u64, chunk_bytes: u64) -> Mounter {
        Mounter {
            executable: self.executable.clone(),
            memory_bytes,
            chunk_bytes,
            log_dir: self.scratch.path().to_owned(),
        }
    }

    /// What others have still to write is not counted as ours.
    fn make_run_dir(&self, name: &str) -> Result<PathBuf, TrialError> {
        let dir = self.scratch.path().join(name);
        fs::create_dir_all(dir.join(OUT_DIR))
            .map_err(|error| TrialError::io("create", dir.display(), error))?;
        sync(&dir)?;
        Ok(dir)
    }

    fn run_straight(&self) -> Result<Run, TrialError> {
        let dir = self.make_run_dir("straight")?;
        let start = Instant::now();
        let words = self.writers_command(&dir);
        self.run_to_end(&dir, Command::new(&words[0]).args(&words[1..]))?;
        sync(&dir)?;
        self.end_run(&dir, start.elapsed())
    }

    fn run_through(&self, way: Way, mounter: &Mounter) -> Result<Run, TrialError> {
        let dir = self.make_run_dir("through")?;
        let out = dir.join(OUT_DIR);
        let words = self.writers_command(&dir);
        let start;
        match way {
            Way::MountCommand => {
                let mounted = mounter.mount(&out)?;
                start = Instant::now();
                self.run_to_end(&dir, Command::new(&words[0]).args(&words[1..]))?;
                mounted.unmount()?;
            }
            Way::RunCommand => {
                start = Instant::now();
                self.run_to_end(&dir, &mut mounter.run_over(&out, &words))?;
            }
        }
        self.end_run(&dir, start.elapsed())
    }

    /// This program again, as the writers of the run in `dir`.
    fn writers_command(&self, dir: &Path) -> Vec<OsString> {
        let Load { writers, record_bytes, bytes_each } = self.ground.load;
        let mut words: Vec<OsString> = vec![self.executable.clone().into(), "bench".into()];
        words.extend(["--write".into(), dir.join(REPORT).into()]);
        words.extend(["--writers".into(), writers.to_string().into()]);
        words.extend(["--record".into(), record_bytes.to_string().into()]);
        words.extend(["--bytes-each".into(), bytes_each.to_string().into()]);
        words.push(dir.join(OUT_DIR).into());
        words
    }

    fn run_to_end(&self, dir: &Path, command: &mut Command) -> Result<(), TrialError> {
        let log = dir.join(LOG);
        let create = |path: &Path| {
            File::create(path).map_err(|error| TrialError::io("create", path.display(), error))
        };
        command.stdout(Stdio::null()).stderr(create(&log)?);
        let mut group =
            Group::spawn(command).map_err(|error| TrialError::io("start", "writers", error))?;
        let Some(status) = group.wait(RUN_LIMIT, OnInterrupt::Stop)? else {
            let reason = format!("no end within {} s", RUN_LIMIT.as_secs());
            return Err(TrialError::command("bench", reason));
        };
        match status.code() {
            Some(0) => Ok(()),
            Some(crate::worker::EXIT_NOT_STORED) => {
                Err(TrialError::NotStored { reason: mounting::last_lines(&log) })
            }
            _ => Err(TrialError::command("bench --write", mounting::last_lines(&log))),
        }
    }

    /// Everything is there, and gone again: the next run has its room.
    fn end_run(&self, dir: &Path, on_disk: Duration) -> Result<Run, TrialError> {
        process::check_interrupted()?;
        let load = &self.ground.load;
        for writer in 1..=load.writers {
            let output = Load::output(&dir.join(OUT_DIR), writer);
            let length = fs::metadata(&output)
                .map_err(|error| TrialError::io("look at", output.display(), error))?
                .len();
            if length != load.bytes_each {
                let reason =
                    format!("{} has {length} bytes of {}", output.display(), load.bytes_each);
                return Err(TrialError::NotStored { reason });
            }
        }
        let report = dir.join(REPORT);
        let said: WritersReport = measure::load_report(&report)
            .map_err(|error| TrialError::io("read", report.display(), error))?;
        fs::remove_dir_all(dir).map_err(|error| TrialError::io("remove", dir.display(), error))?;
        Ok(Run {
            writers_ms: said.ms,
            on_disk_ms: ms(on_disk),
            longest_write_ms: said.longest_write_ms,
            longest_sleep_ms: said.longest_sleep_ms,
        })
    }
}

fn sync(dir: &Path) -> Result<(), TrialError> {
    measure::sync_filesystem(dir).map_err(|error| TrialError::io("sync", dir.display(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn args(words: &[&str]) -> BenchArgs {
        Words::try_parse_from(["bench", "/d"].iter().chain(words)).unwrap().bench
    }

    #[test]
    fn the_size_follows_the_room() {
        let dir = Path::new("/d");
        assert_eq!(size(None, dir, 1 << 40).unwrap(), 512 * MIB);
        assert_eq!(size(None, dir, 80 * MIB).unwrap(), 40 * MIB);
        assert_eq!(size(Some(40 * MIB), dir, 40 * MIB).unwrap(), 40 * MIB);
        for (given, free, words) in [
            (Some(MIB), 1 << 40, "at least 32 MiB"),
            (Some(1 << 30), 512 * MIB, "512 MiB free, 1 GiB needed"),
            (None, 63 * MIB, "make room"),
            (None, 0, "0 B free"),
        ] {
            let error = size(given, dir, free).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn every_writer_gets_whole_records_and_no_more_than_its_part() {
        let got = load(&args(&["--writers", "7", "--record", "100"]), 32 * MIB).unwrap();
        assert_eq!((got.writers, got.record_bytes), (7, 100));
        assert!(
            got.bytes_each.is_multiple_of(100) && got.bytes() <= 8 * MIB && got.bytes() > 7 * MIB
        );
        let too_many = args(&["--writers", "1000", "--record", "1048576"]);
        let error = load(&too_many, 32 * MIB).unwrap_err().to_string();
        assert!(error.contains("at least --size 4000M"), "{error}");
        assert!(load(&too_many, 4000 * MIB).is_ok());
    }
}
