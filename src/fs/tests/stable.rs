//! fsync: when the backing filesystem is asked, how often, and who is told what it answered.
//!
//! The storage counts syncs, and lets writes and syncs wait at a gate.

use super::*;
use crate::config::FsyncPolicy;

/// Lets nobody through while it is shut, and counts who waits.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            state = self.changed.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    fn shut(&self) {
        self.state.lock().unwrap().0 = true;
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    fn wait_for(&self, waiting: usize) {
        let state = self.state.lock().unwrap();
        let waited = self.changed.wait_timeout_while(state, LONG, |state| state.1 < waiting);
        assert!(!waited.unwrap().1.timed_out(), "nobody came to the gate");
    }
}

/// The kernel's storage with gates, a count of syncs, and errors to order.
#[derive(Default)]
struct GatedStorage {
    writes: Gate,
    syncs: Gate,
    synced: Mutex<Vec<SyncKind>>,
    sync_errors: Mutex<Vec<i32>>,
}

impl GatedStorage {
    fn synced(&self) -> usize {
        self.synced.lock().unwrap().len()
    }
}

impl Storage for GatedStorage {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        self.writes.pass();
        KernelStorage.write_at(file, bytes, offset)
    }

    fn sync(&self, file: BorrowedFd, kind: SyncKind) -> io::Result<()> {
        self.synced.lock().unwrap().push(kind);
        self.syncs.pass();
        match self.sync_errors.lock().unwrap().pop() {
            Some(code) => Err(errno(code)),
            None => KernelStorage.sync(file, kind),
        }
    }
}

fn fixture() -> Fixture<GatedStorage> {
    Fixture::with(Arc::default(), |_| {})
}

impl Fixture<GatedStorage> {
    fn start_fsync(&self, id: u64, kind: SyncKind) -> Receiver<io::Result<()>> {
        let (reply, replied) = replies();
        self.fs.fsync(id, kind, reply);
        replied
    }

    /// How many syncs an fsync makes.
    fn cost(&self, id: u64, kind: SyncKind) -> usize {
        let before = self.storage.synced();
        self.start_fsync(id, kind).recv_timeout(LONG).unwrap().unwrap();
        self.storage.synced() - before
    }

    fn change(&self, id: u64, set: impl FnOnce(&mut Change)) {
        let (atime, mtime) = (SetTime::Omit, SetTime::Omit);
        let mut change = Change { mode: None, uid: None, gid: None, size: None, atime, mtime };
        set(&mut change);
        let (reply, replied) = replies();
        self.fs.setattr(caller(), id, change, reply);
        replied.recv_timeout(LONG).unwrap().unwrap();
    }

    fn allocate(&self, id: u64, len: u64) {
        let (reply, replied) = replies();
        self.fs.allocate(id, 0, 0, len, reply);
        replied.recv_timeout(LONG).unwrap().unwrap();
    }

    fn copy(&self, from: u64, to: u64) {
        let (reply, replied) = replies();
        self.fs.copy_range((from, 0), (to, 0), 100, reply);
        assert_eq!(replied.recv_timeout(LONG).unwrap().unwrap(), 100);
    }
}

/// Goal: every kind of change is followed by one sync when it is asked for, and nothing else is;
/// fdatasync leaves attributes alone. A file of which nothing is known is synced.
#[test]
fn a_file_with_nothing_new_costs_no_call() {
    use SyncKind::{All, Data};
    let fixture = fixture();
    let (fs, name) = (&fixture.fs, OsStr::new("f"));
    let (id, _) = fixture.create("f");
    let (other, _) = fixture.create("other");
    assert_eq!(fixture.cost(id, Data), 1, "made, and empty");
    fixture.write(other, 0, &[1; 100]).recv().unwrap().unwrap();
    fixture.allocate(other, 10);
    type Act<'a> = (&'a str, bool, &'a dyn Fn());
    let xattr = OsStr::new("user.a");
    let dir = fs.mkdir(caller(), ROOT_ID, OsStr::new("dir"), MODE).unwrap().attr.id;
    let changes: [Act; 12] = [
        ("write", true, &|| assert_eq!(fixture.write(id, 0, b"x").recv().unwrap().unwrap(), 1)),
        ("truncate", true, &|| fixture.change(id, |change| change.size = Some(50))),
        ("fallocate", true, &|| fixture.allocate(id, 8192)),
        ("copy_file_range", true, &|| fixture.copy(other, id)),
        ("chmod", false, &|| fixture.change(id, |change| change.mode = Some(0o600))),
        ("chown", false, &|| fixture.change(id, |change| change.gid = Some(caller().gid))),
        ("utimens", false, &|| fixture.change(id, |change| change.mtime = SetTime::Now)),
        ("setxattr", false, &|| fs.set_xattr(caller(), id, xattr, b"v", 0).unwrap()),
        ("removexattr", false, &|| fs.remove_xattr(caller(), id, xattr).unwrap()),
        ("link", false, &|| {
            assert_eq!(fs.link(caller(), id, dir, OsStr::new("l")).unwrap().attr.id, id)
        }),
        ("unlink", false, &|| fs.unlink(caller(), dir, OsStr::new("l")).unwrap()),
        ("rename", false, &|| fs.rename(caller(), (ROOT_ID, name), (dir, name), 0).unwrap()),
    ];
    for (what, changes_data, change) in changes {
        for kind in [Data, All, Data, All] {
            fixture.cost(id, kind);
            assert_eq!(fixture.cost(id, kind), 0, "nothing new before {what}");
        }
        change();
        assert_eq!(fixture.cost(id, Data), usize::from(changes_data), "fdatasync after {what}");
        assert_eq!(fixture.cost(id, All), 1, "fsync after {what}");
        assert_eq!(fixture.cost(id, All), 0, "again after {what}");
    }
}

/// Goal: who asks while a sync runs is answered by the next one, which all of them share, and not
/// before; if nothing changed, by the end of the one that runs.
#[test]
fn concurrent_fsyncs_share_one() {
    let fixture = fixture();
    let (id, _) = fixture.create("f");
    for (changes, cost) in [(true, 2), (false, 1)] {
        let before = fixture.storage.synced();
        fixture.storage.syncs.shut();
        fixture.write(id, 0, b"first").recv().unwrap().unwrap();
        let mut asked = vec![fixture.start_fsync(id, SyncKind::Data)];
        fixture.storage.syncs.wait_for(1);
        if changes {
            fixture.write(id, 100, b"second").recv().unwrap().unwrap();
        }
        asked.extend((0..10).map(|_| fixture.start_fsync(id, SyncKind::Data)));
        fixture.wait_until("the bytes to be stored", |fs| fs.backlog_bytes() == 0);
        std::thread::sleep(Duration::from_millis(20));
        assert!(asked.iter().all(|replied| replied.try_recv().is_err()), "answered too early");
        fixture.storage.syncs.open();
        for replied in asked {
            replied.recv_timeout(LONG).unwrap().unwrap();
        }
        assert_eq!(fixture.storage.synced() - before, cost);
    }
}

/// Goal: bytes that are on their way to the backing file while it is synced are synced again.
/// Method: the sync is held up in the pool until newer bytes are taken, and runs before they are
/// stored.
#[test]
fn a_sync_does_not_cover_what_is_stored_meanwhile() {
    let fixture = fixture();
    let (id, _) = fixture.create("f");
    let busy = Arc::new(Gate::default());
    busy.shut();
    for _ in 0..8 {
        let busy = busy.clone();
        fixture.fs.on_pool(move || busy.pass());
    }
    busy.wait_for(8);
    let early = fixture.start_fsync(id, SyncKind::Data);
    fixture.storage.writes.shut();
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.storage.writes.wait_for(1);
    busy.open();
    early.recv_timeout(LONG).unwrap().unwrap();
    fixture.storage.writes.open();
    assert_eq!(fixture.cost(id, SyncKind::Data), 1);
}

/// Goal: a sync that fails is told to everybody who waited for it and once to each other handle;
/// the file is listed until it is emptied, also when it is closed and forgotten, and the next
/// fsync asks again.
#[test]
fn a_failed_sync_is_told_once_to_each_handle() {
    let fixture = fixture();
    let (id, first) = fixture.create("f");
    let second = fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap().handle;
    fixture.write(id, 0, b"gone?").recv().unwrap().unwrap();
    *fixture.storage.sync_errors.lock().unwrap() = vec![libc::EIO];
    assert_eq!(code(fixture.fsync(id)), Some(libc::EIO));
    assert_eq!(code(fixture.fs.flush(id, first, 1)), Some(libc::EIO));
    assert_eq!(code(fixture.fs.flush(id, first, 1)), None);
    assert_eq!(fixture.cost(id, SyncKind::Data), 1, "not synced yet");
    assert_eq!(code(fixture.fs.flush(id, second, 1)), Some(libc::EIO));
    assert_eq!(code(fixture.fs.flush(id, second, 1)), None);
    let third = fixture.fs.open(caller(), id, libc::O_WRONLY).unwrap().handle;
    assert_eq!(code(fixture.fs.flush(id, third, 1)), None, "opened afterwards");
    for handle in [first, second, third] {
        fixture.fs.release(caller(), id, handle);
    }
    fixture.fs.forget(id, 1);
    assert_eq!(fixture.fs.failing_files().len(), 1);
    let mut told = [0; 3];
    fixture.fs.get_xattr(id, OsStr::new("user.coalescefs.error"), &mut told).unwrap();
    assert_eq!(&told, b"EIO");
    assert!(!fixture.fs.only_failing_left(0), "nothing waits to be written");
    let id = fixture.fs.lookup(caller(), ROOT_ID, OsStr::new("f")).unwrap().attr.id;
    fixture.set_size(id, 0).recv_timeout(LONG).unwrap().unwrap();
    assert!(fixture.fs.failing_files().is_empty());
}

/// Goal: what a worker wrote and did not sync, its successor syncs when asked; also what this one
/// wrote before the kernel forgot the file.
#[test]
fn what_is_not_known_to_be_synced_is_synced() {
    let fixture = fixture();
    let (id, handle) = fixture.create("f");
    fixture.cost(id, SyncKind::All);
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    fixture.wait_until("the chunk to be stored", |fs| fs.backlog_bytes() == 0);
    let next = attach(&fixture.config, fixture.arena, fixture.storage.clone());
    let (reply, replied) = replies();
    let before = fixture.storage.synced();
    next.fsync(id, SyncKind::Data, reply);
    replied.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!(fixture.storage.synced() - before, 1, "by the next worker");

    fixture.fs.release(caller(), id, handle);
    fixture.fs.forget(id, 1);
    assert!(fixture.fs.node(id).is_err(), "the node is forgotten");
    let id = fixture.fs.lookup(caller(), ROOT_ID, OsStr::new("f")).unwrap().attr.id;
    assert_eq!(fixture.cost(id, SyncKind::Data), 1, "after it was forgotten");
}

/// Goal: with `--fsync lazy` nobody waits for the disk, and nothing is synced; an error of writing
/// is told all the same.
#[test]
fn lazy_fsync_returns_at_once() {
    let storage = Arc::new(GatedStorage::default());
    storage.writes.shut();
    let fixture = Fixture::with(storage, |config| config.fsync = FsyncPolicy::Lazy);
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, &vec![1; CHUNK as usize]).recv().unwrap().unwrap();
    assert_eq!(fixture.cost(id, SyncKind::All), 0);
    let (reply, replied) = replies();
    fixture.fs.fsync_directory(ROOT_ID, SyncKind::All, reply);
    replied.try_recv().unwrap().unwrap();
    assert_eq!(fixture.fs.backlog_bytes(), CHUNK);
    assert_eq!(fixture.storage.synced(), 0);
    fixture.storage.writes.open();
}

/// Goal: a file that is forgotten just after its last byte was stored has the program's time, not
/// the drain's. Method: the test is the lane, and stops before its turn is over.
#[test]
fn a_file_forgotten_as_it_is_stored_keeps_its_time() {
    let fixture = fixture();
    let (id, handle) = fixture.create("f");
    fixture.write(id, 0, b"bytes").recv().unwrap().unwrap();
    let time = crate::backing::Time { secs: 1_000_000_000, nanos: 123_456_789 };
    fixture.change(id, |change| change.mtime = SetTime::At(time));
    let run = fixture.fs.take_run(FileId(id), 0..CHUNK, CHUNK).unwrap().unwrap();
    let written = crate::drain::write_run(&KernelStorage, &fixture.arena, &run).unwrap();
    fixture.fs.stored(run, written, Duration::ZERO);
    fixture.fs.release(caller(), id, handle);
    fixture.fs.forget(id, 1);
    assert!(fixture.fs.node(id).is_err(), "the node is forgotten");
    let below = std::fs::metadata(fixture.path("f")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((below.mtime(), below.mtime_nsec()), (time.secs, i64::from(time.nanos)));
}
