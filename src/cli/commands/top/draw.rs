//! The screen: a summary, the lanes, the files, the keys. Drawn whole each time; ratatui sends what
//! has changed.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Gauge, Paragraph, Row, Table, TableState};

use super::view::{self, View};
use crate::cli::units;
use crate::control::protocol::FileStatus;

/// Lanes that are shown; more than one disk has is rare.
const LANES_MAX: usize = 4;
const BAR_CELLS: u64 = 16;
const KEYS: &str = "q quit  s sort  / filter  Esc all  j/k choose  f flush";

/// Draws the whole screen. Of 80 columns and 24 lines, 13 are files.
pub fn screen(frame: &mut Frame, view: &View) {
    let Some(now) = view.now() else { return };
    let summary = view.summary();
    let mut lanes = view::lanes(now);
    lanes.truncate(LANES_MAX);
    let [top, memory, middle, files, bottom] = Layout::vertical([
        Constraint::Length(summary.len() as u16),
        Constraint::Length(1),
        Constraint::Length(lanes.len() as u16),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let lines = |lines: Vec<String>| lines.into_iter().map(Line::from).collect::<Vec<_>>();
    frame.render_widget(Paragraph::new(lines(summary)), top);
    let (held, most) = (now.status.held_bytes, now.status.memory_bytes.max(1));
    let label = format!("memory {} of {}", units::size(held), units::size(most));
    let gauge = Gauge::default().label(label).ratio((held as f64 / most as f64).clamp(0.0, 1.0));
    frame.render_widget(gauge, memory);
    frame.render_widget(Paragraph::new(lines(lanes)), middle);
    let mut state = TableState::default().with_selected(Some(view.selected()));
    frame.render_stateful_widget(table(view), files, &mut state);
    frame.render_widget(Paragraph::new(footer(view)), bottom);
}

fn footer(view: &View) -> String {
    if view.is_typing {
        return format!("filter: {}_   Enter keeps it, Esc drops it", view.filter);
    }
    if !view.message.is_empty() {
        return view.message.clone();
    }
    let filter = match view.filter.as_str() {
        "" => String::new(),
        filter => format!(", with '{filter}'"),
    };
    format!("{KEYS}  (by {}{filter})", view.sort.word())
}

fn table(view: &View) -> Table<'static> {
    let rows = view.rows();
    let most = rows.iter().map(|file| file.backlog_bytes).max().unwrap_or(0);
    let reversed = Style::default().add_modifier(Modifier::REVERSED);
    let header = Row::new(["backlog", "", "oldest", "open", "file"]);
    let widths = [
        Constraint::Length(11),
        Constraint::Length(BAR_CELLS as u16),
        Constraint::Length(8),
        Constraint::Length(4),
        Constraint::Min(20),
    ];
    Table::new(rows.into_iter().map(|file| row(file, most)), widths)
        .header(header.style(Style::default().add_modifier(Modifier::BOLD)))
        .row_highlight_style(reversed)
}

fn row(file: &FileStatus, most: u64) -> Row<'static> {
    let path = units::printable(&file.path.to_string_lossy());
    let what = match &file.error {
        Some(error) => format!("{path}: {error}"),
        None => path,
    };
    Row::new([
        units::size(file.backlog_bytes),
        bar(file.backlog_bytes, most),
        file.oldest_age_ms.map_or_else(String::new, units::duration_ms),
        if file.open { "yes" } else { "no" }.to_owned(),
        what,
    ])
}

/// Plain characters: they are there in every terminal.
fn bar(bytes: u64, most: u64) -> String {
    let cells = u128::from(bytes) * u128::from(BAR_CELLS) / u128::from(most.max(1));
    "|".repeat(cells as usize)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::tests::{look, press};
    use super::*;

    fn picture(view: &View, columns: u16, lines: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| screen(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    /// Goal: everything that matters is on a screen of 80x24: rates, memory, lanes, files with bars,
    /// errors, keys.
    #[test]
    fn all_of_it_fits_on_a_small_screen() {
        let mut view = View::default();
        view.take(look());
        let picture = picture(&view, 80, 24);
        for part in [
            "/data/out  up 1m",
            "backlog 300 MiB in 3 files, oldest 12s",
            "out 100 MiB/s (disk busy 90%)",
            "stalled 7 writes, longest ever 150ms; errors in 1 files",
            "slow: the disk",
            "memory 900 MiB of 1 GiB",
            "lane 0:     90 MiB/s  8 MiB for 20ms at OUTPUT2",
            "200 MiB     |||||||||||||||| 5s       yes  OUTPUT2",
            "60 MiB      ||||             12s      no   OUTPUT10",
            "sub/bad: No space left",
            "q quit  s sort  / filter",
        ] {
            assert!(picture.contains(part), "no {part:?} in\n{picture}");
        }
    }

    /// Goal: sizes that make no sense draw something, and nothing panics.
    #[test]
    fn any_size_is_drawn() {
        let mut view = View::default();
        for (columns, lines) in [(80, 24), (1, 1), (20, 5), (300, 100), (80, 3)] {
            picture(&view, columns, lines);
            view.take(look());
            picture(&view, columns, lines);
        }
    }

    /// Goal: a name cannot draw on the terminal.
    #[test]
    fn names_are_shown_escaped() {
        let mut look = look();
        look.files[0].path = "a\u{1b}[2Jb\nc".into();
        let mut view = View::default();
        view.take(look);
        assert!(picture(&view, 80, 24).contains("a\\u{1b}[2Jb\\nc"));
    }

    #[test]
    fn what_is_typed_is_shown() {
        let mut view = View::default();
        view.take(look());
        press(&mut view, "/OUT");
        let picture = picture(&view, 80, 24);
        assert!(picture.contains("filter: OUT_"), "{picture}");
        assert!(!picture.contains("sub/bad"), "{picture}");
    }
}
