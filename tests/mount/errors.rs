//! A disk that refuses, hangs or loses bytes: who is told, what is shown, and that nothing that can
//! be stored is lost.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::faulty::{Faulty, Setup};
use crate::keepers::wait_until;
use crate::support::{Mount, PROGRAM, SOON, is_mounted, is_running, records, succeed, text};

/// What a writer waits for at most when nothing can be stored, with room for a slow machine.
const BOUNDED: Duration = Duration::from_secs(90);

fn code<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// close(2), whose error [`File`] hides.
pub fn close(file: File) -> Option<i32> {
    // SAFETY: the descriptor is ours and not used afterwards.
    let result = unsafe { libc::close(file.into_raw_fd()) };
    (result != 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap())
}

pub fn command(words: &[&str], path: &Path) -> Output {
    Command::new(PROGRAM).args(words).arg(path).output().unwrap()
}

pub fn errors(mount: &Mount) -> Vec<Value> {
    mount.status()["errors"].as_array().unwrap().clone()
}

/// Goal: each error of the disk comes to fsync, and once to the close of another handle; `status`
/// shows the file with range, errno and age; `umount` refuses with 75 and the list; the bytes are
/// there to be read, and are stored when the disk works.
pub fn every_refusal_is_told_shown_kept_and_mended() {
    let named = [
        (libc::EIO, "EIO"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EDQUOT, "EDQUOT"),
        (libc::EROFS, "EROFS"),
        (libc::ESTALE, "ESTALE"),
    ];
    for (errno, name) in named {
        let mut setup = Setup::new(&["--max-age", "1h"]);
        let (first, second) = (setup.open("f"), setup.open("f"));
        setup.disk.order(&format!("write {errno}"));
        first.write_all_at(&records(1, 1000), 0).unwrap();
        assert_eq!(code(first.sync_all()), Some(errno), "{name}");
        // A child closes its copies of both.
        succeed(&mut Command::new("true"));
        assert_eq!(close(first), None, "{name} told twice to one handle");
        assert_eq!(close(second), Some(errno), "{name} not told");
        let shown = errors(&setup.mount);
        let (file, failure) = (&shown[0], &shown[0]["failure"]);
        assert_eq!((&file["path"], &failure["name"]), (&"f".into(), &name.into()), "{file:#}");
        assert_eq!(failure["errno"], errno);
        let len = records(1, 1000).len();
        assert_eq!(failure["ranges"], json!([{ "offset": 0, "length": len }]));
        assert!(failure["attempts"].as_u64() >= Some(1) && failure["for_ms"].is_u64(), "{file:#}");
        let words = text(&command(&["status"], setup.mount.path()));
        assert!(
            words.contains(&format!("not stored: f: 9.77 KiB at 0+{len}: {name}: ")),
            "{words}"
        );
        let refused = setup.mount.umount();
        assert_eq!(refused.status.code(), Some(75), "{}", text(&refused));
        assert!(text(&refused).contains(&format!(" at 0+{len}: {name}: ")), "{}", text(&refused));
        assert!(is_mounted(setup.mount.path()));
        assert_eq!(fs::read(setup.mount.path().join("f")).unwrap(), records(1, 1000));
        setup.disk.order("work");
        setup.mount.umount_clean();
        assert_eq!(setup.stored("f"), records(1, 1000), "{name}");
    }
}

/// Goal: a write that is refused in the middle of a run, once, does no harm, whichever of the
/// requests it is; EINTR and EAGAIN show to nobody.
pub fn a_refusal_of_any_request_is_mended() {
    let content = records(7, 80_000);
    for errno in [libc::EIO, libc::ENOSPC, libc::EINTR, libc::EAGAIN] {
        for number in 0..6 {
            let mut setup = Setup::new(&["--memory", "16M", "--max-age", "1h"]);
            let file = setup.open("f");
            setup.disk.order(&format!("write {errno} {number}"));
            file.write_all_at(&content, 0).unwrap();
            let synced = code(file.sync_all());
            if matches!(errno, libc::EINTR | libc::EAGAIN) {
                assert_eq!(synced, None, "{errno} at request {number}");
            }
            file.sync_all().unwrap();
            drop(file);
            assert!(errors(&setup.mount).is_empty(), "{errno} at request {number}");
            setup.mount.umount_clean();
            assert!(setup.stored("f") == content, "{errno} at request {number}");
        }
    }
}

/// Goal: an fsync that fails below is told to who asked and once to another handle's close; the
/// file stays listed although later fsyncs succeed, and umount ends with 75 and names it. Discarded,
/// that is, acknowledged by the user, it is listed no more.
pub fn a_failed_sync_is_told_and_remembered() {
    for is_discarded in [false, true] {
        let mut setup = Setup::new(&[]);
        let (first, second) = (setup.open("f"), setup.open("f"));
        first.write_all_at(b"gone?", 0).unwrap();
        first.sync_all().unwrap();
        // Not kept in memory, as bytes are until such a filesystem has synced them.
        first.set_len(4).unwrap();
        setup.disk.order(&format!("fsync {}", libc::EIO));
        assert_eq!(code(first.sync_all()), Some(libc::EIO));
        assert_eq!(code(first.sync_all()), None, "the next one asks again");
        assert_eq!(close(first), None, "told twice");
        assert_eq!(close(second), Some(libc::EIO), "not told");
        assert_eq!(close(setup.open("f")), None, "opened afterwards");
        let shown = errors(&setup.mount);
        assert_eq!((shown.len(), &shown[0]["failure"]["lost"]), (1, &true.into()), "{shown:?}");
        let words = text(&command(&["status"], setup.mount.path()));
        assert!(words.contains("EIO") && words.contains("lost bytes"), "{words}");
        if is_discarded {
            succeed(Command::new(PROGRAM).arg("discard").arg(setup.mount.path().join("f")));
            assert!(errors(&setup.mount).is_empty());
            setup.mount.umount_clean();
        } else {
            let ended = setup.mount.umount();
            assert_eq!(ended.status.code(), Some(75), "{}", text(&ended));
            assert!(text(&ended).contains("is lost") && text(&ended).contains("f: 0 B: EIO"));
            assert!(!is_mounted(setup.mount.path()) && setup.mount.processes().is_empty());
        }
        assert_eq!(setup.stored("f"), b"gone");
    }
}

/// Goal: on a filesystem of another process bytes are kept until they are synced there: a sync that
/// fails once is told to who waits for it, the bytes are written again, and nothing counts as lost.
pub fn bytes_are_kept_until_they_are_synced() {
    let mut setup = Setup::new(&["--max-age", "1h"]);
    let file = setup.open("f");
    file.write_all_at(&records(1, 1000), 0).unwrap();
    setup.disk.order(&format!("fsync {}", libc::EIO));
    assert_eq!(code(file.sync_all()), Some(libc::EIO));
    fs::write(setup.disk.store().join("f"), []).unwrap();
    assert_eq!(code(file.sync_all()), None, "written again");
    assert_eq!(setup.stored("f"), records(1, 1000));
    assert!(errors(&setup.mount).is_empty());
    drop(file);
    setup.mount.umount_clean();
}

/// Goal: `discard` refuses a file with which nothing is wrong; of one that cannot be stored it says
/// what is lost, and everybody then sees what is on disk, size and bytes, also who has it open and
/// what the kernel had cached; the open handle is told; the mount ends in peace, and what is written
/// afterwards is stored.
pub fn discarded_bytes_are_gone_for_everybody() {
    let mut setup = Setup::new(&["--max-age", "1h"]);
    let path = setup.mount.path().join("f");
    let (file, silent) = (setup.open("f"), setup.open("f"));
    file.write_all_at(&records(1, 1000), 0).unwrap();
    file.sync_all().unwrap();
    let refused = command(&["discard"], &path);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("nothing is wrong"), "{}", text(&refused));
    setup.disk.order(&format!("write {}", libc::EIO));
    // Of the same size: nothing but the discard itself has the kernel look again.
    file.write_all_at(b"overwritten", 5000).unwrap();
    assert_eq!(code(file.sync_all()), Some(libc::EIO));
    succeed(Command::new(PROGRAM).arg("discard").arg(&path));
    assert!(fs::read(&path).unwrap() == records(1, 1000), "the kernel's pages are shown");
    file.write_all_at(b"overwritten", 5000).unwrap();
    file.write_all_at(&[b'x'; 50_000], 100_000).unwrap();
    assert_eq!(code(file.sync_all()), Some(libc::EIO));
    // In the kernel's cache only.
    file.write_all_at(&[b'y'; 10], 200_000).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 200_010);
    let done = command(&["discard"], &path);
    assert!(done.status.success(), "{}", text(&done));
    let said = text(&done);
    assert!(said.contains("gave up") && said.contains("EIO"), "{said}");
    assert!(said.contains("at 4096+4096, 98304+51696, 196608+3402: "), "{said}");
    assert!(said.contains("10000 bytes now") && !said.contains("former"), "{said}");
    let stat = fs::metadata(&path).unwrap();
    assert_eq!((stat.len(), file.metadata().unwrap().len()), (10_000, 10_000));
    assert!(fs::read(&path).unwrap() == records(1, 1000), "not what is on disk");
    let mut seen = [0; 11];
    file.read_exact_at(&mut seen, 5000).unwrap();
    assert_eq!(seen[..], records(1, 1000)[5000..5011]);
    assert!(errors(&setup.mount).is_empty());
    assert_eq!(setup.mount.figure("held_bytes"), 0);
    assert_eq!(close(silent), Some(libc::EIO), "a handle is not told");
    setup.disk.order("work");
    file.write_all_at(b"after", 10_000).unwrap();
    drop(file);
    setup.mount.umount_clean();
    assert_eq!(setup.stored("f"), [records(1, 1000), b"after".to_vec()].concat());
    assert_eq!(setup.disk.store().join("f").metadata().unwrap().size(), 10_005);
}

/// Goal: `umount --discard` tries once more, says what is lost, exits with 75, and leaves neither
/// mount nor process; what could be stored is.
pub fn umount_discard_lists_what_is_lost() {
    let mut setup = Setup::new(&["--max-age", "1h"]);
    fs::write(setup.mount.path().join("good"), records(1, 100)).unwrap();
    setup.open("good").sync_all().unwrap();
    setup.disk.order(&format!("write {}", libc::EDQUOT));
    fs::write(setup.mount.path().join("bad"), records(2, 100)).unwrap();
    let kept = setup.mount.umount();
    assert_eq!(kept.status.code(), Some(75), "{}", text(&kept));
    assert!(is_mounted(setup.mount.path()));
    let begun = Instant::now();
    let ended = command(&["umount", "--discard"], setup.mount.path());
    assert_eq!(ended.status.code(), Some(75), "{}", text(&ended));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let said = text(&ended);
    assert!(
        said.contains("this is lost") && said.contains("bad: 1000 B at 0+1000: EDQUOT"),
        "{said}"
    );
    assert!(!said.contains("good"), "{said}");
    assert!(!is_mounted(setup.mount.path()) && setup.mount.processes().is_empty());
    assert_eq!((setup.stored("good"), setup.stored("bad")), (records(1, 100), Vec::new()));
}

/// Goal: in use, a mount is not unmounted by --discard either, and nothing is given up for nothing.
pub fn umount_discard_of_a_mount_in_use_loses_nothing() {
    let mut setup = Setup::new(&["--max-age", "1h"]);
    setup.disk.order(&format!("write {}", libc::EIO));
    let mut file = setup.open("f");
    file.write_all(&records(1, 100)).unwrap();
    assert_eq!(code(file.sync_all()), Some(libc::EIO));
    let busy = command(&["umount", "--discard"], setup.mount.path());
    assert_eq!(busy.status.code(), Some(1), "{}", text(&busy));
    assert!(is_mounted(setup.mount.path()));
    assert_eq!(errors(&setup.mount).len(), 1);
    drop(file);
    setup.disk.order("work");
    setup.mount.umount_clean();
    assert_eq!(setup.stored("f"), records(1, 100));
}

/// Goal: `run` ends with 75 and the list. Its daemon keeps the bytes and stores them once that
/// works; with --discard it is gone, and they are.
pub fn run_keeps_or_discards_what_cannot_be_stored() {
    let dir = tempfile::tempdir().unwrap();
    let over = dir.path().join("below");
    fs::create_dir(&over).unwrap();
    let mut disk = Faulty::at(&over);
    disk.order(&format!("write {}", libc::ENOSPC));
    for discard in [&[][..], &["--discard"]] {
        let name = if discard.is_empty() { "kept" } else { "lost" };
        let script = format!("seq 1 1000 >{name}");
        // A file: the daemon that stays would keep a pipe open.
        let said = dir.path().join("said");
        let status = Command::new(PROGRAM)
            .args(["run", "--over"])
            .arg(&over)
            .args(discard)
            .args(["--", "sh", "-c", &format!("cd {} && {script}", over.display())])
            .stderr(File::create(&said).unwrap())
            .status()
            .unwrap();
        let said = fs::read_to_string(said).unwrap();
        assert_eq!(status.code(), Some(75), "{said}");
        assert!(said.contains(&format!("{name}: 3.80 KiB at 0+3893: ENOSPC")), "{said}");
        let keeper = said.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
        assert_eq!(keeper.is_none(), !discard.is_empty(), "{said}");
        if let Some(keeper) = keeper.map(|pid| pid.parse().unwrap()) {
            assert!(is_running(keeper));
            disk.order("work");
            let until = Instant::now() + SOON;
            while is_running(keeper) {
                assert!(Instant::now() < until, "the daemon does not end");
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(fs::read(disk.store().join("kept")).unwrap().len(), 3893);
            disk.order(&format!("write {}", libc::ENOSPC));
        }
    }
    assert_eq!(fs::read(disk.store().join("lost")).unwrap(), b"");
    drop(disk);
}

/// Goal: while the disk hangs in a write, `status` says which lane, on which file and since when;
/// names, sizes and buffered bytes are at hand, and programs go on; afterwards everything is there.
pub fn a_disk_that_hangs_is_shown_and_waited_for() {
    let mut setup = Setup::new(&["--max-age", "1h"]);
    let path = setup.mount.path().to_owned();
    setup.disk.order("hang");
    fs::write(path.join("stuck"), records(1, 2000)).unwrap();
    let syncing = std::thread::spawn({
        let path = path.join("stuck");
        move || File::open(path).unwrap().sync_all()
    });
    let shown = setup.mount.wait_for("a lane to hang", |status| {
        status["lanes"][0]["for_ms"].as_u64().is_some_and(|for_ms| for_ms >= 2000)
    });
    assert_eq!(shown["lanes"][0]["path"], "stuck", "{shown:#}");
    let words = text(&command(&["status"], &path));
    assert!(words.contains("stuck: lane ") && words.contains("at stuck: 19.53 KiB"), "{words}");
    let begun = Instant::now();
    fs::write(path.join("other"), records(2, 2000)).unwrap();
    assert!(fs::read(path.join("other")).unwrap() == records(2, 2000));
    assert!(fs::read(path.join("stuck")).unwrap() == records(1, 2000));
    let list = String::from_utf8(succeed(Command::new("ls").arg("-l").arg(&path)).stdout).unwrap();
    let has = |name: &str| list.lines().any(|l| l.contains(" 20000 ") && l.ends_with(name));
    assert!(has("other") && has("stuck"), "{list}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!syncing.is_finished());
    setup.disk.order("work");
    syncing.join().unwrap().unwrap();
    setup.mount.umount_clean();
    assert!(setup.stored("stuck") == records(1, 2000) && setup.stored("other") == records(2, 2000));
}

/// Eight programs that write five times the memory, and sync.
fn writers(mount: &Mount) -> Vec<Child> {
    let writer = |number: usize| {
        Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "count=40", "conv=fsync"])
            .arg(format!("of={}", mount.path().join(format!("w{number}")).display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    (0..8).map(writer).collect()
}

/// Goal: a program that only closes is told of a quota while memory is full of bytes that the disk
/// refuses for it: the kernel would make EIO of EDQUOT.
pub fn close_tells_of_a_quota_while_memory_is_full() {
    let mut setup = Setup::new(&["--memory", "4M", "--max-age", "1h"]);
    setup.disk.order(&format!("write {}", libc::EDQUOT));
    let writer = |number: usize| {
        let mut writer = Command::new("dd");
        writer.env("LC_ALL", "C").args(["if=/dev/zero", "bs=64k", "count=40", "status=none"]);
        writer.arg(format!("of={}", setup.mount.path().join(format!("w{number}")).display()));
        writer.stderr(Stdio::piped()).spawn().unwrap()
    };
    let writers: Vec<Child> = (0..8).map(writer).collect();
    let said = |writer: Child| writer.wait_with_output().unwrap().stderr;
    let said: Vec<Vec<u8>> = writers.into_iter().map(said).collect();
    // Whose bytes were all taken before the first refusal is not told by close.
    let told: Vec<&str> = said
        .iter()
        .map(|said| std::str::from_utf8(said).unwrap())
        .filter(|said| !said.is_empty())
        .collect();
    assert!(!told.is_empty(), "nobody was told");
    let reasons = ["No space left on device", "Disk quota exceeded"];
    for said in told {
        assert!(reasons.iter().any(|reason| said.contains(reason)), "{said:?}");
    }
    setup.disk.order("work");
    setup.mount.umount_clean();
}

/// All end, with an error. Those that do not are killed.
fn assert_all_fail(writers: Vec<Child>) {
    let until = Instant::now() + BOUNDED;
    let mut stuck = Vec::new();
    for mut writer in writers {
        let status = loop {
            match writer.try_wait().unwrap() {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                status => break status,
            }
        };
        match status {
            Some(status) => assert!(!status.success(), "a writer was told that all is well"),
            None => {
                // It waits in the kernel; the end of the mount lets it go.
                let _ = writer.kill();
                stuck.push(writer.id());
            }
        }
    }
    assert!(stuck.is_empty(), "writers {stuck:?} do not end");
}

/// Goal: with memory full of bytes that the disk refuses, programs that write more than it holds
/// are told so within a bounded time. When the disk works, what was acknowledged before is there,
/// and the mount is as good as new.
pub fn writers_end_when_memory_is_full_of_refused_bytes() {
    let mut setup = Setup::new(&["--memory", "4M", "--max-age", "1h"]);
    let before = setup.open("before");
    before.write_all_at(&records(1, 1000), 0).unwrap();
    before.sync_all().unwrap();
    setup.disk.order(&format!("write {}", libc::EIO));
    before.write_all_at(&records(2, 1000), 10_000).unwrap();
    assert_eq!(code(before.sync_all()), Some(libc::EIO));
    assert_all_fail(writers(&setup.mount));
    assert!(setup.mount.figure("held_bytes") <= 4 << 20);
    setup.disk.order("work");
    before.sync_all().unwrap();
    drop(before);
    // Until then a program may be told by close(), which fs::write does not look at.
    wait_until("the rest to be stored", || setup.mount.status()["errors"] == json!([]));
    fs::write(setup.mount.path().join("after"), records(3, 100_000)).unwrap();
    setup.mount.umount_clean();
    assert!(setup.stored("before") == [records(1, 1000), records(2, 1000)].concat());
    assert!(setup.stored("after") == records(3, 100_000));
}

/// Goal: the same on a filesystem that is really full, and has room again later.
pub fn writers_end_when_the_disk_is_full() {
    let mount = Mount::beside_made(
        |path| {
            let mut command = Command::new("mount");
            succeed(command.args(["-t", "tmpfs", "-o", "size=1M", "none"]).arg(path));
        },
        &["--memory", "4M", "--max-age", "1h"],
    );
    let good = mount.path().join("good");
    fs::write(&good, records(1, 1000)).unwrap();
    File::open(&good).unwrap().sync_all().unwrap();
    assert_all_fail(writers(&mount));
    // What there was no room for was never taken.
    assert_eq!(mount.status()["errors"], json!([]));
    succeed(Command::new("mount").args(["-o", "remount,size=100M"]).arg(mount.backing()));
    fs::write(mount.path().join("after"), records(3, 1000)).unwrap();
    File::open(mount.path().join("after")).unwrap().sync_all().unwrap();
    mount.umount_clean();
    assert_eq!(fs::read(mount.backing().join("good")).unwrap(), records(1, 1000));
    assert_eq!(fs::read(mount.backing().join("after")).unwrap(), records(3, 1000));
}
