//! What `coalescefs drain` promises: when it returns, with what, and what it leaves alone.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::disk::Disk;
use crate::faulty::Setup;
use crate::keepers::wait_until;
use crate::support::{Mount, PROGRAM, records, succeed, text};

const HELD: &[&str] = &["--max-age", "1h"];
/// More than are answered at the same time.
const CLIENTS: usize = 20;

fn drain(path: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("drain").arg(path);
    command
}

/// With SIGINT as a terminal's shell leaves it: what runs in the background of a script ignores it, and
/// so do its children.
fn with_interrupts(command: &mut Command) -> &mut Command {
    let reset = || {
        // SAFETY: may be called between fork and exec; no handler is installed.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: `reset` allocates nothing and takes no lock.
    unsafe { command.pre_exec(reset) }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn wait(&mut self, what: &str) -> ExitStatus {
        wait_until(what, || self.has_ended());
        self.0.wait().unwrap()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Who waits in the kernel goes with the mount, which is dropped later: not waited for.
        let _ = self.0.kill();
    }
}

/// A file as an argument, and its whole mount.
fn both_ways(mount: &Mount, name: &str) -> [PathBuf; 2] {
    [mount.path().join(name), mount.path().to_path_buf()]
}

/// Goal: one file by its name, and then all others; the mount goes on. What is no such mount is
/// refused.
pub fn one_file_or_all() {
    let mount = Mount::beside(HELD);
    for name in ["a", "b"] {
        fs::write(mount.path().join(name), records(1, 20_000)).unwrap();
    }
    succeed(&mut drain(&mount.path().join("a")));
    assert_eq!(fs::read(mount.backing().join("a")).unwrap(), records(1, 20_000));
    assert_eq!(fs::read(mount.backing().join("b")).unwrap_or_default().len(), 0);
    // Any directory is its mount.
    fs::create_dir(mount.path().join("dir")).unwrap();
    succeed(&mut drain(&mount.path().join("dir")));
    assert_eq!(fs::read(mount.backing().join("b")).unwrap(), records(1, 20_000));
    succeed(&mut drain(&mount.path().join("a")));
    for (path, words) in [
        (mount.backing().to_path_buf(), "is not on a coalescefs mount"),
        (mount.path().join("none"), "No such file or directory"),
    ] {
        let refused = drain(&path).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused).contains(words), "{}", text(&refused));
    }
    let usage = drain(mount.path()).arg("more").output().unwrap();
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage));
    mount.umount_clean();
}

/// Goal: bytes that a program with an open file has only given to the kernel are stored, too. Method:
/// a shell that closes nothing afterwards, since each close hands over what was written.
pub fn what_the_kernel_holds_is_stored() {
    let mount = Mount::beside(HELD);
    let bytes = records(1, 1000);
    for (name, path) in ["a", "b"].into_iter().zip(both_ways(&mount, "a")) {
        let file = mount.path().join(name);
        let mut writer = Command::new("sh");
        writer.args(["-c", "exec >\"$0\"; printf %s \"$1\"; read -r _"]).arg(&file);
        writer.arg(std::str::from_utf8(&bytes).unwrap()).stdin(Stdio::piped());
        let mut writer = Running::start(&mut writer);
        wait_until("the writes", || {
            fs::metadata(&file).is_ok_and(|meta| meta.len() == bytes.len() as u64)
        });
        succeed(&mut drain(&path));
        let below = fs::read(mount.backing().join(name)).unwrap();
        assert!(below == bytes, "{name}: {} bytes", below.len());
        drop(writer.0.stdin.take());
        writer.wait("the writer to end");
    }
    mount.umount_clean();
}

/// Goal: it waits for as long as the disk hangs, and ends when that works. Ctrl-C ends the waiting
/// and nothing else: however many did so, the daemon answers, and the next drain finds all.
pub fn a_disk_that_hangs_is_waited_for() {
    let mut setup = Setup::new(HELD);
    let names = ["a", "b"];
    for (name, path) in names.into_iter().zip(both_ways(&setup.mount, "a")) {
        setup.disk.order("hang");
        setup.open(name).write_all_at(&records(1, 1000), 0).unwrap();
        let mut waiting = Running::start(&mut drain(&path));
        setup.mount.wait_for("a lane to hang", |status| {
            status["lanes"][0]["for_ms"].as_u64() >= Some(1000)
        });
        assert!(!waiting.has_ended(), "{name}: it does not wait");
        assert_eq!(setup.stored(name), b"", "{name}");
        for _ in 0..CLIENTS {
            let mut impatient = Running::start(with_interrupts(&mut drain(&path)));
            std::thread::sleep(Duration::from_millis(20));
            impatient.signal(libc::SIGINT);
            assert_eq!(impatient.wait("an interrupted drain to end").signal(), Some(libc::SIGINT));
        }
        assert!(setup.mount.figure("backlog_bytes") > 0);
        setup.disk.order("work");
        assert!(waiting.wait("the drain to end").success());
        assert!(setup.stored(name) == records(1, 1000), "{name}");
    }
    setup.mount.umount_clean();
}

/// Goal: a file that is written all the time, faster than the disk takes it, is drained up to what
/// was there, by itself and with all others.
pub fn what_comes_later_is_not_waited_for() {
    let options = ["--max-age", "1h", "--memory", "16M", "--chunk", "1M", "--drain-rate", "4M"];
    let mount = Mount::beside(&options);
    let mut busy = Command::new("dd");
    busy.args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}/busy", mount.path().display()));
    let mut busy = Running::start(&mut busy);
    for path in both_ways(&mount, "busy") {
        mount.wait_for("more than the disk takes", |status| {
            status["backlog_bytes"].as_u64() > Some(4 << 20)
        });
        let mut draining = Running::start(&mut drain(&path));
        assert!(draining.wait("the drain of a busy file to end").success());
        assert!(!busy.has_ended());
    }
    busy.signal(libc::SIGKILL);
    busy.wait("the writer to end");
    mount.umount_clean();
}

/// Goal: what is not stored is said, with 75 and the list; a file with which all is well is not
/// concerned; when the disk works, all is well.
pub fn what_the_disk_refuses_is_listed() {
    let mut setup = Setup::new(HELD);
    fs::write(setup.mount.path().join("good"), "good").unwrap();
    succeed(&mut drain(&setup.mount.path().join("good")));
    fs::write(setup.mount.path().join("bad"), records(1, 1000)).unwrap();
    setup.disk.order(&format!("write {}", libc::EIO));
    for path in both_ways(&setup.mount, "bad") {
        let refused = drain(&path).output().unwrap();
        assert_eq!(refused.status.code(), Some(75), "{}", text(&refused));
        let words = text(&refused);
        assert!(words.contains("bad: 9.77 KiB at 0+10000: EIO"), "{words}");
        assert!(!words.contains("good"), "{words}");
    }
    succeed(&mut drain(&setup.mount.path().join("good")));
    setup.disk.order("work");
    for path in both_ways(&setup.mount, "bad") {
        succeed(&mut drain(&path));
        assert!(setup.stored("bad") == records(1, 1000));
    }
    setup.mount.umount_clean();
}

/// Goal: what is drained is on stable storage, also what had been stored before and not synced, also
/// with `--fsync lazy`: a file by its name, and with a mount its names and directories, too.
pub fn the_power_may_go_afterwards() {
    for disk in Disk::each() {
        for is_one_file in [true, false] {
            let options = ["--max-age", "100ms", "--fsync", "lazy"];
            let mount = Mount::over_in(disk.image.path(), &options);
            let dir = mount.backing().to_path_buf();
            let bytes = records(1, 20_000);
            fs::write(dir.join("f"), &bytes).unwrap();
            mount.wait_for("the bytes to be stored", |status| status["backlog_bytes"] == 0);
            if is_one_file {
                succeed(&mut drain(&dir.join("f")));
            } else {
                fs::create_dir(dir.join("dir")).unwrap();
                fs::write(dir.join("dir/empty"), "").unwrap();
                succeed(&mut drain(&dir));
            }
            disk.cut_power();
            drop(mount);
            disk.power_up();
            let kind = disk.image.kind();
            let kept = fs::read(dir.join("f")).unwrap_or_default();
            assert!(kept == bytes, "{kind}: {} bytes are left", kept.len());
            assert!(is_one_file || dir.join("dir/empty").exists(), "{kind}: names are lost");
        }
    }
}
