//! Lanes and the writer against stand-ins for storage and filesystem.

mod engines;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::*;
use crate::arena::{Arena, SlotPool};
use crate::backing::{KernelStorage, Storage, SyncKind};
use crate::buffer::Slot;
use crate::clock::boottime_ms;
use crate::config::MountConfig;
use crate::isolation::Isolation;
use crate::schedule::{Lanes, Policy};

/// What a stand-in does with one write.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Pass,
    Short(usize),
    Fail(i32),
}

/// Passes writes on to the kernel, recording them, except where told otherwise.
#[derive(Default)]
struct ScriptedStorage {
    answers: Mutex<VecDeque<Answer>>,
    writes: Mutex<Vec<(u64, usize)>>,
    /// The errno of each sync, in turn; 0 for one that works. None: on this machine.
    syncs: Option<Mutex<VecDeque<i32>>>,
    /// What was to be written out of the page cache, and after how many writes.
    flushes: Mutex<Vec<(u64, u64, usize)>>,
}

impl Storage for ScriptedStorage {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Pass);
        let len = match answer {
            Answer::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Answer::Pass => KernelStorage.write_at(file, bytes, offset)?,
            Answer::Short(len) => {
                let all: Vec<u8> = bytes.iter().flat_map(|slice| slice.to_vec()).collect();
                KernelStorage.write_at(file, &[IoSlice::new(&all[..len.min(all.len())])], offset)?
            }
        };
        self.writes.lock().unwrap().push((offset, len));
        Ok(len)
    }

    fn is_elsewhere(&self, _: BorrowedFd) -> bool {
        self.syncs.is_some()
    }

    fn flush_range(&self, _: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
        let writes = self.writes.lock().unwrap().len();
        self.flushes.lock().unwrap().push((offset, len, writes));
        Ok(())
    }

    fn sync(&self, _: BorrowedFd, _: SyncKind) -> io::Result<()> {
        let syncs = self.syncs.as_ref().expect("nobody syncs on this machine");
        match syncs.lock().unwrap().pop_front().expect("no more than one for each run") {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

const POLICY: Policy = Policy { max_age_ms: 30_000, closed_delay_ms: 10 };

fn arena() -> Arena {
    Arena::create(&MountConfig::for_tests(Path::new("/"), 16 << 20)).unwrap()
}

fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// A run of `len` bytes from `offset` on, in fresh slots, of a temporary file.
fn run(arena: &Arena, offset: u64, len: u64) -> (tempfile::NamedTempFile, Run) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let fd = file.as_file().as_fd().try_clone_to_owned().unwrap();
    let (pool, _) = SlotPool::rebuild(arena);
    let segment = u64::from(arena.segment_bytes());
    let mut pieces = Vec::new();
    let mut at = offset;
    while at < offset + len {
        let slot: Slot = pool.try_take(1).unwrap()[0];
        let start = at % segment;
        let piece_len = (segment - start).min(offset + len - at);
        let bytes: Vec<u8> = (at..at + piece_len).map(byte_at).collect();
        arena.copy_in(slot, start as u32, &bytes);
        pieces.push(Piece { slot, at: start as u32, offset: at, len: piece_len as u32 });
        at += piece_len;
    }
    let data_file = Arc::new(DataFile::new(fd, Access::ReadWrite));
    (file, Run { file: FileId(1), offset, len, pieces, data_file, is_end_first: false })
}

fn check(file: &tempfile::NamedTempFile, offset: u64, len: u64) {
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(bytes.len() as u64, offset + len);
    assert!(bytes[..offset as usize].iter().all(|byte| *byte == 0));
    assert!((offset..offset + len).all(|at| bytes[at as usize] == byte_at(at)));
}

/// Goal: runs of any place and length arrive whole, large ones in as few calls as possible.
#[test]
fn runs_arrive_whole() {
    let arena = arena();
    for (offset, len) in [(0, 10), (5, 4096), (0, 1 << 20), (777, 2_000_000), (4096, 300_001)] {
        let storage = ScriptedStorage::default();
        let (file, run) = run(&arena, offset, len);
        let written = write_run(&storage, &arena, &run).unwrap();
        check(&file, offset, len);
        assert!(written.calls <= 3, "{offset}+{len}: {} calls", written.calls);
        assert!(written.direct_bytes <= len);
    }
}

/// Goal: the part of a block at the end of a large run is written out while the disk is there, after
/// the bytes before it; that of a small one waits.
#[test]
fn the_end_of_a_large_run_is_written_out_at_once() {
    let arena = arena();
    const BLOCK: u64 = 64 << 10;
    for (len, is_flushed) in [(1 << 20, false), ((1 << 20) + 100, true), (BLOCK + 100, false)] {
        let storage = ScriptedStorage::default();
        let (_file, run) = run(&arena, 0, len);
        write_run(&storage, &arena, &run).unwrap();
        let writes = storage.writes.lock().unwrap().len();
        let flushes = storage.flushes.lock().unwrap();
        let to_end = |flush: &(u64, u64, usize)| flush.0 + flush.1 == len && flush.2 == writes;
        let of_end = flushes.iter().filter(|flush| to_end(flush) && flush.1 < BLOCK).count();
        assert_eq!(of_end, usize::from(is_flushed), "{len}: {flushes:?}");
    }
}

/// Goal: what is kept elsewhere counts as written when it is synced, and not before.
#[test]
fn a_run_that_is_kept_elsewhere_is_synced() {
    let arena = arena();
    let syncs = Some(Mutex::new(VecDeque::from([libc::EIO, 0])));
    let storage = ScriptedStorage { syncs, ..ScriptedStorage::default() };
    let (file, run) = run(&arena, 0, 300_000);
    assert_eq!(write_run(&storage, &arena, &run).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(write_run(&storage, &arena, &run).unwrap().is_synced);
    check(&file, 0, 300_000);
}

/// Goal: where the end is to come first, the last byte of a run that makes the file longer by several
/// writes is synced before any other is written, and the run arrives whole.
#[test]
fn the_end_is_written_first_where_sizes_are_added_up() {
    let arena = arena();
    for (offset, len, syncs) in [(0, 300_000, 2), (5000, 300_000, 2), (0, 100_000, 1)] {
        let syncs = Some(Mutex::new(VecDeque::from(vec![0; syncs])));
        let storage = ScriptedStorage { syncs, ..ScriptedStorage::default() };
        let (file, run) = run(&arena, offset, len);
        let run = Run { is_end_first: true, ..run };
        write_run(&storage, &arena, &run).unwrap();
        check(&file, offset, len);
        let first = storage.writes.lock().unwrap()[0];
        assert_eq!(first == (offset + len - 1, 1), len == 300_000, "{first:?}");
        assert!(storage.syncs.as_ref().unwrap().lock().unwrap().is_empty());
        // It is so long already.
        *storage.syncs.as_ref().unwrap().lock().unwrap() = [0].into();
        write_run(&storage, &arena, &run).unwrap();
    }
    let syncs = Some(Mutex::new(VecDeque::from([libc::EIO])));
    let storage = ScriptedStorage { syncs, ..ScriptedStorage::default() };
    let (_file, run) = run(&arena, 0, 300_000);
    assert!(write_run(&storage, &arena, &Run { is_end_first: true, ..run }).is_err());
    assert_eq!(storage.writes.lock().unwrap().len(), 1);
}

/// Goal: short writes and interruptions at every call are gone on with, and the run arrives whole.
#[test]
fn short_writes_and_interruptions_are_continued() {
    let arena = arena();
    for nth in 0..6 {
        for answer in [
            Answer::Short(1),
            Answer::Short(4097),
            Answer::Fail(libc::EINTR),
            Answer::Fail(libc::EAGAIN),
        ] {
            let storage = ScriptedStorage::default();
            let mut answers: VecDeque<Answer> = vec![Answer::Short(70_000); nth].into();
            answers.push_back(answer);
            *storage.answers.lock().unwrap() = answers;
            let (file, run) = run(&arena, 1000, 700_000);
            write_run(&storage, &arena, &run).unwrap();
            check(&file, 1000, 700_000);
        }
    }
}

/// Goal: a direct write that the filesystem refuses goes through the page cache.
#[test]
fn refused_direct_writes_fall_back() {
    let arena = arena();
    let storage = ScriptedStorage::default();
    *storage.answers.lock().unwrap() = [Answer::Fail(libc::EINVAL)].into();
    let (file, run) = run(&arena, 0, 1 << 20);
    if run.data_file.direct().is_none() {
        eprintln!("no O_DIRECT here: nothing to fall back from");
        return;
    }
    let written = write_run(&storage, &arena, &run).unwrap();
    check(&file, 0, 1 << 20);
    assert_eq!(written.direct_bytes, 0);
    assert!(run.data_file.direct().is_none());
}

/// Goal: every other error comes back with its errno.
#[test]
fn errors_are_reported() {
    let arena = arena();
    for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::ESTALE] {
        let storage = ScriptedStorage::default();
        *storage.answers.lock().unwrap() = [Answer::Fail(errno)].into();
        let (_file, run) = run(&arena, 0, 5000);
        let error = write_run(&storage, &arena, &run).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno));
    }
}

/// A filesystem with one file and one run at a time.
struct OneRun {
    run: Mutex<Option<Run>>,
    range: Range<u64>,
    retry_ms: u64,
    events: mpsc::Sender<String>,
}

impl Source for OneRun {
    fn plan_turn(&self, _: FileId, _: Reason) -> Plan {
        Plan::Write(self.range.clone())
    }

    fn take_run(&self, _: FileId, range: Range<u64>, _: u64) -> io::Result<Option<Run>> {
        let mut run = self.run.lock().unwrap();
        if run.as_ref().is_some_and(|run| range.contains(&run.offset)) {
            return Ok(run.take());
        }
        Ok(None)
    }

    fn stored(&self, run: Run, _: Written, _: Duration) {
        self.events.send(format!("stored {}", run.len)).unwrap();
    }

    fn give_space(&self, _: &Run) -> bool {
        false
    }

    fn failed(&self, _: FileId, run: Option<Run>, error: io::Error) -> u64 {
        *self.run.lock().unwrap() = run;
        self.events.send(format!("failed {}", error.raw_os_error().unwrap())).unwrap();
        boottime_ms() + self.retry_ms
    }

    fn turn_ended(&self, _: FileId, _: Reason, bytes: u64, end: &mut dyn FnMut(Load)) {
        self.events.send(format!("ended {bytes}")).unwrap();
        let left = self.run.lock().unwrap().as_ref().map_or(0, |run| run.len);
        let oldest_ms = (left > 0).then_some(0);
        end(Load {
            dirty_bytes: left,
            has_whole_chunk: left > 0,
            oldest_ms,
            open: true,
            ..Load::default()
        });
    }

    fn turn_refused(&self, _: FileId, _: &mut dyn FnMut(Load, u64)) {
        unreachable!("no worker died");
    }
}

/// Goal: a lane writes a whole chunk when it is told of one; an error is reported, the bytes are
/// kept, and the next try stores them.
#[test]
fn a_lane_writes_fails_and_tries_again() {
    let arena = arena();
    let (file, run) = run(&arena, 0, 500_000);
    let (events, heard) = mpsc::channel();
    let source: Arc<dyn Source> =
        Arc::new(OneRun { run: Mutex::new(Some(run)), range: 0..1 << 20, retry_ms: 30, events });
    let scripted = Arc::new(ScriptedStorage::default());
    *scripted.answers.lock().unwrap() = [Answer::Fail(libc::EIO)].into();
    let storage: Arc<dyn Storage> = scripted;
    let queue =
        Arc::new(LaneQueue::new(POLICY, Crew { lanes: Lanes::fixed(1), patience: None }, None));
    let throttle = Arc::new(Throttle::new(None));
    let isolation = Arc::new(Isolation::new(arena));
    spawn_lanes(&queue, &source, &storage, &throttle, arena, &isolation).unwrap();
    let load = Load {
        dirty_bytes: 500_000,
        has_whole_chunk: true,
        oldest_ms: Some(boottime_ms()),
        open: true,
        ..Load::default()
    };
    queue.with(|scheduler| scheduler.update(FileId(1), load, boottime_ms()));
    let hear = || heard.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(hear(), "failed 5");
    assert_eq!(hear(), "ended 0");
    assert_eq!(hear(), "stored 500000");
    assert_eq!(hear(), "ended 500000");
    check(&file, 0, 500_000);
}

/// Holds each turn until it is let go, and notes how many are held at most.
struct Held {
    held: AtomicUsize,
    most: AtomicUsize,
    begun: mpsc::Sender<()>,
    let_go: Mutex<mpsc::Receiver<()>>,
}

impl Source for Held {
    fn plan_turn(&self, _: FileId, _: Reason) -> Plan {
        self.most.fetch_max(self.held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.begun.send(()).unwrap();
        self.let_go.lock().unwrap().recv().unwrap();
        self.held.fetch_sub(1, Ordering::SeqCst);
        Plan::Nothing
    }

    fn turn_ended(&self, _: FileId, _: Reason, _: u64, end: &mut dyn FnMut(Load)) {
        end(Load::default());
    }

    fn take_run(&self, _: FileId, _: Range<u64>, _: u64) -> io::Result<Option<Run>> {
        unreachable!("there is nothing to write")
    }

    fn stored(&self, _: Run, _: Written, _: Duration) {
        unreachable!("nothing is written")
    }

    fn give_space(&self, _: &Run) -> bool {
        unreachable!("nothing is written")
    }

    fn failed(&self, _: FileId, _: Option<Run>, _: io::Error) -> u64 {
        unreachable!("nothing is written")
    }

    fn turn_refused(&self, _: FileId, _: &mut dyn FnMut(Load, u64)) {
        unreachable!("no worker died");
    }
}

/// Goal: of threads for eight lanes as many are at work as there are lanes, and none is forgotten.
/// Method: each turn is held for a moment, in which others would begin.
#[test]
fn lanes_that_are_too_many_wait() {
    const FILES: u64 = 6;
    for (lanes, count) in [(Lanes::measured(8), 1), (Lanes::fixed(3), 3)] {
        let arena = arena();
        let ((begun, begins), (release, let_go)) = (mpsc::channel(), mpsc::channel());
        let (held, most, let_go) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(let_go));
        let held = Arc::new(Held { held, most, begun, let_go });
        let source: Arc<dyn Source> = held.clone();
        let storage: Arc<dyn Storage> = Arc::new(ScriptedStorage::default());
        let queue = Arc::new(LaneQueue::new(POLICY, Crew { lanes, patience: None }, None));
        let (throttle, isolation) =
            (Arc::new(Throttle::new(None)), Arc::new(Isolation::new(arena)));
        spawn_lanes(&queue, &source, &storage, &throttle, arena, &isolation).unwrap();
        for file in 1..=FILES {
            let load = Load { dirty_bytes: 1, has_whole_chunk: true, ..Load::default() };
            let load = Load { oldest_ms: Some(boottime_ms()), open: true, ..load };
            queue.with(|scheduler| scheduler.update(FileId(file), load, boottime_ms()));
        }
        for _ in 0..FILES {
            begins.recv_timeout(Duration::from_secs(60)).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            release.send(()).unwrap();
        }
        assert!(held.most.load(Ordering::SeqCst) <= count);
        assert_eq!(queue.lanes(), count as u32);
    }
}

/// Goal: the rate limit spaces runs, and without one nothing waits.
#[test]
fn the_throttle_cuts_runs() {
    assert_eq!(Throttle::new(None).run_bytes_max(4 << 20), 4 << 20);
    assert_eq!(Throttle::new(Some(1 << 20)).run_bytes_max(4 << 20), (1 << 20) / 10);
    assert_eq!(Throttle::new(Some(1)).run_bytes_max(4 << 20), 1);
    Throttle::new(None).wait_turn(u64::MAX);
}
