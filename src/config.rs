//! What a mount is told to be: the resolved options, fixed for its lifetime.
//!
//! Made by `cli` from the raw arguments, read by every other module. No logic beyond geometry.

pub mod rules;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backing::Abilities;
use crate::mount::origin::Origin;

/// The resolved options of one mount. Every value has been checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountConfig {
    /// Canonical path of the backing directory.
    pub backing: PathBuf,
    /// Canonical path of the mountpoint; equal to `backing` when mounted over it.
    pub mountpoint: PathBuf,
    /// Hard limit of bytes held in the arena.
    pub memory_bytes: u64,
    /// Bytes one file writes in one turn, at first; a multiple of [`MountConfig::segment_bytes`], and of the
    /// stripe where memory allows.
    pub chunk_bytes: u64,
    /// Whether the chunk is learned from there on. Builds before it did not.
    #[serde(default)]
    pub chunk_auto: bool,
    /// The stripe of the RAID below the backing directory, or the object of its engine, if one is
    /// known: no write that reaches the end of one goes on behind it.
    #[serde(default)]
    pub stripe_bytes: Option<u64>,
    /// So many of them in a row lie side by side; 0 from builds before it.
    #[serde(default)]
    pub stripe_count: u32,
    /// Whether chunks may be parts of one: of an object, not of a RAID's stripe.
    #[serde(default)]
    pub stripe_divides: bool,
    /// What the backing filesystem can do. Builds before it did not ask.
    #[serde(default)]
    pub abilities: Abilities,
    /// How the backing files lie on the disk. Builds before it had no choice.
    #[serde(default)]
    pub layout: Layout,
    /// No byte waits longer than this once the disk can take it.
    pub max_age_ms: u64,
    /// Files written at the same time on one backing device; the first number where it is learned.
    pub lanes: u32,
    /// Whether it is learned for each device. Builds before it did not.
    #[serde(default)]
    pub lanes_auto: bool,
    /// Whether the kernel collects write() calls in its page cache before they reach us.
    pub writeback_cache: bool,
    /// Limit of bytes per second written to the backing directory; `None` is no limit.
    pub drain_rate: Option<u64>,
    /// What fsync waits for. Builds before it had no choice.
    #[serde(default)]
    pub fsync: FsyncPolicy,
    /// Who else may change the backing directory. Builds before it thought that nobody does.
    #[serde(default)]
    pub consistency: Consistency,
    /// Why it is so.
    #[serde(default)]
    pub consistency_why: String,
    /// Bytes of the backing filesystem that are to stay free. Builds before it left none.
    #[serde(default)]
    pub min_free_bytes: u64,
    /// What holds for some files only; the first that matches decides. Builds before it had none.
    #[serde(default)]
    pub rules: Vec<rules::Rule>,
    /// Globs of the files that are coalesced where no rule says whether; none is all.
    #[serde(default)]
    pub only: Vec<String>,
    /// Where the backing directory lies in its engine. Builds before it did not look for it again.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// For so long programs are not told that an engine, which is another process or another machine,
    /// does not answer.
    #[serde(default = "default_patience_ms")]
    pub patience_ms: u64,
    /// Whether users other than the mount's owner may use the mount.
    pub allow_other: bool,
    /// `MS_*` flags of mount(2) beside those of the backing filesystem. Builds before it had none.
    #[serde(default)]
    pub mount_flags: libc::c_ulong,
}

/// What fsync(2) and its like wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FsyncPolicy {
    /// Stable storage
    #[default]
    Strict,
    /// The daemon's memory, which outlives the program and the worker, but not the machine
    Lazy,
}

/// What holds of files that others change below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// The backing directory belongs to the mount: nobody else changes it.
    #[default]
    Exclusive,
    /// Who opens a file after it was closed elsewhere sees what was written there: a file is stored
    /// when it is closed, and looked at anew when it is opened.
    CloseToOpen,
}

impl Consistency {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Exclusive => "exclusive",
            Consistency::CloseToOpen => "close-to-open",
        }
    }
}

/// How backing files lie on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Turns follow each other: the fastest to write
    #[default]
    Ring,
    /// Files in few pieces, by allocating ahead: for outputs that are read many times
    File,
}

/// Of mounts that were made by builds before there was a choice.
fn default_patience_ms() -> u64 {
    60_000
}

/// Smallest accepted `--memory`.
pub const MIN_MEMORY_BYTES: u64 = 4 << 20;

/// Smaller parts of an object are not worth a turn.
const PART_BYTES_MIN: u64 = 256 << 10;

impl MountConfig {
    /// Bytes of one arena segment: a power of two from 4 KiB to 64 KiB.
    ///
    /// 64 KiB keeps the tables small; with little memory smaller segments are taken, so that
    /// thousands of files with a few bytes each still find room.
    pub fn segment_bytes(&self) -> u32 {
        const SEGMENTS_WANTED: u64 = 4096;
        let wanted = (self.memory_bytes / SEGMENTS_WANTED).max(1);
        let power = 1u64 << (63 - wanted.leading_zeros());
        power.clamp(4 << 10, 64 << 10) as u32
    }

    /// What chunks are to be multiples of: segments, and stripes where some are known, or a part of an
    /// object that is as small as still pays.
    pub fn chunk_unit_bytes(&self) -> u64 {
        let segment_bytes = u64::from(self.segment_bytes());
        let stripe_bytes = self.stripe_bytes.unwrap_or(1).max(1);
        if self.has_objects() {
            let mut part_bytes = stripe_bytes;
            while part_bytes / 2 >= PART_BYTES_MIN && (part_bytes / 2).is_multiple_of(segment_bytes)
            {
                part_bytes /= 2;
            }
            return part_bytes;
        }
        // The segment is a power of two.
        let common = stripe_bytes.trailing_zeros().min(segment_bytes.trailing_zeros());
        (stripe_bytes >> common).saturating_mul(segment_bytes)
    }

    /// What chunks are best multiples of, the largest first: all objects that lie side by side, one,
    /// and [`MountConfig::chunk_unit_bytes`]; of these a power of two.
    pub fn chunk_units_bytes(&self) -> Vec<u64> {
        let unit_bytes = self.chunk_unit_bytes();
        match self.stripe_bytes.filter(|_| self.has_objects()) {
            Some(bytes) => {
                let side_by_side = bytes.saturating_mul(u64::from(self.stripe_count.max(1)));
                vec![side_by_side, bytes, unit_bytes]
            }
            None => vec![unit_bytes],
        }
    }

    /// Whether the last byte of a run is written first, see [`Origin::adds_sizes`].
    pub fn adds_sizes(&self) -> bool {
        self.origin.as_ref().is_some_and(Origin::adds_sizes)
    }

    /// Who else may change the backing directory, and why that is thought.
    pub fn consistency_in_words(&self) -> String {
        match self.consistency_why.as_str() {
            "" => self.consistency.name().to_owned(),
            why => format!("{} ({why})", self.consistency.name()),
        }
    }

    /// Objects of whole segments.
    fn has_objects(&self) -> bool {
        let segment_bytes = u64::from(self.segment_bytes());
        let is_whole = |bytes: u64| bytes > 0 && bytes.is_multiple_of(segment_bytes);
        self.stripe_divides && self.stripe_bytes.is_some_and(is_whole)
    }
}

#[cfg(test)]
impl MountConfig {
    /// A small mount over `backing` in which nothing leaves by age.
    pub(crate) fn for_tests(backing: &std::path::Path, memory_bytes: u64) -> MountConfig {
        MountConfig {
            backing: backing.to_path_buf(),
            mountpoint: backing.to_path_buf(),
            memory_bytes,
            chunk_bytes: 256 << 10,
            chunk_auto: false,
            stripe_bytes: None,
            stripe_count: 1,
            stripe_divides: false,
            abilities: Abilities::default(),
            layout: Layout::Ring,
            max_age_ms: 3_600_000,
            lanes: 1,
            lanes_auto: false,
            writeback_cache: true,
            drain_rate: None,
            fsync: FsyncPolicy::Strict,
            consistency: Consistency::Exclusive,
            consistency_why: String::new(),
            min_free_bytes: 0,
            rules: Vec::new(),
            only: Vec::new(),
            origin: None,
            patience_ms: default_patience_ms(),
            allow_other: false,
            mount_flags: 0,
        }
    }
}
