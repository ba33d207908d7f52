//! The filesystem without a kernel: called as the adapter calls it, over a temporary directory,
//! with storage that can be told to wait or to fail.

mod asking;
mod cached;
mod failing;
mod numbers;
mod outage;
mod power;
mod reserved;
mod rules;
mod seeing;
mod shared;
mod stable;

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::nodes::ROOT_ID;
use super::outage::Elsewhere;
use super::quiet::Until;
use super::*;
use crate::backing::{KernelStorage, SetTime, SyncKind, Time};
use crate::drain::{Plan, Source};
use crate::schedule::{FileId, Reason};

const CHUNK: u64 = 256 << 10;
const LONG: Duration = Duration::from_secs(30);
const MODE: Mode = Mode { bits: 0o755, umask: 0 };
const NO_CHANGE: Change = Change {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    atime: SetTime::Omit,
    mtime: SetTime::Omit,
};

fn caller() -> Caller {
    // SAFETY: reads ids of this process.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Caller { uid, gid, pid: 0, unique: 2, is_repeated: false }
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Work,
    Wait,
    Fail(i32),
}

/// The kernel's storage with a mood, and a record of what was written: offset and length.
struct MoodyStorage {
    mood: Mutex<Mood>,
    changed: Condvar,
    writes: Mutex<Vec<(u64, usize)>>,
}

impl MoodyStorage {
    fn new(mood: Mood) -> Arc<MoodyStorage> {
        let (changed, writes) = Default::default();
        Arc::new(MoodyStorage { mood: Mutex::new(mood), changed, writes })
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }
}

impl Storage for MoodyStorage {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        let mut mood = self.mood.lock().unwrap();
        while *mood == Mood::Wait {
            mood = self.changed.wait(mood).unwrap();
        }
        if let Mood::Fail(errno) = *mood {
            return Err(io::Error::from_raw_os_error(errno));
        }
        drop(mood);
        let len = KernelStorage.write_at(file, bytes, offset)?;
        self.writes.lock().unwrap().push((offset, len));
        Ok(len)
    }
}

struct Fixture<S = MoodyStorage> {
    dir: tempfile::TempDir,
    config: Arc<MountConfig>,
    arena: Arena,
    storage: Arc<S>,
    fs: Arc<Filesystem>,
}

impl Fixture {
    fn new(mood: Mood) -> Fixture {
        Fixture::with(MoodyStorage::new(mood), |_| {})
    }
}

impl<S: Storage + 'static> Fixture<S> {
    fn with(storage: Arc<S>, set: impl FnOnce(&mut MountConfig)) -> Fixture<S> {
        Fixture::on(Elsewhere(false), storage, set)
    }

    fn on(
        engines: impl Engines + 'static,
        storage: Arc<S>,
        set: impl FnOnce(&mut MountConfig),
    ) -> Fixture<S> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = MountConfig::for_tests(dir.path(), 4 << 20);
        set(&mut config);
        let config = Arc::new(config);
        let arena = Arena::create(&config).unwrap();
        let fs = attach_to(&config, arena, storage.clone(), engines);
        let fixture = Fixture { dir, config, arena, storage, fs };
        // Else the first writes wait for space, not for memory.
        fixture.wait_until("space to be held", |fs| fs.holds_space());
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a file and opens it: node id and handle.
    fn create(&self, name: &str) -> (u64, u64) {
        let made = self.fs.create(caller(), ROOT_ID, OsStr::new(name), MODE, libc::O_WRONLY);
        let (entry, handle) = made.unwrap();
        (entry.attr.id, handle.handle)
    }

    fn write(&self, id: u64, offset: u64, bytes: &[u8]) -> Receiver<io::Result<u32>> {
        let (reply, replied) = replies();
        self.fs.write(id, offset, bytes, Mtime::OfNow, reply);
        replied
    }

    fn fsync(&self, id: u64) -> io::Result<()> {
        let (reply, replied) = replies();
        self.fs.fsync(id, SyncKind::Data, reply);
        replied.recv_timeout(LONG).unwrap()
    }

    fn set_size(&self, id: u64, size: u64) -> Receiver<io::Result<NodeAttr>> {
        let change = Change { size: Some(size), ..NO_CHANGE };
        let (reply, replied) = replies();
        self.fs.setattr(caller(), id, change, reply);
        replied
    }

    fn read(&self, id: u64, offset: u64, len: u32) -> Vec<u8> {
        read(&self.fs, id, offset, len)
    }

    fn wait_until(&self, what: &str, mut holds: impl FnMut(&Filesystem) -> bool) {
        let until = Instant::now() + LONG;
        while !holds(&self.fs) {
            assert!(Instant::now() < until, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn attach(config: &Arc<MountConfig>, arena: Arena, storage: Arc<dyn Storage>) -> Arc<Filesystem> {
    attach_to(config, arena, storage, Elsewhere(false))
}

fn attach_to(
    config: &Arc<MountConfig>,
    arena: Arena,
    storage: Arc<dyn Storage>,
    engines: impl Engines + 'static,
) -> Arc<Filesystem> {
    let parts = Parts {
        config: config.clone(),
        arena,
        backing_fd: crate::backing::open_root(&config.backing).unwrap().into_raw_fd(),
        storage,
        engines: Box::new(engines),
        descriptors: 1024,
    };
    Filesystem::attach(parts).unwrap()
}

fn replies<T: Send + 'static>() -> (Reply<T>, Receiver<io::Result<T>>) {
    let (sender, receiver) = channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn read(fs: &Filesystem, id: u64, offset: u64, len: u32) -> Vec<u8> {
    let (reply, replied) = replies();
    fs.read(id, offset, len, reply);
    replied.recv_timeout(LONG).unwrap().unwrap()
}

fn in_flight_bytes(fs: &Filesystem, id: u64) -> u64 {
    fs.node(id).unwrap().data_if_any().unwrap().lock().buffer.in_flight_bytes()
}

fn code<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Goal: an error of the disk is told by fsync and once by each handle's close; the data stays,
/// can be read, is listed, and is stored when the disk works again.
#[test]
fn an_error_is_told_once_to_each_handle_and_the_data_is_kept() {
    let fixture = Fixture::new(Mood::Fail(libc::EIO));
    let (id, first) = fixture.create("f");
    let second = fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap().handle;
    fixture.write(id, 0, b"precious").recv().unwrap().unwrap();
    assert_eq!(code(fixture.fsync(id)), Some(libc::EIO));
    assert_eq!(code(fixture.fs.flush(id, first, 1)), Some(libc::EIO));
    assert_eq!(code(fixture.fs.flush(id, second, 1)), Some(libc::EIO));
    let failing = fixture.fs.failing_files();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0].path, PathBuf::from("f"));
    assert_eq!(failing[0].backlog_bytes, 8);
    assert!(fixture.fs.only_failing_left(0));
    assert_eq!(fixture.read(id, 0, 100), b"precious");
    fixture.storage.set(Mood::Work);
    fixture.fs.finish();
    fixture.wait_until("the data to be stored", |fs| fs.backlog_bytes() == 0);
    assert_eq!(std::fs::read(fixture.path("f")).unwrap(), b"precious");
    assert!(fixture.fs.failing_files().is_empty());
    assert_eq!(code(fixture.fs.flush(id, first, 1)), None);
}

/// Goal: a read of a hole before bytes that are only buffered is whole, and one across their end is
/// cut there. A shorter answer is the end of the file to the kernel and to readers with O_DIRECT.
#[test]
fn a_hole_below_buffered_bytes_is_read_whole() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    std::fs::write(fixture.path("f"), b"stored").unwrap();
    fixture.write(id, 300_000, b"buffered").recv().unwrap().unwrap();
    let mut stored = vec![0; 1000];
    stored[..6].copy_from_slice(b"stored");
    assert_eq!(fixture.read(id, 0, 1000), stored);
    assert_eq!(fixture.read(id, 100_000, 4096), vec![0; 4096]);
    assert_eq!(fixture.read(id, 299_998, 4096), b"\0\0buffered");
    assert_eq!(fixture.read(id, 300_008, 4096), b"");
    fixture.storage.set(Mood::Work);
}

/// Goal: bytes that arrive as a turn ends are not forgotten by the scheduler. Method: who waits for
/// a clean file is told once its bytes are stored, before the lane ends its turn, so that the next
/// write comes just then; were it forgotten, the next wait would be for ever. Several files, so
/// that lane and writers take the processor from each other.
#[test]
fn a_write_as_a_turn_ends_is_not_forgotten() {
    let fixture = Fixture::new(Mood::Work);
    let write_and_wait = &|id: u64| {
        let node = fixture.fs.node(id).unwrap();
        for number in 0..3000 {
            fixture.write(id, number % 100, b"x").recv().unwrap().unwrap();
            let (reply, replied) = replies();
            let job = move |result: Result<(), i32>| reply(result.map_err(errno));
            fixture.fs.when_quiet(&node, Until::Clean, job);
            replied.recv_timeout(LONG).expect("the bytes are to be stored").unwrap();
        }
    };
    std::thread::scope(|scope| {
        for file in 0..8 {
            let (id, _) = fixture.create(&format!("f{file}"));
            scope.spawn(move || write_and_wait(id));
        }
    });
}

/// Goal: the size shown is never less than what was acknowledged before, also when the bytes leave
/// for the backing file at that very moment.
#[test]
fn the_size_does_not_shrink_while_bytes_are_stored() {
    let fixture = &Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    let acknowledged = &std::sync::atomic::AtomicU64::new(0);
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let size = fixture.fs.getattr(id).unwrap().attr.size;
                    assert!(size >= least, "{size} of {least} bytes are shown");
                }
            });
        }
        for number in 0..300 {
            fixture.write(id, number * 10, &[1; 10]).recv().unwrap().unwrap();
            acknowledged.store(number * 10 + 10, Ordering::SeqCst);
            fixture.fsync(id).unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
}

/// Goal: with memory full only replies to writes wait; names, attributes and reads are answered;
/// when the disk goes on, every reply comes, and the file is whole.
#[test]
fn only_writers_wait_for_a_disk_that_hangs() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    let piece = 64 << 10;
    let mut waiting = Vec::new();
    for number in 0..64u64 {
        let replied = fixture.write(id, number * piece, &vec![number as u8; piece as usize]);
        match replied.try_recv() {
            Ok(result) => assert_eq!(result.unwrap(), piece as u32),
            Err(TryRecvError::Empty) => waiting.push(replied),
            Err(TryRecvError::Disconnected) => panic!("a reply was dropped"),
        }
        // The kernel would not have more in flight.
        if waiting.len() == usize::from(fixture.fs.limits().max_background) {
            break;
        }
    }
    assert!(!waiting.is_empty());
    assert_eq!(fixture.fs.status().waiting_writes, waiting.len() as u64);
    assert!(fixture.fs.held_bytes() <= 4 << 20);
    assert_eq!(fixture.fs.lookup(caller(), ROOT_ID, OsStr::new("f")).unwrap().attr.id, id);
    assert_eq!(fixture.read(id, piece, 10), [1; 10]);
    fixture.create("another");
    assert!(waiting.iter().all(|replied| replied.try_recv().is_err()));
    fixture.storage.set(Mood::Work);
    fixture.fs.finish();
    for replied in waiting {
        assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap(), piece as u32);
    }
    fixture.wait_until("the data to be stored", |fs| fs.backlog_bytes() == 0);
    let bytes = std::fs::read(fixture.path("f")).unwrap();
    assert!(
        bytes
            .chunks(piece as usize)
            .enumerate()
            .all(|(n, chunk)| chunk.iter().all(|b| *b == n as u8))
    );
}

/// Goal: writes that no segment is left for (more than the kernel would have in flight) wait
/// outside the arena and are not lost.
#[test]
fn writes_beyond_the_arena_wait_and_arrive() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    let piece = 64 << 10;
    let replied: Vec<_> = (0..100u64)
        .map(|number| fixture.write(id, number * piece, &vec![number as u8 + 1; piece as usize]))
        .collect();
    assert!(fixture.fs.held_bytes() <= 4 << 20);
    fixture.storage.set(Mood::Work);
    for replied in replied {
        assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap(), piece as u32);
    }
    fixture.fsync(id).unwrap();
    let bytes = std::fs::read(fixture.path("f")).unwrap();
    assert_eq!(bytes.len() as u64, 100 * piece);
    assert!(
        bytes
            .chunks(piece as usize)
            .enumerate()
            .all(|(n, chunk)| chunk.iter().all(|b| *b == n as u8 + 1))
    );
}

/// Goal: whole chunks leave by themselves, aligned and in as few writes as possible; what is less
/// waits.
#[test]
fn whole_chunks_leave_and_the_rest_waits() {
    let fixture = Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    let bytes = vec![7; 2 * CHUNK as usize + 1000];
    fixture.write(id, 0, &bytes).recv().unwrap().unwrap();
    fixture.wait_until("two chunks to leave", |fs| fs.backlog_bytes() == 1000);
    let status = fixture.fs.status();
    assert_eq!((status.drain_turns, status.whole_chunk_bytes), (2, 2 * CHUNK));
    let writes = fixture.storage.writes.lock().unwrap().clone();
    assert_eq!(writes, [(0, CHUNK as usize), (CHUNK, CHUNK as usize)]);
    assert_eq!(fixture.fs.getattr(id).unwrap().attr.size, bytes.len() as u64);
    assert!(fixture.read(id, 0, 1 << 20) == bytes);
}

/// Goal: files with whole chunks take turns, a chunk each; two turns may be at the disk together.
#[test]
fn files_take_turns() {
    let fixture = Fixture::new(Mood::Wait);
    let files: Vec<u64> = (0..3).map(|n| fixture.create(&format!("f{n}")).0).collect();
    // The first file's first chunk is taken at once and waits for the disk; the others queue up.
    for id in &files {
        fixture.write(*id, 0, &vec![1; 3 * CHUNK as usize]).recv().unwrap().unwrap();
    }
    fixture.storage.set(Mood::Work);
    fixture.wait_until("the data to be stored", |fs| fs.backlog_bytes() == 0);
    let offsets: Vec<u64> =
        fixture.storage.writes.lock().unwrap().iter().map(|(offset, _)| *offset).collect();
    let turns: Vec<usize> = offsets.iter().map(|offset| (offset / CHUNK) as usize).collect();
    assert_eq!(turns.len(), 9);
    let in_turn = |(at, turn): (usize, &usize)| at + 1 >= 3 * turn && at <= 3 * turn + 3;
    assert!(turns.iter().enumerate().all(in_turn), "{turns:?}");
}

/// Goal: what is left of a chunk goes before the next whole one, so that a stream leaves in order.
#[test]
fn leftovers_go_before_the_next_whole_chunk() {
    let fixture = Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &[1; 100]).recv().unwrap().unwrap();
    fixture.fsync(id).unwrap();
    fixture.storage.set(Mood::Wait);
    fixture.write(id, 100, &vec![2; CHUNK as usize]).recv().unwrap().unwrap();
    assert_eq!(fixture.fs.backlog_bytes(), CHUNK, "the chunks are not whole");
    fixture.write(id, 100 + CHUNK, &vec![3; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.storage.set(Mood::Work);
    fixture.wait_until("a whole chunk to leave", |fs| fs.backlog_bytes() == 100);
    let offsets: Vec<u64> =
        fixture.storage.writes.lock().unwrap().iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets.first(), Some(&0));
    assert!(offsets.is_sorted(), "{offsets:?}");
}

/// Goal: turns by age go from chunk to chunk, so that no byte waits behind a busier one; where the
/// file grows, what is before goes first.
#[test]
fn turns_by_age_visit_every_chunk() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    for chunk in [0, 3, 7] {
        fixture.write(id, chunk * CHUNK, &[1; 10]).recv().unwrap().unwrap();
    }
    let node = fixture.fs.node(id).unwrap();
    let plan = |backing_end| {
        let mut state = node.data_if_any().unwrap().lock();
        state.plan_chunks(Reason::Age, CHUNK, backing_end).unwrap()
    };
    let turns: Vec<_> = (0..4).map(|_| plan(8 * CHUNK)).collect();
    assert_eq!(turns, [0..1, 3..4, 7..8, 0..1]);
    assert_eq!([plan(0), plan(0)], [0..4, 0..8], "the file grows");
}

/// Goal: a file does not grow past bytes that are about to come, and does past a hole.
#[test]
fn bytes_behind_a_gap_wait_for_it_to_be_filled() {
    let fixture = Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    let chunk = |number: u64| {
        fixture.write(id, number * CHUNK, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    };
    chunk(1);
    chunk(0);
    fixture.wait_until("both to be stored", |fs| fs.backlog_bytes() == 0);
    let written = || fixture.storage.writes.lock().unwrap().clone();
    assert!(written().is_sorted(), "{:?}", written());
    chunk(3);
    let plan = |reason| fixture.fs.plan_turn(FileId(id), reason);
    assert!(matches!(plan(Reason::WholeChunk), Plan::NotBefore(_)));
    assert_eq!(plan(Reason::Demanded), Plan::Write(3 * CHUNK..4 * CHUNK));
    fixture.wait_until("the bytes behind a hole to be stored", |fs| fs.backlog_bytes() == 0);
}

/// Goal: a truncation waits for bytes past the cut that are on their way to the disk, so that they
/// cannot come back after it.
#[test]
fn truncation_waits_for_bytes_in_flight() {
    let fixture = Fixture::new(Mood::Wait);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.wait_until("the chunk to be on its way", |fs| in_flight_bytes(fs, id) > 0);
    let cut = fixture.set_size(id, 10);
    assert_eq!(cut.try_recv().err(), Some(TryRecvError::Empty));
    fixture.storage.set(Mood::Work);
    assert_eq!(cut.recv_timeout(LONG).unwrap().unwrap().attr.size, 10);
    fixture.fsync(id).unwrap();
    assert_eq!(std::fs::read(fixture.path("f")).unwrap(), [1; 10]);
}

/// Goal: the kernel may forget a file and the directory it is in while bytes of the file are to be
/// stored: both stay reachable until they are, and are forgotten then.
#[test]
fn forgotten_directories_of_buffered_files_stay_reachable() {
    let fixture = Fixture::new(Mood::Wait);
    let dir = fixture.fs.mkdir(caller(), ROOT_ID, OsStr::new("dir"), MODE).unwrap().attr.id;
    let made = fixture.fs.create(caller(), dir, OsStr::new("f"), MODE, libc::O_WRONLY).unwrap();
    let (id, handle) = (made.0.attr.id, made.1);
    fixture.write(id, 0, &[1; 5000]).recv().unwrap().unwrap();
    fixture.fs.release(caller(), id, handle.handle);
    fixture.fs.forget(id, 1);
    fixture.fs.forget(dir, 1);
    let node = fixture.fs.node(id).unwrap();
    fixture.fs.forget_descriptors(id);
    fixture.fs.forget_descriptors(dir);
    assert!(fixture.fs.path_fd(&node).is_ok());
    fixture.storage.set(Mood::Work);
    fixture.fs.finish();
    fixture.wait_until("nothing to be known", |fs| fs.node(id).is_err() && fs.node(dir).is_err());
    assert_eq!(std::fs::read(fixture.path("dir/f")).unwrap(), [1; 5000]);
}

/// Goal: what is deleted is never written.
#[test]
fn deleted_data_is_not_written() {
    let fixture = Fixture::new(Mood::Work);
    let (id, handle) = fixture.create("f");
    fixture.write(id, 0, &[1; 5000]).recv().unwrap().unwrap();
    fixture.fs.unlink(caller(), ROOT_ID, OsStr::new("f")).unwrap();
    assert_eq!(fixture.read(id, 0, 5000), [1; 5000]);
    fixture.fs.release(caller(), id, handle);
    fixture.fs.forget(id, 1);
    assert_eq!(fixture.fs.backlog_bytes(), 0);
    assert_eq!(fixture.fs.held_bytes(), 0);
    assert!(fixture.fs.node(id).is_err(), "the node is forgotten");
    assert!(fixture.storage.writes.lock().unwrap().is_empty());
}

/// Goal: a worker that takes over finds nodes by the same ids, buffered bytes, unlinked open files
/// and times, and stores them. Method: a second filesystem on the same arena, the first one's
/// disk hanging for good, as that of a dead worker would.
#[test]
fn a_new_worker_takes_everything_over() {
    let fixture = Fixture::new(Mood::Wait);
    let made = fixture.fs.mkdir(caller(), ROOT_ID, OsStr::new("dir"), MODE).unwrap();
    let (kept, _) = fixture.create("kept");
    let (moved, _) = fixture.create("moved");
    let (gone, _) = fixture.create("gone");
    for (id, byte) in [(kept, 1), (moved, 2), (gone, 3)] {
        fixture.write(id, 0, &vec![byte; CHUNK as usize + 100]).recv().unwrap().unwrap();
        fixture.write(id, 50, &[byte + 10; 100]).recv().unwrap().unwrap();
    }
    let (from, to) = ((ROOT_ID, OsStr::new("moved")), (made.attr.id, OsStr::new("here")));
    fixture.fs.rename(caller(), from, to, 0).unwrap();
    fixture.fs.unlink(caller(), ROOT_ID, OsStr::new("gone")).unwrap();
    let mtime = fixture.fs.getattr(kept).unwrap().attr.mtime;

    let next = attach(&fixture.config, fixture.arena, MoodyStorage::new(Mood::Work));
    let wanted = |byte: u8| {
        let mut bytes = vec![byte; CHUNK as usize + 100];
        bytes[50..150].fill(byte + 10);
        bytes
    };
    for (id, byte) in [(kept, 1), (moved, 2), (gone, 3)] {
        assert!(read(&next, id, 0, 1 << 20) == wanted(byte), "file {byte}");
    }
    next.finish();
    let until = Instant::now() + LONG;
    while next.backlog_bytes() > 0 {
        assert!(Instant::now() < until, "{} bytes left", next.backlog_bytes());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(std::fs::read(fixture.path("kept")).unwrap() == wanted(1));
    assert!(std::fs::read(fixture.path("dir/here")).unwrap() == wanted(2));
    assert!(read(&next, gone, 0, 1 << 20) == wanted(3), "a file without a name");
    next.settle();
    assert_eq!(next.getattr(kept).unwrap().attr.mtime, mtime);
}

/// Goal: where the kernel saw no file and another user has put one meanwhile, CREATE does not open
/// it: the kernel would not check whether the caller may.
#[test]
fn a_file_that_came_meanwhile_is_not_opened_by_create() {
    let fixture = Fixture::new(Mood::Work);
    std::fs::write(fixture.path("secret"), "x").unwrap();
    let create = |flags| {
        let made = fixture.fs.create(caller(), ROOT_ID, OsStr::new("secret"), MODE, flags);
        made.unwrap_err().raw_os_error()
    };
    assert_eq!(create(libc::O_RDWR), Some(libc::ESTALE), "the kernel looks again and checks");
    assert_eq!(create(libc::O_RDWR | libc::O_EXCL), Some(libc::EEXIST));
}
