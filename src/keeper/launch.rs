//! Starting a keeper from the command line, and hearing how it went.
//!
//! The keeper is this program again (`coalescefs keeper MOUNTPOINT`) in a session of its own. Its
//! order comes over its standard input, its report goes to its standard output, and its standard
//! error is the caller's until the mount is served; so a worker that fails at the start is heard.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::notify::SOCKET_VARIABLE;
use super::store::{Kept, LISTEN_VARIABLES};
use super::sys;
use super::vitals::WATCHDOG_VARIABLE;
use crate::config::MountConfig;
use crate::mount::check;
use crate::mount::mountinfo::Device;
use crate::mount::namespace::Entered;
use crate::mount::privilege;

/// What a keeper is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub config: MountConfig,
    pub stderr: StderrAfterStart,
    /// The process with which the mount ends, if there is one.
    pub starter: Option<u32>,
}

/// Where the log goes once the mount is served.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StderrAfterStart {
    Keep,
    Discard,
    Append(PathBuf),
}

/// What a keeper answers, once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Requests are answered.
    Ready { device: Device },
    /// Nothing is mounted.
    Failed { message: String },
}

/// Whether the mount outlives the process that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// A daemon in the background.
    OnItsOwn,
    /// Ends, in order, when the starting process ends.
    WithStarter,
    /// The same, and the starting process may be a service: its manager is told.
    OfService,
}

impl Lifetime {
    fn has_starter(self) -> bool {
        self != Lifetime::OnItsOwn
    }
}

/// How to start a keeper.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The resolved options.
    pub config: &'a MountConfig,
    /// Whether it outlives this process.
    pub lifetime: Lifetime,
    /// File to which the log is appended; without one a background daemon has none.
    pub log_file: Option<PathBuf>,
    /// In the form of RUST_LOG.
    pub log_level: String,
    /// Namespace this process moved into, if any.
    pub namespace: Option<Entered>,
}

/// A keeper whose mount is served.
#[derive(Debug)]
pub struct Running {
    /// The keeper.
    pub process: Child,
    /// Device number of the mount.
    pub device: Device,
}

/// Why a mount could not be started; nothing is mounted or running.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// Starts a keeper and waits until its mount is served. Interrupting the caller meanwhile ends the
/// keeper too.
pub fn start(launch: Launch<'_>) -> Result<Running, StartError> {
    let failed = |error| StartError(format!("cannot start the keeper process: {error}"));
    if launch.lifetime.has_starter() {
        // So that whoever takes the place of a dead keeper is a child of this process, too.
        sys::become_subreaper().map_err(failed)?;
    }
    let mut process = spawn(&launch).map_err(failed)?;
    match converse(&mut process, launch) {
        Ok(Report::Ready { device }) => Ok(Running { process, device }),
        Ok(Report::Failed { message }) => {
            // It has nothing more to do than to exit.
            let _ = process.wait();
            Err(StartError(message))
        }
        Err(error) => {
            let end = process.wait().map_or_else(|error| error.to_string(), |end| end.to_string());
            Err(StartError(format!("the keeper process ended at its start ({end}): {error}")))
        }
    }
}

fn spawn(launch: &Launch<'_>) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("coalescefs")
        .arg("keeper")
        .arg(&launch.config.mountpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    equip(&mut command, launch);
    command.spawn()
}

/// Gives a keeper that is about to be started its surroundings.
fn equip(command: &mut Command, launch: &Launch<'_>) {
    command.env("RUST_LOG", &launch.log_level).env_remove("COALESCEFS_LOG_FILE");
    for variable in LISTEN_VARIABLES {
        command.env_remove(variable);
    }
    if launch.lifetime != Lifetime::OfService {
        // Of a service that this is only a part of.
        command.env_remove(SOCKET_VARIABLE).env_remove(WATCHDOG_VARIABLE);
    }
    let (lifetime, namespace) = (launch.lifetime, launch.namespace);
    let starter = std::process::id();
    // SAFETY: `prepare` only makes system calls.
    unsafe { command.pre_exec(move || prepare(lifetime, namespace, starter)) };
}

/// Starts a keeper that goes on with what the service manager kept of a mount. `Err` when it could
/// not; nothing has changed then.
pub fn adopt_kept(kept: &Kept, launch: &Launch<'_>) -> Result<Running, StartError> {
    let failed = |error: &dyn std::fmt::Display| {
        let mountpoint = kept.mountpoint().display();
        StartError(format!("cannot go on with the mount at {mountpoint}: {error}"))
    };
    let program = Path::new("/proc/self/exe");
    kept.estate.rehearse(program).map_err(|error| failed(&error))?;
    let start = || {
        sys::become_subreaper()?;
        let order = kept.estate.written_down()?;
        let mut command = kept.estate.command(program, &order);
        equip(&mut command, launch);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(path) = &launch.log_file {
            command.stderr(open_log(path)?);
        }
        command.spawn()
    };
    let process = start().map_err(|error| failed(&error))?;
    Ok(Running { process, device: kept.device() })
}

/// A log is its owner's alone: it names files.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

/// Between fork and exec.
fn prepare(lifetime: Lifetime, namespace: Option<Entered>, starter: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() })?;
    // Whatever the starter blocked is its own matter.
    sys::Signals::of(&[]).set_as_mask();
    if lifetime.has_starter() {
        sys::die_with_parent(libc::SIGTERM)?;
        // A starter that was gone before the call above sends nothing.
        if sys::parent() != starter {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    if namespace == Some(Entered::InUserNamespace) {
        privilege::keep_sys_admin_over_exec()?;
    }
    Ok(())
}

fn converse(process: &mut Child, launch: Launch<'_>) -> io::Result<Report> {
    let stderr = match (launch.log_file, launch.lifetime) {
        (Some(path), _) => StderrAfterStart::Append(path),
        (None, Lifetime::WithStarter | Lifetime::OfService) => StderrAfterStart::Keep,
        (None, Lifetime::OnItsOwn) => StderrAfterStart::Discard,
    };
    let starter = launch.lifetime.has_starter().then(std::process::id);
    let order = Order { config: launch.config.clone(), stderr, starter };
    let mut to_keeper = process.stdin.take().expect("asked for with Stdio::piped");
    to_keeper.write_all(&serde_json::to_vec(&order)?)?;
    drop(to_keeper);
    let from_keeper = process.stdout.take().expect("asked for with Stdio::piped");
    let mut line = String::new();
    if BufReader::new(from_keeper).read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it said nothing"));
    }
    Ok(serde_json::from_str(&line)?)
}
