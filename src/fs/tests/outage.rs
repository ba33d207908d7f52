//! Engines that cannot be reached for a while: what programs hear of it, and when.

use super::*;

fn unreachable(patience_ms: u64) -> Fixture {
    let storage = MoodyStorage::new(Mood::Fail(libc::ENOTCONN));
    Fixture::on(Elsewhere(true), storage, |config| config.patience_ms = patience_ms)
}

/// Whether `status` says so.
fn is_out(fs: &Filesystem) -> bool {
    fs.status().outage().is_some_and(|(_, outage)| outage.name == "ENOTCONN")
}

/// Goal: an outage that is shorter than patience is seen by no program: close says yes, fsync waits
/// and then says yes, and nothing is lost. The user sees it.
#[test]
fn no_program_sees_a_short_outage() {
    let fixture = unreachable(3_600_000);
    let (id, handle) = fixture.create("f");
    fixture.write(id, 0, b"precious").recv().unwrap().unwrap();
    let (reply, synced) = replies();
    fixture.fs.fsync(id, SyncKind::Data, reply);
    fixture.wait_until("the outage", is_out);
    fixture.fs.look_at_engines();
    let failing = fixture.fs.failing_files();
    assert_eq!(failing[0].failure.as_ref().unwrap().name, "ENOTCONN");
    assert_eq!(code(fixture.fs.flush(id, handle, 1)), None, "close");
    let other = fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap().handle;
    assert_eq!(code(fixture.fs.check(id, other)), None, "who opens it meanwhile");
    assert!(matches!(synced.try_recv(), Err(TryRecvError::Empty)), "fsync waits");
    fixture.storage.set(Mood::Work);
    synced.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!(std::fs::read(fixture.path("f")).unwrap(), b"precious");
    for handle in [handle, other] {
        assert_eq!(code(fixture.fs.flush(id, handle, 2)), None, "told after the outage");
    }
    assert!(fixture.fs.failing_files().is_empty() && !is_out(&fixture.fs));
}

/// Goal: one that is longer is told as any failure, also of files which were never tried, since the
/// engine was left alone; and it ends when the engine is back.
#[test]
fn a_long_outage_is_told_of_each_file() {
    let fixture = unreachable(1);
    let files: Vec<_> = (0..8).map(|number| fixture.create(&format!("f{number}"))).collect();
    let mut synced = Vec::new();
    for (id, _) in &files {
        fixture.write(*id, 0, b"precious").recv().unwrap().unwrap();
        let (reply, replied) = replies();
        fixture.fs.fsync(*id, SyncKind::Data, reply);
        synced.push(replied);
    }
    fixture.wait_until("all to be told", |fs| {
        fs.look_at_engines();
        fs.failing_files().len() == files.len()
    });
    for replied in synced {
        let mut told = None;
        fixture.wait_until("who waits to be told", |fs| {
            fs.look_at_engines();
            told = replied.try_recv().ok();
            told.is_some()
        });
        assert_eq!(told.and_then(code), Some(libc::ENOTCONN));
    }
    for (id, handle) in &files {
        fixture.wait_until("the failure to last", |fs| {
            fs.look_at_engines();
            code(fs.flush(*id, *handle, 1)) == Some(libc::ENOTCONN)
        });
        assert_eq!(code(fixture.fs.flush(*id, *handle, 1)), None, "once");
    }
    fixture.storage.set(Mood::Work);
    fixture.fs.retry_now();
    fixture.wait_until("everything to be stored", |fs| fs.backlog_bytes() == 0);
    assert!(fixture.fs.failing_files().is_empty());
}

/// Goal: who unmounts is not kept waiting for patience: what the engine was just asked to take in
/// vain counts as failing, so that he is told.
#[test]
fn the_end_of_a_mount_does_not_wait_for_an_outage() {
    let fixture = unreachable(3_600_000);
    for number in 0..8 {
        let (id, _) = fixture.create(&format!("f{number}"));
        fixture.write(id, 0, b"precious").recv().unwrap().unwrap();
    }
    fixture.fs.finish();
    let begun_ms = crate::clock::boottime_ms();
    fixture.fs.retry_now();
    fixture.wait_until("all to be known as failing", |fs| {
        fs.look_at_engines();
        fs.only_failing_left(begun_ms)
    });
    assert_eq!(fixture.fs.failing_files().len(), 8);
}

/// Goal: what hangs on the pool holds up no other job there, however many hang.
#[test]
fn jobs_that_hang_hold_up_no_others() {
    let fixture = unreachable(1);
    let (let_go, hang) = crossbeam_channel::bounded::<()>(0);
    for _ in 0..50 {
        let hang = hang.clone();
        fixture.fs.on_askers(move || assert!(hang.recv().is_err()));
    }
    let (tell, told) = channel();
    fixture.fs.on_askers(move || tell.send(()).unwrap());
    told.recv_timeout(LONG).expect("not held up");
    drop(let_go);
}

/// Goal: a write that does not come back is a failure of its file when patience is over: who waits for
/// it is told, and when it comes back after all the file is whole again.
#[test]
fn a_write_that_hangs_is_told_of() {
    let fixture = unreachable(1);
    fixture.storage.set(Mood::Wait);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, b"precious").recv().unwrap().unwrap();
    let (reply, synced) = replies();
    fixture.fs.fsync(id, SyncKind::Data, reply);
    let mut told = None;
    fixture.wait_until("fsync to be told", |fs| {
        fs.look_at_engines();
        told = synced.try_recv().ok();
        told.is_some()
    });
    assert_eq!(told.and_then(code), Some(libc::ETIMEDOUT));
    fixture.fs.finish();
    let since_ms = crate::clock::boottime_ms();
    fixture.wait_until("who unmounts to be told", |fs| {
        fs.look_at_engines();
        fs.only_failing_left(since_ms)
    });
    let failure = fixture.fs.failing_files()[0].failure.clone().unwrap();
    assert_eq!((failure.name.as_str(), failure.attempts), ("ETIMEDOUT", 1));
    fixture.storage.set(Mood::Work);
    fixture.wait_until("it to be stored", |fs| fs.failing_files().is_empty());
    assert_eq!(std::fs::read(fixture.path("f")).unwrap(), b"precious");
}

const MORE_THAN_THERE_IS: u64 = u64::MAX / 8;

/// An engine, and the room on it, for which the test asks from now on: nobody else does.
fn asked_for_room() -> (Fixture, Arc<Space>) {
    let fixture = unreachable(1);
    let dev = fixture.fs.root_dev().unwrap();
    let space = fixture.fs.device(dev).unwrap().space;
    fixture.wait_until("the first look to end", |_| space.begin_asking());
    assert!(!space.try_charge(MORE_THAN_THERE_IS));
    (fixture, space)
}

/// Goal: writes do not wait for an engine that does not say how much room it has; when it says, that
/// counts.
#[test]
fn room_that_is_not_told_is_assumed() {
    let (fixture, space) = asked_for_room();
    assert!(!space.begin_asking(), "one asks");
    assert!(space.assume_room(), "it has not answered");
    assert!(space.try_charge(MORE_THAN_THERE_IS));
    space.uncharge(MORE_THAN_THERE_IS);
    space.end_asking();
    assert!(!space.assume_room(), "it has");
    let (id, _) = fixture.create("f");
    let node = fixture.fs.node(id).unwrap();
    fixture.fs.space_jobs.add(super::super::reserve::Job::Look(node));
    fixture.wait_until("it to be asked again", |_| !space.try_charge(MORE_THAN_THERE_IS));
}

/// Goal: the same where the engine cannot be reached: for what is to be written now, and no more.
#[test]
fn room_that_cannot_be_asked_for_is_assumed() {
    let (_fixture, space) = asked_for_room();
    space.assume_room_for(MORE_THAN_THERE_IS);
    assert!(space.try_charge(MORE_THAN_THERE_IS));
    assert!(!space.try_charge(MORE_THAN_THERE_IS), "that was all");
    space.uncharge(MORE_THAN_THERE_IS);
    space.end_asking();
}
