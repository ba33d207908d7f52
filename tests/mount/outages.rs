//! What keeps the backing files is another process, which hangs or cannot be reached for a while.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::errors::{close, command, errors};
use crate::faulty::{Faulty, Setup};
use crate::support::deeds::{self, DEEDS, Programs};
use crate::support::{Mount, SOON, records, succeed, text};

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
/// made, written, synced, listed and looked at while forty requests hang for the first. Who looks at
/// that is told what is known. `status` says so, also by way of the hidden directory. Then
/// everything goes on.
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
    assert!(looking.into_iter().all(|thread| thread.join().unwrap()), "told what is known");
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

fn prepare(setup: &Setup) {
    deeds::prepare(&setup.mount, setup.disk.store());
}

fn assert_done(setup: &Setup) {
    setup.mount.umount_clean();
    deeds::assert_done(setup.disk.store());
}

/// Goal: programs that open, make, list, move and remove files, and read what is not in memory, wait
/// while the engine cannot be reached, and see no error when it is back. `status` says what waits.
pub fn programs_that_ask_for_names_see_no_outage() {
    names_through_an_outage(Setup::patient(&["--max-age", "200ms"]));
}

/// Goal: the same where other nodes have the directory, too, so that each name is looked up anew and
/// close waits.
pub fn programs_of_several_nodes_see_no_outage() {
    names_through_an_outage(Setup::shared(&["--max-age", "200ms"]));
}

fn names_through_an_outage(mut setup: Setup) {
    prepare(&setup);
    setup.disk.order(&format!("names {}", libc::ENOTCONN));
    let programs = Programs::start(setup.mount.path());
    let status = setup.mount.wait_for("requests to wait", |status| {
        status["waiting_requests"].as_array().is_some_and(|waiting| waiting.len() >= 5)
    });
    assert_eq!(status["waiting_requests"][0]["error"], "ENOTCONN", "{status:#}");
    let words = text(&command(&["status"], setup.mount.path()));
    assert!(words.contains("requests of programs wait for the engine"), "{words}");
    assert!(words.contains("last ENOTCONN"), "{words}");
    setup.disk.order("work");
    programs.end();
    assert_done(&setup);
}

/// Goal: a name that was made, moved or removed below, and of which the answer was lost on the way,
/// is made, moved or removed for the program, too.
pub fn lost_answers_are_found_out_about() {
    let setups: [fn(&[&str]) -> Setup; 2] = [Setup::patient, Setup::shared];
    for mut setup in setups.map(|make| make(&["--max-age", "200ms"])) {
        prepare(&setup);
        for (name, act) in DEEDS {
            setup.disk.order(&format!("lose {}", libc::ENOTCONN));
            act(setup.mount.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
            setup.disk.order("work");
        }
        assert_done(&setup);
    }
}

/// Goal: where close waits until the file is stored it ends when patience is over, with an error, though
/// nothing below answers for the file. The bytes are stored when it does.
pub fn a_close_before_what_hangs_ends() {
    let mut setup = Setup::shared(&["--max-age", "200ms", "--patience", "1s"]);
    let file = setup.open("stuck");
    setup.disk.order("freeze stuck");
    file.write_all_at(&records(1, 2000), 0).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(close(file)));
    let code = told.recv_timeout(SOON).expect("close is to end");
    // The kernel makes one of the other.
    assert!(matches!(code, Some(libc::ETIMEDOUT | libc::EIO)), "{code:?}");
    setup.disk.order("work");
    wait_until("it to be stored", || errors(&setup.mount).is_empty());
    setup.mount.umount_clean();
    assert!(setup.stored("stuck") == records(1, 2000));
}

/// Goal: a client of an engine that died is replaced by another one of the same engine, wherever that
/// is mounted, and by none that shows another part or engine: bytes that were acknowledged before, meanwhile and
/// after are stored there, programs that have files open see nothing of it, and names work again. So
/// does a worker that comes later. A file of the same name there is let alone.
pub fn another_client_takes_the_place_of_a_dead_one() {
    let (mut first, mut source) = (None, String::new());
    let options = ["--consistency", "exclusive", "--max-age", "200ms"];
    let mount = Mount::beside_made(
        |path| {
            let store = path.with_file_name("store");
            fs::create_dir(&store).unwrap();
            source = format!("mfs#{}", path.display());
            first = Some(Faulty::of_cluster(&source, &store, path));
        },
        &options,
    );
    let mut first = first.unwrap();
    let store = first.store().to_owned();
    let path = |name: &str| mount.path().join(name);
    fs::write(path("early"), records(1, 1000)).unwrap();
    let open = File::create(path("open")).unwrap();
    open.write_all_at(&records(2, 1000), 0).unwrap();
    open.sync_all().unwrap();
    first.die();
    open.write_all_at(&records(3, 1000), 10_000).unwrap();
    mount.wait_for("the loss to be seen", |status| {
        status["errors"].as_array().is_some_and(|errors| !errors.is_empty())
    });
    let beside = |name: &str| {
        let at = store.with_file_name(name);
        fs::create_dir(&at).unwrap();
        at
    };
    let strange = beside("strange");
    fs::write(strange.join("open"), "another's").unwrap();
    let _stranger = Faulty::of_cluster(&source, &strange, &beside("strange-client"));
    let _other = Faulty::of_cluster("mfs#other", &store, &beside("other-client"));
    let tried = attempts(&mount.status());
    mount.wait_for("strangers to be looked at", |status| attempts(status) >= tried + 3);
    let _second = Faulty::of_cluster(&source, &store, &beside("second-client"));
    mount.wait_for("everything to be stored", |status| {
        status["errors"].as_array().is_some_and(Vec::is_empty) && status["backlog_bytes"] == 0
    });
    open.write_all_at(&records(4, 1000), 20_000).unwrap();
    open.sync_all().unwrap();
    let all = [records(2, 1000), records(3, 1000), records(4, 1000)].concat();
    assert!(fs::read(store.join("open")).unwrap() == all);
    assert!(fs::read(path("early")).unwrap() == records(1, 1000), "by way of the new client");
    kill(mount.worker_pid());
    fs::rename(path("early"), path("late")).unwrap();
    fs::write(path("new"), records(5, 1000)).unwrap();
    open.write_all_at(&records(5, 1000), 30_000).unwrap();
    drop(open);
    mount.umount_clean();
    assert!(fs::read(store.join("late")).unwrap() == records(1, 1000));
    assert!(fs::read(store.join("new")).unwrap() == records(5, 1000));
    assert!(fs::read(store.join("open")).unwrap() == [all, records(5, 1000)].concat());
    assert_eq!(fs::read(strange.join("open")).unwrap(), b"another's");
}

/// How often the first file that is not stored was tried.
fn attempts(status: &serde_json::Value) -> u64 {
    status["errors"][0]["failure"]["attempts"].as_u64().unwrap()
}

fn kill(process: libc::pid_t) {
    // SAFETY: one of ours.
    unsafe { libc::kill(process, libc::SIGKILL) };
}
