//! Goal: keys choose what is shown and asked for.

use std::path::Path;

use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::*;
use crate::config::MountConfig;
use crate::control::protocol::{ByteRange, LaneStatus, RecentDrain, Status};

const MIB: u64 = 1 << 20;

/// A mount that is held back by its disk; one of three files fails.
pub fn look() -> Look {
    let mut config = MountConfig::for_tests(Path::new("/data/out"), 1 << 30);
    config.chunk_bytes = MIB;
    let file = |id, path: &str, mib: u64, age_s: u64, open| FileStatus {
        id,
        path: path.into(),
        backlog_bytes: mib * MIB,
        oldest_age_ms: Some(age_s * 1000),
        open,
        ..FileStatus::default()
    };
    let mut bad = file(3, "sub/bad", 40, 3, true);
    bad.error = Some("No space left on device".into());
    let range = ByteRange { offset: 0, length: 8 * MIB };
    let lane = LaneStatus {
        lane: 0,
        device: String::new(),
        path: "OUTPUT2".into(),
        range,
        for_ms: 20,
        bytes_per_s: 90 * MIB,
    };
    let status = Status {
        uptime_ms: 60_000,
        backlog_bytes: 300 * MIB,
        streams: 3,
        oldest_age_ms: Some(12_000),
        held_bytes: 900 * MIB,
        memory_bytes: 1 << 30,
        waiting_writes: 7,
        longest_wait_ms: 150,
        bdi: "tuned".into(),
        errors: vec![bad.clone()],
        lanes: vec![lane],
        recent: RecentDrain {
            window_ms: 10_000,
            bytes: 1000 * MIB,
            busy_ms: 9000,
            writes: 100,
            turns: 50,
        },
        ..Status::of(config)
    };
    let files = vec![file(1, "OUTPUT2", 200, 5, true), file(2, "OUTPUT10", 60, 12, false), bad];
    Look { status, files }
}

/// Types letters.
pub fn press(view: &mut View, keys: &str) -> Action {
    let press = |letter| view.press(KeyEvent::from(KeyCode::Char(letter)));
    keys.chars().map(press).last().unwrap_or(Action::None)
}

fn shown(view: &View) -> Vec<u64> {
    view.rows().iter().map(|file| file.id).collect()
}

#[test]
fn files_are_sorted_and_filtered() {
    let mut view = View::default();
    view.take(look());
    assert_eq!(shown(&view), [1, 2, 3]);
    for (word, order) in [("age", [2, 1, 3]), ("name", [2, 1, 3]), ("error", [3, 1, 2])] {
        press(&mut view, "s");
        assert_eq!((view.sort.word(), shown(&view)), (word, order.to_vec()));
    }
    press(&mut view, "s/OUT");
    assert_eq!(shown(&view), [1, 2]);
    // Letters of commands are letters there.
    press(&mut view, "q");
    assert!(shown(&view).is_empty());
    view.press(KeyEvent::from(KeyCode::Backspace));
    view.press(KeyEvent::from(KeyCode::Enter));
    assert_eq!(shown(&view), [1, 2]);
    view.press(KeyEvent::from(KeyCode::Esc));
    assert_eq!(shown(&view), [1, 2, 3]);
}

#[test]
fn the_chosen_file_is_flushed() {
    let mut view = View::default();
    assert_eq!(press(&mut view, "f"), Action::None);
    view.take(look());
    let flush = |id, path: &str| Action::Flush { id, path: path.into() };
    assert_eq!(press(&mut view, "f"), flush(1, "OUTPUT2"));
    assert_eq!(view.message, "flushing OUTPUT2");
    assert_eq!(press(&mut view, "jf"), flush(2, "OUTPUT10"));
    // No further than the last, also when there are fewer than before.
    assert_eq!(press(&mut view, "jjjf"), flush(3, "sub/bad"));
    let mut fewer = look();
    fewer.files.truncate(1);
    view.take(fewer);
    assert_eq!(press(&mut view, "f"), flush(1, "OUTPUT2"));
}

#[test]
fn q_and_control_c_end_it() {
    let mut view = View::default();
    assert_eq!(press(&mut view, "q"), Action::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut view, "/");
    assert_eq!(view.press(control_c), Action::Quit);
}

/// Goal: what programs write is told of two looks, not of one; a time that never was is none.
#[test]
fn the_rate_of_programs_needs_two_looks() {
    let first = look();
    let mut second = look();
    second.status.bytes_in = 50 * MIB;
    second.status.uptime_ms += 500;
    assert!(summary(&first, None)[3].starts_with("stalled 7 writes, longest ever 150ms;"));
    second.status.longest_wait_ms = 0;
    assert!(summary(&second, None)[3].contains("longest ever none;"));
    assert!(summary(&first, None)[2].starts_with("in ?, out"));
    assert!(summary(&second, Some(&first))[2].starts_with("in 100 MiB/s, out"));
}
