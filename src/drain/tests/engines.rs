//! Lanes and an engine that hangs, or cannot be reached. Times are given, not waited for: who is late
//! is asked at a time long after.

use std::collections::BTreeMap;
use std::sync::{Condvar, MutexGuard};

use super::*;
use crate::schedule::circuit::Patience;

const FOREVER_MS: u64 = 3_600_000;
const LEN: u64 = 5000;
const SOON: Duration = Duration::from_secs(60);

/// Nothing is late or tried again by itself while a test runs.
const PATIENT: Patience = Patience {
    deadline_ms: FOREVER_MS,
    failures_max: 3,
    late_max: 2,
    first_pause_ms: FOREVER_MS,
    longest_pause_ms: FOREVER_MS,
};

/// Writes of chosen files hang, and all may fail. A file is told by where its bytes begin.
#[derive(Default)]
struct Moods {
    hanging: Vec<u64>,
    error: Option<i32>,
    begun: Vec<u64>,
}

#[derive(Default)]
struct MoodyStorage {
    moods: Mutex<Moods>,
    changed: Condvar,
}

impl MoodyStorage {
    fn lock(&self) -> MutexGuard<'_, Moods> {
        self.moods.lock().unwrap()
    }

    fn set(&self, hanging: &[u64], error: Option<i32>) {
        let mut moods = self.lock();
        (moods.hanging, moods.error) = (hanging.to_vec(), error);
        drop(moods);
        self.changed.notify_all();
    }

    /// Waits until so many writes have begun; of which files.
    fn wait_for(&self, count: usize) -> Vec<u64> {
        let waited =
            self.changed.wait_timeout_while(self.lock(), SOON, |moods| moods.begun.len() < count);
        waited.unwrap().0.begun.clone()
    }
}

impl Storage for MoodyStorage {
    fn write_at(&self, _: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        let mut moods = self.lock();
        moods.begun.push(offset);
        self.changed.notify_all();
        while moods.hanging.contains(&offset) {
            moods = self.changed.wait(moods).unwrap();
        }
        match moods.error {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(bytes.iter().map(|slice| slice.len()).sum()),
        }
    }

    fn is_elsewhere(&self, _: BorrowedFd) -> bool {
        false
    }
}

/// Files with a run each, tried again at once.
struct Files {
    runs: Mutex<BTreeMap<u64, Run>>,
    stored: mpsc::Sender<u64>,
}

impl Source for Files {
    fn plan_turn(&self, file: FileId, _: Reason) -> Plan {
        match self.runs.lock().unwrap().get(&file.0) {
            Some(run) => Plan::Write(run.offset..run.offset + run.len),
            None => Plan::Nothing,
        }
    }

    fn take_run(&self, file: FileId, _: Range<u64>, _: u64) -> io::Result<Option<Run>> {
        Ok(self.runs.lock().unwrap().remove(&file.0))
    }

    fn stored(&self, run: Run, _: Written, _: Duration) {
        // Whoever listened may be gone.
        let _ = self.stored.send(run.file.0);
    }

    fn give_space(&self, _: &Run) -> bool {
        false
    }

    fn failed(&self, file: FileId, run: Option<Run>, _: io::Error) -> u64 {
        self.runs.lock().unwrap().extend(run.map(|run| (file.0, run)));
        boottime_ms()
    }

    fn turn_ended(&self, file: FileId, _: Reason, _: u64, end: &mut dyn FnMut(Load)) {
        end(load(self.runs.lock().unwrap().contains_key(&file.0)));
    }

    fn turn_refused(&self, _: FileId, _: &mut dyn FnMut(Load, u64)) {
        unreachable!("no worker died");
    }
}

fn load(is_dirty: bool) -> Load {
    Load {
        dirty_bytes: if is_dirty { LEN } else { 0 },
        has_whole_chunk: is_dirty,
        oldest_ms: is_dirty.then_some(0),
        open: true,
        ..Load::default()
    }
}

struct Setup {
    storage: Arc<MoodyStorage>,
    queue: Arc<LaneQueue>,
    stored: mpsc::Receiver<u64>,
    // Removed at the end.
    _files: Vec<tempfile::NamedTempFile>,
}

impl Setup {
    /// One lane; files 1 to `files`, whose bytes begin at ten thousand times their number.
    fn new(patience: Option<Patience>, files: u64, storage: MoodyStorage) -> Setup {
        let arena = arena();
        let storage = Arc::new(storage);
        let (mut runs, mut kept) = (BTreeMap::new(), Vec::new());
        let (pool, _) = SlotPool::rebuild(&arena);
        for number in 1..=files {
            let file = tempfile::NamedTempFile::new().unwrap();
            let fd = file.as_file().as_fd().try_clone_to_owned().unwrap();
            let offset = number * 10_000;
            let slot: Slot = pool.try_take(1).unwrap()[0];
            let len = LEN.min(u64::from(arena.segment_bytes()));
            let pieces = vec![Piece { slot, at: 0, offset, len: len as u32 }];
            let data_file = Arc::new(DataFile::new(fd, Access::ReadWrite));
            let file_id = FileId(number);
            let run = Run { file: file_id, offset, len, pieces, data_file, is_end_first: false };
            runs.insert(number, run);
            kept.push(file);
        }
        let (tell, stored) = mpsc::channel();
        let source: Arc<dyn Source> = Arc::new(Files { runs: Mutex::new(runs), stored: tell });
        let queue =
            Arc::new(LaneQueue::new(POLICY, Crew { lanes: Lanes::fixed(1), patience }, None));
        let (throttle, isolation) =
            (Arc::new(Throttle::new(None)), Arc::new(Isolation::new(arena)));
        let writes_to: Arc<dyn Storage> = storage.clone();
        spawn_lanes(&queue, &source, &writes_to, &throttle, arena, &isolation).unwrap();
        for number in 1..=files {
            queue.with(|scheduler| scheduler.update(FileId(number), load(true), boottime_ms()));
        }
        Setup { storage, queue, stored, _files: kept }
    }

    fn stored(&self, count: usize) -> Vec<u64> {
        let mut files: Vec<u64> =
            (0..count).map(|_| self.stored.recv_timeout(SOON).unwrap()).collect();
        files.sort_unstable();
        files
    }

    fn all_are_late(&self) {
        self.queue.expire(boottime_ms() + 2 * FOREVER_MS);
    }
}

fn hanging(files: &[u64]) -> MoodyStorage {
    let storage = MoodyStorage::default();
    storage.set(&files.iter().map(|file| file * 10_000).collect::<Vec<_>>(), None);
    storage
}

/// Goal: a write that hangs keeps its lane until it is late, and no longer: the other files are then
/// stored, by one thread at a time, and it is stored, too, when it comes back.
#[test]
fn a_write_that_hangs_holds_others_up_until_it_is_late() {
    let setup = Setup::new(Some(PATIENT), 4, hanging(&[1]));
    let begun = setup.storage.wait_for(1);
    let before = begun.iter().filter(|offset| **offset != 10_000).count();
    while !setup.storage.lock().begun.contains(&10_000) {
        std::thread::yield_now();
    }
    assert!(before <= 3, "no file is written twice");
    let first = setup.storage.lock().begun.len();
    assert_eq!(setup.stored(first - 1).len(), first - 1);
    assert!(setup.stored.try_recv().is_err(), "nothing else while it hangs");
    setup.all_are_late();
    setup.stored(4 - first);
    let engine = setup.queue.engine();
    assert_eq!((engine.late, engine.outage), (1, None), "the engine answers the others");
    setup.storage.set(&[], None);
    assert_eq!(setup.stored(1), [1]);
}

/// Goal: writes that hang bind so many threads and no more, and the engine is then left alone.
#[test]
fn writes_that_hang_are_few() {
    let setup = Setup::new(Some(PATIENT), 5, hanging(&[1, 2, 3, 4, 5]));
    for hung in 1..=PATIENT.late_max {
        assert_eq!(setup.storage.wait_for(hung).len(), hung, "one at a time");
        setup.all_are_late();
    }
    assert_eq!(setup.queue.engine().late, PATIENT.late_max);
    setup.queue.end_pauses();
    assert_eq!(setup.storage.lock().begun.len(), PATIENT.late_max, "no thread is left for it");
    setup.storage.set(&[], None);
    assert_eq!(setup.stored(5), [1, 2, 3, 4, 5]);
}

/// Goal: a disk of this machine has the next turn at hand while one ends, and no other, however slow
/// it is.
#[test]
fn a_slow_disk_has_one_more_turn_at_hand() {
    let setup = Setup::new(None, 4, hanging(&[1, 2, 3, 4]));
    setup.storage.wait_for(2);
    setup.all_are_late();
    setup.queue.wake_all();
    // Would take the others' turns, were there any.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((setup.storage.lock().begun.len(), setup.queue.engine().late), (2, 0));
    setup.storage.set(&[], None);
    assert_eq!(setup.stored(4), [1, 2, 3, 4]);
}

/// Goal: an engine that cannot be reached is left alone after a few failures, whichever files they
/// are of; who asks for a try gets one; when it works everything is stored, and nothing of the
/// outage is left.
#[test]
fn an_engine_that_cannot_be_reached_is_left_alone() {
    let storage = MoodyStorage::default();
    storage.set(&[], Some(libc::ENOTCONN));
    let setup = Setup::new(Some(PATIENT), 10, storage);
    assert_eq!(setup.storage.wait_for(3).len(), 3);
    let is_open = || setup.queue.engine().outage.is_some_and(|it| it.next_try_ms.is_some());
    let until = std::time::Instant::now() + SOON;
    while !is_open() {
        assert!(std::time::Instant::now() < until, "{:?}", setup.queue.engine());
        std::thread::yield_now();
    }
    let engine = setup.queue.engine();
    assert_eq!(engine.outage.map(|outage| outage.errno), Some(libc::ENOTCONN));
    assert_eq!((setup.storage.lock().begun.len(), engine.outages), (3, 1));
    setup.queue.end_pauses();
    assert_eq!(setup.storage.wait_for(4).len(), 4, "one try");
    setup.storage.set(&[], None);
    while !is_open() {
        std::thread::yield_now();
    }
    setup.queue.end_pauses();
    assert_eq!(setup.stored(10), (1..=10).collect::<Vec<_>>());
    let engine = setup.queue.engine();
    assert_eq!((engine.outage, engine.outages, engine.late), (None, 1, 0));
}

/// Goal: what is a file's own, or a disk's of this machine, says nothing of an engine.
#[test]
fn errors_of_files_are_no_outage() {
    for (patience, errno) in
        [(Some(PATIENT), libc::ENOSPC), (Some(PATIENT), libc::ESTALE), (None, libc::EIO)]
    {
        let storage = MoodyStorage::default();
        storage.set(&[], Some(errno));
        let setup = Setup::new(patience, 4, storage);
        assert!(setup.storage.wait_for(20).len() >= 20, "{errno} ended the tries");
        let engine = setup.queue.engine();
        assert_eq!((engine.outage, engine.outages), (None, 0), "{errno}");
        setup.storage.set(&[], None);
        setup.stored(4);
    }
}
