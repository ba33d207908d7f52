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

/// Goal: the chunk of a rule is in force where that of the others is learned, and a rename goes from
/// one to the other.
#[test]
fn the_chunk_of_a_rule_is_not_learned() {
    let fixture = Fixture::with(MoodyStorage::new(Mood::Work), |config| {
        config.memory_bytes = 64 << 20;
        config.chunk_auto = true;
        config.rules = vec![Rule { chunk_bytes: Some(3 * CHUNK), ..rule("fixed") }];
    });
    let (fixed, free) = (fixture.create("fixed").0, fixture.create("free").0);
    let chunk_of = |id| {
        let node = fixture.fs.node(id).unwrap();
        let data = node.data_if_any().unwrap();
        data.update_chunk(&mut data.lock())
    };
    assert_eq!((chunk_of(fixed), chunk_of(free)), (3 * CHUNK, CHUNK));
    let node = fixture.fs.node(free).unwrap();
    let chunk = &node.data_if_any().unwrap().chunk;
    // 10 ms to position, 100 MB/s.
    for (file, bytes) in (0..100).zip([1u64 << 20, 4 << 20].into_iter().cycle()) {
        let took = Duration::from_micros(10_000 + bytes / 100);
        chunk.note_run(FileId(file), bytes, bytes, took);
    }
    assert!(chunk.step(1));
    assert_eq!((chunk_of(fixed), chunk_of(free)), (3 * CHUNK, 2 * CHUNK));
    rename(&fixture, "fixed", "other");
    rename(&fixture, "free", "fixed");
    assert_eq!((chunk_of(fixed), chunk_of(free)), (2 * CHUNK, 3 * CHUNK));
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

/// Goal: what passes through is not durable before an fsync, and is after it.
#[test]
fn what_passed_through_is_synced_by_fsync() {
    let fixture = redirected(Mood::Work);
    let (log, _) = fixture.create("log");
    fixture.write(log, 0, b"bytes").recv().unwrap().unwrap();
    let synced = fixture.fs.status().syncs;
    fixture.fsync(log).unwrap();
    assert_eq!(fixture.fs.status().syncs, synced + 1);
    fixture.fsync(log).unwrap();
    assert_eq!(fixture.fs.status().syncs, synced + 1, "nothing is new");
    fixture.write(log, 0, b"BYTES").recv().unwrap().unwrap();
    fixture.fsync(log).unwrap();
    assert_eq!(fixture.fs.status().syncs, synced + 2);
}

/// Goal: what is to stay free stays free, and a hole takes nothing of it.
#[test]
fn what_passes_through_leaves_free_what_is_to_stay_so() {
    let fixture = redirected(Mood::Work);
    let (log, _) = fixture.create("log");
    assert_eq!(fixture.write(log, 8 << 40, b"far").recv().unwrap().unwrap(), 3);
    let config = MountConfig { min_free_bytes: 1 << 60, ..(*fixture.config).clone() };
    let config = Arc::new(config);
    let fs = attach(&config, Arena::create(&config).unwrap(), fixture.storage.clone());
    let made = fs.create(caller(), ROOT_ID, OsStr::new("other"), MODE, libc::O_WRONLY).unwrap();
    let (reply, replied) = replies();
    fs.write(made.0.attr.id, 0, b"bytes", Mtime::OfNow, reply);
    assert_eq!(code(replied.recv_timeout(LONG).unwrap()), Some(libc::ENOSPC));
    assert_eq!(stored(&fixture, "other"), b"");
}

/// Goal: a time that was noted while the file was coalesced is not set over that of later writes.
#[test]
fn a_time_of_before_does_not_come_back() {
    let fixture = redirected(Mood::Work);
    let (id, _) = fixture.create("OUT1");
    fixture.write(id, 0, b"older").recv().unwrap().unwrap();
    let noted = crate::backing::Time { secs: 1_000_000_000, nanos: 0 };
    let change = Change {
        mode: None,
        uid: None,
        gid: None,
        size: None,
        atime: SetTime::Omit,
        mtime: SetTime::At(noted),
    };
    let (reply, replied) = replies();
    fixture.fs.setattr(caller(), id, change, reply);
    assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap().attr.mtime, noted);
    rename(&fixture, "OUT1", "done");
    fixture.write(id, 0, b"newer").recv_timeout(LONG).unwrap().unwrap();
    fixture.fs.settle();
    assert_ne!(fixture.fs.getattr(id).unwrap().attr.mtime, noted);
}

/// Writes two bytes at a time, and after some of them none at all.
struct ShortWrites(Mutex<u32>);

impl Storage for ShortWrites {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        let mut left = self.0.lock().unwrap();
        match *left {
            0 => return Err(errno(libc::ENOSPC)),
            1 => {
                *left = 2;
                return Err(io::ErrorKind::Interrupted.into());
            }
            _ => *left -= 2,
        }
        KernelStorage.write_at(file, &[IoSlice::new(&bytes[0][..2])], offset)
    }
}

/// Goal: short writes and interruptions show to nobody, and of an error that comes after some of
/// the bytes the reply says how many there are, as write(2) does.
#[test]
fn a_write_that_is_cut_short_says_how_far_it_came() {
    let storage = |writes| Arc::new(ShortWrites(Mutex::new(writes)));
    for (writes, replies) in [(4, 4), (5, 6), (100, 8)] {
        let fixture = Fixture::with(storage(writes), |config| config.only = vec!["/OUT*".into()]);
        let (log, _) = fixture.create("log");
        let replied = fixture.write(log, 0, b"12345678").recv_timeout(LONG).unwrap();
        assert_eq!(replied.unwrap(), replies, "{writes}");
        let stored = std::fs::read(fixture.path("log")).unwrap();
        assert_eq!(stored, b"12345678"[..replies as usize]);
    }
}

/// Goal: what was buffered before is stored soon, also when nothing is written any more.
#[test]
fn what_was_buffered_leaves_when_the_file_is_coalesced_no_more() {
    let fixture = redirected(Mood::Work);
    let (id, _) = fixture.create("OUT1");
    fixture.write(id, 0, b"bytes").recv().unwrap().unwrap();
    rename(&fixture, "OUT1", "done");
    fixture.wait_until("the bytes to be stored", |fs| fs.backlog_bytes() == 0);
}

/// Goal: of a file with several names, the one counts by which it was opened last.
#[test]
fn the_name_that_was_used_last_counts() {
    let fixture = redirected(Mood::Work);
    let (id, _) = fixture.create("OUT1");
    fixture.fs.link(caller(), id, ROOT_ID, OsStr::new("log")).unwrap();
    fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap();
    assert!(fixture.fs.is_uncached(id));
    fixture.fs.lookup(caller(), ROOT_ID, OsStr::new("OUT1")).unwrap();
    fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap();
    assert!(!fixture.fs.is_uncached(id));
}

/// Goal: while memory is scarce, who writes a file that takes none of it need not ask.
#[test]
fn what_passes_through_does_not_wait_at_the_gate() {
    let fixture = redirected(Mood::Wait);
    let (log, _) = fixture.create("log");
    let (out, _) = fixture.create("OUT1");
    let piece = 64 << 10;
    for number in 0..56 {
        let _ = fixture.write(out, number * piece, &vec![1; piece as usize]);
    }
    let lasts = |id| fixture.fs.getattr(id).unwrap().lasts;
    assert_eq!((lasts(out), lasts(log)), (Lasts::Once, Lasts::SOON));
    fixture.storage.set(Mood::Work);
}
