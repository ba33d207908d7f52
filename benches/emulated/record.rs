//! Results in a file: JSON lines, first what was measured and where, then each outcome as it comes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Kind;
use super::contest::Outcome;
use super::load::Load;
use super::model::Drive;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Run(Box<Run>),
    Outcome(Box<Outcome>),
}

/// What was measured, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// When it began, in UTC.
    pub date: String,
    /// Of this program, with the commit.
    pub version: String,
    /// The arguments.
    pub options: Vec<String>,
    /// Of the machine.
    pub machine: Machine,
    /// On the disk.
    pub filesystem: Kind,
    /// The disk.
    pub drive: Drive,
    /// What was written.
    pub load: Load,
    /// Whether somebody read from the disk meanwhile.
    pub reader: bool,
    /// What each contender might hold.
    pub memory_bytes: u64,
    /// What one sequential writer got, in bytes a second.
    pub sequential_rate: f64,
}

/// What it ran on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its name and release.
    pub kernel: String,
    /// As it calls itself.
    pub processor: String,
    /// How many.
    pub processors: usize,
    /// All of it.
    pub memory_bytes: u64,
    /// What limits dirty pages where nothing else does.
    pub dirty_limits: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let kernel = format!("Linux {}", text("/proc/sys/kernel/osrelease").trim());
        let total = word_after(&text("/proc/meminfo"), "MemTotal:");
        let kib: u64 = total.trim_end_matches(" kB").parse().unwrap_or(0);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let names =
            ["dirty_bytes", "dirty_ratio", "dirty_background_bytes", "dirty_background_ratio"];
        let limits = names.map(|name| (name, text(&format!("/proc/sys/vm/{name}"))));
        let are_set = limits.iter().filter(|(_, value)| value.trim() != "0");
        let limits: Vec<_> =
            are_set.map(|(name, value)| format!("vm.{name} = {}", value.trim())).collect();
        Machine {
            kernel,
            processor: word_after(&text("/proc/cpuinfo"), "model name")
                .trim_matches([':', ' '])
                .into(),
            processors,
            memory_bytes: kib * 1024,
            dirty_limits: limits.join(", "),
        }
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn word_after(text: &str, name: &str) -> String {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.unwrap_or_default().trim().to_owned()
}

/// The package's, with the commit if it is built in its repository.
pub fn version() -> String {
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--tags"]);
    let commit = git.output().ok().filter(|output| output.status.success());
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    commit.map_or_else(
        || env!("CARGO_PKG_VERSION").to_owned(),
        |commit| format!("{}-{commit}", env!("CARGO_PKG_VERSION")),
    )
}

/// Now, in UTC.
pub fn date() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// All that is in such a file.
pub fn read(path: &Path) -> Result<(Run, Vec<Outcome>), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let (mut first, mut outcomes) = (None, Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line).map_err(|error| failed(&error))? {
            Line::Run(run) => first = Some(*run),
            Line::Outcome(outcome) => outcomes.push(*outcome),
        }
    }
    first.map(|run| (run, outcomes)).ok_or_else(|| failed(&"no results of this benchmark"))
}

/// A file that is being written.
pub struct Record {
    path: PathBuf,
    file: File,
}

impl Record {
    /// A new file in `dir`, which is made if it is not there.
    pub fn create(dir: &Path, run: &Run) -> Result<Record, String> {
        let name = format!("{}-{}.jsonl", run.date.replace(':', "-"), run.filesystem.name());
        let path = dir.join(name);
        let file = fs::create_dir_all(dir).and_then(|()| File::create(&path));
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        let mut record = Record { path, file };
        record.add(&Line::Run(Box::new(run.clone())))?;
        Ok(record)
    }

    /// Adds an outcome, which is in the file then.
    pub fn push(&mut self, outcome: &Outcome) -> Result<(), String> {
        self.add(&Line::Outcome(Box::new(outcome.clone())))
    }

    fn add(&mut self, line: &Line) -> Result<(), String> {
        let text = serde_json::to_string(line).expect("numbers and text");
        writeln!(self.file, "{text}").map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
