//! What is shown, and what keys change of it. Pure: no terminal, no clock.

use std::path::PathBuf;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::looks::Look;
use crate::cli::units;
use crate::control::protocol::FileStatus;
use crate::stats::slow;

/// In which order files are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Fullest first.
    #[default]
    Backlog,
    /// Oldest first.
    Age,
    /// By name.
    Name,
    /// Those that cannot be stored first.
    Error,
}

impl Sort {
    fn next(self) -> Sort {
        match self {
            Sort::Backlog => Sort::Age,
            Sort::Age => Sort::Name,
            Sort::Name => Sort::Error,
            Sort::Error => Sort::Backlog,
        }
    }

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Sort::Backlog => "backlog",
            Sort::Age => "age",
            Sort::Name => "name",
            Sort::Error => "error",
        }
    }
}

/// What a key asks for beyond a change of the view.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    None,
    Quit,
    /// Have this file stored.
    Flush {
        id: u64,
        path: PathBuf,
    },
}

/// The state of the screen.
#[derive(Default)]
pub struct View {
    before: Option<Look>,
    now: Option<Look>,
    pub sort: Sort,
    pub filter: String,
    /// Keys go to the filter.
    pub is_typing: bool,
    selected: usize,
    pub message: String,
}

impl View {
    /// A new look at the mount.
    pub fn take(&mut self, look: Look) {
        self.before = self.now.replace(look);
        self.selected = self.selected();
    }

    /// A line for the user, until the next key.
    pub fn say(&mut self, message: String) {
        self.message = message;
    }

    /// The last look.
    pub fn now(&self) -> Option<&Look> {
        self.now.as_ref()
    }

    /// The lines at the top.
    pub fn summary(&self) -> Vec<String> {
        self.now.as_ref().map(|now| summary(now, self.before.as_ref())).unwrap_or_default()
    }

    /// The files that are shown, in their order.
    pub fn rows(&self) -> Vec<&FileStatus> {
        let Some(now) = &self.now else { return Vec::new() };
        let is_wanted =
            |file: &&FileStatus| file.path.to_string_lossy().contains(self.filter.as_str());
        let mut rows: Vec<&FileStatus> = now.files.iter().filter(is_wanted).collect();
        match self.sort {
            // As they come.
            Sort::Backlog => {}
            Sort::Age => rows.sort_by_key(|file| std::cmp::Reverse(file.oldest_age_ms)),
            Sort::Name => rows.sort_by(|a, b| a.path.cmp(&b.path)),
            Sort::Error => rows.sort_by_key(|file| file.error.is_none()),
        }
        rows
    }

    /// Which of the rows is chosen.
    pub fn selected(&self) -> usize {
        self.selected.min(self.rows().len().saturating_sub(1))
    }

    /// A key was pressed.
    pub fn press(&mut self, key: KeyEvent) -> Action {
        self.message.clear();
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Action::Quit,
            code if self.is_typing => self.type_filter(code),
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected().saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected += 1;
                self.selected = self.selected();
            }
            KeyCode::Char('f') => return self.flush(),
            _ => {}
        }
        Action::None
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
        self.selected = 0;
    }

    fn flush(&mut self) -> Action {
        let chosen = self.rows().get(self.selected()).map(|file| (file.id, file.path.clone()));
        let Some((id, path)) = chosen else { return Action::None };
        self.message = format!("flushing {}", units::printable(&path.to_string_lossy()));
        Action::Flush { id, path }
    }
}

/// What holds for the mount as a whole: a line each.
pub fn summary(now: &Look, before: Option<&Look>) -> Vec<String> {
    let (size, time) = (units::size, units::duration_ms);
    let status = &now.status;
    let recent = &status.recent;
    let rate = |bytes: u64, ms: u64| format!("{}/s", size(bytes.saturating_mul(1000) / ms.max(1)));
    let received = before.map_or_else(
        || "?".to_owned(),
        |before| {
            let bytes = status.bytes_in.saturating_sub(before.status.bytes_in);
            rate(bytes, status.uptime_ms.saturating_sub(before.status.uptime_ms))
        },
    );
    let mountpoint = status.config.mountpoint.to_string_lossy();
    let slowness = slow::explain(status, before.map(|before| &before.status));
    vec![
        format!("{}  up {}", units::printable(&mountpoint), time(status.uptime_ms)),
        format!(
            "backlog {} in {} files, oldest {}; {} open",
            size(status.backlog_bytes),
            status.streams,
            status.oldest_age_ms.map_or_else(|| "none".to_owned(), time),
            status.open_files
        ),
        format!(
            "in {received}, out {} (disk busy {}%)",
            rate(recent.bytes, recent.window_ms),
            slow::busy_percent(status)
        ),
        format!(
            "stalled {} writes, longest ever {}; errors in {} files",
            status.waiting_writes,
            match status.longest_wait_ms {
                0 => "none".to_owned(),
                wait_ms => time(wait_ms),
            },
            status.errors.len()
        ),
        format!("slow: {}", units::printable(&slowness.in_words(size, time))),
    ]
}

/// What each lane does: a line each.
pub fn lanes(now: &Look) -> Vec<String> {
    let describe = |lane: &crate::control::protocol::LaneStatus| {
        format!(
            "lane {}: {:>10}/s  {} for {} at {}",
            lane.lane,
            units::size(lane.bytes_per_s),
            units::size(lane.range.length),
            units::duration_ms(lane.for_ms),
            units::printable(&lane.path.to_string_lossy())
        )
    };
    let lanes: Vec<String> = now.status.lanes.iter().map(describe).collect();
    if lanes.is_empty() { vec!["lanes: idle".to_owned()] } else { lanes }
}

#[cfg(test)]
#[path = "view_tests.rs"]
pub mod tests;
