//! Two nodes on one engine: a client and a mount for each.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::support::{Mount, SOON, records};

/// Goal: what one node closed is what the other reads, lists and looks at afterwards, at once where the
/// engine's client keeps nothing, which is the default mode there; one node's work is no conflict, and
/// two that append to one file are told.
pub fn what_is_closed_is_seen_elsewhere(name: &str) {
    let engine = Engine::start_for_two(name);
    let a = engine.mount(&["--memory", "16M"]);
    let b = Engine::mount_of(&engine.files_of_another(), &["--memory", "16M"]);
    for node in [&a, &b] {
        let status = node.status();
        assert_eq!(status["config"]["consistency"], "close-to-open", "{status:#}");
    }
    let mut wanted = Vec::new();
    for round in 0..6 {
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let bytes = records(round, [3, 20_000, 1][round % 3]);
        if round % 3 == 2 {
            append(&writer.path().join("f"), &bytes);
            wanted.extend_from_slice(&bytes);
        } else {
            fs::write(writer.path().join("f"), &bytes).unwrap();
            wanted = bytes;
        }
        // Names are kept by the engine's own client for a moment.
        wait_for(&reader.path().join("f"), &wanted, round);
        let size = fs::metadata(reader.path().join("f")).unwrap().len();
        assert_eq!(size, wanted.len() as u64, "round {round}");
    }
    for number in 0..10 {
        fs::write(a.path().join(format!("a{number}")), records(1, number)).unwrap();
    }
    let until = Instant::now() + SOON;
    loop {
        let names = names_in(b.path());
        if names.as_ref().is_ok_and(|names| names.len() == 11) {
            break;
        }
        assert!(Instant::now() < until, "{names:?} are listed of {:?}", names_in(a.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
    for number in 0..10 {
        wait_for(&b.path().join(format!("a{number}")), &records(1, number), number);
    }
    assert_eq!([&a, &b].map(|node| node.figure("files_changed_below")), [0, 0]);
    conflict(&a, &b);
    a.umount_clean();
    b.umount_clean();
}

/// Both append, the second stores last.
fn conflict(a: &Mount, b: &Mount) {
    fs::write(a.path().join("both"), "").unwrap();
    wait_for(&b.path().join("both"), b"", 0);
    let open =
        |node: &Mount| OpenOptions::new().append(true).open(node.path().join("both")).unwrap();
    let (mut one, mut two) = (open(a), open(b));
    one.write_all(b"aaaaaaaa\n").unwrap();
    two.write_all(b"bbb\n").unwrap();
    drop(one);
    drop(two);
    assert_eq!([a, b].map(|node| node.figure("files_changed_below")), [0, 1]);
    wait_for(&a.path().join("both"), b"bbb\naaaa\n", 1);
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn wait_for(path: &Path, wanted: &[u8], round: usize) {
    let until = Instant::now() + SOON;
    loop {
        let found = fs::read(path);
        if found.as_ref().is_ok_and(|found| found == wanted) {
            return;
        }
        let len = found.map(|found| found.len());
        assert!(Instant::now() < until, "round {round}: {len:?} for {} bytes", wanted.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn names_in(dir: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}
