//! Pictures of results that were kept: bars of the figures that count, and how far each writer was
//! when.

use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

use super::contender::Contender;
use super::contest::Outcome;
use super::record::{self, Run};
use super::table::contenders;
use crate::common::statistics::{Spread, spread};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

const FONT: &str = "sans-serif";
const WIDTH: u32 = 900;
const BARS_HEIGHT: u32 = 260;
const PROGRESS_HEIGHT: u32 = 240;
const COLUMNS: usize = 3;
/// Ours, and the others.
const OURS: RGBColor = RGBColor(0x1b, 0x6c, 0xa8);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);

/// What a row of bars shows.
struct Bars {
    title: &'static str,
    value: fn(&Outcome, &Run) -> f64,
    /// What everything is compared with.
    line: Option<f64>,
}

const BARS: [Bars; 3] = [
    Bars {
        title: "Time until all is on the disk, of one sequential writer's (less is better)",
        value: |got, run| got.synced_s * run.sequential_rate / got.bytes as f64,
        line: Some(1.0),
    },
    Bars {
        title: "Longest write(), seconds (less is better)",
        value: |got, _| got.write_longest_s,
        line: None,
    },
    Bars {
        title: "Slowest writer, of the fastest, in the middle half (1 is fair)",
        value: |got, _| got.fairness.middle_half,
        line: Some(1.0),
    },
];

/// Draws what is in `files`, which must be of the same load on the same filesystem, beside the first
/// of them. Where the pictures are.
pub fn draw(files: &[PathBuf]) -> Result<[PathBuf; 2], String> {
    let mut results: Vec<(Run, Outcome)> = Vec::new();
    for file in files {
        let (run, outcomes) = record::read(file)?;
        if let Some((first, _)) = results.first()
            && (first.load, first.filesystem, first.memory_bytes, first.reader)
                != (run.load, run.filesystem, run.memory_bytes, run.reader)
        {
            return Err(format!("{}: measures something else than the first file", file.display()));
        }
        results.extend(outcomes.into_iter().map(|outcome| (run.clone(), outcome)));
    }
    let Some((run, _)) = results.first() else { return Err("--plot: no results".to_owned()) };
    let subject = subject(run);
    let picture = |kind: &str| {
        let stem = files[0].file_stem().unwrap_or_default().to_string_lossy();
        files[0].with_file_name(format!("{stem}-{kind}.svg"))
    };
    let paths = [picture("bars"), picture("progress")];
    draw_bars(&paths[0], &subject, &results).map_err(|error| format!("bars: {error}"))?;
    draw_progress(&paths[1], &subject, &results).map_err(|error| format!("progress: {error}"))?;
    Ok(paths)
}

fn subject(run: &Run) -> String {
    let mixed = if run.load.slow_rate.is_some() { ", half of them slow" } else { "" };
    let reader = if run.reader { ", with a reader" } else { "" };
    format!(
        "{} writers{mixed}, {} MB, records of {} bytes, {}, {} MiB of memory{reader}",
        run.load.writers,
        run.load.bytes() / 1_000_000,
        run.load.record,
        run.filesystem.name(),
        run.memory_bytes >> 20
    )
}

fn of(results: &[(Run, Outcome)]) -> Vec<Contender> {
    contenders(results.iter().map(|(_, outcome)| outcome))
}

fn colour(contender: Contender) -> RGBColor {
    if contender == Contender::Coalescefs { OURS } else { OTHERS }
}

fn canvas<'a>(
    path: &'a Path,
    subject: &str,
    height: u32,
) -> Result<Area<'a>, Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area.titled(subject, (FONT, 18))?)
}

fn draw_bars(path: &Path, subject: &str, results: &[(Run, Outcome)]) -> Drawn {
    let area = canvas(path, subject, BARS_HEIGHT * BARS.len() as u32)?;
    for (row, bars) in area.split_evenly((BARS.len(), 1)).iter().zip(&BARS) {
        draw_row(row, bars, results)?;
    }
    area.present()?;
    Ok(())
}

fn draw_row(area: &Area, bars: &Bars, results: &[(Run, Outcome)]) -> Drawn {
    let contenders = of(results);
    let values = contenders.iter().filter_map(|&contender| {
        let its = results.iter().filter(|(_, got)| got.contender == contender);
        spread(its.map(|(run, got)| (bars.value)(got, run)))
    });
    let values: Vec<Spread> = values.collect();
    let most = values.iter().map(|its| its.most).chain(bars.line).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(bars.title, (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(44)
        .build_cartesian_2d((0..contenders.len() - 1).into_segmented(), 0.0..most * 1.15)?;
    let name = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(at) => contenders.get(*at).map_or("", |who| who.name()).to_owned(),
        _ => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().x_label_formatter(&name).y_labels(6).light_line_style(WHITE).draw()?;
    for (at, (contender, its)) in contenders.iter().zip(&values).enumerate() {
        let (left, right) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
        let mut bar =
            Rectangle::new([(left, 0.0), (right, its.median)], colour(*contender).filled());
        bar.set_margin(0, 0, 14, 14);
        chart.draw_series([bar])?;
        let middle = || SegmentValue::CenterOf(at);
        chart.draw_series([PathElement::new(
            [(middle(), its.least), (middle(), its.most)],
            BLACK,
        )])?;
        let label = format!("{:.2}", its.median);
        let style = (FONT, 13).into_font();
        let above = EmptyElement::at((middle(), its.most)) + Text::new(label, (-12, -16), style);
        chart.draw_series([above])?;
    }
    if let Some(line) = bars.line {
        let ends = [SegmentValue::Exact(0), SegmentValue::Exact(contenders.len())];
        chart.draw_series([PathElement::new(ends.map(|end| (end, line)), BLACK.mix(0.5))])?;
    }
    Ok(())
}

/// The first round of each contender: lines cannot be averaged.
fn draw_progress(path: &Path, subject: &str, results: &[(Run, Outcome)]) -> Drawn {
    let contenders = of(results);
    let rows = contenders.len().div_ceil(COLUMNS);
    let area = canvas(path, subject, PROGRESS_HEIGHT * rows as u32 + 60)?;
    let title =
        "What each writer had written of its file, by seconds; the dark line: all on the disk";
    let area = area.titled(title, (FONT, 15))?;
    let until_s = results.iter().map(|(_, got)| got.synced_s).fold(0.0, f64::max);
    let panels = area.split_evenly((rows, COLUMNS));
    for (panel, contender) in panels.iter().zip(contenders) {
        let first = results.iter().find(|(_, got)| got.contender == contender);
        if let Some((run, got)) = first {
            draw_panel(panel, run, got, until_s)?;
        }
    }
    area.present()?;
    Ok(())
}

fn draw_panel(area: &Area, run: &Run, got: &Outcome, until_s: f64) -> Drawn {
    let mut chart = ChartBuilder::on(area)
        .caption(got.contender.name(), (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(36)
        .build_cartesian_2d(0.0..until_s * 1.02, 0.0..1.02)?;
    chart.configure_mesh().light_line_style(WHITE).x_labels(6).y_labels(5).draw()?;
    let on_disk = [(got.synced_s, 0.0), (got.synced_s, 1.02)];
    chart.draw_series([PathElement::new(on_disk, BLACK.mix(0.4).stroke_width(2))])?;
    for number in 0..run.load.writers as usize {
        let wanted = run.load.bytes_of(number as u64) as f64;
        let moments = got.progress.iter();
        let line = moments.map(|moment| (moment.at_s, moment.bytes[number] as f64 / wanted));
        chart.draw_series(LineSeries::new(line, colour(got.contender).mix(0.6)))?;
    }
    Ok(())
}
