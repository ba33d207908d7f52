//! Goal: whatever many processes do at once to the same files, nobody sees a record that is torn,
//! older than one that was acknowledged before, or missing, nor bytes past the end; and the files
//! below are in the end what the mount showed.
//!
//! Method: this program starts itself as writers, readers, users of mappings, truncaters and
//! renamers; each record tells its file, slot and number, and a board in shared memory tells what
//! was begun and acknowledged ([`board`]). STRESS_SECONDS is how long each test takes (5), SEED
//! what it starts from.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod actors;
mod board;
mod record;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::{Arguments, Failed, Trial};

use actors::{Actor, ROLES};
use board::{Board, FILES, SLOTS};
use record::RECORD_BYTES;
use support::Mount;

/// Names the part that a process plays; the test itself has none.
const ROLE: &str = "STRESS_ROLE";

/// Memory for few chunks and a short age: drains are under way all the time.
const TINY: [&str; 6] = ["--memory", "4M", "--chunk", "64K", "--max-age", "50ms"];

/// A process that is over its time by so much hangs.
const GRACE: Duration = Duration::from_secs(90);

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let arguments = Arguments::from_args();
    let skip = support::cannot_mount();
    if let Some(reason) = &skip {
        eprintln!("the stress tests are ignored: {reason}");
    }
    let tests: [(&str, fn()); 6] = [
        ("records_on_the_bare_filesystem", records_on_the_bare_filesystem),
        ("records_with_memory_to_spare", records_with_memory_to_spare),
        ("records_while_draining", records_while_draining),
        ("records_without_the_writeback_cache", records_without_the_writeback_cache),
        ("records_while_workers_die", records_while_workers_die),
        ("appends_of_many_processes", appends_of_many_processes),
    ];
    let trials = tests.map(|(name, test)| {
        let run = move || -> Result<(), Failed> {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(skip.is_some())
    });
    libtest_mimic::run(&arguments, trials.into()).exit();
}

fn seconds() -> Duration {
    let given = std::env::var("STRESS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(5))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| now() as u64);
    println!("seed {seed}");
    seed
}

/// A process started by [`start`]: its arguments are directory, board and seed.
fn play(role: &str) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, board, seed] = &arguments[..] else { panic!("directory, board and seed") };
    let (dir, seed) = (Path::new(dir), seed.parse().unwrap());
    let until = Instant::now() + seconds();
    match role {
        "append" => append(dir, seed, until),
        role => Actor::new(Board::open(Path::new(board)), dir, seed).act(role, until),
    }
}

fn start(role: &str, dir: &Path, board: &Path, seed: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).arg(dir).arg(board).arg(seed.to_string());
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// Waits for all; the first that fails or hangs ends the others, and the test.
fn finish(mut players: Vec<(String, Child)>, mut meanwhile: impl FnMut()) {
    let until = Instant::now() + seconds() + GRACE;
    let mut wrong = None;
    while !players.is_empty() && wrong.is_none() {
        meanwhile();
        players.retain_mut(|(name, child)| match child.try_wait().unwrap() {
            None => true,
            Some(status) => {
                if !status.success() {
                    wrong = Some(format!("{name}: {status}"));
                }
                false
            }
        });
        if Instant::now() > until {
            let names: Vec<&String> = players.iter().map(|(name, _)| name).collect();
            wrong = Some(format!("still not through: {names:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for (_, child) in &mut players {
        child.kill().ok();
        // Not waited for: one that hangs in the kernel ends with the mount.
    }
    if let Some(wrong) = wrong {
        panic!("{wrong}");
    }
}

/// Plays `roles`, several of some; checks all files in the end, on the mount and below.
fn records(mount: &Mount, roles: &[&str], meanwhile: impl FnMut()) {
    let below = || {
        mount.umount_clean();
        mount.backing().to_path_buf()
    };
    records_in(mount.path(), &mount.plain(), roles, meanwhile, below);
}

/// As [`records`], in a directory; `below` ends the mount, if any, and tells where the files are.
fn records_in(
    dir: &Path,
    plain: &Path,
    roles: &[&str],
    mut meanwhile: impl FnMut(),
    below: impl FnOnce() -> PathBuf,
) {
    let seed = seed();
    let board_path = plain.join("board");
    let board = Board::open(&board_path);
    fs::create_dir(dir.join("sub")).unwrap();
    for file in 0..FILES {
        File::create_new(actors::path(dir, file, 0)).unwrap();
    }
    let mut players = Vec::new();
    for (number, role) in roles.iter().enumerate() {
        let seed = seed.wrapping_add(1 + number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        players.push((format!("{role} {number}"), start(role, dir, &board_path, seed)));
    }
    finish(players, &mut meanwhile);
    let names: Vec<PathBuf> = (0..FILES)
        .map(|file| {
            let name = board.files[file].name.load(Ordering::SeqCst);
            actors::path(Path::new(""), file, name)
        })
        .collect();
    check_all(board, dir, &names);
    let sizes = |dir: &Path| -> Vec<u64> {
        names.iter().map(|name| fs::metadata(dir.join(name)).unwrap().len()).collect()
    };
    let shown = sizes(dir);
    let below = below();
    assert_eq!(sizes(&below), shown);
    check_all(board, &below, &names);
    let counts = [&board.writes, &board.exact_reads, &board.raced_reads, &board.cuts]
        .map(|count| count.load(Ordering::Relaxed));
    println!("{counts:?} writes, exact reads, reads during a write, cuts");
    assert!(counts[0] > 100 && counts[1] > 100, "nothing was tested");
}

fn check_all(board: &Board, dir: &Path, names: &[PathBuf]) {
    for (file, name) in names.iter().enumerate() {
        let opened = File::open(dir.join(name)).unwrap();
        let bytes = actors::read_up_to(&opened, 0, SLOTS * RECORD_BYTES).unwrap();
        for (number, slot) in board.files[file].slots.iter().enumerate() {
            let seen = &bytes[number * RECORD_BYTES..(number + 1) * RECORD_BYTES];
            let is_exact =
                actors::check("end", file, number, seen, slot.acknowledged(), slot.begun());
            assert!(is_exact, "everything begun is acknowledged in the end");
        }
    }
}

/// Two more that write and one more that reads.
fn all_roles() -> Vec<&'static str> {
    ["write", "write", "read"].into_iter().chain(ROLES).collect()
}

/// Goal: the checks ask for no more than the filesystem below gives; what else they find is ours.
/// Without O_DIRECT, which Linux does not keep coherent with mappings there.
fn records_on_the_bare_filesystem() {
    let dir = tempfile::tempdir().unwrap();
    let (files, plain) = (dir.path().join("files"), dir.path().join("plain"));
    fs::create_dir(&files).unwrap();
    fs::create_dir(&plain).unwrap();
    let roles =
        all_roles().into_iter().map(|role| if role == "read" { "read_buffered" } else { role });
    let roles: Vec<&str> = roles.collect();
    records_in(&files, &plain, &roles, || {}, || files.clone());
}

/// Goal: as above, with everything held in memory for long, so that reads come from there.
fn records_with_memory_to_spare() {
    let mount = Mount::beside(&["--max-age", "1h", "--memory", "64M"]);
    records(&mount, &all_roles(), || {});
}

/// Goal: as above, with drains all the time: of what is read, written and cut at that moment. Slow
/// ones, so that bytes are on their way for long.
fn records_while_draining() {
    let mount = Mount::beside(&[&TINY[..], &["--drain-rate", "20M"]].concat());
    records(&mount, &all_roles(), || {});
}

/// Goal: as above, with every call coming to the daemon.
fn records_without_the_writeback_cache() {
    let mount = Mount::beside(&[&TINY[..], &["--no-writeback-cache"]].concat());
    records(&mount, &all_roles(), || {});
}

/// Goal: as above, with a worker that is killed again and again; nobody sees an error.
/// Without renames: one that was under way may be told of its own success as a failure.
fn records_while_workers_die() {
    let mount = Mount::beside(&TINY);
    let roles: Vec<&str> = all_roles().into_iter().filter(|role| *role != "rename").collect();
    let mut next = Instant::now() + Duration::from_millis(300);
    let mut killed = 0;
    records(&mount, &roles, || {
        if Instant::now() < next {
            return;
        }
        // SAFETY: the worker of this mount.
        unsafe { libc::kill(mount.worker_pid(), libc::SIGKILL) };
        killed += 1;
        next = Instant::now() + Duration::from_millis(700);
    });
    assert!(killed > 1, "no worker was killed");
}

/// What one process appends: as long as many a line of a log.
fn line(writer: u64, number: u64) -> String {
    let sum = record::record(writer as usize, number as usize, 0)[24];
    format!("{writer:08x} {number:08} {sum:02x} a line that says something\n")
}

fn append(dir: &Path, writer: u64, until: Instant) {
    let mut file = File::options().append(true).create(true).open(dir.join("log")).unwrap();
    let mut number = 0;
    while Instant::now() < until {
        for _ in 0..10 {
            file.write_all(line(writer, number).as_bytes()).unwrap();
            number += 1;
        }
        if number % 1000 == 0 {
            file.sync_data().unwrap();
        }
    }
    fs::write(dir.join(format!("count.{writer}")), number.to_string()).unwrap();
}

/// Goal: lines that several processes append to one file with O_APPEND are all there, whole, and
/// those of each process in its order.
fn appends_of_many_processes() {
    const WRITERS: u64 = 4;
    let mount = Mount::beside(&TINY);
    let board = mount.plain().join("none");
    let players = (0..WRITERS)
        .map(|writer| (format!("append {writer}"), start("append", mount.path(), &board, writer)));
    finish(players.collect(), || {});
    let shown = fs::read_to_string(mount.path().join("log")).unwrap();
    let mut numbers = [0; WRITERS as usize];
    for (at, seen) in shown.split_inclusive('\n').enumerate() {
        let writer = u64::from_str_radix(&seen[..8], 16).unwrap();
        let number = &mut numbers[writer as usize];
        assert_eq!(seen, line(writer, *number), "line {at}");
        *number += 1;
    }
    for (writer, number) in numbers.iter().enumerate() {
        let wanted = fs::read_to_string(mount.path().join(format!("count.{writer}"))).unwrap();
        assert_eq!(wanted, number.to_string(), "lines of writer {writer}");
    }
    mount.umount_clean();
    assert_eq!(fs::read_to_string(mount.backing().join("log")).unwrap(), shown);
}
