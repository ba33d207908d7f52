//! What a byte and an open file cost, from one stream to thousands.
//!
//! `cargo bench --bench streams [-- --bytes 256MiB --rounds 3]`, as root, which mounts a tmpfs. One
//! process has so many files open and writes records of 4 KiB to one after the other, the same bytes
//! in all, straight into a tmpfs and through a mount over a directory of it. Prints the processor time
//! of the writer and the daemon per GB, from the first write until everything is below, how many times
//! that of one stream it is, and the daemon's memory outside of the arena. What it takes to create and
//! close a file is told by itself. The kernel's own threads are in none of this.

#[allow(dead_code)] // others need more of it
mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::ASCII_FULL_CONDENSED;

use common::carriers::{Mount, Tmpfs};
use common::interrupt::{catch_interrupt, go_on};
use common::process::{field, process_time, read};
use common::statistics::spread;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const RECORD: &[u8] = &[b'x'; 4096];

const HEADER: [&str; 7] = [
    "streams",
    "straight, s/GB",
    "through, s/GB",
    "of the first",
    "straight, us a file",
    "through, us a file",
    "own memory, MiB",
];

#[derive(Parser)]
struct Args {
    /// Files written at the same time, one measurement each
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000,10000")]
    streams: Vec<u64>,
    /// Bytes of all streams together
    #[arg(long, default_value = "256MiB", value_parser = |text: &str| parse_size::parse_size(text))]
    bytes: u64,
    /// How often everything is measured; medians are printed
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was seen of one load.
#[derive(Clone, Copy)]
struct Seen {
    cpu_s_per_gb: f64,
    /// To create and to close one.
    file_us: f64,
    /// Of the daemon; none straight.
    own_mib: f64,
}

/// A file descriptor for each stream; the daemon inherits what it may have at most.
fn allow_files(count: u64) -> Outcome<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a structure that lives as long as the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_cur.max(count + 100);
    limit.rlim_max = limit.rlim_max.max(limit.rlim_cur);
    // SAFETY: as above.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(format!("{} files: {}", limit.rlim_cur, std::io::Error::last_os_error()).into()),
    }
}

/// Writes the streams and takes them away again.
fn load(dir: &Path, streams: u64, bytes: u64, mount: Option<&Mount>) -> Outcome<Seen> {
    let path = |number: u64| dir.join(format!("OUTPUT{number}"));
    let daemon = mount.map_or(&[][..], Mount::pids);
    let time = || process_time(std::process::id()) + daemon.iter().copied().map(process_time).sum();
    let begun = time();
    let mut files =
        (0..streams).map(|number| File::create(path(number))).collect::<Result<Vec<_>, _>>()?;
    let created = time();
    let records = bytes / RECORD.len() as u64 / streams;
    for _ in 0..records {
        for file in &mut files {
            file.write_all(RECORD)?;
        }
        go_on()?;
    }
    let own_bytes: u64 = daemon.iter().map(|pid| own_bytes(*pid)).sum();
    mount.map_or(Ok(()), Mount::drain)?;
    let written = time();
    drop(files);
    let file_time = created.saturating_sub(begun) + time().saturating_sub(written);
    (0..streams).try_for_each(|number| fs::remove_file(path(number)))?;
    let gigabytes = (records * RECORD.len() as u64 * streams) as f64 / 1e9;
    Ok(Seen {
        cpu_s_per_gb: written.saturating_sub(created).as_secs_f64() / gigabytes,
        file_us: file_time.as_secs_f64() * 1e6 / streams as f64,
        own_mib: own_bytes as f64 / (1 << 20) as f64,
    })
}

fn own_bytes(pid: u32) -> u64 {
    field(&read(&format!("/proc/{pid}/status")), "RssAnon:")
}

/// Straight, and through a mount of its own.
fn both(dir: &Path, streams: u64, bytes: u64) -> Outcome<(Seen, Seen)> {
    let (straight, below) = (dir.join("straight"), dir.join("below"));
    fs::create_dir_all(&straight)?;
    fs::create_dir_all(&below)?;
    let straight = load(&straight, streams, bytes, None)?;
    let mount = Mount::coalescefs(&below, None)?;
    let through = load(&below, streams, bytes, Some(&mount))?;
    mount.end()?;
    Ok((straight, through))
}

fn run(args: &Args) -> Outcome<()> {
    allow_files(args.streams.iter().copied().max().unwrap_or(1))?;
    let dir = tempfile::Builder::new().prefix("streams-").tempdir()?;
    let tmpfs = Tmpfs::mount(dir.path())?;
    let mut seen = vec![Vec::new(); args.streams.len()];
    for _ in 0..args.rounds {
        for (&streams, seen) in args.streams.iter().zip(&mut seen) {
            seen.push(both(tmpfs.path(), streams.max(1), args.bytes)?);
        }
    }
    let median = |seen: &[(Seen, Seen)], get: &dyn Fn(&(Seen, Seen)) -> f64| {
        spread(seen.iter().map(get)).map_or(0.0, |its| its.median)
    };
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED);
    table.set_header(HEADER);
    let first = median(&seen[0], &|(_, through)| through.cpu_s_per_gb);
    for (streams, seen) in args.streams.iter().zip(&seen) {
        let through = median(seen, &|(_, through)| through.cpu_s_per_gb);
        table.add_row([
            streams.to_string(),
            format!("{:.2}", median(seen, &|(straight, _)| straight.cpu_s_per_gb)),
            format!("{through:.2}"),
            format!("{:.2}", through / first),
            format!("{:.0}", median(seen, &|(straight, _)| straight.file_us)),
            format!("{:.0}", median(seen, &|(_, through)| through.file_us)),
            format!("{:.1}", median(seen, &|(_, through)| through.own_mib)),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn main() -> std::process::ExitCode {
    catch_interrupt();
    match run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streams: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
