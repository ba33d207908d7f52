//! A table for a terminal: a row for each figure, a column for each client.

use comfy_table::presets::{ASCII_FULL_CONDENSED, ASCII_MARKDOWN};
use comfy_table::{CellAlignment, Table};

use crate::setup::Client;
use crate::sim::Outcome;

const MIB: f64 = 1024.0 * 1024.0;

/// How a table looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// For a terminal.
    Plain,
    /// For a document.
    Markdown,
}

/// One number of an outcome.
struct Figure {
    name: &'static str,
    digits: usize,
    value: fn(&Outcome) -> Option<f64>,
}

const fn figure(name: &'static str, digits: usize, value: fn(&Outcome) -> Option<f64>) -> Figure {
    Figure { name, digits, value }
}

const FIGURES: &[Figure] = &[
    figure("written in all, GiB", 1, |it| Some(it.written_bytes as f64 / 1024.0 / MIB)),
    figure("written, of what programs want, %", 1, |it| {
        Some(100.0 * mean(&it.progress(&it.measured())))
    }),
    figure("slowest to fastest stream", 3, |it| Some(evenness(&it.progress(&it.measured())))),
    figure("slowest to fastest node", 3, |it| Some(evenness(&by_node(it)))),
    figure("requests to the engine, per second", 0, |it| {
        let measured = it.measured();
        Some(it.figures.requests as f64 / seconds(measured.end - measured.start))
    }),
    figure("request, KiB: mean", 1, |it| {
        let requests = it.figures.requests.max(1);
        Some(it.figures.request_bytes as f64 / requests as f64 / 1024.0)
    }),
    figure("request, KiB: median", 1, |it| {
        Some(it.figures.sizes.value_at_quantile(0.5) as f64 / 1024.0)
    }),
    figure("queue of a server, requests: mean", 2, |it| Some(it.figures.queued.mean())),
    figure("queue of a server, requests: 99%", 0, |it| {
        Some(it.figures.queued.value_at_quantile(0.99) as f64)
    }),
    figure("queue of a server, requests: most", 0, |it| Some(it.figures.queued.max() as f64)),
    figure("wait in it, ms: mean", 1, |it| Some(it.figures.waits_us.mean() / 1e3)),
    figure("wait in it, ms: 99%", 1, |it| {
        Some(it.figures.waits_us.value_at_quantile(0.99) as f64 / 1e3)
    }),
    figure("servers busy, %", 1, |it| {
        let measured = it.measured();
        let possible_us = (measured.end - measured.start) * it.setup.servers as u64;
        Some(100.0 * it.figures.busy_us() as f64 / possible_us as f64)
    }),
    figure("stored after, s: median", 3, |it| Some(age_s(it, 0.5))),
    figure("stored after, s: 99%", 3, |it| Some(age_s(it, 0.99))),
    figure("stored after, s: longest", 3, |it| Some(age_s(it, 1.0))),
    figure("all stored after the end, s", 1, |it| Some(seconds(it.settled_us - it.setup.end_us))),
    figure("memory of a node, MiB: mean", 1, |it| Some(it.figures.held_kib.mean() / 1024.0)),
    figure("memory of a node, MiB: most", 1, |it| Some(it.figures.held_kib.max() as f64 / 1024.0)),
    figure("lost, MiB", 1, |it| some_bytes(it.figures.lost_bytes)),
    figure("written twice, MiB", 1, |it| some_bytes(it.figures.repeated_bytes)),
    figure("meanwhile, files on the bad server: written, %", 1, |it| {
        meanwhile(it, true).map(|(mean, _)| mean)
    }),
    figure("meanwhile, other files: written, %", 1, |it| {
        meanwhile(it, false).map(|(mean, _)| mean)
    }),
    figure("meanwhile, other files: the slowest, %", 1, |it| {
        meanwhile(it, false).map(|(_, least)| least)
    }),
];

/// What a client is called.
pub fn name(client: Client) -> String {
    match client {
        Client::Direct => "no cache".to_owned(),
        Client::Cache { age_us } => format!("page cache, {} s", age_us / 1_000_000),
        Client::Coalesce { circuit: false } => "coalescefs".to_owned(),
        Client::Coalesce { circuit: true } => "coalescefs, deadlines".to_owned(),
    }
}

/// Outcomes of the same load with different clients.
pub fn table(outcomes: &[Outcome], style: Style) -> Table {
    let mut table = Table::new();
    table.load_style(match style {
        Style::Plain => ASCII_FULL_CONDENSED,
        Style::Markdown => ASCII_MARKDOWN,
    });
    let names = outcomes.iter().map(|outcome| name(outcome.setup.client));
    table.set_header(std::iter::once(String::new()).chain(names));
    for Figure { name, digits, value } in FIGURES {
        let values: Vec<_> = outcomes.iter().map(value).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let cell = |value: Option<f64>| value.map_or(String::new(), |it| format!("{it:.digits$}"));
        table.add_row(std::iter::once((*name).to_owned()).chain(values.into_iter().map(cell)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The smallest in relation to the largest.
fn evenness(values: &[f64]) -> f64 {
    least(values) / values.iter().copied().fold(f64::MIN_POSITIVE, f64::max)
}

fn by_node(outcome: &Outcome) -> Vec<f64> {
    outcome.progress(&outcome.measured()).chunks(outcome.setup.streams).map(mean).collect()
}

fn age_s(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.figures.ages_ms.value_at_quantile(quantile) as f64 / 1e3
}

fn some_bytes(bytes: u64) -> Option<f64> {
    (bytes > 0).then_some(bytes as f64 / MIB)
}

/// What streams wrote while the server was bad, of what they wanted, in percent: mean and least.
fn meanwhile(outcome: &Outcome, is_on_bad: bool) -> Option<(f64, f64)> {
    let progress = outcome.progress(&outcome.trouble()?);
    let of_kind = progress.iter().zip(&outcome.is_on_bad).filter(|(_, it)| **it == is_on_bad);
    let of_kind: Vec<f64> = of_kind.map(|(part, _)| 100.0 * part).collect();
    (!of_kind.is_empty()).then(|| (mean(&of_kind), least(&of_kind)))
}
