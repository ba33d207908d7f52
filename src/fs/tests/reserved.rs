//! Blocks that are allocated ahead, and what is done to the file meanwhile.

use super::*;

/// Holds a file's bytes back until its size is changed, or until it is told to go on: the change
/// comes right after them, and not later.
struct LateWrites(MoodyStorage);

impl Storage for LateWrites {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        self.0.write_at(file, bytes, offset)
    }

    fn set_size(&self, file: BorrowedFd, size: u64) -> io::Result<()> {
        self.0.set(Mood::Work);
        let until = Instant::now() + LONG;
        while self.0.writes.lock().unwrap().is_empty() && Instant::now() < until {
            std::thread::yield_now();
        }
        KernelStorage.set_size(file, size)
    }
}

/// Goal: a file that is made longer gives back what is allocated beyond its end; not at the end it
/// had before bytes that are just on their way.
#[test]
fn bytes_in_flight_are_not_cut_off_with_what_is_allocated() {
    let (mood, changed, writes) = (Mutex::new(Mood::Wait), Condvar::new(), Mutex::default());
    let storage = Arc::new(LateWrites(MoodyStorage { mood, changed, writes }));
    let fixture = Fixture::with(storage, |_| {});
    let (id, _) = fixture.create("f");
    let bytes = vec![1; CHUNK as usize];
    fixture.write(id, 0, &bytes).recv().unwrap().unwrap();
    fixture.wait_until("the chunk to be on its way", |fs| in_flight_bytes(fs, id) > 0);
    let node = fixture.fs.node(id).unwrap();
    node.data_if_any().unwrap().lock().reserved.is_any = true;

    let longer = fixture.set_size(id, 2 * CHUNK);
    fixture.storage.0.set(Mood::Work);
    assert_eq!(longer.recv_timeout(LONG).unwrap().unwrap().attr.size, 2 * CHUNK);
    fixture.fsync(id).unwrap();
    let stored = std::fs::read(fixture.path("f")).unwrap();
    assert!(stored[..bytes.len()] == bytes, "bytes were cut off");
}

/// The kernel's storage with a mood, and a record of what was allocated: offset and length.
struct Recording(MoodyStorage, Mutex<Vec<(u64, u64)>>);

impl Storage for Recording {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        self.0.write_at(file, bytes, offset)
    }

    fn allocate(&self, file: BorrowedFd, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        self.1.lock().unwrap().push((offset, len));
        KernelStorage.allocate(file, mode, offset, len)
    }
}

/// What is written while the disk is behind: seven chunks and some of a file.
const SOME: usize = 7 * CHUNK as usize + 1000;

/// A file of them, once whole chunks are stored.
fn stored_in_long_turns(set: impl FnOnce(&mut MountConfig)) -> (Fixture<Recording>, u64) {
    let (mood, changed, writes) = (Mutex::new(Mood::Wait), Condvar::new(), Mutex::default());
    let storage = MoodyStorage { mood, changed, writes };
    let storage = Arc::new(Recording(storage, Mutex::default()));
    let fixture = Fixture::with(storage, |config| {
        config.memory_bytes = 32 << 20;
        set(config);
    });
    // One turn, and the one beside it.
    for name in ["first", "next"] {
        let (first, _) = fixture.create(name);
        fixture.write(first, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
        fixture.wait_until("the lane to be busy", |fs| in_flight_bytes(fs, first) > 0);
    }
    let (second, _) = fixture.create("second");
    for (number, piece) in vec![2; SOME].chunks(CHUNK as usize).enumerate() {
        let offset = number as u64 * CHUNK;
        fixture.write(second, offset, piece).recv().unwrap().unwrap();
    }
    fixture.storage.0.set(Mood::Work);
    fixture.wait_until("whole chunks to be stored", |fs| fs.backlog_bytes() == 1000);
    (fixture, second)
}

/// Goal: while the disk is behind, a turn takes the largest power of two of whole chunks in a row,
/// allocated in one piece; what is less than a chunk waits.
#[test]
fn turns_are_long_when_much_is_waiting() {
    let (fixture, second) = stored_in_long_turns(|_| {});
    let mut writes = fixture.storage.0.writes.lock().unwrap().clone();
    let chunks = |from: u64, count: u64| (from * CHUNK, (count * CHUNK) as usize);
    // The two that waited may end one before and one after the next begins.
    writes.retain(|write| *write != chunks(0, 1));
    assert_eq!(writes, [chunks(0, 4), chunks(4, 2), chunks(6, 1)]);
    let root = fixture.fs.root();
    if !crate::backing::copies_on_write(root) && !crate::backing::is_in_memory(root) {
        assert_eq!(*fixture.storage.1.lock().unwrap(), [(0, 4 * CHUNK)]);
    }
    fixture.fsync(second).unwrap();
    assert!(std::fs::read(fixture.path("second")).unwrap() == vec![2; SOME]);
}

/// Goal: nothing is allocated ahead where files lie in memory: it would be filled twice.
#[test]
fn files_in_memory_are_not_laid_out() {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (fixture, second) = stored_in_long_turns(|config| config.backing = memory.path().into());
    assert_eq!(*fixture.storage.1.lock().unwrap(), []);
    fixture.fsync(second).unwrap();
    assert!(std::fs::read(memory.path().join("second")).unwrap() == vec![2; SOME]);
}

/// Goal: a turn for age takes what one for a whole chunk would, also when its first chunk is not
/// whole; of a file that fails, one chunk.
#[test]
fn turns_for_age_are_long_when_much_is_waiting() {
    let fixture = Fixture::new(Mood::Work);
    let (id, _) = fixture.create("f");
    let node = fixture.fs.node(id).unwrap();
    let queue = &node.data_if_any().unwrap().queue;
    queue.with(|scheduler| scheduler.hold(FileId(id)));
    let bytes = vec![2; 7 * CHUNK as usize + 1000];
    for (number, piece) in bytes.chunks(CHUNK as usize).enumerate() {
        let offset = 4096 + number as u64 * CHUNK;
        fixture.write(id, offset, piece).recv().unwrap().unwrap();
    }
    let mut state = node.data_if_any().unwrap().lock();
    let mut plan = |reason| state.plan_chunks(reason, 64 << 20, 0);
    assert_eq!(plan(Reason::Age), Some(0..5), "the first is not whole; then a power of two");
    assert_eq!(plan(Reason::Age), Some(0..7), "from where the last turn ended, two");
    assert_eq!(plan(Reason::Age), Some(0..8), "the rest");
    assert_eq!(plan(Reason::Closed), Some(0..1));
    state.age_cursor = 0;
    state.note_failure(libc::EIO, None);
    assert_eq!(state.plan_chunks(Reason::Age, 64 << 20, 0), Some(0..1), "it fails");
    drop(state);
    queue.with(|scheduler| scheduler.unhold(FileId(id)));
}

/// Goal: turns of whole chunks end with a stripe also where bytes are missing that are about to
/// come; who is waited for, and a mount without stripes, takes all there is.
#[test]
fn turns_that_are_cut_end_with_a_stripe() {
    const STRIPE: u64 = 64 << 10;
    let plans = |stripe_bytes, first_bytes: usize| {
        let set = |config: &mut MountConfig| config.stripe_bytes = stripe_bytes;
        let fixture = Fixture::with(MoodyStorage::new(Mood::Work), set);
        let (id, _) = fixture.create("f");
        let node = fixture.fs.node(id).unwrap();
        let queue = &node.data_if_any().unwrap().queue;
        queue.with(|scheduler| scheduler.hold(FileId(id)));
        fixture.write(id, 0, &vec![1; first_bytes]).recv().unwrap().unwrap();
        fixture.write(id, CHUNK, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
        let plans = [Reason::WholeChunk, Reason::Demanded]
            .map(|reason| fixture.fs.plan_turn(FileId(id), reason));
        queue.with(|scheduler| scheduler.unhold(FileId(id)));
        plans
    };
    let whole = Plan::Write(0..CHUNK);
    assert_eq!(plans(None, 100_000), [Plan::Write(0..100_000), whole.clone()]);
    assert_eq!(plans(Some(STRIPE), 100_000), [Plan::Write(0..STRIPE), whole.clone()]);
    let [cut, demanded] = plans(Some(STRIPE), 10_000);
    assert!(matches!(cut, Plan::NotBefore(_)), "{cut:?}");
    assert_eq!(demanded, whole);
    let [cut, _] = plans(Some(5 * STRIPE), 100_000);
    assert_eq!(cut, Plan::Write(0..100_000), "a stripe that chunks are no multiples of");
}

/// Goal: what is allocated ahead of a file that was there before stays when the first bytes are
/// appended; it goes when the file is to get a hole.
#[test]
fn appended_files_keep_what_is_allocated() {
    for (offset, stays) in [(CHUNK, true), (2 * CHUNK, false)] {
        let fixture = Fixture::new(Mood::Wait);
        let (id, _) = fixture.create("f");
        std::fs::write(fixture.path("f"), vec![1; CHUNK as usize]).unwrap();
        let node = fixture.fs.node(id).unwrap();
        let data = node.data_if_any().unwrap();
        data.lock().reserved.add(CHUNK..8 * CHUNK);
        fixture.write(id, offset, &vec![2; CHUNK as usize]).recv().unwrap().unwrap();
        fixture.wait_until("the chunk to be on its way", |fs| in_flight_bytes(fs, id) > 0);
        assert_eq!(data.lock().reserved.covers(&(CHUNK..8 * CHUNK)), stays, "at {offset}");
        fixture.storage.set(Mood::Work);
        fixture.fsync(id).unwrap();
    }
}

/// Goal: where an engine adds a file's size up from writes, runs are written end first, and nothing is
/// allocated.
#[test]
fn runs_are_written_end_first_where_sizes_are_added_up() {
    let set = |config: &mut MountConfig| {
        let table = "30 20 0:50 / / rw - fuse.glusterfs host:/vol rw";
        let table = crate::mount::mountinfo::MountTable::parse(table.as_bytes());
        config.origin = crate::mount::origin::Origin::of(&table, &config.backing);
        assert!(config.adds_sizes());
    };
    let (fixture, second) = stored_in_long_turns(set);
    let writes = fixture.storage.0.writes.lock().unwrap().clone();
    for (first, chunks) in [(0, 4), (4, 2), (6, 1)] {
        let run = (first * CHUNK, (chunks * CHUNK) as usize);
        let end = ((first + chunks) * CHUNK - 1, 1);
        let at = |write| writes.iter().position(|written| *written == write);
        assert!(at(end).is_some() && at(end) < at(run), "{writes:?}");
    }
    assert!(fixture.storage.1.lock().unwrap().is_empty());
    fixture.fsync(second).unwrap();
    assert!(std::fs::read(fixture.path("second")).unwrap() == vec![2; SOME]);
}
