//! The generic options of mount(8), as `-o` takes them: what each means to mount(2) and to
//! `fusermount3`. Pure but for the flags of the backing filesystem.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Flags of mount(2): `MS_*`.
pub type Flags = libc::c_ulong;

/// A restriction or habit that a mount may have.
struct Generic {
    /// Turns it on.
    name: &'static str,
    /// Turns it off; empty when nothing does.
    opposite: &'static str,
    flag: Flags,
    /// The same in `f_flag` of statvfs(3), for what is taken over from the backing filesystem.
    on_backing: libc::c_ulong,
}

const fn generic(
    name: &'static str,
    opposite: &'static str,
    flag: Flags,
    on_backing: libc::c_ulong,
) -> Generic {
    Generic { name, opposite, flag, on_backing }
}

/// All that there are. FUSE has no atime of its own, so `relatime` and the like change what
/// /proc/self/mountinfo shows, and nothing else; they are here because lines of fstab have them. Of
/// modification times it has: see `lazytime` in docs/tuning.md.
const ALL: [Generic; 11] = [
    generic("ro", "rw", libc::MS_RDONLY, libc::ST_RDONLY),
    generic("nosuid", "suid", libc::MS_NOSUID, libc::ST_NOSUID),
    generic("nodev", "dev", libc::MS_NODEV, libc::ST_NODEV),
    generic("noexec", "exec", libc::MS_NOEXEC, libc::ST_NOEXEC),
    generic("noatime", "atime", libc::MS_NOATIME, libc::ST_NOATIME),
    generic("nodiratime", "diratime", libc::MS_NODIRATIME, 0),
    generic("relatime", "norelatime", libc::MS_RELATIME, 0),
    generic("strictatime", "nostrictatime", libc::MS_STRICTATIME, 0),
    generic("lazytime", "nolazytime", libc::MS_LAZYTIME, 0),
    generic("dirsync", "", libc::MS_DIRSYNC, 0),
    generic("sync", "async", libc::MS_SYNCHRONOUS, 0),
];

/// What fusermount3 knows of them by name; the others it refuses, and they restrict nothing.
const KNOWN_TO_HELPER: Flags =
    libc::MS_RDONLY | libc::MS_NOEXEC | libc::MS_NOATIME | libc::MS_DIRSYNC | libc::MS_SYNCHRONOUS;

/// What a list of options asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    on: Flags,
    off: Flags,
}

impl Change {
    /// `flags` after this change.
    pub fn applied_to(self, flags: Flags) -> Flags {
        flags & !self.off | self.on
    }
}

/// Options separated by commas, a later one winning over an earlier one. `Err` is one line that
/// names the first that is not known.
pub fn parse(list: &str) -> Result<Change, String> {
    let mut change = Change::default();
    for option in list.split(',').filter(|option| !matches!(*option, "" | "defaults")) {
        let known = ALL.iter().find(|generic| option == generic.name || option == generic.opposite);
        let generic = known.ok_or_else(|| unknown(option))?;
        let (asked, other) = match option == generic.name {
            true => (&mut change.on, &mut change.off),
            false => (&mut change.off, &mut change.on),
        };
        *asked |= generic.flag;
        *other &= !generic.flag;
    }
    Ok(change)
}

fn unknown(option: &str) -> String {
    let names: Vec<_> = ALL.iter().map(|generic| generic.name).collect();
    format!(
        "'{option}' is none of {} and their opposites; options of coalescefs itself are given as \
         --{}, or in fstab",
        names.join(", "),
        option.split('=').next().unwrap_or_default().replace('_', "-")
    )
}

/// The flags that the backing filesystem is mounted with, so that what is forbidden there is
/// forbidden here; for ordinary users also what every user mount has.
pub fn of_backing(backing: BorrowedFd<'_>) -> Flags {
    // SAFETY: an all-zero statvfs is a valid value to be written over.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: valid descriptor and structure. Should it fail, no flag is taken over.
    unsafe { libc::fstatvfs(backing.as_raw_fd(), &mut stat) };
    let taken_over = ALL.iter().filter(|generic| stat.f_flag & generic.on_backing != 0);
    let flags = taken_over.fold(0, |flags, generic| flags | generic.flag);
    // SAFETY: no arguments, cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if is_root { flags } else { flags | libc::MS_NOSUID | libc::MS_NODEV }
}

/// The flags in the helper's words. nosuid and nodev it adds itself.
pub fn for_helper(flags: Flags) -> impl Iterator<Item = String> {
    let wanted = flags & KNOWN_TO_HELPER;
    ALL.iter().filter(move |generic| wanted & generic.flag != 0).map(|it| it.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_wins_and_the_unknown_is_named() {
        let flags = |list| parse(list).unwrap().applied_to(libc::MS_NODEV);
        assert_eq!(flags(""), libc::MS_NODEV);
        assert_eq!(flags("defaults,dev,ro,nosuid"), libc::MS_RDONLY | libc::MS_NOSUID);
        assert_eq!(flags("ro,rw,exec,noexec"), libc::MS_NODEV | libc::MS_NOEXEC);
        assert_eq!(flags("lazytime"), libc::MS_NODEV | libc::MS_LAZYTIME);
        let error = parse("ro,max_age=3s").unwrap_err();
        assert!(error.contains("'max_age=3s'") && error.contains("--max-age,"), "{error}");
    }

    #[test]
    fn the_helper_is_told_what_it_knows() {
        let flags = parse("ro,nosuid,relatime,noexec").unwrap().applied_to(0);
        assert_eq!(for_helper(flags).collect::<Vec<_>>(), ["ro", "noexec"]);
    }
}
