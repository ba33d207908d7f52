//! The result of the benchmark: tables, the reasons of what is recommended, and what the figures
//! do not tell; or the same as JSON. Pure, no measuring here.

use std::fmt::Write as _;
use std::path::PathBuf;

use comfy_table::CellAlignment;
use serde::Serialize;
use serde_json::{Value, json};

use super::device::Device;
use super::fit::ServiceTime;
use super::recommend::{Because, CHUNK_BYTES, POSITIONING_SHARE, Recommendation};
use super::writers::Load;
use crate::cli::trial::frame::Frame;
use crate::cli::units;

/// Below this share of main memory the kernel keeps written data for its 30 seconds by default
/// (vm.dirty_background_ratio).
const CACHED_SHARE: u64 = 10;
/// Batches of one size that differ by more than this were disturbed.
const SPREAD_MAX: f64 = 1.5;

/// One run of the writers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    /// Until the last writer had closed its file.
    pub writers_ms: f64,
    /// Until everything was on the disk.
    pub on_disk_ms: f64,
    /// The longest write() of all writers.
    pub longest_write_ms: f64,
    /// The longest of those that slept, and not only lost the processor.
    pub longest_sleep_ms: f64,
}

/// Both runs, or why there are none.
#[derive(Clone, Debug)]
pub enum Case {
    /// They were made.
    Compared {
        /// Without a mount.
        straight: Run,
        /// With the one that is recommended.
        through: Run,
    },
    /// No mount can be made here, and this is why.
    NoMount(String),
}

/// All that is to be said.
#[derive(Clone, Debug)]
pub struct Report {
    /// The directory.
    pub dir: PathBuf,
    /// Its filesystem, as mount tables name it.
    pub filesystem: String,
    /// Whether that is memory and no disk.
    pub in_memory: bool,
    /// Main memory of the machine.
    pub machine_memory_bytes: u64,
    /// The most that was to be written.
    pub size_bytes: u64,
    /// What the disk takes.
    pub device: Device,
    /// The same as a line.
    pub service: ServiceTime,
    /// What the writers wrote in each run.
    pub load: Load,
    /// What that took.
    pub case: Case,
    /// What to give to `mount`.
    pub recommendation: Recommendation,
}

impl Report {
    /// To be copied.
    pub fn command(&self) -> String {
        let Recommendation { chunk_bytes, memory_bytes, .. } = self.recommendation;
        let (chunk, memory) = (units::option_size(chunk_bytes), units::option_size(memory_bytes));
        let dir = units::shell_word(&self.dir.to_string_lossy());
        format!("coalescefs mount --chunk {chunk} --memory {memory} {dir}")
    }

    /// For people: tables and what they mean.
    pub fn text(&self, frame: Frame) -> String {
        let mut text = self.device_table(frame);
        text.push('\n');
        match &self.case {
            Case::Compared { straight, through } => {
                text.push_str(&self.case_table(frame, straight, through));
                text.push('\n');
            }
            Case::NoMount(why) => line(&mut text, &format!("Not compared with a mount: {why}")),
        }
        text.push('\n');
        for words in self.reasons() {
            line(&mut text, &words);
        }
        line(&mut text, &format!("\n    {}\n", self.command()));
        line(&mut text, "What this does not tell:");
        for words in self.caveats() {
            line(&mut text, &format!("- {words}"));
        }
        text
    }

    fn device_table(&self, frame: Frame) -> String {
        let mut table = frame.table();
        let disk = format!("disk of {} ({})", self.dir.display(), self.filesystem);
        table.set_header([&units::printable(&disk), "time", "rate"]);
        for turns in &self.device.turns {
            let name = format!("{} of one file, then the next", units::size(turns.bytes));
            table.add_row([
                name,
                milliseconds(turns.ms),
                rate(turns.bytes as f64 / turns.ms * 1e3),
            ]);
        }
        let positioning = milliseconds(self.service.positioning_s * 1e3);
        table.add_row(["going to another file (fitted)", &positioning, "-"]);
        table.add_row(["one long write (fitted)", "-", &rate(self.service.bytes_per_s)]);
        table.add_row(["one block and fdatasync", &milliseconds(self.device.sync_ms), "-"]);
        right(&mut table, &[1, 2]);
        table.trim_fmt()
    }

    fn case_table(&self, frame: Frame, straight: &Run, through: &Run) -> String {
        let Load { writers, record_bytes, .. } = self.load;
        let mut table = frame.table();
        let bytes = units::size(self.load.bytes());
        let what = format!("{writers} writers, {bytes}, {record_bytes} bytes a write()");
        table.set_header([&what, "straight", "coalescefs", "ratio"]);
        let mut row = |name: &str, value: &dyn Fn(&Run) -> f64, show: &dyn Fn(f64) -> String| {
            let (one, other) = (value(straight), value(through));
            table.add_row([name.to_owned(), show(one), show(other), ratio(other, one)]);
        };
        row("time until the writers ended", &|run| run.writers_ms, &seconds);
        row("time until all is on disk", &|run| run.on_disk_ms, &seconds);
        row("longest write() of all", &|run| run.longest_write_ms, &milliseconds);
        row("  of those that slept", &|run| run.longest_sleep_ms, &milliseconds);
        right(&mut table, &[1, 2, 3]);
        table.trim_fmt()
    }

    /// Why it is so much, a line for each option.
    fn reasons(&self) -> [String; 2] {
        let Recommendation { chunk_bytes, memory_bytes, memory_because, overload_s, .. } =
            self.recommendation;
        let share = self.recommendation.positioning_share;
        let bound = match chunk_bytes {
            _ if share <= POSITIONING_SHARE => "5% or less is aimed at",
            bytes if bytes == CHUNK_BYTES.1 => "no turn is longer",
            _ => "longer turns of so many files do not fit into memory",
        };
        let chunk = format!(
            "--chunk {}: going to another file then costs {:.1}% of the time;\n  {bound}.",
            units::option_size(chunk_bytes),
            share * 100.0,
        );
        let why = match memory_because {
            Because::Chunks => format!("two chunks for each of {} writers", self.load.writers),
            Because::Overload => "as --overload says".to_owned(),
            Because::Machine => "a quarter of RAM or half of what is free, and no more".to_owned(),
        };
        let memory = format!(
            "--memory {}: {why};\n  writers twice as fast as the disk fill it in {overload_s:.1} s.",
            units::option_size(memory_bytes),
        );
        [chunk, memory]
    }

    /// What the figures hide.
    fn caveats(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.in_memory {
            words.push("This filesystem is memory: there is no disk to measure.".to_owned());
        }
        if !self.device.direct {
            words.push("O_DIRECT is refused here: turns went through the page cache.".to_owned());
        }
        let cached = self.machine_memory_bytes / CACHED_SHARE;
        let is_compared = matches!(self.case, Case::Compared { .. });
        if is_compared {
            words.push(
                "A mount has its --memory beside the page cache: that alone lets writers\n  end \
                 sooner. Until all is on disk is the fairer time."
                    .to_owned(),
            );
        }
        if is_compared && self.load.bytes() < cached {
            words.push(format!(
                "The {} of the writers fit into the page cache, and the processors set\n  the pace: \
                 the ratios are what a mount costs them. What it does for a disk that\n  falls \
                 behind shows with more, --size {} or above.",
                units::size(self.load.bytes()),
                units::option_size((cached * 4).next_multiple_of(1 << 30)),
            ));
        }
        words.push(
            "A cache that has not to obey fdatasync, of a RAID controller or a hypervisor,\n  \
             answers for the disk: a --size well above what it holds shows the disk."
                .to_owned(),
        );
        words.push("The files lay side by side: seeks over a full disk are longer.".to_owned());
        let spread = self.device.spread();
        if spread > SPREAD_MAX {
            words.push(format!(
                "Equal turns took up to {spread:.1} times as long as others: somebody else uses the\n  \
                 disk or the machine, or a cache answered. Run it again."
            ));
        } else {
            words
                .push("What others do on this machine is in the figures: run it twice.".to_owned());
        }
        words
    }

    /// For programs: sizes in bytes, times as named.
    pub fn json(&self) -> Value {
        let (straight, through, no_mount) = match &self.case {
            Case::Compared { straight, through } => (json!(straight), json!(through), Value::Null),
            Case::NoMount(why) => (Value::Null, Value::Null, json!(why)),
        };
        json!({
            "dir": self.dir,
            "filesystem": self.filesystem,
            "size_bytes": self.size_bytes,
            "device": self.device,
            "service_time": self.service,
            "load": {
                "writers": self.load.writers,
                "record_bytes": self.load.record_bytes,
                "bytes": self.load.bytes(),
            },
            "straight": straight,
            "through": through,
            "no_mount": no_mount,
            "recommendation": self.recommendation,
            "command": self.command(),
            "caveats": self.caveats(),
        })
    }
}

fn line(text: &mut String, words: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{words}");
}

fn right(table: &mut comfy_table::Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn milliseconds(ms: f64) -> String {
    match ms {
        0.0 => "none".to_owned(),
        _ if ms < 1.0 => format!("{ms:.3} ms"),
        _ => format!("{ms:.1} ms"),
    }
}

fn seconds(ms: f64) -> String {
    format!("{:.2} s", ms / 1e3)
}

fn rate(bytes_per_s: f64) -> String {
    format!("{}/s", units::size(bytes_per_s as u64))
}

/// Of the second to the first; nothing where there is nothing to compare with.
fn ratio(other: f64, one: f64) -> String {
    if one > 0.0 { format!("{:.2}", other / one) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::device::Turns;
    use super::super::recommend::{Demand, recommend};
    use super::*;

    fn report() -> Report {
        let turns = |bytes: u64, ms: f64| Turns {
            bytes,
            count: 3,
            ms,
            fastest_ms: ms,
            slowest_ms: ms * 1.2,
        };
        let service = ServiceTime { positioning_s: 0.008, bytes_per_s: 100e6 };
        let demand = Demand { writers: 40, overload_s: 10.0, usable_memory_bytes: 8 << 30 };
        let straight = Run {
            writers_ms: 1000.0,
            on_disk_ms: 4000.0,
            longest_write_ms: 100.0,
            longest_sleep_ms: 0.0,
        };
        Report {
            dir: "/data/out".into(),
            filesystem: "ext4".to_owned(),
            in_memory: false,
            machine_memory_bytes: 16 << 30,
            size_bytes: 512 << 20,
            device: Device {
                direct: true,
                sync_ms: 20.0,
                turns: vec![turns(128 << 10, 9.3), turns(8 << 20, 91.9)],
                written_bytes: 256 << 20,
            },
            service,
            load: Load { writers: 40, record_bytes: 10, bytes_each: 3_355_440 },
            case: Case::Compared {
                straight,
                through: Run { on_disk_ms: 2000.0, longest_write_ms: 25.0, ..straight },
            },
            recommendation: recommend(&service, &demand),
        }
    }

    /// The cells of the row that begins with `name`.
    fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).skip(1).collect()
    }

    #[test]
    fn every_figure_is_in_its_column() {
        let text = report().text(Frame::Ascii);
        assert_eq!(row(&text, "8 MiB of one file"), ["91.9 ms", "87.05 MiB/s"]);
        assert_eq!(row(&text, "going to another"), ["8.0 ms", "-"]);
        assert_eq!(row(&text, "one long write"), ["-", "95.37 MiB/s"]);
        assert_eq!(row(&text, "writers ended"), ["1.00 s", "1.00 s", "1.00"]);
        assert_eq!(row(&text, "on disk"), ["4.00 s", "2.00 s", "0.50"]);
        assert_eq!(row(&text, "longest write()"), ["100.0 ms", "25.0 ms", "0.25"]);
        assert_eq!(row(&text, "that slept"), ["none", "none", "-"]);
        assert!(text.contains("\n    coalescefs mount --chunk 16M --memory 1280M /data/out\n"));
    }

    #[test]
    fn the_text_fits_a_terminal_of_80_columns() {
        let demand = Demand { writers: 1000, overload_s: 10.0, usable_memory_bytes: 9 << 30 };
        let mut large = report();
        large.recommendation = recommend(&large.service, &demand);
        large.load.writers = 1000;
        for (frame, report) in [(Frame::Ascii, &large), (Frame::Utf8, &report())] {
            let text = report.text(frame);
            let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(widest.chars().count() <= 80, "{widest}");
        }
    }

    #[test]
    fn what_is_doubtful_is_said() {
        let mut report = report();
        let text = report.text(Frame::Ascii);
        assert!(text.contains("fit into the page cache"), "{text}");
        for words in ["O_DIRECT is refused", "is memory", "Run it again", "Not compared"] {
            assert!(!text.contains(words), "{text}");
        }
        report.device.direct = false;
        report.device.turns[0].slowest_ms = 100.0;
        report.in_memory = true;
        report.case = Case::NoMount("because".to_owned());
        let text = report.text(Frame::Ascii);
        for words in ["O_DIRECT is refused", "is memory", "Run it again", "with a mount: because"] {
            assert!(text.contains(words), "{text}");
        }
        assert!(!text.contains("fit into the page cache"), "{text}");
    }

    #[test]
    fn json_has_what_the_text_has() {
        let mut report = report();
        let value = report.json();
        assert_eq!(value["through"]["on_disk_ms"], 2000.0);
        assert_eq!(value["recommendation"]["chunk_bytes"], 16 << 20);
        assert_eq!(value["recommendation"]["memory_because"], "chunks");
        assert!(value["no_mount"].is_null());
        report.case = Case::NoMount("because".to_owned());
        assert_eq!(report.json()["no_mount"], "because");
        assert!(report.json()["straight"].is_null());
    }
}
