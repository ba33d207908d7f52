//! How much memory the machine has.

use std::fs;
use std::path::PathBuf;

/// Bytes of RAM the kernel manages. Never 0.
pub fn ram_bytes() -> u64 {
    // SAFETY: two system parameters, no pointers.
    let (pages, page_bytes) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    // -1 would mean that the C library does not know the name: a machine this does not run on.
    (pages.max(1) as u64).saturating_mul(page_bytes.max(4096) as u64)
}

/// What the machine has to give, and this process's control groups allow.
pub fn available_bytes() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = table.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?;
        kib.parse::<u64>().ok()?.checked_mul(1024)
    });
    let of_machine = available.unwrap_or_else(ram_bytes);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Version 2; nobody is in a group of version 1 that limits memory and in this one.
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = PathBuf::from("/sys/fs/cgroup").join(group.unwrap_or_default());
    let limits = group.ancestors().filter_map(|group| {
        let number = |name: &str| -> Option<u64> {
            fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
        };
        Some(number("memory.max")?.saturating_sub(number("memory.current")?))
    });
    limits.fold(of_machine, u64::min)
}
