//! The service manager's descriptor store: when keeper and worker are killed in the same moment,
//! the mount and what is in memory live on in it, and the next start of the service adopts both.
//!
//! The keeper sends what an heir needs once the mount is served; copies of the same descriptors, so
//! nothing has to be sent again. It takes them back when the mount has ended. The store gives them
//! back with other numbers, to the service's main process (`LISTEN_FDS`, see sd_listen_fds(3) and
//! `FileDescriptorStoreMax=` in systemd.service(5)). That one passes them on to a keeper as
//! `succession` does; they are checked there and here, since whoever starts us may pass anything.
//!
//! Files without a name are not in it: that would be a message for each file that is removed, from
//! the thread that removes it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use super::notify::Notifier;
use super::succession::{Descriptors, Estate};
use super::vitals::{Signs, Vitals};
use crate::config::MountConfig;
use crate::mount::mountinfo::Device;

/// What describes the others. Sent last, so that it is there only when they are.
const ESTATE: &str = "coalescefs-estate";
/// In the order of [`Descriptors::numbers`].
const NAMES: [&str; 6] = [
    "coalescefs-fuse",
    "coalescefs-backing",
    "coalescefs-listener",
    "coalescefs-lock",
    "coalescefs-arena",
    "coalescefs-nodes",
];
/// Where the manager says how many descriptors it takes; older ones do not say.
const ROOM_VARIABLE: &str = "FDSTORE";
/// What the manager tells the main process.
pub(super) const LISTEN_VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// The first descriptor that is passed on: SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;
/// More than any manager passes.
const PASSED_MAX: RawFd = 4096;
/// Far more than options and some paths take.
const ESTATE_BYTES_MAX: u64 = 1 << 20;
/// `/dev/fuse`: Documentation/admin-guide/devices.txt.
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// The keeper's side.
#[derive(Debug)]
pub(super) struct Service {
    notifier: Notifier,
    vitals: Vitals,
    is_ready: bool,
}

impl Service {
    /// `None` when this is no service.
    pub(super) fn from_environment() -> Option<Service> {
        let vitals = Vitals::from_environment(Instant::now());
        Notifier::from_environment().map(|notifier| Service { notifier, vitals, is_ready: false })
    }

    /// To be left open.
    pub(super) fn descriptor(&self) -> RawFd {
        self.notifier.descriptor()
    }

    /// Has the manager keep what an heir needs.
    pub(super) fn store(&self, estate: &Estate) {
        let room = std::env::var(ROOM_VARIABLE).ok().and_then(|room| room.parse::<usize>().ok());
        if room.is_some_and(|room| room <= NAMES.len()) {
            let needed = NAMES.len() + 1;
            log::warn!("the service's FileDescriptorStoreMax= is below {needed}: nothing is kept");
            return;
        }
        let description = match estate.written_down() {
            Ok(description) => description,
            Err(error) => {
                log::warn!("nothing is kept by the service manager: {error}");
                return;
            }
        };
        let numbers = estate.descriptors.numbers().into_iter().chain([description.as_raw_fd()]);
        for (name, fd) in NAMES.iter().chain([&ESTATE]).zip(numbers) {
            // SAFETY: open: the keeper's, and the one just made.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            // Not watched for a hang-up: what ended is taken back below, or found out at the start.
            self.notifier.tell(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(fd));
        }
    }

    /// Says that requests are answered, once.
    pub(super) fn ready(&mut self) {
        if !self.is_ready {
            self.is_ready = true;
            self.notifier.tell("READY=1", None);
        }
    }

    /// When there is something to say again.
    pub(super) fn next_look(&self) -> Instant {
        self.vitals.next()
    }

    /// Tells how it goes, when it is time. `true` when the worker hangs.
    pub(super) fn look(&mut self, signs: Signs) -> bool {
        let advice = self.vitals.look(Instant::now(), signs);
        if !advice.lines.is_empty() {
            self.notifier.tell(&advice.lines, None);
        }
        advice.replace_worker
    }

    /// Takes back what is kept: the mount has ended. The description first, without which the
    /// others are nothing.
    pub(super) fn release(&self) {
        for name in [ESTATE].iter().chain(&NAMES) {
            self.notifier.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
        }
    }
}

/// What the service manager passed to this process of a mount whose processes died.
#[derive(Debug)]
pub struct Kept {
    pub(super) estate: Estate,
    /// All that was passed; closed with this.
    _passed: Vec<OwnedFd>,
}

impl Kept {
    /// Takes what was passed. `None` when there is nothing of ours. Called once, before this process
    /// opens anything. `Err` is one line for the user.
    pub fn take() -> Result<Option<Kept>, String> {
        let passed = passed();
        let named: HashMap<&str, RawFd> =
            passed.iter().map(|(name, fd)| (name.as_str(), fd.as_raw_fd())).collect();
        let Some(description) = named.get(ESTATE) else {
            if NAMES.iter().any(|name| named.contains_key(name)) {
                log::warn!("the service manager passed a part of what a mount left: not used");
                discard();
            }
            return Ok(None);
        };
        let mut estate = read(*description).map_err(|why| refusal(ESTATE, &why))?;
        let mut numbers = [-1; NAMES.len()];
        for (number, name) in numbers.iter_mut().zip(NAMES) {
            *number = *named.get(name).ok_or_else(|| refusal(name, "is missing"))?;
        }
        estate.descriptors = Descriptors::from_numbers(numbers);
        check(&estate.descriptors)?;
        estate.starter = Some(std::process::id());
        estate.is_moved = true;
        Ok(Some(Kept { estate, _passed: passed.into_iter().map(|(_, fd)| fd).collect() }))
    }

    /// The options with which the mount was made.
    pub fn config(&self) -> &MountConfig {
        &self.estate.config
    }

    /// Where it is.
    pub fn mountpoint(&self) -> &Path {
        self.estate.mountpoint()
    }

    /// Its device number.
    pub fn device(&self) -> Device {
        self.estate.place.device
    }

    /// The mount is gone: nobody is to be given this again.
    pub fn discard(self) {
        discard();
    }
}

fn discard() {
    if let Some(service) = Service::from_environment() {
        service.release();
    }
}

fn refusal(name: &str, why: &str) -> String {
    format!(
        "what the service manager kept of the mount is not understood ({name} {why}): stop the \
         service and start it again; what was in memory is lost then"
    )
}

/// What was passed to this process, with its names.
fn passed() -> Vec<(String, OwnedFd)> {
    let [pid, count, names] =
        LISTEN_VARIABLES.map(|variable| std::env::var(variable).unwrap_or_default());
    let count = count.parse().unwrap_or(0).clamp(0, PASSED_MAX);
    if pid.parse() != Ok(std::process::id()) || count == 0 {
        return Vec::new();
    }
    let is_open = |fd: &RawFd| {
        // SAFETY: asks for the flags of a number.
        unsafe { libc::fcntl(*fd, libc::F_GETFD) >= 0 }
    };
    let numbers = FIRST..FIRST + count;
    let named = numbers.zip(names.split(':').map(str::to_owned)).filter(|(fd, _)| is_open(fd));
    // SAFETY: open, and passed to this process, in which nobody has opened anything yet.
    named.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect()
}

/// Read through a descriptor of its own, never by name: what looks like a file may be a FIFO.
fn read(description: RawFd) -> Result<Estate, String> {
    let in_words = |error: io::Error| error.to_string();
    // SAFETY: open as long as what was passed.
    let description = unsafe { BorrowedFd::borrow_raw(description) };
    let mut file = File::from(description.try_clone_to_owned().map_err(in_words)?);
    let meta = file.metadata().map_err(in_words)?;
    if meta.mode() & libc::S_IFMT != libc::S_IFREG || meta.len() > ESTATE_BYTES_MAX {
        return Err("is no description".to_owned());
    }
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).map_err(in_words)?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

/// Beyond the types, which `succession` checks: the device, and memory that nobody can shrink.
fn check(descriptors: &Descriptors) -> Result<(), String> {
    for ((fd, kind), name) in descriptors.typed().into_iter().zip(NAMES) {
        let meta = std::fs::metadata(format!("/proc/self/fd/{fd}"))
            .map_err(|error| refusal(name, &error.to_string()))?;
        let device = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        // SAFETY: asks for a property of an open descriptor; -1 when it has none.
        let seals = || unsafe { libc::fcntl(fd, libc::F_GET_SEALS) }.max(0);
        let fits = meta.mode() & libc::S_IFMT == kind
            && (kind != libc::S_IFCHR || device == FUSE_DEVICE)
            && (kind != libc::S_IFREG || seals() & libc::F_SEAL_SHRINK == libc::F_SEAL_SHRINK);
        if !fits {
            return Err(refusal(name, "is something else"));
        }
    }
    Ok(())
}
