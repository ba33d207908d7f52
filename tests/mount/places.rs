//! What lies below the mount: other filesystems, mount options, many files, other users.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use crate::support::{Mount, PROGRAM, sh, succeed, text};

/// Goal: directories of other filesystems below the backing directory stay usable; their files are
/// told apart although their inode numbers are the same.
pub fn filesystems_below_stay_usable() {
    let prepare = "for n in 1 2 3; do mkdir m$n; mount -t tmpfs -o size=20m,mode=755 other$n m$n; \
        mkdir m$n/d; seq $n 1000 >m$n/d/f; done; echo here >f";
    let mount = Mount::over_prepared(prepare, &[]);
    let inodes = sh(mount.path(), "stat -c %i m1/d/f m2/d/f m3/d/f f");
    assert_eq!(inodes.lines().collect::<BTreeSet<_>>().len(), 4, "{inodes}");
    let script = "
        for n in 1 2 3; do seq $n 1000 | cmp - m$n/d/f; seq 1 50000 >m$n/d/new; done
        ls -i1 m1/d | sed 's/ *\\([0-9]*\\) .*/\\1/' >a; stat -c %i m1/d/* >b; cmp a b; rm a b
        mv m1/d/new m2/d/moved; seq 1 50000 | cmp - m2/d/moved; test ! -e m1/d/new
        ln m2/d/moved m3/d/no 2>&1 | grep -o 'cross-device link'
        python3 -c 'import os
try: os.rename(\"f\", \"m1/f\")
except OSError as error: print(error.strerror)
print([os.statvfs(d).f_blocks * os.statvfs(d).f_frsize for d in (\"m1\", \"m2/d\")])'
        rm -r m3/d; ls m3 | wc -l; rmdir m2 2>/dev/null || echo 'm2 stays'";
    let said = sh(mount.path(), &script.replace("\\\\", "\\"));
    let size = 20 << 20;
    let wanted =
        format!("cross-device link\nInvalid cross-device link\n[{size}, {size}]\n0\nm2 stays\n");
    assert_eq!(said.to_lowercase(), wanted.to_lowercase());
    mount.umount_clean();
    sh(mount.path(), "seq 1 50000 | cmp - m2/d/moved; umount m1 m2 m3");
}

/// Goal: a backing directory mounted read-only, without execution or set-id bits behaves so
/// through the mount.
pub fn mount_options_are_those_of_the_backing() {
    let options = |options: &str| {
        let prepare = format!(
            "mount -t tmpfs -o size=10m t .; cd $PWD; cp /bin/true program; echo x >f; \
             mount -o remount,{options} ."
        );
        Mount::over_prepared(&prepare, &[])
    };
    let read_only = options("ro");
    let said = sh(read_only.path(), "touch f 2>&1 || true; cat f; (echo y >new) 2>&1 || true");
    assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
    read_only.umount_clean();
    let no_exec = options("noexec,nosuid,nodev");
    let output = Command::new("./program").current_dir(no_exec.path()).output();
    assert_eq!(output.unwrap_err().raw_os_error(), Some(libc::EACCES));
    let table = sh(no_exec.path(), "tail -1 /proc/self/mountinfo");
    for flag in ["noexec", "nosuid", "nodev"] {
        assert!(table.contains(flag), "{table}");
    }
    no_exec.umount_clean();
}

/// Goal: a lookup opens nothing, and however many files are touched, the daemon keeps within the
/// descriptors it may have.
pub fn descriptors_stay_bounded() {
    const LIMIT: usize = 4096;
    let prefix = ["prlimit", "--nofile=4096:4096"];
    let mount = Mount::over_prepared("mkdir d; cd d; seq 1 50000 | xargs touch", &prefix);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", mount.worker_pid())).unwrap().count();
    let before = descriptors();
    assert_eq!(sh(mount.path(), "find d -newermt 2000-01-01 | wc -l").trim(), "50001");
    let looked_up = descriptors();
    assert!(looked_up < before + 16, "{before} descriptors, {looked_up} after a listing");
    sh(mount.path(), "cd d; seq 1 50000 | awk '{ print $1 >$1; close($1) }'");
    let touched = descriptors();
    assert!(touched < LIMIT * 7 / 8, "{touched} descriptors");
    assert_eq!(sh(mount.path(), "cd d; cat 1 777 50000"), "1\n777\n50000\n");
    mount.umount_clean();
    assert_eq!(sh(mount.path(), "cd d; find . -size 0 | wc -l; cat 49999"), "0\n49999\n");
}

/// Goal: size, times and blocks are the same by path, by descriptor and for another process while
/// bytes are buffered, and what `du` shows is what a plain copy takes.
pub fn metadata_agrees_while_buffered() {
    let mount = Mount::beside(&["--max-age", "1h"]);
    let script = r#"
import os, subprocess, sys, time
f = os.open("f", os.O_RDWR | os.O_CREAT)
written = 0
for turn in range(200):
    written += os.write(f, b"x" * (turn * 37 % 5000 + 1))
    by_fd, by_path = os.fstat(f), os.stat("f")
    same = lambda s: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_mode, s.st_nlink)
    assert same(by_fd) == same(by_path), (by_fd, by_path)
    assert by_fd.st_size == written
    below = os.stat(sys.argv[1]).st_size
    assert below <= written, (below, written)
    if turn % 20 == 0:
        other = subprocess.check_output(["stat", "-c", "%i %s %Y", "f"]).split()
        assert [int(n) for n in other] == [by_fd.st_ino, written, by_fd.st_mtime_ns // 10**9]
        os.fsync(f)
os.close(f)
def blocks():
    return os.stat("f").st_blocks, os.stat(sys.argv[1])
shown, stored = blocks()
if stored.st_size == written:
    # Stored meanwhile: what is shown may be a second old.
    time.sleep(1.1)
    shown, stored = blocks()
# The backing filesystem's own, for a longer list of extents, are no data.
whole = lambda size: -(-size // 4096) * 8
own = stored.st_blocks - whole(stored.st_size)
print(shown - own - whole(written))
"#;
    let below = mount.backing().join("f");
    let run = |dir: &std::path::Path, below: &std::path::Path| {
        let output =
            succeed(Command::new("python3").args(["-c", script]).arg(below).current_dir(dir));
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = mount.plain();
    assert_eq!(run(&plain, &plain.join("f")), "0\n");
    assert_eq!(run(mount.path(), &below), "0\n", "blocks more than a plain file has");
    mount.umount_clean();
}

/// Runs a script of root's in a directory of its own, in a namespace of mounts of its own, with
/// `./coalescefs`, and `$user` to do something as an ordinary user, who may open /dev/fuse.
fn in_a_namespace(script: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    // /dev/fuse may be root's alone here: a node of the test's own, seen by nobody else.
    let prepare = r#"
        # User 5 because the helper asks for a name: it is one of Debian's fixed ones.
        program=$1; mount -t tmpfs t /mnt; cd /mnt; mknod fuse c 10 229; chmod 666 fuse
        mount --bind fuse /dev/fuse; cp "$program" coalescefs; chmod 755 . coalescefs
        mkdir home; chown 5 home
        user="setpriv --reuid 5 --regid 60 --clear-groups env HOME=/mnt/home""#;
    Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c"])
        .args([&format!("{prepare}\n{script}"), "sh", PROGRAM])
        .current_dir(dir.path())
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

/// Goal: an ordinary user mounts over his own directory with the setuid helper; he works as ever,
/// what his own directory refuses him is refused, and others stay out.
pub fn an_ordinary_user_in_a_namespace_of_mounts() {
    let output = in_a_namespace(
        r#"
        mkdir out; echo secret >out/roots; chmod 600 out/roots; mkdir -m 700 out/private
        chown 5:60 out
        $user ./coalescefs mount --memory 64M out
        $user sh -c 'seq 1 1000 >out/f; mkdir out/d; chmod 700 out/d; cat out/roots; ls out/private
            chown 54321 out/f; stat -c "%n %u %g %a" out/f out/d' 2>&1
        setpriv --reuid 54321 --regid 54321 --clear-groups ls out 2>&1
        ls out 2>&1; $user ./coalescefs umount out; wc -l <out/f; stat -c '%u %g' out/f"#,
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = "cat: out/roots: Permission denied
ls: cannot open directory 'out/private': Permission denied
chown: changing ownership of 'out/f': Operation not permitted
out/f 5 60 644
out/d 5 60 700
ls: cannot access 'out': Permission denied
ls: cannot access 'out': Permission denied
1000
5 60
";
    assert_eq!(said, wanted, "{}", text(&output));
}

/// Goal: the generic options that an ordinary user gives hold for a mount that the setuid helper
/// makes for him; set-id bits and devices stay forbidden whatever he asks for; and those that the
/// helper does not know, and that restrict nothing, are no obstacle.
pub fn options_of_an_ordinary_user_in_a_namespace() {
    let output = in_a_namespace(
        r#"
        mkdir out; cp /bin/true out/program; chown -R 5:60 out
        # What this machine allows is not the question.
        [ ! -e /etc/fuse.conf ] || mount --bind /dev/null /etc/fuse.conf
        # Those of the mount, and those of the filesystem.
        mounted() {
            awk '/ \/mnt\/out .*fuse.coalescefs/ { sub(/,user_id.*/, "", $NF); print $6, $NF }' \
                /proc/self/mountinfo
        }
        for options in ro noexec,noatime ro,suid,dev,rw,exec relatime,nodiratime,sync,dirsync; do
            $user ./coalescefs mount --memory 64M -o $options out || continue
            echo $options: $(mounted)
            $user sh -c 'touch out/new; out/program && echo runs' 2>&1
            $user ./coalescefs umount out
        done
        $user ./coalescefs mount --memory 64M -o ro,max_age=3s out 2>&1 | grep -o 'given as --max-age, or in fstab'
        $user ./coalescefs mount --memory 64M --allow-other out 2>&1; mounted"#,
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = "\
ro: ro,nosuid,nodev,relatime ro
touch: cannot touch 'out/new': Read-only file system
runs
noexec,noatime: rw,nosuid,nodev,noexec,noatime rw
sh: 1: out/program: Permission denied
ro,suid,dev,rw,exec: rw,nosuid,nodev,relatime rw
runs
relatime,nodiratime,sync,dirsync: rw,nosuid,nodev,relatime rw,sync,dirsync
runs
given as --max-age, or in fstab
coalescefs: cannot mount over /mnt/out: option allow_other only allowed if 'user_allow_other' is set \
in /etc/fuse.conf
";
    assert_eq!(said, wanted, "{}", text(&output));
}
