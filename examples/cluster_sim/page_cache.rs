//! A kernel's page cache on one node: what it holds of each file, and when it writes it back.
//!
//! Used for a network filesystem's client, and for the kernel between programs and coalescefs. Like
//! Linux: files with a byte older than an age are written back whole, looked for now and then; above
//! half of the limit files are, in turn, until it is below; at the limit programs wait. A file has
//! all its dirty bytes written back at once, and is not chosen again before all of them are sent.

use std::collections::VecDeque;
use std::ops::Range;

/// Limits of one node's cache.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Dirty bytes, with those on their way; programs wait above it.
    pub bytes: u64,
    /// A file whose oldest byte is older is written back ...
    pub age_us: u64,
    /// ... when somebody looks, which is so often.
    pub look_us: u64,
    /// Requests that may be out to one place.
    pub window: usize,
}

/// A part of a file that is to be sent.
#[derive(Clone, Debug)]
pub struct Part {
    pub file: usize,
    pub range: Range<u64>,
    /// What it goes to: a server.
    pub place: usize,
}

#[derive(Clone, Debug, Default)]
struct File {
    dirty: Range<u64>,
    /// Parts chosen and not sent.
    unsent: usize,
}

#[derive(Debug)]
pub struct PageCache {
    limits: Limits,
    files: Vec<File>,
    dirty_bytes: u64,
    /// Chosen, sent or not.
    writeback_bytes: u64,
    out: Vec<usize>,
    unsent: VecDeque<Part>,
    /// Files that were found too old.
    expired: VecDeque<usize>,
    next_look_us: u64,
    /// Where the round of files is.
    next_file: usize,
    writes_all: bool,
}

impl PageCache {
    /// `places` is the number of servers; `first_look_us` when it first looks for old files.
    pub fn new(limits: Limits, files: usize, places: usize, first_look_us: u64) -> PageCache {
        PageCache {
            limits,
            files: vec![File::default(); files],
            dirty_bytes: 0,
            writeback_bytes: 0,
            out: vec![0; places],
            unsent: VecDeque::new(),
            expired: VecDeque::new(),
            next_look_us: first_look_us,
            next_file: 0,
            writes_all: false,
        }
    }

    /// Bytes that programs may write now.
    pub fn room_bytes(&self) -> u64 {
        self.limits.bytes.saturating_sub(self.held_bytes())
    }

    /// Dirty bytes, and those on their way.
    pub fn held_bytes(&self) -> u64 {
        self.dirty_bytes + self.writeback_bytes
    }

    /// A program appended to a file.
    pub fn note_written(&mut self, file: usize, bytes: u64) {
        self.files[file].dirty.end += bytes;
        self.dirty_bytes += bytes;
    }

    /// From now on everything is written back at once: the files were closed.
    pub fn write_all(&mut self) {
        self.writes_all = true;
    }

    /// Looks for old files, if it is time. `written_us` says when a byte of a file was written.
    pub fn look(&mut self, now_us: u64, written_us: impl Fn(usize, u64) -> u64) {
        if now_us < self.next_look_us {
            return;
        }
        self.next_look_us = now_us + self.limits.look_us;
        let is_old = |(file, it): (usize, &File)| {
            let is_dirty = !it.dirty.is_empty();
            let is_old = || written_us(file, it.dirty.start) + self.limits.age_us <= now_us;
            (is_dirty && is_old()).then_some(file)
        };
        self.expired = self.files.iter().enumerate().filter_map(is_old).collect();
    }

    /// Takes the next part that is to be sent now, if any. `cut` gives a file's parts.
    pub fn next_part(
        &mut self,
        mut cut: impl FnMut(usize, Range<u64>, &mut Vec<Part>),
    ) -> Option<Part> {
        let mut parts = Vec::new();
        loop {
            let may_go = |part: &Part| self.out[part.place] < self.limits.window;
            if let Some(at) = self.unsent.iter().position(may_go) {
                let part = self.unsent.remove(at)?;
                self.files[part.file].unsent -= 1;
                self.out[part.place] += 1;
                return Some(part);
            }
            let file = self.next_file()?;
            let range = self.files[file].dirty.clone();
            self.files[file].dirty.start = range.end;
            self.dirty_bytes -= range.end - range.start;
            self.writeback_bytes += range.end - range.start;
            cut(file, range, &mut parts);
            self.files[file].unsent = parts.len();
            self.unsent.extend(parts.drain(..));
        }
    }

    /// A part that was sent is off the node's hands.
    pub fn note_done(&mut self, part: &Part) {
        self.out[part.place] -= 1;
        self.writeback_bytes -= part.range.end - part.range.start;
    }

    /// The file that is written back next.
    fn next_file(&mut self) -> Option<usize> {
        let may_be = |it: &File| !it.dirty.is_empty() && it.unsent == 0;
        while let Some(file) = self.expired.pop_front() {
            if may_be(&self.files[file]) {
                return Some(file);
            }
        }
        if !self.writes_all && self.dirty_bytes <= self.limits.bytes / 2 {
            return None;
        }
        let count = self.files.len();
        let mut round = (0..count).map(|step| (self.next_file + step) % count);
        let file = round.find(|file| may_be(&self.files[*file]))?;
        self.next_file = (file + 1) % count;
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1000, age_us: 100, look_us: 10, window: 1 };

    fn whole(file: usize, range: Range<u64>, parts: &mut Vec<Part>) {
        let middle = range.start.midpoint(range.end);
        parts.push(Part { file, range: range.start..middle, place: 0 });
        parts.push(Part { file, range: middle..range.end, place: 1 });
    }

    #[test]
    fn old_files_go_and_above_half_of_the_limit_all_in_turn() {
        let mut cache = PageCache::new(LIMITS, 3, 2, 0);
        cache.note_written(1, 300);
        cache.look(99, |_, _| 0);
        assert!(cache.next_part(whole).is_none());
        cache.look(109, |_, _| 0);
        let part = cache.next_part(whole).expect("it is old");
        assert_eq!((part.file, part.range.clone(), cache.room_bytes()), (1, 0..150, 700));
        cache.note_written(0, 501);
        assert!(cache.next_part(whole).is_some_and(|part| part.file == 1), "to another place");
        assert!(cache.next_part(whole).is_none(), "two are out");
        cache.note_done(&part);
        assert_eq!(cache.next_part(whole).map(|part| part.file), Some(0));
        assert_eq!(cache.room_bytes(), 1000 - 150 - 501);
    }
}
