//! Which processes keep a mount busy: best effort, for a message.
//!
//! Reads /proc only and never follows a link into the mount. What belongs to processes of other
//! users is not visible to an ordinary user.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mount::mountinfo::Mount;

/// Processes named in the message.
const NAMED_MAX: usize = 5;

/// Names some of the processes that use `mount`, as `bash (123), cat (124) and 3 more`; `None` when
/// none can be seen. `except` are the daemon's own, which use the backing directory of that name.
pub fn describe(mount: &Mount, except: &[i32]) -> Option<String> {
    let mut holders: Vec<i32> = process_ids()
        .into_iter()
        .filter(|pid| !except.contains(pid) && holds(*pid, mount))
        .collect();
    leave_out_heirs(&mut holders, std::process::id() as i32);
    if holders.is_empty() {
        return None;
    }
    let mut words: Vec<String> = holders
        .iter()
        .take(NAMED_MAX)
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} ({pid})", name.trim_end())
        })
        .collect();
    if holders.len() > NAMED_MAX {
        let more = format!("{} more", holders.len() - NAMED_MAX);
        return Some(format!("{} and {more}", words.join(", ")));
    }
    let last = words.pop()?;
    Some(if words.is_empty() { last } else { format!("{} and {last}", words.join(", ")) })
}

/// This process and those above it only have what the first of them to hold the mount left to them: a
/// shell that works in it, or has opened a file for all it starts.
fn leave_out_heirs(holders: &mut Vec<i32>, mut pid: i32) {
    while let Some(parent) = parent_of(pid).filter(|parent| holders.contains(parent)) {
        holders.retain(|holder| *holder != pid);
        pid = parent;
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

    /// Goal: of the processes above this one only the first that holds the mount is named.
    #[test]
    fn heirs_are_left_out() {
        let own_pid = std::process::id() as i32;
        let parent = parent_of(own_pid).unwrap();
        for (mut holders, left) in [
            (vec![parent, own_pid, i32::MAX], vec![parent, i32::MAX]),
            (vec![own_pid, i32::MAX], vec![own_pid, i32::MAX]),
            (vec![i32::MAX], vec![i32::MAX]),
        ] {
            leave_out_heirs(&mut holders, own_pid);
            assert_eq!(holders, left);
        }
    }
}
