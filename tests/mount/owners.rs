//! Whose files are whose: other namespaces of users, id-mapped mounts, and what lies below but is
//! denied to the daemon itself.
//!
//! Method, unless a test says another: `owners.py` makes the same calls by several users on files and
//! directories of several owners, on a plain directory and on a mount; what it prints, and the trees
//! left below, have to be the same.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support::{Mount, PROGRAM, SOON, sh, succeed};

/// For each of the users `$callers` a directory `as-USER` of files and directories of `$owners`.
const PREPARE: &str = r#"
    for caller in $callers; do
        mkdir as-$caller; chmod 777 as-$caller
        for owner in $owners; do for mode in 600 640 644 660 666 622; do
            echo bytes >as-$caller/$owner-$mode; mkdir as-$caller/dir-$owner-$mode
            echo bytes >as-$caller/dir-$owner-$mode/file
            chmod 1777 as-$caller/dir-$owner-$mode
            [ $mode != 622 ] || chmod 700 as-$caller/dir-$owner-$mode
            [ $mode != 644 ] || chmod 755 as-$caller/dir-$owner-$mode
            chmod $mode as-$caller/$owner-$mode
            chown -R $owner:$owner as-$caller/$owner-$mode as-$caller/dir-$owner-$mode
        done; done
    done
    chmod 755 .
"#;

/// Owners, groups, modes, sizes and bytes of all that is below.
const TREE: &str = "find . ! -type d -printf '%p %U:%G %m %s\n' -o -printf '%p %U:%G %m\n' | sort
    find . -type f -exec cksum {} + | sort";

const CALLS: &str = include_str!("owners.py");

fn prepare(dir: &Path, callers: &[u32], owners: &[u32]) {
    let words = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let (callers, owners) = (words(callers), words(owners));
    sh(dir, &format!("umask 022; callers='{callers}' owners='{owners}'; {PREPARE}"));
}

/// Runs the calls in `dir` as each of the users, in a namespace if one is given.
fn calls(dir: &Path, callers: &[u32], namespace: Option<&Namespace>) -> String {
    let mut said = String::new();
    for user in callers.iter().map(u32::to_string) {
        let mut command = namespace.map_or_else(|| Command::new("env"), Namespace::enter);
        command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.arg("sh").args(["-c", r#"cd "$0" && exec python3 -c "$1""#]);
        let output = succeed(command.arg(dir.join(format!("as-{user}"))).arg(CALLS));
        said += &String::from_utf8_lossy(&output.stdout);
    }
    said
}

/// Both print the same, and something was permitted and something denied.
fn assert_same(there: &str, here: &str, what: &str) {
    let lines = there.lines().zip(here.lines());
    let different: Vec<_> = lines.filter(|(there, here)| there != here).take(20).collect();
    assert!(different.is_empty(), "{what}; left: plain directory, right: mount: {different:#?}");
    assert_eq!(there, here, "{what}");
}

fn assert_worth_it(said: &str) {
    for answer in ["-> None", "-> EACCES", "-> EPERM"] {
        assert!(said.contains(answer), "no {answer}: {said}");
    }
}

/// A user namespace, as long as this lives.
struct Namespace {
    holder: Child,
    has_mounts: bool,
}

impl Namespace {
    /// With `map`, lines of user_namespaces(7), for users and groups.
    fn of_users(map: &str) -> Namespace {
        Self::new(map, false)
    }

    /// With mounts of its own, too: those of others are not gone before it is.
    fn of_users_and_mounts(map: &str) -> Namespace {
        Self::new(map, true)
    }

    fn new(map: &str, has_mounts: bool) -> Namespace {
        let mut holder = Command::new("unshare");
        holder.args(if has_mounts {
            &["-Um", "--propagation", "private", "cat"][..]
        } else {
            &["-U", "cat"]
        });
        let holder = holder.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let namespace = Namespace { holder, has_mounts };
        // Once it is another program, unshare(1) has done its work.
        let until = Instant::now() + SOON;
        while fs::read_to_string(namespace.file("comm")).unwrap() != "cat\n" {
            assert!(Instant::now() < until);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for file in ["uid_map", "gid_map"] {
            fs::write(namespace.file(file), map).unwrap();
        }
        namespace
    }

    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.holder.id()).into()
    }

    /// A command of its root.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-U", "-S", "0", "-G", "0", "-t", &self.holder.id().to_string()]);
        command.args(self.has_mounts.then_some("-m"));
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A detached copy of a mount (open_tree(2)), with other ids (mount_setattr(2)).
fn id_mapped(path: &Path, ids: &Namespace) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: a valid C string.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    assert!(tree >= 0, "open_tree: {}", io::Error::last_os_error());
    // SAFETY: a fresh descriptor.
    let tree = unsafe { OwnedFd::from_raw_fd(tree as i32) };
    let users = fs::File::open(ids.file("ns/user")).unwrap();
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    let (empty, size) = (c"".as_ptr(), size_of_val(&attr));
    // SAFETY: a valid C string and structure, with its size.
    let set = unsafe {
        let (call, fd, how) = (libc::SYS_mount_setattr, tree.as_raw_fd(), libc::AT_EMPTY_PATH);
        libc::syscall(call, fd, empty, how, &raw const attr, size)
    };
    if set == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}

/// A filesystem in memory, mounted with the ids as they are and, at `mapped`, with others.
struct MappedBacking {
    dir: tempfile::TempDir,
    mapped: PathBuf,
}

impl MappedBacking {
    fn new(ids: &Namespace) -> MappedBacking {
        let dir = tempfile::tempdir().unwrap();
        let mapped = dir.path().join("mapped");
        let backing = MappedBacking { mapped, dir };
        sh(backing.dir.path(), "chmod 755 .; mkdir as-is mapped; mount -t tmpfs none as-is");
        let tree = id_mapped(&backing.as_is(), ids).expect("tmpfs can be mounted with other ids");
        let target = CString::new(backing.mapped.as_os_str().as_bytes()).unwrap();
        let (call, from, empty) = (libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr());
        let how = libc::MOVE_MOUNT_F_EMPTY_PATH;
        // SAFETY: two valid C strings.
        let moved =
            unsafe { libc::syscall(call, from, empty, libc::AT_FDCWD, target.as_ptr(), how) };
        assert_eq!(moved, 0, "move_mount: {}", io::Error::last_os_error());
        backing
    }

    fn as_is(&self) -> PathBuf {
        self.dir.path().join("as-is")
    }
}

impl Drop for MappedBacking {
    fn drop(&mut self) {
        for dir in [&self.mapped, &self.as_is()] {
            let _ = Command::new("umount").arg("-l").arg(dir).status();
        }
    }
}

/// Goal: the mount cannot be mounted again with other ids, because nobody has said whose its files
/// would be; the directory below could.
pub fn the_mount_is_not_id_mapped() {
    let mount = Mount::over(&[]);
    let ids = Namespace::of_users("0 100000 65536");
    let refused = id_mapped(mount.path(), &ids).expect_err("an id-mapped mount");
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    drop(MappedBacking::new(&ids));
    mount.umount_clean();
}

/// Goal: a backing directory that is itself mounted with other ids answers as without us, files of
/// unmapped owners included.
pub fn a_backing_directory_with_other_ids() {
    const CALLERS: [u32; 3] = [0, 100_005, 5];
    // Root stays root; below, what is user 5's is shown as 100005's, and so on. Here, 5 is nobody.
    let ids = Namespace::of_users("0 0 1\n1 100001 65000");
    let backing = MappedBacking::new(&ids);
    let mount = Mount::over_in(&backing.mapped, &[]);
    let name = mount.path().parent().unwrap().file_name().unwrap();
    let as_is = |dir: &str| backing.as_is().join(name).join(dir);
    sh(&as_is(""), "chmod 711 .");
    mount.umount_clean();
    let plain = mount.plain();
    for dir in ["plain", "out"] {
        prepare(&as_is(dir), &CALLERS, &[0, 5, 100_005, 70_000]);
    }
    succeed(Command::new(PROGRAM).arg("mount").arg(mount.path()));
    let (there, here) =
        (calls(&plain, &CALLERS[..2], None), calls(mount.path(), &CALLERS[..2], None));
    // Where an owner has no id here, some refusals are by another errno.
    let refused = |said: &str| {
        ["EOVERFLOW", "EACCES", "EPERM"]
            .iter()
            .fold(said.to_owned(), |said, errno| said.replace(&format!("-> {errno}"), "-> refused"))
    };
    assert_same(&refused(&there), &refused(&here), "calls");
    // Who has no id below cannot be given away as somebody else: he makes nothing.
    for dir in [&plain, mount.path()] {
        let said = calls(dir, &CALLERS[2..], None);
        let made: Vec<_> = said.lines().filter(|line| line.starts_with("create")).collect();
        let refused = |line: &&&str| line.ends_with("-> EOVERFLOW") || line.ends_with("-> EACCES");
        assert!(said.contains("-> EOVERFLOW") && made.iter().all(|line| refused(&line)), "{said}");
    }
    succeed(Command::new(PROGRAM).arg("umount").arg(mount.path()));
    assert_worth_it(&there);
    assert!(there.contains("-> (100005, 100005,") && there.contains("-> EOVERFLOW"), "{there}");
    let tree = |dir| sh(&as_is(dir), &format!("rm -r as-5; {TREE}"));
    assert_same(&tree("plain"), &tree("out"), "what is below");
}

/// Goal: who uses root's mount from another user namespace is who he is outside.
pub fn users_of_another_namespace_are_who_they_are() {
    const CALLERS: [u32; 3] = [0, 5, 65534];
    let mount = Mount::over(&[]);
    sh(mount.path().parent().unwrap(), "chmod 711 .");
    let plain = mount.plain();
    let owners = [0, 5, 65534, 100_000, 100_005, 165_534, 200_000];
    for dir in [mount.path(), &plain] {
        prepare(dir, &CALLERS, &owners);
    }
    let users = Namespace::of_users("0 100000 65536");
    let run = |dir| calls(dir, &CALLERS, Some(&users));
    let (there, here) = (run(&plain), run(mount.path()));
    assert_same(&there, &here, "calls");
    assert_worth_it(&there);
    mount.umount_clean();
    let (there, here) = (sh(&plain, TREE), sh(mount.path(), TREE));
    assert_same(&there, &here, "what is below");
    assert!(there.contains("new 100005:100005"), "{there}");
}

/// Goal: a daemon whose root may not do everything, as below a backing filesystem that distrusts
/// root: in a user namespace, over files of users that are none of it. All that is denied on the
/// plain directory is denied on the mount, and the rest is not.
pub fn root_is_denied_what_is_not_of_its_namespace() {
    const CALLERS: [u32; 3] = [0, 5, 65534];
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "chmod 755 .; mkdir plain out");
    let [plain, out] = ["plain", "out"].map(|name| dir.path().join(name));
    for dir in [&plain, &out] {
        prepare(dir, &CALLERS, &[0, 5, 65534, 200_000]);
    }
    let users = Namespace::of_users_and_mounts("0 0 65536");
    let there = calls(&plain, &CALLERS, Some(&users));
    succeed(users.enter().args([PROGRAM, "mount"]).arg(&out));
    let here = calls(&out, &CALLERS, Some(&users));
    succeed(users.enter().args([PROGRAM, "umount"]).arg(&out));
    assert_same(&there, &here, "calls");
    assert_worth_it(&there);
    assert_same(&sh(&plain, TREE), &sh(&out, TREE), "what is below");
}

/// An ordinary user's mount, made with the setuid helper; /dev/fuse may be root's alone here: a node
/// of the test's own, seen by nobody else. User 5 because the helper asks for a name: it is one of
/// Debian's fixed ones. `$1` is the program.
const OWN_MOUNT: &str = r#"
    set -eu
    mount -t tmpfs t /mnt; cd /mnt; mknod fuse c 10 229; chmod 666 fuse
    mount --bind fuse /dev/fuse; cp "$1" coalescefs; chmod 755 . coalescefs
    mkdir out plain home; chown 5:60 out plain home
    user="setpriv --reuid 5 --regid 60 --clear-groups env HOME=/mnt/home"
"#;

fn in_own_mount(script: &str) -> String {
    let script = format!("{OWN_MOUNT}\n{script}");
    // Nothing outlives it, whatever happens.
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["--propagation", "private", "sh", "-c", &script, "sh", PROGRAM, CALLS]);
    String::from_utf8(succeed(command.env("LC_ALL", "C")).stdout).unwrap()
}

/// Goal: in a user's own mount over a directory where others have files, too, he may do with them
/// what he may do without it: write those of his group, for one.
pub fn a_users_namespace_with_files_of_others() {
    let prepare = format!("callers=5 owners='5 0 70000'; {PREPARE}");
    let said = in_own_mount(&format!(
        r#"
        for dir in plain out; do (cd $dir; {prepare}
            chgrp -R 60 as-5/70000-*
        ); done
        (cd plain/as-5; $user python3 -c "$2"); echo ---
        $user ./coalescefs mount --memory 64M out
        $user sh -c 'cd out/as-5; exec python3 -c "$1"' sh "$2"; echo ---
        $user ./coalescefs umount out >&2
        (cd plain; {TREE}); echo ---; (cd out; {TREE})"#
    ));
    let parts: Vec<&str> = said.split("---\n").collect();
    assert_same(parts[0], parts[1], "calls");
    assert_worth_it(parts[0]);
    assert!(parts[0].contains("O_TRUNC 70000-660 -> None"), "{}", parts[0]);
    assert_same(parts[2], parts[3], "what is below");
}

/// Goal: what was acknowledged stays when the backing filesystem denies it to the daemon later:
/// through an open descriptor it is stored as ever; where it has to be opened again, after the
/// worker's death, it is kept and named, until it may be stored.
pub fn what_is_denied_later_in_a_users_namespace_is_kept() {
    let said = in_own_mount(
        r#"
        # Beside it, so that root can change what is below.
        mkdir below; chown 5:60 below
        $user ./coalescefs mount --memory 64M --max-age 1h below out
        $user sh -c 'seq 1 1000 >out/kept; mkdir out/dir; seq 1 1000 >out/dir/hidden
            exec 3>out/open; seq 1 500 >&3; exec 4>&3; touch out/begun
            while [ -e out/begun ]; do sleep 0.05; done; seq 501 1000 >&3' & writer=$!
        until [ -e below/begun ]; do sleep 0.05; done
        chown 0:0 below/open below/dir; chmod 600 below/open; chmod 700 below/dir
        $user rm out/begun; wait $writer && echo "written"
        chown 0:0 below/kept; chmod 600 below/kept
        worker() { $user ./coalescefs status --json out | sed -n 's/.*"worker_pid": *\([0-9]*\).*/\1/p'; }
        kill -9 "$(worker)"
        $user sh -c 'wc -l <out/kept' || echo "not read"
        status=0; $user ./coalescefs umount out >said 2>&1 || status=$?
        echo "umount: $status"; grep -o 'kept\|open\|hidden' said | sort -u
        chown 5:60 below/*; status=0
        for try in 1 2 3; do $user ./coalescefs umount out >said 2>&1 && break; sleep 1; done
        for file in kept dir/hidden open; do seq 1 1000 | cmp - below/$file && echo "$file is whole"; done"#,
    );
    assert_eq!(
        said,
        "written\nnot read\numount: 75\nhidden\nkept\nopen\n\
         kept is whole\ndir/hidden is whole\nopen is whole\n"
    );
}
