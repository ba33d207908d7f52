//! Differences that are known: of the kernel's FUSE or of the FUSE library, none of which the
//! daemon can mend; over engines also where the engine alone is wrong. Each must still occur: a
//! difference that is gone has to be taken off.

mod engines;

/// A difference that is expected.
pub struct Known {
    /// The case.
    pub case: &'static str,
    /// How the call's line begins; `*` stands for anything.
    pub call: &'static str,
    /// Kinds of filesystems it occurs on; empty for all that are not FUSE themselves.
    pub on: &'static [&'static str],
    /// How surely.
    pub occurs: Occurs,
    /// Why it is so.
    pub why: &'static str,
}

/// Whether a difference must be found.
#[derive(Clone, Copy, PartialEq)]
pub enum Occurs {
    /// Each time.
    Always,
    /// It depends on time: what an engine's client keeps for a second, and the like.
    Sometimes,
}

impl Known {
    /// Whether a difference in this call is the one that is meant.
    pub fn is_of(&self, call: &str) -> bool {
        let mut parts = self.call.split('*');
        let first = parts.next().unwrap_or_default();
        let after_first = call.strip_prefix(first);
        let after = |rest: &'_ str, part: &str| rest.find(part).map(|at| at + part.len());
        let mut rest = after_first;
        for part in parts {
            rest = rest.and_then(|rest| Some(&rest[after(rest, part)?..]));
        }
        rest.is_some()
    }
}

const ALL: &[&str] = &[];
const TMPFS: &[&str] = &["tmpfs"];
const WITH_BLOCKS: &[&str] = &["ext4", "xfs"];
const WITH_CLONES: &[&str] = &["xfs", "btrfs"];

const NO_TMPFILE: &str =
    "the FUSE library has no TMPFILE request; programs fall back on EOPNOTSUPP";
const NO_MODE: &str = "the kernel's FUSE passes on KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE only";
const NO_LIMIT: &str = "FUSE cannot say how large a file may be: fsync answers EFBIG, not write";
const NO_DIRECT_RULES: &str = "FUSE has no alignment rules: direct I/O of any alignment works";
const NO_HINTS: &str = "the kernel's FUSE does not take these flags";
const NO_NEW_TIME: &str =
    "the kernel's FUSE sends no new time with a truncation that changes nothing";
const REOPENED: &str =
    "the file is opened anew, which its flag forbids; these filesystems ask at opening only";
const POLLED: &str = "the kernel's FUSE lets regular files be polled";
const NO_STATX: &str = "the FUSE library answers STATX as not supported";
const OWN_TIMES: &str = "the kernel keeps times of files it caches; it does not know their range";
const NO_ATIME: &str = "the kernel's FUSE never moves atime: reads are served from its page cache";
const NO_CLONES: &str =
    "FUSE has no request for clones; copy_file_range copies without the program";
const NO_APPEND: &str = "the drain writes at offsets, which append-only files forbid";
const NO_EXTENTS: &str = "FUSE has no request for it";
const OF_SUPERBLOCK: &str = "answered by the kernel from FUSE's own superblock";
const OF_BLOCKS: &str = "btrfs takes a negative offset for 0 until the bytes have blocks";
const OF_TMPFS: &str = "tmpfs alone does so";

/// All of them.
const KNOWN_DIFFERENCES: &[Known] = &[
    differs("open::temporary_files", "O_TMPFILE W", ALL, NO_TMPFILE),
    differs("open::temporary_files", "O_TMPFILE RW", ALL, NO_TMPFILE),
    differs("space::fallocate_moving", "fallocate COLLAPSE_RANGE", WITH_BLOCKS, NO_MODE),
    differs("space::fallocate_moving", "fallocate INSERT_RANGE", WITH_BLOCKS, NO_MODE),
    differs("space::fallocate_odd", "fallocate UNSHARE_RANGE", &["xfs"], NO_MODE),
    differs("space::lseek_values", "lseek SET 9223372036854775807", &["ext4"], NO_LIMIT),
    differs("space::too_big", "pwrite at 9223372036854771712", &["ext4"], NO_LIMIT),
    differs("space::too_big", "pread at 9223372036854771712", &["ext4"], NO_LIMIT),
    differs("space::past_sixteen_tebibytes", "pwrite", &["ext4"], NO_LIMIT),
    differs("space::past_sixteen_tebibytes", "fsync", &["ext4"], NO_LIMIT),
    differs("space::limit_of_the_file_size", "allocate, keeping", TMPFS, OF_TMPFS),
    differs("writes::direct_unaligned", "unaligned", WITH_BLOCKS, NO_DIRECT_RULES),
    differs("writes::vectors_with_hints", "NOWAIT", &["ext4", "xfs", "btrfs"], NO_HINTS),
    differs("writes::vectors_with_hints", "DONTCACHE", WITH_BLOCKS, NO_HINTS),
    differs("writes::vectors_with_hints", "ATOMIC", &["xfs"], NO_HINTS),
    differs("writes::half_a_buffer", "write", &["btrfs"], "btrfs alone writes so little of it"),
    differs("writes::advice_and_sync", "file: epoll", ALL, POLLED),
    differs("writes::advice_and_sync", "read-only: epoll", ALL, POLLED),
    differs("writes::advice_and_sync", "file: F_GET_SEALS", TMPFS, OF_TMPFS),
    differs("writes::advice_and_sync", "read-only: F_GET_SEALS", TMPFS, OF_TMPFS),
    differs("mapping::past_the_end", "what was past the end", TMPFS, OF_TMPFS),
    differs("stat::birth_and_direct_io", "BTIME", ALL, NO_STATX),
    differs("stat::birth_and_direct_io", "DIOALIGN", WITH_BLOCKS, NO_STATX),
    differs("stat::birth_and_direct_io", "attributes mask", ALL, NO_STATX),
    differs("stat::of_the_filesystem", "type", ALL, OF_SUPERBLOCK),
    differs("stat::set_times", "before 1901: times of file", WITH_BLOCKS, OWN_TIMES),
    differs("stat::set_times", "after 2446: times of file", WITH_BLOCKS, OWN_TIMES),
    differs("stat::set_times", "far: times of file", WITH_BLOCKS, OWN_TIMES),
    differs(
        "stat::what_moves_times",
        "truncate to the same moves of d/file",
        &["ext4", "tmpfs"],
        NO_NEW_TIME,
    ),
    differs("stat::what_moves_times", "a read moves of d/file", ALL, NO_ATIME),
    differs("stat::what_moves_times", "a read of nothing moves of d/file", ALL, NO_ATIME),
    differs("stat::relatime", "buffered, ", ALL, NO_ATIME),
    differs("stat::relatime", "synced, ", ALL, NO_ATIME),
    differs("ioctl::forbidding_flags", "APPEND: to append", ALL, NO_APPEND),
    differs("ioctl::forbidding_flags", "IMMUTABLE: truncate", &["xfs", "btrfs", "tmpfs"], REOPENED),
    differs("ioctl::clones", "FICLONE", WITH_CLONES, NO_CLONES),
    differs("ioctl::clones", "FIDEDUPERANGE", WITH_CLONES, NO_CLONES),
    differs("space::data_and_holes", "written: SEEK_DATA -1", &["btrfs"], OF_BLOCKS),
    differs("ioctl::extents", "FIEMAP", &["ext4", "xfs", "btrfs"], NO_EXTENTS),
    differs("ioctl::extents", "FIBMAP", &["btrfs", "tmpfs"], OF_SUPERBLOCK),
    differs("ioctl::generic", "file GETFSUUID", &["ext4", "xfs", "tmpfs"], OF_SUPERBLOCK),
    differs("ioctl::generic", "directory GETFSUUID", &["ext4", "xfs", "tmpfs"], OF_SUPERBLOCK),
    differs("ioctl::generic", "fifo GETFSUUID", &["ext4", "xfs", "tmpfs"], OF_SUPERBLOCK),
];

const fn differs(
    case: &'static str,
    call: &'static str,
    on: &'static [&'static str],
    why: &'static str,
) -> Known {
    Known { case, call, on, occurs: Occurs::Always, why }
}

/// One that depends on time.
const fn may_differ(
    case: &'static str,
    call: &'static str,
    on: &'static [&'static str],
    why: &'static str,
) -> Known {
    Known { case, call, on, occurs: Occurs::Sometimes, why }
}

/// All of them, those of engines, too.
pub fn all() -> impl Iterator<Item = &'static Known> {
    KNOWN_DIFFERENCES.iter().chain(engines::KNOWN_DIFFERENCES)
}

/// Says which they are.
pub fn tell() {
    for known in all() {
        let on = if known.on.is_empty() { "all".into() } else { known.on.join(", ") };
        eprintln!("known to differ ({on}): {} {}: {}", known.case, known.call, known.why);
    }
    for (on, case, why) in engines::LEFT_OUT {
        eprintln!("left out ({on}): {case}: {why}");
    }
}

/// The ones of a case on a kind of filesystem.
pub fn known(case: &str, kind: &str) -> Vec<&'static Known> {
    let is_on = |on: &[&str]| match on {
        [] => !engines::ARE_FUSE.contains(&kind),
        on => on.contains(&kind),
    };
    all().filter(|known| known.case == case && is_on(known.on)).collect()
}

/// Whether an engine cannot do what a case is about, so that nothing would be compared.
pub fn is_left_out(case: &str, kind: &str) -> bool {
    engines::LEFT_OUT.iter().any(|left_out| left_out.0 == kind && left_out.1 == case)
}
