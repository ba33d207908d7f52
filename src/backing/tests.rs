//! Each wrapper does what it says, on a temporary directory, errors included.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;

struct Scene {
    dir: tempfile::TempDir,
    root: OwnedFd,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let root = open_root(dir.path()).unwrap();
        Scene { dir, root }
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> OwnedFd {
        fs::write(self.path(name), bytes).unwrap();
        File::options().read(true).write(true).open(self.path(name)).unwrap().into()
    }
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn code<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| errno(&error))
}

/// Goal: no function follows a symlink that lies where a name should be.
#[test]
fn symlinks_are_not_followed() {
    let scene = Scene::new();
    let secret = tempfile::NamedTempFile::new().unwrap();
    symlink(secret.path(), scene.path("link")).unwrap();
    let link = open_path_at(scene.root(), name("link")).unwrap();
    assert_eq!(attr(link.as_fd()).unwrap().mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(attr_at(scene.root(), name("link")).unwrap().mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(read_link(link.as_fd()).unwrap(), secret.path().as_os_str());
    assert_eq!(code(create_at(scene.root(), name("link"), 0o644)), Some(libc::EEXIST));
    assert_eq!(code(reopen(link.as_fd(), libc::O_RDWR)), Some(libc::ELOOP));
    set_owner(link.as_fd(), None, None).unwrap();
    let time = Time { secs: 1000, nanos: 5 };
    set_times(link.as_fd(), SetTime::Omit, SetTime::At(time)).unwrap();
    assert_eq!(attr(link.as_fd()).unwrap().mtime, time);
    let target = fs::metadata(secret.path()).unwrap().modified().unwrap();
    assert!(target.elapsed().unwrap() < Duration::from_secs(3600), "the target was touched");
}

/// Goal: a name with a NUL byte is an error, not a shorter name.
#[test]
fn a_nul_byte_is_refused() {
    let scene = Scene::new();
    assert_eq!(code(attr_at(scene.root(), name("a\0b"))), Some(libc::EINVAL));
}

/// Goal: no name leads up or through other directories, whoever gave it.
#[test]
fn a_name_is_one_name_below() {
    let scene = Scene::new();
    fs::create_dir(scene.path("d")).unwrap();
    fs::write(scene.path("d/f"), "x").unwrap();
    for odd in ["..", ".", "d/f", "../x", "/etc/passwd", "d/"] {
        let (root, odd) = (scene.root(), name(odd));
        let codes = [
            code(attr_at(root, odd)),
            code(open_path_at(root, odd)),
            code(create_at(root, odd, 0o644)),
            code(mkdir_at(root, odd, 0o755)),
            code(unlink_at(root, odd)),
            code(rmdir_at(root, odd)),
            code(rename_at(root, odd, root, name("n"), 0)),
            code(rename_at(root, name("d"), root, odd, 0)),
            code(symlink_at(Path::new("t"), root, odd)),
            code(link_fd_at(root, root, odd)),
        ];
        assert!(codes.iter().all(|code| *code == Some(libc::EINVAL)), "{odd:?}: {codes:?}");
    }
}

/// Goal: files of every kind are made, found, linked, moved and removed.
#[test]
fn names_are_made_moved_and_removed() {
    let scene = Scene::new();
    let root = scene.root();
    mkdir_at(root, name("d"), 0o700).unwrap();
    assert_eq!(code(mkdir_at(root, name("d"), 0o700)), Some(libc::EEXIST));
    mknod_at(root, name("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    symlink_at(Path::new("nowhere"), root, name("soft")).unwrap();
    let file = create_at(root, name("file"), 0o640).unwrap();
    assert_eq!(code(create_at(root, name("file"), 0o640)), Some(libc::EEXIST));
    let path = open_path_at(root, name("file")).unwrap();
    link_fd_at(path.as_fd(), root, name("hard")).unwrap();
    assert_eq!(attr(file.as_fd()).unwrap().nlink, 2);
    rename_at(root, name("hard"), root, name("file2"), 0).unwrap();
    let no_replace = libc::RENAME_NOREPLACE;
    let refused = rename_at(root, name("file2"), root, name("file"), no_replace);
    assert_eq!(code(refused), Some(libc::EEXIST));
    assert_eq!(code(rmdir_at(root, name("file"))), Some(libc::ENOTDIR));
    assert_eq!(code(unlink_at(root, name("d"))), Some(libc::EISDIR));
    rmdir_at(root, name("d")).unwrap();
    for gone in ["fifo", "soft", "file", "file2"] {
        unlink_at(root, name(gone)).unwrap();
    }
    assert_eq!(fs::read_dir(scene.dir.path()).unwrap().count(), 0);
}

/// Goal: a file without a name can be opened again and changed through an O_PATH descriptor.
#[test]
fn unlinked_files_stay_reachable() {
    let scene = Scene::new();
    drop(scene.file("f", b"bytes"));
    let path = open_path_at(scene.root(), name("f")).unwrap();
    unlink_at(scene.root(), name("f")).unwrap();
    let again = reopen(path.as_fd(), libc::O_RDWR).unwrap();
    assert_eq!(open_flags(again.as_fd()).unwrap() & libc::O_ACCMODE, libc::O_RDWR);
    let mut bytes = [0; 5];
    assert_eq!(read_at(again.as_fd(), &mut bytes, 0).unwrap(), 5);
    assert_eq!(&bytes, b"bytes");
    set_mode(path.as_fd(), 0o604).unwrap();
    set_size(again.as_fd(), 3).unwrap();
    let attr = attr(path.as_fd()).unwrap();
    assert_eq!((attr.mode & 0o7777, attr.size, attr.nlink), (0o604, 3, 0));
}

/// Goal: attributes agree with what std says, devices of device files included.
#[test]
fn attributes_are_those_of_stat() {
    let scene = Scene::new();
    let fd = scene.file("f", &[1; 5000]);
    let (ours, theirs) = (attr(fd.as_fd()).unwrap(), fs::metadata(scene.path("f")).unwrap());
    assert_eq!((ours.dev, ours.ino, ours.size), (theirs.dev(), theirs.ino(), theirs.size()));
    assert_eq!((ours.mode, ours.blocks), (theirs.mode(), theirs.blocks()));
    assert_eq!(SystemTime::from(ours.mtime), theirs.modified().unwrap());
    let null = File::open("/dev/null").unwrap();
    assert_eq!(attr(null.as_fd()).unwrap().rdev, 1 << 8 | 3);
    let stats = fs_stats(scene.root()).unwrap();
    assert!(stats.blocks >= stats.bfree && stats.namelen == 255);
}

/// Goal: times before 1970 and far after keep their nanoseconds there and back.
#[test]
fn times_convert_both_ways() {
    for time in [(0, 0), (1, 1), (-1, 999_999_999), (-5, 0), (-5, 1), (4_000_000_000, 123)] {
        let time = Time { secs: time.0, nanos: time.1 };
        assert_eq!(Time::from(SystemTime::from(time)), time);
    }
}

/// Goal: writes of several buffers, reads to the end, holes, copies and allocations.
#[test]
fn bytes_go_where_they_should() {
    let scene = Scene::new();
    let fd = scene.file("f", b"");
    let buffers = [IoSlice::new(b"abc"), IoSlice::new(b"defg")];
    assert_eq!(write_at(fd.as_fd(), &buffers, 10).unwrap(), 7);
    let mut bytes = [9; 20];
    assert_eq!(read_at(fd.as_fd(), &mut bytes, 5).unwrap(), 12);
    assert_eq!(&bytes[..12], b"\0\0\0\0\0abcdefg");
    match try_read_at(fd.as_fd(), &mut bytes, 10).unwrap() {
        Some(count) => assert_eq!(&bytes[..count], b"abcdefg"),
        None => eprintln!("RWF_NOWAIT tells nothing here"),
    }
    let to = scene.file("to", b"");
    assert_eq!(copy_range(fd.as_fd(), 10, to.as_fd(), 0, 100, 0).unwrap(), 7);
    assert_eq!(fs::read(scene.path("to")).unwrap(), b"abcdefg");
    allocate(fd.as_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(attr(fd.as_fd()).unwrap().size, 17);
    assert_eq!(seek(fd.as_fd(), 0, libc::SEEK_HOLE).unwrap(), 17);
    sync_data(fd.as_fd()).unwrap();
    sync_all(fd.as_fd()).unwrap();
    sync_filesystem(fd.as_fd()).unwrap();
    match extents(fd.as_fd()) {
        Ok(count) => assert!(count >= 1),
        Err(error) => assert_eq!(errno(&error), libc::EOPNOTSUPP),
    }
    let read_only = File::open(scene.path("f")).unwrap();
    assert_eq!(code(write_at(read_only.as_fd(), &buffers, 0)), Some(libc::EBADF));
}

/// Goal: attributes are set, read with the right length, listed and removed, through O_PATH.
#[test]
fn extended_attributes_come_and_go() {
    let scene = Scene::new();
    drop(scene.file("f", b""));
    let fd = open_path_at(scene.root(), name("f")).unwrap();
    let (fd, key) = (fd.as_fd(), name("user.key"));
    if code(set_xattr(fd, key, b"value", 0)) == Some(libc::EOPNOTSUPP) {
        eprintln!("no user attributes on this filesystem");
        return;
    }
    assert_eq!(code(set_xattr(fd, key, b"", libc::XATTR_CREATE)), Some(libc::EEXIST));
    assert_eq!(get_xattr(fd, key, &mut []).unwrap(), 5);
    assert_eq!(code(get_xattr(fd, key, &mut [0; 2])), Some(libc::ERANGE));
    let mut value = [0; 10];
    assert_eq!(get_xattr(fd, key, &mut value).unwrap(), 5);
    assert_eq!(&value[..5], b"value");
    let mut names = [0; 100];
    let len = list_xattr(fd, &mut names).unwrap();
    assert!(names[..len].split(|byte| *byte == 0).any(|listed| listed == b"user.key"));
    remove_xattr(fd, key).unwrap();
    assert_eq!(code(get_xattr(fd, key, &mut value)), Some(libc::ENODATA));
}

/// Goal: a directory of thousands is read whole in batches, and from any entry on again.
#[test]
fn directories_are_read_in_batches_and_again() {
    let scene = Scene::new();
    for number in 0..3000 {
        File::create(scene.path(&format!("a-rather-long-name-{number}"))).unwrap();
    }
    let dir = reopen(scene.root(), libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    let mut reader = DirReader::new(dir);
    let read_from = |reader: &mut DirReader, mut offset: u64| {
        let mut all = Vec::new();
        loop {
            let mut buf = vec![0; 4096];
            let batch: Vec<_> = reader
                .next_batch(offset, &mut buf)
                .unwrap()
                .map(|entry| (entry.name.to_os_string(), entry.next_offset))
                .collect();
            let Some((_, last)) = batch.last() else { return all };
            offset = *last;
            all.extend(batch);
        }
    };
    let all = read_from(&mut reader, 0);
    assert_eq!(all.len(), 3002, "with the dot entries");
    assert_eq!(read_from(&mut reader, all[1500].1), all[1501..]);
    assert_eq!(read_from(&mut reader, 0), all);
}

/// Goal: what root makes for a caller is the caller's, and root is root again afterwards.
#[test]
fn files_made_for_a_caller_are_his() {
    // SAFETY: reads the effective user id.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: every file is the daemon's own anyway");
        return;
    }
    let scene = Scene::new();
    // He may not write here: the kernel's check has been made by then.
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let he = Credentials { uid: 12345, gid: 23456, umask: 0o027, group: None };
    as_caller(&he, || mkdir_at(scene.root(), name("his"), 0o777)).unwrap();
    let his = attr_at(scene.root(), name("his")).unwrap();
    assert_eq!((his.uid, his.gid, his.mode & 0o7777), (12345, 23456, 0o750));
    let refused = as_caller(&he, || mkdir_at(scene.root(), name("his"), 0o755));
    assert_eq!(code(refused), Some(libc::EEXIST));
    mkdir_at(scene.root(), name("ours"), 0o755).unwrap();
    let ours = attr_at(scene.root(), name("ours")).unwrap();
    assert_eq!((ours.uid, ours.gid), (0, 0));
}

/// Goal: a file keeps its set-group-id bit in a set-group-id directory only for a maker of the
/// directory's group, as inode_init_owner of the kernel has it.
#[test]
fn a_supplementary_group_counts() {
    // SAFETY: reads the effective user id.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: the groups of the caller are the daemon's own");
        return;
    }
    let scene = Scene::new();
    set_owner(scene.root(), None, Some(34567)).unwrap();
    set_mode(scene.root(), 0o2777).unwrap();
    let he = Credentials { uid: 12345, gid: 23456, umask: 0, group: None };
    let make = |file: &str, he: &Credentials| {
        as_caller(he, || create_at(scene.root(), name(file), 0o2771)).unwrap();
        let attr = attr_at(scene.root(), name(file)).unwrap();
        assert_eq!(attr.gid, 34567);
        attr.mode & 0o7777
    };
    assert_eq!(make("outsider", &he), 0o771);
    assert_eq!(make("member", &Credentials { group: Some(34567), ..he }), 0o2771);
    assert_eq!(make("outsider again", &he), 0o771);
}

/// Goal: O_DIRECT is found where it works, and what is found works.
#[test]
fn direct_io_is_probed() {
    let scene = Scene::new();
    let fd = scene.file("f", b"");
    let (DirectIo::Aligned { memory, offset }, Some(direct)) = probe_direct(fd.as_fd()) else {
        eprintln!("no O_DIRECT on this filesystem");
        return;
    };
    assert!(memory.is_power_of_two() && offset.is_power_of_two());
    assert_ne!(open_flags(direct.as_fd()).unwrap() & libc::O_DIRECT, 0);
    assert_eq!(attr(fd.as_fd()).unwrap().size, 0, "probing writes nothing");
}

/// Goal: the cache keeps what was used last, and gives the value of the faster of two.
#[test]
fn the_cache_is_bounded_and_keeps_the_first() {
    let cache = DescriptorCache::new(2);
    cache.insert(1, "one");
    cache.insert(2, "two");
    assert_eq!(*cache.insert(1, "another one"), "one");
    cache.insert(3, "three");
    assert_eq!(cache.len(), 2);
    assert!(cache.get(2).is_none() && cache.get(1).is_some());
    cache.remove(1);
    cache.remove(3);
    assert!(cache.is_empty());
}

/// Goal: the longest file is the one that truncate allows, and not a byte longer.
#[test]
fn the_longest_file_is_known() {
    let scene = Scene::new();
    let fd = scene.file("f", b"");
    let longest = longest_file_bytes(fd.as_fd());
    set_size(fd.as_fd(), longest).unwrap();
    if longest < i64::MAX as u64 {
        assert_eq!(code(set_size(fd.as_fd(), longest + 1)), Some(libc::EFBIG));
    }
}

/// Goal: blocks that are allocated beyond the end of a file are seen, and that there are none.
#[test]
fn blocks_past_the_end_are_seen() {
    const SIZE: u64 = 5000;
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[1; SIZE as usize], 0).unwrap();
    if extents(file.as_fd()).is_err() {
        eprintln!("no map of extents here: there may always be some");
        assert!(may_have_blocks_past(file.as_fd(), SIZE));
        return;
    }
    assert!(!may_have_blocks_past(file.as_fd(), SIZE));
    allocate(file.as_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 20).unwrap();
    assert!(may_have_blocks_past(file.as_fd(), SIZE));
    set_size(file.as_fd(), SIZE).unwrap();
    assert!(!may_have_blocks_past(file.as_fd(), SIZE));
}
