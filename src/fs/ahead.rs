//! `--layout file`: blocks well ahead of what is stored, so that a file has few extents.
//!
//! A turn of a file that is open allocates a *window* behind its end with the blocks that it needs:
//! 64 MiB at first, then as much as the file has already, and never more than an eighth of the free
//! space divided by the streams. Rejected: windows that begin with a chunk and double. Streams take
//! turns, so behind each small window lies another file's, and each doubling is an extent more.
//!
//! A window is a reservation like that of a turn (`reserve`): what lies in it is not charged, so
//! that its room is not held by the ballast as well. It is given back when the file is closed and
//! stored, cut or removed; when a write or a turn finds no space; and after a worker's death. Small
//! windows end by themselves: where room is short an eighth of it is less than a MiB.
//!
//! On filesystems other than XFS and ext4 there are none: btrfs writes elsewhere all the same, and
//! tmpfs would fill memory.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Filesystem;
use super::data::{FileData, FileState};
use super::nodes::Node;
use super::space::whole_blocks;
use crate::backing;
use crate::config::Layout;

/// Most outputs fit, and a disk with seeks takes 5 s to write so much of each of ten streams.
const FIRST_BYTES: u64 = 64 << 20;
/// All windows together take about such a part of what is free.
const ROOM_PART: u64 = 8;
/// Windows have so many bytes or multiples.
const STEP_BYTES: u64 = 1 << 20;
/// How long a write that finds no space waits for turns under way in windows: a turn ends after
/// 64 MiB.
const BUSY_WAIT: Duration = Duration::from_secs(2);
const BUSY_LOOK: Duration = Duration::from_millis(10);

/// What became of a window that is to be given back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    /// There was none, or it is the program's.
    Nothing,
    /// It is gone.
    Back,
    /// Bytes are on their way into it, or the file is being changed.
    Busy,
}

/// Bytes of a window of a file that has `file_bytes`, with so much room on the disk and so many
/// streams to share it.
fn window_bytes(file_bytes: u64, room_bytes: u64, streams: u64) -> u64 {
    let fair = room_bytes / ROOM_PART / streams.max(1);
    file_bytes.max(FIRST_BYTES).min(fair) / STEP_BYTES * STEP_BYTES
}

impl Filesystem {
    /// What a turn that needs these blocks of a file allocates: a window, or just them.
    pub(super) fn window(
        &self,
        node: &Node,
        data: &FileData,
        file: BorrowedFd,
        blocks: &Range<u64>,
    ) -> Range<u64> {
        let has_windows = self.config.layout == Layout::File
            && self.arena.nodes().open(node.slot) > 0
            && backing::keeps_extents(file)
            && !data.lock().deleted
            && !data.space.is_full();
        if !has_windows {
            return blocks.clone();
        }
        let streams = data.queue.with(|scheduler| scheduler.streams()) as u64;
        let bytes = window_bytes(blocks.start, data.space.room_bytes(file), streams);
        blocks.start..blocks.end.max(blocks.start + bytes)
    }

    /// Lets go of what is allocated beyond what buffered bytes of a file need.
    fn give_window_back(&self, node: &Arc<Node>, state: &mut FileState) -> Given {
        if !state.reserved.may_be_any() || state.reserved.is_programs {
            return Given::Nothing;
        }
        let in_flight = state.buffer.in_flight_bytes() > 0;
        if state.reserved.is_allocating || state.barriers > 0 || in_flight {
            return Given::Busy;
        }
        if state.buffer.is_clean() {
            self.trim(node, state);
            return Given::Back;
        }
        self.unreserve_before_jump(node, state);
        if let Err(error) = self.reserve_buffered(node, state) {
            // They are charged like those without a window.
            log::debug!("blocks of buffered bytes are not reserved: {error}");
        }
        Given::Back
    }

    /// Takes back what buffered bytes need that go on where the file ends, before others do: they
    /// were acknowledged because of their window.
    fn reserve_buffered(&self, node: &Arc<Node>, state: &mut FileState) -> std::io::Result<()> {
        let Some(data) = node.data_if_any() else { return Ok(()) };
        let file = self.writable_file(node)?;
        let (size, end) = (backing::attr((*file).as_fd())?.size, state.buffer.end());
        if size >= end || state.buffer.filled_to(size, end) < end {
            return Ok(());
        }
        let blocks = whole_blocks(&(size..end));
        self.arena.nodes().set_reserved(node.slot, true);
        state.reserved.is_any = true;
        let mode = libc::FALLOC_FL_KEEP_SIZE;
        self.storage.allocate((*file).as_fd(), mode, blocks.start, blocks.end - blocks.start)?;
        state.reserved.add(blocks);
        self.charge_again(data, state);
        Ok(())
    }

    /// The file has no name any more: nobody will read it later.
    pub(super) fn give_back_of_deleted(&self, node: &Arc<Node>, state: &mut FileState) {
        if self.config.layout == Layout::File && state.deleted {
            self.give_window_back(node, state);
        }
    }

    /// The windows that a former worker left, before anything is stored.
    pub(super) fn give_back_left(&self) {
        if self.config.layout == Layout::File {
            self.give_windows_back();
        }
    }

    /// The disk is full: lets all windows go that nothing is being stored in. Whether there were
    /// any. Must not be called under a file's lock.
    pub(super) fn give_windows_back(&self) -> bool {
        self.give_each_back().contains(&Given::Back)
    }

    /// The same, and those that something is being stored in as soon as it is.
    pub(super) fn wait_for_windows(&self) {
        let until = Instant::now() + BUSY_WAIT;
        while self.give_each_back().contains(&Given::Busy) && Instant::now() < until {
            std::thread::sleep(BUSY_LOOK);
        }
    }

    fn give_each_back(&self) -> Vec<Given> {
        if self.config.layout != Layout::File {
            return Vec::new();
        }
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        let give = |node: &Arc<Node>| {
            node.data_if_any().map(|data| self.give_window_back(node, &mut data.lock()))
        };
        nodes.iter().filter_map(give).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a window doubles the file, and all of them leave most of the room to others.
    #[test]
    fn windows_double_files_and_are_bounded_by_the_room() {
        const MIB: u64 = 1 << 20;
        assert_eq!(window_bytes(0, 1 << 40, 40), 64 * MIB);
        assert_eq!(window_bytes(100 * MIB, 1 << 40, 40), 100 * MIB);
        assert_eq!(window_bytes(100 * MIB, 1 << 30, 40), 3 * MIB);
        assert_eq!(window_bytes(0, 100 * MIB, 40), 0, "hardly any room");
        assert_eq!(window_bytes(0, 0, 0), 0);
        for streams in 1..100 {
            assert!(window_bytes(u64::MAX, 1 << 40, streams) * streams <= 1 << 37);
        }
    }
}
