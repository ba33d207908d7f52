//! What is on stable storage when, through a real mount; and what a cut of the power leaves.
//!
//! `COALESCEFS_POWER_CUTS` says how often the power is cut on each filesystem, and
//! `COALESCEFS_TEST_SEED` when.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind::NotFound, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::Disk;
use crate::support::{Mount, PROGRAM, records, sh, succeed};

const HOLD: [&str; 2] = ["--max-age", "1h"];
const BLOCK: usize = 4096;
const LOGS: usize = 8;
const POWER_CUTS: u64 = 3;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(flags).open(path).unwrap()
}

/// A block of memory that O_DIRECT takes.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

fn write_with_flags(file: &File, bytes: &[u8], flags: i32) {
    let iov = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    // SAFETY: one buffer that lives as long as the call.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &iov, 1, 0, flags) };
    assert_eq!(written, bytes.len() as isize, "{}", std::io::Error::last_os_error());
}

fn write_by_mapping(file: &File, bytes: &[u8]) {
    file.set_len(bytes.len() as u64).unwrap();
    let (len, protection) = (bytes.len(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a fresh mapping of a file that is long enough, gone before the call returns.
    unsafe {
        let (null, shared) = (std::ptr::null_mut(), libc::MAP_SHARED);
        let map = libc::mmap(null, len, protection, shared, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        map.cast::<u8>().copy_from(bytes.as_ptr(), len);
        assert_eq!(libc::msync(map, len, libc::MS_SYNC), 0);
        libc::munmap(map, len);
    }
}

/// Goal: each way in which a program can ask for its bytes to be on stable storage has them in the
/// backing file, and the backing filesystem asked to sync, when it returns. With the kernel's
/// writeback cache and without.
pub fn every_way_to_sync_reaches_the_disk() {
    type Way = (&'static str, i32, fn(&File, &[u8]));
    let write: fn(&File, &[u8]) = |file, bytes| file.write_all_at(bytes, 0).unwrap();
    let ways: [Way; 10] = [
        ("fsync", 0, |file, bytes| {
            file.write_all_at(bytes, 0).unwrap();
            file.sync_all().unwrap();
        }),
        ("fdatasync", 0, |file, bytes| {
            file.write_all_at(bytes, 0).unwrap();
            file.sync_data().unwrap();
        }),
        ("another descriptor", 0, |file, bytes| {
            file.write_all_at(bytes, 0).unwrap();
            let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
            File::open(path).unwrap().sync_data().unwrap();
        }),
        ("O_SYNC", libc::O_SYNC, write),
        ("O_DSYNC", libc::O_DSYNC, write),
        ("O_DIRECT O_SYNC", libc::O_DIRECT | libc::O_SYNC, write),
        ("O_APPEND O_DSYNC", libc::O_APPEND | libc::O_DSYNC, |mut file, bytes| {
            file.write_all(bytes).unwrap();
        }),
        ("RWF_SYNC", 0, |file, bytes| write_with_flags(file, bytes, libc::RWF_SYNC)),
        ("RWF_DSYNC", 0, |file, bytes| write_with_flags(file, bytes, libc::RWF_DSYNC)),
        ("msync", 0, write_by_mapping),
    ];
    for options in [&HOLD[..], &["--max-age", "1h", "--no-writeback-cache"]] {
        let mount = Mount::beside(options);
        for (number, (way, flags, act)) in ways.iter().enumerate() {
            let name = format!("f{number}");
            let file = open(&mount.path().join(&name), *flags);
            let syncs = mount.figure("syncs");
            let block = Block([number as u8 + 1; BLOCK]);
            act(&file, &block.0);
            assert!(fs::read(mount.backing().join(&name)).unwrap() == block.0, "{way}: the bytes");
            assert!(mount.figure("syncs") > syncs, "{way}: not synced; {options:?}");
            let syncs = mount.figure("syncs");
            file.sync_data().unwrap();
            assert_eq!(mount.figure("syncs"), syncs, "{way}: synced twice; {options:?}");
        }
        let syncs = mount.figure("syncs");
        File::open(mount.path()).unwrap().sync_all().unwrap();
        assert_eq!(mount.figure("syncs"), syncs + 1, "a directory");
        mount.umount_clean();
    }
}

/// Goal: with `--fsync lazy` nothing is synced for programs and nothing leaves early; the option is
/// shown; umount brings everything to the files.
pub fn lazy_fsync_leaves_the_disk_alone() {
    let mount = Mount::beside(&["--max-age", "1h", "--fsync", "lazy"]);
    let path = mount.path().join("f");
    let mut file = open(&path, libc::O_APPEND | libc::O_SYNC);
    for line in records(1, 500).chunks(10) {
        file.write_all(line).unwrap();
        file.sync_all().unwrap();
    }
    File::open(mount.path()).unwrap().sync_all().unwrap();
    assert_eq!(mount.figure("backlog_bytes"), records(1, 500).len() as u64);
    assert_eq!(mount.figure("syncs"), 0);
    assert_eq!(mount.status()["config"]["fsync"], "lazy");
    let words = succeed(Command::new(PROGRAM).arg("status").arg(mount.path())).stdout;
    assert!(String::from_utf8_lossy(&words).contains("fsync lazy"));
    drop(file);
    mount.umount_clean();
    assert_eq!(fs::read(mount.backing().join("f")).unwrap(), records(1, 500));
}

/// What a log has at an offset; never zero.
fn log_bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at.wrapping_mul(31) % 251 + 1) as u8).collect()
}

/// Appends until the power is gone; notes how much is synced. The first never syncs, the second
/// does by each write, others now and then.
fn append(path: &Path, number: usize, synced: &AtomicU64, is_cut: &AtomicBool) {
    let flags = if number == 1 { libc::O_DSYNC } else { 0 };
    let mut file = open(path, flags | libc::O_APPEND);
    let longest = [20, 100, 5000, 300_000][number % 4];
    let (mut at, mut state) = (0, number + 1);
    // The page cache of a dead mount goes on taking bytes.
    while !is_cut.load(Ordering::SeqCst) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let step = state >> 33;
        let len = 1 + step % 1009 * longest / 1009;
        if file.write_all(&log_bytes(at, len)).is_err() {
            return;
        }
        at += len;
        let wants_sync = number > 1 && step % 200 < 2;
        if wants_sync && file.sync_data().is_err() {
            return;
        }
        // A sync that the cut overtakes promises nothing: ext4 may then answer that all is well.
        if (wants_sync || number == 1) && !is_cut.load(Ordering::SeqCst) {
            synced.store(at as u64, Ordering::SeqCst);
        }
    }
}

/// Goal: after the power was cut, every log is a prefix of what was written, and has what was
/// synced; on ext4 the last block may be zeros to its end.
pub fn logs_are_prefixes_after_a_power_cut() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let seed = variable("COALESCEFS_TEST_SEED").unwrap_or(clock);
    eprintln!("COALESCEFS_TEST_SEED={seed}");
    for cut in 0..variable("COALESCEFS_POWER_CUTS").unwrap_or(POWER_CUTS) {
        for disk in Disk::each() {
            let options = ["--memory", "16M", "--chunk", "256K", "--max-age", "200ms"];
            let mount = Mount::over_in(disk.image.path(), &options);
            let dir = mount.backing().to_path_buf();
            // Asked before there are writers: a process that is started closes their descriptors,
            // which waits for a daemon that may wait for the disk.
            let daemon = [mount.keeper_pid(), mount.worker_pid()];
            let synced: [AtomicU64; LOGS] = Default::default();
            let is_cut = &AtomicBool::new(false);
            std::thread::scope(|scope| {
                for (number, synced) in synced.iter().enumerate() {
                    let path = dir.join(format!("LOG{number}"));
                    scope.spawn(move || append(&path, number, synced, is_cut));
                }
                let ms = 300 + seed.wrapping_mul(cut + 1).wrapping_mul(0x9E37_79B9) % 1500;
                std::thread::sleep(Duration::from_millis(ms));
                is_cut.store(true, Ordering::SeqCst);
                disk.cut_power();
                for pid in daemon {
                    // SAFETY: the processes of this mount, the one that restarts the other first.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
                drop(mount);
            });
            disk.power_up();
            let synced = synced.map(AtomicU64::into_inner);
            eprintln!("{}, cut {cut}: {synced:?} bytes were synced", disk.image.kind());
            for (number, synced) in synced.into_iter().enumerate() {
                let log = match fs::read(dir.join(format!("LOG{number}"))) {
                    Err(error) if error.kind() == NotFound => Vec::new(),
                    read => read.unwrap(),
                };
                check_log(disk.image.kind(), number, &log, synced);
            }
        }
    }
}

fn check_log(kind: &str, number: usize, log: &[u8], synced: u64) {
    let len = log.len();
    assert!(len as u64 >= synced, "{kind}, log {number}: {len} of {synced} synced bytes");
    let wanted = log_bytes(0, len);
    let first_wrong = (0..len).find(|at| log[*at] != wanted[*at]);
    let Some(at) = first_wrong else { return };
    let zeros = log[at..].iter().all(|byte| *byte == 0);
    let is_in_last_block = at >= (len - 1) / BLOCK * BLOCK && at as u64 >= synced;
    assert!(
        kind == "ext4" && zeros && is_in_last_block,
        "{kind}, log {number}: byte {at} of {len} is {}, {synced} were synced",
        log[at]
    );
    eprintln!("{kind}, log {number}: {} zeros at the end of {len} bytes", len - at);
}

const ATTRIBUTES: &str = "
for n in $(seq 30); do
    head -c $((n * 9000)) /dev/urandom >plain$n
    head -c 70000 /dev/urandom >touched$n
    touch -d '1999-12-31 23:59:59.123456789' touched$n
    cp -p touched$n copied$n
    cp -p touched$n appended$n; echo more >>appended$n
    echo old >past$n; touch -d '1905-01-02 03:04:05.000000006' past$n
    echo new >future$n; touch -d '2400-01-02 03:04:05.999999999' future$n
    head -c 50000 /dev/urandom >cut$n; sleep 0.01; truncate -s 20000 cut$n
    echo x >owned$n; chmod 2640 owned$n; chown 12:34 owned$n; echo y >>owned$n
    chmod 4751 owned$n
    mv plain$n moved$n; ln moved$n linked$n
done";

/// Goal: times, modes, owners and sizes are what they were through the mount, also below after
/// umount, however often the worker was killed; of files just closed and of those drained before.
pub fn attributes_are_kept_over_deaths() {
    for disk in Disk::each() {
        for cache in [&[][..], &["--no-writeback-cache"]] {
            let options =
                [&["--memory", "8M", "--chunk", "256K", "--max-age", "60ms"], cache].concat();
            let mount = Mount::over_in(disk.image.path(), &options);
            let is_done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_done.load(Ordering::Relaxed) {
                        let worker = mount.worker_pid();
                        std::thread::sleep(Duration::from_millis(60));
                        // SAFETY: the worker of this mount.
                        unsafe { libc::kill(worker, libc::SIGKILL) };
                        mount.wait_for("another worker", |status| status["worker_pid"] != worker);
                    }
                });
                let script = std::panic::AssertUnwindSafe(|| sh(mount.path(), ATTRIBUTES));
                let outcome = std::panic::catch_unwind(script);
                is_done.store(true, Ordering::Relaxed);
                outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
            assert!(mount.figure("worker_restarts") > 0);
            let list = "stat -c '%n %Y %y %a %u %g %s %h' *";
            let seen = sh(mount.path(), list);
            mount.umount_clean();
            let below = sh(mount.backing(), list);
            let differ = seen.lines().zip(below.lines()).find(|(seen, below)| seen != below);
            assert_eq!(differ, None, "{} {cache:?}", disk.image.kind());
            assert_eq!(seen, below);
            let time = |name: &str| {
                sh(mount.backing(), &format!("TZ=UTC stat -c %y {name}")).trim().to_owned()
            };
            assert_eq!(time("copied7"), "1999-12-31 23:59:59.123456789 +0000");
            assert_eq!(time("past7"), "1905-01-02 03:04:05.000000006 +0000");
            assert_eq!(time("future7"), "2400-01-02 03:04:05.999999999 +0000");
            assert_ne!(time("appended7"), time("copied7"), "appended to afterwards");
        }
    }
}
