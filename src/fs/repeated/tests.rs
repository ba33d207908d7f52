//! Goal: a request that comes again after it was carried out, and before it was answered, is
//! answered as the first time and changes nothing more. Method: each request is called twice, the
//! second time marked as repeated, by a second filesystem on the same arena: the next worker.

use crate::fs::outage::Elsewhere;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::nodes::ROOT_ID;
use super::super::{Mode, Parts};
use super::*;
use crate::arena::Arena;
use crate::backing::KernelStorage;
use crate::config::MountConfig;

struct Scene {
    dir: tempfile::TempDir,
    arena: Arena,
    config: Arc<MountConfig>,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let config = Arc::new(MountConfig::for_tests(dir.path(), 4 << 20));
        Scene { arena: Arena::create(&config).unwrap(), config, dir }
    }

    fn worker(&self) -> Arc<Filesystem> {
        use std::os::fd::IntoRawFd;
        let parts = Parts {
            config: self.config.clone(),
            arena: self.arena,
            backing_fd: backing::open_root(self.dir.path()).unwrap().into_raw_fd(),
            storage: Arc::new(KernelStorage),
            engines: Box::new(Elsewhere(false)),
            descriptors: 1024,
        };
        Filesystem::attach(parts).unwrap()
    }

    /// Calls `act` as two workers that get the same request, one after the other; both must
    /// succeed, and say the same.
    fn twice<T: PartialEq + std::fmt::Debug>(
        &self,
        unique: u64,
        act: impl Fn(&Filesystem, Caller) -> io::Result<T>,
    ) -> T {
        // SAFETY: reads ids of this process.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let caller = Caller { uid, gid, pid: 0, unique, is_repeated: false };
        let first = act(&self.worker(), caller).expect("the first time");
        let again = act(&self.worker(), Caller { is_repeated: true, ..caller });
        assert_eq!(first, again.expect("the second time"));
        first
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lookups(&self, id: u64) -> u64 {
        let slot = self.worker().node(id).unwrap().slot;
        self.arena.nodes().lookups(slot)
    }

    fn open(&self, id: u64) -> u32 {
        let slot = self.worker().node(id).unwrap().slot;
        self.arena.nodes().open(slot)
    }
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

const MODE: Mode = Mode { bits: 0o644, umask: 0 };

#[test]
fn names_are_made_once() {
    let scene = Scene::new();
    let dir = scene.twice(2, |fs, caller| {
        let mode = Mode { bits: 0o755, umask: 0 };
        Ok(fs.mkdir(caller, ROOT_ID, name("dir"), mode)?.attr.id)
    });
    assert_eq!(scene.lookups(dir), 1, "the kernel hears of one");
    let (file, handle) = scene.twice(4, |fs, caller| {
        let (entry, handle) = fs.create(caller, dir, name("file"), MODE, libc::O_EXCL)?;
        Ok((entry.attr.id, handle))
    });
    assert_eq!((scene.lookups(file), scene.open(file)), (1, 1));
    scene.twice(6, |fs, caller| Ok(fs.link(caller, file, ROOT_ID, name("link"))?.attr.id));
    assert_eq!(scene.lookups(file), 2);
    scene.twice(8, |fs, caller| {
        let target = std::path::Path::new("nowhere");
        Ok(fs.symlink(caller, ROOT_ID, name("symlink"), target)?.attr.id)
    });
    scene.twice(10, |fs, caller| {
        let mode = Mode { bits: libc::S_IFIFO | 0o600, umask: 0 };
        Ok(fs.mknod(caller, ROOT_ID, name("fifo"), mode, 0)?.attr.id)
    });
    let second = scene.twice(12, |fs, caller| fs.open(caller, file, libc::O_RDONLY));
    assert_ne!(handle, second);
    assert_eq!(scene.open(file), 2);
    scene.twice(14, |fs, caller| {
        fs.release(caller, file, second.handle);
        Ok(())
    });
    assert_eq!(scene.open(file), 1, "the other handle is still there");
}

#[test]
fn names_are_removed_and_moved_once() {
    let scene = Scene::new();
    for file in ["a", "b", "c"] {
        std::fs::write(scene.path(file), file).unwrap();
    }
    std::fs::create_dir(scene.path("d")).unwrap();
    scene.twice(2, |fs, caller| fs.rmdir(caller, ROOT_ID, name("d")));
    scene.twice(4, |fs, caller| fs.unlink(caller, ROOT_ID, name("c")));
    // Another file of the same name is another request's.
    std::fs::write(scene.path("c"), "new").unwrap();
    let rename = |from: &'static str, to: &'static str, flags| {
        move |fs: &Filesystem, caller| {
            fs.rename(caller, (ROOT_ID, name(from)), (ROOT_ID, name(to)), flags)
        }
    };
    scene.twice(6, rename("a", "b", 0));
    assert!(!scene.path("a").exists());
    assert_eq!(std::fs::read(scene.path("b")).unwrap(), b"a");
    scene.twice(8, rename("b", "c", libc::RENAME_EXCHANGE));
    assert_eq!(std::fs::read(scene.path("c")).unwrap(), b"a");
    assert_eq!(std::fs::read(scene.path("b")).unwrap(), b"new");
    // Nothing was done before the worker died: it is done now.
    let ino = std::fs::metadata(scene.path("b")).unwrap().ino();
    let worker = scene.worker();
    let caller = Caller { uid: 0, gid: 0, pid: 0, unique: 10, is_repeated: true };
    rename("b", "moved", 0)(&worker, caller).unwrap();
    assert_eq!(std::fs::metadata(scene.path("moved")).unwrap().ino(), ino);
}

#[test]
fn attributes_are_changed_once() {
    let scene = Scene::new();
    std::fs::write(scene.path("f"), "x").unwrap();
    let id = scene.twice(2, |fs, caller| Ok(fs.lookup(caller, ROOT_ID, name("f"))?.attr.id));
    assert_eq!(scene.lookups(id), 1);
    let key = name("user.key");
    if scene.worker().set_xattr(caller_of(5), id, name("user.try"), b"1", 0).is_err() {
        eprintln!("no extended attributes on this filesystem");
        return;
    }
    scene.twice(6, |fs, caller| fs.set_xattr(caller, id, key, b"value", libc::XATTR_CREATE));
    scene.twice(8, |fs, caller| fs.remove_xattr(caller, id, key));
    let refused = scene.worker().remove_xattr(caller_of(10), id, key);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENODATA));
}

fn caller_of(unique: u64) -> Caller {
    Caller { uid: 0, gid: 0, pid: 0, unique, is_repeated: false }
}
