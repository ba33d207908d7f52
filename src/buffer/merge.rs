//! Several entries of one segment become one, the newest bytes winning.
//!
//! Called by `FileBuffer` when writing failed and when a new worker rebuilds; a program's write
//! has a shorter way of its own. O(n log n) in the entries merged.

use std::collections::BTreeMap;

use super::entries::Entry;
use super::{Geometry, Step};

/// Merges `cluster`: at least one entry, all of one segment, whose union is one range. Where two
/// overlap, the higher seq wins; with equal seqs the bytes are the same (a process died between
/// the `Publish` and the `Free` of a merge). The survivor is the entry that shows most, so that
/// the fewest bytes are moved; it takes the highest seq and the earliest birth.
///
/// Safe to be killed in (invariant 5): a `Move` overwrites bytes of the survivor only where the
/// source, still published, has a seq at least as high.
pub(super) fn merge(cluster: &mut [Entry], geometry: &Geometry, steps: &mut Vec<Step>) -> Entry {
    cluster.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.seq));
    let shown = shown(cluster);
    let mut shown_bytes = vec![0; cluster.len()];
    for (start, &(end, owner)) in &shown {
        shown_bytes[owner] += end - start;
    }
    let survivor = (0..cluster.len()).max_by_key(|&owner| shown_bytes[owner]);
    let survivor = survivor.expect("a cluster has at least one entry");
    let to = cluster[survivor].slot;
    for (&start, &(end, owner)) in &shown {
        if owner != survivor {
            let from = cluster[owner].slot;
            steps.push(Step::Move { from, to, at: geometry.at(start), len: (end - start) as u32 });
        }
    }

    let start = cluster.iter().map(|entry| entry.start).min().unwrap_or_default();
    let end = cluster.iter().map(Entry::end).max().unwrap_or_default();
    debug_assert_eq!(end - start, shown_bytes.iter().sum::<u64>(), "the union is one range");
    let merged = Entry {
        start,
        len: (end - start) as u32,
        slot: to,
        seq: cluster[0].seq,
        born_ms: cluster.iter().map(|entry| entry.born_ms).min().unwrap_or_default(),
    };
    if merged.publish(geometry) != cluster[survivor].publish(geometry) {
        steps.push(merged.publish(geometry));
    }
    for (owner, entry) in cluster.iter().enumerate() {
        if owner != survivor {
            steps.push(Step::Free { slot: entry.slot });
        }
    }
    merged
}

/// Which entry shows where, the earlier in `newest_first` hiding the later:
/// start -> (end, place of the entry in `newest_first`).
fn shown(newest_first: &[Entry]) -> BTreeMap<u64, (u64, usize)> {
    let mut shown: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    let mut gaps = Vec::new();
    for (owner, entry) in newest_first.iter().enumerate() {
        let before = shown.range(..=entry.start).next_back();
        let newer = before.into_iter().chain(shown.range(entry.start + 1..entry.end()));
        let mut at = entry.start;
        for (&start, &(end, _)) in newer {
            if start > at {
                gaps.push((at, (start, owner)));
            }
            at = at.max(end);
        }
        if at < entry.end() {
            gaps.push((at, (entry.end(), owner)));
        }
        shown.extend(gaps.drain(..));
    }
    shown
}
