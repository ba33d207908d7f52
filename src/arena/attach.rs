//! Mapping an arena that another process made, which may be another build of this program.
//!
//! Nothing in it is believed before it was checked: geometry against the options and the size of
//! the files, every entry against the geometry. What does not fit is refused and never followed.
//! The worker that made it may still be alive and writing, so the checks hold at any moment
//! between two of its stores.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use super::segments::SegmentEntry;
use super::{
    Arena, Header, INIT_BYTES_MAX, LAYOUT_VERSION, MAGIC, NodeSlot, NodeTable, TABLE_OFFSET,
    map_memfd,
};
use crate::buffer::Slot;
use crate::config::MountConfig;

/// Why an arena cannot be taken over. It is untouched.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It was made by a build with another layout.
    #[error(
        "what is in memory has layout {found}, this program knows {known}: unmount and mount again"
    )]
    Layout {
        /// Of the arena.
        found: u32,
        /// Of this program.
        known: u32,
    },
    /// It holds something that cannot be.
    #[error("what is in memory is damaged: {0}")]
    Damaged(String),
    /// A system call failed.
    #[error("what is in memory cannot be mapped: {0}")]
    Io(#[from] io::Error),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, AttachError> {
    Err(AttachError::Damaged(what.into()))
}

/// Where the data begins and how many bytes the arena has, for a geometry.
pub(super) fn extent(segments: u32, segment_bytes: u32) -> (usize, usize) {
    let table_bytes = segments as usize * size_of::<SegmentEntry>();
    let data_offset = (TABLE_OFFSET + table_bytes).next_multiple_of(64 << 10);
    (data_offset, data_offset + segments as usize * segment_bytes as usize)
}

/// Bytes of the file behind a descriptor, which must be one of ours and open.
pub(super) fn file_bytes(fd: RawFd) -> io::Result<u64> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only looked at; one that is not open gives EBADF.
    let file = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    let meta = std::fs::File::from(file).metadata()?;
    // A shorter file than was mapped kills with SIGBUS; one that is no memory has no such promise.
    if meta.mode() & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(meta.len())
}

impl Arena {
    /// Maps the arena behind two descriptors, made by [`Arena::create`] for the same options, and
    /// checks it. The descriptors stay open for the rest of the process's life.
    pub fn attach(
        config: &MountConfig,
        arena_fd: RawFd,
        nodes_fd: RawFd,
    ) -> Result<Arena, AttachError> {
        let segment_bytes = config.segment_bytes();
        let Ok(segments) = u32::try_from(config.memory_bytes / u64::from(segment_bytes)) else {
            return damaged("more memory than an arena can have");
        };
        let (data_offset, total) = extent(segments, segment_bytes);
        let bytes = file_bytes(arena_fd)?;
        if bytes < size_of::<Header>() as u64 {
            return damaged(format!("the arena has {bytes} bytes"));
        }
        check_head(arena_fd)?;
        if bytes != total as u64 {
            return damaged(format!("the arena has {bytes} bytes and not {total}"));
        }
        let base = map_memfd(arena_fd, total)?;
        let nodes = NodeTable::attach(nodes_fd)?;
        let arena = Arena { base, data_offset, segment_bytes, segments, nodes, fd: arena_fd };
        let header = arena.header();
        if (header.segment_bytes, header.segments) != (segment_bytes, segments) {
            return damaged(format!("{} segments of {}", header.segments, header.segment_bytes));
        }
        arena.check_init()?;
        arena.check_segments()?;
        arena.check_nodes()?;
        Ok(arena)
    }

    /// Forgets files without a name, which were kept by descriptors of a table that is gone, and what
    /// was buffered of them: it could never be stored. Their nodes stay for those who have them open,
    /// and answer with errors. No worker may be alive.
    pub fn forget_unnamed(&self) {
        let mut forgotten = BTreeSet::new();
        for slot in (0..self.nodes.high_water()).map(NodeSlot) {
            if let Some(identity) = self.nodes.identity(slot)
                && self.nodes.kept_fd(slot).is_some()
            {
                self.nodes.cut_off(slot);
                forgotten.insert(identity.id);
            }
        }
        for slot in (0..self.segments).map(Slot) {
            if self.published(slot).is_some_and(|(node, _)| forgotten.contains(&node)) {
                self.unpublish(slot);
            }
        }
        if !forgotten.is_empty() {
            log::error!(
                "files that were removed while they were open are lost: {}",
                forgotten.len()
            );
        }
    }

    fn check_init(&self) -> Result<(), AttachError> {
        let len = self.header().init_len.load(Ordering::Acquire) as usize;
        if len > INIT_BYTES_MAX || (self.init_done() && len == 0) {
            return damaged(format!("an INIT request of {len} bytes"));
        }
        Ok(())
    }

    fn check_segments(&self) -> Result<(), AttachError> {
        for slot in (0..self.segments).map(Slot) {
            let Some((node, published)) = self.published(slot) else { continue };
            // Read after the entry: it only grows.
            let next_seq = self.header().next_seq.load(Ordering::Acquire);
            let end = published
                .index
                .checked_mul(u64::from(self.segment_bytes))
                .and_then(|start| start.checked_add(u64::from(published.end)));
            let fits = node != 0
                && published.start < published.end
                && published.end <= self.segment_bytes
                && published.seq < next_seq
                && end.is_some_and(|end| end <= i64::MAX as u64);
            if !fits {
                return damaged(format!("segment {} of node {node}: {published:?}", slot.0));
            }
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), AttachError> {
        for slot in (0..self.nodes.high_water()).map(NodeSlot) {
            if self.nodes.identity(slot).is_some() && !self.nodes.is_plausible(slot) {
                return damaged(format!("the entry of node {}", slot.0));
            }
        }
        Ok(())
    }
}

/// The part of the header that no layout may move: says whether the rest can be understood.
fn check_head(arena_fd: RawFd) -> Result<(), AttachError> {
    let mut head = [0u8; 12];
    // SAFETY: reads twelve bytes into a buffer of that size.
    let read = unsafe { libc::pread(arena_fd, head.as_mut_ptr().cast(), head.len(), 0) };
    if read != head.len() as isize {
        return damaged("the arena has no header");
    }
    let (magic, layout) = head.split_at(8);
    if magic != MAGIC.to_ne_bytes() {
        return damaged("it is no arena");
    }
    let found = u32::from_ne_bytes(layout.try_into().expect("four bytes are left"));
    if found != LAYOUT_VERSION {
        return Err(AttachError::Layout { found, known: LAYOUT_VERSION });
    }
    Ok(())
}
