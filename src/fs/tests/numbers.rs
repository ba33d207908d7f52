//! Files that get other inode numbers below.

use super::*;
use crate::backing::Attr;

/// An engine whose client numbers names.
struct NumberingNames(bool);

impl Engines for NumberingNames {
    fn is_elsewhere(&self, _: u64) -> bool {
        true
    }

    fn is_any_below(&self) -> bool {
        true
    }

    fn number_names(&self) -> bool {
        self.0
    }

    fn open_again(&self, _: u64, _: &dyn Fn(BorrowedFd) -> bool) -> Option<OwnedFd> {
        None
    }
}

/// Gives what is at a name another inode number, as a client that has forgotten the name.
fn renumber(fixture: &Fixture, name: &str) {
    let (path, other) = (fixture.path(name), fixture.path("other"));
    std::fs::copy(&path, &other).unwrap();
    // A client never gives a number twice, other than a disk.
    let number = fixture.dir.path().read_dir().unwrap().count();
    std::fs::hard_link(&path, fixture.path(&format!("former-{number}"))).unwrap();
    std::fs::rename(other, path).unwrap();
    for id in [ROOT_ID, lookup_known(fixture, name)] {
        fixture.fs.forget_descriptors(id);
    }
}

/// The id of what was met at a name.
fn lookup_known(fixture: &Fixture, name: &str) -> u64 {
    let nodes = fixture.fs.nodes.read();
    let place = |node: &super::nodes::Node| fixture.arena.nodes().place(node.slot);
    nodes.values().find(|node| place(node) == (ROOT_ID, name.into())).unwrap().id()
}

fn lookup(fixture: &Fixture, name: &str) -> u64 {
    fixture.fs.lookup(caller(), ROOT_ID, OsStr::new(name)).unwrap().attr.id
}

/// Goal: where a name is all that tells a file, one with another number is the same file: its bytes
/// are stored there, and the kernel is told of no other. One that was removed and made anew is not.
#[test]
fn a_file_is_known_by_its_name_where_numbers_are_of_names() {
    let fixture = Fixture::on(NumberingNames(true), MoodyStorage::new(Mood::Work), |_| {});
    let (id, _) = fixture.create("f");
    fixture.write(id, 0, b"early").recv().unwrap().unwrap();
    fixture.fsync(id).unwrap();
    renumber(&fixture, "f");
    fixture.write(id, 5, b" and late").recv().unwrap().unwrap();
    fixture.fsync(id).unwrap();
    assert_eq!(std::fs::read(fixture.path("f")).unwrap(), b"early and late");
    renumber(&fixture, "f");
    assert_eq!(lookup(&fixture, "f"), id, "found before anything else asks for it");
    fixture.fs.rename(caller(), (ROOT_ID, OsStr::new("f")), (ROOT_ID, OsStr::new("g")), 0).unwrap();
    renumber(&fixture, "g");
    assert_eq!(lookup(&fixture, "g"), id);
    fixture.fs.unlink(caller(), ROOT_ID, OsStr::new("g")).unwrap();
    let (anew, _) = fixture.create("g");
    assert_ne!(anew, id);
    assert_eq!(lookup(&fixture, "g"), anew);
}

/// Goal: where files have numbers, one with another number is another file.
#[test]
fn a_file_with_another_number_is_another_file() {
    let fixture = Fixture::on(NumberingNames(false), MoodyStorage::new(Mood::Work), |_| {});
    let (id, _) = fixture.create("f");
    renumber(&fixture, "f");
    assert_ne!(lookup(&fixture, "f"), id);
}

/// Goal: a number that leaves no room for the mark of other devices is shown as it is, as listings
/// show it, and what stands for it is forgotten with the file.
#[test]
fn numbers_of_any_size_are_shown_as_they_are() {
    let fixture = Fixture::new(Mood::Work);
    let root = crate::backing::attr(fixture.fs.root()).unwrap();
    let regular = |ino| Attr { ino, mode: libc::S_IFREG | 0o644, nlink: 1, ..root };
    let large = regular(1 << 63 | 77);
    for round in 0..2 {
        let entry = fixture.fs.entry(caller(), (&large, 0), ROOT_ID, OsStr::new("f")).unwrap();
        assert_eq!((entry.attr.ino, entry.attr.lasts), (large.ino, Lasts::Once), "{round}");
        assert_ne!(entry.attr.id, large.ino);
        assert_eq!(fixture.fs.known(&large).unwrap().id(), entry.attr.id);
        assert_eq!(fixture.fs.nodes.shown_ino(large.dev, large.ino), large.ino);
        assert_eq!(
            [large.ino, entry.attr.id].map(|ino| fixture.fs.id_shown_as(ino)),
            [entry.attr.id; 2]
        );
        fixture.fs.forget(entry.attr.id, 1);
        assert!(fixture.fs.known(&large).is_none());
        assert_eq!(fixture.fs.nodes.known_id_of(large.dev, large.ino), None);
    }
    let socket = Attr { mode: libc::S_IFSOCK | 0o644, ..large };
    let entry = fixture.fs.entry(caller(), (&socket, 0), ROOT_ID, OsStr::new("s")).unwrap();
    assert_eq!((entry.attr.ino, entry.attr.lasts), (entry.attr.id, Lasts::Settled));
    let small = regular(77);
    let entry = fixture.fs.entry(caller(), (&small, 0), ROOT_ID, OsStr::new("f")).unwrap();
    assert_eq!((entry.attr.id, entry.attr.ino, entry.attr.lasts), (77, 77, Lasts::Settled));
}
