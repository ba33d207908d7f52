//! Goal: outputs are coalesced without a change to the script that makes them, and nothing else is
//! touched. Method: the built program around scripts of the shell, looked at from outside its
//! private mounts.

use super::*;

/// The case that all of this is for, as its user wrote it.
const SCRIPT: &str = r#"
mkfifo $(seq -f FIFO%g 40)
for n in $(seq 40); do ./some_program -in FIFO$n >out/OUTPUT$n 2>s_p$n.log & done
seq 1 8000 | awk '{ print > ("FIFO" (NR % 40 + 1)) }'
wait
"#;

/// Writes a record with each write().
const PROGRAM_OF_40: &str = "#!/bin/sh\necho \"reads $2\" >&2\nexec sed -u 's/^/record /' \"$2\"\n";

fn script(scene: &Scene, name: &str, text: &str) {
    let path = scene.at(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[track_caller]
fn run_in(dir: &str, arguments: &[&str]) -> Output {
    let output = command(&[&["run"], arguments].concat()).current_dir(dir).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

/// Waits for a file that a script makes.
#[track_caller]
fn wait_for(path: &str) {
    let begun = Instant::now();
    while !Path::new(path).exists() {
        assert!(begun.elapsed() < PATIENCE, "{path} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn assert_outputs(scene: &Scene, dir: &str) {
    for n in 1..=40 {
        let output = fs::read_to_string(scene.at(&format!("{dir}/OUTPUT{n}"))).unwrap();
        let first = if n == 1 { 40 } else { n - 1 };
        let wanted: String =
            (0..200).map(|round| format!("record {}\n", first + round * 40)).collect();
        assert!(output == wanted, "OUTPUT{n} is not whole: {} bytes", output.len());
        let log = fs::read_to_string(scene.at(&format!("s_p{n}.log"))).unwrap();
        assert_eq!(log, format!("reads FIFO{n}\n"));
    }
}

/// Forty programs and a splitter, with the directory of their outputs named, with the outputs
/// named, and with a name that matches the logs, too; the outputs do not exist before.
pub fn the_script_with_forty_programs() {
    let ways: [&[&str]; 3] = [
        &["--over", "out"],
        &["--redirect", "out/OUTPUT*"],
        &["--redirect", "./s_p*.log", "--redirect", "*/OUTPUT?", "--redirect", "*/OUTPUT??"],
    ];
    for way in ways {
        let scene = Scene::new(&["out"]);
        script(&scene, "some_program", PROGRAM_OF_40);
        script(&scene, "script", &format!("#!/bin/bash{SCRIPT}"));
        run_in(&scene.at(""), &[way, &["--", "./script"]].concat());
        assert_outputs(&scene, "out");
        scene.wait_until_gone();
    }
}

/// Goal: what is not named is on disk while the command still runs, for everybody; what is named
/// waits; and each directory that matches has a mount of its own.
pub fn what_is_not_named_passes_through() {
    let scene = Scene::new(&["data/a", "data/b"]);
    let script = "for d in a b; do
            echo early >data/$d/log; echo buffered >data/$d/OUTPUT1
            echo later >>data/$d/log; cmp data/$d/log - <<<$'early\nlater'
            test $(stat -c %s data/$d/log) = 12
        done
        grep -c 'data/.*fuse.coalescefs' /proc/self/mountinfo >mounts
        touch ready; until test -e go; do sleep 0.02; done";
    let glob = format!("{}/*/OUTPUT*", scene.at("data"));
    let arguments = ["run", "--max-age", "1h", "--redirect", &glob, "--", "bash", "-euc", script];
    let child = command(&arguments).current_dir(scene.at("")).spawn().unwrap();
    wait_for(&scene.at("ready"));
    let content = |name: &str| fs::read_to_string(scene.at(name)).unwrap();
    for dir in ["a", "b"] {
        assert_eq!(content(&format!("data/{dir}/log")), "early\nlater\n");
        assert_eq!(content(&format!("data/{dir}/OUTPUT1")), "");
    }
    assert_eq!(content("mounts"), "2\n");
    fs::write(scene.at("go"), "").unwrap();
    assert_eq!(wait(child), Some(0));
    assert_eq!(content("data/a/OUTPUT1"), "buffered\n");
    scene.wait_until_gone();
}

/// Goal: a directory that the script makes is covered, and so is one that a link leads to.
pub fn directories_that_come_later_and_links() {
    let scene = Scene::new(&["out", "disk"]);
    std::os::unix::fs::symlink("../disk/file", scene.at("out/OUTPUT1")).unwrap();
    let script = "mkdir new; echo x >new/OUTPUT2; echo y >OUTPUT1; cd ..
        coalescefs=$0; for dir in out disk; do $coalescefs status --json $dir; done >states";
    let globs = ["--redirect", "new/OUTPUT*", "--redirect", "OUTPUT*"];
    let command = ["--max-age=1h", "--", "bash", "-euc", script, PROGRAM];
    run_in(&scene.at("out"), &[&globs[..], &command[..]].concat());
    let states = fs::read_to_string(scene.at("states")).unwrap();
    assert_eq!(states.matches("\"bytes_in\": 2").count(), 2, "{states}");
    assert_eq!(fs::read_to_string(scene.at("disk/file")).unwrap(), "y\n");
    assert_eq!(fs::read_to_string(scene.at("out/new/OUTPUT2")).unwrap(), "x\n");
    scene.wait_until_gone();
}

/// Goal: rules hold, in the order in which they are given, before those of the file, also for the
/// worker that comes after one that died; and the state says so.
pub fn rules_survive_the_worker() {
    let scene = Scene::new(&["b", "m"]);
    let (b, m, config) = (&scene.at("b"), &scene.at("m"), &scene.at("c.toml"));
    let file = "max-age = '1h'\nrule = ['*.log:coalesce=off', 'OUT*:chunk=1M,priority=high']\n";
    fs::write(config, file).unwrap();
    let mine = "debug.log:coalesce=on,max-age=2h";
    succeed(&["mount", "--memory", "64M", "--config", config, "--rule", mine, b, m]);
    let write = |name: &str, text: &str| {
        use std::io::Write;
        let mut file = fs::File::options().append(true).create(true).open(name).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    for round in 1..=2 {
        write(&scene.at("m/some.log"), "line\n");
        write(&scene.at("m/debug.log"), "line\n");
        let below = |name: &str| fs::read_to_string(scene.at(&format!("b/{name}"))).unwrap();
        assert_eq!(below("some.log"), "line\n".repeat(round));
        assert_eq!(below("debug.log"), "");
        if let [worker] = scene.processes("worker")[..] {
            kill(worker, libc::SIGKILL);
        }
    }
    let state = coalescefs(&["status", "--json", m]);
    let state: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap();
    assert!(state["worker_restarts"].as_u64() >= Some(1), "{state:#}");
    let rules = &state["config"]["rules"];
    assert_eq!(rules[0]["glob"], "debug.log");
    assert_eq!(rules[1]["coalesce"], false);
    assert_eq!(
        (&rules[2]["chunk_bytes"], &rules[2]["priority"]),
        (&(1 << 20).into(), &"high".into())
    );
    assert_eq!(state["config"]["max_age_ms"], 3_600_000);
    succeed(&["umount", m]);
    assert_eq!(fs::read_to_string(scene.at("b/debug.log")).unwrap(), "line\nline\n");
}

/// Goal: each mistake is one line that names the option, or file and line, and nothing is changed.
pub fn mistakes_are_named() {
    let scene = Scene::new(&["b", "d/a"]);
    let (b, config) = (&scene.at("b"), &scene.at("c.toml"));
    let run = |words: &[&'static str]| -> Vec<String> {
        let place = |word: &&str| match *word {
            "A" => scene.at("d/a"),
            "B" => b.clone(),
            "B/x" => format!("{b}/x"),
            "B/" => format!("{b}/"),
            word => word.to_owned(),
        };
        ["run"].iter().chain(words).chain(&["--", "true"]).map(place).collect()
    };
    let refused = |words: &[&'static str], code: i32, said: &str| {
        let words = run(words);
        scene.refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), code, said);
    };
    refused(&["--redirect", "B/"], 2, "names no files");
    refused(&["--redirect", "/nonexistent/*"], 2, "create the directory");
    refused(&["--redirect", "B/x", "--over", "B"], 2, "overlap");
    refused(&["--over", "B", "--rule", "x"], 2, "'--rule <RULE>'");
    refused(&["--over", "B", "--rule", "[x:chunk=1M"], 2, "is no glob");
    refused(&["--over", "B", "--rule", "x:chunk=3"], 2, "--rule 'x': chunk");
    refused(&["--over", "B", "--config", "/nonexistent/c.toml"], 2, "No such file");
    refused(&["--redirect", "B/x", "--over", "A", "--memory", "5M"], 2, "shared out among 2");
    for (text, said) in [
        ("memory = '1G'\nchunk = 'much'\n", "c.toml, line 2: "),
        ("\n\nchunks = '1M'", "c.toml, line 3: 'chunks' is no option"),
        ("rule = ['a:b']", "c.toml, line 1: "),
        ("chunk = '1001'", "c.toml"),
        ("chunk = = 1", "c.toml, line 1: "),
    ] {
        fs::write(config, text).unwrap();
        scene.refused(&["mount", "--config", config, b], 2, said);
    }
}

/// Goal: a mount within a mount, or around one, is refused with its reason.
pub fn nested_use_is_refused() {
    let scene = Scene::new(&["d/a"]);
    let (d, a) = (&scene.at("d"), &scene.at("d/a"));
    let inner = |option: &str, inner: &str| {
        let words = [PROGRAM, "run", option, inner, "--", "true"];
        coalescefs(&[&["run", "--over", d, "--"], &words[..]].concat())
    };
    for place in [d, a] {
        assert_refused(&inner("--over", place), 1, "lies in the coalescefs mount at");
    }
    assert_refused(&inner("--redirect", &format!("{a}/x*")), 1, "--redirect");
    succeed(&["mount", a]);
    scene_refuses_around(d, a);
    succeed(&["umount", a]);
}

fn scene_refuses_around(d: &str, a: &str) {
    let output = coalescefs(&["run", "--over", d, "--", "true"]);
    assert_refused(&output, 1, &format!("has the coalescefs mount at {a} in it"));
}

/// Goal: the whole of a `run` may stand in a file, and what is not said anywhere is named.
pub fn places_may_stand_in_a_file() {
    let scene = Scene::new(&["out"]);
    let (config, log) = (&scene.at("c.toml"), &scene.at("log"));
    let file = format!("redirect = ['out/OUTPUT*']\nlog-file = '{log}'\nlog-level = 'info'\n");
    fs::write(config, file).unwrap();
    let script = "grep -c \"$PWD/out .*fuse.coalescefs\" /proc/self/mountinfo; echo x >out/OUTPUT1";
    let output = run_in(&scene.at(""), &["--config", config, "--", "sh", "-euc", script]);
    assert_eq!(output.stdout, b"1\n");
    assert_eq!(fs::read_to_string(scene.at("out/OUTPUT1")).unwrap(), "x\n");
    assert!(fs::read_to_string(log).unwrap().contains("to be unmounted"));
    fs::write(config, "memory = '64M'\n").unwrap();
    let said = "not provided: --over <DIR> or --redirect <GLOB>";
    scene.refused(&["run", "--config", config, "--", "true"], 2, said);
}

/// Goal: more directories than anybody wants daemons for are refused.
pub fn very_many_directories_are_refused() {
    let names: Vec<String> = (0..65).map(|number| format!("d/{number}")).collect();
    let scene = Scene::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let glob = format!("{}/*/x", scene.at("d"));
    scene.refused(&["run", "--redirect", &glob, "--", "true"], 2, "65 directories");
}

/// Goal: the same without root.
pub fn as_an_ordinary_user() {
    let scene = Scene::new(&["out"]);
    script(&scene, "some_program", PROGRAM_OF_40);
    script(&scene, "script", &format!("#!/bin/bash{SCRIPT}"));
    let words = ["-Urm", PROGRAM, "run", "--redirect", "out/OUTPUT*", "--", "./script"];
    let output = Command::new("unshare").args(words).current_dir(scene.at("")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_outputs(&scene, "out");
}
