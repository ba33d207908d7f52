//! Which processes keep a mount busy: best effort, for a message.
//!
//! Reads /proc only and never follows a link into the mount. What belongs to processes of other
//! users is not visible to an ordinary user. A look at a process may hang for as long as that is in
//! the middle of an exec, or of a change of its memory, on a filesystem that does not answer: others
//! are looked at meanwhile, for two seconds in all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::mount::mountinfo::Mount;

/// Processes named in the message.
const NAMED_MAX: usize = 5;
/// So long nobody has answered before one more thread looks on.
const STALL: Duration = Duration::from_millis(100);
const THREADS_MAX: usize = 16;
const PATIENCE: Duration = Duration::from_secs(2);

struct Holder {
    pid: i32,
    parent: Option<i32>,
    name: String,
}

/// Names some of the processes that use `mount`, as `bash (123), cat (124) and 3 more`; `None` when
/// none can be seen. `except` are the daemon's own, which use the backing directory of that name.
/// Waits for two seconds at most.
pub fn describe(mount: &Mount, except: &[i32]) -> Option<String> {
    let mut pids = process_ids();
    pids.retain(|pid| !except.contains(pid));
    let mount = mount.clone();
    let mut holders = look_at_all(pids, PATIENCE, move |pid| look_at(pid, &mount));
    leave_out_heirs(&mut holders, std::process::id() as i32);
    let mut words: Vec<String> = holders
        .iter()
        .take(NAMED_MAX)
        .map(|holder| format!("{} ({})", holder.name, holder.pid))
        .collect();
    if holders.len() > NAMED_MAX {
        let more = format!("{} more", holders.len() - NAMED_MAX);
        return Some(format!("{} and {more}", words.join(", ")));
    }
    let last = words.pop()?;
    Some(if words.is_empty() { last } else { format!("{} and {last}", words.join(", ")) })
}

/// Those of `pids` of which `look` returns something, ascending. A thread that hangs is left behind.
fn look_at_all(
    pids: Vec<i32>,
    patience: Duration,
    look: impl Fn(i32) -> Option<Holder> + Send + Sync + 'static,
) -> Vec<Holder> {
    let until = Instant::now() + patience;
    let (sender, answers) = channel();
    let (mut unanswered, mut threads) = (pids.len(), 0);
    let all = Arc::new((pids, AtomicUsize::new(0), look));
    let mut holders = Vec::new();
    let begin = |sender: Sender<Option<Holder>>| {
        let all = all.clone();
        std::thread::spawn(move || {
            let (pids, next, look) = &*all;
            // Nobody listens any more: the message is out.
            while let Some(pid) = pids.get(next.fetch_add(1, Ordering::Relaxed))
                && sender.send(look(*pid)).is_ok()
            {}
        });
    };
    while unanswered > 0 && Instant::now() < until {
        match answers.recv_timeout(if threads == 0 { Duration::ZERO } else { STALL }) {
            Ok(found) => {
                unanswered -= 1;
                holders.extend(found);
            }
            Err(RecvTimeoutError::Timeout) if threads < THREADS_MAX => {
                threads += 1;
                begin(sender.clone());
            }
            Err(_) => {}
        }
    }
    holders.sort_unstable_by_key(|holder| holder.pid);
    holders
}

fn look_at(pid: i32, mount: &Mount) -> Option<Holder> {
    holds(pid, mount).then(|| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Holder { pid, parent: parent_of(pid), name: name.trim_end().to_owned() }
    })
}

/// This process and those above it only have what the first of them to hold the mount left to them: a
/// shell that works in it, or has opened a file for all it starts.
fn leave_out_heirs(holders: &mut Vec<Holder>, mut pid: i32) {
    let mut parent = parent_of(pid);
    while let Some(above) = holders.iter().find(|holder| Some(holder.pid) == parent) {
        parent = above.parent;
        let heir = std::mem::replace(&mut pid, above.pid);
        holders.retain(|holder| holder.pid != heir);
    }
}

/// The fourth word of proc_pid_stat(5); a name before it may hold spaces and brackets.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn process_ids() -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

fn holds(pid: i32, mount: &Mount) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let lies_in = |link: &str| {
        fs::read_link(proc.join(link)).is_ok_and(|path| path.starts_with(&mount.mount_point))
    };
    lies_in("cwd") || lies_in("root") || has_open(&proc, mount.id) || has_mapped(&proc, mount)
}

/// By mount id: a descriptor opened before the mount was made has the same path and another id.
fn has_open(proc: &Path, mount_id: u32) -> bool {
    let wanted = format!("mnt_id:\t{mount_id}");
    let infos = fs::read_dir(proc.join("fdinfo")).into_iter().flatten().filter_map(Result::ok);
    infos
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|info| info.lines().any(|line| line == wanted))
}

/// `ADDRESS PERMISSIONS OFFSET MAJOR:MINOR INODE PATH`, numbers in hexadecimal.
fn has_mapped(proc: &Path, mount: &Mount) -> bool {
    let wanted = format!("{:02x}:{:02x}", mount.device.major, mount.device.minor);
    fs::read_to_string(proc.join("maps"))
        .is_ok_and(|maps| maps.lines().any(|line| line.split(' ').nth(3) == Some(&wanted)))
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::mount::mountinfo::MountTable;

    /// Goal: a process is found by its open file. Method: this one, and the filesystem of a
    /// temporary file; then the same with this process excepted.
    #[test]
    fn this_process_holds_its_own_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        let table = MountTable::read().unwrap();
        let mount = path.ancestors().find_map(|above| table.top_at(above)).unwrap().clone();
        let own_pid = std::process::id() as i32;
        assert!(holds(own_pid, &mount));
        assert!(has_open(&PathBuf::from(format!("/proc/{own_pid}")), mount.id));
        let nowhere = Mount { id: u32::MAX, mount_point: "/nowhere".into(), ..mount };
        let nowhere = Mount {
            device: crate::mount::mountinfo::Device { major: 0, minor: 0xffff },
            ..nowhere
        };
        assert!(!holds(own_pid, &nowhere));
        assert_eq!(describe(&nowhere, &[]), None);
    }

    fn holder(pid: i32, parent: Option<i32>) -> Holder {
        Holder { pid, parent, name: format!("p{pid}") }
    }

    fn pids(holders: &[Holder]) -> Vec<i32> {
        holders.iter().map(|holder| holder.pid).collect()
    }

    /// Goal: of the processes above this one only the first that holds the mount is named.
    #[test]
    fn heirs_are_left_out() {
        let own_pid = std::process::id() as i32;
        let parent = parent_of(own_pid).unwrap();
        for (holding, left) in [
            (vec![parent, own_pid, i32::MAX], vec![parent, i32::MAX]),
            (vec![own_pid, i32::MAX], vec![own_pid, i32::MAX]),
            (vec![i32::MAX], vec![i32::MAX]),
        ] {
            let mut holders: Vec<Holder> =
                holding.into_iter().map(|pid| holder(pid, None)).collect();
            leave_out_heirs(&mut holders, own_pid);
            assert_eq!(pids(&holders), left);
        }
    }

    /// Goal: processes that cannot be looked at do not keep the others from being looked at. Method: a
    /// look at some ends only after that at all others.
    #[test]
    fn who_cannot_be_looked_at_is_passed_over() {
        let hangs = |pid: &i32| pid % 10 == 3;
        let others = (1..=20).filter(|pid| !hangs(pid)).count();
        let seen = (Mutex::new(0), Condvar::new());
        let look = move |pid| {
            let mut count = seen.0.lock().unwrap();
            if hangs(&pid) {
                drop(seen.1.wait_while(count, |count| *count < others));
            } else {
                *count += 1;
                seen.1.notify_all();
            }
            (pid % 2 == 0).then(|| holder(pid, None))
        };
        let found = look_at_all((1..=20).collect(), Duration::from_secs(60), look);
        assert_eq!(pids(&found), (1..=10).map(|half| 2 * half).collect::<Vec<_>>());
    }

    /// Goal: nobody is waited for longer than that.
    #[test]
    fn patience_ends() {
        let (hold, held) = channel::<()>();
        let held = Mutex::new(held);
        let look = move |_| {
            let _ = held.lock().map(|held| held.recv());
            None
        };
        assert!(look_at_all(vec![1], Duration::ZERO, look).is_empty());
        drop(hold);
    }
}
