//! The ordinary operations, compared with a plain directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Mount, sh, succeed, text};

/// Calls and what they print: exit codes, errors and what stat shows, all relative to the current
/// directory. Run by bash and python3-free coreutils, as scripts do.
const CALLS: &str = r#"
exec 2>&1
try() { "$@"; echo "$1 -> $?"; }
show() { stat -c '%n %F %a %s %h' "$@"; }
try mkdir d; try mkdir d; try mkdir -p d/e/f; try rmdir d; try rmdir d/e/f
echo data >d/file; try ln d/file d/hard; try ln -s file d/soft; try readlink d/soft
show d/file d/hard d/soft; cat d/soft
try mkfifo d/fifo; show d/fifo; (echo through >d/fifo &) ; cat d/fifo
try mv d/file d/moved; show d/moved d/hard; try cat d/file
echo new >d/new; try mv -f d/new d/moved; cat d/moved; cat d/hard; show d/moved d/hard
try chmod 4751 d/moved; show d/moved; try chmod u-s d/moved; show d/moved
try truncate -s 100 d/moved; show d/moved; try truncate -s 3 d/moved; od -c d/moved
try touch -d '2001-02-03 04:05:06.789' d/moved; stat -c '%y' d/moved
try rm d/nothing; try rm d/hard; try rmdir d/moved; try mkdir d/moved
printf abc >d/app; printf def >>d/app; cat d/app; echo
printf X | dd of=d/app bs=1 seek=1 conv=notrunc status=none; cat d/app; echo
printf Y | dd of=d/app bs=1 seek=10000 conv=notrunc status=none; show d/app; cksum <d/app
try dd if=/dev/zero of=d/sync bs=4096 count=3 conv=fsync status=none; show d/sync
try fallocate -l 20000 d/sync; show d/sync
try fallocate -n -l 40000 d/sync; show d/sync
try fallocate -p -o 0 -l 4096 d/sync; show d/sync; cksum <d/sync
cp -a d copy; try diff -r d copy; (cd copy; find . | sort)
try cp --sparse=always d/sync d/sparse; cmp d/sync d/sparse
name=$(printf 'n%.0s' $(seq 255)); echo x >"$name"; try cat "$name"; try touch "n$name"
odd=$(printf 'a\001b\377 c\nd'); echo odd >"$odd"; cat "$odd"; rm "$odd"
try cat .; echo x >d/moved/; try ls nowhere; try ln d d/dirlink; try mv d d/e/inside
exec 3<>d/app; rm d/app; echo still >&3; exec 3>&-; try cat d/app
try mknod d/null c 1 3 && show d/null
echo x >d/attr; try setfattr -n user.key -v value d/attr; getfattr -n user.key --only-values d/attr; echo
try setfattr -n user.key2 -v other d/attr; getfattr d/attr; try setfattr -x user.key d/attr
try setfattr -x user.key d/attr; getfattr -d d/attr; stat -f -c %l d
try dd if=/dev/zero of=d/holes bs=4096 count=1 seek=10 conv=fsync status=none; show d/holes
python3 -c 'import os; f = os.open("d/holes", os.O_RDWR)
print([os.lseek(f, 0, how) for how in (os.SEEK_DATA, os.SEEK_HOLE)])
fresh = os.open("d/fresh", os.O_RDWR | os.O_CREAT); os.pwrite(fresh, b"x" * 9000, 1 << 20)
print([os.lseek(fresh, at, how) for at in (0, 1 << 20) for how in (os.SEEK_DATA, os.SEEK_HOLE)])
print(os.copy_file_range(f, f, 4096, 40960, 0), os.pread(f, 3, 0), os.fdatasync(f))'
rm -rf d copy; ls | wc -l
"#;

/// Goal: a script of ordinary calls prints the same and leaves the same tree, on the mount and on
/// a plain directory of the same filesystem.
pub fn calls_answer_as_on_a_plain_directory() {
    let mount = Mount::over(&["--max-age", "1h"]);
    let plain = mount.plain();
    let script = |dir: &Path| {
        let script = format!("unset LANG; export LC_ALL=C\n{CALLS}");
        let output = Command::new("bash").args(["-c", &script]).current_dir(dir).output().unwrap();
        text(&output)
    };
    let (there, here) = (script(&plain), script(mount.path()));
    for (there, here) in there.lines().zip(here.lines()) {
        assert_eq!(there, here, "left: plain directory, right: mount");
    }
    assert_eq!(there, here);
    mount.umount_clean();
}

/// Goal: a directory with thousands of entries is listed whole, with and without attributes, and
/// while entries are removed.
pub fn a_large_directory_is_listed_whole() {
    let mount = Mount::over(&[]);
    sh(mount.path(), "mkdir d; cd d; seq 1 6000 | xargs touch");
    let names: BTreeSet<String> = fs::read_dir(mount.path().join("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 6000);
    assert_eq!(sh(mount.path(), "ls -l d | wc -l").trim(), "6001");
    sh(mount.path(), "rm -r d");
    assert!(!mount.path().join("d").exists());
    mount.umount_clean();
}

/// Goal: programs of every day do their work on the mount and leave the same bytes as elsewhere.
pub fn ordinary_programs_work() {
    let mount = Mount::over(&["--max-age", "100ms", "--memory", "8M", "--chunk", "256K"]);
    let script = "
        seq 1 200000 >numbers; gzip -k numbers; gunzip -c numbers.gz | cmp - numbers
        tar cf all.tar numbers numbers.gz; mkdir x; tar xf all.tar -C x; cmp x/numbers numbers
        sort -T . -rn numbers >sorted; head -1 sorted; split -n l/7 numbers part; cat part* | cmp - numbers
        dd if=numbers of=direct bs=64K oflag=direct status=none 2>/dev/null || cp numbers direct
        cmp numbers direct; sed -i s/1/one/ numbers; md5sum numbers sorted | cut -c1-32";
    let plain = sh(&mount.plain(), script);
    assert_eq!(sh(mount.path(), script), plain);
    mount.umount_clean();
    assert_eq!(
        sh(mount.path(), "md5sum numbers sorted | cut -c1-32"),
        plain.split_once('\n').unwrap().1
    );
}

/// Goal: files that another user makes through the mount are his, not the daemon's.
pub fn new_files_belong_to_the_caller() {
    let mount = Mount::over(&[]);
    let script = "chmod 711 ..; chmod 1777 .
        setpriv --reuid 12345 --regid 23456 --clear-groups sh -c 'echo x >file; mkdir dir; mkfifo fifo; ln -s a link'
        stat -c '%n %u %g' file dir fifo link
        setpriv --reuid 54321 --regid 23456 --clear-groups sh -c 'echo y >>file' 2>/dev/null || echo refused";
    let there = sh(&mount.plain(), script);
    assert_eq!(sh(mount.path(), script), there);
    assert!(there.contains("file 12345 23456") && there.contains("refused"), "{there}");
    succeed(Command::new("true").current_dir(mount.path()));
    mount.umount_clean();
}
