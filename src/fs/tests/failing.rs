//! Backing files that refuse bytes: every error at every call, partial ones, lasting ones with
//! memory full, and bytes that the user gives up.

use super::*;
use crate::control::protocol::{ByteRange, FailureStatus, GivenUp};
use crate::fs::GiveUp;

/// What goes wrong, and with which calls.
#[derive(Clone)]
enum Fault {
    None,
    /// All calls from this one on.
    From(usize, i32),
    /// This call only.
    At(usize, Slip),
    /// Calls that write a byte of this range.
    Within(std::ops::Range<u64>, i32),
}

/// What a writer has to cope with by itself.
#[derive(Clone, Copy, Debug)]
enum Slip {
    Errno(i32),
    Short,
}

/// The kernel's storage, with a fault.
struct FaultyStorage {
    fault: Mutex<Fault>,
    calls: Mutex<usize>,
    hits: Mutex<usize>,
}

impl FaultyStorage {
    fn new(fault: Fault) -> Arc<FaultyStorage> {
        Arc::new(FaultyStorage { fault: Mutex::new(fault), calls: 0.into(), hits: 0.into() })
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn hits(&self) -> usize {
        *self.hits.lock().unwrap()
    }

    /// What the next call, which writes this range, has to suffer.
    fn next(&self, range: std::ops::Range<u64>) -> Option<Slip> {
        let mut calls = self.calls.lock().unwrap();
        let number = *calls;
        *calls += 1;
        let slip = match self.fault.lock().unwrap().clone() {
            Fault::From(first, code) if number >= first => Slip::Errno(code),
            Fault::At(only, slip) if number == only => slip,
            Fault::Within(bad, code) if bad.start < range.end && range.start < bad.end => {
                Slip::Errno(code)
            }
            _ => return None,
        };
        *self.hits.lock().unwrap() += 1;
        Some(slip)
    }
}

impl Storage for FaultyStorage {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        let len: usize = bytes.iter().map(|slice| slice.len()).sum();
        match self.next(offset..offset + len as u64) {
            None => KernelStorage.write_at(file, bytes, offset),
            Some(Slip::Errno(code)) => Err(errno(code)),
            Some(Slip::Short) => {
                let first = &bytes[0];
                let some = IoSlice::new(&first[..first.len().div_ceil(2)]);
                KernelStorage.write_at(file, &[some], offset)
            }
        }
    }
}

/// Three chunks and a bit, different everywhere.
fn content() -> Vec<u8> {
    (0..3 * CHUNK + 1000).map(|at| (at * 31 % 251 + 1) as u8).collect()
}

impl Fixture<FaultyStorage> {
    fn faulty(fault: Fault) -> Fixture<FaultyStorage> {
        Fixture::with(FaultyStorage::new(fault), |_| {})
    }

    fn failure(&self) -> FailureStatus {
        let mut files = self.fs.failing_files();
        assert_eq!(files.len(), 1, "{files:?}");
        let file = files.remove(0);
        let failure = file.failure.expect("a failing file says why");
        let listed: u64 = failure.ranges.iter().map(|range| range.length).sum();
        assert_eq!(listed, file.backlog_bytes, "the ranges are what is not stored");
        failure
    }

    fn give_up(&self, id: u64, how: GiveUp) -> io::Result<GivenUp> {
        let (reply, replied) = replies();
        self.fs.give_up(id, how, reply);
        replied.recv_timeout(LONG).unwrap()
    }
}

/// How many calls it takes when nothing goes wrong.
fn calls_needed() -> usize {
    let fixture = Fixture::faulty(Fault::None);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &content()).recv().unwrap().unwrap();
    fixture.fsync(id).unwrap();
    *fixture.storage.calls.lock().unwrap()
}

/// Goal: every error at every call: told by fsync and once by each handle's close, shown with all
/// that is known of it, and over when the disk works again; nothing is lost, also of what readers
/// see meanwhile.
#[test]
fn every_error_at_every_call_is_told_shown_and_mended() {
    let calls = calls_needed();
    assert!(calls >= 4, "{calls} calls are no small run");
    let errors = [
        (libc::EIO, "EIO"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EDQUOT, "EDQUOT"),
        (libc::EROFS, "EROFS"),
        (libc::ESTALE, "ESTALE"),
    ];
    for (wanted, name) in errors {
        for first in 0..calls {
            let context = format!("{name} from call {first} on");
            let fixture = Fixture::faulty(Fault::From(first, wanted));
            let (id, one) = fixture.create("f");
            let other = fixture.fs.open(caller(), id, libc::O_RDWR).unwrap().handle;
            fixture.write(id, 0, &content()).recv().unwrap().unwrap();
            assert_eq!(code(fixture.fsync(id)), Some(wanted), "{context}");
            for handle in [one, other] {
                assert_eq!(code(fixture.fs.flush(id, handle, 1)), Some(wanted), "{context}");
                assert_eq!(code(fixture.fs.flush(id, handle, 1)), None, "told twice: {context}");
            }
            assert_eq!(code(fixture.fsync(id)), Some(wanted), "not stored: {context}");
            assert_eq!(code(fixture.fs.flush(id, one, 1)), None, "told again: {context}");
            let failure = fixture.failure();
            assert_eq!((failure.errno, failure.name.as_str()), (wanted, name));
            assert!(failure.attempts >= 2 && failure.for_ms < 60_000 && !failure.lost);
            assert!(fixture.read(id, 0, 1 << 20) == content(), "{context}");
            fixture.storage.set(Fault::None);
            fixture.fsync(id).unwrap();
            assert!(fixture.fs.failing_files().is_empty(), "{context}");
            assert!(std::fs::read(fixture.path("f")).unwrap() == content(), "{context}");
            assert_eq!((fixture.fs.backlog_bytes(), fixture.fs.held_bytes()), (0, 0));
        }
    }
}

/// Goal: what is no refusal is no error for anybody: interrupted, delayed and short calls.
#[test]
fn interrupted_and_short_calls_at_every_call_go_on() {
    let slips = [Slip::Errno(libc::EINTR), Slip::Errno(libc::EAGAIN), Slip::Short];
    for slip in slips {
        for number in 0..calls_needed() {
            let fixture = Fixture::faulty(Fault::At(number, slip));
            let (id, handle) = fixture.create("f");
            fixture.write(id, 0, &content()).recv().unwrap().unwrap();
            fixture.fsync(id).unwrap();
            assert_eq!(fixture.storage.hits(), 1, "{slip:?} at call {number}");
            assert_eq!(code(fixture.fs.flush(id, handle, 1)), None, "{slip:?} at call {number}");
            assert!(std::fs::read(fixture.path("f")).unwrap() == content(), "{slip:?} at {number}");
        }
    }
}

/// Goal: nobody has to ask for bytes to be tried again: they leave by themselves, soon after the
/// disk works, and the tries until then are few.
#[test]
fn refused_bytes_are_tried_again_by_themselves() {
    let fixture = Fixture::faulty(Fault::From(0, libc::EIO));
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &[1; CHUNK as usize]).recv().unwrap().unwrap();
    let begun = Instant::now();
    fixture.wait_until("the fourth try", |_| fixture.storage.hits() >= 4);
    let (tries, took) = (fixture.storage.hits(), begun.elapsed());
    assert!(took >= Duration::from_millis(900), "{tries} tries in {took:?}");
    assert!(fixture.failure().for_ms >= 900);
    fixture.storage.set(Fault::None);
    fixture.wait_until("the bytes to leave", |fs| fs.backlog_bytes() == 0);
    assert!(fixture.fs.failing_files().is_empty());
}

/// Goal: bytes that can be stored do not wait behind those that cannot, and the file stays listed
/// for these alone.
#[test]
fn what_can_be_stored_is_stored() {
    let fixture = Fixture::faulty(Fault::None);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &vec![9; 4 * CHUNK as usize]).recv().unwrap().unwrap();
    fixture.fsync(id).unwrap();
    fixture.storage.set(Fault::Within(CHUNK..CHUNK + 1, libc::EIO));
    fixture.write(id, 0, &content()).recv().unwrap().unwrap();
    fixture.fs.finish();
    fixture.wait_until("the failure", |fs| !fs.failing_files().is_empty());
    fixture.wait_until("the rest to leave", |fs| {
        assert_eq!(fs.failing_files().len(), 1, "forgotten while others are stored");
        fs.backlog_bytes() == CHUNK
    });
    assert_eq!(fixture.failure().ranges, [ByteRange { offset: CHUNK, length: CHUNK }]);
    fixture.wait_until("all tries to be counted, also those before others were stored", |_| {
        let hits = fixture.storage.hits();
        hits >= 3 && fixture.failure().attempts as usize == hits
    });
    assert!(fixture.fs.only_failing_left(0));
    fixture.storage.set(Fault::None);
    fixture.fs.retry_now();
    fixture.wait_until("the last chunk to leave", |fs| fs.backlog_bytes() == 0);
    assert!(fixture.fs.failing_files().is_empty());
    let len = content().len();
    assert!(std::fs::read(fixture.path("f")).unwrap()[..len] == content());
}

/// Goal: a file that is cut or removed fails no more.
#[test]
fn what_is_cut_off_or_removed_fails_no_more() {
    let fixture = Fixture::faulty(Fault::From(0, libc::EIO));
    for name in ["cut", "removed"] {
        let (id, handle) = fixture.create(name);
        fixture.write(id, 0, b"refused").recv().unwrap().unwrap();
        assert_eq!(code(fixture.fsync(id)), Some(libc::EIO));
        if name == "cut" {
            fixture.set_size(id, 0).recv_timeout(LONG).unwrap().unwrap();
        } else {
            fixture.fs.unlink(caller(), ROOT_ID, OsStr::new(name)).unwrap();
            fixture.fs.release(caller(), id, handle);
            fixture.fs.forget(id, 1);
        }
        fixture.wait_until("the failure to end", |fs| fs.failing_files().is_empty());
        assert_eq!((fixture.fs.backlog_bytes(), fixture.fs.held_bytes()), (0, 0));
    }
}

/// Goal: who opens a file that fails in order to write to it is told by his close; a reader is not.
#[test]
fn who_opens_a_failing_file_to_write_is_told() {
    let fixture = Fixture::faulty(Fault::From(0, libc::EIO));
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, b"refused").recv().unwrap().unwrap();
    assert_eq!(code(fixture.fsync(id)), Some(libc::EIO));
    let reader = fixture.fs.open(caller(), id, libc::O_RDONLY).unwrap().handle;
    let writer = fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap().handle;
    assert_eq!(code(fixture.fs.flush(id, reader, 1)), None);
    assert_eq!(code(fixture.fs.flush(id, writer, 1)), Some(libc::EIO));
    assert_eq!(code(fixture.fs.flush(id, writer, 1)), None);
}

/// Goal: children that close their copies of a descriptor, however many, take the news away from
/// nobody; an fsync tells all.
#[test]
fn each_closer_of_a_handle_is_told() {
    let fixture = Fixture::faulty(Fault::From(0, libc::EIO));
    let (id, handle) = fixture.create("f");
    fixture.write(id, 0, &[1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.wait_until("the failure", |fs| !fs.failing_files().is_empty());
    for closer in 0..100 {
        assert_eq!(code(fixture.fs.flush(id, handle, closer)), Some(libc::EIO));
        assert_eq!(code(fixture.fs.flush(id, handle, closer)), None);
    }
    assert_eq!(code(fixture.fs.check(id, handle)), Some(libc::EIO), "fsync");
    assert_eq!(code(fixture.fs.flush(id, handle, 1000)), None);
}

/// Goal: with memory full of refused bytes, writers wait some seconds and are then answered with
/// the error: those that are parked, those that found no segment, and, at once, those that come
/// later; also of a file of which not a byte was taken. Everything that was acknowledged is there
/// in the end.
#[test]
fn writers_do_not_wait_for_ever_for_a_disk_that_refuses() {
    let fixture = Fixture::faulty(Fault::From(0, libc::EIO));
    let files: Vec<u64> = (0..4).map(|n| fixture.create(&format!("f{n}")).0).collect();
    let piece = 64 << 10;
    let mut replied = Vec::new();
    for number in 0..100u64 {
        let bytes = vec![number as u8 + 1; piece as usize];
        for (file, id) in files.iter().enumerate().take(if number < 20 { 3 } else { 4 }) {
            replied.push((file, number, fixture.write(*id, number * piece, &bytes)));
        }
    }
    let begun = Instant::now();
    let mut refused = 0;
    let mut acknowledged = Vec::new();
    for (file, number, replied) in replied {
        match replied.recv_timeout(LONG).expect("an answer") {
            Ok(_) => acknowledged.push((file, number)),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                refused += 1;
            }
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(refused > 100 && acknowledged.len() > 20, "{refused}, {}", acknowledged.len());
    assert!(fixture.fs.held_bytes() <= 4 << 20);
    let later = fixture.write(files[0], 1 << 30, &[1; 4096]);
    assert_eq!(code(later.try_recv().expect("an answer at once")), Some(libc::EIO));
    assert_eq!(fixture.fs.status().waiting_writes, 0);
    fixture.storage.set(Fault::None);
    fixture.fs.retry_now();
    fixture.fs.finish();
    fixture.wait_until("everything to be stored", |fs| fs.backlog_bytes() == 0);
    for (file, number) in acknowledged {
        let bytes = std::fs::read(fixture.path(&format!("f{file}"))).unwrap();
        let at = (number * piece) as usize;
        assert!(bytes[at..at + piece as usize].iter().all(|byte| *byte == number as u8 + 1));
    }
    fixture.write(files[0], 0, b"again").recv().unwrap().unwrap();
}

/// Goal: a failure that passes within seconds costs writers that wait for memory nothing.
#[test]
fn a_short_failure_is_waited_for() {
    let fixture = Fixture::faulty(Fault::From(0, libc::ENOSPC));
    let (id, _) = fixture.create("f");
    let piece = 64 << 10;
    let replied: Vec<_> = (0..100u64)
        .map(|number| fixture.write(id, number * piece, &vec![1; piece as usize]))
        .collect();
    fixture.wait_until("two tries", |_| fixture.storage.hits() >= 2);
    fixture.storage.set(Fault::None);
    for replied in replied {
        assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap(), piece as u32);
    }
    fixture.fsync(id).unwrap();
    assert_eq!(std::fs::metadata(fixture.path("f")).unwrap().len(), 100 * piece);
}

/// Goal: bytes that are given up are gone, with their memory and the failure; what the disk has is
/// what is read; who waits is answered, each handle is told once, and the mount may end in peace.
#[test]
fn what_is_given_up_is_gone_and_told() {
    let fixture = Fixture::faulty(Fault::None);
    let (id, one) = fixture.create("f");
    let other = fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap().handle;
    fixture.write(id, 0, b"stored").recv().unwrap().unwrap();
    fixture.fsync(id).unwrap();
    let refusal = fixture.give_up(id, GiveUp::Failing);
    assert_eq!(code(refusal), Some(libc::ENODATA), "nothing is wrong with it");
    fixture.storage.set(Fault::From(0, libc::EDQUOT));
    fixture.write(id, 2, b"X").recv().unwrap().unwrap();
    fixture.write(id, 100, &[7; 50]).recv().unwrap().unwrap();
    assert_eq!(code(fixture.fsync(id)), Some(libc::EDQUOT));
    assert_eq!(code(fixture.fs.flush(id, one, 1)), Some(libc::EDQUOT));
    let given_up = fixture.give_up(id, GiveUp::Failing).unwrap();
    let wanted = [ByteRange { offset: 2, length: 1 }, ByteRange { offset: 100, length: 50 }];
    assert_eq!(given_up.ranges, wanted);
    assert_eq!((given_up.bytes, given_up.size, given_up.errno), (51, 6, libc::EDQUOT));
    assert_eq!((fixture.fs.backlog_bytes(), fixture.fs.held_bytes()), (0, 0));
    assert!(fixture.fs.failing_files().is_empty());
    assert_eq!(fixture.read(id, 0, 1000), b"stored");
    assert_eq!(fixture.fs.getattr(id).unwrap().attr.size, 6);
    for handle in [one, other] {
        assert_eq!(code(fixture.fs.flush(id, handle, 1)), Some(libc::EDQUOT), "not told");
        assert_eq!(code(fixture.fs.flush(id, handle, 1)), None, "told twice");
    }
    fixture.storage.set(Fault::None);
    fixture.fsync(id).unwrap();
    assert_eq!(std::fs::read(fixture.path("f")).unwrap(), b"stored");
}

/// Goal: the kernel's request to take over the smaller size changes nothing below, works once, and
/// takes nothing away that was written after the bytes were given up.
#[test]
fn the_size_after_giving_up_is_taken_over_once() {
    let fixture = Fixture::faulty(Fault::From(0, libc::EIO));
    let (id, _) = fixture.create("f");
    std::fs::write(fixture.path("f"), b"stored").unwrap();
    let time = std::fs::metadata(fixture.path("f")).unwrap().modified().unwrap();
    for _ in 0..2 {
        fixture.write(id, 100, b"refused").recv().unwrap().unwrap();
        assert_eq!(code(fixture.fsync(id)), Some(libc::EIO));
        assert_eq!(fixture.give_up(id, GiveUp::Failing).unwrap().size, 6);
    }
    fixture.write(id, 50, b"new").recv().unwrap().unwrap();
    assert_eq!(code(fixture.set_size(id, 6).recv_timeout(LONG).unwrap()), Some(libc::EBUSY));
    assert_eq!(fixture.read(id, 50, 3), b"new");
    assert_eq!(fixture.give_up(id, GiveUp::Any).unwrap().bytes, 3);
    let attr = fixture.set_size(id, 6).recv_timeout(LONG).unwrap().unwrap();
    assert_eq!(attr.attr.size, 6);
    assert_eq!(std::fs::metadata(fixture.path("f")).unwrap().modified().unwrap(), time);
    fixture.set_size(id, 6).recv_timeout(LONG).unwrap().unwrap();
    let after = std::fs::metadata(fixture.path("f")).unwrap().modified().unwrap();
    assert!(after >= time, "a truncation as any other");
}

/// Goal: a file that nothing is wrong with can be given up, too, when the user insists; an fsync
/// and writes that wait are answered. Bytes on their way to the disk are waited for.
#[test]
fn those_who_wait_are_answered_when_their_bytes_are_given_up() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    let (reply, synced) = replies();
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.wait_until("a lane to be at work", |fs| {
        fs.status().lanes.iter().any(|lane| lane.range == ByteRange { offset: 0, length: CHUNK })
    });
    fixture.write(id, CHUNK, b"behind").recv().unwrap().unwrap();
    fixture.fs.fsync(id, SyncKind::Data, reply);
    let (reply, given_up) = replies();
    fixture.fs.give_up(id, GiveUp::Any, reply);
    std::thread::sleep(Duration::from_millis(50));
    assert!(given_up.try_recv().is_err(), "bytes are on their way");
    fixture.storage.set(Mood::Work);
    assert_eq!(given_up.recv_timeout(LONG).unwrap().unwrap().bytes, 6);
    assert_eq!(code(synced.recv_timeout(LONG).unwrap()), Some(libc::EIO));
    assert_eq!(std::fs::metadata(fixture.path("f")).unwrap().len(), CHUNK);
}

/// Goal: while a write hangs, the status says which lane has had which bytes of which file since
/// when, and other files' bytes, names and sizes are at hand.
#[test]
fn a_lane_that_hangs_is_shown() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("hanging");
    let (other, _) = fixture.create("other");
    assert!(fixture.fs.status().lanes.is_empty());
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.write(other, 0, b"buffered").recv().unwrap().unwrap();
    fixture.wait_until("the lane to hang for a while", |fs| {
        let lanes = fs.status().lanes;
        lanes.len() == 1 && lanes[0].for_ms >= 300
    });
    let lanes = fixture.fs.status().lanes;
    assert_eq!(lanes[0].path, PathBuf::from("hanging"));
    assert_eq!(lanes[0].range, ByteRange { offset: 0, length: CHUNK });
    assert_eq!(fixture.read(other, 0, 100), b"buffered");
    assert_eq!(fixture.read(id, 5, 3), [1; 3]);
    assert_eq!(fixture.fs.getattr(id).unwrap().attr.size, CHUNK);
    fixture.fs.lookup(caller(), ROOT_ID, OsStr::new("other")).unwrap();
    fixture.storage.set(Mood::Work);
    fixture.wait_until("the lane to be idle", |fs| fs.status().lanes.is_empty());
}
