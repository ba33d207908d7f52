//! A keeper that died is followed by the worker: it becomes the keeper, in its own process.
//!
//! The worker execs this program, or with `coalescefs upgrade` another build of it, as `coalescefs
//! keeper MOUNTPOINT --adopt FD`. With the dead keeper it had one descriptor table, which is now
//! its own alone, and exec leaves every descriptor its number: `/dev/fuse`, the arena, files
//! without a name. The exec ends all other threads as SIGKILL would, so nobody reads `/dev/fuse`
//! beside the next worker, and what they had in hand is sent again. A child that execs would have
//! to be given what the worker opens meanwhile, and to wait for its end.
//!
//! There is no way back after exec, so everything is tried before: the same program is run as
//! a child (`--rehearse`), reads the same order, maps and checks the same arena, and says whether
//! it would succeed. If not, the worker goes on serving.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Place, sys};
use crate::arena::Arena;
use crate::backing::keep_over_exec;
use crate::config::MountConfig;
use crate::mount::attach::Method;
use crate::mount::privilege;

/// A rehearsal reads a few MiB of tables.
const REHEARSAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest complaint of a rehearsal that is passed on.
const COMPLAINT_BYTES_MAX: u64 = 2000;

/// What a keeper leaves to the next one. Numbers of descriptors are those of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Estate {
    pub(super) config: MountConfig,
    pub(super) place: Place,
    pub(super) descriptors: Descriptors,
    /// The process with which the mount ends, if there is one.
    pub(super) starter: Option<u32>,
    /// Whether the descriptors come from another table, and those of files without a name do not.
    #[serde(default)]
    pub(super) is_moved: bool,
}

/// What outlives everybody.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Descriptors {
    pub fuse: RawFd,
    pub backing: RawFd,
    pub listener: RawFd,
    pub lock: RawFd,
    pub arena: RawFd,
    pub nodes: RawFd,
}

impl Descriptors {
    /// In a fixed order.
    pub(super) fn numbers(self) -> [RawFd; 6] {
        [self.fuse, self.backing, self.listener, self.lock, self.arena, self.nodes]
    }

    pub(super) fn from_numbers(numbers: [RawFd; 6]) -> Descriptors {
        let [fuse, backing, listener, lock, arena, nodes] = numbers;
        Descriptors { fuse, backing, listener, lock, arena, nodes }
    }

    /// With the type each must have.
    pub(super) fn typed(self) -> [(RawFd, libc::mode_t); 6] {
        let kinds = [
            libc::S_IFCHR,
            libc::S_IFDIR,
            libc::S_IFSOCK,
            libc::S_IFSOCK,
            libc::S_IFREG,
            libc::S_IFREG,
        ];
        std::array::from_fn(|at| (self.numbers()[at], kinds[at]))
    }
}

/// Why a program cannot take over. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The program said so.
    #[error("{0}")]
    Refused(String),
    /// It was ended, or did not know what was wanted.
    #[error("{program} cannot take over ({how}): is it coalescefs, of this version or later?")]
    Unable {
        /// Which program.
        program: String,
        /// How it ended.
        how: String,
    },
    /// A system call failed.
    #[error("cannot start the program that is to take over: {0}")]
    Io(#[from] io::Error),
}

impl Estate {
    /// Where the mount is.
    pub fn mountpoint(&self) -> &Path {
        &self.place.mountpoint
    }

    /// How it was made, and is unmounted.
    pub fn method(&self) -> Method {
        self.place.method
    }

    /// Has `program` say whether it could take over. Waits for it, some seconds at most.
    pub fn rehearse(&self, program: &Path) -> Result<(), SuccessionError> {
        let order = self.written_down()?;
        let mut command = self.command(program, &order);
        command.arg("--rehearse").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let ended = wait_or_kill(&mut child)?;
        let mut complaint = String::new();
        if let Some(stdout) = child.stdout.take() {
            // What is not text is no complaint of ours.
            let _ = stdout.take(COMPLAINT_BYTES_MAX).read_to_string(&mut complaint);
        }
        match (ended.success(), complaint.trim()) {
            (true, _) => Ok(()),
            (false, "") => Err(SuccessionError::Unable {
                program: program.display().to_string(),
                how: ended.to_string(),
            }),
            (false, complaint) => Err(SuccessionError::Refused(complaint.to_owned())),
        }
    }

    /// Becomes `program`, which adopts the mount. Returns only when that failed, with nothing
    /// changed.
    pub fn hand_over(&self, program: &Path) -> Result<Infallible, SuccessionError> {
        let order = self.written_down()?;
        privilege::prepare_successor(self.place.method)?;
        Err(self.command(program, &order).exec().into())
    }

    /// A memfd that stays open over exec, as do all that matter from here on; those of files
    /// without a name do so since they were opened.
    pub(super) fn written_down(&self) -> io::Result<File> {
        // SAFETY: a C string.
        let fd = unsafe { libc::memfd_create(c"coalescefs-estate".as_ptr(), 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, so nobody else owns it.
        let mut order = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        order.write_all(&serde_json::to_vec(self)?)?;
        for (fd, _) in self.descriptors.typed() {
            // SAFETY: the keeper's descriptors, open as long as any process of the mount.
            keep_over_exec(unsafe { BorrowedFd::borrow_raw(fd) })?;
        }
        Ok(order)
    }

    pub(super) fn command(&self, program: &Path, order: &File) -> Command {
        let mut command = Command::new(program);
        command
            .arg0("coalescefs")
            .arg("keeper")
            .arg(&self.place.mountpoint)
            .arg("--adopt")
            .arg(order.as_raw_fd().to_string());
        command
    }
}

fn wait_or_kill(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let pidfd = sys::pidfd(child.id() as libc::pid_t)?;
    if sys::poll([Some(pidfd.as_fd())], Some(REHEARSAL_TIMEOUT)) == [false] {
        child.kill()?;
    }
    child.wait()
}

/// Reads what [`Estate::hand_over`] wrote, and checks all that can be checked without changing
/// anything. `Err` is one line for the user.
pub(super) fn read(order: RawFd) -> Result<(Estate, Arena), String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("what the former program left is not understood ({error}): unmount and mount again")
    };
    // By its name in /proc it is opened anew and read from the start.
    let text =
        std::fs::read(format!("/proc/self/fd/{order}")).map_err(|error| unreadable(&error))?;
    let estate: Estate = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
    for (fd, kind) in estate.descriptors.typed() {
        let meta =
            std::fs::metadata(format!("/proc/self/fd/{fd}")).map_err(|error| unreadable(&error))?;
        if fd <= 2 || meta.mode() & libc::S_IFMT != kind {
            return Err(unreadable(&format!("descriptor {fd}")));
        }
    }
    let Descriptors { arena, nodes, .. } = estate.descriptors;
    let arena = Arena::attach(&estate.config, arena, nodes).map_err(|error| error.to_string())?;
    Ok((estate, arena))
}

/// The life of a rehearsing process: says on standard output what is wrong, if anything.
pub(super) fn rehearse(order: RawFd) -> i32 {
    match read(order) {
        Ok(_) => crate::worker::EXIT_CLEAN,
        Err(complaint) => {
            // Whoever closed the pipe sees the exit code.
            let _ = io::stdout().write_all(complaint.as_bytes());
            crate::worker::EXIT_FAILED
        }
    }
}
