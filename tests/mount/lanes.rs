//! Lanes: a disk that hangs holds nobody else's files up.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::faulty::Faulty;
use crate::keepers::wait_until;
use crate::support::{PROGRAM, processes_of};

/// A `run` with all that it starts, which does not outlive its test.
struct Run {
    child: Child,
    mountpoints: Vec<PathBuf>,
}

impl Drop for Run {
    fn drop(&mut self) {
        let group = -(self.child.id() as i32);
        let signal = |pid: i32, signal: i32| {
            // SAFETY: processes that this test has started.
            unsafe { libc::kill(pid, signal) };
        };
        if std::thread::panicking() {
            signal(group, libc::SIGKILL);
            for number in [libc::SIGSTOP, libc::SIGKILL, libc::SIGKILL] {
                let pids = self.mountpoints.iter().flat_map(|path| processes_of(path));
                pids.for_each(|pid| signal(pid, number));
            }
        }
    }
}

/// With the program, and the mount that covers the disk that hangs.
const SCRIPT: &str = r#"
for disk in slow fast; do echo $disk >data/$disk/OUT; done
"$0" drain data/slow/OUT &
until "$0" status --json "$1" | grep -q '"path": ".*OUT"'; do sleep 0.05; done
"$0" drain data/fast/OUT
touch drained
wait $!"#;

fn start(dir: &Path, glob: &str, over_slow: &str) -> Run {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--max-age", "1h", "--redirect", glob]);
    // What is closed need not be stored.
    command.args(["--consistency", "exclusive", "--", "bash", "-euc", SCRIPT]);
    let child = command.arg(PROGRAM).arg(over_slow).current_dir(dir).process_group(0).spawn();
    let mountpoints = ["data", "data/slow", "data/fast"].map(|name| dir.join(name)).to_vec();
    Run { child: child.unwrap(), mountpoints }
}

/// Goal: files of one disk are stored while another disk hangs in a write, in one mount over both as
/// in a mount for each.
pub fn run_gives_each_disk_a_lane() {
    for (glob, over_slow) in [("data/**/OUT", "data"), ("data/{slow,fast}/OUT", "data/slow")] {
        let holder = tempfile::tempdir().unwrap();
        let dir = holder.path().canonicalize().unwrap();
        for name in ["data/slow", "data/fast"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let mut disk = Faulty::at(&dir.join("data/slow"));
        disk.order("hang");
        let mut run = start(&dir, glob, over_slow);
        wait_until("the other disk's file to be stored", || {
            assert_eq!(run.child.try_wait().unwrap(), None, "{glob}");
            dir.join("drained").exists()
        });
        let fast = || fs::read_to_string(dir.join("data/fast/OUT")).unwrap();
        assert_eq!(fast(), "fast\n", "{glob}");
        assert_eq!(fs::read_to_string(disk.store().join("OUT")).unwrap(), "", "{glob}");
        disk.order("work");
        assert!(run.child.wait().unwrap().success(), "{glob}");
        assert_eq!(fs::read_to_string(disk.store().join("OUT")).unwrap(), "slow\n", "{glob}");
    }
}
