//! What may be at the disk beside the end of a turn. Pure: no I/O. Places are bytes from the device's
//! start.

use super::Run;
use super::writer::writes_tail;

/// A disk that has requests at two places further apart than that in hand goes to and fro between
/// them, and may begin with the last one.
const NEAR_BYTES: u64 = 128 << 20;

/// Where the end of a turn is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// On the device, if that is known.
    pub(super) place: Option<u64>,
    /// Its last block goes to the disk when all others are there.
    pub(super) is_tailed: bool,
}

impl Ending {
    pub(super) fn of(run: &Run, place: Option<u64>) -> Ending {
        Ending { place, is_tailed: writes_tail(&run.data_file, run.offset + run.len, run.len) }
    }

    /// Whether the disk may have what begins at `place` in hand, too.
    pub(super) fn may_be_followed(&self, place: Option<u64>) -> bool {
        !self.is_tailed && self.is_near(place)
    }

    /// What is not known is taken to be near.
    pub(super) fn is_near(&self, place: Option<u64>) -> bool {
        let way_bytes = self.place.zip(place).map(|(from, to)| from.abs_diff(to));
        way_bytes.is_none_or(|bytes| bytes <= NEAR_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: beside the end of a turn may be what is near, or not known to be far; nothing where the
    /// rest of a block is still to come.
    #[test]
    fn what_may_follow_an_end() {
        let ending = |place, is_tailed| Ending { place, is_tailed };
        let near = ending(Some(10 * NEAR_BYTES), false);
        assert!(near.may_be_followed(Some(11 * NEAR_BYTES)));
        assert!(near.may_be_followed(None));
        assert!(!near.may_be_followed(Some(11 * NEAR_BYTES + 1)));
        assert!(!near.may_be_followed(Some(0)));
        assert!(ending(None, false).may_be_followed(Some(0)));
        assert!(!ending(Some(0), true).may_be_followed(Some(0)));
    }
}
