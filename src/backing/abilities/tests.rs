//! Goal: each answer of the filesystem comes into its own place of the table, and nothing is left
//! of the trials. Method: the kernel's calls on a temporary directory, of which a test's stand-in
//! replaces one at a time.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::backing::open_root;

/// Which call fails, and how.
struct Failing(&'static str, i32);

impl Failing {
    fn of<T>(&self, call: &str, otherwise: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if call == self.0 { Err(io::Error::from_raw_os_error(self.1)) } else { otherwise() }
    }
}

impl Calls for Failing {
    fn direct_io(&self, file: BorrowedFd) -> DirectIo {
        self.of("direct", || Ok(KernelCalls.direct_io(file))).unwrap_or(DirectIo::Unsupported)
    }
    fn allocate(&self, file: BorrowedFd, mode: i32) -> io::Result<()> {
        let call = match mode {
            0 => "allocate",
            libc::FALLOC_FL_KEEP_SIZE => "behind",
            _ => "punch",
        };
        self.of(call, || KernelCalls.allocate(file, mode))
    }
    fn open_beneath(&self, dir: BorrowedFd) -> io::Result<()> {
        self.of("beneath", || KernelCalls.open_beneath(dir))
    }
    fn handle(&self, dir: BorrowedFd) -> io::Result<()> {
        self.of("handle", || KernelCalls.handle(dir))
    }
    fn set_attribute(&self, file: BorrowedFd) -> io::Result<()> {
        self.of("attribute", || KernelCalls.set_attribute(file))
    }
    fn acl(&self, dir: BorrowedFd) -> io::Result<usize> {
        self.of("acl", || Ok(0)).and_then(|_| KernelCalls.acl(dir))
    }
    fn rename(&self, dir: BorrowedFd, from: &str, to: &str, flags: u32) -> io::Result<()> {
        let call = if flags == libc::RENAME_EXCHANGE { "exchange" } else { "noreplace" };
        self.of(call, || KernelCalls.rename(dir, from, to, flags))
    }
    fn link(&self, file: BorrowedFd, dir: BorrowedFd, name: &str) -> io::Result<()> {
        self.of("link", || KernelCalls.link(file, dir, name))
    }
    fn symlink(&self, dir: BorrowedFd, name: &str) -> io::Result<()> {
        self.of("symlink", || KernelCalls.symlink(dir, name))
    }
    fn attr_at(&self, dir: BorrowedFd, name: &str) -> io::Result<Attr> {
        match self.0 {
            "case" if self.1 == 0 => attr_at(dir, OsStr::new(FILE)),
            _ => self.of("case", || KernelCalls.attr_at(dir, name)),
        }
    }
    fn name_bytes_max(&self, dir: BorrowedFd) -> io::Result<u32> {
        self.of("name", || KernelCalls.name_bytes_max(dir))
    }
    fn make_dir(&self, dir: BorrowedFd) -> io::Result<()> {
        self.of("mkdir", || KernelCalls.make_dir(dir))
    }
}

/// What is found in a directory that nothing is to be left in.
fn found(calls: &dyn Calls) -> (Abilities, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let root = open_root(dir.path()).unwrap();
    let before = attr(root.as_fd()).unwrap().mtime;
    let (abilities, refusal) = probe(calls, root.as_fd(), &mut |_| ());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    assert_eq!(attr(root.as_fd()).unwrap().mtime, before, "the directory's time moved");
    (Abilities { took_us: 0, ..abilities }, refusal.map(|error| errno(&error)))
}

#[test]
fn each_answer_has_its_place() {
    let (all, refusal) = found(&KernelCalls);
    assert_eq!(refusal, None);
    type Place = fn(&mut Abilities) -> &mut Option<bool>;
    let places: [(&str, Place); 11] = [
        ("allocate", |table| &mut table.allocates),
        ("behind", |table| &mut table.allocates_behind),
        ("punch", |table| &mut table.punches_holes),
        ("beneath", |table| &mut table.opens_beneath),
        ("handle", |table| &mut table.has_handles),
        ("attribute", |table| &mut table.has_attributes),
        ("acl", |table| &mut table.has_acls),
        ("exchange", |table| &mut table.renames_exchange),
        ("noreplace", |table| &mut table.renames_noreplace),
        ("link", |table| &mut table.has_hard_links),
        ("symlink", |table| &mut table.has_symlinks),
    ];
    for (call, place) in places {
        let mut expected = all;
        for (errors, answer) in [
            (&[libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL, libc::EPERM][..], Some(false)),
            (&[libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EACCES, libc::ESTALE][..], None),
        ] {
            *place(&mut expected) = answer;
            for error in errors {
                assert_eq!(found(&Failing(call, *error)).0, expected, "{call}, errno {error}");
            }
        }
    }
}

#[test]
fn what_is_no_yes_or_no() {
    let (all, _) = found(&KernelCalls);
    let direct = Abilities { direct_io: Some(DirectIo::Unsupported), ..all };
    assert_eq!(found(&Failing("direct", 1)).0, direct);
    let name = Abilities { name_bytes_max: None, ..all };
    assert_eq!(found(&Failing("name", libc::EIO)).0, name);
    assert_eq!(found(&Failing("case", 0)).0, Abilities { folds_case: Some(true), ..all });
    assert_eq!(found(&Failing("case", libc::EIO)).0, Abilities { folds_case: None, ..all });
    assert_eq!(all.folds_case, Some(false));
}

/// Goal: without the right to write, what can be asked is known all the same, and why the rest is
/// not.
#[test]
fn without_the_right_to_write() {
    let (all, _) = found(&KernelCalls);
    for refused in [libc::EACCES, libc::EROFS, libc::ENOSPC] {
        let (some, refusal) = found(&Failing("mkdir", refused));
        assert_eq!(refusal, Some(refused));
        let expected = Abilities {
            opens_beneath: all.opens_beneath,
            has_handles: all.has_handles,
            has_acls: all.has_acls,
            name_bytes_max: all.name_bytes_max,
            ..Abilities::default()
        };
        assert_eq!(some, expected);
    }
}

#[test]
fn steps_of_time() {
    let step = |secs, nanos| time_step_ns(TRIAL_TIME, Time { secs, nanos });
    assert_eq!(step(1_000_000_001, 987_654_321), Some(1));
    assert_eq!(step(1_000_000_001, 987_654_300), Some(100), "NTFS, CIFS");
    assert_eq!(step(1_000_000_001, 987_654_000), Some(1_000), "Lustre's servers on ZFS, NFS");
    assert_eq!(step(1_000_000_001, 0), Some(SECOND_NS), "ext3");
    assert_eq!(step(1_000_000_000, 0), Some(2 * SECOND_NS), "FAT");
    assert_eq!(step(1_000_000_002, 0), None, "the time of now");
    assert_eq!(step(-1, 0), None);
}

/// Goal: the file is new, empty, regular, and there while it is asked; the directory is nobody
/// else's.
#[test]
fn the_file_is_there_to_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let root = open_root(dir.path()).unwrap();
    let seen = RefCell::new(None);
    probe(&KernelCalls, root.as_fd(), &mut |file| {
        let mode = fs::metadata(dir.path().join(TRIAL_DIR)).unwrap().permissions().mode();
        *seen.borrow_mut() = Some((attr(file).unwrap(), mode & 0o777));
    });
    let (attr, mode) = seen.into_inner().unwrap();
    assert_eq!((attr.mode & libc::S_IFMT, attr.nlink, mode), (libc::S_IFREG, 1, 0o700));
}

/// Goal: what a process left that was killed is used and removed; what is another's is not touched,
/// and neither is a directory in which a process is at work.
#[test]
fn what_was_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = open_root(dir.path()).unwrap();
    let trial = dir.path().join(TRIAL_DIR);
    let probe = || probe(&KernelCalls, root.as_fd(), &mut |_| ());
    fs::create_dir(&trial).unwrap();
    for name in [FILE, LINK, MOVED, OTHER, ".fuse_hidden0000000900000001", ".nfs0123"] {
        fs::write(trial.join(name), "left").unwrap();
    }
    std::os::unix::fs::symlink("x", trial.join(SYMLINK)).unwrap();
    let (abilities, refusal) = probe();
    assert!(refusal.is_none() && abilities.has_hard_links == Some(true), "{refusal:?}");
    assert!(!trial.exists());

    fs::create_dir(&trial).unwrap();
    fs::write(trial.join("precious"), "mine").unwrap();
    probe();
    assert_eq!(fs::read(trial.join("precious")).unwrap(), b"mine");
    fs::remove_file(trial.join("precious")).unwrap();

    fs::write(trial.join(FILE), "at work").unwrap();
    let held = open_root(&trial).unwrap();
    lock(held.as_fd()).unwrap();
    assert_eq!(probe().1.map(|error| errno(&error)), Some(libc::EBUSY));
    assert_eq!(fs::read(trial.join(FILE)).unwrap(), b"at work");
    drop(held);
    assert!(probe().1.is_none() && !trial.exists());

    std::os::unix::fs::symlink("elsewhere", &trial).unwrap();
    assert!(probe().1.is_some());
    assert!(fs::symlink_metadata(&trial).unwrap().is_symlink());
}

/// Goal: the directory keeps its time, and who changes it meanwhile that of the change.
#[test]
fn the_directory_keeps_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let root = open_root(dir.path()).unwrap();
    let [old, other] = [1_000, 2_000_000_000].map(|secs| Time { secs, nanos: 5 });
    let set = |time| set_times(root.as_fd(), SetTime::Omit, SetTime::At(time)).unwrap();
    set(old);
    probe(&KernelCalls, root.as_fd(), &mut |_| ());
    assert_eq!(attr(root.as_fd()).unwrap().mtime, old);
    probe(&KernelCalls, root.as_fd(), &mut |_| set(other));
    assert_ne!(attr(root.as_fd()).unwrap().mtime, old);
}
