//! Which file a device and inode number mean that an engine's client says now, where they are others
//! than when the file was met: another client is mounted in the place of one that died (`again`), or
//! the client numbers names as it goes and has forgotten that it knew this one (sshfs).
//!
//! Nodes keep the numbers that they were met with. What is told below is turned into these before it
//! is compared with anything.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::backing::Attr;

/// Device and inode number.
pub(super) type Number = (u64, u64);

#[derive(Default)]
struct Known {
    /// Devices whose inode numbers stayed: as they are now, and as they were met.
    devices: Vec<(u64, u64)>,
    /// Files that have another number now, as they were met.
    files: HashMap<Number, Number>,
    /// What was met at each name, by parent: only where the name is all that tells a file.
    places: HashMap<(u64, OsString), Number>,
}

/// The lock is a leaf.
#[derive(Default)]
pub(super) struct Numbers {
    /// Whether anything differs: nearly always nothing does.
    is_any: AtomicBool,
    /// Whether names are all that tells files.
    of_names: bool,
    known: Mutex<Known>,
}

impl Numbers {
    /// `of_names`: whether the engine's client numbers names, and not files.
    pub(super) fn new(of_names: bool) -> Numbers {
        Numbers { of_names, ..Numbers::default() }
    }

    pub(super) fn are_of_names(&self) -> bool {
        self.of_names
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panics under this lock")
    }

    /// A device is known by another number from now on, with the inode numbers that it had.
    pub(super) fn device_became(&self, met: u64, now: u64) {
        let mut known = self.lock();
        known.devices.retain(|(former, _)| *former != now);
        known.devices.push((now, met));
        self.is_any.store(true, Ordering::Release);
    }

    /// What was met as `met` has another number.
    pub(super) fn file_became(&self, met: Number, now: Number) {
        self.lock().files.insert(now, met);
        self.is_any.store(true, Ordering::Release);
    }

    /// The number that a file was met with.
    pub(super) fn met(&self, (dev, ino): Number) -> Number {
        if !self.is_any.load(Ordering::Acquire) {
            return (dev, ino);
        }
        let known = self.lock();
        if let Some(met) = known.files.get(&(dev, ino)) {
            return *met;
        }
        let device = known.devices.iter().find(|(now, _)| *now == dev);
        (device.map_or(dev, |(_, met)| *met), ino)
    }

    /// The same attributes with the number that the file was met with.
    pub(super) fn as_met(&self, attr: Attr) -> Attr {
        let (dev, ino) = self.met((attr.dev, attr.ino));
        Attr { dev, ino, ..attr }
    }

    /// What was met at a name, where that matters.
    pub(super) fn at(&self, parent: u64, name: &OsStr) -> Option<Number> {
        if !self.of_names {
            return None;
        }
        self.lock().places.get(&(parent, name.to_os_string())).copied()
    }

    /// What was met as `met` is at this name.
    pub(super) fn put(&self, met: Number, parent: u64, name: &OsStr) {
        if self.of_names {
            self.lock().places.insert((parent, name.to_os_string()), met);
        }
    }

    /// It is at this name no more.
    pub(super) fn take(&self, met: Number, parent: u64, name: &OsStr) {
        if !self.of_names {
            return;
        }
        let (mut known, place) = (self.lock(), (parent, name.to_os_string()));
        if known.places.get(&place) == Some(&met) {
            known.places.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a device that became another one brings its files along, also the second time, and other
    /// devices stay what they are.
    #[test]
    fn a_device_that_became_another_is_the_one_that_was_met() {
        let numbers = Numbers::new(false);
        assert_eq!(numbers.met((5, 7)), (5, 7));
        numbers.device_became(5, 9);
        assert_eq!(numbers.met((9, 7)), (5, 7));
        numbers.device_became(5, 11);
        assert_eq!([9, 11].map(|now| numbers.met((now, 7))), [(5, 7); 2]);
        assert_eq!(numbers.met((6, 7)), (6, 7));
    }

    /// Goal: one file has the number that it was met with, whatever it gets.
    #[test]
    fn a_file_with_another_number_is_the_one_that_was_met() {
        let numbers = Numbers::new(true);
        numbers.file_became((5, 7), (5, 8));
        numbers.file_became((5, 7), (6, 3));
        assert_eq!([(5, 8), (6, 3), (5, 9)].map(|now| numbers.met(now)), [(5, 7), (5, 7), (5, 9)]);
    }

    /// Goal: a name is whose it was last, and nobody else takes it from him.
    #[test]
    fn names_are_of_what_was_put_there_last() {
        let (numbers, name) = (Numbers::new(true), OsStr::new("a"));
        numbers.put((5, 7), 1, name);
        numbers.put((5, 8), 1, name);
        numbers.take((5, 7), 1, name);
        assert_eq!((numbers.at(1, name), numbers.at(2, name)), (Some((5, 8)), None));
        numbers.take((5, 8), 1, name);
        assert_eq!(numbers.at(1, name), None);
    }
}
