//! Results for a terminal: a row for each figure, a column for each contender.

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::check::Figures;
use super::contest::Outcome;

/// One number of a result.
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Where it is.
    pub value: fn(&Outcome) -> Option<f64>,
    digits: usize,
}

const fn figure(name: &'static str, digits: usize, value: fn(&Outcome) -> Option<f64>) -> Figure {
    Figure { name, value, digits }
}

/// All that are printed.
pub const FIGURES: &[Figure] = &[
    figure("MB/s, until all is on the disk", 1, |got| Some(got.bytes as f64 / got.synced_s / 1e6)),
    figure("writers ended: first, s", 1, |got| Some(got.first_writer_s)),
    figure("writers ended: last, s", 1, |got| Some(got.last_writer_s)),
    figure("handed to the filesystem, s", 1, |got| Some(got.carried_s)),
    figure("on the disk, s", 1, |got| Some(got.synced_s)),
    figure("write(): median, us", 1, |got| Some(got.write_median_s * 1e6)),
    figure("write(): 99.9%, ms", 2, |got| Some(got.write_p999_s * 1e3)),
    figure("write(): 99.99%, ms", 2, |got| Some(got.write_p9999_s * 1e3)),
    figure("write(): longest, ms", 0, |got| Some(got.write_longest_s * 1e3)),
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
];

/// How the figures that need it were got.
pub const NOTES: &str = "\
[1] what all processors of the machine did (/proc/stat), without the processes of the disk and of \
the benchmark;
    what else runs here, and the kernel's threads for the disk, are in it
[2] of that the writers and the contender's processes
[3] of the contender, not of the writers: private memory, and what its processes share once
[4] dirty pages of the whole machine and those on their way to a disk, beyond what there was before";

/// All results, against what one sequential writer got.
pub fn table(results: &[Outcome], sequential: &Figures) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED);
    let names = results.iter().map(|got| got.contender.name().to_owned());
    table.set_header(std::iter::once(String::new()).chain(names));
    let of_sequential = results
        .iter()
        .map(|got| format!("{:.3}", got.bytes as f64 / got.synced_s / sequential.rate()));
    table.add_row(std::iter::once("rate, of sequential".to_owned()).chain(of_sequential));
    for Figure { name, value, digits } in FIGURES {
        let cells = results.iter().map(|got| match value(got) {
            Some(value) => format!("{value:.digits$}"),
            None => String::new(),
        });
        table.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
