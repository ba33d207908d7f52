//! The keeper's loop: signals, deaths of workers, requests to unmount.
//!
//! Waits in one poll(2) for the signalfd, the worker's eventfd and, until the start is reported,
//! for the process that wants the report. Nothing in it may block: unmounting, which waits for the
//! disk through the worker, is done by a child.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::launch::Report;
use super::store::Service;
use super::succession::{Descriptors, Estate};
use super::sys;
use super::vitals::Signs;
use super::{Held, Place, process, send_report, strays};
use crate::arena::{Phase, UnmountMode};
use crate::mount::mountinfo::MountTable;
use crate::mount::{bdi, unmount};
use crate::worker::{self, WorkerContext};

/// How long the end of the keeper waits for a last unmount: with nothing left to write, it is
/// a matter of milliseconds.
const LAST_UNMOUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of the loop.
pub(super) struct Supervisor {
    held: Held,
    started: Instant,
    worker: Option<libc::pid_t>,
    /// The child that unmounts.
    unmounter: Option<libc::pid_t>,
    backoff: Backoff,
    /// When a worker is started again.
    next_start: Option<Instant>,
    /// Whether a worker ever answered requests: then a death is answered with a new one.
    served: bool,
    /// Until the mount is served: who wants to know.
    report: Option<File>,
    stderr_file: Option<File>,
    /// When the mount is a service.
    service: Option<Service>,
}

impl Supervisor {
    /// Without a `report` it takes over a mount that was served.
    pub(super) fn new(held: Held, report: Option<File>, stderr_file: Option<File>) -> Supervisor {
        Supervisor {
            held,
            started: Instant::now(),
            worker: None,
            unmounter: None,
            backoff: Backoff::default(),
            next_start: None,
            served: report.is_none(),
            report,
            stderr_file,
            service: Service::from_environment(),
        }
    }

    /// Runs until the mount has ended; returns the keeper's exit code, and leaves no mount behind.
    pub(super) fn run(mut self) -> i32 {
        self.start_worker();
        let code = loop {
            self.wait();
            self.look_at_phase();
            self.look_for_unmount_request();
            self.tell_service();
            if let Some(code) = self.take_signals() {
                break code;
            }
            if self.next_start.is_some_and(|at| at <= Instant::now()) {
                self.start_worker();
            }
        };
        if let Some(unmounter) = self.unmounter {
            wait_for(unmounter);
        }
        let place = &self.held.place;
        if MountTable::read().is_ok_and(|table| table.has(place.device, &place.mountpoint)) {
            unmount_and_wait(place, UnmountMode::Lazy);
        }
        if let Some(service) = self.service.as_ref().filter(|_| self.served) {
            service.release();
        }
        code
    }

    fn wait(&mut self) {
        let next_look = self.service.as_ref().map(Service::next_look);
        let next = self.next_start.into_iter().chain(next_look).min();
        let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
        let [_, woken, starter_gone, asked] = sys::poll(
            [
                Some(self.held.signals.as_fd()),
                Some(self.held.wake_keeper.as_fd()),
                self.report.as_ref().map(|report| report.as_fd()),
                Some(self.held.lock.as_fd()),
            ],
            timeout,
        );
        if asked {
            // Whoever connects wants to know whose the lock is: the kernel tells. An error is one
            // that went away.
            drop(self.held.lock.accept());
        }
        if woken {
            sys::clear(self.held.wake_keeper.as_fd());
        }
        if starter_gone {
            // Nobody heard that the mount came to be, so it must not be.
            self.report = None;
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.held.arena.control().request_finish();
        sys::ring(self.held.wake_worker.as_fd());
    }

    fn look_at_phase(&mut self) {
        if self.held.arena.control().phase() == Phase::Starting {
            return;
        }
        if !self.served {
            self.note_success();
        }
        if let Some(service) = &mut self.service {
            service.ready();
        }
    }

    /// Tells the service manager how it goes, and replaces a worker that hangs where it wants that.
    fn tell_service(&mut self) {
        let Some(service) = &mut self.service else { return };
        let control = self.held.arena.control();
        let (beats, backlog_bytes) = control.beats();
        let phase = control.phase();
        let hangs = service.look(Signs {
            beats,
            backlog_bytes,
            is_serving: self.worker.is_some() && phase == Phase::Serving,
            is_ending: phase == Phase::Ending || control.finish_ordered(),
        });
        if let Some(worker) = self.worker.filter(|_| hangs) {
            log::error!(
                "{}: the worker shows no sign of life for as long as the watchdog allows; another \
                 takes its place",
                self.held.place.mountpoint.display()
            );
            process::kill(worker);
        }
    }

    /// The first time requests are answered: the start has succeeded.
    fn note_success(&mut self) {
        self.served = true;
        let device = self.held.place.device;
        let config = &self.held.config;
        log::info!(
            "{}: mounted over {}; memory {} bytes, chunk {} bytes, version {}",
            config.mountpoint.display(),
            config.backing.display(),
            config.memory_bytes,
            config.chunk_bytes,
            env!("CARGO_PKG_VERSION")
        );
        let errno = bdi::tune(device, self.held.config.memory_bytes);
        self.held.arena.control().set_bdi_errno(errno as u32);
        if errno != 0 {
            let error = std::io::Error::from_raw_os_error(errno);
            log::info!("the kernel's dirty limits of {device} stay as they are: {error}");
        }
        // In the table shared with the worker, so that its log goes there as well.
        if let Some(file) = self.stderr_file.take()
            && let Err(error) = sys::replace_descriptor(file.as_fd(), 2)
        {
            log::warn!("the log stays where it was: {error}");
        }
        if let Some(report) = self.report.take() {
            // Before it is: a successor that did not know would end a mount that is in use.
            self.held.arena.control().set_reported();
            if !send_report(report, &Report::Ready { device }) {
                self.finish();
            }
        }
        // When the mount is known of: one that is not is not to be adopted.
        if let Some(service) = &self.service {
            service.store(&self.estate());
        }
    }

    fn look_for_unmount_request(&mut self) {
        if self.unmounter.is_some() {
            // Taken when the one before is answered.
            return;
        }
        let Some(mode) = self.held.arena.control().take_unmount_request() else { return };
        let place = self.held.place.clone();
        let task = || unmount::unmount(&place.mountpoint, place.device, mode, place.method);
        match process::spawn_task(task) {
            Ok(pid) => self.unmounter = Some(pid),
            Err(error) => self.answer_unmount(error.raw_os_error().unwrap_or(libc::EAGAIN)),
        }
    }

    fn answer_unmount(&self, errno: i32) {
        self.held.arena.control().answer_unmount(errno);
        sys::ring(self.held.wake_worker.as_fd());
    }

    /// `Some` with the exit code when the mount has ended.
    fn take_signals(&mut self) -> Option<i32> {
        while let Some(signal) = sys::take_signal(self.held.signals.as_fd()) {
            if signal != libc::SIGCHLD {
                self.finish();
            }
        }
        // Always: several deaths may be one SIGCHLD.
        while let Some((pid, ended)) = sys::take_ended_child() {
            if self.unmounter == Some(pid) {
                self.unmounter = None;
                self.unmount_ended(ended);
            } else if self.worker == Some(pid) {
                self.worker = None;
                if let Some(code) = self.worker_ended(ended) {
                    return Some(code);
                }
            }
        }
        None
    }

    fn unmount_ended(&mut self, ended: ExitStatus) {
        let place = &self.held.place;
        let errno =
            unmount::interpret_end(ended.code(), place.method, &place.mountpoint, place.device);
        self.answer_unmount(errno);
        self.look_for_unmount_request();
    }

    fn worker_ended(&mut self, ended: ExitStatus) -> Option<i32> {
        match ended.code() {
            Some(code @ (worker::EXIT_CLEAN | worker::EXIT_NOT_STORED)) if self.served => {
                return Some(code);
            }
            _ if self.served => self.restart_worker(ended),
            _ => return Some(self.start_failed(ended)),
        }
        None
    }

    /// The first worker ended before it answered requests: another one would do the same. It has
    /// said why on standard error, which is the starter's.
    fn start_failed(&mut self, ended: ExitStatus) -> i32 {
        if let Some(report) = self.report.take() {
            let mountpoint = self.held.place.mountpoint.display();
            let message = format!("cannot serve {mountpoint}: the worker ended ({ended})");
            send_report(report, &Report::Failed { message });
        }
        worker::EXIT_FAILED
    }

    fn restart_worker(&mut self, ended: ExitStatus) {
        let restarts = self.held.arena.control().count_restart();
        let wait = self.backoff.wait_after_death(self.started.elapsed());
        log::warn!(
            "{}: the worker ended ({ended}); start number {restarts} of a new one, in {} ms",
            self.held.place.mountpoint.display(),
            wait.as_millis()
        );
        if wait.is_zero() {
            self.start_worker();
        } else {
            self.next_start = Some(Instant::now() + wait);
        }
    }

    fn start_worker(&mut self) {
        self.next_start = None;
        let control = self.held.arena.control();
        let own_pid = std::process::id() as libc::pid_t;
        control.set_keeper_pid(own_pid);
        if control.finish_ordered() {
            control.request_finish();
            sys::ring(self.held.wake_worker.as_fd());
        }
        if control.worker_restarts() > 0
            && let Err(error) = strays::close(&self.held.arena, &self.kept_descriptors())
        {
            log::warn!("descriptors of the dead worker stay open: {error}");
        }
        let context = self.worker_context();
        match process::spawn(|| worker::run(context)) {
            Ok(pid) => self.worker = Some(pid),
            Err(error) => {
                log::error!("cannot start a worker: {error}");
                let wait = self.backoff.wait_after_death(self.started.elapsed());
                // Never at once: what is missing, memory or processes, takes time to come back.
                self.next_start = Some(Instant::now() + wait.max(Duration::from_millis(100)));
            }
        }
    }

    /// All that this process holds, standard input to error included.
    fn kept_descriptors(&self) -> Vec<RawFd> {
        let held = &self.held;
        let mut kept = vec![
            0,
            1,
            2,
            held.fuse_fd.as_raw_fd(),
            held.backing_fd.as_raw_fd(),
            held.listener.as_raw_fd(),
            held.lock.as_raw_fd(),
            held.wake_worker.as_raw_fd(),
            held.wake_keeper.as_raw_fd(),
            held.signals.as_raw_fd(),
            held.own_pidfd.as_raw_fd(),
        ];
        kept.extend(self.report.iter().map(AsRawFd::as_raw_fd));
        kept.extend(self.stderr_file.iter().map(AsRawFd::as_raw_fd));
        kept.extend(self.service.iter().map(Service::descriptor));
        kept
    }

    fn estate(&self) -> Estate {
        let held = &self.held;
        let [arena, nodes] = held.arena.descriptors();
        Estate {
            config: (*held.config).clone(),
            place: held.place.clone(),
            descriptors: Descriptors {
                fuse: held.fuse_fd.as_raw_fd(),
                backing: held.backing_fd.as_raw_fd(),
                listener: held.listener.as_raw_fd(),
                lock: held.lock.as_raw_fd(),
                arena,
                nodes,
            },
            starter: held.starter,
            is_moved: false,
        }
    }

    fn worker_context(&self) -> WorkerContext {
        let held = &self.held;
        WorkerContext {
            config: held.config.clone(),
            arena: held.arena,
            fuse_fd: held.fuse_fd.as_raw_fd(),
            backing_fd: held.backing_fd.as_raw_fd(),
            listener_fd: held.listener.as_raw_fd(),
            wake_worker_fd: held.wake_worker.as_raw_fd(),
            wake_keeper_fd: held.wake_keeper.as_raw_fd(),
            keeper_pidfd: held.own_pidfd.as_raw_fd(),
            estate: self.estate(),
        }
    }
}

/// Unmounts in a child and waits for it, some seconds at most. For the end of the keeper; SIGCHLD
/// must be blocked or ignored by default.
pub(super) fn unmount_and_wait(place: &Place, mode: UnmountMode) {
    let task = || unmount::unmount(&place.mountpoint, place.device, mode, place.method);
    let child = match process::spawn_task(task) {
        Ok(child) => child,
        Err(error) => {
            log::error!("cannot unmount {}: {error}", place.mountpoint.display());
            return;
        }
    };
    if !wait_for(child) {
        // Our exit closes /dev/fuse, which ends its wait.
        log::warn!("unmounting {} takes long", place.mountpoint.display());
    }
}

/// Whether a child ended in time; one that is gone has.
fn wait_for(child: libc::pid_t) -> bool {
    sys::pidfd(child).map_or(true, |pidfd| {
        sys::poll([Some(pidfd.as_fd())], Some(LAST_UNMOUNT_TIMEOUT)) == [true]
    })
}
