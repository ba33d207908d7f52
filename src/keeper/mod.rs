//! The process that outlives the worker: mounts, starts and restarts the worker, unmounts.
//!
//! One thread, few allocations, and **never a system call on its own mount**: it would wait for the
//! worker, and the worker may be dead. It owns everything that must survive a worker: `/dev/fuse`,
//! the arena, the backing directory, the control socket. Keeper and worker share one descriptor
//! table (`process`), so what a worker opened survives it too; before the next one starts, the
//! keeper closes what nobody needs (`strays`).
//!
//! | file | what |
//! |---|---|
//! | `launch` | the command line's side: starts a keeper and hears how it went |
//! | `mod` | the keeper's start: everything up to the first worker |
//! | `lock` | one daemon for one backing directory |
//! | `supervise` | the loop: signals, deaths, unmounting |
//! | `process` | making the worker process |
//! | `succession` | the worker becomes the keeper when this one dies |
//! | `notify` | messages to the service manager |
//! | `vitals` | what it is told meanwhile: backlog, signs of life, more time to end |
//! | `store` | what the service manager keeps when both processes die |
//! | `strays` | descriptors that a dead worker left |
//! | `backoff` | how long to wait before the next worker |
//! | `sys` | the few system calls std does not have |

mod backoff;
mod launch;
mod lock;
mod notify;
mod process;
mod store;
mod strays;
mod succession;
mod supervise;
pub mod sys;
mod vitals;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

pub use launch::{Launch, Lifetime, Running, StartError, adopt_kept, start};
use launch::{Order, Report, StderrAfterStart};
use serde::{Deserialize, Serialize};
pub use store::Kept;
pub use succession::{Estate, SuccessionError};
use supervise::Supervisor;

use crate::arena::{Arena, Phase, UnmountMode};
use crate::clock;
use crate::config::MountConfig;
use crate::control::address;
use crate::mount;
use crate::mount::attach::{self, Attached, Method};
use crate::mount::mountinfo::{Device, MountTable};
use crate::mount::privilege;
use crate::worker;

/// Where the mount is and how it was made: what is needed to unmount it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    mountpoint: PathBuf,
    device: Device,
    method: Method,
}

/// What the keeper holds for all its workers. Descriptors stay open until the process ends.
#[derive(Debug)]
struct Held {
    config: Arc<MountConfig>,
    arena: Arena,
    place: Place,
    fuse_fd: OwnedFd,
    backing_fd: OwnedFd,
    listener: UnixListener,
    /// Taken as long as this process or a worker lives: see `lock`.
    lock: UnixListener,
    wake_worker: OwnedFd,
    wake_keeper: OwnedFd,
    signals: OwnedFd,
    /// Readable when this process has ended: for the worker, which sees no other sign of it.
    own_pidfd: OwnedFd,
    /// The process with which the mount ends, if there is one.
    starter: Option<u32>,
}

/// How a keeper process begins.
#[derive(Clone, Copy, Debug)]
pub enum Beginning {
    /// Told on standard input what to mount.
    Mount,
    /// With a mount whose keeper died; the descriptor says what it left.
    Adopt(RawFd),
    /// As [`Beginning::Adopt`], but only to say whether that would succeed.
    Rehearse(RawFd),
}

/// The life of a keeper process. Returns its exit code.
pub fn run(beginning: Beginning) -> i32 {
    match beginning {
        Beginning::Mount => run_new(),
        Beginning::Adopt(order) => run_adopted(order),
        Beginning::Rehearse(order) => succession::rehearse(order),
    }
}

/// Reads its order from standard input, reports on standard output.
fn run_new() -> i32 {
    sys::close_descriptors_from(3);
    let (order, report) = match take_order() {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("coalescefs: the keeper is started by 'coalescefs mount': {error}");
            return worker::EXIT_FAILED;
        }
    };
    match begin(&order) {
        Ok(held) => Supervisor::new(held, Some(report), order.stderr_file).run(),
        Err(message) => {
            send_report(report, &Report::Failed { message });
            worker::EXIT_FAILED
        }
    }
}

/// Goes on with what the former keeper left, as after the death of a worker.
fn run_adopted(order: RawFd) -> i32 {
    become_daemon();
    let adopted = succession::read(order).and_then(|(estate, arena)| adopt(estate, arena));
    match adopted {
        Ok(held) => Supervisor::new(held, None, None).run(),
        Err(message) => {
            log::error!("{message}");
            worker::EXIT_FAILED
        }
    }
}

/// The order's own descriptor is left to `strays`.
fn adopt(estate: Estate, arena: Arena) -> Result<Held, String> {
    let in_words = |error: io::Error| format!("cannot take over the mount: {error}");
    // A worker ignores them; they are blocked before they are not.
    let signals = process::take_signals().map_err(in_words)?;
    let Estate { config, place, descriptors, starter, is_moved } = estate;
    // SAFETY: `succession::read` checked that they are open and what they are; this process has
    // just begun, and nothing else in it owns any.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    let held = Held {
        config: Arc::new(config),
        arena,
        place,
        fuse_fd: own(descriptors.fuse),
        backing_fd: own(descriptors.backing),
        listener: own(descriptors.listener).into(),
        lock: own(descriptors.lock).into(),
        wake_worker: sys::eventfd().map_err(in_words)?,
        wake_keeper: sys::eventfd().map_err(in_words)?,
        signals,
        own_pidfd: sys::pidfd(std::process::id() as libc::pid_t).map_err(in_words)?,
        starter,
    };
    let control = held.arena.control();
    if is_moved {
        control.set_phase(Phase::Starting);
        held.arena.forget_unnamed();
    }
    if let Some(starter) = starter {
        sys::die_with_parent(libc::SIGTERM).map_err(in_words)?;
        if sys::parent() != starter {
            control.request_finish();
        }
    }
    if !control.is_reported() {
        // Whoever started the mount was told that it failed.
        control.request_finish();
    }
    privilege::limit_keeper(held.place.method).map_err(in_words)?;
    control.count_restart();
    Ok(held)
}

/// What came over standard input, opened and taken apart.
struct Taken {
    config: MountConfig,
    starter: Option<u32>,
    /// Takes the place of standard error once the mount is served; `None` leaves it.
    stderr_file: Option<File>,
}

fn take_order() -> io::Result<(Taken, File)> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let order: Order = serde_json::from_slice(&text)?;
    let report = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    sys::replace_descriptor(null.as_fd(), 0)?;
    sys::replace_descriptor(null.as_fd(), 1)?;
    let stderr_file = match order.stderr {
        StderrAfterStart::Keep => None,
        StderrAfterStart::Discard => Some(null),
        StderrAfterStart::Append(path) => Some(launch::open_log(&path)?),
    };
    Ok((Taken { config: order.config, starter: order.starter, stderr_file }, report))
}

fn send_report(mut to: File, report: &Report) -> bool {
    let mut line = serde_json::to_vec(report).expect("a report is plain data");
    line.push(b'\n');
    to.write_all(&line).is_ok()
}

/// Everything up to the first worker. `Err` has one line for the user; nothing is mounted then.
fn begin(order: &Taken) -> Result<Held, String> {
    let config = &order.config;
    become_daemon();
    let in_words = |what: &str, error: io::Error| format!("{what}: {error}");
    let backing_fd = mount::open_directory(&config.backing, libc::O_RDONLY)
        .map_err(|error| in_words(&config.backing.display().to_string(), error))?;
    let lock = lock::take(&backing_fd, &config.backing)?;
    let arena = Arena::create(config).map_err(|error| in_words("cannot make the arena", error))?;
    let wake_worker = sys::eventfd().map_err(|error| in_words("eventfd", error))?;
    let wake_keeper = sys::eventfd().map_err(|error| in_words("eventfd", error))?;
    // Blocked before there is anything to undo, so that from here on a signal is an orderly end.
    let signals = process::take_signals().map_err(|error| in_words("signalfd", error))?;
    let own_pidfd = sys::pidfd(std::process::id() as libc::pid_t)
        .map_err(|error| in_words("pidfd_open", error))?;

    let Attached { fuse_fd, method } =
        attach::attach(config, backing_fd.as_fd()).map_err(|error| error.to_string())?;
    let place = find_place(config, method)?;
    let listener = match address::listen(place.device) {
        Ok(listener) => listener,
        Err(error) => {
            supervise::unmount_and_wait(&place, UnmountMode::Lazy);
            return Err(in_words("cannot listen for 'coalescefs umount'", error));
        }
    };
    if let Err(error) = privilege::limit_keeper(method) {
        supervise::unmount_and_wait(&place, UnmountMode::Lazy);
        return Err(in_words("cannot give up the rights of the start", error));
    }
    arena.control().set_mounted_at_ms(clock::boottime_ms());
    Ok(Held {
        config: Arc::new(config.clone()),
        arena,
        place,
        fuse_fd,
        backing_fd,
        listener,
        lock,
        wake_worker,
        wake_keeper,
        signals,
        own_pidfd,
        starter: order.starter,
    })
}

/// What a daemon must not inherit from whoever started it. None of it may fail the start.
fn become_daemon() {
    process::set_name();
    // The directory we were started in must not be busy because of us.
    let _ = std::env::set_current_dir("/");
    // SAFETY: umask cannot fail; modes arrive with the caller's umask applied. SIGHUP and SIGXFSZ
    // must not end us: there is no terminal, and a file size limit is the writer's matter.
    unsafe {
        libc::umask(0);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    // The last one to be killed for memory: what is not on disk yet would be lost. Its own memory
    // is bounded by --memory. Not permitted to ordinary users.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// The device number of the mount just made, from the table and not from the mount.
fn find_place(config: &MountConfig, method: Method) -> Result<Place, String> {
    let mountpoint = config.mountpoint.clone();
    let table = MountTable::read().map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    match table.top_at(&mountpoint) {
        Some(mount) if mount.is_ours() => Ok(Place { mountpoint, device: mount.device, method }),
        _ => Err(format!("{} was mounted and is not in the mount table", mountpoint.display())),
    }
}
