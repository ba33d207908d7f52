//! The user's case as a script: FIFOs, a splitter, unmodified programs that write tiny records.
//!
//! The script is plain sh and the same for both runs. Two of its processes are this program under
//! hidden arguments: the splitter ([`split`]), and one more stream that times its own write()
//! calls ([`probe`]), since the programs cannot be asked. Both have one thread and block.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::measure::{self, ProbeReport, SplitReport};
use crate::cli::trial::measure::{LongestCalls, ms};
use crate::cli::trial::record::{RECORD_BYTES, fill_records};
use crate::cli::units;

/// Records the splitter writes to one FIFO before it goes on to the next: about half of what a
/// FIFO holds (64 KiB), so that a program always has work while the others have their turn.
const SPLIT_RECORDS: usize = 3200;
/// How long the splitter waits for a program to open its FIFO. They are all started before it,
/// but a thousand of them take their time.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// Records each candidate is tried with; fit into a pipe, so that nobody has to wait.
const TRIAL_RECORDS: u64 = 100;
/// write() calls beyond one per record that the start of a program may make.
const TRIAL_TOLERANCE: u64 = 8;

/// Where in the directory of a run the outputs are.
pub const OUT_DIR: &str = "out";
/// Report of the splitter, in the directory of the run.
pub const SPLIT_REPORT: &str = "splitter.json";
/// Report of the probe, in the directory of the run.
pub const PROBE_REPORT: &str = "probe.json";

/// A program that copies lines and writes each with one write(), in order of preference: the
/// first ones read in bulk, the last two a byte at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Program {
    /// GNU grep.
    Grep,
    /// GNU cut with its output made line-buffered by stdbuf.
    Cut,
    /// Perl.
    Perl,
    /// GNU sed.
    Sed,
    /// A loop of the shell itself, which is everywhere.
    Sh,
}

impl Program {
    /// As it is written in the script.
    pub fn command(self) -> &'static str {
        match self {
            Program::Grep => "grep --line-buffered ''",
            Program::Cut => "stdbuf -oL cut -c1-",
            Program::Perl => "perl -pe 'BEGIN { $| = 1 }'",
            Program::Sed => "sed -u ''",
            Program::Sh => r#"while read -r line; do echo "$line"; done"#,
        }
    }

    /// The first that works here.
    pub fn choose() -> Option<Program> {
        let all = [Program::Grep, Program::Cut, Program::Perl, Program::Sed, Program::Sh];
        all.into_iter().find(|program| program.works())
    }

    /// Whether it is here, copies its input and makes one write() of each record; where the
    /// kernel does not count, the last is taken on trust.
    pub fn works(self) -> bool {
        writes_each_record(self.command()).unwrap_or(false)
    }
}

/// Tries a command of the shell with a few records.
fn writes_each_record(command: &str) -> io::Result<bool> {
    let mut records = vec![0; TRIAL_RECORDS as usize * RECORD_BYTES];
    fill_records(&mut records, 1, 0);
    let mut output = tempfile::tempfile()?;
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    // A program that is missing has closed its end: found out below.
    let _ = child.stdin.take().expect("asked for a pipe above").write_all(&records);
    measure::wait_unreaped(child.id())?;
    let write_calls = measure::write_calls_of(&child.id().to_string());
    let status = child.wait()?;
    let mut copied = Vec::new();
    io::Seek::rewind(&mut output)?;
    output.read_to_end(&mut copied)?;
    let expected_calls = TRIAL_RECORDS..=TRIAL_RECORDS + TRIAL_TOLERANCE;
    let tiny = write_calls.is_none_or(|calls| expected_calls.contains(&calls));
    Ok(status.success() && copied == records && tiny)
}

/// One pipeline: what the script is made from.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Number of unmodified programs.
    pub programs: u32,
    /// Records each stream gets.
    pub records: u64,
    /// Which program.
    pub program: Program,
    /// This executable.
    pub executable: PathBuf,
}

impl Pipeline {
    /// Streams in all: the programs and the one that times itself.
    pub fn streams(&self) -> u32 {
        self.programs + 1
    }

    /// Bytes all streams write together; the largest number when they are more.
    pub fn total_bytes(&self) -> u64 {
        self.records.saturating_mul(u64::from(self.streams()) * RECORD_BYTES as u64)
    }

    /// The script. It is run in a directory that contains only an empty directory `out`.
    pub fn script(&self) -> String {
        let Pipeline { programs, records, .. } = self;
        let streams = self.streams();
        let command = self.program.command();
        let executable = units::shell_word(&self.executable.to_string_lossy());
        format!(
            r#"#!/bin/sh
# {programs} programs read a FIFO each and write records of {RECORD_BYTES} bytes, one write() call a record.
COALESCEFS={executable}

i=1
while [ "$i" -le {programs} ]; do
    mkfifo "FIFO$i"
    {command} <"FIFO$i" >"{OUT_DIR}/OUTPUT$i" 2>"s_p$i.log" &
    i=$((i + 1))
done

# One more stream measures how long its own write() calls take.
mkfifo FIFO{streams}
"$COALESCEFS" demo --probe {PROBE_REPORT} <FIFO{streams} >{OUT_DIR}/OUTPUT{streams} 2>s_p{streams}.log &

# The splitter writes to all FIFOs in turn, to each the same amount.
"$COALESCEFS" demo --splitter {SPLIT_REPORT} --streams {streams} --records {records} 2>splitter.log
status=$?
wait
exit "$status"
"#
        )
    }
}

/// Path of the output of `stream` (from 1) below the directory of a run.
pub fn output_path(run_dir: &Path, stream: u32) -> PathBuf {
    run_dir.join(OUT_DIR).join(format!("OUTPUT{stream}"))
}

/// Writes `records` records to each of `FIFO1` to `FIFO<streams>` in `dir`, a block to each in
/// turn. A full FIFO holds up all, as in the pipelines this stands for.
///
/// Errors: NotFound, TimedOut (no program reads a FIFO), BrokenPipe (one has gone), each with a
/// message that names the FIFO.
pub fn split(dir: &Path, streams: u32, records: u64) -> io::Result<SplitReport> {
    let mut fifos = Vec::new();
    for stream in 1..=streams {
        let name = format!("FIFO{stream}");
        fifos.push(open_fifo(&dir.join(&name)).map_err(|error| named(&name, error))?);
    }
    let mut block = vec![0; SPLIT_RECORDS * RECORD_BYTES];
    let mut longest_wait = Duration::ZERO;
    let mut sent = 0;
    while sent < records {
        let count = (records - sent).min(SPLIT_RECORDS as u64);
        let block = &mut block[..count as usize * RECORD_BYTES];
        for (fifo, stream) in fifos.iter_mut().zip(1..) {
            fill_records(block, stream, sent);
            let waited =
                send(fifo, block).map_err(|error| named(&format!("FIFO{stream}"), error))?;
            longest_wait = longest_wait.max(waited);
        }
        sent += count;
    }
    drop(fifos);
    Ok(SplitReport { longest_wait_ms: ms(longest_wait), write_calls: own_write_calls() })
}

fn named(name: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// fifo(7): opening without O_NONBLOCK would wait for ever for a program that failed to start.
fn open_fifo(path: &Path) -> io::Result<File> {
    let start = Instant::now();
    loop {
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                if start.elapsed() > OPEN_LIMIT {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no program reads it"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// Writes all of `block`; gives the time it waited for the reader.
fn send(fifo: &mut File, mut block: &[u8]) -> io::Result<Duration> {
    let mut waited = Duration::ZERO;
    while !block.is_empty() {
        match fifo.write(block) {
            Ok(written) => block = &block[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let start = Instant::now();
                wait_writable(fifo)?;
                waited += start.elapsed();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(waited)
}

fn wait_writable(fifo: &File) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: fifo.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, which outlives the call. An early return only leads to another write.
    match unsafe { libc::poll(&mut poll, 1, -1) } {
        -1 if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted => {
            Err(io::Error::last_os_error())
        }
        _ => Ok(()),
    }
}

/// Copies records from `input` to `output` with one write() each, and times these.
pub fn probe(input: &mut impl Read, output: &mut File) -> io::Result<ProbeReport> {
    let mut buffer = vec![0; 64 << 10];
    let mut filled = 0;
    let mut records = 0;
    let mut calls = LongestCalls::default();
    loop {
        let count = match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        filled += count;
        let whole = filled - filled % RECORD_BYTES;
        calls.begin();
        for record in buffer[..whole].chunks_exact(RECORD_BYTES) {
            calls.time(|| output.write_all(record))?;
            records += 1;
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
    output.write_all(&buffer[..filled])?;
    Ok(ProbeReport {
        records,
        longest_write_ms: ms(calls.longest),
        longest_sleep_ms: ms(calls.longest_sleep),
        write_calls: own_write_calls(),
    })
}

/// Of this process, with the one that will write its report.
fn own_write_calls() -> Option<u64> {
    measure::write_calls_of("self").map(|calls| calls + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::trial::record::first_difference;

    #[test]
    fn the_last_resort_works_everywhere() {
        assert!(Program::Sh.works());
        assert!(Program::choose().is_some());
    }

    /// Goal: only what makes one write() of each record is taken. Method: a missing program, one
    /// that changes its input, one that gathers its writes.
    #[test]
    fn other_programs_are_not_taken() {
        for command in ["no-such-program", "tr 0 1", "false"] {
            assert!(!writes_each_record(command).unwrap(), "{command}");
        }
        if measure::write_calls_of("self").is_some() {
            assert!(!writes_each_record("cat").unwrap());
        }
    }

    /// Goal: each FIFO gets exactly its records, also when one reader is slow, and that wait is
    /// seen. Method: readers in threads, one of which starts late on more than a pipe holds.
    #[test]
    fn the_splitter_feeds_every_fifo_and_notices_a_slow_one() {
        let dir = tempfile::tempdir().unwrap();
        let records = 2 * SPLIT_RECORDS as u64 + 1234;
        let fifo = |stream: u32| dir.path().join(format!("FIFO{stream}"));
        for stream in 1..=3 {
            assert!(Command::new("mkfifo").arg(fifo(stream)).status().unwrap().success());
        }
        let report = std::thread::scope(|scope| {
            for stream in 1..=3 {
                let path = fifo(stream);
                scope.spawn(move || {
                    let mut file = File::open(path).unwrap();
                    if stream == 2 {
                        std::thread::sleep(Duration::from_millis(200));
                    }
                    assert_eq!(first_difference(&mut file, stream, records).unwrap(), None);
                });
            }
            split(dir.path(), 3, records).unwrap()
        });
        assert!(report.longest_wait_ms > 50.0, "{report:?}");
    }

    #[test]
    fn the_splitter_names_the_fifo_whose_reader_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("FIFO1");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let error = std::thread::scope(|scope| {
            scope.spawn(|| drop(File::open(&fifo).unwrap()));
            split(dir.path(), 1, 1_000_000).unwrap_err()
        });
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(error.to_string().starts_with("FIFO1: "), "{error}");
    }

    /// Goal: the probe copies everything and counts a write() per record, however its input is
    /// cut. Method: an input that gives 7 bytes at a time.
    #[test]
    fn the_probe_writes_record_by_record() {
        struct Sevens<'a>(&'a [u8]);
        impl Read for Sevens<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(7).min(buffer.len());
                self.0.read(&mut buffer[..count])
            }
        }
        let mut records = vec![0; 1000 * RECORD_BYTES];
        fill_records(&mut records, 9, 0);
        let mut output = tempfile::tempfile().unwrap();
        let report = probe(&mut Sevens(&records), &mut output).unwrap();
        assert_eq!(report.records, 1000);
        io::Seek::rewind(&mut output).unwrap();
        assert_eq!(first_difference(&mut output, 9, 1000).unwrap(), None);
    }

    /// Goal: a write() that sleeps is told from one that does not. Method: a FIFO as the output,
    /// which is full until its reader wakes up.
    #[test]
    fn the_probe_notices_a_write_that_sleeps() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let mut records = vec![0; 20_000 * RECORD_BYTES];
        fill_records(&mut records, 9, 0);
        let report = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = File::open(&fifo).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                assert_eq!(first_difference(&mut file, 9, 20_000).unwrap(), None);
            });
            let mut output = OpenOptions::new().write(true).open(&fifo).unwrap();
            probe(&mut &records[..], &mut output).unwrap()
        });
        assert!(report.longest_sleep_ms > 20.0, "{report:?}");
        assert!(report.longest_write_ms >= report.longest_sleep_ms, "{report:?}");
    }

    /// Goal: the script does what it says, without a mount. Method: the real script with the two
    /// lines that need this program replaced by one that feeds the FIFOs.
    #[test]
    fn the_script_connects_every_fifo_with_its_output() {
        let pipeline = Pipeline {
            programs: 3,
            records: 100,
            program: Program::choose().unwrap(),
            executable: PathBuf::from("/nowhere/it's here"),
        };
        assert_eq!(pipeline.streams(), 4);
        assert_eq!(pipeline.total_bytes(), 4000);
        let script = pipeline.script();
        assert!(script.contains(r"COALESCEFS='/nowhere/it'\''s here'"), "{script}");
        let (before, after) = script.split_once("\"$COALESCEFS\" demo --splitter").unwrap();
        let (_, after) = after.split_once('\n').unwrap();
        let feed = "for i in 1 2 3 4; do echo $i >FIFO$i; done";
        let replaced = before.replace("\"$COALESCEFS\" demo --probe probe.json", "cat");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(OUT_DIR)).unwrap();
        let status = Command::new("sh")
            .args(["-c", &format!("{replaced}{feed}\n{after}")])
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        for stream in 1..=4 {
            let output = std::fs::read_to_string(output_path(dir.path(), stream)).unwrap();
            assert_eq!(output, format!("{stream}\n"));
        }
    }
}
