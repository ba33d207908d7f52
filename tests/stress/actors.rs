//! The processes: each opens files of the mount by name, does its part until the time is over, and
//! panics when it sees what it must not.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::board::{Board, FILES, HANGS, SLOTS, Slot, View};
use super::record::{Content, RECORD_BYTES, describe, record};

pub const ROLES: [&str; 5] = ["write", "read", "map", "cut", "rename"];

/// One process.
pub struct Actor {
    board: &'static Board,
    dir: PathBuf,
    random: u64,
    files: [Option<File>; FILES],
}

/// The name of a file after so many renames; every other one in a directory of its own.
pub fn path(dir: &Path, file: usize, name: u64) -> PathBuf {
    let folder = if name % 2 == 1 { dir.join("sub") } else { dir.to_path_buf() };
    folder.join(format!("f{file}.{name}"))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Checks one slot against what was acknowledged before the read and begun after it.
pub fn check(how: &str, file: usize, slot: usize, seen: &[u8], from: View, to: View) -> bool {
    let is_exact = from.content == to.content && from.cuts == to.cuts;
    let fits = if is_exact {
        seen == from.content.bytes(file, slot)
    } else {
        // Somebody writes it meanwhile: each byte is that of one of the records it may be.
        let records: Vec<_> =
            (from.content.seq..=to.content.seq).map(|seq| record(file, slot, seq)).collect();
        let len = usize::from(from.content.len.min(to.content.len));
        let may_be_zero = |at: usize| at >= len || from.cuts != to.cuts;
        let fits = |(at, byte): (usize, &u8)| {
            records.iter().any(|record| record[at] == *byte) || (*byte == 0 && may_be_zero(at))
        };
        seen.iter().enumerate().all(fits)
    };
    assert!(
        fits,
        "{how}: file {file} slot {slot} (bytes {}..): acknowledged {from:?}, begun {to:?}, seen: {}",
        slot * RECORD_BYTES,
        describe(seen)
    );
    is_exact
}

impl Actor {
    pub fn new(board: &'static Board, dir: &Path, seed: u64) -> Actor {
        Actor { board, dir: dir.to_path_buf(), random: seed | 1, files: [const { None }; FILES] }
    }

    pub fn act(&mut self, role: &str, until: Instant) {
        while Instant::now() < until {
            match role {
                "write" => self.write(),
                "read" => self.read(true),
                "read_buffered" => self.read(false),
                "map" => self.map(),
                "cut" => self.cut(),
                "rename" => self.rename(),
                _ => panic!("no role {role}"),
            }
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % bound as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn slots(&self, file: usize) -> &'static [Slot; SLOTS] {
        &self.board.files[file].slots
    }

    /// The file, opened by the name it has now; often kept open over renames.
    fn open(&mut self, file: usize) -> &File {
        if self.one_in(20) {
            self.files[file] = None;
        }
        if self.files[file].is_none() {
            self.files[file] = Some(self.open_by_name(file, 0));
        }
        self.files[file].as_ref().unwrap()
    }

    fn open_by_name(&self, file: usize, flags: i32) -> File {
        let since = Instant::now();
        loop {
            let name = self.board.files[file].name.load(Ordering::SeqCst);
            let mut options = File::options();
            options.read(true).write(true).custom_flags(flags);
            match options.open(path(&self.dir, file, name)) {
                Ok(opened) => return opened,
                // It is just getting another.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    assert!(since.elapsed() < HANGS, "file {file} has lost its name {name}");
                    std::thread::yield_now();
                }
                Err(error) => panic!("open: {error}"),
            }
        }
    }

    /// Locks the next slots, as many as are free.
    fn lock_run(&mut self, file: usize) -> (usize, &'static [Slot]) {
        let first = self.below(SLOTS);
        let longest = if self.one_in(4) { 100 } else { 3 };
        let wanted = (1 + self.below(longest)).min(SLOTS - first);
        let run = &self.slots(file)[first..first + wanted];
        let locked = run.iter().take_while(|slot| slot.try_lock()).count();
        (first, &run[..locked])
    }

    /// Some neighbouring slots by one write(); now and then an fsync.
    fn write(&mut self) {
        let file = self.below(FILES);
        let (first, run) = self.lock_run(file);
        let mut bytes = Vec::with_capacity(run.len() * RECORD_BYTES);
        for (number, slot) in run.iter().enumerate() {
            let content = slot.begun().content.next();
            slot.begin(content);
            bytes.extend_from_slice(&content.bytes(file, first + number));
        }
        let opened = self.open(file);
        opened.write_all_at(&bytes, (first * RECORD_BYTES) as u64).expect("write");
        for slot in run {
            slot.acknowledge();
            slot.unlock();
        }
        count(&self.board.writes);
        if self.one_in(50) {
            self.open(file).sync_data().expect("fdatasync");
        }
    }

    /// Many slots by one read(), from the page cache, from the daemon, or past the page cache.
    fn read(&mut self, directly: bool) {
        let file = self.below(FILES);
        let first = self.below(SLOTS);
        let slots = 1 + self.below(130);
        let (from, to) = (first * RECORD_BYTES, (first + slots).min(SLOTS) * RECORD_BYTES);
        let slots = &self.slots(file)[first..first + (to - from) / RECORD_BYTES];
        let before: Vec<View> = slots.iter().map(Slot::acknowledged).collect();
        let ways = ["read", "read", "read after DONTNEED", "direct read"];
        let how = ways[self.below(if directly { 4 } else { 3 })];
        let seen = if how == "direct read" {
            self.read_directly(file, from, to)
        } else {
            let opened = self.open(file);
            if how == "read after DONTNEED" {
                // SAFETY: a valid descriptor.
                unsafe { libc::posix_fadvise(opened.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            }
            read_up_to(opened, from, to).expect("read")
        };
        for (number, slot) in slots.iter().enumerate() {
            let bytes = &seen[number * RECORD_BYTES..(number + 1) * RECORD_BYTES];
            let exact = check(how, file, first + number, bytes, before[number], slot.begun());
            count(if exact { &self.board.exact_reads } else { &self.board.raced_reads });
        }
    }

    /// O_DIRECT: whole aligned blocks around what is asked for.
    fn read_directly(&mut self, file: usize, from: usize, to: usize) -> Vec<u8> {
        const BLOCK: usize = 4096;
        let opened = self.open_by_name(file, libc::O_DIRECT);
        let (start, end) = (from / BLOCK * BLOCK, to.next_multiple_of(BLOCK));
        let mut space = vec![0; end - start + BLOCK];
        let skip = space.as_ptr().align_offset(BLOCK);
        let buf = &mut space[skip..skip + end - start];
        let mut done = 0;
        while done < buf.len() {
            match opened.read_at(&mut buf[done..], (start + done) as u64).expect("direct read") {
                0 => break,
                // The end of the file, or a truncation meanwhile.
                count if count % BLOCK != 0 => break,
                count => done += count,
            }
        }
        buf[from - start..to - start].to_vec()
    }

    /// A slot through a mapping. Its lock keeps truncations away, which would be SIGBUS.
    fn map(&mut self) {
        let (file, number) = (self.below(FILES), self.below(SLOTS));
        let slot = &self.slots(file)[number];
        if !slot.try_lock() {
            return;
        }
        let content = slot.begun().content;
        if usize::from(content.len) == RECORD_BYTES {
            let is_write = self.one_in(2);
            let page_from = number * RECORD_BYTES / 4096 * 4096;
            let at = number * RECORD_BYTES - page_from;
            let len = at + RECORD_BYTES;
            let opened = self.open(file);
            // SAFETY: a fresh mapping; the file is that long as long as the slot is locked.
            let map = unsafe {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                let (fd, offset) = (opened.as_raw_fd(), page_from as libc::off_t);
                libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd, offset)
            };
            assert_ne!(map, libc::MAP_FAILED, "{}", io::Error::last_os_error());
            let mut seen = [0; RECORD_BYTES];
            // SAFETY: within the mapping.
            let bytes = unsafe { map.cast::<u8>().add(at) };
            // SAFETY: RECORD_BYTES of the mapping, into a buffer of that size.
            unsafe { bytes.copy_to_nonoverlapping(seen.as_mut_ptr(), RECORD_BYTES) };
            let view = slot.acknowledged();
            check("mapping", file, number, &seen, view, slot.begun());
            if is_write {
                slot.begin(content.next());
                let record = content.next().bytes(file, number);
                // SAFETY: as above, the other way.
                unsafe { bytes.copy_from_nonoverlapping(record.as_ptr(), RECORD_BYTES) };
                slot.acknowledge();
                count(&self.board.writes);
            }
            // SAFETY: the mapping made above.
            unsafe { libc::munmap(map, len) };
        }
        slot.unlock();
    }

    /// Cuts a file within a record, now and then extends it again, and looks at the size: nobody
    /// else can make the file longer, as all slots behind are locked.
    fn cut(&mut self) {
        let file = self.below(FILES);
        let first = if self.one_in(3) { self.below(SLOTS) } else { SLOTS - 1 - self.below(100) };
        let left = self.below(RECORD_BYTES + 1) as u16;
        let run = &self.slots(file)[first..];
        run.iter().for_each(Slot::lock);
        for (number, slot) in run.iter().enumerate() {
            let old = slot.begun().content;
            let left = if number == 0 { left } else { 0 };
            slot.begin_cut(Content { len: old.len.min(left), ..old });
        }
        let size = (first * RECORD_BYTES) as u64 + u64::from(left);
        let extend = self.one_in(3);
        let opened = self.open(file);
        opened.set_len(size).expect("ftruncate");
        let mut past = [0; 100];
        assert_eq!(opened.metadata().unwrap().len(), size, "file {file} was cut");
        assert_eq!(opened.read_at(&mut past, size).unwrap(), 0, "bytes past the size {size}");
        if extend {
            let longer = (SLOTS * RECORD_BYTES) as u64;
            opened.set_len(longer).expect("ftruncate");
            assert_eq!(opened.metadata().unwrap().len(), longer, "file {file} was extended");
        }
        for slot in run {
            slot.acknowledge_cut();
            slot.unlock();
        }
        count(&self.board.cuts);
        std::thread::sleep(Duration::from_millis(self.below(20) as u64));
    }

    /// A new name, over a file that has just been written, or by way of a second link.
    fn rename(&mut self) {
        let file = self.below(FILES);
        let shelf = &self.board.files[file];
        let name = shelf.name.load(Ordering::SeqCst);
        let (old, new) = (path(&self.dir, file, name), path(&self.dir, file, name + 1));
        if self.one_in(2) {
            fs::write(&new, vec![b'?'; 50_000]).expect("a file to be replaced");
            fs::rename(&old, &new).expect("rename");
            shelf.name.store(name + 1, Ordering::SeqCst);
        } else {
            if fs::hard_link(&old, &new).is_err() {
                // Linux takes no link count from LINK's reply while the file is being cut; after the
                // unlink it believes that no name is left, until it asks again.
                fs::metadata(&old).expect("stat");
                fs::hard_link(&old, &new).expect("link");
            }
            shelf.name.store(name + 1, Ordering::SeqCst);
            fs::remove_file(&old).expect("unlink");
        }
        count(&self.board.renames);
        std::thread::sleep(Duration::from_millis(self.below(5) as u64));
    }
}

/// Bytes of a range; zeros behind the end of the file.
pub fn read_up_to(file: &File, from: usize, to: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; to - from];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], (from + done) as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(bytes)
}
