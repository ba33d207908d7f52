//! Goal: whatever is wrong with a command line or the machine, one line says so, the exit code is
//! the documented one, and nothing has changed; and mounts begin and end in order.
//! Method: the built program, run as a user would. What mounts needs root and /dev/fuse, and is
//! counted as ignored without them.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/redirect.rs"]
mod redirect;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/top.rs"]
mod top;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coalescefs");
/// Far more than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory tree of the test's own, unmounted at the end whatever happens.
struct Scene {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Scene {
    fn new(directories: &[&str]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in directories {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        Scene { dir, root }
    }

    fn at(&self, name: &str) -> String {
        self.root.join(name).to_str().unwrap().to_owned()
    }

    /// The mounts below it, as lines of the table.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.dir.path().to_str().unwrap();
        table.lines().filter(|line| line.contains(root)).map(str::to_owned).collect()
    }

    /// Names and kinds of everything in it.
    fn contents(&self) -> Vec<(PathBuf, u32)> {
        fn walk(dir: &Path, found: &mut Vec<(PathBuf, u32)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                found.push((path.clone(), meta.mode()));
                if meta.is_dir() {
                    walk(&path, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root, &mut found);
        found.sort();
        found
    }

    /// Processes of ours that name a path in it: `word` is keeper or worker.
    fn processes(&self, word: &str) -> Vec<i32> {
        let is_ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let start = format!("coalescefs\0{word}\0{}", self.root.display());
            line.starts_with(start.as_bytes())
        };
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse().ok())
        });
        pids.filter(is_ours).collect()
    }

    /// Runs a command line that must fail without changing anything.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32, words: &str) {
        let before = (self.mounts(), self.contents());
        let output = coalescefs(arguments);
        assert_refused(&output, code, words);
        assert_eq!((self.mounts(), self.contents()), before, "{arguments:?} changed something");
        assert_eq!(self.processes("keeper"), [0; 0], "{arguments:?} left a process");
    }

    /// Runs a command line as a user who has nothing, not even a PATH.
    fn as_nobody(&self, arguments: &[&str]) -> Output {
        use std::os::unix::process::CommandExt;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755)).unwrap();
        // The test's own directory may lie where nobody may go: a copy that can be executed. By
        // a process of its own: a child of another test could inherit a descriptor that writes it.
        let program = self.at("coalescefs");
        assert!(Command::new("cp").args([PROGRAM, &program]).status().unwrap().success());
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", "/nonexistent").uid(65534).gid(65534).output().unwrap()
    }

    fn wait_until_gone(&self) {
        let begun = Instant::now();
        while !self.mounts().is_empty() || !self.processes("keeper").is_empty() {
            assert!(begun.elapsed() < PATIENCE, "still there: {:?}", self.mounts());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.processes("worker").is_empty());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for name in ["keeper", "worker"] {
            for pid in self.processes(name) {
                kill(pid, libc::SIGKILL);
            }
        }
        for line in self.mounts() {
            let mount_point = line.split(' ').nth(4).unwrap();
            let _ = Command::new("umount").args(["-l", mount_point]).output();
        }
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_remove("RUST_LOG").env_remove("COALESCEFS_LOG_FILE");
    command.stdin(Stdio::null());
    command
}

fn coalescefs(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, words: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("coalescefs: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(words), "{text} does not say '{words}'");
    assert!(output.stdout.is_empty());
}

#[track_caller]
fn succeed(arguments: &[&str]) {
    let output = coalescefs(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    assert_eq!(stderr(&output), "", "{arguments:?}");
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a process this test started.
    unsafe { libc::kill(pid, signal) };
}

/// Waits for a child of the test, not for ever.
fn wait(mut child: Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("{child:?} does not end");
}

/// Whether this machine can mount as the tests do; says so if not.
fn cannot_mount() -> Option<String> {
    // SAFETY: no arguments, cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let has_device = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    (!is_root || !has_device).then(|| "needs root and /dev/fuse".to_owned())
}

/// A private mount namespace holds copies of every mount that is there when it is made, and keeps
/// them alive: tests that make one run alone.
static NAMESPACES: RwLock<()> = RwLock::new(());

fn shared(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        let _others = NAMESPACES.read().unwrap_or_else(PoisonError::into_inner);
        test();
        Ok(())
    })
}

fn alone(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        let _nobody = NAMESPACES.write().unwrap_or_else(PoisonError::into_inner);
        test();
        Ok(())
    })
}

/// A harness of its own, so that tests that cannot run here are counted as ignored.
fn main() {
    // As a terminal's shell leaves it: what runs in the background of a script ignores SIGINT, and so
    // do its children.
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    let skip = cannot_mount();
    if let Some(reason) = &skip {
        eprintln!("tests that mount are ignored: {reason}");
    }
    let tmux_skip = skip.clone().or_else(terminal::cannot_use_tmux);
    if let Some(reason) = tmux_skip.as_ref().filter(|_| skip.is_none()) {
        eprintln!("tests in a terminal are ignored: {reason}");
    }
    let mounting = |trial: Trial| trial.with_ignored_flag(skip.is_some());
    let trials = vec![
        shared("wrong_usage", wrong_usage),
        shared("wrong_places", wrong_places),
        shared("keeper_without_an_order", keeper_without_an_order),
        mounting(shared(
            "ordinary_users_are_told_what_is_missing",
            ordinary_users_are_told_what_is_missing,
        )),
        shared("doctor::a_directory", doctor::a_directory),
        mounting(shared(
            "doctor::a_mount_alive_stopped_and_dead",
            doctor::a_mount_alive_stopped_and_dead,
        )),
        mounting(shared("doctor::a_mount_that_cannot_store", doctor::a_mount_that_cannot_store)),
        mounting(shared("doctor::as_an_ordinary_user", doctor::as_an_ordinary_user)),
        shared("bench::wrong_usage_and_places", bench::wrong_usage_and_places),
        mounting(shared("bench::a_mount_is_not_measured", bench::a_mount_is_not_measured)),
        mounting(shared(
            "bench::where_nothing_can_be_written",
            bench::where_nothing_can_be_written,
        )),
        mounting(shared(
            "bench::a_small_one_is_complete_and_leaves_nothing",
            bench::a_small_one_is_complete_and_leaves_nothing,
        )),
        mounting(alone(
            "bench::without_fuse_the_disk_is_measured",
            bench::without_fuse_the_disk_is_measured,
        )),
        mounting(shared("bench::a_disk_that_fills_up", bench::a_disk_that_fills_up)),
        mounting(shared("bench::an_interrupt_leaves_nothing", bench::an_interrupt_leaves_nothing)),
        shared("help_says_what_the_defaults_are", help_says_what_the_defaults_are),
        shared("help_fits_a_screen", help_fits_a_screen),
        mounting(shared("a_reader_goes_away", a_reader_goes_away)),
        mounting(shared("a_mount_begins_and_ends", a_mount_begins_and_ends)),
        mounting(shared("one_directory_is_mounted_once", one_directory_is_mounted_once)),
        mounting(shared(
            "a_mount_in_use_stays_and_its_users_are_named",
            a_mount_in_use_stays_and_its_users_are_named,
        )),
        mounting(shared("killed_workers_are_replaced", killed_workers_are_replaced)),
        mounting(shared("a_dead_daemon_is_named_as_such", a_dead_daemon_is_named_as_such)),
        mounting(shared(
            "foreground_ends_in_order_by_a_signal",
            foreground_ends_in_order_by_a_signal,
        )),
        mounting(alone(
            "run_has_the_exit_code_of_its_command",
            run_has_the_exit_code_of_its_command,
        )),
        mounting(alone(
            "run_enters_its_current_directory_again",
            run_enters_its_current_directory_again,
        )),
        mounting(alone(
            "run_passes_signals_on_and_waits_for_what_is_left_behind",
            run_passes_signals_on_and_waits_for_what_is_left_behind,
        )),
        mounting(alone("drain_without_a_path_is_for_all", drain_without_a_path_is_for_all)),
        shared("redirect::mistakes_are_named", redirect::mistakes_are_named),
        mounting(shared("redirect::rules_survive_the_worker", redirect::rules_survive_the_worker)),
        mounting(alone(
            "redirect::the_script_with_forty_programs",
            redirect::the_script_with_forty_programs,
        )),
        mounting(alone(
            "redirect::what_is_not_named_passes_through",
            redirect::what_is_not_named_passes_through,
        )),
        mounting(alone(
            "redirect::directories_that_come_later_and_links",
            redirect::directories_that_come_later_and_links,
        )),
        mounting(alone("redirect::nested_use_is_refused", redirect::nested_use_is_refused)),
        mounting(alone(
            "redirect::places_may_stand_in_a_file",
            redirect::places_may_stand_in_a_file,
        )),
        shared(
            "redirect::very_many_directories_are_refused",
            redirect::very_many_directories_are_refused,
        ),
        mounting(alone("redirect::as_an_ordinary_user", redirect::as_an_ordinary_user)),
        alone("terminal::run_leaves_the_terminal_alone", terminal::run_leaves_the_terminal_alone)
            .with_ignored_flag(tmux_skip.is_some()),
        shared("top::the_terminal_is_put_back", top::the_terminal_is_put_back)
            .with_ignored_flag(tmux_skip.is_some()),
        shared("top::the_terminal_goes_away", top::the_terminal_goes_away)
            .with_ignored_flag(tmux_skip.is_some()),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn wrong_usage() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    scene.refused(&[], 2, "--help");
    scene.refused(&["mont"], 2, "mont");
    scene.refused(&["mount"], 2, "<BACKING>");
    scene.refused(&["status", "--jsn"], 2, "(try 'coalescefs status --help')");
    scene.refused(&["mount", "--memry", "1G", b], 2, "--memory");
    scene.refused(&["mount", "--memory", "lots", b], 2, "20M");
    scene.refused(&["mount", "--memory", "1M", b], 2, "at least 4 MiB");
    scene.refused(&["mount", "--memory", "1000T", b], 2, "more than this machine has");
    scene.refused(&["mount", "--memory", "8M", "--chunk", "4M", b], 2, "--memory 16 MiB");
    scene.refused(&["mount", "--chunk", "5000", b], 2, "try 8192");
    scene.refused(&["mount", "--max-age", "soon", b], 2, "30s");
    scene.refused(&["mount", "--lanes", "0", b], 2, "1..=64");
    scene.refused(&["mount", "--drain-rate", "0", b], 2, "no limit");
    scene.refused(&["mount", "--log-level", "loud", b], 2, "loud");
    scene.refused(&["mount", "--log-file", &scene.at("no/log"), b], 2, "--log-file");
    scene.refused(&["run", "--", "true"], 2, "--over <DIR> or --redirect <GLOB>");
    scene.refused(&["run", "--over", b], 2, "COMMAND");
    scene.refused(&["run", "--over", b, "true"], 2, "the command stands behind '--'");
    scene.refused(&["run", "--redirect", b, b, "--", "true"], 2, "a GLOB in quotes");
    scene.refused(&["run", "--over", b, "--over", b, "--", "true"], 2, "overlap");
    scene.refused(&["umount"], 2, "MOUNTPOINT");
}

fn wrong_places() {
    let scene = Scene::new(&["b/in", "full/in", "empty"]);
    fs::write(scene.at("file"), "x").unwrap();
    let [b, inside, full, empty, file, missing] =
        ["b", "b/in", "full", "empty", "file", "missing"].map(|name| scene.at(name));
    scene.refused(&["mount", &missing], 1, "does not exist");
    scene.refused(&["mount", &file], 1, "not a directory");
    scene.refused(&["mount", &b, &missing], 1, "MOUNTPOINT");
    scene.refused(&["mount", &b, &file], 1, "not a directory");
    scene.refused(&["mount", &b, &full], 1, "not empty");
    scene.refused(&["mount", &b, &inside], 1, "would contain itself");
    scene.refused(&["mount", &inside, &b], 1, "would be hidden");
    scene.refused(&["mount", "/"], 1, "over /");
    scene.refused(&["run", "--over", &missing, "--", "true"], 1, "--over");
    scene.refused(&["umount", &empty], 1, "not a mountpoint: 'coalescefs status' lists the mounts");
    scene.refused(&["umount", &missing], 1, "No such file");
    scene.refused(&["umount", "/proc"], 1, "not a coalescefs mount");
    scene.refused(&["status", "/proc"], 1, "not a coalescefs mount");
}

/// Goal: the keeper subcommand is of no use by hand, and harmless.
fn keeper_without_an_order() {
    let scene = Scene::new(&["b"]);
    scene.refused(&["keeper", &scene.at("b")], 1, "coalescefs mount");
}

fn ordinary_users_are_told_what_is_missing() {
    let scene = Scene::new(&["b"]);
    let device_mode = fs::metadata("/dev/fuse").unwrap().mode();
    let words = if device_mode & 0o006 == 0o006 { "fuse3 package" } else { "chmod 666 /dev/fuse" };
    assert_refused(&scene.as_nobody(&["mount", &scene.at("b")]), 1, words);
    fs::set_permissions(scene.at("b"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_refused(&scene.as_nobody(&["mount", &scene.at("b")]), 1, "readable and searchable");
    assert!(scene.mounts().is_empty());
}

fn help_says_what_the_defaults_are() {
    let help = coalescefs(&["mount", "--help"]);
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    for words in ["--memory", "an eighth of RAM", "here ", "--max-age", "30s"] {
        assert!(text.contains(words), "help does not say '{words}'");
    }
    assert!(!text.contains("keeper"));
}

/// Goal: what is asked for most fits a screen, also a narrow one; more is said where it says so.
fn help_fits_a_screen() {
    let help = |words: &[&str]| {
        let output = command(words).env("COLUMNS", "80").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = help(&["--help"]);
    let commands = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(names.len() >= 12 && names.contains(&"mount"), "{names:?}");
    for name in names.iter().chain([&""]) {
        let words = |more| [*name, more].into_iter().filter(|word| !word.is_empty());
        let short = help(&words("--help").collect::<Vec<_>>());
        assert!(short.lines().count() <= 40, "{} lines:\n{short}", short.lines().count());
        assert!(short.lines().all(|line| line.chars().count() <= 80), "{short}");
        assert_eq!(short, help(&words("-h").collect::<Vec<_>>()));
        if !short.contains("More about each option") {
            continue;
        }
        assert!(short.contains(&format!("coalescefs help {name}")), "{short}");
        let long = help(&["help", name]);
        assert!(long.lines().count() > short.lines().count(), "{long}");
        for word in short.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(long.contains(word), "{word}: {long}");
        }
    }
    assert!(help(&["help", "run"]).contains("first rule whose GLOB matches"));
}

/// Goal: a reader that is gone is no error. The status of a mount of the test's own: that of all
/// mounts tells of others' as well.
fn a_reader_goes_away() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    assert!(coalescefs(&["mount", b]).status.success());
    // The pipe is closed before anything is written to it.
    let mut child = command(&["status", b]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(coalescefs(&["umount", b]).status.success());
}

fn a_mount_begins_and_ends() {
    let scene = Scene::new(&["b", "m"]);
    let (b, m) = (&scene.at("b"), &scene.at("m"));
    for arguments in [&["mount", b][..], &["mount", b, m][..]] {
        let place = arguments[arguments.len() - 1];
        succeed(arguments);
        assert_eq!(scene.mounts().len(), 1);
        assert_refused(&coalescefs(&["mount", place]), 1, "already a coalescefs mount");
        let output = coalescefs(&["status", "--json", place]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["config"]["mountpoint"], place);
        assert_eq!(status["keeper_pid"], scene.processes("keeper")[0]);
        assert_eq!(status["worker_pid"], scene.processes("worker")[0]);
        succeed(&["umount", place]);
        assert!(scene.mounts().is_empty() && scene.processes("keeper").is_empty());
        assert!(scene.processes("worker").is_empty());
    }
}

fn one_directory_is_mounted_once() {
    let scene = Scene::new(&["b", "m"]);
    let (b, m) = (&scene.at("b"), &scene.at("m"));
    succeed(&["mount", b, m]);
    assert_refused(&coalescefs(&["mount", b]), 1, "already mounted through coalescefs, at");
    succeed(&["umount", m]);
}

fn a_mount_in_use_stays_and_its_users_are_named() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    succeed(&["mount", b]);
    let mut user = Command::new("sleep").arg("60").current_dir(b).spawn().unwrap();
    assert_refused(&coalescefs(&["umount", b]), 1, &format!("sleep ({})", user.id()));
    assert_eq!(scene.mounts().len(), 1);
    user.kill().unwrap();
    user.wait().unwrap();
    // What a shell has left to this program is the shell's.
    let script = "exec 9>\"$1/f\"; \"$0\" umount \"$1\"; exit $?";
    let shell = Command::new("sh").args(["-c", script, PROGRAM, b]).output().unwrap();
    assert_refused(&shell, 1, "is in use by sh (");
    assert!(!stderr(&shell).contains("coalescefs ("), "{}", stderr(&shell));
    succeed(&["umount", b]);
}

/// Goal: killing workers is not noticed, and the end is in order all the same.
fn killed_workers_are_replaced() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    succeed(&["mount", b]);
    for _ in 0..3 {
        let worker = scene.processes("worker");
        assert_eq!(worker.len(), 1);
        kill(worker[0], libc::SIGKILL);
        // The kernel may answer what follows by itself, before there is another.
        while scene.processes("worker").iter().all(|pid| worker.contains(pid)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // In a process of its own: a request that is lost would never return.
        let answered = Command::new("timeout").args(["-s", "KILL", "5", "stat", b]).output();
        assert!(answered.unwrap().status.success(), "the mount did not answer after a kill");
    }
    let output = coalescefs(&["status", "--json", b]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["worker_restarts"], 3);
    succeed(&["umount", b]);
}

fn a_dead_daemon_is_named_as_such() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    succeed(&["mount", b]);
    let pids = [scene.processes("keeper"), scene.processes("worker")].concat();
    // Stopped first: one of them alone would take the other's place.
    for signal in [libc::SIGSTOP, libc::SIGKILL] {
        pids.iter().for_each(|pid| kill(*pid, signal));
    }
    while !scene.processes("worker").is_empty() || !scene.processes("keeper").is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_refused(&coalescefs(&["status", b]), 1, "'coalescefs umount");
    assert_refused(&coalescefs(&["umount", b]), 75, "is lost");
    assert_refused(&coalescefs(&["umount", b]), 1, "not a mountpoint");
}

/// Goal: `drain` without PATH stores what all mounts hold, also when it cannot ask one of them, and
/// says that. Method: a namespace of mounts that has none of other tests.
fn drain_without_a_path_is_for_all() {
    const SCRIPT: &str = r#"
awk '/ - fuse.coalescefs / { print $5 }' /proc/self/mountinfo | tac |
    while read -r other; do umount -i -l "$other"; done
test "$("$0" drain)" = 'no coalescefs mounts'
for n in 1 2 3; do "$0" mount --max-age 1h b$n m$n; echo first >m$n/f; done
test ! -s b1/f && test ! -s b3/f
"$0" drain
for n in 1 2 3; do test "$(cat b$n/f)" = first; done
daemon=$("$0" status --json m2 | sed -n 's/.*_pid": \([0-9]*\).*/\1/p')
for signal in STOP KILL; do kill -$signal $daemon; done
for n in 1 3; do echo second >>m$n/f; done
test "$(cat b1/f)" = first
until "$0" drain 2>said && exit 9; grep -q 'the daemon of .*/m2 is gone' said; do sleep 0.1; done
test "$(wc -l <said)" = 1
for n in 1 3; do test "$(tail -n 1 b$n/f)" = second; done
"$0" umount m2 2>said || test $? = 75
for n in 1 3; do "$0" umount m$n; done
"#;
    let scene = Scene::new(&["b1", "m1", "b2", "m2", "b3", "m3"]);
    let mut apart = Command::new("timeout");
    apart.args(["-k", "5", "60", "unshare", "-m", "--propagation", "private"]);
    apart.args(["bash", "-euo", "pipefail", "-c", SCRIPT, PROGRAM]).current_dir(&scene.root);
    let output = apart.output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, stderr(&output));
    assert!(scene.processes("keeper").is_empty());
}

fn foreground_ends_in_order_by_a_signal() {
    let scene = Scene::new(&["b"]);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
        let child = command(&["mount", "--foreground", &scene.at("b")]).spawn().unwrap();
        let begun = Instant::now();
        while scene.processes("worker").is_empty() || scene.mounts().is_empty() {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        kill(child.id() as i32, signal);
        let code = wait(child);
        assert_eq!(code, (signal != libc::SIGKILL).then_some(0), "signal {signal}");
        scene.wait_until_gone();
    }
}

fn run_has_the_exit_code_of_its_command() {
    let scene = Scene::new(&["b", "c"]);
    let (b, c) = (&scene.at("b"), &scene.at("c"));
    let code = |script: &str| {
        let output = coalescefs(&["run", "--over", b, "--over", c, "--", "sh", "-c", script]);
        assert!(scene.mounts().is_empty() && scene.processes("keeper").is_empty());
        output.status.code()
    };
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("kill -9 $$"), Some(137));
    // By path, as mounts of other tests may be there as well.
    let count = format!("exit $(grep -c '{}.*fuse.coalescefs' /proc/self/mountinfo)", scene.at(""));
    assert_eq!(code(&count), Some(2));
    let missing = coalescefs(&["run", "--over", b, "--", "/nonexistent/program"]);
    assert_refused(&missing, 127, "No such file");
    let not_executable = coalescefs(&["run", "--over", b, "--", "/etc/passwd"]);
    assert_refused(&not_executable, 126, "Permission denied");
    scene.wait_until_gone();
}

/// Goal: the command in the current directory of a mount is in the mount, not below it.
fn run_enters_its_current_directory_again() {
    let scene = Scene::new(&["b"]);
    let script = "test \"$(stat -f -c %T .)\" = fuseblk -o \"$(stat -f -c %T .)\" = fuse";
    let output = command(&["run", "--over", ".", "--", "sh", "-c", script])
        .current_dir(scene.at("b"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

fn run_passes_signals_on_and_waits_for_what_is_left_behind() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    let ready = scene.at("ready");
    let script = format!("trap 'exit 3' TERM; touch {ready}; sleep 60 & wait; exit 4");
    let child = command(&["run", "--over", b, "--", "sh", "-c", &script]).spawn().unwrap();
    let begun = Instant::now();
    while !Path::new(&ready).exists() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(child.id() as i32, libc::SIGTERM);
    assert_eq!(wait(child), Some(3));
    let script = format!("cd {b}; sleep 1 >/dev/null 2>&1 & exit 0");
    let begun = Instant::now();
    let output = coalescefs(&["run", "--over", b, "--", "sh", "-c", &script]);
    assert_refused(&output, 0, "still used by sleep");
    assert!(begun.elapsed() > Duration::from_millis(900));
    scene.wait_until_gone();
    // Who has a file open is waited for, and what it writes is stored.
    let opened = scene.at("opened");
    let writes = format!("(touch {opened}; sleep 1; echo late) >{b}/f 2>/dev/null");
    let script = format!("{writes} & until test -e {opened}; do sleep 0.1; done");
    let output = coalescefs(&["run", "--over", b, "--", "sh", "-c", &script]);
    assert_refused(&output, 0, "still used by sh (");
    assert_eq!(fs::read_to_string(scene.at("b/f")).unwrap(), "late\n");
    scene.wait_until_gone();
}
