//! How many 10-byte write() calls a second: straight into a directory, through a mount over one
//! beside it, and into a FUSE filesystem that throws bytes away, in alternating rounds of one run, by
//! one process and by forty.
//!
//! `cargo bench --bench small_writes [-- DIR]`, as root or where fusermount3 is. DIR (default: the
//! target folder) decides which filesystem is measured. Prints the median ratios and all rounds:
//! on a shared machine single rounds vary by a third.

#![allow(clippy::unwrap_used)] // a benchmark fails by panicking

#[allow(dead_code, reason = "other benchmarks need the rest")]
mod common;
#[path = "common/discard.rs"]
mod discard;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::statistics::spread;

const PROGRAM: &str = env!("CARGO_BIN_EXE_coalescefs");
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS: usize = 15;
const RECORD: &[u8] = b"012345678\n";
/// Calls between two looks at the clock.
const BATCH: u64 = 1000;

/// The child: writes for one round, prints how many calls it made.
fn write_records(path: &Path) {
    let mut file = File::create(path).unwrap();
    let until = Instant::now() + ROUND;
    let mut calls = 0;
    while Instant::now() < until {
        for _ in 0..BATCH {
            file.write_all(RECORD).unwrap();
        }
        calls += BATCH;
    }
    println!("{calls}");
}

/// Calls a second of all processes together.
fn rate(dir: &Path, processes: usize) -> f64 {
    let begun = Instant::now();
    let children: Vec<_> = (0..processes)
        .map(|number| {
            let path = dir.join(format!("OUTPUT{number}"));
            Command::new(std::env::current_exe().unwrap())
                .arg("--write")
                .arg(path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let calls: u64 = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
        })
        .sum();
    calls as f64 / begun.elapsed().as_secs_f64()
}

/// A mount that ends with the benchmark.
struct Mount(PathBuf);

impl Mount {
    fn over(dir: &Path) -> Mount {
        let mounted = Command::new(PROGRAM).arg("mount").arg(dir).status().unwrap();
        assert!(mounted.success());
        Mount(dir.to_path_buf())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new(PROGRAM).arg("umount").arg(&self.0).status();
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    spread(values).unwrap().median
}

fn compare(dir: &Path, processes: usize) {
    let dirs = ["straight", "through", "discard"].map(|name| dir.join(name));
    dirs.iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    let [straight, through, discard] = &dirs;
    let _mount = Mount::over(through);
    let _nothing = discard::mount(discard).unwrap();
    println!("{:>10} {:>10} {:>10} {:>8} {:>8}", "straight", "through", "discard", "", "");
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let [straight, through, discard] =
            [straight, through, discard].map(|dir| rate(dir, processes));
        let (ours, least) = (through / straight, discard / straight);
        println!("{straight:>10.0} {through:>10.0} {discard:>10.0} {ours:>8.3} {least:>8.3}");
        ratios.push((ours, least, ours / least));
    }
    let medians = [
        median(ratios.iter().map(|ratio| ratio.0)),
        median(ratios.iter().map(|ratio| ratio.1)),
        median(ratios.iter().map(|ratio| ratio.2)),
    ];
    let [ours, least, of_least] = medians;
    println!(
        "{processes} process(es): median ratios {ours:.3} through, {least:.3} discard, {of_least:.3} through of discard\n"
    );
}

fn main() {
    // cargo adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [write, path] = &arguments[..]
        && write == "--write"
    {
        return write_records(Path::new(path));
    }
    let parent = arguments.first().map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str);
    let dir = tempfile::tempdir_in(parent).unwrap();
    for processes in [1, 40] {
        compare(dir.path(), processes);
    }
}
