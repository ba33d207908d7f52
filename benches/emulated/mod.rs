//! A disk with seeks, for benchmarks: a filesystem on a loop device on a file whose reads and
//! writes take as long as [`model`] says.
//!
//! The disk is a process of its own, which is the benchmark's program again: it ends, with its
//! mounts and its loop device, when the benchmark does, however that ends. Orders are lines on its
//! standard input, each answered by a line of JSON.

pub mod check;
pub mod contender;
pub mod contest;
pub mod disk;
pub mod fairness;
pub mod lateness;
pub mod load;
pub mod medium;
pub mod model;
pub mod place;
pub mod plot;
pub mod progress;
pub mod reader;
pub mod record;
pub mod scatter;
pub mod table;
pub mod usage;
pub mod watch;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use model::{Counters, Drive};
use place::Place;

/// The first argument of the process that is to be the disk; the second is a [`Setup`].
pub const SERVE: &str = "--serve-disk";

/// What is to be made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The disk.
    pub drive: Drive,
    /// What is on it.
    pub filesystem: Kind,
}

/// The filesystem on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl Kind {
    /// As it is called everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        }
    }
}

/// How long requests take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As long as the model says.
    Modelled,
    /// No time: for what is not measured.
    Instant,
}

/// A mounted disk; taken away by `Drop`.
pub struct Disk {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    place: Option<Place>,
}

impl Disk {
    /// Makes and mounts it. `Err` says what is missing.
    pub fn start(setup: &Setup) -> Result<Disk, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .arg(SERVE)
            .arg(serde_json::to_string(setup).expect("plain numbers"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the disk's process: {error}"))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut disk = Disk { child, orders, answers, place: None };
        disk.place = Some(disk.answer::<Result<Place, String>>()??);
        Ok(disk)
    }

    /// The root of its filesystem.
    pub fn path(&self) -> &Path {
        &self.place.as_ref().expect("it was started").mountpoint
    }

    /// The most dirty pages the kernel may keep for it from now on; no limit but the machine's if
    /// there is none.
    pub fn limit_dirty(&self, bytes: Option<u64>) -> Result<(), String> {
        self.place.as_ref().expect("it was started").limit_dirty(bytes)
    }

    /// What it has taken of the processors so far, not counting the kernel's part of it.
    pub fn cpu_time(&self) -> Duration {
        crate::common::process::process_time(self.child.id())
    }

    /// What it has done since it was made.
    pub fn counters(&mut self) -> Result<Counters, String> {
        self.order("counters")
    }

    /// From now on.
    pub fn set_pace(&mut self, pace: Pace) -> Result<(), String> {
        self.order(match pace {
            Pace::Modelled => "modelled",
            Pace::Instant => "instant",
        })
    }

    fn order<T: DeserializeOwned>(&mut self, order: &str) -> Result<T, String> {
        let orders = self.orders.as_mut().expect("open until Drop");
        writeln!(orders, "{order}").map_err(|error| format!("the disk's process: {error}"))?;
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        read.map_err(|error| format!("the disk's process: {error}"))?;
        serde_json::from_str(&line).map_err(|_| "the disk's process has ended".to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.orders.take());
        let ended = self.child.wait();
        // Unless it could not: then its requests are answered with errors by now.
        if let Some(place) = &self.place
            && !ended.is_ok_and(|status| status.success())
        {
            place.take_away();
        }
    }
}
