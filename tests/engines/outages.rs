//! Parts of an engine that die or cannot be reached while programs write: nothing acknowledged is
//! lost, no program sees an error that the engine recovers from, and `status` says what is waited
//! for.

use std::time::Duration;

use crate::engine::{Engine, say};
use crate::support::deeds::{self, Programs};
use crate::support::{Mount, is_mounted, text};
use crate::writers::{Outputs, Writers};

const WRITERS: usize = 8;
/// Drained all the time; memory for what comes during an outage.
const OPTIONS: [&str; 6] = ["--memory", "64M", "--chunk", "256K", "--max-age", "500ms"];

/// Longer than all that the engines' clients wait before they take a connection for dead.
fn outage() -> Duration {
    let seconds = std::env::var("COALESCEFS_CUT_SECONDS").ok().and_then(|value| value.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// Unmounts, and compares by way of another client.
fn assert_stored(engine: &Engine, name: &str, mount: &Mount, outputs: &Outputs) {
    mount.umount_clean();
    if name != "overlay" {
        engine.change_client();
    }
    outputs.assert_in(&engine.files());
}

/// The engine is there again: programs go on, everything is stored, and the same for another client.
fn assert_recovered(engine: &Engine, name: &str, mount: &Mount, mut writers: Writers) -> Outputs {
    writers.wait_for_records(3000);
    // Who closes a file before what was refused is stored is told of the refusal.
    mount.wait_for("everything to be stored", |status| {
        status["errors"].as_array().is_some_and(Vec::is_empty)
    });
    let outputs = writers.end();
    assert_stored(engine, name, mount, &outputs);
    outputs
}

/// `status` says what is waited for: the engine, or a part of it that does not answer.
fn assert_wait_is_said(mount: &Mount) {
    let words = say(mount, &["status"]);
    let said = [
        "not stored: ",
        "waits for the engine",
        " wait for the engine",
        " not come back",
        "stuck: lane ",
    ];
    assert!(said.iter().any(|part| words.contains(part)), "{words}");
}

fn kill_worker(mount: &Mount) {
    // SAFETY: a process of ours.
    unsafe { libc::kill(mount.worker_pid(), libc::SIGKILL) };
}

/// Goal: deaths of the worker between the programs and the engine are seen by neither.
pub fn worker_killed(name: &str) {
    let (mount, engine) = Engine::mounted(name, &OPTIONS);
    let mut writers = Writers::start(mount.path(), WRITERS);
    for _ in 0..5 {
        writers.wait_for_records(3000);
        kill_worker(&mount);
    }
    writers.wait_for_records(3000);
    let outputs = writers.end();
    assert_stored(&engine, name, &mount, &outputs);
}

/// Goal: the death of a server that holds data, in the middle of it, is bridged: by its copies, or
/// by waiting until it is back. Later the copies are all the same.
pub fn server_killed(name: &str) {
    let (mount, engine) = Engine::mounted(name, &OPTIONS);
    let mut writers = Writers::start(mount.path(), WRITERS);
    writers.wait_for_records(3000);
    engine.order("kill");
    std::thread::sleep(Duration::from_secs(3));
    writers.wait_for_records(3000);
    engine.order("revive");
    let outputs = assert_recovered(&engine, name, &mount, writers);
    engine.order("whole");
    outputs.assert_in(&engine.files());
}

/// Goal: while the network is down programs write on, into memory, `status` says what is waited for;
/// when it is back everything is stored.
pub fn network_cut(name: &str) {
    let (mount, engine) = Engine::mounted(name, &OPTIONS);
    let mut writers = Writers::start(mount.path(), WRITERS);
    writers.wait_for_records(3000);
    engine.order("cut");
    let half = outage() / 2;
    std::thread::sleep(half);
    assert_wait_is_said(&mount);
    writers.wait_for_records(3000);
    std::thread::sleep(half);
    engine.order("join");
    assert_recovered(&engine, name, &mount, writers);
}

/// Goal: programs that open, look at, make, list, move and remove files and read what is not in memory
/// while the network is down wait, `status` says so, and none sees an error when it is back. What
/// they did is what another client finds.
pub fn names_through_a_cut(name: &str) {
    let (mount, engine) = Engine::mounted(name, &["--max-age", "200ms"]);
    deeds::prepare(&mount, &engine.files());
    engine.order("cut");
    let programs = Programs::start(mount.path());
    std::thread::sleep(outage());
    assert_wait_is_said(&mount);
    let status = mount.status();
    assert!(status["waiting_requests"].as_array().is_some_and(|all| !all.is_empty()), "{status:#}");
    engine.order("join");
    programs.end();
    mount.umount_clean();
    engine.change_client();
    deeds::assert_done(&engine.files());
}

/// Goal: as with the network alone, when the worker dies while it waits for the engine. The next one
/// may have to wait for it, too.
pub fn cut_while_the_worker_dies(name: &str) {
    let (mount, engine) = Engine::mounted(name, &OPTIONS);
    let mut writers = Writers::start(mount.path(), WRITERS);
    writers.wait_for_records(3000);
    let worker = mount.worker_pid();
    engine.order("cut");
    std::thread::sleep(Duration::from_secs(3));
    // SAFETY: a process of ours.
    unsafe { libc::kill(worker, libc::SIGKILL) };
    std::thread::sleep(outage());
    engine.order("join");
    assert_recovered(&engine, name, &mount, writers);
}

/// The engine's client is killed while programs write; that is seen, and said.
fn kill_client(engine: &Engine, mount: &Mount, writers: &mut Writers) {
    writers.wait_for_records(3000);
    engine.order("crash");
    writers.wait_for_records(3000);
    mount.wait_for("the loss to be seen", |status| {
        status["errors"].as_array().is_some_and(|errors| !errors.is_empty())
    });
    let words = say(mount, &["status"]);
    assert!(words.contains("not stored: ") && words.contains("ENOTCONN"), "{words}");
}

/// Goal: when the engine's client is killed, the directory below is dead for good. Once another client
/// is mounted in its place everything is stored by way of that, also when the worker died meanwhile;
/// programs go on, and see nothing of it.
pub fn client_killed(name: &str) {
    let (mount, engine) = Engine::mounted(name, &OPTIONS);
    let mut writers = Writers::start(mount.path(), WRITERS);
    kill_client(&engine, &mount, &mut writers);
    engine.order("remount");
    writers.wait_for_records(3000);
    kill_worker(&mount);
    assert_recovered(&engine, name, &mount, writers);
}

/// Goal: where no other client takes its place, what is buffered can be read on, is named, and `umount`
/// refuses; nobody hangs.
pub fn client_gone(name: &str) {
    let (mount, engine) = Engine::mounted(name, &["--memory", "64M", "--max-age", "500ms"]);
    let mut writers = Writers::start(mount.path(), WRITERS);
    kill_client(&engine, &mount, &mut writers);
    let refused = mount.umount();
    assert_eq!(refused.status.code(), Some(75), "{}", text(&refused));
    writers.abandon();
    let ended = say(&mount, &["umount", "--discard"]);
    assert!(!is_mounted(mount.path()), "{ended}");
}
