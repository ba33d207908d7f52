//! `coalescefs top`: a mount live, on a screen or in lines.
//!
//! | file | what |
//! |---|---|
//! | `looks` | asks the daemon, on a thread of its own: it may be slow to answer |
//! | `view` | pure: what is chosen by keys, and what is shown then |
//! | `draw` | the screen |
//! | `plain` | the lines |
//!
//! The terminal is put back whichever way it ends: by a key, a signal, an error or a panic.

mod draw;
mod looks;
mod plain;
mod view;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::{cursor, execute};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::args::TopArgs;
use crate::cli::exit::CliError;
use crate::control::client::find_mount;
use crate::mount::mountinfo::{Mount, MountTable};
use looks::{Looks, News};
use view::{Action, View};

/// How long a key or a signal waits at most.
const KEY_WAIT_MS: i32 = 100;

/// Watches a mount until a key or a signal ends it, or the mount is gone. `Err` when it cannot be
/// asked at all.
pub fn run(args: &TopArgs) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::Failed(format!("terminal: {error}"));
    let looks = Looks::start(choose(args)?, args.interval)?;
    let ended = end_by_signals().map_err(failed)?;
    if args.plain || args.count.is_some() || !io::stdout().is_terminal() {
        return plain::run(&looks, args.count, &ended);
    }
    let terminal = ratatui::try_init().map_err(failed)?;
    show_cursor_at_panic();
    let result = show(terminal, &looks, &ended);
    ratatui::restore();
    result.map_err(failed)
}

fn choose(args: &TopArgs) -> Result<Mount, CliError> {
    if let Some(path) = &args.mountpoint {
        return find_mount(path).map_err(|error| CliError::Failed(error.to_string()));
    }
    let table = MountTable::read()
        .map_err(|error| CliError::Failed(format!("/proc/self/mountinfo: {error}")))?;
    let mut mounts = table.ours().cloned();
    match (mounts.next(), mounts.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(CliError::Failed("no coalescefs mounts".to_owned())),
        _ => {
            let message = "there are several coalescefs mounts: say which, 'coalescefs status' \
                           lists them";
            Err(CliError::Usage(message.to_owned()))
        }
    }
}

/// Set when a signal asks for the end. A terminal in raw mode has Ctrl-C as a key.
fn end_by_signals() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, ended.clone())?;
    }
    Ok(ended)
}

/// The rest of the terminal is ratatui's to put back; the cursor it leaves to destructors, and a panic
/// has none here.
fn show_cursor_at_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // There is nobody left to be told.
        let _ = execute!(io::stdout(), cursor::Show);
        hook(info);
    }));
}

/// For a test of what a panic leaves. Builds without debug assertions have nothing of it.
fn panic_if_told() {
    if cfg!(debug_assertions) && std::env::var_os("COALESCEFS_TOP_PANICS").is_some() {
        panic!("told to");
    }
}

/// Where keys come from: crossterm takes the same.
fn keyboard() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    match stdin.is_terminal() {
        true => stdin.as_fd().try_clone_to_owned(),
        false => Ok(File::open("/dev/tty")?.into()),
    }
}

/// Waits for a key or a signal. Whether the terminal is still there: crossterm would read from one
/// that is gone for ever, whatever signal says so.
fn wait_for_key(keyboard: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: keyboard.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&mut poll, 1, KEY_WAIT_MS) };
    poll.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) == 0
}

fn show(mut terminal: DefaultTerminal, looks: &Looks, ended: &AtomicBool) -> io::Result<()> {
    let keyboard = keyboard()?;
    let mut view = View::default();
    while !ended.load(Ordering::Relaxed) {
        for news in looks.news.try_iter() {
            match news {
                News::Look(look) => view.take(*look),
                News::Said(text) => view.say(text),
                News::Ended => return Ok(()),
            }
        }
        terminal.draw(|frame| draw::screen(frame, &view))?;
        panic_if_told();
        if !wait_for_key(&keyboard) {
            return Ok(());
        }
        if !event::poll(Duration::ZERO)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match view.press(key) {
            Action::None => {}
            Action::Quit => return Ok(()),
            Action::Flush { id, path } => looks.flush(id, path),
        }
    }
    Ok(())
}
