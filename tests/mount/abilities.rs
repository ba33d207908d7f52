//! What a mount knows of the filesystem below, on those that there are; as root, on loop devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::image::{Image, KINDS};
use crate::support::{Mount, PROGRAM, sh, succeed, text};

/// Sparse.
const IMAGE_BYTES: u64 = 400 << 20;
/// All that is yes or no.
const ANSWERS: [&str; 12] = [
    "allocates",
    "allocates_behind",
    "punches_holes",
    "opens_beneath",
    "has_handles",
    "has_attributes",
    "has_acls",
    "renames_noreplace",
    "renames_exchange",
    "has_hard_links",
    "has_symlinks",
    "folds_case",
];

/// The tests of this file.
pub fn trials(skip: &Option<String>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let cannot = |kind| skip.clone().or_else(|| Image::cannot_make(kind));
    for (kind, _) in KINDS {
        let name = format!("abilities::{kind}::what_it_can_do_is_known");
        trials.push(crate::trial(&cannot(kind), &name, move || what_it_can_do_is_known(kind)));
    }
    let name = "abilities::a_filesystem_that_is_not_written_to";
    trials.push(crate::trial(&cannot("ext4"), name, a_filesystem_that_is_not_written_to));
    trials
}

/// Names and time of a directory.
fn state(dir: &Path) -> (Vec<std::ffi::OsString>, i64, i64) {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let meta = fs::metadata(dir).unwrap();
    (names, meta.mtime(), meta.mtime_nsec())
}

fn abilities(mount: &Mount) -> Value {
    mount.status()["config"]["abilities"].clone()
}

/// What `doctor` says, which must find no problem.
fn doctor(dir: &Path) -> String {
    text(&succeed(Command::new(PROGRAM).arg("doctor").arg(dir)))
}

/// Goal: these four can do all that is asked for, but fold no case; `status` and `doctor` say so, and
/// neither a mount nor `doctor` leaves anything.
fn what_it_can_do_is_known(kind: &'static str) {
    let image = Image::make(kind, IMAGE_BYTES).unwrap();
    let mount = Mount::beside_in(image.path(), &[]);
    let found = abilities(&mount);
    for name in ANSWERS {
        assert_eq!(found[name].as_bool(), Some(name != "folds_case"), "{name} in {found:#}");
    }
    let align = &found["direct_io"]["aligned"]["offset"];
    assert!(align.as_u64().is_some_and(|bytes| bytes.is_power_of_two()), "{found:#}");
    assert_eq!(found["time_step_ns"], 1, "{found:#}");
    assert_eq!(found["name_bytes_max"], 255, "{found:#}");
    assert!(found["file_bytes_max"].as_u64().is_some_and(|bytes| bytes >= 1 << 40), "{found:#}");
    let said = text(&succeed(Command::new(PROGRAM).arg("status").arg(mount.path())));
    let line = said.lines().find(|line| line.contains("backing can: direct I/O ("));
    assert!(line.is_some_and(|line| line.contains("not: case folding")), "{said}");
    assert_eq!(state(mount.backing()).0, Vec::<std::ffi::OsString>::new());
    mount.umount_clean();

    let dir = mount.plain();
    sh(&dir, "touch a b; touch -d 2001-02-03 .");
    let before = state(&dir);
    let said = doctor(&dir);
    for check in
        ["ACLs: works", "exchanging names: works", "names: up to 255 bytes", "kept to 1 ns"]
    {
        assert!(said.contains(check), "no '{check}' in:\n{said}");
    }
    assert_eq!(state(&dir), before);
    let over = Mount::over_in(image.path(), &[]);
    over.umount_clean();
    assert_eq!(state(over.backing()).0, Vec::<std::ffi::OsString>::new());
}

/// Goal: where nothing can be written, a mount is made all the same, and knows what can be asked.
fn a_filesystem_that_is_not_written_to() {
    let image = Image::make("ext4", IMAGE_BYTES).unwrap();
    sh(image.path(), "mkdir d; echo content >d/file; touch -d 2001-02-03 d; mount -o remount,ro .");
    let bind = |at: &Path| {
        succeed(Command::new("mount").arg("--bind").arg(image.path().join("d")).arg(at));
    };
    let mount = Mount::beside_made(bind, &[]);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "content\n");
    let found = abilities(&mount);
    for name in ["has_handles", "has_acls", "opens_beneath"] {
        assert_eq!(found[name], true, "{name} in {found:#}");
    }
    for name in ["direct_io", "allocates", "has_hard_links", "folds_case", "file_bytes_max"] {
        assert!(found[name].is_null(), "{name} in {found:#}");
    }
    mount.umount_clean();
}
