//! A directory that is to be mounted over: what a mount would find there.
//!
//! Makes one file without a name (O_TMPFILE) to try things with; nothing is left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::{Check, mounts};
use crate::backing::{self, DirectIo};
use crate::cli::resolve::{self, Surroundings};
use crate::cli::{places, units};
use crate::mount::mountinfo::{MountTable, type_name};
use crate::mount::patience::within;

/// For a disk that is slow, not for one that is away.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Filesystems that the tests run on.
const TESTED: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// Those that are memory themselves.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// Space that is reserved by the trial.
const TRIAL_BYTES: u64 = 1 << 20;

/// All checks of a directory, whose path has no links and leads through no mount of ours.
pub(super) fn look(directory: &Path, table: &MountTable) -> Vec<Check> {
    let mut checks = others(directory, table);
    checks.extend(filesystem(directory, table));
    let probed = directory.to_owned();
    checks.extend(within(PROBE_TIMEOUT, move || probe(&probed)).unwrap_or_else(|| {
        let text = format!(
            "does not answer within {} s: is its disk or server away?",
            PROBE_TIMEOUT.as_secs()
        );
        vec![Check::problem("directory", text)]
    }));
    checks
}

/// Mounts of ours that have to do with it.
fn others(directory: &Path, table: &MountTable) -> Vec<Check> {
    let mut checks = Vec::new();
    for mount in table.ours() {
        let at = mount.mount_point.display();
        if mount.source == directory.as_os_str() {
            let text = format!(
                "it is mounted through coalescefs already, at {at}: 'coalescefs umount {at}' ends it"
            );
            checks.push(Check::problem("mounted elsewhere", text));
            checks.extend(mounts::look(vec![mount.clone()]));
        } else if mount.mount_point.starts_with(directory) {
            let text = format!(
                "a coalescefs mount is at {at}, in this directory: what is written there through \
                 a mount over this directory would be held twice"
            );
            checks.push(Check::warning("nested use", text));
        }
    }
    checks
}

fn filesystem(directory: &Path, table: &MountTable) -> Option<Check> {
    const NAME: &str = "filesystem";
    let kind = type_name(&table.holding(directory)?.fs_type);
    Some(if TESTED.contains(&kind.as_str()) {
        Check::ok(NAME, kind)
    } else if IN_MEMORY.contains(&kind.as_str()) {
        Check::warning(NAME, format!("{kind} is memory: there is no disk to be gentle to"))
    } else {
        let tested = TESTED.join(", ");
        Check::warning(NAME, format!("{kind} is not among those that are tested: {tested}"))
    })
}

fn probe(directory: &Path) -> Vec<Check> {
    let directory = match places::usable("DIR", directory) {
        Ok(directory) => directory,
        Err(error) => return vec![Check::problem("directory", error.to_string())],
    };
    let mut checks = vec![space(&directory), stripe(&directory)];
    match trial_file(&directory) {
        Ok(file) => {
            checks.push(Check::ok("writing", "this user may make files"));
            checks.extend([direct(&file), reservation(&file), attributes(&file), longest(&file)]);
        }
        Err(error) => checks.push(not_writable(&error)),
    }
    checks
}

/// A file that goes with its descriptor.
fn trial_file(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
}

fn not_writable(error: &io::Error) -> Check {
    let remedy = places::writing_remedy(error);
    Check::problem("writing", format!("no file can be made: {error}; {remedy}"))
}

fn space(directory: &Path) -> Check {
    const NAME: &str = "space";
    let stats = File::open(directory).and_then(|file| backing::fs_stats(file.as_fd()));
    let stats = match stats {
        Ok(stats) => stats,
        Err(error) => return Check::problem(NAME, error.to_string()),
    };
    let free_bytes = stats.bavail.saturating_mul(u64::from(stats.frsize));
    let free = units::size(free_bytes);
    if stats.files > 0 && stats.ffree == 0 {
        return Check::problem(NAME, "no inodes are free: no file can be made; remove some");
    }
    let memory_bytes = resolve::default_memory_bytes(Surroundings::here().ram_bytes);
    if free_bytes >= memory_bytes {
        return Check::ok(NAME, format!("{free} free"));
    }
    let memory = units::size(memory_bytes);
    Check::warning(
        NAME,
        format!(
            "{free} free, less than the {memory} that a mount may hold in memory: what does not \
             fit is known only when it is stored, by an error of fsync or close"
        ),
    )
}

fn stripe(directory: &Path) -> Check {
    let text = match resolve::stripe_below(directory) {
        Some(stripe) => {
            format!("{}, says {}: chunks are multiples", units::size(stripe.bytes), stripe.told_by)
        }
        None => "none is known: nothing to align chunks to".to_owned(),
    };
    Check::ok("stripe", text)
}

fn direct(file: &File) -> Check {
    const NAME: &str = "direct I/O";
    match backing::probe_direct(file.as_fd()).0 {
        DirectIo::Aligned { memory, offset } => Check::ok(
            NAME,
            format!("works, aligned to {offset} bytes in files, {memory} in memory"),
        ),
        DirectIo::Unsupported => Check::warning(
            NAME,
            "not there: bytes go through the page cache a second time, and after a power loss an \
             unsynced file need not be a prefix of what was written",
        ),
    }
}

fn reservation(file: &File) -> Check {
    const NAME: &str = "reserving space";
    match backing::allocate(file.as_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, TRIAL_BYTES) {
        Ok(()) => Check::ok(NAME, "works (fallocate)"),
        Err(error) => {
            let text = format!("{error}: programs that use fallocate see that");
            Check::warning(NAME, text)
        }
    }
}

fn attributes(file: &File) -> Check {
    const NAME: &str = "extended attributes";
    match backing::set_xattr(file.as_fd(), OsStr::new("user.coalescefs"), b"x", 0) {
        Ok(()) => Check::ok(NAME, "work"),
        Err(error) => Check::warning(NAME, format!("{error}: programs that use them see that")),
    }
}

fn longest(file: &File) -> Check {
    const NAME: &str = "longest file";
    let bytes = backing::longest_file_bytes(file.as_fd());
    let text = units::size(bytes);
    if bytes >= 1 << 40 {
        return Check::ok(NAME, text);
    }
    let text = format!("{text}: what is written behind is refused late, by fsync and close");
    Check::warning(NAME, text)
}
