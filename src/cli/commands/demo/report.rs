//! The result of the demo: one table, and what it means in words. Pure, no measuring here.

use std::fmt;

use comfy_table::CellAlignment;
use indicatif::{HumanBytes, HumanCount};

use super::measure::DeviceWrites;
use crate::cli::trial::frame::Frame;
use crate::cli::trial::record::RECORD_BYTES;

/// What both runs had to do.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Files written at the same time.
    pub streams: u32,
    /// Records in each.
    pub records: u64,
    /// Main memory of the machine.
    pub machine_memory_bytes: u64,
}

/// Below this share of main memory the kernel keeps written data for its 30 seconds by default
/// (vm.dirty_background_ratio).
const CACHED_SHARE: u64 = 10;

impl Workload {
    fn total_records(&self) -> u64 {
        u64::from(self.streams) * self.records
    }

    fn total_bytes(&self) -> u64 {
        self.total_records() * RECORD_BYTES as u64
    }
}

/// A number of writes and what they wrote together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writes {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub bytes: u64,
}

impl Writes {
    fn mean_bytes(&self) -> u64 {
        self.bytes.checked_div(self.count).unwrap_or(0)
    }
}

impl From<DeviceWrites> for Writes {
    fn from(device: DeviceWrites) -> Writes {
        Writes { count: device.requests, bytes: device.bytes }
    }
}

/// What one run measured; `None` where it could not be measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// write() calls of the programs.
    pub write_calls: Option<u64>,
    /// What the backing files received.
    pub backing: Option<Writes>,
    /// Runs of consecutive writes to one file.
    pub turns: Option<Writes>,
    /// What the device of the directory received, from everybody.
    pub device: Option<Writes>,
    /// The longest write() of the stream that times itself.
    pub longest_write_ms: f64,
    /// The longest of those that slept, and not only lost the processor.
    pub longest_sleep_ms: f64,
    /// The longest time one FIFO held up the splitter.
    pub longest_wait_ms: f64,
    /// Until the script had ended.
    pub script_ms: f64,
    /// Until everything was on disk.
    pub on_disk_ms: f64,
    /// Mean over the outputs.
    pub extents: Option<f64>,
}

/// Both runs.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Common to both.
    pub workload: Workload,
    /// Without a mount.
    pub straight: Figures,
    /// With it.
    pub through: Figures,
}

impl Report {
    /// The table.
    pub fn table(&self, frame: Frame) -> String {
        let mut table = frame.table();
        table.set_header(["", "straight", "through coalescefs"]);
        let records = HumanCount(self.workload.total_records()).to_string();
        let bytes = HumanBytes(self.workload.total_bytes()).to_string();
        table.add_row([format!("records of {RECORD_BYTES} bytes"), records.clone(), records]);
        table.add_row(["bytes".to_owned(), bytes.clone(), bytes]);
        let mut row = |name: &str, value: &dyn Fn(&Figures) -> String| {
            table.add_row([name.to_owned(), value(&self.straight), value(&self.through)]);
        };
        row("write() calls of the programs", &|run| match run.write_calls {
            Some(calls) => HumanCount(calls).to_string(),
            None => "one per record".to_owned(),
        });
        row("writes to the backing files", &|run| count(run.backing));
        row("  mean size", &|run| mean(run.backing));
        row("turns of one file at a time", &|run| count(run.turns));
        row("  mean size", &|run| mean(run.turns));
        row("writes to the device (all users)", &|run| count(run.device));
        row("  mean size", &|run| mean(run.device));
        row("longest write() of one stream", &|run| milliseconds(run.longest_write_ms));
        row("  of those that slept", &|run| milliseconds(run.longest_sleep_ms));
        row("longest wait for one FIFO", &|run| milliseconds(run.longest_wait_ms));
        row("time until the script ended", &|run| seconds(run.script_ms));
        row("time until all is on disk", &|run| seconds(run.on_disk_ms));
        row("extents of an output, mean", &|run| {
            run.extents.map_or_else(unknown, |extents| format!("{extents:.1}"))
        });
        for column in [1, 2] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }
}

fn unknown() -> String {
    "-".to_owned()
}

fn count(writes: Option<Writes>) -> String {
    writes.map_or_else(unknown, |writes| HumanCount(writes.count).to_string())
}

fn mean(writes: Option<Writes>) -> String {
    writes.map_or_else(unknown, |writes| HumanBytes(writes.mean_bytes()).to_string())
}

fn milliseconds(ms: f64) -> String {
    format!("{ms:.1} ms")
}

fn seconds(ms: f64) -> String {
    format!("{:.2} s", ms / 1e3)
}

impl fmt::Display for Report {
    /// What the table means.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { workload, straight, through } = self;
        let streams = workload.streams;
        writeln!(
            out,
            "All {streams} files are the same in both runs, and right, byte for byte: {}.",
            HumanBytes(workload.total_bytes())
        )?;
        if let (Some(one), Some(other)) = (straight.backing, through.backing) {
            let fewer = one.count as f64 / other.count.max(1) as f64;
            writeln!(
                out,
                "{} writes of {} to {streams} files at once became {} of {}: {fewer:.0} to one.",
                HumanCount(one.count),
                HumanBytes(one.mean_bytes()),
                HumanCount(other.count),
                HumanBytes(other.mean_bytes()),
            )?;
        }
        if let Some(turns) = through.turns {
            writeln!(
                out,
                "The files were written in turn, {} of one file before the next.",
                HumanBytes(turns.mean_bytes())
            )?;
        }
        let ratio = through.on_disk_ms / straight.on_disk_ms.max(1.0);
        let compared = match ratio {
            ratio if ratio < 0.95 => format!("{:.0}% sooner than", (1.0 - ratio) * 100.0),
            ratio if ratio > 1.05 => format!("{:.0}% later than", (ratio - 1.0) * 100.0),
            _ => "about as soon as".to_owned(),
        };
        writeln!(out, "Through coalescefs everything was on disk {compared} without it.")?;
        if workload.total_bytes() < workload.machine_memory_bytes / CACHED_SHARE {
            writeln!(
                out,
                "So little data fits into memory, and the processors set the pace, not the disk:\n\
                 a larger --bytes, or a --dir on a slower disk, shows more."
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let workload = Workload { streams: 41, records: 1000, machine_memory_bytes: 1 << 30 };
        let straight = Figures {
            write_calls: Some(41_003),
            backing: Some(Writes { count: 41_003, bytes: 410_000 }),
            turns: None,
            device: Some(Writes { count: 10, bytes: 409_600 }),
            longest_write_ms: 12.345,
            longest_sleep_ms: 1.5,
            longest_wait_ms: 0.0,
            script_ms: 1000.0,
            on_disk_ms: 2000.0,
            extents: Some(1.5),
        };
        let through = Figures {
            write_calls: None,
            backing: Some(Writes { count: 41, bytes: 41 << 20 }),
            turns: Some(Writes { count: 0, bytes: 0 }),
            device: None,
            on_disk_ms: 1500.0,
            extents: None,
            ..straight
        };
        Report { workload, straight, through }
    }

    /// The cells of the row that begins with `name`.
    fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
        let line = table.lines().find(|line| line.contains(name)).unwrap();
        line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).skip(1).collect()
    }

    #[test]
    fn every_figure_is_in_its_column() {
        let table = report().table(Frame::Ascii);
        assert_eq!(row(&table, "records of"), ["41,000", "41,000"]);
        assert_eq!(row(&table, "write() calls of"), ["41,003", "one per record"]);
        assert_eq!(row(&table, "backing files"), ["41,003", "41"]);
        assert_eq!(row(&table, "turns of"), ["-", "0"]);
        assert_eq!(row(&table, "to the device"), ["10", "-"]);
        assert_eq!(row(&table, "longest write()"), ["12.3 ms", "12.3 ms"]);
        assert_eq!(row(&table, "that slept"), ["1.5 ms", "1.5 ms"]);
        assert_eq!(row(&table, "on disk"), ["2.00 s", "1.50 s"]);
        assert_eq!(row(&table, "extents"), ["1.5", "-"]);
    }

    #[test]
    fn the_table_fits_a_terminal_of_80_columns() {
        for frame in [Frame::Ascii, Frame::Utf8] {
            let table = report().table(frame);
            let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= 80, "{widest}\n{table}");
        }
    }

    #[test]
    fn the_words_follow_the_figures() {
        let mut report = report();
        let words = report.to_string();
        assert!(words.contains("became 41 of 1.00 MiB: 1000 to one"), "{words}");
        assert!(words.contains("on disk 25% sooner than without"), "{words}");
        assert!(words.contains("So little data"), "{words}");
        report.workload.machine_memory_bytes = 1 << 20;
        assert!(!report.to_string().contains("So little data"));
        report.through.on_disk_ms = 3000.0;
        assert!(report.to_string().contains("on disk 50% later"));
        report.through.on_disk_ms = 2010.0;
        assert!(report.to_string().contains("on disk about as soon as without"));
        report.through.backing = None;
        assert!(!report.to_string().contains("became"));
    }
}
