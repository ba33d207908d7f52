//! What the kernel is told of what it has cached.

use std::path::Path;

use super::*;
use crate::fs::KernelPages;

/// A kernel that notes the files whose pages it is to drop.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<u64>>>);

impl KernelPages for Noting {
    fn drop_pages(&self, id: u64) {
        self.0.lock().unwrap().push(id);
    }

    fn forget_attributes(&self, _: u64) {}

    fn size_bytes(&self, _: [u64; 3], _: &Path) -> Option<u64> {
        None
    }

    fn look_up(&self, _: &Path) {}

    fn forget_name(&self, _: u64, _: &OsStr) {}
}

/// Goal: while a mount that is to end writes its last bytes, the kernel frees the pages of closed
/// files, and of no others; and of none when there is nothing left to write.
#[test]
fn pages_of_closed_files_are_freed_while_the_last_bytes_are_written() {
    let (fixture, kernel) = (Fixture::new(Mood::Wait), Noting::default());
    fixture.fs.set_kernel_pages(Box::new(kernel.clone()));
    let (open, _) = fixture.create("open");
    let (closed, handle) = fixture.create("closed");
    for id in [open, closed] {
        fixture.write(id, 0, b"bytes").recv().unwrap().unwrap();
    }
    fixture.fs.release(caller(), closed, handle);
    fixture.fs.finish();
    fixture.fs.free_cache();
    fixture.wait_until("the first", |_| !kernel.0.lock().unwrap().is_empty());
    fixture.storage.set(Mood::Work);
    fixture.wait_until("the disk", |fs| fs.backlog_bytes() == 0);
    fixture.fs.free_cache();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(*kernel.0.lock().unwrap(), [closed]);
}
