//! What the machine has, and what this user may do on it.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Check;
use crate::cli::resolve::{self, Surroundings};
use crate::cli::units;
use crate::mount::{attach, fusermount, machine, namespace, privilege};

/// With what coalescefs works at all, and with what requests of a dead worker are sent again.
const KERNEL_NEEDED: (u32, u32) = (5, 11);
const KERNEL_RESENDS: (u32, u32) = (6, 9);
/// Below this the cache of open backing files is too small for some hundred files at once.
const DESCRIPTORS_WANTED: u64 = 4096;
const FUSE_CONF: &str = "/etc/fuse.conf";

/// All checks. To be called while there is one thread: one of them forks.
pub(super) fn look() -> Vec<Check> {
    let around = Surroundings::here();
    let memory_bytes = resolve::default_memory_bytes(around.ram_bytes);
    let mut checks = vec![kernel(), device(), mounting()];
    if !around.is_root {
        checks.push(other_users(&fs::read_to_string(FUSE_CONF).unwrap_or_default()));
    }
    checks.extend([
        descriptors(),
        locked_memory(memory_bytes, around.is_root),
        memory(memory_bytes, machine::available_bytes()),
    ]);
    checks
}

fn kernel() -> Check {
    // SAFETY: an all-zero utsname is a valid value to be written over.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: writes one structure.
    unsafe { libc::uname(&mut names) };
    // SAFETY: the kernel ended it with a zero byte, or it is all zeros.
    let release = unsafe { CStr::from_ptr(names.release.as_ptr()) };
    judge_kernel(&release.to_string_lossy())
}

fn judge_kernel(release: &str) -> Check {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_RESENDS => {
            Check::ok("kernel", format!("Linux {release}"))
        }
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_NEEDED => Check::warning(
            "kernel",
            format!(
                "Linux {release}: when a process of the daemon dies, requests under way are not \
                 sent again, and programs that wait for one hang until they are killed; 6.9 and \
                 later do"
            ),
        ),
        (Some(_), Some(_)) => {
            Check::problem("kernel", format!("Linux {release}: 5.11 or later is needed"))
        }
        _ => Check::warning("kernel", format!("version {release} is not understood")),
    }
}

fn device() -> Check {
    match attach::check_device() {
        Ok(()) => Check::ok("/dev/fuse", "can be opened by this user"),
        Err(error) => Check::problem("/dev/fuse", error.to_string()),
    }
}

fn mounting() -> Check {
    const NAME: &str = "mounting";
    if privilege::has_sys_admin() {
        return Check::ok(NAME, "this user mounts without a helper");
    }
    let why_not = match fusermount::find() {
        None => "there is no fusermount3: install the fuse3 package".to_owned(),
        Some(helper) if is_setuid(&helper) => {
            return Check::ok(NAME, format!("by {}", helper.display()));
        }
        Some(helper) => {
            let helper = helper.display();
            format!(
                "{helper} is not setuid root: as root, 'chown root {0}; chmod u+s {helper}'",
                helper
            )
        }
    };
    if namespaces_work() {
        return Check::warning(
            NAME,
            format!(
                "'coalescefs run' works, by user namespaces; 'coalescefs mount' does not: {why_not}"
            ),
        );
    }
    Check::problem(NAME, format!("{why_not}; user namespaces are not allowed either"))
}

fn is_setuid(helper: &Path) -> bool {
    let is_setuid = |meta: fs::Metadata| {
        meta.uid() == 0 && meta.permissions().mode() & libc::S_ISUID == libc::S_ISUID
    };
    helper.metadata().is_ok_and(is_setuid)
}

/// By trying, in a child: too many settings can forbid it.
fn namespaces_work() -> bool {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: this process has one thread, so the child may do anything between fork and exec.
    unsafe { command.pre_exec(|| namespace::enter_private().map(drop)) };
    command.status().is_ok_and(|status| status.success())
}

fn other_users(fuse_conf: &str) -> Check {
    let is_allowed = fuse_conf.lines().any(|line| line.trim() == "user_allow_other");
    let text = if is_allowed {
        "--allow-other may be given"
    } else {
        "kept out of mounts of this user, root included; for --allow-other root adds \
         'user_allow_other' to /etc/fuse.conf"
    };
    Check::ok("other users", text)
}

fn hard_limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit. Cannot fail for a limit that exists.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit.rlim_max
}

fn descriptors() -> Check {
    let limit = hard_limit(libc::RLIMIT_NOFILE);
    if limit >= DESCRIPTORS_WANTED {
        return Check::ok("open files", format!("up to {limit}"));
    }
    Check::warning(
        "open files",
        format!(
            "no more than {limit}: with as many files written at once each turn has to open its \
             file again; 'ulimit -Hn {DESCRIPTORS_WANTED}', or LimitNOFILE= of a service"
        ),
    )
}

fn locked_memory(memory_bytes: u64, is_root: bool) -> Check {
    const NAME: &str = "locked memory";
    let limit = hard_limit(libc::RLIMIT_MEMLOCK);
    match limit {
        _ if is_root => Check::ok(NAME, "no limit for root"),
        libc::RLIM_INFINITY => Check::ok(NAME, "no limit"),
        _ if limit >= memory_bytes => Check::ok(NAME, format!("up to {}", units::size(limit))),
        _ => Check::warning(
            NAME,
            format!(
                "no more than {} of the {} of --memory: the rest may be swapped out, and writers \
                 then wait for the swap; raise 'memlock' in /etc/security/limits.conf",
                units::size(limit),
                units::size(memory_bytes)
            ),
        ),
    }
}

fn memory(default_bytes: u64, available_bytes: u64) -> Check {
    let (default, available) = (units::size(default_bytes), units::size(available_bytes));
    if available_bytes >= default_bytes {
        let text = format!("{available} available, --memory is {default} unless it is given");
        return Check::ok("memory", text);
    }
    Check::warning(
        "memory",
        format!(
            "{available} available (limits of containers and services counted), and --memory is \
             {default} unless it is given: give less, --memory {} at most, else the daemon may be \
             killed, and what it holds is lost",
            units::size(available_bytes / 2)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn kernels() {
        for (release, verdict) in [
            ("6.12.3-arch1-1", Verdict::Ok),
            ("6.9-rc1+", Verdict::Ok),
            ("10.0", Verdict::Ok),
            ("6.8.0-generic", Verdict::Warning),
            ("5.11.0", Verdict::Warning),
            ("5.10.0", Verdict::Problem),
            ("4.19", Verdict::Problem),
            ("strange", Verdict::Warning),
        ] {
            assert_eq!(judge_kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn what_root_allows_other_users() {
        assert!(other_users("# user_allow_other\n").text.contains("adds"));
        assert!(other_users("mount_max = 9\n user_allow_other\n").text.contains("may be given"));
    }

    #[test]
    fn too_little_memory_names_a_size_that_fits() {
        assert_eq!(memory(1 << 30, 1 << 30).verdict, Verdict::Ok);
        let tight = memory(1 << 30, 512 << 20);
        assert_eq!(tight.verdict, Verdict::Warning);
        assert!(tight.text.contains("--memory 256 MiB at most"), "{}", tight.text);
    }
}
