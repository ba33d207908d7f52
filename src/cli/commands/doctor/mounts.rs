//! A mount: what the mount table and its daemon say.

use std::thread;
use std::time::Duration;

use super::Check;
use crate::cli::units;
use crate::clock;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::Status;
use crate::mount::mountinfo::Mount;
use crate::mount::patience::within;

/// A daemon answers within milliseconds, a worker that died is replaced within some hundred.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A process that is younger than this, after another one died, is worth a word.
const RECENT_MS: u64 = 10 * 60 * 1000;
/// A byte that waits for so many times `--max-age` waits for a disk that does not take it.
const AGES_MAX: u64 = 3;
/// Files named in one line.
const FILES_NAMED: usize = 3;

/// Asks all daemons at the same time.
pub(super) fn look(mounts: Vec<Mount>) -> Vec<Check> {
    let asked: Vec<_> =
        mounts.into_iter().map(|mount| thread::spawn(move || look_at(&mount))).collect();
    let answers = asked.into_iter().map(|thread| thread.join().expect("a check does not panic"));
    answers.flatten().collect()
}

fn look_at(mount: &Mount) -> Vec<Check> {
    let what = format!("mount {}", mount.mount_point.display());
    let asked = mount.clone();
    let answer = within(ANSWER_TIMEOUT, move || {
        Client::connect_to(asked).map(|client| client.status().clone())
    });
    match answer {
        Some(Ok(status)) => judge(&what, &status),
        Some(Err(error)) => vec![unanswered(&what, mount, &error)],
        None => vec![Check::problem(
            &what,
            format!(
                "its daemon is there and does not answer within {} s: it is stopped (a debugger, \
                 SIGSTOP) or stuck; programs wait. 'kill -CONT' its processes ('ps -C coalescefs' \
                 shows them), or kill the worker: another takes its place",
                ANSWER_TIMEOUT.as_secs()
            ),
        )],
    }
}

fn unanswered(what: &str, mount: &Mount, error: &ClientError) -> Check {
    match error {
        ClientError::Refused { message, .. } => Check::ok(
            what,
            format!(
                "alive; it is of user {}: {message}",
                mount.user_id().map_or_else(|| "?".to_owned(), |uid| uid.to_string())
            ),
        ),
        _ => Check::problem(what, error.to_string()),
    }
}

fn judge(what: &str, status: &Status) -> Vec<Check> {
    let mut checks = vec![Check::ok(
        what,
        format!(
            "alive for {}, {} waits to be written, {} of {} in memory",
            units::duration_ms(status.uptime_ms),
            units::size(status.backlog_bytes),
            units::size(status.held_bytes),
            units::size(status.memory_bytes)
        ),
    )];
    checks.push(consistency(what, status));
    checks.extend(changed_below(what, status));
    checks.extend(unreachable(what, status));
    checks.extend(failing(what, status));
    checks.extend(deaths(what, status));
    checks.extend(slow(what, status));
    checks.extend(older(what, status));
    if status.bdi != "tuned" {
        checks.push(Check::warning(
            what,
            format!(
                "the kernel's dirty limits of the mount are {}: writers may stall for longer; only \
                 root's mounts can have them",
                status.bdi
            ),
        ));
    }
    checks
}

fn consistency(what: &str, status: &Status) -> Check {
    let words = status.config.consistency_in_words();
    Check::ok(what, format!("files changed below by others: {words}"))
}

fn changed_below(what: &str, status: &Status) -> Option<Check> {
    let last = status.changed_below.first()?;
    let text = format!(
        "{} was changed below by somebody else while it was written here ({} times in all, of any \
         file): what was written here was stored over it; let one node write a file",
        last.path.display(),
        status.files_changed_below
    );
    Some(Check::warning(what, text))
}

fn unreachable(what: &str, status: &Status) -> Option<Check> {
    let (device, outage) = status.outage()?;
    let is_found_again = outage.errno == libc::ENOTCONN && status.config.origin.is_some();
    let advice = match is_found_again {
        true => {
            "if its client died, mount the network filesystem again, anywhere: it is found there"
        }
        false => "look at the network filesystem below",
    };
    let text = format!(
        "waits for the engine (device {device}): {}; the data stays in memory, and programs hear of \
         it after {}: {advice}",
        outage.describe(units::duration_ms),
        units::duration_ms(status.config.patience_ms)
    );
    Some(Check::problem(what, text))
}

fn failing(what: &str, status: &Status) -> Option<Check> {
    let named = status.errors.iter().take(FILES_NAMED).map(|file| {
        let why = file.error.as_deref().unwrap_or("unknown error");
        format!("{} ({}: {why})", file.path.display(), units::size(file.backlog_bytes))
    });
    let named: Vec<String> = named.collect();
    let more = match status.errors.len().saturating_sub(FILES_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!named.is_empty()).then(|| {
        Check::problem(
            what,
            format!(
                "cannot be stored: {}{more}; the data stays in memory and is tried again: mend the \
                 cause (a full disk, rights) before the mount ends",
                named.join(", ")
            ),
        )
    })
}

fn deaths(what: &str, status: &Status) -> Option<Check> {
    let restarts = status.worker_restarts;
    let young = |pid| age_ms(pid).filter(|age_ms| *age_ms < RECENT_MS.min(status.uptime_ms));
    let recent: Vec<String> = [("keeper", status.keeper_pid), ("worker", status.worker_pid)]
        .into_iter()
        .filter_map(|(name, pid)| {
            let age = units::duration_ms(young(pid)?);
            Some(format!("the {name} (process {pid}) is {age} old"))
        })
        .collect();
    match (restarts, recent.is_empty()) {
        (0, _) => None,
        (_, true) => {
            Some(Check::ok(what, format!("processes of it died {restarts} times, not lately")))
        }
        (_, false) => Some(Check::warning(
            what,
            format!(
                "processes of it died {restarts} times, and were replaced: {}; nothing \
                 acknowledged is lost. Its log (--log-file) says why",
                recent.join(", ")
            ),
        )),
    }
}

/// `None` when the process is not seen from here.
fn age_ms(pid: i32) -> Option<u64> {
    // Unlike the arguments, this can be read of a process that hangs.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses comes field 3; field 22 is starttime: proc_pid_stat(5).
    let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(22 - 3)?.parse().ok()?;
    // SAFETY: a system parameter, no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Some(clock::boottime_ms().saturating_sub(ticks * 1000 / per_second))
}

fn slow(what: &str, status: &Status) -> Option<Check> {
    let oldest_ms = status.oldest_age_ms?;
    let is_late = oldest_ms > status.config.max_age_ms.saturating_mul(AGES_MAX);
    is_late.then(|| {
        Check::warning(
            what,
            format!(
                "the oldest byte waits for {}, --max-age is {}: the disk does not keep up",
                units::duration_ms(oldest_ms),
                units::duration_ms(status.config.max_age_ms)
            ),
        )
    })
}

fn older(what: &str, status: &Status) -> Option<Check> {
    let own = env!("CARGO_PKG_VERSION");
    (status.version != own).then(|| {
        let theirs = if status.version.is_empty() { "an older one" } else { &status.version };
        Check::warning(
            what,
            format!("served by version {theirs}, this is {own}: 'coalescefs upgrade' exchanges it"),
        )
    })
}
