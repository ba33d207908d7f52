//! Node ids of files on other devices than the backing directory's: the highest bit, an index of the
//! device, and the inode number there; or, for numbers that leave no room for it, one of our own.

use std::collections::HashMap;

use crate::arena::Identity;

/// Ids of files on other devices than the root's.
pub(super) const FOREIGN: u64 = 1 << 63;
/// Bits of a foreign id that hold the inode number.
const FOREIGN_INO_BITS: u32 = 48;
/// The device index that stands for none: the low bits are a number of our own.
const NUMBERED: u64 = (1 << (63 - FOREIGN_INO_BITS)) - 1;
/// And the one before it for other ids of nodes that have one: see `shared`.
const DEVICES_MAX: u64 = NUMBERED - 1;

/// What ids of foreign files stand for. No id is given twice.
#[derive(Default)]
pub(super) struct Foreign {
    devs: Vec<u64>,
    numbered: HashMap<(u64, u64), u64>,
    last_number: u64,
}

impl Foreign {
    /// The id of a file.
    pub(super) fn id_of(&mut self, dev: u64, ino: u64) -> u64 {
        if let Some(id) = self.known_id_of(dev, ino) {
            return id;
        }
        if !self.devs.contains(&dev) {
            self.devs.push(dev);
            return self.id_of(dev, ino);
        }
        self.last_number += 1;
        self.numbered.insert((dev, ino), self.last_number);
        FOREIGN | NUMBERED << FOREIGN_INO_BITS | self.last_number
    }

    /// The same, if it has one already.
    pub(super) fn known_id_of(&self, dev: u64, ino: u64) -> Option<u64> {
        match self.devs.iter().position(|known| *known == dev) {
            Some(index) if (index as u64) < DEVICES_MAX && ino >> FOREIGN_INO_BITS == 0 => {
                Some(FOREIGN | (index as u64) << FOREIGN_INO_BITS | ino)
            }
            _ => {
                let number = self.numbered.get(&(dev, ino))?;
                Some(FOREIGN | NUMBERED << FOREIGN_INO_BITS | number)
            }
        }
    }

    /// The file has no id any more, if it had one of our own.
    pub(super) fn forget(&mut self, identity: &Identity) {
        self.numbered.remove(&(identity.dev, identity.ino));
    }

    /// Takes over what a former worker gave out.
    pub(super) fn adopt(&mut self, identity: &Identity) {
        let (index, low) = (
            (identity.id & !FOREIGN) >> FOREIGN_INO_BITS,
            identity.id & ((1 << FOREIGN_INO_BITS) - 1),
        );
        if index == NUMBERED {
            self.numbered.insert((identity.dev, identity.ino), low);
            self.last_number = self.last_number.max(low);
            return;
        }
        let index = index as usize;
        if self.devs.len() <= index {
            self.devs.resize(index + 1, 0);
        }
        self.devs[index] = identity.dev;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: files of other filesystems never get each other's ids, whatever their inode numbers,
    /// and keep theirs when another worker takes over.
    #[test]
    fn foreign_ids_never_collide() {
        let mut foreign = Foreign::default();
        let files: Vec<(u64, u64)> = (0..40_000u64)
            .map(|dev| (dev, 7))
            .chain([(1, 7 | 1 << 48), (2, 7 | 1 << 48), (1, 7 | 1 << 63), (1, u64::MAX)])
            .collect();
        let ids: Vec<u64> = files.iter().map(|(dev, ino)| foreign.id_of(*dev, *ino)).collect();
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), files.len());
        assert!(ids.iter().all(|id| id & FOREIGN != 0));
        let mut next = Foreign::default();
        for (id, (dev, ino)) in ids.iter().zip(&files).rev() {
            let kind = libc::S_IFREG;
            next.adopt(&Identity { id: *id, generation: 0, dev: *dev, ino: *ino, kind });
        }
        assert_eq!(files.iter().map(|(dev, ino)| next.id_of(*dev, *ino)).collect::<Vec<_>>(), ids);
        assert!(!ids.contains(&next.id_of(50_000, 7)));
        let (dev, ino) = *files.last().unwrap();
        next.forget(&Identity { id: 0, generation: 0, dev, ino, kind: libc::S_IFREG });
        assert_eq!(next.known_id_of(dev, ino), None);
        assert!(!ids.contains(&next.id_of(dev, ino)));
    }
}
