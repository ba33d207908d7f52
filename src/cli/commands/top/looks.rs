//! Asks the daemon again and again, on threads of its own.

use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::cli::exit::CliError;
use crate::cli::units;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{FileStatus, Status};
use crate::mount::mountinfo::{Mount, MountTable};

/// What is not taken at once is a slow terminal's: the thread then waits.
const NEWS_MAX: usize = 4;

/// A mount at some moment.
#[derive(Clone, Debug)]
pub struct Look {
    pub status: Status,
    /// Fullest first.
    pub files: Vec<FileStatus>,
}

/// What comes from the threads.
pub enum News {
    Look(Box<Look>),
    /// A line for the user.
    Said(String),
    /// The mount is gone.
    Ended,
}

/// The threads that ask about a mount.
pub struct Looks {
    pub news: Receiver<News>,
    sender: Sender<Ask>,
}

struct Ask {
    id: u64,
    path: PathBuf,
}

impl Looks {
    /// Takes the first look, and goes on as long as somebody takes what comes. `Err` when the daemon
    /// cannot be asked.
    pub fn start(mount: Mount, interval: Duration) -> Result<Looks, CliError> {
        let first = look(&mount).map_err(|error| CliError::Failed(error.to_string()))?;
        let (tell, news) = bounded(NEWS_MAX);
        let (sender, asked) = bounded(NEWS_MAX);
        // What does not fit is said by the next one.
        let _ = tell.try_send(News::Look(Box::new(first)));
        let (watched, answers) = (mount.clone(), tell.clone());
        std::thread::spawn(move || watch(&watched, interval, &tell));
        // Another one: a flush waits as long as the disk hangs.
        std::thread::spawn(move || flush_all(&mount, &asked, &answers));
        Ok(Looks { news, sender })
    }

    /// Has a file stored; says so when it is.
    pub fn flush(&self, id: u64, path: PathBuf) {
        // Full: those before are not stored yet.
        let _ = self.sender.try_send(Ask { id, path });
    }
}

fn look(mount: &Mount) -> Result<Look, ClientError> {
    let mut client = Client::connect_to(mount.clone())?;
    let files = client.files()?;
    Ok(Look { status: client.status().clone(), files })
}

fn watch(mount: &Mount, interval: Duration, tell: &Sender<News>) {
    loop {
        std::thread::sleep(interval);
        let news = match look(mount) {
            Ok(look) => News::Look(Box::new(look)),
            Err(_) if !is_there(mount) => News::Ended,
            Err(error) => News::Said(error.to_string()),
        };
        if tell.send(news).is_err() {
            return;
        }
    }
}

fn is_there(mount: &Mount) -> bool {
    MountTable::read().is_ok_and(|table| table.has(mount.device, &mount.mount_point))
}

fn flush_all(mount: &Mount, asked: &Receiver<Ask>, tell: &Sender<News>) {
    for Ask { id, path } in asked {
        let path = units::printable(&path.to_string_lossy());
        let text = match Client::connect_to(mount.clone()).and_then(|mut c| c.drain(Some(id))) {
            Ok(files) if files.is_empty() => format!("{path} is on disk"),
            Ok(_) => format!("{path} could not be stored"),
            Err(error) => format!("{path}: {error}"),
        };
        if tell.send(News::Said(text)).is_err() {
            return;
        }
    }
}
