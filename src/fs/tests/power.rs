//! Power loss, modelled: random programs run on the filesystem over a storage that knows what a
//! disk and a journaling filesystem would have kept, and at any moment that must be enough.
//!
//! | model | as |
//! |---|---|
//! | a page that was written waits in the page cache, and goes to the disk in any order, or never | every filesystem |
//! | what the disk has taken, a direct write or a page, may be lost by sectors of 512 bytes, in any order, until the disk is flushed | a volatile cache |
//! | a commit flushes the disk, then makes the size durable | the journals of ext4 and XFS |
//! | the size moves when the disk has taken the bytes | XFS; direct writes of ext4 |
//! | the size moves when a page *begins* to be written, or when bytes come into a block that is there | pages of ext4 |

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const ROUNDS: u64 = 12;
const STEPS: u32 = 120;
const LONGEST_FILE: u64 = 400_000;

/// xorshift64: repeatable from its seed.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Xfs,
    Ext4,
}

/// One file on its way to the medium.
#[derive(Clone, Default)]
struct Disk {
    /// What a read below sees.
    now: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Pages that are being written; the size may have moved already.
    begun: Vec<(usize, Vec<u8>)>,
    /// What the disk has taken since it was flushed, in order.
    taken: Vec<(usize, Vec<u8>)>,
    /// What the next commit makes durable.
    size: usize,
    medium: Vec<u8>,
    durable_size: usize,
    /// The state before a truncation that is not committed.
    before_cut: Option<Box<Disk>>,
}

fn lay(medium: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if medium.len() < at + bytes.len() {
        medium.resize(at + bytes.len(), 0);
    }
    medium[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Disk {
    fn write_cached(&mut self, kind: Kind, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        let is_in_last_block = at < self.size.next_multiple_of(PAGE);
        if kind == Kind::Ext4 && is_in_last_block {
            self.size = self.size.max(end.min(self.size.next_multiple_of(PAGE)));
        }
        lay(&mut self.now, at, bytes);
        self.dirty.extend(at / PAGE..end.div_ceil(PAGE));
    }

    fn write_direct(&mut self, at: usize, bytes: &[u8]) {
        let pages = at / PAGE..(at + bytes.len()).div_ceil(PAGE);
        pages.for_each(|page| self.begin(page));
        self.end_all();
        lay(&mut self.now, at, bytes);
        self.taken.push((at, bytes.to_vec()));
        self.size = self.size.max(at + bytes.len());
    }

    /// A dirty page begins to be written.
    fn begin(&mut self, page: usize) {
        if self.dirty.remove(&page) {
            let at = page * PAGE;
            let end = (at + PAGE).min(self.now.len());
            let mut bytes = self.now[at..end].to_vec();
            bytes.resize(PAGE, 0);
            self.begun.push((at, bytes));
            self.size = self.size.max(end);
        }
    }

    fn end_all(&mut self) {
        self.taken.append(&mut self.begun);
    }

    fn settle(&mut self, to: usize) {
        let pages: Vec<usize> = self.dirty.range(..to.div_ceil(PAGE)).copied().collect();
        pages.into_iter().for_each(|page| self.begin(page));
        self.end_all();
    }

    fn cut(&mut self, size: usize) {
        if self.before_cut.is_none() {
            self.before_cut = Some(Box::new(self.clone()));
        }
        self.now.resize(size, 0);
        self.dirty = self.dirty.split_off(&0).into_iter().filter(|p| p * PAGE < size).collect();
        self.end_all();
        self.taken.retain(|(at, _)| *at < size);
        self.taken.iter_mut().for_each(|(at, bytes)| bytes.truncate(size - *at));
        self.medium.truncate(size);
        self.size = size;
    }

    fn commit(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.taken) {
            lay(&mut self.medium, at, &bytes);
        }
        self.durable_size = self.size;
        self.before_cut = None;
    }

    /// What is there when the power comes back.
    fn after_power_loss(&self, random: &mut Random) -> Vec<u8> {
        if let Some(before) = self.before_cut.as_ref().filter(|_| random.one_in(2)) {
            return before.after_power_loss(random);
        }
        let mut image = self.medium.clone();
        for (at, bytes) in self.taken.iter().chain(&self.begun) {
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                if random.one_in(2) {
                    lay(&mut image, at + number * SECTOR, sector);
                }
            }
        }
        image.resize(self.durable_size, 0);
        image
    }
}

type Images = BTreeMap<u64, Vec<u8>>;

struct Model {
    kind: Kind,
    random: Random,
    disks: BTreeMap<u64, Disk>,
    /// What power losses since the last look would have left.
    losses: Vec<Images>,
}

impl Model {
    /// Time goes by: the kernel writes pages out as it likes, the journal commits, the power goes.
    fn go_on(&mut self) {
        let Model { kind, random, disks, .. } = self;
        for disk in disks.values_mut() {
            if random.one_in(3) && !disk.dirty.is_empty() {
                let nth = random.below(disk.dirty.len() as u64) as usize;
                let page = *disk.dirty.iter().nth(nth).unwrap();
                disk.begin(page);
            }
            if *kind == Kind::Xfs || random.one_in(2) {
                disk.end_all();
            }
        }
        if random.one_in(4) {
            disks.values_mut().for_each(Disk::commit);
        }
        if random.one_in(3) {
            self.lose_power();
        }
    }

    fn lose_power(&mut self) {
        let random = &mut self.random;
        let after = self.disks.iter().map(|(ino, disk)| (*ino, disk.after_power_loss(random)));
        self.losses.push(after.collect());
    }
}

/// The kernel's storage, with the model beside it; syncs are the model's alone.
struct ModelStorage(Mutex<Model>);

impl ModelStorage {
    fn change<R>(
        &self,
        file: BorrowedFd,
        act: impl FnOnce(Kind, &mut Disk) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut model = self.0.lock().unwrap();
        let kind = model.kind;
        let result = act(kind, model.disks.entry(ino(file)).or_default());
        model.go_on();
        result
    }
}

fn ino(file: BorrowedFd) -> u64 {
    crate::backing::attr(file).unwrap().ino
}

fn is_direct(file: BorrowedFd) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: asks for the flags of a valid descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) & libc::O_DIRECT != 0 }
}

impl Storage for ModelStorage {
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        self.change(file, |kind, disk| {
            let len = KernelStorage.write_at(file, bytes, offset)?;
            let mut all: Vec<u8> = bytes.iter().flat_map(|slice| slice.to_vec()).collect();
            all.truncate(len);
            match is_direct(file) {
                true => disk.write_direct(offset as usize, &all),
                false => disk.write_cached(kind, offset as usize, &all),
            }
            Ok(len)
        })
    }

    fn sync(&self, file: BorrowedFd, _: SyncKind) -> io::Result<()> {
        self.change(file, |_, disk| {
            disk.settle(usize::MAX - PAGE);
            disk.commit();
            Ok(())
        })
    }

    fn flush_range(&self, file: BorrowedFd, _: u64, _: u64) -> io::Result<()> {
        self.change(file, |_, _| Ok(()))
    }

    fn settle_range(&self, file: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
        self.change(file, |_, disk| {
            disk.settle((offset + len) as usize);
            Ok(())
        })
    }

    fn set_size(&self, file: BorrowedFd, size: u64) -> io::Result<()> {
        self.change(file, |_, disk| {
            KernelStorage.set_size(file, size)?;
            disk.cut(size as usize);
            Ok(())
        })
    }

    fn copy_range(
        &self,
        from: (BorrowedFd, u64),
        to: (BorrowedFd, u64),
        len: usize,
    ) -> io::Result<usize> {
        self.change(to.0, |kind, disk| {
            let len = KernelStorage.copy_range(from, to, len)?;
            let mut bytes = vec![0; len];
            crate::backing::read_at(to.0, &mut bytes, to.1)?;
            disk.write_cached(kind, to.1 as usize, &bytes);
            Ok(len)
        })
    }
}

/// What a program knows of one file.
struct Known {
    id: u64,
    ino: u64,
    is_log: bool,
    now: Vec<u8>,
    /// What the last successful fsync covered.
    synced: Vec<u8>,
    /// Bytes of it that were changed since.
    changed: Vec<bool>,
}

impl Known {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        lay(&mut self.now, at, bytes);
        self.note(at..at + bytes.len());
    }

    fn note(&mut self, range: std::ops::Range<usize>) {
        let len = self.changed.len();
        self.changed[range.start.min(len)..range.end.min(len)].fill(true);
    }

    fn check(&self, kind: Kind, image: &[u8]) -> Result<(), String> {
        let is_kept = |at: &usize| self.changed[*at] || image.get(*at) == Some(&self.synced[*at]);
        if let Some(at) = (0..self.synced.len()).find(|at| !is_kept(at)) {
            let (len, is) = (image.len(), image.get(at));
            return Err(format!("byte {at} was synced and is {is:?}; {len} bytes are left"));
        }
        let may_be_zero_from = match kind {
            Kind::Xfs => image.len(),
            Kind::Ext4 => image.len().saturating_sub(1) / PAGE * PAGE,
        };
        let is_written =
            |at: &usize| image[*at] == log_byte(*at) || *at >= may_be_zero_from && image[*at] == 0;
        match (0..image.len()).find(|at| !is_written(at)) {
            Some(at) if self.is_log => {
                Err(format!("byte {at} of {} of a log is {}", image.len(), image[at]))
            }
            _ => Ok(()),
        }
    }
}

/// What a log has at an offset; never zero.
fn log_byte(at: usize) -> u8 {
    (at.wrapping_mul(31) % 251 + 1) as u8
}

/// One random program and the checks after each of its steps.
fn run(seed: u64, kind: Kind) -> Result<(), String> {
    let mut random = Random(seed | 1);
    let model = Model {
        kind,
        random: Random(seed.rotate_left(17) | 1),
        disks: BTreeMap::new(),
        losses: Vec::new(),
    };
    let fixture = Fixture::with(Arc::new(ModelStorage(Mutex::new(model))), |config| {
        config.chunk_bytes = 32 << 10;
        config.max_age_ms = 20;
    });
    let mut files: Vec<Known> = (0..4)
        .map(|n| {
            let (id, _) = fixture.create(&format!("f{n}"));
            let (ino, is_log) = (fixture.fs.getattr(id).unwrap().attr.ino, n < 2);
            let (now, synced, changed) = Default::default();
            Known { id, ino, is_log, now, synced, changed }
        })
        .collect();
    for step in 0..STEPS {
        let nth = random.below(4) as usize;
        let synced = take_step(&fixture, &mut random, &mut files[nth], step as u8);
        let losses = {
            let mut model = fixture.storage.0.lock().unwrap();
            model.lose_power();
            std::mem::take(&mut model.losses)
        };
        for (file, images) in files.iter().flat_map(|f| losses.iter().map(move |i| (f, i))) {
            let image = images.get(&file.ino).map_or(&[][..], Vec::as_slice);
            file.check(kind, image).map_err(|why| format!("step {step}: {why}"))?;
        }
        if synced {
            let file = &mut files[nth];
            file.synced = file.now.clone();
            file.changed = vec![false; file.synced.len()];
        }
    }
    Ok(())
}

/// Returns whether the file was synced.
fn take_step(
    fixture: &Fixture<ModelStorage>,
    random: &mut Random,
    file: &mut Known,
    byte: u8,
) -> bool {
    if random.one_in(4) {
        fixture.fsync(file.id).unwrap();
        return true;
    }
    if random.one_in(8) {
        std::thread::sleep(Duration::from_millis(random.below(30)));
    }
    let longest = if random.one_in(3) { 60_000 } else { 300 };
    let len = 1 + random.below(longest) as usize;
    if file.is_log {
        let at = file.now.len();
        let bytes: Vec<u8> = (at..at + len).map(log_byte).collect();
        file.write(at, &bytes);
        // Requests are served side by side: the second half may come first.
        let (first, second) = bytes.split_at(random.below(len as u64) as usize);
        let mut halves = vec![(at, first), (at + first.len(), second)];
        if random.one_in(2) {
            halves.reverse();
        }
        for (at, half) in halves.into_iter().filter(|(_, half)| !half.is_empty()) {
            fixture.write(file.id, at as u64, half).recv_timeout(LONG).unwrap().unwrap();
        }
    } else if random.one_in(6) {
        let size = random.below(file.now.len() as u64 + 5000) as usize;
        file.note(size.min(file.now.len())..usize::MAX);
        file.now.resize(size, 0);
        fixture.set_size(file.id, size as u64).recv_timeout(LONG).unwrap().unwrap();
    } else {
        let at = random.below((file.now.len() as u64 + 1000).min(LONGEST_FILE)) as usize;
        let bytes = vec![byte.max(1); len];
        file.write(at, &bytes);
        fixture.write(file.id, at as u64, &bytes).recv_timeout(LONG).unwrap().unwrap();
    }
    false
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = std::env::var("COALESCEFS_TEST_SEED").ok().and_then(|s| s.parse().ok()) {
        return vec![seed];
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (0..ROUNDS).map(|n| now.as_nanos() as u64 + n * 7919).collect()
}

fn survive(kind: Kind) {
    for seed in seeds() {
        if let Err(why) = run(seed, kind) {
            panic!("{kind:?}, COALESCEFS_TEST_SEED={seed}: {why}");
        }
    }
}

/// Goal: whenever the power goes, every byte that a successful fsync covered is there, unless it
/// was changed since; and a file that is only appended to is a prefix of what was written.
#[test]
fn synced_bytes_survive_and_logs_are_prefixes_where_the_size_follows_the_bytes() {
    survive(Kind::Xfs);
}

/// Goal: the same where the size may be ahead of a page: only the last block of a log may be zero.
#[test]
fn synced_bytes_survive_and_logs_are_prefixes_where_the_size_is_ahead() {
    survive(Kind::Ext4);
}
