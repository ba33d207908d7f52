//! Where on a device files go on: several files at one place, as a filesystem gives out blocks from
//! one place or a few.
//!
//! A *zone* is such a place, as it is learned from where turns end: one that ends near where the last
//! one of a zone did belongs to it, and moves it. So a file's zone says where its next turn will be
//! also when others of the zone have had theirs since. ext4 since Linux 6.17 has a zone for each
//! processor and puts a file where its inode number falls; XFS has one for the files of a directory;
//! files that were allocated before, or have windows of their own, are zones each.
//!
//! Called by `scheduler` only. Places are bytes from the device's start.

/// Which one; see [`Zones::note`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Zone(usize);

/// As many are told apart: more than filesystems go on at, few enough to be looked at one by one.
const ZONES_MAX: usize = 16;

/// What ends so near to a zone belongs to it: more than a turn and what a filesystem leaves out for
/// its own lists.
const ZONE_BYTES: u64 = 256 << 20;

/// Where turns end.
#[derive(Debug, Default)]
pub(super) struct Zones {
    /// The last place of each, and when that was.
    ends: Vec<(u64, u64)>,
    turns: u64,
}

impl Zones {
    /// The zone of a turn that ended at `place`. Where there are too many, the one that was not met
    /// for longest is given up; files that were in it are taken to be in the new one until their next
    /// turn.
    pub(super) fn note(&mut self, place: u64) -> Zone {
        self.turns += 1;
        let number = match self.near(place) {
            Some(Zone(number)) => number,
            None => self.free_number(),
        };
        self.ends[number] = (place, self.turns);
        Zone(number)
    }

    /// The zone that a turn at `place` would belong to now, if there is one.
    pub(super) fn near(&self, place: u64) -> Option<Zone> {
        let ways = self.ends.iter().map(|(end, _)| end.abs_diff(place)).enumerate();
        let (number, way_bytes) = ways.min_by_key(|(_, way_bytes)| *way_bytes)?;
        (way_bytes <= ZONE_BYTES).then_some(Zone(number))
    }

    fn free_number(&mut self) -> usize {
        if self.ends.len() < ZONES_MAX {
            self.ends.push((0, 0));
            return self.ends.len() - 1;
        }
        let oldest = self.ends.iter().enumerate().min_by_key(|(_, (_, turn))| *turn);
        oldest.map_or(0, |(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Goal: a zone moves along with its turns, and others stay apart however far it goes.
    #[test]
    fn zones_go_on_where_their_turns_end() {
        let mut zones = Zones::default();
        let (low, high) = (zones.note(0), zones.note(4 << 30));
        assert_ne!(low, high);
        for turn in 1..50 {
            assert_eq!(zones.note(turn * 64 * MIB), low);
            assert_eq!(zones.note((4 << 30) + turn * 64 * MIB), high);
        }
        assert_ne!(zones.note(0), low, "it is somewhere else by now");
    }

    /// Goal: there are never more than are looked at one by one; the one that is in use stays.
    #[test]
    fn zones_are_bounded() {
        let mut zones = Zones::default();
        let stays = zones.note(0);
        for other in 1..100 {
            assert_ne!(zones.note(other << 40), stays);
            assert_eq!(zones.note(0), stays);
        }
        assert_eq!(zones.ends.len(), ZONES_MAX);
    }
}
