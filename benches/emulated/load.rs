//! Writers: processes that write records to a file each, one write() a record, and measure every
//! call. They are the benchmark's program again and know nothing of who carries their bytes.
//!
//! Every byte of an output follows from the writer's number and its place, so that what arrived can
//! be compared whole.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use coalescefs::backing;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::fairness::{Fairness, Moment, thin};
use super::progress::Board;
use super::scatter::scatter;
use super::watch::Watch;
use crate::common::helper::end_with_parent;
use crate::common::process::process_time;

/// The first argument of a process that is to be a writer; the second is a [`Writer`].
pub const WRITE: &str = "--write-records";
/// After how many bytes an output repeats itself: a prime, so that no block that went to another
/// block's place looks right there.
const PERIOD: usize = 1_048_573;
/// What a slow writer writes of what others do.
pub const SLOW_PART: u64 = 10;
const COMPARED: usize = 1 << 20;
/// Between two looks at how far the writers are.
const MOMENT: Duration = Duration::from_millis(20);
/// One sleep for many records: a shorter one costs more than the records.
const NAP: Duration = Duration::from_millis(2);

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Processes, with a file each.
    pub writers: u64,
    /// Bytes of one write().
    pub record: usize,
    /// Bytes of one file.
    pub bytes_each: u64,
    /// Bytes a second of one writer; full speed if there is none.
    pub rate: Option<u64>,
    /// Bytes a second of every other writer, which writes a tenth of the bytes then.
    pub slow_rate: Option<u64>,
}

/// One of the processes.
#[derive(Serialize, Deserialize)]
struct Writer {
    path: PathBuf,
    number: u64,
    record: usize,
    bytes: u64,
    rate: Option<u64>,
    board: PathBuf,
}

/// What one writer says at its end.
#[derive(Serialize, Deserialize)]
struct Words {
    took: Duration,
    cpu: Duration,
    /// Nanoseconds of a call, and how many took that long.
    calls: Vec<(u64, u64)>,
}

/// What the writers got, until they ended.
pub struct Report {
    /// Every write(), in nanoseconds.
    pub calls: Histogram<u64>,
    /// The longest of slow writers, if there are some.
    pub slow_longest: Option<Duration>,
    /// The processor time of all writers, from when they were ready.
    pub cpu: Duration,
    /// The first writer to end.
    pub fastest: Duration,
    /// The last one.
    pub slowest: Duration,
    /// How evenly they came along.
    pub fairness: Fairness,
    /// How far they were when.
    pub progress: Vec<Moment>,
}

impl Load {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        (0..self.writers).map(|number| self.bytes_of(number)).sum()
    }

    /// Bytes of one file.
    pub fn bytes_of(&self, number: u64) -> u64 {
        if self.is_slow(number) { self.bytes_each / SLOW_PART } else { self.bytes_each }
    }

    fn is_slow(&self, number: u64) -> bool {
        self.slow_rate.is_some() && number % 2 == 1
    }

    /// Starts all writers; they are ready to write when this returns.
    pub fn prepare(&self, dir: &Path) -> Result<Writers<'_>, String> {
        let board = Board::new(self.writers).map_err(|error| format!("shared memory: {error}"))?;
        let start = |number| {
            let child = self.spawn(dir, number, &board).map_err(|error| error.to_string())?;
            Ok(Running::new(child))
        };
        let mut children = (0..self.writers).map(start).collect::<Result<Vec<_>, String>>()?;
        children.iter_mut().try_for_each(|child| child.line().map(drop))?;
        Ok(Writers { load: self, board, children })
    }

    fn report(&self, words: &[Words], moments: Vec<Moment>) -> Result<Report, String> {
        let mut calls = histogram();
        for (nanos, count) in words.iter().flat_map(|words| &words.calls) {
            calls.record_n(*nanos, *count).map_err(|error| error.to_string())?;
        }
        let took = || words.iter().map(|words| words.took);
        let wanted: Vec<u64> = (0..self.writers).map(|number| self.bytes_of(number)).collect();
        let slow = words.iter().zip(0..).filter(|&(_, number)| self.is_slow(number));
        let slow_longest = slow.flat_map(|(words, _)| &words.calls).map(|(nanos, _)| *nanos).max();
        Ok(Report {
            calls,
            slow_longest: slow_longest.map(Duration::from_nanos),
            cpu: words.iter().map(|words| words.cpu).sum(),
            fastest: took().min().unwrap_or_default(),
            slowest: took().max().unwrap_or_default(),
            fairness: Fairness::of(&moments, &wanted),
            progress: thin(moments),
        })
    }

    fn spawn(&self, dir: &Path, number: u64, board: &Board) -> std::io::Result<Child> {
        let writer = Writer {
            path: output(dir, number),
            number,
            record: self.record,
            bytes: self.bytes_of(number),
            rate: if self.is_slow(number) { self.slow_rate } else { self.rate },
            board: board.path(),
        };
        Command::new(std::env::current_exe()?)
            .arg(WRITE)
            .arg(serde_json::to_string(&writer).expect("plain numbers and a plain path"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    }

    /// The extents of each file, as the filesystem tells.
    pub fn extents(&self, dir: &Path) -> Result<Vec<u32>, String> {
        let paths = (0..self.writers).map(|number| output(dir, number));
        let count = |path: PathBuf| {
            let extents = File::open(&path).and_then(|file| backing::extents(file.as_fd()));
            extents.map_err(|error| format!("{}: {error}", path.display()))
        };
        paths.map(count).collect()
    }

    /// Compares all files with what was written, as they are on the disk. `Err` says where the first
    /// difference is.
    pub fn verify(&self, dir: &Path) -> Result<(), String> {
        (0..self.writers).try_for_each(|number| {
            let path = output(dir, number);
            let differs = compare(&path, number, self.bytes_of(number));
            match differs.map_err(|error| format!("{}: {error}", path.display()))? {
                Some(at) => Err(format!("{}: differs at {at}", path.display())),
                None => Ok(()),
            }
        })
    }
}

/// All writers, ready.
pub struct Writers<'a> {
    load: &'a Load,
    board: Board,
    children: Vec<Running>,
}

impl Writers<'_> {
    /// Runs them to their ends. `Err`: one of them could not write.
    pub fn run(mut self) -> Result<Report, String> {
        for Running { child, .. } in &mut self.children {
            drop(child.stdin.take());
        }
        let (begun, board) = (Instant::now(), self.board);
        let watch = Watch::begin(MOMENT, Vec::new(), move |moments: &mut Vec<Moment>| {
            moments.push(board.moment(begun.elapsed()));
        });
        let words = self.children.iter_mut().map(Running::words).collect::<Result<Vec<_>, _>>()?;
        self.load.report(&words, watch.end())
    }
}

/// A writer that does not outlive its benchmark.
struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    fn new(mut child: Child) -> Running {
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        Running { child, said }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let read = self.said.read_line(&mut line).map_err(|error| format!("a writer: {error}"))?;
        if read == 0 { Err("a writer ended before its time".to_owned()) } else { Ok(line) }
    }

    fn words(&mut self) -> Result<Words, String> {
        serde_json::from_str(&self.line()?).map_err(|error| format!("a writer: {error}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file of a writer.
pub fn output(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("OUTPUT{number}"))
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

/// The bytes of an output from its start, with `more` of what follows, so that every piece of
/// that length lies in one piece here.
fn contents(number: u64, more: usize) -> Vec<u8> {
    let words = (0..).map(|word| scatter((number << 32) + word).to_le_bytes());
    let round: Vec<u8> = words.flatten().take(PERIOD).collect();
    round.iter().copied().cycle().take(PERIOD + more).collect()
}

/// Is a writer, once standard input ends.
pub fn write(words: &str) -> Result<(), String> {
    end_with_parent();
    let writer: Writer = serde_json::from_str(words).map_err(|error| error.to_string())?;
    let contents = contents(writer.number, writer.record);
    let mut calls = histogram();
    let board = Board::open(&writer.board).map_err(|error| format!("shared memory: {error}"))?;
    let cpu = process_time(std::process::id());
    // Ready.
    println!();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| format!("{}: {error}", writer.path.display());
    let begun = Instant::now();
    let mut file = File::create(&writer.path).map_err(failed)?;
    let mut written = 0;
    while written < writer.bytes {
        if let Some(rate) = writer.rate {
            wait_for_turn(begun, written, rate);
        }
        let from = (written % PERIOD as u64) as usize;
        let record = (writer.bytes - written).min(writer.record as u64) as usize;
        let before = Instant::now();
        let count = file.write(&contents[from..from + record]).map_err(failed)?;
        let took = before.elapsed().as_nanos() as u64;
        calls.record(took).expect("it grows as needed");
        written += count as u64;
        board.set(writer.number, written);
    }
    drop(file);
    let took = begun.elapsed();
    let calls = calls.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value()));
    let cpu = process_time(std::process::id()).saturating_sub(cpu);
    let words = Words { took, cpu, calls: calls.collect() };
    println!("{}", serde_json::to_string(&words).expect("plain numbers"));
    Ok(())
}

fn wait_for_turn(begun: Instant, written: u64, rate: u64) {
    let due = Duration::from_secs_f64(written as f64 / rate as f64);
    let early = due.saturating_sub(begun.elapsed());
    if early > NAP {
        std::thread::sleep(early);
    }
}

/// The first byte that is not as written.
fn compare(path: &Path, number: u64, bytes: u64) -> std::io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    // SAFETY: a descriptor that lives as long as the call. The disk is asked, not the cache.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let length = file.metadata()?.len();
    if length != bytes {
        return Ok(Some(length.min(bytes)));
    }
    let contents = contents(number, COMPARED);
    let mut found = vec![0; COMPARED];
    let mut at = 0;
    while at < bytes {
        let piece = (bytes - at).min(COMPARED as u64) as usize;
        file.read_exact(&mut found[..piece])?;
        let from = (at % PERIOD as u64) as usize;
        let wanted = &contents[from..from + piece];
        if found[..piece] != *wanted {
            let same = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted);
            return Ok(Some(at + same.count() as u64));
        }
        at += piece as u64;
    }
    Ok(None)
}
