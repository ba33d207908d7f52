//! Workers killed at named points of their work, and requests that kill.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Duration;

use coalescefs::killpoint::{Point, VARIABLE};

use crate::support::{Mount, PROGRAM, sh, text};

const LOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mount/points.py");

/// Why the points are not there.
pub fn cannot_kill() -> Option<String> {
    (!cfg!(debug_assertions)).then(|| "a build without debug assertions has no kill points".into())
}

/// Every name with size, time and contents.
const LIST: &str = "find . -type f -printf '%p %s %T@\\n' | sort; md5sum * | sort";

/// Goal: wherever in a write, a drain, a truncation, a rename, a create or an unlink a worker is
/// killed, twice in a row, the programs see no error, and the tree is the one of a plain directory,
/// through the mount and after umount.
pub fn a_worker_dies_at_every_point() {
    let general = [Point::RequestBegun, Point::MkdirBegun];
    let points = Point::ALL.into_iter().filter(|point| !general.contains(point));
    for (number, point) in points.enumerate() {
        dies_at(&format!("{point:?},2,{}", 1 + number % 4));
    }
}

fn dies_at(point: &str) {
    let options = ["--memory", "4M", "--chunk", "256K", "--max-age", "20ms"];
    let mount = Mount::over_with_variable(VARIABLE, point, &options);
    let plain = mount.plain();
    for directory in [mount.path(), &plain] {
        let mut load = Command::new("timeout");
        let output = load.args(["60", "python3", LOAD]).arg(directory).output().unwrap();
        assert!(output.status.success(), "{point}: {}", text(&output));
    }
    assert_eq!(mount.figure("worker_restarts"), 2, "{point} was not passed");
    let wanted = sh(&plain, LIST);
    assert_eq!(sh(mount.path(), LIST), wanted, "{point}, through the mount");
    mount.umount_clean();
    assert_eq!(sh(mount.path(), LIST), wanted, "{point}, below");
}

/// A command that is given up after a while.
fn bounded(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("60").args(words).current_dir(directory).env("LC_ALL", "C").output().unwrap()
}

/// Programs that are busy with files of their own until they are told to stop.
fn busy_programs(mount: &Mount) -> Vec<Child> {
    let busy = "i=0; while [ ! -e ../stop ]; do
        i=$((i + 1)); echo $i >>log$0; echo $i >f$0; mv f$0 g$0; cat g$0 >/dev/null; rm g$0; done
        seq $i | cmp - log$0";
    let start = |number: u32| {
        let mut command = Command::new("timeout");
        command.args(["60", "bash", "-euc", busy, &number.to_string()]);
        command.current_dir(mount.path()).spawn().unwrap()
    };
    (0..4).map(start).collect()
}

/// How many of them saw an error.
fn end_busy_programs(mount: &Mount, programs: Vec<Child>) -> usize {
    fs::write(mount.path().parent().unwrap().join("stop"), "").unwrap();
    programs.into_iter().filter_map(|mut one| one.wait().ok()).filter(|end| !end.success()).count()
}

/// Goal: a request that kills every worker is answered EIO after three, the log says what it was,
/// and whoever else is busy meanwhile sees no error. Then the next one of its kind, and the mount
/// lives on.
pub fn a_request_that_kills_is_refused() {
    let point = format!("{:?},1000000,1", Point::MkdirBegun);
    let mount = Mount::over_with_variable(VARIABLE, &point, &[]);
    let others = busy_programs(&mount);
    for round in 1..=2 {
        let refused = bounded(mount.path(), &["mkdir", "deadly"]);
        assert!(text(&refused).contains("Input/output error"), "{}", text(&refused));
        assert_eq!(mount.figure("worker_restarts"), 3 * round);
    }
    let refused = end_busy_programs(&mount, others);
    assert_eq!(refused, 0, "another program saw an error");
    let log = fs::read_to_string(mount.log_path()).unwrap();
    let lines = log.lines().filter(|line| line.contains("answered EIO: mkdir of node"));
    assert_eq!(lines.filter(|line| line.contains("name=\"deadly\"")).count(), 2, "{log}");
    mount.umount_clean();
}

/// Goal: the same of a request whose second half, on another thread, is what kills.
pub fn a_sync_that_kills_is_refused() {
    let point = format!("{:?},1000000,1", Point::SyncBegun);
    let mount = Mount::over_with_variable(VARIABLE, &point, &["--max-age", "50ms"]);
    let others = busy_programs(&mount);
    for round in 1..=2 {
        let refused =
            bounded(mount.path(), &["dd", "if=/dev/zero", "of=f", "count=9", "conv=fsync"]);
        assert!(text(&refused).contains("Input/output error"), "{}", text(&refused));
        assert_eq!(mount.figure("worker_restarts"), 3 * round);
    }
    assert_eq!(end_busy_programs(&mount, others), 0, "another program saw an error");
    let log = fs::read_to_string(mount.log_path()).unwrap();
    assert_eq!(log.matches("answered EIO: fsync of node").count(), 2, "{log}");
    mount.umount_clean();
}

/// Goal: a file that kills who writes it to the disk fails with EIO after three workers; its bytes
/// are kept, and everything else goes on.
pub fn a_file_that_kills_is_left_alone() {
    let point = format!("{:?},3,1", Point::DrainTaken);
    let mount = Mount::over_with_variable(VARIABLE, &point, &["--max-age", "1h"]);
    let write = |name: &str, text: &str| {
        let mut file = fs::File::create(mount.path().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().map_err(|error| error.raw_os_error())
    };
    assert_eq!(write("deadly", "kept"), Err(Some(libc::EIO)));
    assert_eq!(mount.figure("worker_restarts"), 3);
    assert_eq!(write("other", "stored"), Ok(()));
    assert_eq!(fs::read_to_string(mount.path().join("deadly")).unwrap(), "kept");
    let log = fs::read_to_string(mount.log_path()).unwrap();
    assert_eq!(log.matches("workers died of writing deadly").count(), 1, "{log}");
    let errors = mount.status()["errors"].clone();
    assert_eq!((errors.as_array().unwrap().len(), &errors[0]["path"]), (1, &"deadly".into()));

    let kept = mount.umount();
    assert_eq!(kept.status.code(), Some(75), "{}", text(&kept));
    assert_eq!(mount.figure("worker_restarts"), 3);
    let mut discard = Command::new(PROGRAM);
    let ended = discard.args(["umount", "--discard"]).arg(mount.path()).output().unwrap();
    assert_eq!(ended.status.code(), Some(75), "{}", text(&ended));
    assert_eq!(fs::read_to_string(mount.path().join("other")).unwrap(), "stored");
    assert_eq!(fs::read_to_string(mount.path().join("deadly")).unwrap(), "");
}

/// Goal: nobody is blamed for what he is not guilty of. Method: a worker dies at every hundredth
/// request, whichever it is; programs see no error.
pub fn no_innocent_request_is_refused() {
    let point = format!("{:?},30,100", Point::RequestBegun);
    let mount = Mount::over_with_variable(VARIABLE, &point, &["--max-age", "50ms"]);
    let busy = "for i in $(seq 150); do
        echo $i >f$0; mv f$0 g$0; mkdir d$0; rmdir d$0; cat g$0 >/dev/null; rm g$0; done";
    let programs: Vec<_> = (0..4)
        .map(|n| {
            let mut command = Command::new("timeout");
            command.args(["120", "bash", "-euc", busy, &n.to_string()]);
            command.current_dir(mount.path()).spawn().unwrap()
        })
        .collect();
    for mut program in programs {
        assert!(program.wait().unwrap().success(), "a program saw an error");
    }
    assert_eq!(mount.figure("worker_restarts"), 30);
    mount.umount_clean();
}

/// Goal: while a worker is stopped programs wait, and go on when it does. `COALESCEFS_STOP_SECONDS`
/// says for how long.
pub fn a_stopped_worker_is_waited_for() {
    let seconds = std::env::var("COALESCEFS_STOP_SECONDS").ok().and_then(|text| text.parse().ok());
    let mount = Mount::over(&["--max-age", "100ms"]);
    let worker = mount.worker_pid();
    let signal = |signal| {
        // SAFETY: the worker of this mount.
        unsafe { libc::kill(worker, signal) };
    };
    signal(libc::SIGSTOP);
    let script = "seq 100000 >numbers; mv numbers moved; [ $(wc -l <moved) = 100000 ]";
    let mut program = Command::new("bash");
    let mut program = program.args(["-euc", script]).current_dir(mount.path()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(seconds.unwrap_or(1)));
    assert!(program.try_wait().unwrap().is_none(), "it did not wait");
    signal(libc::SIGCONT);
    assert!(program.wait().unwrap().success());
    assert_eq!(mount.worker_pid(), worker);
    mount.umount_clean();
}
