//! The keeper is killed, and the program is exchanged under a mount in use.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::support::{
    Mount, PROGRAM, SOON, is_mounted, is_running, processes_of, records, sh, succeed, text,
};

pub fn kill(pid: i32) {
    // SAFETY: a process of a mount of this test.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

pub fn number(status: &Value, name: &str) -> i32 {
    status[name].as_i64().unwrap() as i32
}

/// Kills the keeper and waits until a mount is held and served by two living processes again.
fn kill_keeper(mount: &Mount) -> Value {
    let keeper = mount.keeper_pid();
    kill(keeper);
    wait_for_another(mount, keeper)
}

fn wait_for_another(mount: &Mount, keeper: i32) -> Value {
    mount.wait_for("another keeper", |status| {
        let (now, worker) = (number(status, "keeper_pid"), number(status, "worker_pid"));
        now != keeper && worker != now && is_running(now) && is_running(worker)
    })
}

/// Goal: the keeper's death is answered with a new one, again and again, whichever of the two is
/// killed next; a program that writes, a file without a name, a directory being read and buffered
/// bytes notice nothing, and the mount ends in order.
pub fn the_keeper_is_killed_again_and_again() {
    let mount = Mount::over(&["--max-age", "1h"]);
    let mut writer = Writer::start(&mount.path().join("stream"));
    let mut unnamed = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path().join("unnamed"))
        .unwrap();
    unnamed.write_all(&records(1, 5000)).unwrap();
    fs::remove_file(mount.path().join("unnamed")).unwrap();
    fs::write(mount.path().join("buffered"), records(2, 5000)).unwrap();
    for round in 0..6 {
        if round % 3 == 2 {
            let worker = mount.worker_pid();
            kill(worker);
            mount.wait_for("another worker", |status| number(status, "worker_pid") != worker);
        } else {
            kill_keeper(&mount);
        }
        let mut found = Vec::new();
        unnamed.seek(SeekFrom::Start(0)).unwrap();
        unnamed.read_to_end(&mut found).unwrap();
        assert!(found == records(1, 5000), "round {round}: the unnamed file");
        // Removed by one worker, kept for all later ones.
        let late = format!("late{round}");
        sh(mount.path(), &format!("exec 3>{late}; rm {late}; echo x >&3; [ ! -e {late} ]"));
    }
    assert!(mount.figure("backlog_bytes") > 0);
    let written = writer.stop();
    drop(unnamed);
    assert_eq!(fs::read(mount.path().join("stream")).unwrap(), written);
    mount.umount_clean();
    assert_eq!(fs::read(mount.path().join("stream")).unwrap(), written);
    assert!(fs::read(mount.path().join("buffered")).unwrap() == records(2, 5000));
}

/// A program that appends records until it is told to stop.
pub struct Writer {
    process: Child,
}

impl Writer {
    pub fn start(to: &Path) -> Writer {
        let script = "import sys\nn = 0\nout = open(sys.argv[1], 'ab', buffering=0)\n\
            import select\nwhile not select.select([0], [], [], 0)[0]:\n \
            out.write(b'%09d\\n' % n)\n n += 1\nprint(n)\n";
        let process = Command::new("python3")
            .args(["-c", script])
            .arg(to)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Writer { process }
    }

    /// What it wrote.
    pub fn stop(&mut self) -> Vec<u8> {
        drop(self.process.stdin.take());
        let mut count = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut count).unwrap();
        assert!(self.process.wait().unwrap().success(), "the writer saw an error");
        let count: usize = count.trim().parse().unwrap();
        (0..count).flat_map(|n| format!("{n:09}\n").into_bytes()).collect()
    }
}

/// Goal: a keeper that was told to end the mount and is killed before it could is followed by one
/// that does. Method: a slow disk, so that draining has begun and not ended.
pub fn an_order_to_end_survives_the_keeper() {
    let mount = Mount::over(&["--max-age", "1h", "--drain-rate", "1M"]);
    fs::write(mount.path().join("f"), records(1, 300_000)).unwrap();
    let keeper = mount.keeper_pid();
    // SAFETY: the keeper of this mount.
    unsafe { libc::kill(keeper, libc::SIGTERM) };
    mount.wait_for("the drain", |status| number(status, "bytes_out") > 0);
    kill(keeper);
    wait_until("the end", || !is_mounted(mount.path()) && mount.processes().is_empty());
    assert!(fs::read(mount.path().join("f")).unwrap() == records(1, 300_000));
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

pub fn status_of(path: &Path) -> Value {
    let output = succeed(Command::new(PROGRAM).args(["status", "--json"]).arg(path));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether a keeper has told its starter that it succeeded: the pipe is closed then.
fn has_reported(keeper: i32) -> bool {
    let open = fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().flatten();
    let beyond_stderr = open.filter(|fd| fd.file_name() != "2");
    let mut targets = beyond_stderr.filter_map(|fd| fs::read_link(fd.path()).ok());
    !targets.any(|target| target.to_string_lossy().starts_with("pipe:"))
}

/// Goal: `--foreground` goes on when its keeper is killed, passes the end on to the new one, and
/// has its exit code.
pub fn a_foreground_mount_outlives_its_keeper() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["mount", "--foreground", "--max-age", "1h"])
        .arg(&out)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the mount", || is_mounted(&out));
    fs::write(out.join("f"), records(1, 1000)).unwrap();
    wait_until("the start to be reported", || has_reported(number(&status_of(&out), "keeper_pid")));
    for _ in 0..2 {
        let keeper = number(&status_of(&out), "keeper_pid");
        kill(keeper);
        wait_until("another keeper", || number(&status_of(&out), "keeper_pid") != keeper);
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended with its first keeper");
    // SAFETY: the child is ours and not reaped yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!is_mounted(&out) && processes_of(&out).is_empty());
    assert_eq!(fs::read(out.join("f")).unwrap(), records(1, 1000));
}

/// Goal: `run` survives the death of its keeper: the command goes on, everything is stored, and the
/// exit code is the command's. What the command leaves behind is reaped.
pub fn run_outlives_its_keeper() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    let script = r#"
        keeper=$("$0" status --json out | sed -n 's/.*"keeper_pid": \([0-9]*\).*/\1/p')
        (sh -c 'sleep 0.1' &)
        seq 1 1000 >out/numbers; kill -9 $keeper; seq 1001 5000 >>out/numbers
        until now=$("$0" status --json out | sed -n 's/.*"keeper_pid": \([0-9]*\).*/\1/p')
              [ "$now" != $keeper ]; do sleep 0.02; done
        cat out/numbers | wc -l; exit 7"#;
    let output = Command::new(PROGRAM)
        .args(["run", "--max-age", "1h", "--over", "out", "--", "sh", "-c", script, PROGRAM])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5000\n");
    let numbers = fs::read_to_string(dir.path().join("out/numbers")).unwrap();
    assert_eq!(numbers.lines().count(), 5000);
    assert!(processes_of(&dir.path().join("out")).is_empty());
}

/// Goal: an ordinary user's mount, made by fusermount3, survives its keeper and ends in order.
pub fn a_users_mount_in_a_namespace_outlives_its_keeper() {
    // As in `places`: a device node of the test's own, and a user whom the helper knows by name.
    let script = r#"
        program=$1; mount -t tmpfs t /mnt; cd /mnt; mknod fuse c 10 229; chmod 666 fuse
        mount --bind fuse /dev/fuse; cp "$program" coalescefs; chmod 755 . coalescefs
        mkdir out; chown 5:60 out
        cat >script <<'END'
        set -eu
        pid() { ./coalescefs status --json out | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p"; }
        ./coalescefs mount --max-age 1h out
        keeper=$(pid keeper_pid); seq 1 1000 >out/numbers
        kill -9 $keeper; seq 1001 2000 >>out/numbers
        until [ "$(pid keeper_pid)" != $keeper ]; do sleep 0.02; done
        kill -9 $(pid worker_pid); seq 2001 3000 >>out/numbers
        ./coalescefs upgrade out; seq 3001 4000 >>out/numbers
        ./coalescefs umount out; cat out/numbers | wc -l
END
        setpriv --reuid 5 --regid 60 --clear-groups sh script"#;
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", script, "sh", PROGRAM])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "4000\n", "{}", text(&output));
}

/// A copy of the program that other users can execute, and that is another file.
fn reachable_program(dir: &Path) -> PathBuf {
    let copy = dir.join("coalescefs");
    // By a process of its own: a descriptor open for writing in this one might be inherited by
    // a child of another test, and the copy be busy.
    succeed(Command::new("cp").arg(PROGRAM).arg(&copy));
    copy
}

/// Goal: `upgrade` puts the program it is run with in the place of keeper and worker, under
/// a writer, with a file without a name and bytes in memory; nothing is lost, and again afterwards.
pub fn upgrade_replaces_both_processes() {
    let mount = Mount::over(&["--max-age", "1h"]);
    let mut writer = Writer::start(&mount.path().join("stream"));
    let mut unnamed = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path().join("unnamed"))
        .unwrap();
    unnamed.write_all(&records(1, 5000)).unwrap();
    fs::remove_file(mount.path().join("unnamed")).unwrap();
    let copy = reachable_program(&mount.plain());
    for program in [copy.as_path(), Path::new(PROGRAM)] {
        succeed(Command::new(program).arg("upgrade").arg(mount.path()));
        for pid in [mount.keeper_pid(), mount.worker_pid()] {
            let runs = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            assert_eq!(runs, program.canonicalize().unwrap());
        }
        let mut found = Vec::new();
        unnamed.seek(SeekFrom::Start(0)).unwrap();
        unnamed.read_to_end(&mut found).unwrap();
        assert!(found == records(1, 5000), "the unnamed file");
    }
    drop(unnamed);
    let written = writer.stop();
    mount.umount_clean();
    assert_eq!(fs::read(mount.path().join("stream")).unwrap(), written);
}

/// Goal: a program of another layout, and one that is something else, are refused with the reason,
/// and the mount goes on as it was. Method: a copy of the program whose layout number is changed is
/// not to be had, so the request names scripts that answer a rehearsal as such a one would.
pub fn upgrade_to_another_layout_is_refused() {
    let mount = Mount::over(&["--max-age", "1h"]);
    fs::write(mount.path().join("f"), records(1, 1000)).unwrap();
    let (keeper, worker) = (mount.keeper_pid(), mount.worker_pid());
    let plain = mount.plain();
    let script = |name: &str, text: &str| {
        let path = plain.join(name);
        fs::write(&path, text).unwrap();
        sh(&plain, &format!("chmod +x {name}"));
        path
    };
    let other = script("other", "#!/bin/sh\necho 'layout 99: unmount and mount again'; exit 1\n");
    let nothing = script("nothing", "#!/bin/sh\nexit 2\n");
    for (program, words) in
        [(&other, "layout 99: unmount"), (&nothing, "cannot take over"), (&plain, "cannot start")]
    {
        let said = ask(&mount, &format!("{{\"request\":\"upgrade\",\"program\":{program:?}}}"));
        assert!(said.contains("failed") && said.contains(words), "{said}");
    }
    assert_eq!((mount.keeper_pid(), mount.worker_pid()), (keeper, worker));
    mount.umount_clean();
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), records(1, 1000));
}

/// Goal: an arena that a keeper could not understand is not followed: the worker goes on serving
/// without a keeper, says why, tries again, and succeeds once it can; `upgrade` refuses it before
/// anything is changed. Method: another layout number in its header.
pub fn a_keeper_that_cannot_start_is_tried_again() {
    let mount = Mount::over(&["--max-age", "1h"]);
    fs::write(mount.path().join("f"), records(1, 1000)).unwrap();
    let (keeper, worker) = (mount.keeper_pid(), mount.worker_pid());
    let arena = arena_of(worker);
    let mut layout = [0; 4];
    arena.read_exact_at(&mut layout, 8).unwrap();
    arena.write_all_at(&99u32.to_ne_bytes(), 8).unwrap();
    let refused = Command::new(PROGRAM).arg("upgrade").arg(mount.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let words = text(&refused);
    assert!(words.contains("layout 99") && words.contains("unmount and mount again"), "{words}");
    assert_eq!((mount.keeper_pid(), mount.worker_pid()), (keeper, worker));
    kill(keeper);
    let log = || fs::read_to_string(mount.log_path()).unwrap();
    wait_until("two tries", || log().matches("cannot become the keeper").count() >= 2);
    assert!(log().contains("layout 99"), "{}", log());
    assert_eq!(mount.worker_pid(), worker);
    fs::write(mount.path().join("g"), records(2, 1000)).unwrap();
    arena.write_all_at(&layout, 8).unwrap();
    wait_for_another(&mount, keeper);
    mount.umount_clean();
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), records(1, 1000));
    assert_eq!(fs::read(mount.path().join("g")).unwrap(), records(2, 1000));
}

fn kill_both(mount: &Mount) {
    kill_at_once([mount.keeper_pid(), mount.worker_pid()]);
    wait_until("both to end", || mount.processes().is_empty());
}

/// Kills both processes so that neither can take the other's place.
pub fn kill_at_once(pids: [i32; 2]) {
    for signal in [libc::SIGSTOP, libc::SIGKILL] {
        for pid in pids {
            // SAFETY: a process of this mount.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

/// A command of the program that must not hang.
fn say(mount: &Mount, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    let output = command.arg("30").arg(PROGRAM).args(words).arg(mount.path()).output().unwrap();
    (output.status.code(), text(&output))
}

/// Goal: both processes killed leave a mount that `status` calls dead, that `umount` clears saying
/// that data is lost, and that `mount` replaces.
pub fn a_dead_mount_is_named_and_cleared() {
    let mount = Mount::over(&["--max-age", "1h"]);
    fs::write(mount.path().join("f"), records(1, 1000)).unwrap();
    let _in_use = File::open(mount.path().join("f")).unwrap();
    kill_both(&mount);
    let (code, words) = say(&mount, &["status"]);
    assert!(code == Some(1) && words.contains("is gone"), "{words}");
    let (code, words) = say(&mount, &["umount"]);
    assert!(code == Some(75) && words.contains("is lost"), "{words}");
    assert!(!is_mounted(mount.path()));
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 1, "what is below is not seen");

    assert_eq!(say(&mount, &["mount"]).0, Some(0));
    kill_both(&mount);
    let (code, words) = say(&mount, &["mount"]);
    assert!(code == Some(0) && words.contains("it is cleared"), "{words}");
    fs::write(mount.path().join("g"), records(1, 1000)).unwrap();
    mount.umount_clean();
    assert_eq!(fs::read(mount.path().join("g")).unwrap(), records(1, 1000));
}

/// The memory that keeper and worker share.
fn arena_of(pid: i32) -> File {
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|fd| fd.path());
    let is_arena = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("coalescefs-arena"))
    };
    File::options().read(true).write(true).open(open.find(is_arena).unwrap()).unwrap()
}

/// One line over the control socket, and the answer.
fn ask(mount: &Mount, line: &str) -> String {
    use std::io::{BufRead, BufReader};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let device = fs::metadata(mount.path()).unwrap().dev();
    let name = format!("coalescefs-{}-{}", libc::major(device), libc::minor(device));
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let mut stream = UnixStream::connect_addr(&address).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}
