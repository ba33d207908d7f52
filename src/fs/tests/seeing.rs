//! What a file and the hidden directory tell, and storing on demand, at moments that a real mount does
//! not hold still at.

use super::*;

/// One of a file's own figures.
fn told(fs: &Filesystem, id: u64, part: &str) -> io::Result<String> {
    let mut value = vec![0; 200];
    let len = fs.get_xattr(id, OsStr::new(&format!("user.coalescefs.{part}")), &mut value)?;
    value.truncate(len);
    Ok(String::from_utf8(value).unwrap())
}

/// Goal: bytes on their way to the disk are backlog, and their age grows until they are stored.
#[test]
fn bytes_in_flight_are_backlog() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    assert_eq!(told(&fixture.fs, id, "backlog_bytes").unwrap(), "0");
    fixture.write(id, 0, &vec![1; CHUNK as usize + 5]).recv().unwrap().unwrap();
    fixture.wait_until("the chunk to be on its way", |fs| in_flight_bytes(fs, id) == CHUNK);
    assert_eq!(told(&fixture.fs, id, "backlog_bytes").unwrap(), (CHUNK + 5).to_string());
    fixture.wait_until("an age", |fs| told(fs, id, "oldest_age_ms").unwrap() != "0");
    fixture.storage.set(Mood::Work);
    fixture.fsync(id).unwrap();
    let all = ["backlog_bytes", "oldest_age_ms", "error"];
    assert_eq!(all.map(|part| told(&fixture.fs, id, part).unwrap()), ["0", "0", ""]);
}

/// Goal: the kernel asks for the attributes of many open files less often, and soon for those whose
/// set-id bits are to go.
#[test]
fn attributes_of_one_among_many_last_longer() {
    let fixture = Fixture::new(Mood::Work);
    let names = (0..250).map(|number| format!("f{number}"));
    let ids: Vec<u64> = names.map(|name| fixture.create(&name).0).collect();
    let lasts = || fixture.fs.getattr(ids[0]).unwrap().lasts;
    fixture.write(ids[0], 0, b"x").recv().unwrap().unwrap();
    assert_eq!(lasts(), Lasts::SOON);
    ids[1..].iter().for_each(|id| {
        fixture.write(*id, 0, b"x").recv().unwrap().unwrap();
    });
    assert_eq!(lasts(), Lasts::Moving { seconds: 2 });
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(fixture.path("f0"), mode).unwrap();
    assert_eq!(lasts(), Lasts::SOON);
}

/// Goal: a file that was just made is known to have no capabilities, for which the kernel asks before
/// the first write: nothing below is asked. Method: there is nothing below.
#[test]
fn a_new_file_has_no_capabilities() {
    let fixture = Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    std::fs::remove_file(fixture.path("f")).unwrap();
    let asked = |name| code(fixture.fs.get_xattr(id, OsStr::new(name), &mut []).map(drop));
    assert_eq!(asked("security.capability"), Some(libc::ENODATA));
    assert_ne!(asked("user.other"), Some(libc::ENODATA));
}

/// Goal: the time that the kernel sends when an open file was removed is shown, and is no call below.
#[test]
fn the_time_of_a_removed_file_is_only_shown() {
    let fixture = Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, b"x").recv().unwrap().unwrap();
    fixture.fsync(id).unwrap();
    fixture.wait_until("its time to be set", |fs| {
        fs.arena.nodes().mtime(fs.node(id).unwrap().slot).is_none()
    });
    fixture.fs.unlink(caller(), ROOT_ID, OsStr::new("f")).unwrap();
    let below = || fixture.fs.backing_attr(&fixture.fs.node(id).unwrap()).unwrap().mtime;
    let (before, time) = (below(), Time { secs: 1_000_000_000, nanos: 5 });
    let (reply, replied) = replies();
    let change = Change { mtime: SetTime::At(time), ..NO_CHANGE };
    fixture.fs.setattr(caller(), id, change, reply);
    assert_eq!(replied.recv().unwrap().unwrap().attr.mtime, time);
    assert_eq!(below(), before);
    assert_eq!(fixture.fs.getattr(id).unwrap().attr.mtime, time);
}

/// Goal: the error with which the disk refuses a file is told by its name.
#[test]
fn an_error_is_told_by_its_name() {
    let fixture = Fixture::new(Mood::Fail(libc::EDQUOT));
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.wait_until("the refusal", |fs| told(fs, id, "error").unwrap() == "EDQUOT");
}

/// Goal: who asks while a file is held for long is answered all the same.
#[test]
fn a_file_that_is_held_is_not_waited_for() {
    let fixture = Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    let node = fixture.fs.node(id).unwrap();
    let held = node.data_if_any().unwrap().lock();
    let (done, answered) = channel();
    let fs = fixture.fs.clone();
    std::thread::spawn(move || {
        done.send(code(told(&fs, id, "backlog_bytes"))).unwrap();
    });
    assert_eq!(answered.recv_timeout(LONG).unwrap(), Some(libc::EAGAIN));
    drop(held);
}

/// Goal: snapshots are bounded, given back at close, and made anew for a handle of a former worker.
#[test]
fn snapshots_are_bounded() {
    let fixture = Fixture::new(Mood::Work);
    let lookup =
        |parent, name: &str| fixture.fs.lookup(caller(), parent, OsStr::new(name)).unwrap().attr.id;
    let metrics = lookup(lookup(ROOT_ID, ".coalescefs"), "metrics");
    let open = || fixture.fs.open(caller(), metrics, libc::O_RDONLY);
    let handles: Vec<u64> = (0..128).map(|_| open().unwrap().handle).collect();
    assert_eq!(code(open()), Some(libc::ENFILE));
    fixture.fs.release(caller(), metrics, handles[0]);
    open().unwrap();
    let unknown = fixture.fs.virtual_read(metrics, u64::MAX, 0, 1 << 20).unwrap();
    assert!(String::from_utf8(unknown).unwrap().contains("coalescefs_backlog_bytes{"));
}

/// Goes on draining until it is over.
fn drain(fixture: &Fixture, id: Option<u64>) -> Draining {
    let mut draining = fixture.fs.begin_draining(id).unwrap();
    fixture.wait_until("the drain to be over", |fs| {
        fs.go_on_draining(&mut draining);
        draining.is_over()
    });
    draining
}

/// Goal: what is drained on demand is synced, too; what is not asked for stays.
#[test]
fn what_is_drained_is_synced() {
    let fixture = Fixture::new(Mood::Work);
    let [(a, _), (b, _)] = ["a", "b"].map(|name| fixture.create(name));
    for id in [a, b] {
        fixture.write(id, 0, b"bytes").recv().unwrap().unwrap();
    }
    let synced = fixture.fs.status().syncs;
    let draining = drain(&fixture, Some(a));
    assert!(draining.failed().is_empty());
    assert_eq!((fixture.fs.backlog_bytes(), fixture.fs.status().syncs), (5, synced + 1));
    drain(&fixture, None);
    assert_eq!((fixture.fs.backlog_bytes(), fixture.fs.status().syncs), (0, synced + 2));
}

/// Goal: a drain of what the disk refuses ends, and names it.
#[test]
fn what_cannot_be_drained_is_named() {
    let fixture = Fixture::new(Mood::Fail(libc::EIO));
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, b"bytes").recv().unwrap().unwrap();
    assert_eq!(drain(&fixture, None).failed(), [id]);
    assert_eq!(fixture.fs.backlog_bytes(), 5);
}

/// Goal: the same of bytes that were on their way to the disk when they were asked for.
#[test]
fn what_is_refused_on_its_way_is_named() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.wait_until("the chunk to be on its way", |fs| in_flight_bytes(fs, id) == CHUNK);
    let mut draining = fixture.fs.begin_draining(None).unwrap();
    fixture.fs.go_on_draining(&mut draining);
    fixture.storage.set(Mood::Fail(libc::EIO));
    fixture.wait_until("the drain to be over", |fs| {
        fs.go_on_draining(&mut draining);
        draining.is_over()
    });
    assert_eq!(draining.failed(), [id]);
}
