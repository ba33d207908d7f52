//! Has the kernel look files up anew whose modification time it does not know.
//!
//! With its writeback cache on, the kernel believes of a regular file no time but its own, whatever
//! it is told by GETATTR, and does not move it for writes that pass its cache by. It asks again only
//! for an inode that it has dropped. So, when a file that passes through was written and is closed
//! by all, the kernel is told to forget the name, and with it the inode.
//! Rejected: to do so while a program has the file open, as the inode then stays; and to set the
//! time through the own mount, as the daemon would wait for itself.
//!
//! The kernel drops the inode with the last of its names, so those by which it has found a file that
//! has several are noted, in mounts with rules. One that is removed or renamed is noted no more: what
//! is there afterwards may be a directory with something mounted on it, which would go.
//!
//! What an engine did after the kernel was told that it failed is looked up anew, too: see `asking`.
//!
//! Forgetting a name waits for the directory's lock, which a program holds while it waits for an
//! answer of ours: so on a thread of its own, for which nobody waits.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Filesystem;
use super::nodes::Node;

/// What the kernel is to forget.
enum Stale {
    /// The name of a file, once nobody has it open.
    Written(u64),
    Name(u64, OsString),
    Attributes(u64),
}

/// What is to be looked up anew: files as often as they were closed after writes, and what was done
/// late; so fewer than requests were answered.
pub(super) struct LookAnew {
    sender: Sender<Stale>,
    receiver: Receiver<Stale>,
}

/// More names of a file are not noted: memory for each.
const NAMES_MAX: usize = 64;

/// A directory's node id and a name in it.
type Place = (u64, OsString);

/// Names of a file beside that by which it was found last. The lock is a leaf.
#[derive(Default)]
pub(super) struct OtherNames(Mutex<Vec<Place>>);

impl OtherNames {
    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().expect("no panics under this lock")
    }

    /// It was found by `former` before, and now by `latest`.
    pub(super) fn note(&self, former: Place, latest: (u64, &OsStr)) {
        self.remove(latest);
        let mut names = self.lock();
        let is_latest = (former.0, former.1.as_os_str()) == latest;
        if !is_latest && names.len() < NAMES_MAX && !names.contains(&former) {
            names.push(former);
        }
    }

    /// The name is gone.
    pub(super) fn remove(&self, (parent, name): (u64, &OsStr)) {
        self.lock().retain(|other| (other.0, other.1.as_os_str()) != (parent, name));
    }

    fn take(&self) -> Vec<Place> {
        std::mem::take(&mut *self.lock())
    }
}

impl LookAnew {
    pub(super) fn new() -> LookAnew {
        let (sender, receiver) = unbounded();
        LookAnew { sender, receiver }
    }
}

impl Filesystem {
    /// Starts the thread; it lives as long as the process.
    pub(super) fn start_looking_anew(&self) -> io::Result<()> {
        let (me, stale) = (self.me.clone(), self.look_anew.receiver.clone());
        std::thread::Builder::new().name("names".into()).spawn(move || {
            for stale in stale {
                let Some(filesystem) = me.upgrade() else { return };
                let pages = filesystem.kernel_pages.get();
                match (stale, pages) {
                    (Stale::Written(id), _) => filesystem.forget_name(id),
                    (Stale::Name(dir, name), Some(pages)) => pages.forget_name(dir, &name),
                    (Stale::Attributes(id), Some(pages)) => pages.forget_attributes(id),
                    (_, None) => {}
                }
            }
        })?;
        Ok(())
    }

    /// After RELEASE. The name is forgotten when nobody has the file open, soon.
    pub(super) fn look_anew_if_written(&self, node: &Node) {
        let Some(data) = node.data_if_any() else { return };
        if self.is_open(node) || !data.was_written_through.swap(false, Ordering::SeqCst) {
            return;
        }
        self.is_stale(Stale::Written(node.id()));
    }

    /// What is at the name may have changed.
    pub(super) fn look_anew_at(&self, dir: u64, name: OsString) {
        self.is_stale(Stale::Name(dir, name));
    }

    /// The node's attributes may have changed.
    pub(super) fn look_anew(&self, id: u64) {
        self.is_stale(Stale::Attributes(id));
    }

    fn is_stale(&self, stale: Stale) {
        // The other end is here, too.
        let _ = self.look_anew.sender.send(stale);
    }

    fn is_open(&self, node: &Node) -> bool {
        self.arena.nodes().open(node.slot) > 0
    }

    fn forget_name(&self, id: u64) {
        let Some(pages) = self.kernel_pages.get() else { return };
        let Ok(node) = self.node(id) else { return };
        let Some(data) = node.data_if_any() else { return };
        // Set before the look: who closes it after that sees it.
        data.was_written_through.store(true, Ordering::SeqCst);
        if self.is_open(&node) {
            return;
        }
        data.was_written_through.store(false, Ordering::SeqCst);
        let last = self.arena.nodes().place(node.slot);
        for (parent, name) in node.other_names.take().into_iter().chain([last]) {
            pages.forget_name(parent, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each name is noted once and until it is gone, the last one not at all, and not more than
    /// there is room for.
    #[test]
    fn names_are_noted_until_they_are_gone() {
        let names = OtherNames::default();
        let place = |name: &str| (1, OsString::from(name));
        names.note(place("a"), (1, OsStr::new("a")));
        assert_eq!(names.take(), []);
        names.note(place("a"), (1, OsStr::new("b")));
        names.note(place("b"), (2, OsStr::new("a")));
        names.note(place("a"), (1, OsStr::new("c")));
        assert_eq!(*names.lock(), [place("a"), place("b")]);
        names.note((2, "a".into()), (1, OsStr::new("b")));
        assert_eq!(*names.lock(), [place("a"), (2, "a".into())]);
        names.remove((1, OsStr::new("a")));
        assert_eq!(names.take(), [(2, "a".into())]);
        for number in 0..2 * NAMES_MAX {
            names.note(place(&number.to_string()), (1, OsStr::new("z")));
        }
        assert_eq!(names.take().len(), NAMES_MAX);
        assert_eq!(names.take(), []);
    }
}
