//! Network filesystems below the mount, on this machine alone: GlusterFS, MooseFS, sshfs, and
//! overlayfs as containers have it. `tests/engines/engine` starts and stops them.
//!
//! Each test starts an engine of its own, and one runs at a time: a server that waits for the
//! processor is one that failed. Those that take long are ignored, with the reason, unless
//! `COALESCEFS_ENGINES=all`.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod engine;
mod files;
mod lanes;
mod nodes;
mod objects;
mod outages;
mod writers;

use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};

use engine::{ENGINES, Engine};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A test of an engine.
struct Case {
    name: &'static str,
    /// Takes so long that it is not for every run.
    is_long: bool,
    /// Which it is for.
    engines: &'static [&'static str],
    run: fn(&'static str),
}

const WITH_NETWORK: &[&str] = &["gluster", "moosefs", "sshfs"];

const CASES: [Case; 16] = [
    case("pipeline", false, &ENGINES, files::pipeline),
    case("nodes", false, &["gluster", "sshfs"], nodes::what_is_closed_is_seen_elsewhere),
    case("worker_killed", false, &ENGINES, outages::worker_killed),
    case("writes_end_with_shards", false, &["gluster"], objects::writes_end_with_shards),
    case("layout", false, &["moosefs"], objects::layout),
    case("private", false, &["sshfs"], files::private),
    case("lanes", true, WITH_NETWORK, lanes::lanes_are_tried),
    case("full", true, &ENGINES, files::full),
    // sshfs has no word for it, and overlayfs none of its own.
    case("quota", true, &["gluster", "moosefs"], files::quota),
    case("removed_below", true, &["gluster", "moosefs", "sshfs"], files::removed_below),
    case("server_killed", true, WITH_NETWORK, outages::server_killed),
    case("network_cut", true, WITH_NETWORK, outages::network_cut),
    case("names_through_a_cut", true, WITH_NETWORK, outages::names_through_a_cut),
    case("cut_while_the_worker_dies", true, WITH_NETWORK, outages::cut_while_the_worker_dies),
    case("client_killed", true, WITH_NETWORK, outages::client_killed),
    case("client_gone", true, WITH_NETWORK, outages::client_gone),
];

const fn case(
    name: &'static str,
    is_long: bool,
    engines: &'static [&'static str],
    run: fn(&'static str),
) -> Case {
    Case { name, is_long, engines, run }
}

fn main() {
    if writers::serve_if_told() {
        return;
    }
    let arguments = Arguments::from_args();
    let takes_all = std::env::var("COALESCEFS_ENGINES").is_ok_and(|value| value == "all");
    let cannot_mount = support::cannot_mount().or_else(support::cannot_be_root);
    let mut trials = Vec::new();
    for engine in ENGINES {
        let skip = cannot_mount.clone().or_else(|| Engine::cannot_start(engine));
        if let Some(reason) = &skip {
            eprintln!("{engine} is ignored: {reason}");
        }
        for case in CASES.iter().filter(|case| case.engines.contains(&engine)) {
            let name = format!("{engine}::{}", case.name);
            let is_left_out = case.is_long && !takes_all;
            if is_left_out && skip.is_none() && !arguments.list {
                eprintln!("{name} is ignored: takes long, runs with COALESCEFS_ENGINES=all");
            }
            let run = case.run;
            let trial = Trial::test(name, move || {
                let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
                run(engine);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(skip.is_some() || is_left_out));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
