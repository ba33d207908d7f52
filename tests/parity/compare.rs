//! Runs the cases of a group on a mount and on a plain directory of the same filesystem, and
//! compares what they were answered and what they left: through the mount, and below it once it is
//! unmounted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::grounds::Ground;
use crate::known::{Occurs, is_left_out, known};
use crate::log::{ARROW, Log};
use crate::support::Mount;
use crate::tree::snapshot;

/// Names the case that a process is to run.
pub const CASE_VARIABLE: &str = "COALESCEFS_PARITY_CASE";

/// Tells a case how many entries a large directory has.
pub const ENTRIES_VARIABLE: &str = "COALESCEFS_PARITY_ENTRIES";

/// A case that takes longer hangs. The longest makes 100 000 names, on a machine that may be busy; an
/// engine may take some milliseconds for each call.
const LONGEST: Duration = Duration::from_secs(150);
const LONGEST_ON_ENGINE: Duration = Duration::from_secs(600);

/// How the log of a case that hangs ends.
const HANGS: &str = "hangs\n";

/// Differences of one case that are printed; one wrong call may change all that follows.
const MOST_SHOWN: usize = 25;

/// Calls to be made in the current directory.
#[derive(Clone, Copy)]
pub struct Case {
    /// Group and name, `group::name`.
    pub name: &'static str,
    /// Makes the calls.
    pub run: fn(&Log),
}

/// What differs: the call, the plain directory's answer, the mount's.
type Difference = (String, String, String);

/// Runs the cases; `Err` is what differs and should not, or does not differ and should.
pub fn compare(ground: &Ground, cases: &[Case]) -> Result<(), String> {
    // Nothing leaves the buffer by itself, so that calls meet buffered data.
    let options = ["--max-age", "1h", "--memory", "64M", "--chunk", "1M"];
    let mount = Mount::over_in(ground.path(), &options);
    let plain = mount.plain();
    for dir in [plain.parent().expect("in a directory of its own"), &plain, mount.path()] {
        crate::support::image::let_all_in(dir);
    }
    let mut found: Vec<(Case, Vec<Difference>)> = Vec::new();
    for case in cases.iter().filter(|case| !is_left_out(case.name, ground.kind)) {
        let (there, here) = (plain.join(leaf(case)), mount.path().join(leaf(case)));
        let (there_log, here_log) =
            (run(ground, case, &there, &mount), run(ground, case, &here, &mount));
        let mut differences = lines(&there_log, &here_log);
        if [there_log, here_log].iter().any(|log| log.ends_with(HANGS)) {
            // Nothing more can be asked of this mount; dropping it frees who waits for it.
            found.push((*case, differences));
            return Err(report(ground, &found));
        }
        differences.extend(trees(&there, &here, ""));
        found.push((*case, differences));
    }
    let unmounted = mount.umount();
    if !unmounted.status.success() {
        return Err(format!("{}\n{}", report(ground, &found), crate::support::text(&unmounted)));
    }
    for (case, differences) in &mut found {
        let (there, here) = (plain.join(leaf(case)), mount.backing().join(leaf(case)));
        differences.extend(trees(&there, &here, "unmounted "));
    }
    let report = report(ground, &found);
    if report.is_empty() { Ok(()) } else { Err(report) }
}

fn leaf(case: &Case) -> &'static str {
    case.name.rsplit("::").next().expect("at least one part")
}

/// Runs a case in a directory of its own and returns its log.
fn run(ground: &Ground, case: &Case, dir: &Path, mount: &Mount) -> String {
    fs::create_dir(dir).unwrap();
    let path = mount.log_path().with_extension("case");
    let log = File::create(&path).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CASE_VARIABLE, case.name)
        .env(ENTRIES_VARIABLE, ground.entries.to_string())
        .current_dir(dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if started.elapsed() > if ground.is_engine { LONGEST_ON_ENGINE } else { LONGEST } {
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    // What a case started does not outlive it. Not waited for: one that hangs may not even die.
    // SAFETY: the group of a process of ours.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    let mut text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    let place = dir.parent().and_then(Path::file_name).unwrap_or_default().display();
    match ended {
        Some(status) if status.success() => {}
        Some(status) => text += &format!("the case{ARROW}{status} in {place}\n"),
        None => text += &format!("the case in {place}{ARROW}{HANGS}"),
    }
    text
}

/// Compares logs line by line as long as the calls are the same.
fn lines(there: &str, here: &str) -> Vec<Difference> {
    let split = |line: &str| {
        let (call, answer) = line.split_once(ARROW).unwrap_or((line, ""));
        (call.to_owned(), answer.to_owned())
    };
    let (there, here): (Vec<_>, Vec<_>) =
        (there.lines().map(split).collect(), here.lines().map(split).collect());
    let mut differences = Vec::new();
    for at in 0..there.len().max(here.len()) {
        let none = (String::new(), "nothing more".to_owned());
        let (there, here) = (there.get(at).unwrap_or(&none), here.get(at).unwrap_or(&none));
        if there.0 != here.0 {
            let joined = |line: &(String, String)| format!("{}{ARROW}{}", line.0, line.1);
            differences.push(("other calls from here".into(), joined(there), joined(here)));
            break;
        }
        if there.1 != here.1 {
            differences.push((there.0.clone(), there.1.clone(), here.1.clone()));
        }
    }
    differences
}

fn trees(there: &Path, here: &Path, when: &str) -> Vec<Difference> {
    let (there, here) = (snapshot(there), snapshot(here));
    let none = "nothing".to_owned();
    let paths: BTreeMap<&String, ()> = there.keys().chain(here.keys()).map(|at| (at, ())).collect();
    let sides = paths.keys().map(|at| (at, there.get(*at), here.get(*at)));
    let differ = sides.filter(|(_, there, here)| there != here);
    differ
        .map(|(at, there, here)| {
            let text = |side: Option<&String>| side.unwrap_or(&none).clone();
            (format!("{when}{at}"), text(there), text(here))
        })
        .collect()
}

/// What is not as it should be, for people; empty when all is.
fn report(ground: &Ground, found: &[(Case, Vec<Difference>)]) -> String {
    let mut text = String::new();
    for (case, differences) in found {
        let known = known(case.name, ground.kind);
        let is_known =
            |difference: &&Difference| known.iter().any(|known| known.is_of(&difference.0));
        let news: Vec<&Difference> = differences.iter().filter(|one| !is_known(one)).collect();
        for (call, there, here) in news.iter().take(MOST_SHOWN) {
            text += &format!("{}: {call}\n    plain: {there}\n    mount: {here}\n", case.name);
        }
        if news.len() > MOST_SHOWN {
            text += &format!("{}: and {} more\n", case.name, news.len() - MOST_SHOWN);
        }
        for known in known.iter().filter(|known| known.occurs == Occurs::Always) {
            if !differences.iter().any(|difference| known.is_of(&difference.0)) {
                text += &format!(
                    "{}: '{}' no longer differs: take it off KNOWN_DIFFERENCES\n",
                    case.name, known.call
                );
            }
        }
    }
    text
}
