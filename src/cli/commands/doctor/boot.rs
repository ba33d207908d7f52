//! What mounting at boot needs: the kernel's module, the helpers of mount(8) and umount(8), a unit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Check;

/// Where systemd looks for units, by rank.
const UNIT_DIRECTORIES: [&str; 4] = [
    "etc/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
const UNIT: &str = "coalescefs@.service";
const FSTAB_TYPES: [&str; 2] = ["coalescefs", "fuse.coalescefs"];

/// All checks, below `root`, which is `/` but in tests. Reads files only.
pub(super) fn look(root: &Path) -> Vec<Check> {
    let lines = fstab_lines(&fs::read_to_string(root.join("etc/fstab")).unwrap_or_default());
    vec![module(root), mount_helper(root, lines), umount_helper(root), unit(root)]
}

fn module(root: &Path) -> Check {
    const NAME: &str = "fuse module";
    let filesystems = fs::read_to_string(root.join("proc/filesystems")).unwrap_or_default();
    if filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "fuse") {
        return Check::ok(NAME, "the kernel has it");
    }
    let text = "the kernel does not have it: as root, 'modprobe fuse && echo fuse \
                >/etc/modules-load.d/fuse.conf'";
    Check::problem(NAME, text)
}

fn fstab_lines(fstab: &str) -> usize {
    let is_ours = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        !line.trim_start().starts_with('#')
            && words.next().is_some_and(|word| FSTAB_TYPES.contains(&word))
    };
    fstab.lines().filter(is_ours).count()
}

fn mount_helper(root: &Path, fstab_lines: usize) -> Check {
    const NAME: &str = "mount helper";
    if is_program(&root.join("sbin/mount.coalescefs")) {
        let text = format!("/sbin/mount.coalescefs is there; lines in /etc/fstab: {fstab_lines}");
        return Check::ok(NAME, text);
    }
    let remedy = "as root, 'install -m 755 mount-scripts/mount.coalescefs /sbin/'";
    match fstab_lines {
        0 => Check::warning(NAME, format!("'mount -t coalescefs' does not work: {remedy}")),
        lines => {
            Check::problem(NAME, format!("lines in /etc/fstab that cannot work: {lines}; {remedy}"))
        }
    }
}

fn umount_helper(root: &Path) -> Check {
    const NAME: &str = "umount helper";
    if is_program(&root.join("sbin/umount.fuse.coalescefs")) {
        return Check::ok(NAME, "umount(8) waits until all is on disk");
    }
    let text = "umount(8), and so the machine's end, does not wait until all is on disk: as root, \
                'install -m 755 mount-scripts/umount.coalescefs /sbin/umount.fuse.coalescefs'; until \
                then use 'coalescefs umount'";
    Check::warning(NAME, text)
}

fn unit(root: &Path) -> Check {
    const NAME: &str = "service";
    if !root.join("run/systemd/system").is_dir() {
        let text = "no systemd here: see mount-scripts/container-entrypoint for a start without it";
        return Check::ok(NAME, text);
    }
    let found = UNIT_DIRECTORIES.iter().find(|dir| root.join(dir).join(UNIT).is_file());
    match found {
        Some(directory) => Check::ok(NAME, format!("/{directory}/{UNIT}")),
        None => Check::warning(
            NAME,
            format!(
                "no unit: as root, 'install -m 644 mount-scripts/{UNIT} /etc/systemd/system/ && \
                 systemctl daemon-reload'"
            ),
        ),
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn verdicts(root: &Path) -> Vec<Verdict> {
        look(root).into_iter().map(|check| check.verdict).collect()
    }

    /// Goal: each thing that is missing is told, and is in order once it is there.
    #[test]
    fn what_is_missing_is_told_until_it_is_there() {
        use Verdict::{Ok, Problem, Warning};
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["proc", "sbin", "etc/systemd/system", "run"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        assert_eq!(verdicts(root), [Problem, Warning, Warning, Ok]);
        fs::write(root.join("etc/fstab"), "#/a /a coalescefs\n/b /b coalescefs ro 0 0\n").unwrap();
        fs::create_dir(root.join("run/systemd")).unwrap();
        fs::create_dir(root.join("run/systemd/system")).unwrap();
        assert_eq!(verdicts(root), [Problem, Problem, Warning, Warning]);
        fs::write(root.join("proc/filesystems"), "nodev\tproc\n\text4\nnodev\tfuse\n").unwrap();
        for name in ["mount.coalescefs", "umount.fuse.coalescefs"] {
            let helper = root.join("sbin").join(name);
            fs::write(&helper, "").unwrap();
            assert!(!is_program(&helper));
            fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(root.join("etc/systemd/system").join(UNIT), "").unwrap();
        assert_eq!(verdicts(root), [Ok, Ok, Ok, Ok]);
    }
}
