//! The process that serves the mount: puts filesystem, lanes, session and control together, and
//! ends the mount in order.
//!
//! Forked by the keeper with a shared descriptor table, so that what it opens outlives it. Threads:
//! `fuser-N` answer requests, `lane-N` write, `pool-N` wait for the disk, `control` answers the
//! command line, `wake` watches the keeper, `session` waits for the kernel to end the mount; this
//! one waits for both ends.
//!
//! The end: everything is drained while the mount still works, then the keeper is asked to
//! unmount, then what the unmounting itself brought is drained, and the backing filesystem synced.

mod engines;
mod wake;

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select, tick, unbounded};

use crate::arena::{Arena, Phase, UnmountMode};
use crate::backing::{self, KernelStorage};
use crate::clock::boottime_ms;
use crate::config::MountConfig;
use crate::control::protocol::{Answer, FileStatus, Status};
use crate::control::server::{self, Source};
use crate::fs::{Filesystem, GiveUp, Parts};
use crate::fuse;
use crate::keeper::{Estate, sys};
use crate::killpoint;
use crate::mount::privilege;
use wake::Successor;

/// What the keeper prepared before it forked the worker. The descriptors are in a table that
/// keeper and worker share (`CLONE_FILES`), so they stay open when the worker dies; none may be
/// closed by the worker.
#[derive(Debug)]
pub struct WorkerContext {
    /// The resolved options.
    pub config: Arc<MountConfig>,
    /// The shared memory.
    pub arena: Arena,
    /// `/dev/fuse`, mounted.
    pub fuse_fd: RawFd,
    /// The backing directory, opened before it was mounted over.
    pub backing_fd: RawFd,
    /// Listening control socket.
    pub listener_fd: RawFd,
    /// eventfd: the keeper wrote to the control page.
    pub wake_worker_fd: RawFd,
    /// eventfd: the worker wrote to the control page.
    pub wake_keeper_fd: RawFd,
    /// Readable when the keeper has ended.
    pub keeper_pidfd: RawFd,
    /// What the worker needs to take its place.
    pub estate: Estate,
}

/// Exit code of a worker that ended the mount with everything stored.
pub const EXIT_CLEAN: i32 = 0;
/// Exit code of a worker that ended with data that is not in the backing files.
pub const EXIT_NOT_STORED: i32 = 75;
/// Exit code of a worker that could not start.
pub const EXIT_FAILED: i32 = 1;

/// How often the backlog is looked at while draining.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// How often an end that had to wait is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A mount in use is tried again so often, after a pause each: a program that was just started
/// holds its parent's descriptors until it has begun, and one that ends until it is gone.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// After the mount is gone, data that cannot be written is tried for so long.
const LAST_TRIES: Duration = Duration::from_secs(30);

/// Serves the mount until it ends; returns the process's exit code.
pub fn run(context: WorkerContext) -> i32 {
    die_of_panics();
    match serve(&context) {
        Ok(code) => code,
        Err(error) => {
            log::error!("cannot serve {}: {error}", context.config.mountpoint.display());
            EXIT_FAILED
        }
    }
}

/// A panic is a bug in one place; going on with half the threads would be another in all. The next
/// worker finds the data whole.
fn die_of_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn serve(context: &WorkerContext) -> io::Result<i32> {
    let arena = context.arena;
    arena.control().set_phase(Phase::Starting);
    privilege::prepare_worker()?;
    killpoint::arm(arena.control().worker_restarts());
    arena.control().set_worker_pid(std::process::id() as libc::pid_t);
    let descriptors = backing::raise_descriptor_limit();
    backing::raise_file_size_limit();
    backing::raise_locked_memory_limit();
    become_io_flusher();
    if let Err(error) = arena.lock_in_memory() {
        log::info!("the buffers may be swapped out: {error}; raise the limit of locked memory");
    }
    privilege::limit_worker(context.estate.method())?;
    let filesystem = Filesystem::attach(Parts {
        config: context.config.clone(),
        arena,
        backing_fd: context.backing_fd,
        storage: Arc::new(KernelStorage),
        engines: Box::new(engines::Mounted::new(&context.config)),
        descriptors,
    })?;
    let (ended, session_ended) = bounded(1);
    spawn_session(context, &filesystem, ended)?;
    let (ask, asked) = unbounded();
    let successor = Successor::new(context);
    spawn_control(context, &filesystem, &successor, ask.clone())?;
    successor.start(ask)?;
    let ending = Ending {
        context,
        filesystem: &filesystem,
        session_ended: &session_ended,
        asked: &asked,
        listeners: Vec::new(),
        by_signal: false,
        discard: false,
        unmounting: false,
        busy_answers: 0,
    };
    ending.wait()
}

/// Memory that we need to write data out must not wait for data of ours to be written out: see
/// PR_SET_IO_FLUSHER in prctl(2). Needs CAP_SYS_RESOURCE; without it the risk is the kernel's
/// usual one for FUSE.
fn become_io_flusher() {
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: a flag of the calling thread, inherited by those it starts.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result < 0 {
        log::debug!("PR_SET_IO_FLUSHER: {}", io::Error::last_os_error());
    }
}

fn spawn_session(
    context: &WorkerContext,
    filesystem: &Arc<Filesystem>,
    ended: Sender<io::Result<()>>,
) -> io::Result<()> {
    // More than processors: some may be in system calls on names.
    let threads = std::thread::available_parallelism().map_or(4, usize::from).clamp(4, 16);
    let (filesystem, arena) = (filesystem.clone(), context.arena);
    let (fuse_fd, wake_keeper_fd) = (context.fuse_fd, context.wake_keeper_fd);
    std::thread::Builder::new().name("session".into()).spawn(move || {
        let ready = || {
            arena.control().set_phase(Phase::Serving);
            ring(wake_keeper_fd);
        };
        // The receiver lives as long as the process.
        let _ = ended.send(fuse::serve(filesystem, &arena, fuse_fd, threads, ready));
    })?;
    Ok(())
}

fn spawn_control(
    context: &WorkerContext,
    filesystem: &Arc<Filesystem>,
    successor: &Arc<Successor>,
    ask: Sender<Asked>,
) -> io::Result<()> {
    let source: Arc<dyn Source> = Arc::new(Control {
        filesystem: filesystem.clone(),
        successor: successor.clone(),
        ask: Mutex::new(ask),
    });
    let listener_fd = context.listener_fd;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || server::serve(listener_fd, source))?;
    Ok(())
}

fn ring(eventfd: RawFd) {
    // SAFETY: one of the keeper's descriptors, open as long as the process.
    sys::ring(unsafe { BorrowedFd::borrow_raw(eventfd) });
}

/// What may happen to a running mount.
enum Asked {
    /// The keeper got SIGTERM or SIGINT.
    Finish,
    /// Somebody asked over the control socket and wants to be told how it goes.
    Umount { answers: Sender<Answer>, discard: bool },
    /// The keeper's answer to a request to unmount.
    Unmounted { errno: i32 },
}

/// The control socket's view of the worker.
struct Control {
    filesystem: Arc<Filesystem>,
    successor: Arc<Successor>,
    ask: Mutex<Sender<Asked>>,
}

impl Source for Control {
    fn status(&self) -> Status {
        self.filesystem.status()
    }

    fn files(&self) -> Vec<FileStatus> {
        self.filesystem.files()
    }

    fn upgrade(&self, program: &Path, tell: &mut dyn FnMut(Answer)) {
        let result = self.successor.upgrade(program, || tell(Answer::Upgrading));
        if let Err(error) = result {
            tell(Answer::Failed { message: error.to_string() });
        }
    }

    fn discard(&self, id: u64, force: bool) -> Answer {
        let how = if force { GiveUp::Any } else { GiveUp::Failing };
        let (sender, given_up) = bounded(1);
        let reply = move |result| drop(sender.send(result));
        let id = self.filesystem.id_shown_as(id);
        self.filesystem.give_up(id, how, Box::new(reply));
        match given_up.recv() {
            Ok(Ok(given_up)) => Answer::Discarded(given_up),
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENODATA) => {
                let message = "nothing is wrong with it; --force gives up what is not stored yet";
                Answer::Failed { message: message.to_owned() }
            }
            Ok(Err(error)) => Answer::Failed { message: error.to_string() },
            Err(_) => Answer::Failed { message: "not answered".to_owned() },
        }
    }

    fn drain(&self, id: Option<u64>, progress: &mut dyn FnMut(Answer) -> bool) {
        let failed = |error: io::Error| Answer::Failed { message: error.to_string() };
        if id.is_none() {
            let handed = self.filesystem.hand_over();
            while handed.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
                let backlog_bytes = self.filesystem.backlog_bytes();
                if !progress(Answer::Progress { backlog_bytes }) {
                    return;
                }
            }
        }
        let id = id.map(|id| self.filesystem.id_shown_as(id));
        let mut draining = match self.filesystem.begin_draining(id) {
            Ok(draining) => draining,
            Err(error) => {
                progress(failed(error));
                return;
            }
        };
        loop {
            self.filesystem.go_on_draining(&mut draining);
            if draining.is_over() {
                break;
            }
            let backlog_bytes = self.filesystem.backlog_bytes();
            if !progress(Answer::Progress { backlog_bytes }) {
                return;
            }
            std::thread::sleep(PROGRESS_EVERY);
        }
        let mut files = self.filesystem.failing_files();
        files.retain(|file| draining.failed().contains(&file.id));
        progress(match self.filesystem.end_draining(&draining) {
            _ if !files.is_empty() => Answer::NotStored { files, lost: false },
            Ok(()) => Answer::Done,
            Err(error) => failed(error),
        });
    }

    fn umount(&self, discard: bool, progress: &mut dyn FnMut(Answer) -> bool) {
        let (answers, told) = unbounded();
        let asked = Asked::Umount { answers, discard };
        let sent = self.ask.lock().expect("no panics under this lock").send(asked);
        if sent.is_err() {
            return;
        }
        for answer in told {
            if !progress(answer) {
                return;
            }
        }
    }
}

/// How far draining got.
enum Drained {
    /// Everything is in the backing files.
    Clean,
    /// What is left cannot be written now.
    Failing,
    /// The kernel ended the mount meanwhile.
    SessionEnded(io::Result<()>),
}

/// Waits for the end of the mount and brings it about.
struct Ending<'a> {
    context: &'a WorkerContext,
    filesystem: &'a Arc<Filesystem>,
    session_ended: &'a Receiver<io::Result<()>>,
    asked: &'a Receiver<Asked>,
    /// Who asked over the control socket and waits for the outcome.
    listeners: Vec<Sender<Answer>>,
    /// A signal asked: the mount is to go even if files are open, and as soon as its data can be
    /// written.
    by_signal: bool,
    /// What cannot be stored may be lost.
    discard: bool,
    /// The keeper was asked to unmount and has not answered.
    unmounting: bool,
    /// How often in a row the kernel said that the mount is in use.
    busy_answers: u32,
}

impl Ending<'_> {
    fn wait(mut self) -> io::Result<i32> {
        let ticks = tick(LOOK_EVERY);
        loop {
            let ended = select! {
                recv(self.session_ended) -> result => Some(result.unwrap_or(Ok(()))),
                recv(self.asked) -> asked => match asked {
                    Ok(Asked::Finish) => {
                        self.by_signal = true;
                        self.drain_and_unmount()
                    }
                    Ok(Asked::Umount { answers, discard }) => {
                        self.listeners.push(answers);
                        self.discard |= discard;
                        self.drain_and_unmount()
                    }
                    Ok(Asked::Unmounted { errno }) => {
                        self.unmounted(errno);
                        None
                    }
                    Err(_) => Some(Ok(())),
                },
                recv(ticks) -> _ => {
                    self.beat();
                    self.retry_end();
                    None
                }
            };
            match ended {
                None => {}
                Some(Ok(())) => return Ok(self.end()),
                // The session broke, the mount is still there: the next worker tries.
                Some(Err(error)) => return Err(error),
            }
        }
    }

    /// Returns how the session ended, if it did.
    fn drain_and_unmount(&mut self) -> Option<io::Result<()>> {
        log::info!(
            "{}: to be unmounted, asked by {}; {} bytes to be written",
            self.context.config.mountpoint.display(),
            if self.by_signal { "a signal" } else { "a command" },
            self.filesystem.backlog_bytes()
        );
        match self.drain() {
            Drained::Clean => self.request_unmount(UnmountMode::Plain),
            Drained::SessionEnded(result) => return Some(result),
            // Given up when the mount is gone, and not if it turns out to be in use.
            Drained::Failing if self.discard => self.request_unmount(UnmountMode::Plain),
            Drained::Failing => {
                log::error!("not unmounted: some data cannot be written; see `coalescefs status`");
                let files = self.filesystem.failing_files();
                self.stay(Answer::NotStored { files, lost: false });
            }
        }
        None
    }

    /// After a signal that came while data could not be written: the mount ends when it can be.
    fn retry_end(&mut self) {
        if self.by_signal && !self.unmounting && self.filesystem.backlog_bytes() == 0 {
            self.request_unmount(UnmountMode::Plain);
        }
    }

    /// The keeper's answer. After a signal the name goes at once, and open files go on until they
    /// are closed; somebody who asked is told that the mount is in use.
    fn unmounted(&mut self, errno: i32) {
        self.unmounting = false;
        match errno {
            0 => {}
            libc::EBUSY if self.by_signal => self.request_unmount(UnmountMode::Lazy),
            libc::EBUSY if self.busy_answers < BUSY_TRIES => {
                self.busy_answers += 1;
                std::thread::sleep(BUSY_PAUSE);
                self.request_unmount(UnmountMode::Plain);
            }
            libc::EBUSY => self.stay(Answer::Busy),
            errno => {
                let message = io::Error::from_raw_os_error(errno).to_string();
                self.stay(Answer::Failed { message });
            }
        }
    }

    /// The mount goes on; after a signal it ends later.
    fn stay(&mut self, answer: Answer) {
        if !self.by_signal {
            self.filesystem.resume();
        }
        self.busy_answers = 0;
        self.discard = false;
        self.tell(&answer);
        self.listeners.clear();
    }

    fn request_unmount(&mut self, mode: UnmountMode) {
        self.unmounting = true;
        self.context.arena.control().request_unmount(mode);
        ring(self.context.wake_keeper_fd);
    }

    fn tell(&self, answer: &Answer) {
        for listener in &self.listeners {
            // One that went away needs no answer.
            let _ = listener.send(answer.clone());
        }
    }

    /// Lets the listeners go, who have been told how it ended, and waits until the last of it is
    /// sent.
    fn dismiss(&mut self) {
        self.listeners.clear();
        server::wait_for_clients();
    }

    /// Shows the keeper that this worker is alive, and looks after engines that do not answer.
    fn beat(&self) -> u64 {
        let backlog_bytes = self.filesystem.pulse();
        self.filesystem.look_at_engines();
        self.context.arena.control().beat(backlog_bytes);
        backlog_bytes
    }

    fn tell_progress(&self) -> u64 {
        let backlog_bytes = self.beat();
        self.tell(&Answer::Progress { backlog_bytes });
        backlog_bytes
    }

    /// Writes everything while the mount goes on working.
    /// What could not be written is tried once more, and as long as some of it goes.
    fn drain(&self) -> Drained {
        self.filesystem.finish();
        self.filesystem.free_cache();
        let ticks = tick(PROGRESS_EVERY);
        let (mut left_bytes, mut since_ms) = (u64::MAX, 0);
        loop {
            let backlog_bytes = self.tell_progress();
            if backlog_bytes == 0 {
                return Drained::Clean;
            }
            if self.filesystem.only_failing_left(since_ms) {
                if backlog_bytes >= left_bytes {
                    return Drained::Failing;
                }
                (left_bytes, since_ms) = (backlog_bytes, boottime_ms());
                self.filesystem.retry_now();
            }
            select! {
                recv(ticks) -> _ => {}
                recv(self.session_ended) -> result => {
                    return Drained::SessionEnded(result.unwrap_or(Ok(())));
                }
            }
        }
    }

    /// The mount is gone: stores what is left and ends the process.
    fn end(&mut self) -> i32 {
        self.context.arena.control().set_phase(Phase::Ending);
        self.filesystem.finish();
        let begun_ms = boottime_ms();
        self.filesystem.retry_now();
        let give_up = Instant::now() + if self.discard { Duration::ZERO } else { LAST_TRIES };
        while self.tell_progress() > 0 {
            if self.filesystem.only_failing_left(begun_ms) && Instant::now() > give_up {
                return self.not_stored();
            }
            std::thread::sleep(PROGRESS_EVERY);
        }
        self.filesystem.settle();
        self.filesystem.release_space();
        // SAFETY: the keeper's descriptor, open as long as the process.
        let backing = unsafe { BorrowedFd::borrow_raw(self.context.backing_fd) };
        if let Err(error) = backing::sync_filesystem(backing) {
            log::error!("cannot sync {}: {error}", self.context.config.backing.display());
            self.tell(&Answer::Failed { message: format!("sync failed: {error}") });
            self.dismiss();
            return EXIT_NOT_STORED;
        }
        if !self.filesystem.failing_files().is_empty() {
            return self.not_stored();
        }
        log::info!("{}: ended, all is stored", self.context.config.mountpoint.display());
        self.tell(&Answer::Status(Box::new(self.filesystem.status())));
        self.tell(&Answer::Done);
        self.dismiss();
        EXIT_CLEAN
    }

    fn not_stored(&mut self) -> i32 {
        let files = self.filesystem.failing_files();
        for file in &files {
            let exactly = |number: u64| number.to_string();
            log::error!("lost: {} bytes", file.describe(exactly, |ms| format!("{ms} ms")));
        }
        self.tell(&Answer::NotStored { files, lost: true });
        self.dismiss();
        EXIT_NOT_STORED
    }
}
