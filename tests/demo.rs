//! The demo as a user runs it: the built program, at a small size.
//!
//! Every test looks at what is left behind: no mount, no process, no directory. What needs FUSE
//! is counted as ignored without it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

const STREAMS: u32 = 4;
const SMALL: [&str; 4] = ["--streams", "4", "--bytes", "64K"];
/// 64 KiB in records of 10 bytes.
const RECORDS: u64 = 6553;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coalescefs"));
    command.arg("demo").args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails when a process runs in `dir`, something is mounted there or a file is left.
fn assert_nothing_left(dir: &Path) {
    let path = dir.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(path), "still mounted:\n{mounts}");
    for process in fs::read_dir("/proc").unwrap() {
        let current = fs::read_link(process.unwrap().path().join("cwd")).unwrap_or_default();
        assert!(!current.starts_with(dir), "a process is left in {}", current.display());
    }
    let left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a stream has to contain, written down independently of the program.
fn expected(stream: u32) -> String {
    (0..RECORDS).map(|number| format!("0{stream}{number:07}\n")).collect()
}

/// The script alone, without a mount: the straight half of the demo.
fn the_script_writes_every_record_of_every_stream() {
    let dir = tempfile::tempdir().unwrap();
    let script = demo(&SMALL).arg("--show-script").output().unwrap();
    assert!(script.status.success(), "{}", stderr(&script));
    fs::write(dir.path().join("demo.sh"), &script.stdout).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    let watched = demo(&["--watch", "watch.json", "--", "sh", "demo.sh"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(watched.status.success(), "{}", stderr(&watched));
    for stream in 1..=STREAMS + 1 {
        let output = fs::read_to_string(dir.path().join(format!("out/OUTPUT{stream}"))).unwrap();
        assert!(output == expected(stream), "OUTPUT{stream} is wrong");
    }
    let report = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap()
    };
    assert_eq!(report("probe.json")["records"], RECORDS);
    let calls = |name| report(name)["write_calls"].as_u64();
    if let (Some(all), Some(split), Some(probe)) =
        (calls("watch.json"), calls("splitter.json"), calls("probe.json"))
    {
        let programs = all - split - probe;
        let records = u64::from(STREAMS) * RECORDS;
        assert!((records..records + 100).contains(&programs), "{programs} calls");
    }
}

/// A program that cannot write its output ends the script, which says so instead of hanging.
fn a_script_that_cannot_write_fails() {
    let dir = tempfile::tempdir().unwrap();
    let script = demo(&SMALL).arg("--show-script").output().unwrap();
    // There is no directory `out` here.
    fs::write(dir.path().join("demo.sh"), &script.stdout).unwrap();
    let watched = demo(&["--watch", "watch.json", "--", "sh", "demo.sh"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(watched.status.code(), Some(1), "{}", stderr(&watched));
    let log = fs::read_to_string(dir.path().join("splitter.log")).unwrap();
    assert!(log.contains("FIFO"), "{log}");
}

fn the_whole_demo_succeeds_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(&SMALL).arg("--dir").arg(dir.path()).output().unwrap();
    assert_nothing_left(dir.path());
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let records = printed.lines().find(|line| line.contains("records of")).unwrap();
    assert_eq!(records.matches("32,765").count(), 2, "{printed}");
    assert!(printed.contains("through coalescefs"), "{printed}");
    assert!(printed.contains("byte for byte"), "{printed}");
}

fn kept_outputs_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(&SMALL).args(["--keep", "--dir"]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let kept = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    assert!(stderr(&output).contains(kept.to_str().unwrap()));
    for run in ["straight", "through"] {
        for stream in 1..=STREAMS + 1 {
            let path = kept.join(run).join(format!("out/OUTPUT{stream}"));
            assert!(fs::read_to_string(&path).unwrap() == expected(stream), "{}", path.display());
        }
    }
}

/// Ctrl-C while programs write, in each half: the exit code says so and nothing is left.
fn an_interrupt_leaves_nothing() {
    for half in ["straight", "through"] {
        let dir = tempfile::tempdir().unwrap();
        // Small for the half before, and still enough to be in the middle of it.
        let size = if half == "straight" { "100M" } else { "2M" };
        let mut child = demo(&["--streams", "8", "--bytes", size, "--dir"])
            .arg(dir.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !writes_in(dir.path(), half)
            && child.try_wait().unwrap().is_none()
            && start.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_nothing_left(dir.path());
        assert_eq!(output.status.code(), Some(130), "{half}: {}", stderr(&output));
    }
}

/// Whether the splitter of that half has begun.
fn writes_in(dir: &Path, half: &str) -> bool {
    fs::read_dir(dir)
        .unwrap()
        .filter_map(Result::ok)
        .any(|demo| demo.path().join(half).join("splitter.log").exists())
}

fn what_cannot_work_is_one_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(&["--bytes", "100T", "--dir"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("--bytes"), "{}", stderr(&output));
    assert_nothing_left(dir.path());
    let missing = dir.path().join("missing");
    let output = demo(&SMALL).arg("--dir").arg(&missing).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(missing.to_str().unwrap()), "{}", stderr(&output));
    assert_nothing_left(dir.path());
}

/// A harness of its own, so that tests that cannot run here are counted as ignored.
fn main() {
    // As a terminal's shell leaves it: what runs in the background of a script ignores SIGINT, and so
    // do its children.
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    let skip = support::cannot_mount();
    if let Some(reason) = &skip {
        eprintln!("tests that mount are ignored: {reason}");
    }
    let trial = |name: &str, test: fn(), needs_mount: bool| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(needs_mount && skip.is_some())
    };
    let trials = vec![
        trial(
            "the_script_writes_every_record_of_every_stream",
            the_script_writes_every_record_of_every_stream,
            false,
        ),
        trial("a_script_that_cannot_write_fails", a_script_that_cannot_write_fails, false),
        trial(
            "the_whole_demo_succeeds_and_leaves_nothing",
            the_whole_demo_succeeds_and_leaves_nothing,
            true,
        ),
        trial("kept_outputs_are_the_same", kept_outputs_are_the_same, true),
        trial("an_interrupt_leaves_nothing", an_interrupt_leaves_nothing, true),
        trial(
            "what_cannot_work_is_one_line_and_leaves_nothing",
            what_cannot_work_is_one_line_and_leaves_nothing,
            false,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
