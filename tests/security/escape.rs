//! An attacker who works in the backing directory, as an ordinary user with every right there,
//! while others use the mount.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Mount, sh};

const ATTACKER: u32 = 54321;
/// How long it is tried.
const SECONDS: &str = "6";

fn python(script: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", script, SECONDS]).args(arguments).stdout(Stdio::piped());
    command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command
}

fn attack(command: &mut Command) -> Child {
    command.uid(ATTACKER).gid(ATTACKER).spawn().unwrap()
}

/// What the process says at its end, which must be good.
fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Puts a link where a directory or a file was, and back, by one call; has hard links and `..` come
/// and go.
const SWAP: &str = r#"
import ctypes, os, sys, time
seconds, play, secret = float(sys.argv[1]), sys.argv[2], sys.argv[3]
os.chdir(play)
libc = ctypes.CDLL(None)
swap = lambda a, b: libc.renameat2(-100, a.encode(), -100, b.encode(), 2) == 0
for n in range(4):
    os.mkdir("d%d" % n, 0o777); os.chmod("d%d" % n, 0o777)
    for name in ("f", "g"): open("d%d/%s" % (n, name), "w").write("harmless")
    os.symlink(secret if n % 2 else os.path.relpath(secret), "l%d" % n)
for n in range(8):
    os.symlink(secret + "/f", "k%d" % n); open("h%d" % n, "w").write("harmless")
os.symlink("../../..", "up"); os.mkdir("e", 0o777)
print("ready", flush=True)
end, swaps = time.monotonic() + seconds, 0
while time.monotonic() < end:
    for n in range(4): swaps += swap("d%d" % n, "l%d" % n)
    for n in range(8): swaps += swap("h%d" % n, "k%d" % n)
    swaps += swap("e", "up")
    for name in ("f", "new"):
        try: os.link(secret + "/" + name, "d0/hard")
        except OSError: pass
print(swaps)
"#;

/// Does, as root, through the mount, all that takes a name; itself follows no link.
const WORK: &str = r#"
import os, sys, time
seconds, play = float(sys.argv[1]), sys.argv[2]
top = os.open(play, os.O_RDONLY | os.O_DIRECTORY)
end, done, number = time.monotonic() + seconds, {}, 0
def attempt(name, act):
    try:
        result = act(); done[name] = done.get(name, 0) + 1; return result
    except OSError: pass
def again(name):
    # The kernel keeps what it saw for an hour, but for names that must not be there.
    try: os.mkdir(name, dir_fd=top)
    except FileExistsError: pass
def look(fd):
    data = os.read(fd, 100); os.close(fd)
    assert b"SECRET" not in data, "read"
while time.monotonic() < end:
    number += 1
    for name in ("d0", "d1", "d2", "d3", "e"):
        again(name)
        d = attempt("opendir", lambda: os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top))
        if d is None: continue
        names = attempt("list", lambda: os.listdir(d)) or []
        assert "only-here" not in names, "listed"
        fd = attempt("read", lambda: os.open("f", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=d))
        if fd is not None: look(fd)
        new = "new%d" % (number % 7)
        fd = attempt("create", lambda: os.open(new, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=d))
        if fd is not None: attempt("write", lambda: os.write(fd, b"x")); os.close(fd)
        attempt("chmod", lambda: os.chmod("f", 0o640 + number % 8, dir_fd=d))
        attempt("chown", lambda: os.chown("g", number % 9, 9, dir_fd=d, follow_symlinks=False))
        attempt("utime", lambda: os.utime("f", (number, number), dir_fd=d, follow_symlinks=False))
        attempt("mkdir", lambda: os.mkdir("m%d" % (number % 5), dir_fd=d))
        attempt("rename", lambda: os.rename(new, "moved", src_dir_fd=d, dst_dir_fd=d))
        attempt("link", lambda: os.link("moved", "linked", src_dir_fd=d, dst_dir_fd=d, follow_symlinks=False))
        attempt("symlink", lambda: os.symlink("x", "s", dir_fd=d))
        for gone in ("linked", "moved", "s"): attempt("unlink", lambda: os.unlink(gone, dir_fd=d))
        attempt("rmdir", lambda: os.rmdir("m%d" % (number % 5), dir_fd=d))
        os.close(d)
    # More than the daemon keeps open.
    for n in range(90): attempt("fill", lambda: os.chmod("fill/%d" % n, 0o600 + number % 8, dir_fd=top))
    for n in range(8):
        again("h%d" % n)
        fd = attempt("open file", lambda: os.open("h%d" % n, os.O_RDWR | os.O_NOFOLLOW, dir_fd=top))
        if fd is None: continue
        attempt("setxattr", lambda: os.setxattr(fd, "user.a", b"x")); attempt("truncate", lambda: os.ftruncate(fd, 8))
        look(fd)
print(*sorted(done))
"#;

/// Every name below, with what may be known of it.
fn picture(dir: &Path) -> String {
    let look = "find . -printf '%p %y %m %U:%G %s %T@ %C@ %n\n' | sort; find . -type f | sort |
        xargs cat; find . | sort | xargs getfattr -h -m- -d 2>/dev/null";
    sh(dir, look)
}

/// Goal: whatever he swaps for links while root walks, reads, makes, changes and removes through
/// the mount, nothing outside the backing directory is read or touched.
///
/// Method: the daemon has few descriptors, so that it must find its way again and again; time stamps
/// of the secret directory tell of every change.
pub fn nothing_outside_is_reached() {
    let mount = Mount::beside_prepared(
        "mkdir -m 777 play; mkdir play/fill; touch play/fill/{0..89}",
        &["prlimit", "--nofile=300:300"],
    );
    let outside = mount.open_to_all().join("secret");
    fs::create_dir_all(outside.join("m1")).unwrap();
    for name in ["f", "g", "new1", "moved", "only-here"] {
        fs::write(outside.join(name), "SECRET").unwrap();
    }
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
    let before = picture(&outside);
    let play = mount.backing().join("play");
    let mut attacker = attack(&mut python(SWAP, &[&play, &outside]));
    let mut ready = [0; 6];
    attacker.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let workers: Vec<Child> =
        (0..2).map(|_| python(WORK, &[&mount.path().join("play")]).spawn().unwrap()).collect();
    let swaps: u64 = said(attacker).trim().parse().unwrap();
    assert!(swaps > 100, "only {swaps} swaps");
    for worker in workers {
        let done = said(worker);
        for what in ["list", "read", "create", "chmod", "chown", "unlink", "rename", "open file"] {
            assert!(done.contains(what), "never did {what}: {done}");
        }
    }
    mount.umount_clean();
    assert_eq!(picture(&outside), before);
}

/// Moves root's file, which lies in his directory, to another name and back; replaces nothing.
const MOVE: &str = r#"
import ctypes, os, sys, time
os.chdir(sys.argv[2])
libc = ctypes.CDLL(None)
end, moves = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    if libc.renameat2(-100, b"hidden", -100, b"x", 1) == 0: os.rename("x", "hidden"); moves += 1
print(moves)
"#;

/// Makes a file of that other name through the mount. What he made is his to remove; doing so has
/// the kernel look for the name anew.
const MAKE: &str = r#"
import os, sys, time
os.chdir(sys.argv[2])
end, made = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    for how in (os.O_EXCL, 0):
        try: fd = os.open("x", os.O_RDWR | os.O_CREAT | how, 0o600)
        except OSError: break
        assert b"SECRET" not in os.pread(fd, 100, 0), "read a file of root's"
        assert os.fstat(fd).st_uid == os.getuid(), "opened a file of root's"
        os.close(fd); os.unlink("x"); made += 1
print(made)
"#;

/// Goal: who moves another user's file to where he makes one through the mount is not handed it:
/// the kernel checks no permission for a file that it takes for new.
pub fn create() {
    let prepare = "mkdir his; printf SECRET >his/hidden; chmod 600 his/hidden; chown 54321 his";
    let mount = Mount::beside_prepared(prepare, &[]);
    mount.open_to_all();
    let mover = attack(&mut python(MOVE, &[&mount.backing().join("his")]));
    let maker = attack(&mut python(MAKE, &[&mount.path().join("his")]));
    let made = maker.wait_with_output().unwrap();
    let moves: u64 = said(mover).trim().parse().unwrap();
    assert!(made.status.success(), "{made:?}");
    let made: u64 = String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
    assert!(moves > 100 && made > 100, "{moves} moves, {made} files");
    mount.umount_clean();
    assert_eq!(
        sh(mount.backing(), "cat his/hidden; stat -c ' %u %a' his/hidden"),
        "SECRET 0 600\n"
    );
}
