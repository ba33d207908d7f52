//! Real programs do their jobs on a mount and in a plain directory of the same filesystem; what
//! they say and what they leave must be the same, while mounted and after umount.
//!
//! Each file of `jobs/` is a test, or one for each way of mounting that it names; its head is
//! described in `job`. A job whose program is missing is counted as ignored, with the reason.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod job;
mod tree;

use std::time::{Duration, SystemTime};

use libtest_mimic::{Arguments, Trial};

use job::{Job, Part, Place};
use support::Mount;
use tree::Tree;

/// Ways of mounting that a job can ask for: with the defaults everything stays in memory until the
/// end, with little memory and age everything is drained while the programs run. Without the
/// kernel's writeback cache each write() comes to the daemon.
const WAYS: [(&str, &[&str]); 3] = [
    ("default", &[]),
    ("tiny", &["--memory", "16M", "--chunk", "64K", "--max-age", "100ms"]),
    ("uncached", &["--no-writeback-cache", "--memory", "16M", "--chunk", "64K", "--max-age", "1s"]),
];

/// Some programs set times in whole seconds, and the kernel's own are those of its last tick.
const COARSE: Duration = Duration::from_millis(1020);

/// Goal: the job prints the same in both places, and leaves the same tree: before umount, and
/// after it on the disk. Its own checks agree all three times.
fn compare(job: &Job, options: &[&str]) {
    let mount = Mount::over(options);
    let plain = Place::new("plain directory", mount.plain());
    let mounted = Place::new("mount", mount.path().to_owned());
    let (said, plain_times) = timed(|| job.run(Part::Job, &plain));
    let (said_there, mount_times) = timed(|| job.run(Part::Job, &mounted));
    same_lines("the job", &said, &said_there);

    let expected = Tree::of(&plain.dir, &job.skips);
    let found = Tree::of(&mounted.dir, &job.skips);
    expected.assert_same(&found, &job.differs, "on the mount");
    expected.assert_same_times(&found, &plain_times, &mount_times);

    let checked = job.run(Part::Check, &plain);
    same_lines("the check", &checked, &job.run(Part::Check, &mounted));
    let expected = Tree::of(&plain.dir, &job.skips);
    let found = Tree::of(&mounted.dir, &job.skips);
    mount.umount_clean();
    let stored = Tree::of(&mounted.dir, &job.skips);
    found.assert_identical(&stored, "on the disk after umount");
    expected.assert_same_holes(&stored, &job.differs);
    same_lines("the check after umount", &checked, &job.run(Part::Check, &mounted));
}

/// When something was done, with what the clock of file times may be behind.
type Times = std::ops::RangeInclusive<SystemTime>;

fn timed<T>(act: impl FnOnce() -> T) -> (T, Times) {
    let start = SystemTime::now() - COARSE;
    let value = act();
    (value, start..=SystemTime::now())
}

fn same_lines(what: &str, plain: &str, mounted: &str) {
    for (number, (plain, mounted)) in plain.lines().zip(mounted.lines()).enumerate() {
        let line = number + 1;
        assert_eq!(plain, mounted, "{what}, line {line}; left: plain directory, right: mount");
    }
    assert_eq!(plain, mounted, "{what}; left: plain directory, right: mount");
}

fn main() {
    let arguments = Arguments::from_args();
    let cannot_mount = support::cannot_mount().or_else(support::cannot_be_root);
    let mut trials = Vec::new();
    for job in Job::all() {
        let skip = cannot_mount.clone().or_else(|| job.cannot_run());
        if let Some(reason) = &skip {
            eprintln!("{} is ignored: {reason}", job.name);
        }
        for way in &job.runs {
            let (_, options) = WAYS.iter().find(|(name, _)| name == way).unwrap();
            let (name, job) = (format!("{}::{way}", job.name), job.clone());
            let trial = Trial::test(name, move || {
                compare(&job, options);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(skip.is_some()));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
