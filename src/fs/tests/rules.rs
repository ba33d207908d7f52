//! Files with rules of their own: writes that pass through, chunks of another size, renames, and a
//! worker's successor.

use super::*;
use crate::config::rules::{Priority, Rule};
use crate::schedule::Priority as Rank;

fn rule(glob: &str) -> Rule {
    Rule { glob: glob.to_owned(), ..Rule::default() }
}

/// Only `OUT*` is coalesced.
fn redirected(mood: Mood) -> Fixture {
    Fixture::with(MoodyStorage::new(mood), |config| config.only = vec!["/OUT*".to_owned()])
}

fn rename(fixture: &Fixture, from: &str, to: &str) {
    let (from, to) = ((ROOT_ID, OsStr::new(from)), (ROOT_ID, OsStr::new(to)));
    fixture.fs.rename(caller(), from, to, 0).unwrap();
}

fn stored(fixture: &Fixture, name: &str) -> Vec<u8> {
    std::fs::read(fixture.path(name)).unwrap()
}

/// Goal: what is not coalesced is in the backing file when its write is answered, and the kernel is
/// told to keep no pages of it; what is coalesced is not.
#[test]
fn what_is_not_named_is_written_at_once() {
    let fixture = redirected(Mood::Work);
    let (log, _) = fixture.create("log");
    let (out, _) = fixture.create("OUT1");
    assert!(fixture.fs.is_uncached(log) && !fixture.fs.is_uncached(out));
    for (id, offset) in [(log, 0), (log, 5), (out, 0)] {
        assert_eq!(fixture.write(id, offset, b"bytes").recv().unwrap().unwrap(), 5);
    }
    assert_eq!(stored(&fixture, "log"), b"bytesbytes");
    assert_eq!(stored(&fixture, "OUT1"), b"");
    assert_eq!(fixture.fs.backlog_bytes(), 5);
    assert_eq!(fixture.fs.getattr(log).unwrap().attr.size, 10);
    assert_eq!(fixture.read(log, 3, 100), b"esbytes");
    fixture.fsync(log).unwrap();
}

/// Goal: the reply has the disk's own error, and nothing is kept or tried again.
#[test]
fn the_reply_is_that_of_the_disk() {
    let fixture = redirected(Mood::Fail(libc::ENOSPC));
    let (log, handle) = fixture.create("log");
    assert_eq!(code(fixture.write(log, 0, b"bytes").recv().unwrap()), Some(libc::ENOSPC));
    assert!(fixture.fs.failing_files().is_empty());
    assert_eq!(fixture.fs.backlog_bytes(), 0);
    assert_eq!(code(fixture.fs.flush(log, handle, 1)), None);
    fixture.storage.set(Mood::Work);
    fixture.write(log, 0, b"bytes").recv().unwrap().unwrap();
}

/// Goal: while the disk hangs the calling thread goes on, and only the reply waits.
#[test]
fn no_caller_waits_for_the_disk() {
    let fixture = redirected(Mood::Wait);
    let (log, _) = fixture.create("log");
    let replied = fixture.write(log, 0, b"bytes");
    assert!(replied.try_recv().is_err());
    fixture.storage.set(Mood::Work);
    assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap(), 5);
}

/// Goal: a rename changes how a file is treated, and a write that then passes through does not
/// come before what was buffered of the same bytes.
#[test]
fn a_rename_asks_the_rules_anew() {
    let fixture = redirected(Mood::Wait);
    let (id, _) = fixture.create("OUT1");
    fixture.write(id, 0, b"older older").recv().unwrap().unwrap();
    rename(&fixture, "OUT1", "done");
    assert!(fixture.fs.is_uncached(id));
    let replied = fixture.write(id, 0, b"newer");
    fixture.storage.set(Mood::Work);
    assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap(), 5);
    assert_eq!(stored(&fixture, "done"), b"newer older");
    assert_eq!(fixture.fs.backlog_bytes(), 0);
    rename(&fixture, "done", "OUT2");
    fixture.write(id, 0, b"NEWER").recv().unwrap().unwrap();
    assert_eq!(stored(&fixture, "OUT2"), b"newer older");
    assert_eq!(fixture.read(id, 0, 100), b"NEWER older");
}

/// Goal: files below a directory are asked about when that is renamed.
#[test]
fn a_renamed_directory_takes_its_files_along() {
    let fixture = Fixture::with(MoodyStorage::new(Mood::Work), |config| {
        config.rules = vec![Rule { coalesce: Some(false), ..rule("plain/**") }];
    });
    let made = fixture.fs.mkdir(caller(), ROOT_ID, OsStr::new("d"), MODE).unwrap();
    let made =
        fixture.fs.create(caller(), made.attr.id, OsStr::new("f"), MODE, libc::O_WRONLY).unwrap();
    let id = made.0.attr.id;
    assert!(!fixture.fs.is_uncached(id));
    rename(&fixture, "d", "plain");
    fixture.wait_until("the file to be asked about", |fs| fs.is_uncached(id));
}

/// Goal: chunk, age and priority of a rule are those that the scheduler hears, and a rename divides
/// what is buffered anew.
#[test]
fn rules_reach_the_scheduler() {
    let fixture = Fixture::with(MoodyStorage::new(Mood::Wait), |config| {
        let all = Rule { max_age_ms: Some(7000), priority: Some(Priority::High), ..rule("big*") };
        config.rules = vec![Rule { chunk_bytes: Some(2 * CHUNK), ..all }];
    });
    let (id, _) = fixture.create("big");
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    let node = fixture.fs.node(id).unwrap();
    let load = || fixture.fs.load(&node, &node.data_if_any().unwrap().lock());
    assert_eq!((load().priority, load().max_age_ms), (Rank::High, Some(7000)));
    assert!(!load().has_whole_chunk);
    rename(&fixture, "big", "small");
    fixture.wait_until("the chunk to be on its way", |fs| in_flight_bytes(fs, id) == CHUNK);
    assert_eq!(load().priority, Rank::Normal);
    fixture.storage.set(Mood::Work);
    fixture.wait_until("the chunk to be stored", |fs| fs.backlog_bytes() == 0);
}

/// Goal: the next worker treats each file as the former one did: it asks about the path the file
/// has now.
#[test]
fn the_next_worker_asks_the_same_rules() {
    let fixture = redirected(Mood::Work);
    let (log, _) = fixture.create("log");
    let (out, _) = fixture.create("tmp");
    rename(&fixture, "tmp", "OUT1");
    fixture.write(out, 0, b"buffered").recv().unwrap().unwrap();
    let next = attach(&fixture.config, fixture.arena, fixture.storage.clone());
    for id in [log, out] {
        next.open(caller(), id, libc::O_WRONLY).unwrap();
    }
    assert!(next.is_uncached(log) && !next.is_uncached(out));
    assert_eq!(read(&next, out, 0, 100), b"buffered");
}
