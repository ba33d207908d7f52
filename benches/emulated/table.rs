//! Results for a terminal: a row for each figure, a column for each contender.

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::contender::Contender;
use super::contest::Outcome;
use crate::common::statistics::{Spread, spread};

/// One number of a result.
struct Figure {
    name: &'static str,
    value: fn(&Outcome) -> Option<f64>,
    digits: usize,
}

const fn figure(name: &'static str, digits: usize, value: fn(&Outcome) -> Option<f64>) -> Figure {
    Figure { name, value, digits }
}

const FIGURES: &[Figure] = &[
    figure("MB/s, until all is on the disk", 1, |got| Some(got.bytes as f64 / got.synced_s / 1e6)),
    figure("writers ended: first, s", 1, |got| Some(got.first_writer_s)),
    figure("writers ended: last, s", 1, |got| Some(got.last_writer_s)),
    figure("handed to the filesystem, s", 1, |got| Some(got.carried_s)),
    figure("on the disk, s", 1, |got| Some(got.synced_s)),
    figure("write(): median, us", 1, |got| Some(got.write_median_s * 1e6)),
    figure("write(): 99.9%, ms", 2, |got| Some(got.write_p999_s * 1e3)),
    figure("write(): 99.99%, ms", 2, |got| Some(got.write_p9999_s * 1e3)),
    figure("write(): longest, ms", 0, |got| Some(got.write_longest_s * 1e3)),
    figure("write(): longest of slow writers, ms", 0, |got| {
        got.write_longest_slow_s.map(|longest| longest * 1e3)
    }),
    figure("reader: MB/s", 1, |got| got.reading.map(|read| read.bytes as f64 / read.took_s / 1e6)),
    figure("reader: longest read of 1 MiB, ms", 0, |got| {
        got.reading.map(|read| read.longest_s * 1e3)
    }),
    figure("slowest/fastest, middle half", 3, |got| Some(got.fairness.middle_half)),
    figure("slowest/fastest, at the first end", 3, |got| Some(got.fairness.at_first_end)),
    figure("seeks per GB", 0, |got| Some(got.counters.seeks as f64 / got.gigabytes())),
    figure("seek time, s", 2, |got| Some(got.counters.seek_time.as_secs_f64())),
    figure("disk idle, s", 2, |got| {
        Some((got.synced_s - got.counters.busy().as_secs_f64()).max(0.0))
    }),
    figure("extents per file: mean", 1, |got| Some(got.extents_mean)),
    figure("extents per file: most", 0, |got| Some(f64::from(got.extents_most))),
    figure("processors per GB: machine, s [1]", 2, |got| Some(got.machine_cpu_s / got.gigabytes())),
    figure("processors per GB: processes, s [2]", 2, |got| {
        Some(got.processes_cpu_s / got.gigabytes())
    }),
    figure("memory at most: processes, MB [3]", 0, |got| {
        Some(got.memory.processes_bytes as f64 / 1e6)
    }),
    figure("memory at most: dirty pages, MB [4]", 0, |got| {
        Some(got.memory.kernel_bytes as f64 / 1e6)
    }),
    figure("memory at most: both at a time, MB", 0, |got| Some(got.memory.both_bytes as f64 / 1e6)),
    figure("machine: wakes late by 2 ms, of 1000 [5]", 1, |got| {
        got.lateness.map(|lateness| lateness.late_per_thousand())
    }),
    figure("machine: latest wake, ms [5]", 1, |got| got.lateness.map(|late| late.longest_s * 1e3)),
];

/// How the figures that need it were got.
pub const NOTES: &str = "\
[1] what all processors of the machine did (/proc/stat), without the processes of the disk and of \
the benchmark;
    what else runs here, and the kernel's threads for the disk, are in it
[2] of that the writers and the contender's processes
[3] of the contender, not of the writers: private memory, and what its processes share once
[4] dirty pages of the whole machine and those on their way to a disk, beyond what there was before
[5] of a thread at real-time priority that is to wake every millisecond: what delays it delays all, \
whoever carries their bytes";

/// All results, against what one sequential writer got in bytes a second. Of several rounds the
/// median and the range.
pub fn table(results: &[Outcome], sequential_rate: f64) -> Table {
    let contenders = contenders(results);
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED);
    let names = contenders.iter().map(|contender| contender.name().to_owned());
    table.set_header(std::iter::once(String::new()).chain(names));
    let mut row = |name: &str, digits, value: &dyn Fn(&Outcome) -> Option<f64>| {
        if results.iter().all(|got| value(got).is_none()) {
            return;
        }
        let cells = contenders.iter().map(|&contender| {
            let values = results.iter().filter(|got| got.contender == contender);
            cell(values.filter_map(value).collect(), digits)
        });
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    };
    row("rate, of sequential", 3, &|got| Some(got.bytes as f64 / got.synced_s / sequential_rate));
    for Figure { name, value, digits } in FIGURES {
        row(name, *digits, value);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Those that were measured, in the order in which they first were.
pub fn contenders<'a>(results: impl IntoIterator<Item = &'a Outcome>) -> Vec<Contender> {
    let mut contenders = Vec::new();
    for Outcome { contender, .. } in results {
        if !contenders.contains(contender) {
            contenders.push(*contender);
        }
    }
    contenders
}

fn cell(values: Vec<f64>, digits: usize) -> String {
    let count = values.len();
    match spread(values) {
        None => String::new(),
        Some(Spread { median, .. }) if count == 1 => format!("{median:.digits$}"),
        Some(Spread { least, median, most }) => {
            format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
        }
    }
}
