//! The kernel's limits for the dirty pages of a mount, in `/sys/class/bdi/MAJOR:MINOR`.
//!
//! By default the kernel lets a FUSE mount have 1% of the dirty limit, strictly: little on a small
//! machine, where WRITE requests stay small. Not strictly, a limit counts only when the whole
//! machine comes near its own, and the kernel hoards: a few programs run away with gigabytes before
//! their first byte reaches us. So: strictly, and about as much as is in flight anyway. The kernel's
//! throttle is rough when the limit is met (it takes seconds to learn a rate, and holds single
//! programs for as long): see `fs/gate.rs` for what keeps programs from meeting it.
//! Called by the keeper once requests are answered: the INIT reply sets the read-ahead anew.

use std::io;
use std::path::Path;

use super::mountinfo::Device;

/// What may be in flight between the kernel and the worker: requests of 1 MiB, several for each of
/// a few dozen files. More would be memory that `--memory` does not count.
const DIRTY_BYTES: u64 = 64 << 20;
/// But never more than this part of `--memory`: what is in flight must find room there.
const DIRTY_PART_OF_MEMORY: u64 = 8;
/// Sequential readers get requests as large as a WRITE; the default of 128 KiB costs round trips.
const READ_AHEAD_KIB: u64 = 1024;

/// Tunes the mount with that device number. Returns 0, or the errno of the first thing that could
/// not be set: usually EACCES, without root.
pub fn tune(device: Device, memory_bytes: u64) -> i32 {
    let dir = format!("/sys/class/bdi/{device}");
    match tune_at(Path::new(&dir), memory_bytes) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn tune_at(dir: &Path, memory_bytes: u64) -> io::Result<()> {
    let dirty_bytes = DIRTY_BYTES.min(memory_bytes / DIRTY_PART_OF_MEMORY);
    // Writing these files creates nothing: sysfs refuses to make new ones.
    let set = |name: &str, value: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(dir.join(name));
        file.and_then(|mut file| io::Write::write_all(&mut file, value.to_string().as_bytes()))
    };
    let read_ahead = set("read_ahead_kb", READ_AHEAD_KIB);
    set("strict_limit", 1)?;
    match set("max_bytes", dirty_bytes) {
        // Before Linux 6.2 there is only the percentage.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            set("max_ratio", percentage(dirty_bytes, dirty_limit_bytes()?))?;
        }
        result => result?,
    }
    read_ahead
}

fn percentage(dirty_bytes: u64, limit_bytes: u64) -> u64 {
    (dirty_bytes.saturating_mul(100) / limit_bytes.max(1)).clamp(1, 100)
}

/// About what the machine's dirty limit is: exact only to the kernel.
fn dirty_limit_bytes() -> io::Result<u64> {
    let number = |path: &str| -> io::Result<u64> {
        let text = std::fs::read_to_string(path)?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    match number("/proc/sys/vm/dirty_bytes")? {
        0 => Ok(super::machine::ram_bytes() / 100 * number("/proc/sys/vm/dirty_ratio")?),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake_bdi(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    fn value(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn limits_by_bytes_where_the_kernel_can() {
        let dir = fake_bdi(&["strict_limit", "max_bytes", "max_ratio", "read_ahead_kb"]);
        tune_at(dir.path(), 1 << 30).unwrap();
        assert_eq!(value(&dir, "strict_limit"), "1");
        assert_eq!(value(&dir, "max_bytes"), (64u64 << 20).to_string());
        assert_eq!(value(&dir, "max_ratio"), "");
        assert_eq!(value(&dir, "read_ahead_kb"), "1024");
    }

    #[test]
    fn never_more_than_an_eighth_of_the_memory() {
        let dir = fake_bdi(&["strict_limit", "max_bytes", "read_ahead_kb"]);
        tune_at(dir.path(), 8 << 20).unwrap();
        assert_eq!(value(&dir, "max_bytes"), (1u64 << 20).to_string());
    }

    #[test]
    fn limits_by_ratio_on_older_kernels() {
        let dir = fake_bdi(&["strict_limit", "max_ratio", "read_ahead_kb"]);
        tune_at(dir.path(), 1 << 30).unwrap();
        let ratio: u64 = value(&dir, "max_ratio").parse().unwrap();
        assert!((1..=100).contains(&ratio));
        assert_eq!(percentage(64 << 20, 1 << 30), 6);
        assert_eq!(percentage(64 << 20, 1 << 20), 100);
        assert_eq!(percentage(1, 1 << 40), 1);
    }

    #[test]
    fn says_what_is_missing() {
        let dir = fake_bdi(&[]);
        assert_eq!(tune_at(dir.path(), 1).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
}
