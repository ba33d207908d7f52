//! `/proc/self/mountinfo`: what is mounted where, in this mount namespace.
//!
//! Reading it never waits for a filesystem, unlike stat(2) on a mountpoint; so this is how
//! everybody here finds out whether a mount is there. The format: proc_pid_mountinfo(5).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FS_TYPE;

/// Device number of a mounted filesystem: unique among live ones, over all namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Major number; 0 for filesystems without a block device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Device {
    /// From the `st_dev` of stat(2).
    pub fn from_st_dev(st_dev: u64) -> Device {
        Device { major: libc::major(st_dev), minor: libc::minor(st_dev) }
    }
}

/// As `/sys/class/bdi` writes it: `0:50`.
impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Types of filesystems that are another process's or another machine's, as far as they end in no dot: `fuse.sshfs` is one of `fuse`. Not `fuseblk`, which
/// is a disk of this machine.
const ELSEWHERE: [&str; 16] = [
    "fuse",
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "virtiofs",
    "ceph",
    "afs",
    "lustre",
    "beegfs",
    "gpfs",
    "orangefs",
    "pvfs2",
    "glusterfs",
];

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount id, as in `/proc/PID/fdinfo/FD`.
    pub id: u32,
    /// Mount id of the mount it lies on.
    pub parent: u32,
    /// Device number of the filesystem.
    pub device: Device,
    /// The directory of the filesystem that is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its type, with subtype.
    pub fs_type: OsString,
    /// Its source; the backing directory for ours.
    pub source: OsString,
    /// Options of the filesystem, separated by commas.
    pub super_options: OsString,
}

impl Mount {
    /// Whether it is a coalescefs mount.
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Whether the filesystem is another process's or another machine's, by its type: it can be read
    /// while that hangs.
    pub fn is_elsewhere(&self) -> bool {
        let of = self.fs_type.to_string_lossy();
        ELSEWHERE.contains(&of.split('.').next().unwrap_or_default())
    }

    /// Whether nobody but the user who made it may use it: FUSE(4) without allow_other.
    pub fn is_private(&self) -> bool {
        let is_fuse = self.fs_type.as_bytes().starts_with(b"fuse");
        let mut options = self.super_options.as_bytes().split(|byte| *byte == b',');
        is_fuse && !options.any(|option| option == b"allow_other")
    }

    /// The user who made a FUSE mount, as this user namespace sees him.
    pub fn user_id(&self) -> Option<u32> {
        let options = self.super_options.as_bytes();
        options
            .split(|byte| *byte == b',')
            .find_map(|option| option.strip_prefix(b"user_id="))
            .and_then(number)
    }
}

/// All mounts of this mount namespace.
#[derive(Clone, Debug, Default)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// Reads the table. Does not wait for any filesystem but proc.
    pub fn read() -> io::Result<MountTable> {
        Ok(MountTable::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// Lines that do not have the documented form are left out.
    pub fn parse(text: &[u8]) -> MountTable {
        MountTable(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// What a path walk to exactly `mount_point` ends on: of several mounts stacked there, the one
    /// on which none of the others lies.
    pub fn top_at(&self, mount_point: &Path) -> Option<&Mount> {
        let here = || self.0.iter().filter(|mount| mount.mount_point == mount_point);
        // The last one, for the case that a mount was moved below another.
        here().rfind(|mount| !here().any(|other| other.parent == mount.id))
    }

    /// The mount that `path`, absolute and without symbolic links, lies in or is.
    pub fn holding(&self, path: &Path) -> Option<&Mount> {
        path.ancestors().find_map(|above| self.top_at(above))
    }

    /// Whether `device` is mounted at `mount_point`, maybe below other mounts.
    pub fn has(&self, device: Device, mount_point: &Path) -> bool {
        self.0.iter().any(|mount| mount.device == device && mount.mount_point == mount_point)
    }

    /// A mount of the filesystem.
    pub fn of(&self, device: Device) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.device == device)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// The mounts at a path, absolute and without symbolic links, and below; with that on which the
    /// path lies.
    pub fn below(&self, path: &Path) -> impl Iterator<Item = &Mount> {
        let at_or_below = self.0.iter().filter(move |mount| mount.mount_point.starts_with(path));
        let around = path.ancestors().skip(1).find_map(|above| self.top_at(above));
        let is_mountpoint = self.top_at(path).is_some_and(|mount| !mount.is_ours());
        around.filter(|_| !is_mountpoint).into_iter().chain(at_or_below)
    }

    /// All coalescefs mounts.
    pub fn ours(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(|mount| mount.is_ours())
    }
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, with any
/// number of fields before the dash.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let device = Device { major: number(device.next()?)?, minor: number(device.next()?)? };
    let root = PathBuf::from(unescape(fields.next()?));
    let mount_point = PathBuf::from(unescape(fields.next()?));
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let super_options = unescape(fields.next().unwrap_or_default());
    Some(Mount { id, parent, device, root, mount_point, fs_type, source, super_options })
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match escaped_byte(rest) {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[4..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

fn escaped_byte(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"\\")?.get(..3)?;
    let value = digits.iter().try_fold(0u32, |value, digit| {
        (b'0'..=b'7').contains(digit).then(|| value * 8 + u32::from(digit - b'0'))
    })?;
    u8::try_from(value).ok()
}

/// For messages: a type as text.
pub fn type_name(fs_type: &OsStr) -> String {
    fs_type.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:50 / /data\\040dir rw,nosuid shared:9 master:3 - fuse.coalescefs /data\\040dir rw,user_id=1000,group_id=0,default_permissions
31 30 0:51 / /data\\040dir rw - fuse.coalescefs /data\\040dir rw,user_id=0
32 22 0:52 / /mnt rw - tmpfs none rw,size=1024k
33 32 0:53 / /mnt rw - fuse.other x rw
broken line
34 22 0:54
";

    #[test]
    fn escapes_and_optional_fields() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.0.len(), 5, "the two broken lines are left out");
        let first = &table.0[1];
        assert_eq!(first.mount_point, Path::new("/data dir"));
        assert_eq!(first.source, "/data dir");
        assert_eq!(first.device.to_string(), "0:50");
        assert_eq!(first.user_id(), Some(1000));
        assert!(first.is_ours());
        assert_eq!(table.0[0].user_id(), None);
    }

    #[test]
    fn top_most_of_stacked_mounts_whatever_the_order_of_lines() {
        let mut table = MountTable::parse(TABLE);
        for _ in 0..2 {
            assert_eq!(table.top_at(Path::new("/data dir")).unwrap().id, 31);
            assert_eq!(table.top_at(Path::new("/mnt")).unwrap().id, 33);
            assert_eq!(table.top_at(Path::new("/data")), None);
            table.0.reverse();
        }
        assert!(table.has(Device { major: 0, minor: 50 }, Path::new("/data dir")));
        assert!(!table.has(Device { major: 0, minor: 50 }, Path::new("/mnt")));
        assert_eq!(table.ours().count(), 2);
    }

    #[test]
    fn the_running_system_has_a_root() {
        assert!(MountTable::read().unwrap().top_at(Path::new("/")).is_some());
    }

    /// Goal: network filesystems and FUSE are told from disks, with and without a subtype.
    #[test]
    fn types_are_told_apart() {
        let table = |kind: &str| {
            let line = format!("36 35 0:52 / /mnt rw - {kind} source rw");
            let table = MountTable::parse(line.as_bytes());
            table.of(Device { major: 0, minor: 52 }).is_some_and(Mount::is_elsewhere)
        };
        for kind in ["fuse", "fuse.sshfs", "fuse.mfs", "nfs4", "ceph", "9p"] {
            assert!(table(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "fuseblk.ntfs"] {
            assert!(!table(kind), "{kind}");
        }
    }

    /// Goal: FUSE that keeps other users out is told from FUSE that does not, and from all else.
    #[test]
    fn who_keeps_others_out() {
        let is_private = |kind: &str, options: &str| {
            let line = format!("36 35 0:52 / /mnt rw - {kind} source {options}");
            MountTable::parse(line.as_bytes()).0[0].is_private()
        };
        assert!(is_private("fuse.sshfs", "rw,user_id=0,group_id=0"));
        assert!(is_private("fuse", "rw,user_id=0,default_permissions"));
        assert!(!is_private("fuse.sshfs", "rw,user_id=0,group_id=0,allow_other"));
        assert!(!is_private("fuseblk", "rw,allow_other,blksize=4096"));
        assert!(!is_private("ext4", "rw") && !is_private("nfs4", "rw"));
    }

    proptest! {
        /// Goal: any path survives. Method: escape as the kernel does, parse, compare.
        #[test]
        fn any_mount_point_survives(name in proptest::collection::vec(1u8..=255, 0..40)) {
            let escaped: Vec<u8> = name
                .iter()
                .flat_map(|byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
                    _ => vec![*byte],
                })
                .collect();
            let line = [b"1 0 0:9 / /", &escaped[..], b" rw - fuse.x src rw\n"].concat();
            let table = MountTable::parse(&line);
            prop_assert_eq!(table.0.len(), 1);
            prop_assert_eq!(table.0[0].mount_point.as_os_str().as_bytes(), [b"/", &name[..]].concat());
        }

        /// Goal: nothing in the table makes the parser panic.
        #[test]
        fn garbage_is_harmless(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = MountTable::parse(&text);
        }
    }
}
