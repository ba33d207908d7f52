//! The worker's end of the control socket.
//!
//! One thread accepts, one short-lived thread answers each connection; both may wait for clients,
//! so nothing else in the worker waits for them. What is answered comes from a [`Source`]. Only
//! root and the daemon's own user are answered: names of files and ending the mount are theirs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::peer;
use super::protocol::{Answer, FileStatus, Request, Status};

/// Connections answered at the same time; more wait in the socket's queue. Enough for people and
/// scripts, and a bound for what a wild client costs.
const CONNECTIONS_MAX: usize = 16;
/// Longest request line. Requests are a few dozen bytes.
const REQUEST_BYTES_MAX: u64 = 4096;
/// A connection may be silent for so long before it is closed.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that stopped reading is given up after this: unmounting must not wait for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last answers to be sent.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause after a failed accept, which is a lack of descriptors or memory: it passes.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the server answers with.
pub trait Source: Send + Sync {
    /// State of the mount. May not wait for the disk.
    fn status(&self) -> Status;

    /// The files that hold data or have an error, fullest first.
    fn files(&self) -> Vec<FileStatus>;

    /// Has `program` take over. Calls `tell` with [`Answer::Upgrading`] before that begins, or with
    /// the error that prevents it.
    fn upgrade(&self, program: &Path, tell: &mut dyn FnMut(Answer));

    /// Gives up what of a file is not stored; waits for what is on its way to the disk.
    fn discard(&self, id: u64, force: bool) -> Answer;

    /// Stores and syncs one file, by its inode number, or all; the mount goes on. Calls `progress` as
    /// [`Source::umount`] does, and stops when that returns `false`.
    fn drain(&self, id: Option<u64>, progress: &mut dyn FnMut(Answer) -> bool);

    /// Drains and unmounts; with `discard` also when something cannot be stored. Calls `progress` with [`Answer::Progress`] several times a second and
    /// last with the final answer. `progress` returns `false` when nobody listens any more; the
    /// source then decides whether to go on.
    fn umount(&self, discard: bool, progress: &mut dyn FnMut(Answer) -> bool);
}

#[derive(Default)]
struct Load {
    connections: usize,
    /// Connections whose request is being answered.
    answering: usize,
}

static LOAD: Mutex<Load> = Mutex::new(Load { connections: 0, answering: 0 });
static LOAD_CHANGED: Condvar = Condvar::new();

fn load() -> MutexGuard<'static, Load> {
    LOAD.lock().expect("nothing under this lock panics")
}

/// Answers clients for the rest of the process's life. `listener_fd` stays open whatever happens:
/// the next worker goes on with it.
pub fn serve(listener_fd: RawFd, source: Arc<dyn Source>) {
    // SAFETY: a listening socket that stays open as long as the process; ManuallyDrop because it
    // is not ours to close.
    let listener = ManuallyDrop::new(unsafe { UnixListener::from_raw_fd(listener_fd) });
    loop {
        wait_for_free_connection();
        match listener.accept() {
            Ok((stream, _)) => answer_in_thread(stream, source.clone()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                log::warn!("control socket: {error}");
                std::thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

/// Waits until the answers begun are sent, some seconds at most. For the end of the process.
pub fn wait_for_clients() {
    // The result only says whether the time was up.
    let _ =
        LOAD_CHANGED.wait_timeout_while(load(), LAST_ANSWERS_TIMEOUT, |load| load.answering > 0);
}

fn wait_for_free_connection() {
    let waited = LOAD_CHANGED.wait_while(load(), |load| load.connections >= CONNECTIONS_MAX);
    drop(waited.expect("nothing under this lock panics"));
}

/// Counts itself in one of the figures of [`Load`] as long as it lives.
struct Counted(fn(&mut Load) -> &mut usize);

impl Counted {
    fn new(figure: fn(&mut Load) -> &mut usize) -> Counted {
        *figure(&mut load()) += 1;
        Counted(figure)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *(self.0)(&mut load()) -= 1;
        LOAD_CHANGED.notify_all();
    }
}

fn answer_in_thread(stream: UnixStream, source: Arc<dyn Source>) {
    let counted = Counted::new(|load| &mut load.connections);
    let thread = std::thread::Builder::new().name("client".into()).spawn(move || {
        let _counted = counted;
        // An error here is a client that went away.
        if let Err(error) = answer_connection(stream, &*source) {
            log::debug!("control connection: {error}");
        }
    });
    if let Err(error) = thread {
        log::warn!("control connection refused: {error}");
    }
}

fn answer_connection(stream: UnixStream, source: &dyn Source) -> io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let uid = peer::of(&stream)?.uid;
    if uid != 0 && uid != peer::own_uid() {
        let message = "only root and the user who made the mount may ask".to_owned();
        return send(&stream, &Answer::Failed { message });
    }
    let mut requests = BufReader::new(&stream);
    while let Some(line) = read_line(&mut requests)? {
        let _answering = Counted::new(|load| &mut load.answering);
        match serde_json::from_slice(&line) {
            Ok(request) => answer(request, &stream, source)?,
            Err(error) => {
                let message = format!("request not understood: {error}");
                send(&stream, &Answer::Failed { message })?;
            }
        }
    }
    Ok(())
}

fn answer(request: Request, stream: &UnixStream, source: &dyn Source) -> io::Result<()> {
    match request {
        Request::Status => send(stream, &Answer::Status(Box::new(source.status()))),
        Request::Files => send(stream, &Answer::Files { files: source.files() }),
        Request::Upgrade { program } => {
            // Nobody who listens needs not be told; what begins goes on.
            source.upgrade(&program, &mut |answer| drop(send(stream, &answer)));
            Ok(())
        }
        Request::Discard { id, force } => send(stream, &source.discard(id, force)),
        Request::Drain { id } => {
            source.drain(id, &mut |answer| send(stream, &answer).is_ok());
            Ok(())
        }
        Request::Umount { discard } => {
            source.umount(discard, &mut |answer| send(stream, &answer).is_ok());
            Ok(())
        }
    }
}

/// One line without its end; `None` at the end of the stream. `Err(InvalidData)` when too long.
fn read_line(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    from.take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn send(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
