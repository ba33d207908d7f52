//! Ending a mount as `umount` and `run` do: asks the daemon to drain and unmount, shows how far it
//! is, and returns when the daemon has really gone.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::exit::{CliError, complain};
use super::units;
use crate::control::client::{Client, UmountEnd};
use crate::control::protocol::FileStatus;
use crate::keeper::sys;
use crate::mount::mountinfo::MountTable;

/// A daemon that has said it is done only has to exit; the kernel gives back its memory.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at the mount table.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Less than this is not worth a bar or a line.
const QUIET: Duration = Duration::from_millis(250);
/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Files listed when they could not be stored.
const FILES_LISTED: usize = 20;

/// How an attempt to end a mount ended, when it was no error.
#[derive(Debug)]
pub enum End {
    /// Everything is on disk; mount and daemon are gone.
    Gone,
    /// They are gone, and this is lost: the error to report.
    Lost(CliError),
    /// It is in use and stays.
    Busy,
}

/// Drains and unmounts. `Err(NotStored)` lists the files that could not be written; the mount then
/// stays. With `discard` it goes, and they are lost.
pub fn unmount(client: &mut Client, discard: bool) -> Result<End, CliError> {
    let mountpoint = client.mount().mount_point.clone();
    let mut progress = Progress::new(&mountpoint);
    let end = client.umount(discard, |backlog_bytes| progress.show(backlog_bytes));
    progress.finish();
    match end.map_err(|error| CliError::Failed(error.to_string()))? {
        UmountEnd::Done => wait_until_gone(client).map(|()| End::Gone),
        UmountEnd::Busy => Ok(End::Busy),
        UmountEnd::NotStored(files) => Err(not_stored(&mountpoint, &files, Fate::Kept)),
        UmountEnd::Lost(files) => {
            wait_until_gone(client)?;
            Ok(End::Lost(not_stored(&mountpoint, &files, Fate::Lost)))
        }
        UmountEnd::Failed(message) => {
            Err(CliError::Failed(format!("{}: {message}", mountpoint.display())))
        }
    }
}

fn wait_until_gone(client: &Client) -> Result<(), CliError> {
    let mount = client.mount();
    // `Err` when it is gone, or of another process namespace: then only the mount can be watched.
    let keeper = sys::pidfd(client.status().keeper_pid).ok();
    let give_up = Instant::now() + EXIT_TIMEOUT;
    if let Some(keeper) = keeper {
        sys::poll([Some(keeper.as_fd())], Some(EXIT_TIMEOUT));
    }
    while Instant::now() < give_up {
        let table = MountTable::read()
            .map_err(|error| CliError::Failed(format!("/proc/self/mountinfo: {error}")))?;
        if !table.has(mount.device, &mount.mount_point) {
            return Ok(());
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    let path = mount.mount_point.display();
    Err(CliError::Failed(format!("{path}: the daemon has done its work, but does not end")))
}

/// Where data is that could not be written.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// In memory; a mount that was to end.
    Kept,
    /// In memory; the mount goes on.
    Waiting,
    /// Nowhere.
    Lost,
}

/// The error for data that could not be written: a line each for the first files.
pub fn not_stored(mountpoint: &Path, files: &[FileStatus], fate: Fate) -> CliError {
    let mut text = format!(
        "{}: {} could not be written; {}",
        mountpoint.display(),
        if files.len() == 1 { "a file".to_owned() } else { format!("{} files", files.len()) },
        match fate {
            Fate::Kept => {
                "the data is still in memory: make room or mend the disk and try again, or give it \
                 up with --discard"
            }
            Fate::Waiting => {
                "the data is still in memory: make room or mend the disk and try again, or give it \
                 up with 'coalescefs discard'"
            }
            Fate::Lost => "this is lost:",
        }
    );
    for file in files.iter().take(FILES_LISTED) {
        let what = file.describe(units::size, units::duration_ms);
        text.push_str(&format!("\n  {}", units::printable(&what)));
    }
    if files.len() > FILES_LISTED {
        text.push_str(&format!("\n  and {} more", files.len() - FILES_LISTED));
    }
    CliError::NotStored(text)
}

/// How far draining is: a bar on a terminal, else a line a second.
struct Progress {
    label: String,
    begun: Instant,
    total_bytes: u64,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    fn new(mountpoint: &Path) -> Progress {
        let now = Instant::now();
        let label = mountpoint.display().to_string();
        Progress { label, begun: now, total_bytes: 0, bar: None, last_line: now }
    }

    fn show(&mut self, backlog_bytes: u64) {
        // More may come in while it goes out.
        self.total_bytes = self.total_bytes.max(backlog_bytes);
        if self.begun.elapsed() < QUIET {
            return;
        }
        let done = self.total_bytes - backlog_bytes;
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| new_bar(&self.label));
            bar.set_length(self.total_bytes);
            bar.set_position(done);
            bar.set_message(rate_and_rest(done, backlog_bytes, self.begun.elapsed()));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let (done, total) = (units::size(done), units::size(self.total_bytes));
            complain(&format!("{}: {done} of {total} on disk", self.label));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The rate since the beginning and the time that the rest takes at it. The bar's own estimate is
/// far off at first: it does not know what was done before it was shown.
fn rate_and_rest(done_bytes: u64, left_bytes: u64, elapsed: Duration) -> String {
    let rate = done_bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let left = left_bytes as f64 / rate.max(1.0);
    format!("{}/s, {left:.0} s left", units::size(rate as u64))
}

fn new_bar(label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes} {msg}")
        .expect("a constant template");
    ProgressBar::no_length().with_style(style).with_prefix(label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left() {
        let text = rate_and_rest(10 << 20, 30 << 20, Duration::from_secs(2));
        assert_eq!(text, "5 MiB/s, 6 s left");
        assert!(rate_and_rest(0, 1 << 20, Duration::ZERO).starts_with("0 B/s"));
    }

    #[test]
    fn the_list_of_lost_files_is_bounded() {
        let file = FileStatus {
            id: 9,
            path: "a".into(),
            backlog_bytes: 1 << 20,
            oldest_age_ms: None,
            open: false,
            error: Some("No space left on device".into()),
            failure: None,
        };
        let text = not_stored(Path::new("/m"), std::slice::from_ref(&file), Fate::Kept).to_string();
        assert!(text.contains("a file") && text.contains("a: 1 MiB: No space left on device"));
        let text = not_stored(Path::new("/m"), &vec![file; 25], Fate::Lost).to_string();
        assert_eq!(text.lines().count(), 1 + FILES_LISTED + 1);
        assert!(text.ends_with("and 5 more"));
    }
}
