//! Visits to a disk that others read from.

use super::super::{Reads, Sharing};

const MIB: u64 = 1 << 20;

/// A disk that reads a MiB in 10 ms, and writes one in as long.
struct Disk {
    sharing: Sharing,
    reads: Reads,
    now_ms: u64,
}

impl Disk {
    fn new() -> Disk {
        Disk { sharing: Sharing::default(), reads: Reads::default(), now_ms: 1000 }
    }

    fn may_begin(&mut self) -> Result<(), Option<u64>> {
        self.sharing.may_begin(false, self.reads, self.now_ms)
    }

    /// Turns of a MiB until one may not begin: how many began.
    fn visit(&mut self) -> u64 {
        (0..1000)
            .find(|_| {
                let may = self.may_begin().is_ok();
                if may {
                    self.now_ms += 10;
                    self.sharing.note_run(MIB, 10_000);
                }
                !may
            })
            .unwrap_or(1000)
    }

    /// Somebody reads so much in each look until a turn may begin: how long that takes.
    fn pause(&mut self, look_bytes: u64) -> u64 {
        let begun_ms = self.now_ms;
        while let Err(at_ms) = self.may_begin() {
            let at_ms = at_ms.expect("nothing is out");
            assert!(at_ms > self.now_ms, "it is not asked again and again");
            self.reads.bytes += look_bytes;
            self.now_ms = at_ms;
        }
        self.now_ms - begun_ms
    }
}

/// Goal: where nobody reads nothing ever waits, whatever was read before and however little is read
/// now.
#[test]
fn a_disk_of_ones_own_is_never_left() {
    let mut disk = Disk::new();
    disk.reads.bytes = 1 << 40;
    assert_eq!(disk.visit(), 1000);
    for _ in 0..100 {
        disk.reads.bytes += 4096;
        assert_eq!(disk.may_begin(), Ok(()));
        disk.sharing.note_run(MIB, 10_000);
    }
}

/// Goal: a reader at full speed has four fifths of the bytes; each visit is long against the way
/// of the head.
#[test]
fn a_reader_has_four_fifths() {
    let mut disk = Disk::new();
    disk.reads.under_way = true;
    let (mut written, before) = (0, disk.reads.bytes);
    for _ in 0..50 {
        written += disk.visit() * MIB;
        disk.pause(MIB);
    }
    let read = disk.reads.bytes - before;
    assert!(written >= 50 * 16 * MIB);
    let share = read as f64 / (read + written) as f64;
    assert!((0.75..0.85).contains(&share), "{share}");
}

/// Goal: who has read enough while we wrote is not left the disk on top of that.
#[test]
fn what_is_read_meanwhile_counts() {
    let mut disk = Disk::new();
    for _ in 0..100 {
        disk.reads.bytes += 4 * MIB;
        disk.reads.under_way = true;
        assert_eq!(disk.may_begin(), Ok(()));
        disk.sharing.note_run(MIB, 40_000);
    }
}

/// Goal: a reader who stops costs one look; one who reads little, or has a read that hangs, no more
/// than the longest pause.
#[test]
fn pauses_end() {
    let mut disk = Disk::new();
    assert_eq!(disk.visit(), 1000, "nobody reads");
    disk.reads.bytes += 2000 * MIB;
    disk.reads.under_way = true;
    disk.visit();
    disk.reads.under_way = false;
    assert!(disk.pause(0) <= 10);
    assert!(disk.visit() >= 16);
    disk.reads.under_way = true;
    disk.visit();
    assert!(disk.pause(0) <= 800);
}

/// Goal: no turn begins beside another when the visit is over, so that the pause can begin; and that
/// is not asked for again before the other ends.
#[test]
fn what_is_out_ends_first() {
    let mut disk = Disk::new();
    disk.reads.under_way = true;
    for _ in 0..16 {
        assert_eq!(disk.may_begin(), Ok(()));
        disk.sharing.note_run(MIB, 10_000);
    }
    assert_eq!(disk.sharing.may_begin(true, disk.reads, disk.now_ms), Err(None));
    assert_eq!(disk.may_begin(), Err(Some(disk.now_ms + 10)));
}
