//! Descriptors that a dead worker left open in the shared table.
//!
//! Closed by the keeper before it starts the next worker: then nobody else opens or closes any.
//! What the arena names stays open for the next worker to adopt.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;

use crate::arena::{Arena, NodeSlot};

/// Closes every descriptor but those in `keep`, those of the arena, and those that the node table
/// keeps. No worker may be alive. `Err` when /proc cannot be read; nothing is closed then.
pub(super) fn close(arena: &Arena, keep: &[RawFd]) -> io::Result<()> {
    let table = arena.nodes();
    let mut known: BTreeSet<RawFd> = keep.iter().copied().collect();
    known.extend(arena.descriptors());
    known.extend(arena.control().ballast_fd());
    let slots = (0..table.high_water()).map(NodeSlot);
    known.extend(slots.filter_map(|slot| table.identity(slot).and_then(|_| table.kept_fd(slot))));
    for fd in open_descriptors()?.difference(&known) {
        // SAFETY: its owner is dead. The one that listed the directory is closed already, which
        // is harmless: this process has one thread.
        unsafe { libc::close(*fd) };
    }
    Ok(())
}

fn open_descriptors() -> io::Result<BTreeSet<RawFd>> {
    let mut open = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(open)
}
