//! The worker is killed again and again under a mixed load.
//!
//! `COALESCEFS_KILLS` says how often (a few in a normal run, hundreds in the long suite), and
//! `COALESCEFS_TEST_SEED` when and under what load.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{Mount, SOON, sh};

const LOADS: u64 = 6;
const KILLS: u64 = 20;
const LOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mount/deaths.py");

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// xorshift64: good enough to choose moments.
struct Moments(u64);

impl Moments {
    fn next_ms(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn start_loads(dir: &Path, logs: &Path, seed: u64, operations: u64) -> Vec<Child> {
    fs::create_dir_all(logs).unwrap();
    (0..LOADS)
        .map(|n| {
            Command::new("python3")
                .arg(LOAD)
                .arg(dir.join(n.to_string()))
                .args([(seed % 1_000_000 + n).to_string(), operations.to_string()])
                .stdout(File::create(logs.join(n.to_string())).unwrap())
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect()
}

/// When requests began, one after the other, and how long they took.
fn answer_times(path: &Path, ended: &AtomicBool) -> Vec<(Instant, Duration)> {
    let mut answers = Vec::new();
    let mut number = 0;
    while !ended.load(Ordering::Relaxed) {
        let begin = Instant::now();
        // A name that was never asked for: always a request.
        assert!(fs::metadata(path.join(format!("none{number}"))).is_err());
        answers.push((begin, begin.elapsed()));
        number += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    answers
}

/// Goal: whatever programs do with names, bytes, mappings and attributes, they see no error and
/// find what they left, however often the worker is killed; the trees are those of a run without a
/// mount, also after umount.
pub fn the_worker_is_killed_under_a_mixed_load() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = variable("COALESCEFS_TEST_SEED").unwrap_or(clock);
    let kills = variable("COALESCEFS_KILLS").unwrap_or(KILLS);
    eprintln!("COALESCEFS_TEST_SEED={seed}");
    let mount = Mount::over(&["--memory", "16M", "--chunk", "256K", "--max-age", "200ms"]);
    let plain = mount.plain();
    let logs = plain.join("logs");
    let operations = 40 * kills.max(KILLS);
    let mut loads = start_loads(mount.path(), &logs.join("mount"), seed, operations);
    let ended = AtomicBool::new(false);
    let (deaths, answers) = std::thread::scope(|scope| {
        let answers = scope.spawn(|| answer_times(mount.path(), &ended));
        let mut moments = Moments(seed | 1);
        let mut deaths = Vec::new();
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(moments.next_ms(150)));
            let worker = mount.worker_pid();
            deaths.push(Instant::now());
            // SAFETY: the worker of this mount.
            unsafe { libc::kill(worker, libc::SIGKILL) };
            mount.wait_for("another worker", |status| status["worker_pid"] != worker);
        }
        for load in &mut loads {
            assert!(load.wait().unwrap().success(), "a program saw an error");
        }
        ended.store(true, Ordering::Relaxed);
        (deaths, answers.join().unwrap())
    });
    let mut pauses: Vec<Duration> = deaths
        .iter()
        .filter_map(|death| {
            let after = answers.iter().filter(|(begin, took)| *begin + *took >= *death);
            after.take(3).map(|(_, took)| *took).max()
        })
        .collect();
    pauses.sort_unstable();
    if let (Some(median), Some(longest)) = (pauses.get(pauses.len() / 2), pauses.last()) {
        eprintln!("{kills} deaths of the worker: median pause {median:?}, longest {longest:?}");
    }
    assert_eq!(mount.figure("worker_restarts"), kills);
    for mut load in start_loads(&plain.join("out"), &logs.join("plain"), seed, operations) {
        assert!(load.wait().unwrap().success());
    }
    sh(&logs, "diff -r mount plain");
    let compare = format!("diff -r . {}", plain.join("out").display());
    sh(mount.path(), &compare);
    mount.umount_clean();
    sh(mount.path(), &compare);
}

/// Goal: a request that is being read when the worker is killed is not answered EIO by the kernel,
/// as it is when its buffer takes a page fault. Method: the pages are there before the first use.
pub fn no_page_is_missing_when_a_request_comes() {
    const BUFFER_KIB: u64 = 16 << 10;
    // Nearly the mebibyte of a WRITE; a worker in which none is present has 75.
    const WRITE_KIB: u64 = 900;
    let mount = Mount::over(&[]);
    let worker = mount.worker_pid();
    let names = fs::read_dir(format!("/proc/{worker}/task")).unwrap();
    let names = names.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let readers = names.filter(|name| name.starts_with("fuser-")).count() as u64;
    assert!(readers > 1);
    // The last thread may just have begun.
    let until = Instant::now() + SOON;
    while own_kib(worker, BUFFER_KIB) < readers * WRITE_KIB {
        assert!(Instant::now() < until, "{} KiB", own_kib(worker, BUFFER_KIB));
        std::thread::sleep(Duration::from_millis(10));
    }
    mount.umount_clean();
}

/// What is present of a process's own mappings that are as large as that. Mappings beside each other
/// are shown as one.
fn own_kib(process: i32, least_kib: u64) -> u64 {
    let (mut is_own, mut size_kib, mut present_kib) = (false, 0, 0);
    for line in fs::read_to_string(format!("/proc/{process}/smaps")).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Size:", kib, "kB"] => size_kib = kib.parse().unwrap(),
            ["Rss:", kib, "kB"] if is_own && size_kib >= least_kib => {
                present_kib += kib.parse::<u64>().unwrap();
            }
            [range, ..] if !range.ends_with(':') => {
                is_own = words.len() == 5 || words.last() == Some(&"[heap]");
            }
            _ => {}
        }
    }
    present_kib
}
