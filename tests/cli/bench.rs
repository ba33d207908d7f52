//! Goal: `bench` measures, recommends what `mount` takes, and leaves nothing behind, whatever ends
//! it. Method: the built program at its smallest size; what is measured is only checked for being
//! possible, as the machine may be as slow as it likes.

use super::*;

const SMALL: [&str; 5] = ["bench", "--size", "32M", "--writers", "4"];
const MIB: u64 = 1 << 20;

/// A directory with somebody's file, which is there at the end as it was.
struct Place {
    scene: Scene,
    before: Vec<(PathBuf, u32)>,
}

impl Place {
    fn new() -> Place {
        let scene = Scene::new(&["d"]);
        fs::write(scene.at("d/file"), "x").unwrap();
        let before = scene.contents();
        Place { scene, before }
    }

    fn dir(&self) -> String {
        self.scene.at("d")
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(self.scene.contents(), self.before);
        assert_eq!(fs::read(self.scene.at("d/file")).unwrap(), b"x");
        self.scene.wait_until_gone();
    }
}

pub fn wrong_usage_and_places() {
    let place = Place::new();
    let (scene, d) = (&place.scene, &place.dir());
    let bench = |arguments: &[&'static str]| [&["bench"], arguments, &["PLACE"]].concat();
    let refused = |arguments: &[&'static str], code: i32, words: &str| {
        let arguments = bench(arguments);
        let arguments = arguments.iter().map(|word| if *word == "PLACE" { d } else { *word });
        scene.refused(&arguments.collect::<Vec<_>>(), code, words);
    };
    scene.refused(&["bench"], 2, "<DIR>");
    refused(&["--size", "much"], 2, "20M");
    refused(&["--size", "1M"], 2, "at least 32 MiB");
    refused(&["--size", "1000T"], 1, "write less with --size");
    refused(&["--writers", "0"], 2, "1..=1000");
    refused(&["--record", "0"], 2, "--record");
    refused(&["--overload", "soon"], 2, "30s");
    refused(
        &["--size", "32M", "--writers", "1000", "--record", "65536"],
        2,
        "at least --size 250M",
    );
    refused(&["--write", "report"], 2, "--bytes-each");
    scene.refused(&["bench", &scene.at("missing")], 1, "does not exist");
    scene.refused(&["bench", &scene.at("d/file")], 1, "is not a directory");
    scene.refused(&["bench", "/sys"], 1, "0 B free");
    place.assert_untouched();
}

/// What is measured must be the disk, and nobody but the mount may write below it.
pub fn a_mount_is_not_measured() {
    let scene = Scene::new(&["b/in", "m"]);
    let [b, m] = &["b", "m"].map(|name| scene.at(name));
    succeed(&["mount", b, m]);
    for (path, words) in
        [("m", "is served"), ("m/in", "is served"), ("b", "belongs"), ("b/in", "belongs")]
    {
        let output = coalescefs(&["bench", &scene.at(path)]);
        assert_refused(&output, 1, words);
        assert!(stderr(&output).contains(&format!("'coalescefs umount {m}'")));
    }
    succeed(&["umount", m]);
}

/// A filesystem that is read-only, one without room for more files, and rights that are missing.
pub fn where_nothing_can_be_written() {
    let place = Place::new();
    let d = &place.dir();
    let output = place.scene.as_nobody(&["bench", d]);
    assert_refused(&output, 1, "give this user the right to write");
    for (options, words) in [
        ("ro,size=64M", "read-only: mount it for writing"),
        ("size=40M", "40 MiB free, 64 MiB needed: make room"),
        // The root, the scratch directory and a few files of the turns.
        ("size=80M,nr_inodes=9", "make room, or write less with --size"),
    ] {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "none", d]).output();
        assert!(mounted.unwrap().status.success());
        let output = coalescefs(&["bench", d]);
        let left = fs::read_dir(d).unwrap().count();
        assert!(Command::new("umount").arg(d).status().unwrap().success());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        // Before it what it was doing: that is not a terminal.
        assert!(text.lines().last().unwrap().contains(words), "{text}");
        assert_eq!(left, 0);
    }
}

/// Checks what any machine must give.
#[track_caller]
fn assert_sane(report: &serde_json::Value, dir: &str) {
    let bytes = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!(report["dir"], dir);
    assert_eq!(report["size_bytes"], 32 * MIB);
    let device = &report["device"];
    let written = bytes(&device["written_bytes"]);
    assert!((4 * MIB..=16 * MIB + 65536).contains(&written), "{report:#}");
    let turns = device["turns"].as_array().unwrap();
    let sizes: Vec<_> = turns.iter().map(|turns| bytes(&turns["bytes"])).collect();
    assert_eq!(sizes, [128 << 10, 1 << 20]);
    assert!(turns.iter().all(|turns| turns["ms"].as_f64().unwrap() > 0.0));
    assert!(report["service_time"]["positioning_s"].as_f64().unwrap() >= 0.0);
    assert!(report["service_time"]["bytes_per_s"].as_f64().unwrap() > 0.0);
    let chunk = bytes(&report["recommendation"]["chunk_bytes"]);
    assert!(chunk.is_power_of_two() && (MIB / 4..=64 * MIB).contains(&chunk), "{report:#}");
    assert!(bytes(&report["recommendation"]["memory_bytes"]) >= 4 * chunk, "{report:#}");
}

pub fn a_small_one_is_complete_and_leaves_nothing() {
    let place = Place::new();
    let d = &place.dir();
    let output = coalescefs(&[&SMALL[..], &["--json", d]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    place.assert_untouched();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_sane(&report, d);
    // A quarter of the size, in whole records.
    assert_eq!(report["load"]["bytes"], 8 * MIB / 4 / 10 * 10 * 4);
    for run in ["straight", "through"] {
        let figure = |name: &str| report[run][name].as_f64().unwrap();
        assert!(figure("on_disk_ms") >= figure("writers_ms"), "{report:#}");
        assert!(figure("writers_ms") >= figure("longest_write_ms"), "{report:#}");
        assert!(figure("longest_write_ms") >= figure("longest_sleep_ms"), "{report:#}");
    }
    // What is recommended is what a mount takes.
    let command = report["command"].as_str().unwrap();
    let words: Vec<_> = command.split(' ').collect();
    assert_eq!((words[0], words[words.len() - 1]), ("coalescefs", d.as_str()), "{command}");
    succeed(&words[1..]);
    succeed(&["umount", d]);
    let output = coalescefs(&[&SMALL[..], &["--record", "4096", d]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["--chunk ", "--memory ", "    coalescefs mount --chunk ", "does not tell"] {
        assert!(text.contains(words), "no '{words}' in:\n{text}");
    }
    place.assert_untouched();
}

/// Where no mount can be made the disk is measured all the same. Method: something else is where
/// the device was, in a namespace of its own.
pub fn without_fuse_the_disk_is_measured() {
    let place = Place::new();
    let d = &place.dir();
    let script =
        format!("mount --bind {d}/file /dev/fuse && exec {PROGRAM} {} --json {d}", SMALL.join(" "));
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_sane(&report, d);
    assert!(report["no_mount"].as_str().unwrap().contains("mount"), "{report:#}");
    assert!(report["straight"].is_null() && report["through"].is_null(), "{report:#}");
    place.assert_untouched();
}

/// Somebody else takes the room that there was: a line says so, whoever it hits.
pub fn a_disk_that_fills_up() {
    for part in ["straight", "through"] {
        let place = Place::new();
        let d = place.dir();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=80M", "none", &d]).status();
        assert!(mounted.unwrap().success());
        let output = interfere(&d, part, &["--size", "80M", "--record", "5"], |_| {
            let _ = fs::write(format!("{d}/eater"), vec![0; 80 << 20]);
        });
        let left = fs::read_dir(&d).unwrap().count();
        assert!(Command::new("umount").arg(&d).status().unwrap().success());
        let text = stderr(&output);
        assert_eq!(left, 1, "{part}: more than what somebody else wrote");
        // A mount may hold room for everything already.
        if part == "straight" || output.status.code() != Some(0) {
            assert_eq!(output.status.code(), Some(1), "{part}: {text}");
            let last = text.lines().last().unwrap();
            assert!(last.contains("make room, or write less"), "{part}: {text}");
        }
        place.assert_untouched();
    }
}

/// A signal in each part: the exit code says so, and nothing is left.
pub fn an_interrupt_leaves_nothing() {
    let parts = [("disk", libc::SIGINT), ("straight", libc::SIGTERM), ("through", libc::SIGINT)];
    for (part, signal) in parts {
        let place = Place::new();
        let small = ["--size", "64M", "--writers", "8", "--record", "3"];
        let act = |child: &Child| kill(child.id() as i32, signal);
        let output = interfere(&place.dir(), part, &small, act);
        assert_eq!(output.status.code(), Some(130), "{part}: {}", stderr(&output));
        assert!(stderr(&output).contains("interrupted; everything was cleaned up"), "{part}");
        place.assert_untouched();
    }
}

/// Runs a benchmark of `dir`, long enough to be met in the middle, and does something to it once
/// it writes in one of its parts; gives its end.
fn interfere(dir: &str, part: &str, options: &[&str], act: impl FnOnce(&Child)) -> Output {
    let mut child = command(&[&["bench"], options, &[dir]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let is_there = || {
        let entries = fs::read_dir(dir).unwrap().flatten();
        let mut parts = entries.map(|entry| entry.path().join(part));
        parts.any(|part| part.join("out/OUTPUT1").exists() || part.join("turns0").exists())
    };
    while !is_there() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    act(&child);
    child.wait_with_output().unwrap()
}
