//! A backing directory that other nodes change, too.

use super::*;
use crate::config::Consistency;

/// A file that was closed a moment ago, where times are too coarse to tell whether another node
/// changed it since.
fn with_a_fresh_file() -> Fixture {
    let fixture = Fixture::with(MoodyStorage::new(Mood::Work), |config| {
        config.consistency = Consistency::CloseToOpen;
        config.abilities.time_step_ns = Some(u64::MAX / 2);
    });
    let (id, handle) = fixture.create("file");
    fixture.fs.release(caller(), id, handle);
    fixture
}

/// Goal: of those who look a fresh file up at the same time nobody makes another one's id stale;
/// once it was opened, what was read of it is not taken for what is there now.
#[test]
fn many_look_a_file_up_and_then_open_it() {
    let fixture = with_a_fresh_file();
    let fs = &fixture.fs;
    let look_up = || fs.lookup(caller(), ROOT_ID, OsStr::new("file")).unwrap().attr.id;
    let ids = [look_up(), look_up(), look_up()];
    let open = |id: u64| fs.open(caller(), id, libc::O_WRONLY).unwrap().handle;
    let handles = ids.map(open);
    assert_eq!(look_up(), ids[0], "while it is open it stays what it is");
    for (id, handle) in ids.into_iter().zip(handles) {
        fs.release(caller(), id, handle);
    }
    let later = look_up();
    assert_ne!(later, ids[0], "it may have been changed unseen");
    assert_eq!(code(fs.open(caller(), ids[0], libc::O_RDONLY)), Some(libc::ESTALE));
    assert!(fs.open(caller(), later, libc::O_RDONLY).is_ok());
}
