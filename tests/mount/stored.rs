//! Keeper and worker are killed at once, and a service manager that kept their descriptors starts
//! the program again. The manager is a stand-in (`manager.py`), with its interface as documented.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::keepers::{Writer, kill, kill_at_once, number, status_of, wait_until};
use crate::support::{PROGRAM, SOON, is_mounted, processes_of, records, text};

/// What the store holds of a mount.
const NAMES: [&str; 7] = [
    "coalescefs-fuse",
    "coalescefs-backing",
    "coalescefs-listener",
    "coalescefs-lock",
    "coalescefs-arena",
    "coalescefs-nodes",
    "coalescefs-estate",
];

/// A mount that is a service. Dropped, it leaves nothing behind.
pub struct Service {
    dir: tempfile::TempDir,
    manager: Child,
    said: Receiver<String>,
}

impl Service {
    /// `name` makes the manager's address from the test's directory.
    fn start(name: impl Fn(&Path) -> String) -> Service {
        Service::start_with(name, &[], &["--max-age", "1h"])
    }

    /// As [`Service::start`], with variables for the manager, and options of `mount`.
    pub fn start_with(
        name: impl Fn(&Path) -> String,
        variables: &[(&str, &str)],
        options: &[&str],
    ) -> Service {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mount/manager.py");
        let mut manager = Command::new("python3")
            .arg(script)
            .args([&name(dir.path()), PROGRAM, "mount", "--foreground"])
            .args(options)
            .arg(&out)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, said) = channel();
        let lines = BufReader::new(manager.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|l| drop(tell.send(l))));
        Service { dir, manager, said }
    }

    pub fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    #[track_caller]
    fn expect(&self, line: &str) {
        assert_eq!(self.said.recv_timeout(SOON).as_deref(), Ok(line));
    }

    /// A line that begins so comes, after whatever others.
    #[track_caller]
    pub fn expect_soon(&self, beginning: &str) {
        let mut others: Vec<String> = Vec::new();
        while !others.last().is_some_and(|other| other.starts_with(beginning)) {
            let Ok(next) = self.said.recv_timeout(SOON) else {
                panic!("no '{beginning}' after {others:?}")
            };
            others.push(next);
        }
    }

    /// Tells the manager to stop the service.
    pub fn terminate(&self) {
        // SAFETY: the manager is ours and not reaped yet; it passes the signal on.
        unsafe { libc::kill(self.manager.id() as i32, libc::SIGTERM) };
    }

    pub fn pids(&self) -> [i32; 2] {
        let status = status_of(&self.out());
        [number(&status, "keeper_pid"), number(&status, "worker_pid")]
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The program is killed with its manager, and ends its keeper.
        let _ = (self.manager.kill(), self.manager.wait());
        for _ in 0..2 {
            processes_of(&self.out()).into_iter().for_each(kill);
        }
        if is_mounted(&self.out()) {
            let _ = Command::new("umount").arg("-l").arg(self.out()).status();
        }
    }
}

/// Goal: with all of its processes killed in one moment, again and again, a service goes on: a
/// writer sees no error, nothing acknowledged is lost, the end is in order and the store empty. Also
/// when a worker had become the keeper before. Of all files only those without a name are gone, and
/// say so. Both forms of the manager's address.
pub fn both_processes_are_killed_and_the_mount_goes_on() {
    goes_on(&|dir| dir.join("notify").to_str().unwrap().to_owned());
    goes_on(&|dir| format!("@coalescefs-test{}", dir.display()));
}

fn goes_on(address: &dyn Fn(&Path) -> String) {
    let service = Service::start(address);
    let out = service.out();
    service.expect("ready 7");
    let mut writer = Writer::start(&out.join("stream"));
    fs::write(out.join("buffered"), records(2, 5000)).unwrap();
    let mut unnamed = File::options().write(true).create_new(true).open(out.join("gone")).unwrap();
    unnamed.write_all(&records(1, 5000)).unwrap();
    fs::remove_file(out.join("gone")).unwrap();
    for round in 0..3 {
        if round == 1 {
            let [keeper, _] = service.pids();
            kill(keeper);
            wait_until("another keeper", || service.pids()[0] != keeper);
            service.expect("ready 7");
        }
        kill_at_once(service.pids());
        service.expect("ended 75 7");
        service.expect("ready 7");
        assert!(fs::read(out.join("buffered")).unwrap() == records(2, 5000), "round {round}");
        // It gets the inode number of the file that is lost, and none of its bytes.
        fs::write(out.join(format!("new{round}")), records(round, 100)).unwrap();
        let _ = unnamed.write_all_at(b"of another file", 0).and_then(|()| unnamed.sync_all());
    }
    assert!(number(&status_of(&out), "backlog_bytes") > 0);
    assert!(unnamed.sync_all().is_err(), "a file that is lost says nothing");
    drop(unnamed);
    let written = writer.stop();
    assert!(fs::read(out.join("stream")).unwrap() == written);
    service.terminate();
    service.expect("ended 0 0");
    assert!(!is_mounted(&out) && processes_of(&out).is_empty());
    assert!(fs::read(out.join("stream")).unwrap() == written);
    assert!(fs::read(out.join("buffered")).unwrap() == records(2, 5000));
    for round in 0..3 {
        let new = fs::read(out.join(format!("new{round}"))).unwrap();
        assert!(new == records(round, 100), "round {round}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 5);
}

/// What a store might pass, in the order of [`NAMES`].
fn passed(out: &Path, estate: &Value) -> Vec<OwnedFd> {
    let listener = || UnixListener::bind(tempfile::tempdir().unwrap().path().join("s")).unwrap();
    let fuse = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let mut description = tempfile::tempfile().unwrap();
    description.write_all(estate.to_string().as_bytes()).unwrap();
    vec![
        fuse.into(),
        File::open(out).unwrap().into(),
        listener().into(),
        listener().into(),
        sealed_memory(),
        sealed_memory(),
        description.into(),
    ]
}

fn sealed_memory() -> OwnedFd {
    // SAFETY: a C string; the descriptor is fresh; sealing changes no byte.
    unsafe {
        let fd = libc::memfd_create(c"memory".as_ptr(), libc::MFD_ALLOW_SEALING);
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// A description of a mount over `out`, which need not be there.
fn estate(out: &Path, device: (u32, u32)) -> Value {
    json!({
        "config": {
            "backing": out, "mountpoint": out, "memory_bytes": 64 << 20, "chunk_bytes": 1 << 20,
            "max_age_ms": 30_000, "lanes": 1, "writeback_cache": true, "drain_rate": null,
            "allow_other": false,
        },
        "place": {
            "mountpoint": out, "device": { "major": device.0, "minor": device.1 },
            "method": "Syscall",
        },
        "descriptors": {
            "fuse": 3, "backing": 4, "listener": 5, "lock": 6, "arena": 7, "nodes": 8,
        },
        "starter": null,
    })
}

/// A foreground mount that is passed these, for a few seconds at most.
fn mount_with(out: &Path, names: &[&str], fds: &[OwnedFd]) -> Output {
    // Out of the way of the numbers that they are to have.
    let high: Vec<i32> = fds.iter().map(|fd| duplicate(fd, 300)).collect();
    let to_pass = high.clone();
    let script = "LISTEN_PID=$$ exec timeout --foreground -s TERM 5 sh -c \
                  'LISTEN_PID=$$ exec \"$0\" mount --foreground \"$1\"' \"$0\" \"$1\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, PROGRAM])
        .arg(out)
        .env("LISTEN_FDS", fds.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .env("NOTIFY_SOCKET", out.with_file_name("notify"));
    let place = move || {
        for (fd, number) in to_pass.iter().zip(3..) {
            // SAFETY: numbers of descriptors, between fork and exec.
            unsafe { libc::dup2(*fd, number) };
        }
        Ok(())
    };
    // SAFETY: only system calls.
    unsafe { command.pre_exec(place) };
    let output = command.output().unwrap();
    // SAFETY: made above.
    high.into_iter().for_each(|fd| unsafe { drop(OwnedFd::from_raw_fd(fd)) });
    output
}

fn duplicate(fd: &OwnedFd, from: i32) -> i32 {
    // SAFETY: makes a descriptor.
    let high = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
    assert!(high >= from);
    high
}

/// Goal: descriptors that are not what their names say are refused in one line that tells what to
/// do, and never followed; nothing is mounted or waited for.
pub fn what_is_passed_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().canonicalize().unwrap().join("out");
    fs::create_dir(&out).unwrap();
    let estate = estate(&out, (0, 1 << 20));
    let fifo = || -> OwnedFd {
        let (read, _) = std::io::pipe().unwrap();
        read.into()
    };
    let null = || -> OwnedFd { File::open("/dev/null").unwrap().into() };
    let plain = || -> OwnedFd { tempfile::tempfile().unwrap().into() };
    let wrong: [(usize, OwnedFd, &str); 8] = [
        (0, null(), "fuse is something else"),
        (0, plain(), "fuse is something else"),
        (1, plain(), "backing is something else"),
        (3, null(), "lock is something else"),
        (4, plain(), "arena is something else"),
        (5, fifo(), "nodes is something else"),
        (6, fifo(), "estate is no description"),
        (6, sealed_memory(), "estate EOF while parsing"),
    ];
    for (at, instead, words) in wrong {
        let mut fds = passed(&out, &estate);
        fds[at] = instead;
        let output = mount_with(&out, &NAMES, &fds);
        assert_refused(&output, &out, words);
    }
    let fds = passed(&out, &estate);
    let output = mount_with(&out, &NAMES[1..], &fds[1..]);
    assert_refused(&output, &out, "coalescefs-fuse is missing");
}

#[track_caller]
fn assert_refused(output: &Output, out: &Path, words: &str) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{words}: {said}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{said}");
    assert!(said.contains(words) && said.contains("start it again"), "{said}");
    assert!(!is_mounted(out) && processes_of(out).is_empty(), "{said}");
}

/// Goal: a store that outlived its mount does not stand in the way, and is told to let go.
pub fn what_is_left_of_a_mount_that_is_gone_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().canonicalize().unwrap().join("out");
    fs::create_dir(&out).unwrap();
    let fds = passed(&out, &estate(&out, (0, 1 << 20)));
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let output = mount_with(&out, &NAMES, &fds);
    let mut said = [0; 200];
    let length = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"FDSTOREREMOVE=1\nFDNAME=coalescefs-estate");
    // It was mounted anew, and served until its time was up.
    assert_eq!(output.status.code(), Some(124), "{}", text(&output));
    wait_until("the end", || !is_mounted(&out) && processes_of(&out).is_empty());
}
