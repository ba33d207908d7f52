//! What the mount is for: many small writes, few large ones, bounded memory, nobody blocked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Mount, record, records, text};

/// Starts a program that nobody changed and that makes one write() of about 10 bytes per record.
fn start_stream(dir: &Path, stream: usize, count: usize) -> Child {
    let script = format!(
        "awk 'BEGIN {{ for (n = 0; n < {count}; n++) printf \"%02d.%06d\\n\", {stream}, n }}' \
         | grep --line-buffered . >OUTPUT{stream}"
    );
    Command::new("sh").args(["-c", &script]).current_dir(dir).stdout(Stdio::null()).spawn().unwrap()
}

fn finish(mut streams: Vec<Child>) {
    for stream in &mut streams {
        assert!(stream.wait().unwrap().success(), "a program saw an error");
    }
}

/// Goal: no request reaches the daemon per write(): neither WRITE nor any other (KILLPRIV_V2,
/// long timeouts). Bound: 100 000 writes of 10 bytes may cost 100 requests of all kinds.
pub fn no_request_for_each_write() {
    let mount = Mount::over(&[]);
    let mut file = File::create(mount.path().join("f")).unwrap();
    let before = mount.figure("requests");
    for number in 0..100_000 {
        file.write_all(record(1, number).as_bytes()).unwrap();
    }
    file.sync_data().unwrap();
    let requests = mount.figure("requests") - before;
    assert!(requests < 100, "{requests} requests");
    // A page that is written out before it is full comes again.
    assert!((1_000_000..1_100_000).contains(&mount.figure("bytes_in")));
    drop(file);
    mount.umount_clean();
}

/// Goal: many files with less than a chunk each, which together fill memory, do not stay there until
/// they are old: nobody is held back while the disk has time.
pub fn files_without_a_whole_chunk_do_not_fill_memory() {
    let mount = Mount::over(&["--memory", "32M", "--chunk", "2M", "--max-age", "1h"]);
    let mut files: Vec<File> =
        (0..40).map(|n| File::create(mount.path().join(format!("f{n}"))).unwrap()).collect();
    let bytes = records(1, 50_000);
    for file in &mut files {
        file.write_all(&bytes).unwrap();
        // SAFETY: a valid descriptor; hands the pages over to the daemon, waits for it.
        unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, SYNC_FILE_RANGE_ALL) };
    }
    let written = (files.len() * bytes.len()) as u64;
    assert!(written > mount.figure("memory_bytes") / 2, "memory was never half full");
    mount.wait_for("half of memory to be free", |status| {
        status["held_bytes"].as_u64().unwrap() <= status["memory_bytes"].as_u64().unwrap() / 2
    });
    drop(files);
    mount.umount_clean();
}

/// Goal: an operation on a name or on attributes costs one request where the kernel has to ask, and none where it knows.
/// Method: the least of some tries, because anybody on the machine may drop the kernel's caches.
pub fn one_request_for_each_operation() {
    let mount = Mount::over(&[]);
    let path = |name: String| mount.path().join(name);
    fs::create_dir(path("d".into())).unwrap();
    let file = |n: u32| path(format!("d/f{n}"));
    for n in 0..20 {
        fs::write(file(n), "x").unwrap();
    }
    // What was just written is asked for once more: its blocks may have changed.
    std::thread::sleep(Duration::from_millis(1200));
    let cost = |what: &str, most: u64, act: &dyn Fn(u32)| {
        let costs = (0..20).map(|n| {
            let before = mount.figure("requests");
            act(n);
            mount.figure("requests") - before
        });
        let least = costs.min().unwrap();
        assert!(least <= most, "{what}: {least} requests");
    };
    cost("1000 times stat", 1, &|n| {
        (0..1000).for_each(|_| assert!(fs::metadata(file(n)).is_ok()));
    });
    cost("a name that is not there", 1, &|n| assert!(fs::metadata(file(100 + n)).is_err()));
    // OPEN, FLUSH, and RELEASE, which may come later; what the file holds is in the page cache.
    cost("open, read, close", 3, &|n| assert_eq!(fs::read(file(n)).unwrap(), b"x"));
    cost("chmod", 1, &|n| sys_chmod(&file(n)));
    // After a change in a directory the kernel asks for the directory's attributes: one more for
    // each of these. LOOKUP finds that the name is not there; a file that is gone is forgotten.
    cost("mkdir", 3, &|n| fs::create_dir(path(format!("d/d{n}"))).unwrap());
    cost("rmdir", 3, &|n| fs::remove_dir(path(format!("d/d{n}"))).unwrap());
    cost("link", 4, &|n| fs::hard_link(file(n), path(format!("d/l{n}"))).unwrap());
    cost("unlink", 3, &|n| fs::remove_file(path(format!("d/l{n}"))).unwrap());
    cost("rename", 4, &|n| fs::rename(file(n), path(format!("d/g{n}"))).unwrap());
    cost("create, close", 5, &|n| drop(File::create(path(format!("d/new{n}"))).unwrap()));
    mount.umount_clean();
}

/// Goal: a listing brings the attributes of what it lists (READDIRPLUS): who looks at each file while
/// he reads the directory costs no request for each.
pub fn a_listing_brings_the_attributes() {
    let mount = Mount::over_prepared("mkdir d; seq -f d/%g 1 2000 | xargs touch", &[]);
    let before = mount.figure("requests");
    let entries = fs::read_dir(mount.path().join("d")).unwrap();
    let files = entries.filter(|entry| entry.as_ref().unwrap().metadata().unwrap().is_file());
    assert_eq!(files.count(), 2000);
    let requests = mount.figure("requests") - before;
    assert!(requests < 100, "{requests} requests");
    mount.umount_clean();
}

fn sys_chmod(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
}

/// Write what is dirty, and wait for it.
const SYNC_FILE_RANGE_ALL: u32 = libc::SYNC_FILE_RANGE_WAIT_BEFORE
    | libc::SYNC_FILE_RANGE_WRITE
    | libc::SYNC_FILE_RANGE_WAIT_AFTER;

struct Line {
    file: u64,
    offset: u64,
    len: u64,
}

fn drain_log(mount: &Mount) -> Vec<Line> {
    let log = fs::read_to_string(mount.log_path()).unwrap();
    let field = |line: &str, key: &str| -> Option<u64> {
        line.split_once(&format!("{key}="))?.1.split(' ').next()?.parse().ok()
    };
    log.lines()
        .filter(|line| line.contains("] write file="))
        .filter_map(|line| {
            let offset = field(line, "offset")?;
            Some(Line { file: field(line, "file")?, offset, len: field(line, "len")? })
        })
        .collect()
}

/// Goal: long streams leave in whole aligned chunks, at least 95% of their bytes, one file at a
/// time, and files take turns. Method: the lane's record of its writes (its trace log).
pub fn whole_chunks_in_turn() {
    const CHUNK: u64 = 256 << 10;
    let options = ["--chunk", "256K", "--memory", "16M"];
    let mount = Mount::over_with_log(&options, "coalescefs::drain=trace");
    let streams = 8;
    let mut files: Vec<File> = (0..streams)
        .map(|stream| File::create(mount.path().join(format!("OUTPUT{stream}"))).unwrap())
        .collect();
    // All at the same rate; 6 MiB each.
    let block = records(1, 6554);
    for _ in 0..96 {
        for file in &mut files {
            file.write_all(&block).unwrap();
            // The kernel would hand over megabytes of one file after another; equal streams that
            // last long enough reach us evenly.
            // SAFETY: a valid descriptor.
            unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, SYNC_FILE_RANGE_ALL) };
        }
    }
    drop(files);
    let status = mount.status();
    mount.umount_clean();
    let written: u64 = (0..streams)
        .map(|stream| fs::metadata(mount.path().join(format!("OUTPUT{stream}"))).unwrap().len())
        .sum();
    let mut turns: Vec<(u64, u64, u64)> = Vec::new();
    for line in drain_log(&mount) {
        match turns.last_mut() {
            Some((file, _, to)) if *file == line.file && *to == line.offset => *to += line.len,
            _ => turns.push((line.file, line.offset, line.offset + line.len)),
        }
    }
    let whole = |(_, from, to): &&(u64, u64, u64)| from % CHUNK == 0 && to % CHUNK == 0;
    let whole_bytes: u64 = turns.iter().filter(whole).map(|(_, from, to)| to - from).sum();
    assert!(whole_bytes * 100 >= written * 95, "{whole_bytes} of {written} in whole chunks");
    assert!(status["direct_bytes"].as_u64().is_some());
    // Turns: between two whole chunks of one file most others have had one.
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    let order: Vec<u64> = turns.iter().filter(whole).map(|(file, _, _)| *file).collect();
    let mut others = Vec::new();
    for (at, file) in order.iter().enumerate() {
        if let Some(before) = last.insert(*file, at) {
            others.push(order[before + 1..at].iter().collect::<BTreeSet<_>>().len());
        }
    }
    let mean = others.iter().sum::<usize>() as f64 / others.len() as f64;
    assert!(mean > (streams - 1) as f64 * 0.8, "between two turns of a file {mean} others had one");
}

/// Goal: programs that write faster than the disk takes it are equally fast, whoever runs first.
/// Method: forty of them fill memory more than twice; then what each has written in the same
/// while is compared, by counting. Records so large that each is let pass by itself: whoever passes
/// for a time is equal over many seconds only, which the gate's own tests look at without a clock.
pub fn programs_are_equally_fast() {
    const SCRIPT: &str = r#"
import mmap, os, struct, time
N = 40
counts = mmap.mmap(-1, 8 * (N + 1))
def count(n):
    return struct.unpack_from("q", counts, 8 * n)[0]
for n in range(N):
    if os.fork() == 0:
        out = os.open(f"OUTPUT{n}", os.O_WRONLY | os.O_CREAT, 0o644)
        while count(N) == 0:
            struct.pack_into("q", counts, 8 * n, count(n) + os.write(out, b"x" * 16384))
        os._exit(0)
def at(total):
    while sum(map(count, range(N))) < total:
        time.sleep(0.01)
    return [count(n) for n in range(N)]
before, after = at(140 << 20), at(300 << 20)
struct.pack_into("q", counts, 8 * N, 1)
for n in range(N):
    assert os.wait()[1] == 0
had = [b - a for a, b in zip(before, after)]
print(min(had), max(had))
"#;
    // A rate that they exceed also where other tests have the processors: else those decide.
    let mount = Mount::over(&["--memory", "64M", "--drain-rate", "20M"]);
    let mut programs = Command::new("python3");
    let output = programs.args(["-c", SCRIPT]).current_dir(mount.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let had: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let (least, most) = (had[0], had[1]);
    // Left alone, the fastest has seven to sixteen times as much as the slowest.
    assert!(most <= least * 2, "{least} to {most} bytes");
    // They were asked, many times each: what the kernel does by itself is fair by chance.
    let requests = mount.figure("requests");
    assert!(requests > 4000, "{requests} requests");
    mount.umount_clean();
}

/// Goal: a few bytes of an open file that nobody writes any more reach the disk within their age.
pub fn no_byte_outlives_its_age() {
    let mount = Mount::beside(&["--max-age", "500ms"]);
    let mut file = File::create(mount.path().join("f")).unwrap();
    file.write_all(b"a few bytes").unwrap();
    // SAFETY: a valid descriptor; hands the page over to the daemon, waits for it.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, SYNC_FILE_RANGE_ALL) };
    let below = mount.backing().join("f");
    mount.wait_for("the bytes to be drained", |status| status["backlog_bytes"] == 0);
    assert_eq!(fs::read(below).unwrap(), b"a few bytes");
    assert_eq!(mount.figure("streams"), 0);
    drop(file);
    mount.umount_clean();
}

/// Goal: more open files than memory has room for chunks, or even for segments of each, go on.
/// Method: a process of its own has them open, as children that other tests have forked have all
/// descriptors of this one until they run their programs.
pub fn more_open_files_than_chunks() {
    let mount = Mount::over(&["--memory", "64M", "--chunk", "1M"]);
    let all: Vec<u8> = (0..10).flat_map(|round| records(round, 1000)).collect();
    let script = r#"
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
size = int(sys.argv[1])
rounds = [sys.stdin.buffer.read(size) for _ in range(10)]
files = [os.open(f"f{n}", os.O_WRONLY | os.O_CREAT, 0o644) for n in range(2000)]
for part in rounds:
    for out in files:
        assert os.write(out, part) == size
print("written", flush=True)
sys.stdin.buffer.read()
"#;
    let mut program = Command::new("python3")
        .args(["-c", script, &(all.len() / 10).to_string()])
        .current_dir(mount.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    stdin.write_all(&all).unwrap();
    let mut said = [0; 8];
    program.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert!(mount.figure("held_bytes") <= 64 << 20);
    drop(stdin);
    assert!(program.wait().unwrap().success());
    mount.umount_clean();
    for n in [0, 999, 1999] {
        assert!(fs::read(mount.path().join(format!("f{n}"))).unwrap() == all);
    }
}

/// Goal: with every writer waiting for room, others are answered. Method: a disk that takes 256 KiB
/// a second; writers wait before and after the calls, so the calls did not wait for them.
pub fn others_are_answered_while_writers_wait() {
    let mount = Mount::over(&["--memory", "8M", "--chunk", "256K", "--drain-rate", "256K"]);
    fs::write(mount.path().join("small"), "small").unwrap();
    let streams: Vec<Child> = (0..8)
        .map(|n| {
            Command::new("dd")
                .args(["if=/dev/zero", "bs=64K", "count=64", "status=none"])
                .arg(format!("of=big{n}"))
                .current_dir(mount.path())
                .spawn()
                .unwrap()
        })
        .collect();
    let begun = || (0..8).all(|n| mount.path().join(format!("big{n}")).exists());
    mount.wait_for("writers to wait", |status| {
        status["waiting_writes"].as_u64() > Some(0) && begun()
    });
    // A process of its own keeps a file open that others write: closing it waits for what they have
    // written so far, as the kernel does it on every FUSE filesystem with a writeback cache, and a
    // child of this process would close it.
    let others = r#"
import os
reader = os.open("big2", os.O_RDONLY)
for _ in range(10):
    assert open("small").read() == "small"
    assert sum(1 for entry in os.scandir(".") if entry.stat().st_size >= 0) > 8
    assert os.stat("big1").st_size <= 4 << 20
    os.pread(reader, 1000, 0)
    os.mkdir("x"), os.rmdir("x"), os.mkfifo("f"), os.unlink("f")
print("answered", flush=True)
input()
"#;
    let mut others = Command::new("python3")
        .args(["-c", others])
        .current_dir(mount.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 8];
    others.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"answered");
    let status = mount.status();
    assert!(status["waiting_writes"].as_u64() > Some(0), "the test was too slow to mean anything");
    assert!(status["held_bytes"].as_u64() <= Some(8 << 20));
    // Without the daemon nobody has to wait for the slow disk any more.
    drop(mount);
    for mut stream in streams.into_iter().chain([others]) {
        stream.kill().unwrap();
        stream.wait().unwrap();
    }
}

fn private_memory_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Goal: bytes held stay within --memory, and memory outside the arena within 64 MiB with 40
/// streams and 128 MiB with 10 000 open files.
pub fn memory_stays_bounded() {
    let mount = Mount::over(&["--memory", "32M", "--chunk", "512K"]);
    let outside =
        || private_memory_kib(mount.keeper_pid()) + private_memory_kib(mount.worker_pid());
    let streams: Vec<Child> =
        (0..40).map(|stream| start_stream(mount.path(), stream, 100_000)).collect();
    let mut most = (0, 0);
    for _ in 0..20 {
        most = (most.0.max(outside()), most.1.max(mount.figure("held_bytes")));
        std::thread::sleep(Duration::from_millis(50));
    }
    finish(streams);
    most = (most.0.max(outside()), most.1.max(mount.figure("held_bytes")));
    assert!(most.0 < 64 << 10, "{} KiB outside the arena", most.0);
    assert!(most.1 <= 32 << 20, "{} bytes held", most.1);
    // The test's own descriptors are the limit, so several processes hold the files open.
    let script = "ulimit -n 20000 2>/dev/null || ulimit -n $(ulimit -Hn)
        exec python3 -c 'import sys
files = [open(\"many%s.%d\" % (sys.argv[1], n), \"w\") for n in range(2500)]
for f in files: f.write(\"x\" * 10); f.flush()
print(\"open\", flush=True); sys.stdin.read()' $0";
    let mut holders: Vec<Child> = (0..4)
        .map(|n| {
            Command::new("bash")
                .args(["-c", script, &n.to_string()])
                .current_dir(mount.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    mount.wait_for("10 000 open files", |status| status["open_files"].as_u64() >= Some(10_000));
    let many = outside();
    assert!(many < 128 << 10, "{many} KiB outside the arena");
    for holder in &mut holders {
        drop(holder.stdin.take());
        assert!(holder.wait().unwrap().success());
    }
    mount.umount_clean();
}

/// Goal: the worker is killed again and again under forty writing programs; none sees an error,
/// no byte is lost, the outputs are identical to what was written.
pub fn the_worker_dies_under_forty_programs() {
    const RECORDS: usize = 60_000;
    let mount = Mount::over(&["--memory", "16M", "--chunk", "256K"]);
    let streams: Vec<Child> =
        (0..40).map(|stream| start_stream(mount.path(), stream, RECORDS)).collect();
    let mut killed = 0;
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(150));
        let worker = mount.worker_pid();
        // SAFETY: the worker of this mount.
        unsafe { libc::kill(worker, libc::SIGKILL) };
        killed += 1;
        mount.wait_for("another worker", |status| status["worker_pid"] != worker);
    }
    finish(streams);
    assert_eq!(mount.figure("worker_restarts"), killed);
    let wrong = |stream: &usize| {
        fs::read(mount.path().join(format!("OUTPUT{stream}"))).unwrap() != records(*stream, RECORDS)
    };
    assert_eq!((0..40).filter(wrong).collect::<Vec<_>>(), [] as [usize; 0], "through the mount");
    mount.umount_clean();
    assert_eq!((0..40).filter(wrong).collect::<Vec<_>>(), [] as [usize; 0], "below");
}
