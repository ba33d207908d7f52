//! What programs do with a directory, each by itself, while what is below it cannot be reached.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::JoinHandle;

use super::{Mount, records};

/// By name, and how.
pub type Deed = (&'static str, fn(&Path) -> io::Result<()>);

/// `cold` was never looked at, and the others were made through the mount: see [`prepare`].
pub const DEEDS: [Deed; 8] = [
    ("stat", |at| fs::metadata(at.join("unseen")).map(drop)),
    ("read", |at| {
        let read = fs::read(at.join("cold"))?;
        assert!(read == records(4, 2000));
        Ok(())
    }),
    ("create", |at| File::create_new(at.join("new"))?.write_all_at(&records(5, 100), 0)),
    ("open", |at| File::options().append(true).open(at.join("old")).map(drop)),
    ("rename", |at| fs::rename(at.join("from"), at.join("to"))),
    ("unlink", |at| fs::remove_file(at.join("gone"))),
    ("ls", |at| fs::read_dir(at)?.try_for_each(|entry| entry.map(drop))),
    ("touch", |at| File::open(at.join("held"))?.set_modified(std::time::SystemTime::now())),
];

/// Makes the files that [`DEEDS`] are about, some of them in `below`, past the mount.
pub fn prepare(mount: &Mount, below: &Path) {
    for name in ["cold", "unseen"] {
        fs::write(below.join(name), records(4, 2000)).unwrap();
    }
    for name in ["old", "from", "gone", "held"] {
        fs::write(mount.path().join(name), records(1, 100)).unwrap();
    }
    mount.wait_for("them to be stored", |status| status["backlog_bytes"] == 0);
}

/// Programs that do them, all at the same time.
pub struct Programs(Vec<(&'static str, JoinHandle<io::Result<()>>)>);

impl Programs {
    /// Starts them in the directory `at`.
    pub fn start(at: &Path) -> Programs {
        let start = |(name, act): Deed| {
            let at = at.to_owned();
            (name, std::thread::spawn(move || act(&at)))
        };
        Programs(DEEDS.map(start).into())
    }

    /// Waits for them; none may have met an error.
    pub fn end(self) {
        for (name, program) in self.0 {
            program.join().unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// What was done is what is to be found `below`, nothing twice and nothing half.
pub fn assert_done(below: &Path) {
    let entries = fs::read_dir(below).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["cold", "held", "new", "old", "to", "unseen"]);
    assert!(fs::read(below.join("new")).unwrap() == records(5, 100));
}
