//! Other users: on the mount, and on the control socket.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Mount, PROGRAM, sh, succeed, text};

/// A user nobody is.
const OTHER: u32 = 54321;

/// A mount of root's that others can walk to, and the program where they can start it.
fn open_to_all(options: &[&str]) -> (Mount, PathBuf) {
    let mount = Mount::beside(options);
    let program = mount.open_to_all().join("coalescefs");
    // By another process: one that is just being started would keep the copy open for writing.
    succeed(Command::new("cp").arg(PROGRAM).arg(&program));
    (mount, program)
}

fn as_other(command: &mut Command) -> Output {
    // What root finds first may be in a place of his own.
    command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
    command.uid(OTHER).gid(OTHER).output().unwrap()
}

fn other_sh(dir: &Path, script: &str) -> String {
    let output = as_other(Command::new("sh").args(["-c", script]).current_dir(dir));
    text(&output).lines().skip(1).map(|line| format!("{line}\n")).collect()
}

/// Goal: what modes and ACLs below forbid a second user, the mount forbids him, with the same words.
pub fn backing_permissions_hold() {
    let (mount, _) = open_to_all(&["--max-age", "1h"]);
    let prepare = "echo secret >f; chmod 600 f; mkdir -m 700 d; echo secret >d/f; mkdir -m 711 x
        echo secret >x/f; chmod 600 x/f; echo seen >open; mkdir -m 755 e; touch e/f; mkdir -m 1777 t
        echo mine >t/f; echo acl >g; chmod 600 g; setfacl -m u:54321:r g 2>/dev/null || chmod 604 g";
    let script = "cat f; echo x >>f; cat d/f; ls d; ls x; cat x/f; cat open; echo x >>open
        mkdir e/d; rm -f e/f; mv e/f e/g; ln open e/l; touch e/n; chmod 777 open; chown 54321 open
        rm -f t/f; mv t/f t/g; truncate -s 0 open; setfattr -n user.x -v y open; touch -d 2001-01-01 f
        cat g; echo x >>g; chmod 666 g; mknod t/null c 1 3; ln -P f t/hard; echo own >t/own; cat t/own";
    let plain = mount.plain();
    sh(mount.path(), prepare);
    sh(&plain, prepare);
    let (there, here) = (other_sh(&plain, script), other_sh(mount.path(), script));
    assert_eq!(here, there);
    assert!(here.matches("denied").count() > 12 && here.contains("own"), "{here}");
    assert_eq!(other_sh(&plain, "cat t/own"), "own\n", "what is allowed works");
    mount.umount_clean();
    // One that is not for others at all.
    let (closed, _) = open_to_all(&["--no-allow-other"]);
    let refused = other_sh(closed.backing(), "ls ../out; cat ../out/f; echo x >../out/new");
    assert_eq!(refused.matches("denied").count(), 3, "{refused}");
    closed.umount_clean();
}

/// Goal: another user can neither ask what is open or written, nor unmount; not by the command line
/// and not by talking to the socket himself.
pub fn control() {
    let (mount, program) = open_to_all(&[]);
    fs::write(mount.path().join("private-name"), "x").unwrap();
    for arguments in [&["status"][..], &["status", "--files"], &["status", "--json"], &["umount"]] {
        let output = as_other(Command::new(&program).args(arguments).arg(mount.path()));
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let said = text(&output);
        assert!(said.contains("only root and the user who made the mount may ask"), "{said}");
        assert!(!said.contains("private-name"), "{said}");
    }
    let talk = r#"
import os, socket, sys
device = os.stat(sys.argv[1]).st_dev
for request in ("status", "files", "umount"):
    s = socket.socket(socket.AF_UNIX); s.settimeout(30)
    s.connect("\0coalescefs-%d-%d" % (os.major(device), os.minor(device)))
    try: s.sendall(b'{"request":"%s"}\n' % request.encode())
    except BrokenPipeError: pass
    print(s.makefile().readline().strip())
"#;
    let output = as_other(Command::new("python3").args(["-c", talk]).arg(mount.path()));
    let refusal =
        r#"{"answer":"failed","message":"only root and the user who made the mount may ask"}"#;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), [refusal; 3], "{}", text(&output));
    mount.umount_clean();
}

/// Takes, as whoever runs it, the first addresses of every mount to come and of the locks of the
/// directories named, and answers everybody that all is well. Every second one lets callers wait.
const SQUATTER: &str = r#"
import os, select, socket, sys
names = ["coalescefs-0-%d%s" % (minor, end) for minor in range(1500) for end in ("", "-1")]
for path in sys.argv[1:]:
    stat = os.stat(path)
    names += ["coalescefs-backing-%x-%x%s" % (stat.st_dev, stat.st_ino, end) for end in ("", "-1")]
keep, answering = [], []
for number, name in enumerate(names):
    s = socket.socket(socket.AF_UNIX)
    s.bind("\0" + name)
    s.listen(0)
    keep.append(s)
    if number % 2 == 0: answering.append(s)
    else:
        full = socket.socket(socket.AF_UNIX); full.setblocking(False)
        full.connect("\0" + name); keep.append(full)
print("taken", flush=True)
poll = select.poll()
by_number = {s.fileno(): s for s in answering}
for number in by_number: poll.register(number, select.POLLIN)
while True:
    for number, _ in poll.poll():
        peer = by_number[number].accept()[0]
        peer.settimeout(5)
        try:
            peer.recv(4096)
            peer.sendall(b'{"answer":"done"}\n')
        except OSError: pass
        peer.close()
"#;

/// Goal: a user who took the addresses of a mount and of its lock before it was made neither keeps
/// it from being made nor from being asked, and is not believed when its daemon has died.
///
/// Method: in network and process namespaces of the test's own, so that nobody else is disturbed
/// and nothing is left.
pub fn squatters() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        ulimit -n 8192; mkdir out; chmod 755 . out
        setpriv --reuid 54321 --regid 54321 --clear-groups env PATH=/usr/bin:/bin python3 -c "$2" out >taken 2>errors &
        squatter=$!
        until grep -q taken taken; do kill -0 $squatter || { cat errors; exit 1; }; sleep 0.05; done
        "$1" mount out
        "$1" status out | grep -q "$PWD/out" && echo seen
        echo kept >out/f; "$1" umount out; cat out/f; mountpoint -q out || echo gone
        "$1" mount out; "$1" mount out 2>&1 | grep -c 'already\|in use'
        pids=$("$1" status --json out | sed -n 's/.*"\(keeper\|worker\)_pid": \([0-9]*\).*/\2/p')
        kill -9 $pids
        "$1" status out; echo $?; "$1" umount out; echo $?"#;
    let output = Command::new("unshare")
        .args(["-nmp", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .args(["sh", "-c", script, "sh", PROGRAM, SQUATTER])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = text(&output);
    assert!(
        String::from_utf8_lossy(&output.stdout).starts_with("seen\nkept\ngone\n1\n1\n1\n"),
        "{said}"
    );
    assert_eq!(said.matches("of user 54321 answers for it").count(), 2, "{said}");
}

/// Goal: set-id bits and capabilities end when another user writes, truncates or overwrites the file, and
/// stay when root does; below as well.
pub fn set_id_bits() {
    let (mount, _) = open_to_all(&["--max-age", "1h"]);
    let prepare =
        "umask 0; for f in append cut over python roots; do echo x >$f; chmod 6777 $f; done
        echo x >caps; chmod 777 caps; setfattr -n security.capability \
            -v 0x0100000200040000000000000000000000000000 caps";
    let write = "echo y >>append; truncate -s 0 cut; echo z 1<>over; echo w >>caps
        python3 -c 'f = open(\"python\", \"r+b\"); f.write(b\"m\"); f.close()'";
    let look =
        "stat -c '%n %a' append cut over python roots; getfattr -n security.capability caps 2>&1 |
        grep -c 'No such attribute' || true";
    let plain = mount.plain();
    for dir in [mount.path(), &plain] {
        sh(dir, prepare);
        assert_eq!(other_sh(dir, write), "");
        sh(dir, "echo r >>roots");
    }
    let wanted = "append 777\ncut 777\nover 777\npython 777\nroots 6777\n1\n";
    assert_eq!(sh(&plain, look), wanted);
    assert_eq!(sh(mount.path(), look), wanted);
    mount.umount_clean();
    assert_eq!(sh(mount.backing(), look), wanted);
}
