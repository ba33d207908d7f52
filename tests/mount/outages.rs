//! What keeps the backing files is another process, which hangs or cannot be reached for a while.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::errors::{close, command, errors};
use crate::faulty::Setup;
use crate::support::{SOON, records, succeed, text};

/// stat(2) of what is below, not of what the kernel remembers.
fn look(path: &Path) -> bool {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: writes one statx.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let (flags, mask) = (libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS);
        libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, &mut found) == 0
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// More programs than threads that read the kernel's requests.
const PROGRAMS: usize = 40;

/// Goal: one file whose writes hang, and at which nobody can look, holds up no other: new files are
/// made, written, synced, listed and looked at while forty programs hang for the first. `status`
/// says so, also by way of the hidden directory. Then everything goes on.
pub fn a_file_that_hangs_holds_up_no_others() {
    let mut setup = Setup::patient(&["--max-age", "200ms"]);
    let path = setup.mount.path().to_owned();
    fs::write(path.join("before"), records(3, 2000)).unwrap();
    fs::read_dir(path.join(".coalescefs")).unwrap();
    setup.disk.order("hang stuck");
    fs::write(path.join("stuck"), records(1, 2000)).unwrap();
    setup.mount.wait_for("a write to hang", |status| status["lanes"][0]["path"] == "stuck");
    let list = String::from_utf8(succeed(Command::new("ls").arg("-l").arg(&path)).stdout).unwrap();
    assert!(list.contains("stuck") && list.contains("before"), "{list}");
    setup.disk.order("freeze stuck");
    let look_at = |_| {
        let stuck = path.join("stuck");
        std::thread::spawn(move || look(&stuck))
    };
    let looking: Vec<_> = (0..PROGRAMS).map(look_at).collect();
    setup.mount.wait_for("looks to hang", |status| {
        status["hanging_requests"].as_u64() >= Some(PROGRAMS as u64)
    });
    let (tell, told) = std::sync::mpsc::channel();
    let others = path.clone();
    std::thread::spawn(move || {
        let other = File::create(others.join("other")).unwrap();
        other.write_all_at(&records(2, 2000), 0).unwrap();
        other.sync_all().unwrap();
        assert!(look(&others.join("before")) && look(&others.join("other")));
        assert!(fs::read(others.join("before")).unwrap() == records(3, 2000));
        tell.send(()).unwrap();
    });
    told.recv_timeout(SOON).expect("other files are not held up");
    assert!(setup.stored("other") == records(2, 2000));
    assert_eq!(looking.iter().filter(|thread| thread.is_finished()).count(), 0);
    let words = text(&command(&["status"], &path));
    assert!(words.contains("1 writes do not come back"), "{words}");
    assert!(words.contains("requests of programs wait for what is below"), "{words}");
    let metrics = fs::read_to_string(path.join(".coalescefs/metrics")).unwrap();
    let has = |name: &str, value: &str| {
        metrics.lines().any(|line| line.starts_with(name) && line.ends_with(value))
    };
    assert!(has("coalescefs_engine_late_writes{", " 1"), "{metrics}");
    assert!(has("coalescefs_engines_unreachable{", " 0"), "the others are answered: {metrics}");
    setup.disk.order("work");
    assert!(looking.into_iter().all(|thread| thread.join().unwrap()));
    setup.mount.umount_clean();
    assert!(setup.stored("stuck") == records(1, 2000));
}

/// Goal: an outage that passes is seen by no program: close says yes at once, fsync when it is over.
/// The user sees it in `status`, `doctor` and the metrics.
pub fn an_outage_that_passes_is_seen_by_no_program() {
    let mut setup = Setup::patient(&["--max-age", "200ms"]);
    let path = setup.mount.path().to_owned();
    let (file, other) = (setup.open("f"), setup.open("f"));
    setup.disk.order(&format!("write {}", libc::ENOTCONN));
    file.write_all_at(&records(1, 2000), 0).unwrap();
    let syncing = std::thread::spawn({
        let file = file.try_clone().unwrap();
        move || file.sync_all()
    });
    wait_until("the outage", || {
        text(&command(&["status"], &path)).contains("waits for the engine: ENOTCONN")
    });
    assert_eq!(close(other), None, "close in an outage");
    assert_eq!(close(File::create(path.join("new")).unwrap()), None);
    assert_eq!(errors(&setup.mount)[0]["failure"]["name"], "ENOTCONN");
    let doctor = command(&["doctor"], &path);
    assert_eq!(doctor.status.code(), Some(1), "{}", text(&doctor));
    assert!(text(&doctor).contains("waits for the engine (device "), "{}", text(&doctor));
    let metrics = fs::read_to_string(path.join(".coalescefs/metrics")).unwrap();
    let unreachable =
        metrics.lines().find(|line| line.starts_with("coalescefs_engines_unreachable{"));
    assert!(unreachable.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    assert!(!syncing.is_finished(), "fsync is to wait");
    setup.disk.order("work");
    syncing.join().unwrap().unwrap();
    assert_eq!(close(file), None, "close after it");
    wait_until("the end of it", || errors(&setup.mount).is_empty());
    setup.mount.umount_clean();
    assert!(setup.stored("f") == records(1, 2000));
}
