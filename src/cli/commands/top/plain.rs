//! The same in lines, for a file or a pipe: a block for each look, an empty line after it.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::looks::{Look, Looks, News};
use super::view;
use crate::cli::exit::CliError;
use crate::cli::units;

/// The fullest files that are shown.
const FILES_SHOWN: usize = 10;
/// How long a signal waits at most.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Prints until `count` looks are through, a signal comes, the reader goes away or the mount ends.
pub fn run(looks: &Looks, count: Option<u64>, ended: &AtomicBool) -> Result<(), CliError> {
    let mut before: Option<Look> = None;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 && !ended.load(Ordering::Relaxed) {
        let Ok(news) = looks.news.recv_timeout(LOOK_UP) else { continue };
        let text = match news {
            News::Ended => return Ok(()),
            News::Said(text) => format!("{text}\n\n"),
            News::Look(look) => {
                left -= 1;
                let text = block(&look, before.as_ref());
                before = Some(*look);
                text
            }
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(CliError::Failed(format!("standard output: {error}"))),
        }
    }
    Ok(())
}

fn block(now: &Look, before: Option<&Look>) -> String {
    let mut lines = view::summary(now, before);
    lines.extend(view::lanes(now));
    let mut text = lines.join("\n");
    for file in now.files.iter().take(FILES_SHOWN) {
        let age = file.oldest_age_ms.map_or_else(String::new, units::duration_ms);
        let path = units::printable(&file.path.to_string_lossy());
        let error = file.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{:>12} {age:>8}  {path}{error}", units::size(file.backlog_bytes));
    }
    text.push_str("\n\n");
    text
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::look;
    use super::*;

    #[test]
    fn a_block_has_the_summary_the_lanes_and_the_files() {
        let text = block(&look(), None);
        for part in
            ["backlog 300 MiB", "lane 0:", "     200 MiB       5s  OUTPUT2\n", "sub/bad: No"]
        {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(text.ends_with("\n\n"));
    }
}
