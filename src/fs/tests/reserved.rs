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
