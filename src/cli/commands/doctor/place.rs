//! A directory that is to be mounted over: what a mount would find there.
//!
//! Makes a directory to try things in, see `backing::probe`; nothing is left behind.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::{Check, Verdict, mounts};
use crate::backing::{self, Abilities, DirectIo, Stripe};
use crate::cli::args::ConsistencyOption;
use crate::cli::below::{self, Below};
use crate::cli::resolve::{self, Kind, Surroundings};
use crate::cli::{places, units};
use crate::mount::mountinfo::{MountTable, type_name};
use crate::mount::patience::within;

/// For a disk that is slow, not for one that is away.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Filesystems that the tests run on.
const TESTED: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// Those that are memory themselves.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// All checks of a directory, whose path has no links and leads through no mount of ours.
pub(super) fn look(directory: &Path, table: &MountTable) -> Vec<Check> {
    let mut checks = others(directory, table);
    checks.extend(filesystem(directory, table));
    let (mode, why) = resolve::consistency(ConsistencyOption::Auto, &Kind::of(directory));
    let text = format!("a mount would be {} by default: {why}", mode.name());
    checks.push(Check::ok("consistency", text));
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
    let Below { stripe, abilities, refusal } = match below::look(&directory) {
        Ok(below) => below,
        Err(error) => return vec![Check::problem("directory", error.to_string())],
    };
    let mut checks = vec![space(&directory), stripes(stripe)];
    match refusal {
        None => checks.push(Check::ok("writing", "this user may make files")),
        Some(error) => checks.push(not_writable(&error)),
    }
    checks.extend(direct(&abilities));
    checks.extend(yes_or_no(&abilities));
    checks.extend([names(&abilities)].into_iter().chain(longest(&abilities)));
    checks.extend(times(&abilities));
    checks
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

fn stripes(stripe: Option<Stripe>) -> Check {
    let text = match stripe {
        Some(Stripe { bytes, count, told_by }) => {
            let side_by_side = match count {
                0 | 1 => String::new(),
                count => format!(", {count} side by side"),
            };
            let size = units::size(bytes);
            format!("{size}{side_by_side}, says {told_by}: chunks end where stripes do")
        }
        None => "none is known: nothing to align chunks to".to_owned(),
    };
    Check::ok("stripe", text)
}

fn direct(abilities: &Abilities) -> Option<Check> {
    const NAME: &str = "direct I/O";
    Some(match abilities.direct_io? {
        DirectIo::Aligned { memory, offset } => Check::ok(
            NAME,
            format!("works, aligned to {offset} bytes in files, {memory} in memory"),
        ),
        DirectIo::Unsupported => Check::warning(
            NAME,
            "not there: bytes go through the page cache a second time, and after a power loss an \
             unsynced file need not be a prefix of what was written",
        ),
    })
}

/// What is there or not; no line for what is not known.
fn yes_or_no(abilities: &Abilities) -> impl Iterator<Item = Check> {
    let all = [
        ("reserving space", abilities.allocates, "fallocate"),
        ("reserving behind the end", abilities.allocates_behind, "fallocate with KEEP_SIZE"),
        ("punching holes", abilities.punches_holes, "fallocate with PUNCH_HOLE"),
        ("extended attributes", abilities.has_attributes, "user.*"),
        ("ACLs", abilities.has_acls, "POSIX"),
        ("hard links", abilities.has_hard_links, "link"),
        ("symlinks", abilities.has_symlinks, "symlink"),
        ("renaming to new names", abilities.renames_noreplace, "RENAME_NOREPLACE"),
        ("exchanging names", abilities.renames_exchange, "RENAME_EXCHANGE"),
        ("file handles", abilities.has_handles, "name_to_handle_at"),
        ("opening beneath", abilities.opens_beneath, "openat2 with RESOLVE_BENEATH"),
    ];
    all.into_iter().filter_map(|(name, answer, what)| {
        Some(match answer? {
            true => Check::ok(name, format!("works ({what})")),
            false => {
                let text = format!("not there ({what}): programs that use it see that");
                Check::warning(name, text)
            }
        })
    })
}

fn names(abilities: &Abilities) -> Check {
    let longest = match abilities.name_bytes_max {
        Some(bytes) => format!("up to {bytes} bytes"),
        None => "how long they may be is not known".to_owned(),
    };
    let (verdict, case) = match abilities.folds_case {
        Some(true) => (
            Verdict::Warning,
            ", whose case does not matter: the mount tells apart what \
                                          the filesystem does not",
        ),
        Some(false) => (Verdict::Ok, ", whose case matters"),
        None => (Verdict::Ok, ""),
    };
    Check::new(verdict, "names", format!("{longest}{case}"))
}

fn longest(abilities: &Abilities) -> Option<Check> {
    const NAME: &str = "longest file";
    let bytes = abilities.file_bytes_max?;
    let text = units::size(bytes);
    if bytes >= 1 << 40 {
        return Some(Check::ok(NAME, text));
    }
    let text = format!("{text}: what is written behind is refused late, by fsync and close");
    Some(Check::warning(NAME, text))
}

fn times(abilities: &Abilities) -> Option<Check> {
    let step = abilities.time_step_ns?;
    let tried = abilities.took_us as f64 / 1e3;
    let text = format!("kept to {}; to try all of this took {tried:.1} ms", below::time_step(step));
    Some(Check::ok("times", text))
}
