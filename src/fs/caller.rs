//! Who asks, and what he may do beyond what the request says: looked up in /proc, where his thread
//! waits for our answer, and only for the few operations whose outcome depends on it.
//!
//! The kernel could send the groups with the request (FUSE_CREATE_SUPP_GROUP), and say when
//! set-id bits are to go (FATTR_KILL_SUIDGID); fuser hands neither on.

use std::fs::{self, File};
use std::io::Read;

use crate::backing::Credentials;

/// CAP_FSETID of capabilities(7): its holder's writes and truncations leave set-id bits alone.
const CAP_FSETID: u64 = 1 << 4;
/// CAP_SYS_ADMIN.
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// As much of a command line as is looked at.
const COMMAND_BYTES_MAX: u64 = 64 << 10;

/// On whose behalf something is done.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Filesystem user id of the calling process.
    pub uid: u32,
    /// Filesystem group id of the calling process.
    pub gid: u32,
    /// Thread id; 0 when the caller is in a pid namespace that we do not see.
    pub pid: u32,
    /// The request's number: the same when it is sent again.
    pub unique: u64,
    /// The request was sent before, to a worker that died before it answered.
    pub is_repeated: bool,
}

/// What /proc says of a caller.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rights {
    groups: Vec<u32>,
    effective_capabilities: u64,
}

impl Caller {
    /// What a new file is made with.
    pub(super) fn credentials(&self, umask: u32) -> Credentials {
        Credentials { uid: self.uid, gid: self.gid, umask, group: None }
    }

    /// Whether one of the caller's groups is `gid`. `false` when that cannot be found out.
    pub(super) fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.rights().is_some_and(|rights| rights.groups.contains(&gid))
    }

    /// Whether the caller's writes leave set-id bits alone.
    pub(super) fn keeps_set_ids(&self) -> bool {
        self.has_capability(CAP_FSETID)
    }

    /// Whether the caller may see `trusted` attributes.
    pub(super) fn is_admin(&self) -> bool {
        self.has_capability(CAP_SYS_ADMIN)
    }

    /// Whether `name` stands in the command line of the calling process, also with its characters
    /// escaped by backslashes, as in a pattern. `false` when that cannot be found out. Waits for as
    /// long as another thread of that process holds its memory map: who means harm decides how long.
    pub(super) fn mentions(&self, name: &[u8]) -> bool {
        if self.pid == 0 {
            return false;
        }
        let mut command = Vec::new();
        let read = File::open(format!("/proc/{}/cmdline", self.pid))
            .and_then(|file| file.take(COMMAND_BYTES_MAX).read_to_end(&mut command));
        command.retain(|byte| *byte != b'\\');
        read.is_ok() && command.windows(name.len()).any(|part| part == name)
    }

    fn has_capability(&self, capability: u64) -> bool {
        match self.rights() {
            Some(rights) => rights.effective_capabilities & capability != 0,
            None => self.uid == 0,
        }
    }

    fn rights(&self) -> Option<Rights> {
        if self.pid == 0 {
            return None;
        }
        fs::read_to_string(format!("/proc/{}/status", self.pid)).ok().map(|text| parse(&text))
    }
}

/// The lines of /proc/PID/status that matter here; see proc_pid_status(5).
fn parse(status: &str) -> Rights {
    let mut rights = Rights::default();
    for line in status.lines() {
        match line.split_once(':') {
            Some(("Groups", ids)) => {
                rights.groups = ids.split_whitespace().filter_map(|id| id.parse().ok()).collect();
            }
            Some(("CapEff", set)) => {
                rights.effective_capabilities = u64::from_str_radix(set.trim(), 16).unwrap_or(0);
            }
            _ => {}
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_capabilities_are_read() {
        let status = "Name:\tx\nGid:\t5\t5\t5\t5\nGroups:\t4 24 1000 \nCapEff:\t0000000000000010\n";
        let rights = Rights { groups: vec![4, 24, 1000], effective_capabilities: CAP_FSETID };
        assert_eq!(parse(status), rights);
        assert_eq!(parse("Groups:\t \nCapEff:\t0\n"), Rights::default());
    }

    #[test]
    fn this_process_is_known() {
        // SAFETY: reads ids of this process.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let caller = Caller { uid, gid, pid: std::process::id(), unique: 2, is_repeated: false };
        assert!(caller.is_in_group(gid));
        assert!(!caller.is_in_group(u32::MAX - 7));
        let unknown = Caller { uid: 1, pid: 0, ..caller };
        assert!(!unknown.keeps_set_ids());
        let program = std::env::args().next().unwrap();
        assert!(caller.mentions(program.as_bytes()) && !caller.mentions(b"user.coalescefs"));
        assert!(!unknown.mentions(program.as_bytes()));
    }
}
