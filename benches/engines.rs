//! Many writers on a network filesystem, straight and through coalescefs: how long until everything
//! is on the engine, the longest write(), and how many requests the engine got. As root.
//!
//! `cargo bench --bench engines [-- --engine NAME,...]`. The engines run on this machine
//! (`tests/engines/engine`), so the rates are those of its processors; ratios within one run and
//! the numbers of requests mean something. Requests are counted where an engine counts them:
//! GlusterFS at its bricks, of which every write reaches three, MooseFS where its client gets them
//! from the kernel, sshfs between its client and ssh.

#[allow(dead_code)] // others need more of it
mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::ASCII_FULL_CONDENSED;

use common::carriers::Mount;
use common::helper::end_with_parent;
use common::interrupt::{catch_interrupt, go_on};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// First arguments of a process that is to be one of these.
const WRITE: &str = "--write-records";
const COUNT: &str = "--count-requests";

#[derive(Parser)]
struct Args {
    /// Which engines, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "gluster,moosefs,sshfs,overlay")]
    engine: Vec<String>,
    /// Processes that write, with a file each
    #[arg(long, default_value = "40")]
    writers: u64,
    /// Bytes of all files together, in records of 10 bytes
    #[arg(long, default_value = "20MB", value_parser = |text: &str| parse_size::parse_size(text))]
    small_bytes: u64,
    /// The same in records of 4 KiB
    #[arg(long, default_value = "400MB", value_parser = |text: &str| parse_size::parse_size(text))]
    large_bytes: u64,
    /// cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

/// A running engine; stopped by `Drop`.
struct Engine {
    name: String,
    dir: tempfile::TempDir,
    /// What the counting process between sshfs and ssh has counted.
    counts: PathBuf,
}

impl Engine {
    fn start(name: &str) -> Outcome<Engine> {
        let dir = tempfile::Builder::new().prefix("coalescefs-engine-").tempdir()?;
        let counts = dir.path().with_extension("counts");
        let engine = Engine { name: name.to_owned(), dir, counts };
        engine.order("start", &[name])?;
        Ok(engine)
    }

    fn order(&self, command: &str, words: &[&str]) -> Outcome<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines/engine");
        let this = std::env::current_exe()?;
        let ssh = format!("{} {COUNT} {} ssh", this.display(), self.counts.display());
        let said = tempfile::NamedTempFile::new()?;
        let status = Command::new(script)
            .arg(command)
            .args(words)
            .arg(self.dir.path())
            .env("ENGINE_OWNER", std::process::id().to_string())
            .env("ENGINE_BYTES", "3G")
            .env("ENGINE_SSH", ssh)
            .env("ENGINE_COUNTS", &self.counts)
            .stdin(Stdio::null())
            .stdout(said.reopen()?)
            .status()?;
        if !status.success() {
            return Err(format!("{}: {command} failed", self.name).into());
        }
        Ok(fs::read_to_string(said.path())?)
    }

    /// To write, and in all, since the start; `None` where they are not counted.
    fn requests(&self) -> Outcome<Option<(u64, u64)>> {
        if self.name == "overlay" {
            return Ok(None);
        }
        let said = self.order("requests", &[])?;
        let mut words = said.split_whitespace().map(str::parse);
        match (words.next(), words.next()) {
            (Some(Ok(writes)), Some(Ok(all))) => Ok(Some((writes, all))),
            _ => Err(format!("{}: requests: {said}", self.name).into()),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.order("stop", &[]);
        let _ = fs::remove_file(&self.counts);
    }
}

/// What one way of writing took.
struct Figures {
    took: Duration,
    longest: Duration,
    requests: Option<(u64, u64)>,
}

fn measure(engine: &Engine, args: &Args, record: u64, bytes: u64, way: &str) -> Outcome<Figures> {
    go_on()?;
    let dir = engine.dir.path().join("mnt").join(format!("{way}-{record}"));
    fs::create_dir(&dir)?;
    let before = engine.requests()?;
    let begun = Instant::now();
    let mount = match way {
        "straight" => None,
        _ => Some(Mount::coalescefs(&dir, Some(256 << 20))?),
    };
    let each = bytes / args.writers / record * record;
    let longest = write_all(&dir, args.writers, record, each)?;
    let outputs = || (0..args.writers).map(|number| dir.join(format!("OUTPUT{number}")));
    match mount {
        Some(mount) => mount.end()?,
        None => outputs().try_for_each(|path| File::open(path)?.sync_all())?,
    }
    let took = begun.elapsed();
    let after = engine.requests()?;
    for path in outputs() {
        compare(&path, record, each)?;
    }
    fs::remove_dir_all(&dir)?;
    let requests = before.zip(after).map(|(from, to)| (to.0 - from.0, to.1 - from.1));
    Ok(Figures { took, longest, requests })
}

/// Starts the writers and waits for them; the longest write() of all.
fn write_all(dir: &Path, writers: u64, record: u64, bytes: u64) -> Outcome<Duration> {
    let start = |number: u64| {
        Command::new(std::env::current_exe()?)
            .arg(WRITE)
            .arg(dir.join(format!("OUTPUT{number}")))
            .args([record.to_string(), bytes.to_string()])
            .stdout(Stdio::piped())
            .spawn()
    };
    let children = (0..writers).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut longest = 0;
    for child in children {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("a writer failed: {}", output.status).into());
        }
        longest = longest.max(String::from_utf8(output.stdout)?.trim().parse()?);
    }
    Ok(Duration::from_nanos(longest))
}

/// The bytes of a record: its number, filled up with dots.
fn content(record: usize, number: u64) -> Vec<u8> {
    let mut content = format!("{number:09}").into_bytes();
    content.resize(record - 1, b'.');
    content.push(b'\n');
    content
}

fn write_records(path: &str, record: usize, bytes: u64) -> Outcome<()> {
    end_with_parent();
    let mut file = File::create(path)?;
    let mut longest = Duration::ZERO;
    for number in 0..bytes / record as u64 {
        let content = content(record, number);
        let begun = Instant::now();
        file.write_all(&content)?;
        longest = longest.max(begun.elapsed());
    }
    drop(file);
    println!("{}", longest.as_nanos());
    Ok(())
}

fn compare(path: &Path, record: u64, bytes: u64) -> Outcome<()> {
    let found = fs::read(path)?;
    let records = (0..bytes / record).flat_map(|number| content(record as usize, number));
    match found.iter().copied().eq(records) {
        true => Ok(()),
        false => Err(format!("{}: not what was written", path.display()).into()),
    }
}

/// Passes standard input on to a command and counts the SFTP requests in it: a length of four
/// bytes, then a type, of which 6 is SSH_FXP_WRITE (draft-ietf-secsh-filexfer-02). The counts are
/// in `counts`, written each time that input was passed on.
fn count_requests(counts: &str, command: &[String]) -> Outcome<()> {
    const SSH_FXP_WRITE: u8 = 6;
    let mut child = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn()?;
    let mut to = child.stdin.take().ok_or("no standard input")?;
    let mut from = std::io::stdin().lock();
    let (mut writes, mut all) = (0_u64, 0_u64);
    let (mut head, mut left) = (Vec::new(), 0_usize);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = match from.read(&mut buffer) {
            // ssh has made it so: it has the same socket as its standard output.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                wait_for_input();
                continue;
            }
            count => count?,
        };
        if count == 0 {
            break;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let passed = left.min(rest.len());
            (rest, left) = (&rest[passed..], left - passed);
            while left == 0 && head.len() < 5 && !rest.is_empty() {
                head.push(rest[0]);
                rest = &rest[1..];
            }
            if let [a, b, c, d, kind] = head[..] {
                all += 1;
                writes += u64::from(kind == SSH_FXP_WRITE);
                left = u32::from_be_bytes([a, b, c, d]) as usize - 1;
                head.clear();
            }
        }
        fs::write(counts, format!("{writes} {all}\n"))?;
        to.write_all(&buffer[..count])?;
    }
    drop(to);
    child.wait()?;
    Ok(())
}

/// Until there is standard input, or its end.
fn wait_for_input() {
    let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid structure. An error is seen by who reads then.
    unsafe { libc::poll(&mut input, 1, -1) };
}

fn run(args: &Args) -> Outcome<()> {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED);
    table.set_header([
        "engine",
        "record",
        "way",
        "until on the engine, s",
        "MB/s",
        "longest write(), ms",
        "write requests per GB",
        "requests per GB",
    ]);
    for name in &args.engine {
        let engine = Engine::start(name)?;
        for (record, bytes) in [(10, args.small_bytes), (4096, args.large_bytes)] {
            for way in ["straight", "coalescefs"] {
                let got = measure(&engine, args, record, bytes, way)?;
                let gigabytes = bytes as f64 / 1e9;
                let per_gigabyte = |count: Option<u64>| {
                    count.map_or("-".to_owned(), |count| format!("{:.0}", count as f64 / gigabytes))
                };
                table.add_row([
                    name.clone(),
                    record.to_string(),
                    way.to_owned(),
                    format!("{:.2}", got.took.as_secs_f64()),
                    format!("{:.2}", bytes as f64 / 1e6 / got.took.as_secs_f64()),
                    format!("{:.1}", got.longest.as_secs_f64() * 1e3),
                    per_gigabyte(got.requests.map(|(writes, _)| writes)),
                    per_gigabyte(got.requests.map(|(_, all)| all)),
                ]);
                eprintln!("{name}, {record} bytes, {way}: {:.1} s", got.took.as_secs_f64());
            }
        }
    }
    println!("{table}");
    Ok(())
}

fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match &words[..] {
        [first, path, record, bytes] if first == WRITE => {
            write_records(path, record.parse().unwrap_or(10), bytes.parse().unwrap_or(0))
        }
        [first, counts, command @ ..] if first == COUNT => count_requests(counts, command),
        _ => {
            catch_interrupt();
            run(&Args::parse())
        }
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engines: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
