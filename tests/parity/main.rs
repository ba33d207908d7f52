//! One table of calls, made on a mount and on a plain directory of the same filesystem: value,
//! errno and the resulting tree must be the same.
//!
//! A trial is a group of cases on one filesystem. Each case is run twice, each time by this program
//! once more, as a process of its own that has the directory as its current one: so a case may
//! change its user, limits and signals, or die. What differs by nature stands in
//! `known`; a case is compared whole otherwise.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod compare;
mod grounds;
mod known;
mod log;
mod sys;
mod tree;

use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use compare::{CASE_VARIABLE, Case, compare};
use grounds::Ground;

fn main() {
    if let Ok(name) = std::env::var(CASE_VARIABLE) {
        let case = cases::all().into_iter().find(|case| case.name == name);
        return (case.expect("a case of the table").run)(&log::Log);
    }
    let arguments = Arguments::from_args();
    let skip = support::cannot_mount();
    let mut grounds: Vec<(&str, Result<Arc<Ground>, String>)> = Vec::new();
    if arguments.list || skip.is_some() {
        let reason = skip.unwrap_or_default();
        let names = ["here", "ext4", "xfs", "btrfs", "tmpfs"];
        grounds.extend(names.map(|name| (name, Err(reason.clone()))));
    } else {
        grounds.push(("here", Ok(Arc::new(Ground::here()))));
        let made = Ground::made().into_iter();
        grounds.extend(made.map(|(name, ground)| (name, ground.map(Arc::new))));
        known::tell();
    }
    let mut trials = Vec::new();
    for (name, ground) in &grounds {
        if let Err(reason) = ground {
            eprintln!("parity on {name} is ignored: {reason}");
        }
        for (group, cases) in cases::groups() {
            trials.push(trial(&format!("{name}::{group}"), ground, cases));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(grounds);
    conclusion.exit();
}

fn trial(name: &str, ground: &Result<Arc<Ground>, String>, cases: Vec<Case>) -> Trial {
    match ground.clone() {
        Ok(ground) => Trial::test(name, move || Ok(compare(&ground, &cases)?)),
        Err(_) => Trial::test(name, || Ok(())).with_ignored_flag(true),
    }
}
