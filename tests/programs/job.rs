//! A job: a bash file that defines `job`, which leaves files in the current directory, and may
//! define `check`, which looks at them once more.
//!
//! Its head says in comments:
//!
//! | line | meaning |
//! |---|---|
//! | `# Goal:` | what is tested |
//! | `# Needs:` | programs without which it is ignored; `a\|b` when either will do |
//! | `# Runs:` | ways of mounting, see `WAYS` |
//! | `# Differs:` | patterns of files whose content is never twice the same, and why |
//! | `# Skips:` | patterns of files that are not compared at all, and why |
//! | `# Planned:` | what coalescefs cannot do yet: the job is ignored |
//!
//! After ` -- ` follows the reason. In a pattern `*` stands for anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::text;

/// Bounds a job that hangs, in seconds; each takes a few.
const LIMIT: &str = "300";

/// A file of `jobs/`.
#[derive(Clone)]
pub struct Job {
    pub name: String,
    file: PathBuf,
    needs: Vec<String>,
    pub runs: Vec<String>,
    pub differs: Vec<String>,
    pub skips: Vec<String>,
    planned: Option<String>,
}

/// Where a job runs.
pub struct Place {
    name: &'static str,
    pub dir: PathBuf,
    /// A directory of its own beside it, not mounted.
    outside: PathBuf,
}

impl Place {
    pub fn new(name: &'static str, dir: PathBuf) -> Place {
        let outside = dir.with_extension("outside");
        fs::create_dir_all(&outside).unwrap();
        Place { name, dir, outside }
    }
}

/// What a job file defines.
pub enum Part {
    Job,
    Check,
}

impl Job {
    /// All, by name.
    pub fn all() -> Vec<Job> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder().join("jobs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
            .collect();
        files.sort();
        files.iter().map(|file| Job::read(file)).collect()
    }

    fn read(file: &Path) -> Job {
        let content = fs::read_to_string(file).unwrap();
        let head = |key: &str| {
            let start = format!("# {key}: ");
            let mut lines = content.lines().take_while(|line| line.starts_with('#'));
            lines.find_map(|line| line.strip_prefix(&start).map(str::to_owned))
        };
        let words = |key: &str| -> Vec<String> {
            let line = head(key).unwrap_or_default();
            let words = line.split(" -- ").next().unwrap().split_whitespace();
            words.map(str::to_owned).collect()
        };
        assert!(head("Goal").is_some(), "{} has no goal", file.display());
        assert!(!words("Runs").is_empty(), "{} does not say how it runs", file.display());
        Job {
            name: file.file_stem().unwrap().to_string_lossy().into_owned(),
            file: file.to_owned(),
            needs: words("Needs"),
            runs: words("Runs"),
            differs: words("Differs"),
            skips: words("Skips"),
            planned: head("Planned"),
        }
    }

    /// Why the job cannot run here, if it cannot.
    pub fn cannot_run(&self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).exists());
        let missing = self.needs.iter().find(|names| !names.split('|').any(is_there));
        let missing = missing.map(|name| format!("{name} is not installed"));
        missing.or_else(|| self.planned.as_ref().map(|what| format!("planned: {what}")))
    }

    /// Runs a part, which must succeed; returns what it said, with the directory's name taken out.
    pub fn run(&self, part: Part, place: &Place) -> String {
        let call = match part {
            Part::Job => "job",
            Part::Check => "check",
        };
        let script = format!("source \"$PRELUDE\"; source \"$JOB\"; {call}");
        let output = Command::new("timeout")
            .args(["-k", "5", LIMIT, "bash", "-c", &script])
            .env("PRELUDE", folder().join("prelude.sh"))
            .env("JOB", &self.file)
            .env("OUTSIDE", &place.outside)
            .current_dir(&place.dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{call} on the {}: {}", place.name, text(&output));
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.replace(place.outside.to_str().unwrap(), "OUTSIDE");
        said.replace(place.dir.to_str().unwrap(), "HERE")
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}
