//! `coalescefs doctor`: what is wrong with the machine, a directory or a mount, and how to mend it.
//!
//! Changes nothing, and ends in any case: mounts of coalescefs are looked at in the mount table and
//! asked over their control socket, never touched; whatever may wait for another filesystem has
//! a limit.
//!
//! | file | what |
//! |---|---|
//! | `boot` | module, helpers and unit for mounts at boot |
//! | `machine` | kernel, /dev/fuse, helper, limits, memory |
//! | `mounts` | a mount: alive, dead, failing |
//! | `place` | a directory that is to be mounted over |

mod boot;
mod machine;
mod mounts;
mod place;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::cli::args::DoctorArgs;
use crate::cli::exit::{CliError, Exit};
use crate::cli::walk::{self, Found};
use crate::cli::{print, units};
use crate::mount::mountinfo::MountTable;

/// How a check ended. In the order of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, with less than it could.
    Warning,
    /// It does not work, or data is in danger.
    Problem,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    verdict: Verdict,
    /// What was looked at, in a word or two; or where.
    check: String,
    /// One line: how it is, and what to do.
    text: String,
}

impl Check {
    fn new(verdict: Verdict, check: &str, text: impl Into<String>) -> Check {
        Check { verdict, check: check.to_owned(), text: text.into() }
    }

    fn ok(check: &str, text: impl Into<String>) -> Check {
        Check::new(Verdict::Ok, check, text)
    }

    fn warning(check: &str, text: impl Into<String>) -> Check {
        Check::new(Verdict::Warning, check, text)
    }

    fn problem(check: &str, text: impl Into<String>) -> Check {
        Check::new(Verdict::Problem, check, text)
    }
}

/// Prints a line for each check.
pub fn run(args: &DoctorArgs) -> Result<Exit, CliError> {
    let table = MountTable::read()
        .map_err(|error| CliError::Failed(format!("/proc/self/mountinfo: {error}")))?;
    let checks = match &args.path {
        None => everything(&table),
        Some(path) => one_path(path, &table),
    };
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    print(&if args.json {
        format!("{:#}\n", json!({ "verdict": worst, "checks": checks }))
    } else {
        in_words(&checks)
    })?;
    Ok(if worst == Verdict::Problem { Exit::Problem } else { Exit::Ok })
}

fn everything(table: &MountTable) -> Vec<Check> {
    let mut checks = machine::look();
    checks.extend(boot::look(Path::new("/")));
    let mounts: Vec<_> = table.ours().cloned().collect();
    if mounts.is_empty() {
        checks.push(Check::ok("mounts", "no coalescefs mounts"));
    }
    checks.extend(mounts::look(mounts));
    checks
}

fn one_path(path: &Path, table: &MountTable) -> Vec<Check> {
    match walk::find(path, table) {
        Err(error) => vec![Check::problem(&path.display().to_string(), error.to_string())],
        Ok(Found::Mount(mount)) => mounts::look(vec![mount]),
        Ok(Found::InMount(mount)) => {
            let nested = format!(
                "{} lies in a coalescefs mount: a mount over it would hold every byte twice; use a \
                 directory outside",
                path.display()
            );
            let mut checks = vec![Check::warning("nested use", nested)];
            checks.extend(mounts::look(vec![mount]));
            checks
        }
        Ok(Found::Elsewhere(directory)) => place::look(&directory, table),
    }
}

fn in_words(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { verdict, check, text: says } in checks {
        let (check, says) = (units::printable(check), units::printable(says));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<7}  {check}: {says}", verdict.word());
    }
    text
}
