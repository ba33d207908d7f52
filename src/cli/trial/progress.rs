//! What the demo is doing, on standard error: a spinner at a terminal, else a line a stage.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows one stage at a time.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Chooses by what standard error is.
    pub fn new() -> Progress {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .expect("the template is constant and was tried");
            let spinner = ProgressBar::new_spinner().with_style(style);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Progress { spinner }
    }

    /// A line that stays.
    pub fn note(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| say(line)),
            None => say(line),
        }
    }

    /// What takes time now.
    pub fn stage(&self, message: String) {
        match &self.spinner {
            Some(spinner) => {
                spinner.set_message(message);
                spinner.reset_elapsed();
            }
            None => say(&message),
        }
    }
}

/// A line on standard error. Unlike `eprintln!` it does not care whether anybody reads it: a panic
/// would leave behind what was started.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
