//! Several nodes over one directory: `--consistency close-to-open`.
//!
//! A node is a process with namespaces of its own for network and mounts, since the lock of a backing
//! directory holds in one network namespace. Its mount is reached through its root in /proc.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{PROGRAM, SOON, processes_of, records, sh, succeed, text};

const SHARED: [&str; 2] = ["--consistency", "close-to-open"];

/// A machine of its own, as far as mounts and the lock go, with a mount of the shared directory.
pub struct Node {
    holder: Child,
    mountpoint: PathBuf,
    log: PathBuf,
}

impl Node {
    /// Without a mount yet: mounts that are there when another node begins are copied into it.
    fn start(dir: &Path, name: &str) -> Node {
        let mut holder = Command::new("unshare");
        holder.args(["-n", "-m", "--propagation", "private", "cat"]);
        let holder = holder.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mountpoint = dir.join(name);
        fs::create_dir(&mountpoint).unwrap();
        let node = Node { holder, mountpoint, log: dir.join(format!("{name}.log")) };
        // Once it is another program, unshare(1) has done its work.
        let until = Instant::now() + SOON;
        let comm = format!("/proc/{}/comm", node.holder.id());
        while fs::read_to_string(&comm).unwrap() != "cat\n" {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(5));
        }
        node
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n", "-m", PROGRAM]).args(words);
        command
    }

    fn mount(&self, backing: &Path, options: &[&str]) {
        let mut command = self.command(&["mount"]);
        command.args(options).arg("--log-file").arg(&self.log).arg(backing).arg(&self.mountpoint);
        succeed(&mut command);
    }

    /// Where this node's programs find a file of the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.mountpoint.strip_prefix("/").unwrap()).join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn status(&self) -> Value {
        let output = succeed(self.command(&["status", "--json"]).arg(&self.mountpoint));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// How often it found a file changed below while it wrote it.
    fn conflicts(&self) -> u64 {
        self.status()["files_changed_below"].as_u64().unwrap()
    }

    fn umount(&self) -> Output {
        self.command(&["umount"]).arg(&self.mountpoint).output().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("{}:\n{log}", self.log.display());
        }
        // Stopped first: a worker whose keeper is gone becomes one.
        for signal in [libc::SIGSTOP, libc::SIGKILL, libc::SIGKILL] {
            for pid in processes_of(&self.mountpoint) {
                // SAFETY: a process of ours.
                unsafe { libc::kill(pid, signal) };
            }
        }
        // Its mounts go with it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Two of them with a directory that both have mounted.
struct Cluster {
    nodes: [Node; 2],
    dir: TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        Self::with(&SHARED)
    }

    fn with(options: &[&str]) -> Cluster {
        let dir = tempfile::Builder::new().prefix("coalescefs-nodes-").tempdir().unwrap();
        let cluster = Cluster { nodes: ["a", "b"].map(|name| Node::start(dir.path(), name)), dir };
        fs::create_dir(cluster.backing()).unwrap();
        for node in &cluster.nodes {
            node.mount(&cluster.backing(), options);
        }
        cluster
    }

    fn backing(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    fn end(&self) {
        for node in &self.nodes {
            let output = node.umount();
            assert!(output.status.success(), "{}", text(&output));
        }
    }
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// Size, time of modification and inode number.
fn looks(path: &Path) -> (u64, i64, i64, u64) {
    let meta = fs::metadata(path).unwrap();
    (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino())
}

/// Goal: what one node closed is what the other sees when it looks next: contents, size, times,
/// inode number, listings; whatever was changed, and whatever the kernel there knew before. Nothing
/// counts as a conflict.
pub fn what_is_closed_is_seen_elsewhere() {
    let cluster = Cluster::start();
    let [a, b] = &cluster.nodes;
    let content = records(1, 50_000);
    // (bytes, whether they are added): longer, shorter, as long as before.
    let steps: [(&[u8], bool); 6] = [
        (b"first\n", false),
        (b"more\n", true),
        (&content, false),
        (b"short\n", false),
        (b"SHORT\n", false),
        (&content, true),
    ];
    let mut wanted = Vec::new();
    for round in 0..4 {
        let (writer, reader) = if round % 2 == 0 { (a, b) } else { (b, a) };
        for (number, (bytes, is_added)) in steps.iter().enumerate() {
            if *is_added {
                append(&writer.path("f"), bytes);
                wanted.extend_from_slice(bytes);
            } else {
                fs::write(writer.path("f"), bytes).unwrap();
                wanted = bytes.to_vec();
            }
            let context = format!("round {round}, step {number}");
            let below = looks(&cluster.backing().join("f"));
            assert_eq!(below.0, wanted.len() as u64, "stored at close: {context}");
            assert_eq!(looks(&reader.path("f")), below, "stat: {context}");
            assert!(reader.read("f") == wanted, "contents: {context}");
            assert_eq!(looks(&reader.path("f")), below, "stat after read: {context}");
            assert_eq!(looks(&writer.path("f")), below, "at the writer: {context}");
        }
    }
    for number in 0..20 {
        fs::write(a.path(&format!("from-a{number}")), records(2, number)).unwrap();
        fs::write(b.path(&format!("from-b{number}")), records(3, number)).unwrap();
    }
    for node in [a, b] {
        assert_eq!(fs::read_dir(node.path("")).unwrap().count(), 41);
        for number in 0..20 {
            assert_eq!(node.read(&format!("from-a{number}")), records(2, number));
            assert_eq!(node.read(&format!("from-b{number}")), records(3, number));
        }
    }
    fs::remove_file(a.path("from-b3")).unwrap();
    fs::rename(a.path("from-b4"), a.path("from-b5")).unwrap();
    assert!(!b.path("from-b3").exists() && !b.path("from-b4").exists());
    assert_eq!(b.read("from-b5"), records(3, 4));
    assert_eq!([a.conflicts(), b.conflicts()], [0, 0]);
    cluster.end();
}

/// Goal: who has a file open for reading while another node changes it is not disturbed, who opens it
/// then on the same node sees what is new, and can write.
pub fn readers_do_not_keep_the_old_file_for_others() {
    let cluster = Cluster::start();
    let [a, b] = &cluster.nodes;
    fs::write(a.path("f"), "one\n").unwrap();
    let mut early = File::open(b.path("f")).unwrap();
    let mut line = String::new();
    early.read_to_string(&mut line).unwrap();
    fs::write(a.path("f"), "two, longer\n").unwrap();
    assert_eq!(b.read("f"), b"two, longer\n");
    early.seek(SeekFrom::Start(0)).unwrap();
    line.clear();
    early.read_to_string(&mut line).expect("no error for who had it open");
    append(&b.path("f"), b"three\n");
    assert_eq!((a.read("f"), b.read("f")), (b"two, longer\nthree\n".to_vec(), a.read("f")));
    drop(early);
    // By another name of the same file, which the kernel has looked up before.
    fs::hard_link(b.path("f"), b.path("g")).unwrap();
    assert_eq!(b.read("g").len(), 18);
    fs::write(a.path("f"), "4\n").unwrap();
    assert_eq!((b.read("f"), b.read("g")), (b"4\n".to_vec(), b"4\n".to_vec()));
    assert_eq!([a.conflicts(), b.conflicts()], [0, 0]);
    cluster.end();
}

/// Goal: two nodes that write one file at the same time are told so, by status, log, metrics and
/// an attribute of the file; what each wrote is stored at its offset; and the file is the same for both
/// afterwards.
pub fn two_writers_of_one_file_are_named() {
    let cluster = Cluster::start();
    let [a, b] = &cluster.nodes;
    fs::write(a.path("f"), "").unwrap();
    let open = |node: &Node| OpenOptions::new().append(true).open(node.path("f")).unwrap();
    let (mut one, mut two) = (open(a), open(b));
    one.write_all(b"aaaaaaaa\n").unwrap();
    two.write_all(b"bbb\n").unwrap();
    drop(one);
    drop(two);
    assert_eq!(a.conflicts(), 0, "it was the first to store");
    assert_eq!(b.conflicts(), 1);
    let wanted = b"bbb\naaaa\n".to_vec();
    assert_eq!(fs::read(cluster.backing().join("f")).unwrap(), wanted, "each at its offset");
    assert_eq!((a.read("f"), b.read("f")), (wanted.clone(), wanted));
    let status = b.status();
    let named = &status["changed_below"][0];
    assert_eq!((named["path"].as_str(), named["times"].as_u64()), (Some("f"), Some(1)));
    let said = text(&b.command(&["status"]).arg(&b.mountpoint).output().unwrap());
    assert!(said.contains("changed below: f, by somebody else: its size from 0 to 9"), "{said}");
    assert!(fs::read_to_string(&b.log).unwrap().contains("f was changed below"));
    let metrics = String::from_utf8(b.read(".coalescefs/metrics")).unwrap();
    let line =
        metrics.lines().find(|line| line.starts_with("coalescefs_files_changed_below_total"));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    let attribute = "getfattr --only-values -n user.coalescefs.changed_below f";
    assert_eq!(sh(&b.path(""), attribute), "1");
    // One that has it open for writing, and nothing to store.
    let idle = open(b);
    append(&a.path("f"), b"again\n");
    drop(idle);
    assert_eq!((a.conflicts(), b.conflicts()), (0, 2));
    assert_eq!(b.read("f"), b"bbb\naaaa\nagain\n");
    cluster.end();
}

/// Goal: what programs do on one node is no conflict, however the file is changed, and whichever worker
/// does it; and all of it is seen by the other node.
pub fn what_is_done_here_is_no_conflict() {
    let cluster = Cluster::with(&[&SHARED[..], &["--memory", "16M", "--max-age", "1s"]].concat());
    let [a, b] = &cluster.nodes;
    let script = r#"
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def allocate(f, mode, at, length):
    assert libc.fallocate(f, mode, ctypes.c_long(at), ctypes.c_long(length)) == 0
f = os.open("f", os.O_RDWR | os.O_CREAT)
for turn in range(30):
    os.pwrite(f, b"x" * 300_000, turn * 100_000)
    os.fsync(f)
    os.fchmod(f, 0o600 + turn % 8)
    os.utime("f", ns=(turn * 10**9, turn * 10**9 + 5))
    os.pwrite(f, b"y" * 5000, turn * 7777)
    os.ftruncate(f, 200_000 + turn * 1000)
    os.setxattr("f", "user.a", b"%d" % turn)
    allocate(f, 0, turn * 50_000, 400_000)
    allocate(f, 1, 0, 2_000_000)
    os.rename("f", "g"); os.link("g", "h"); os.rename("g", "f"); os.unlink("h")
    g = os.open("f", os.O_WRONLY | os.O_APPEND)
    os.write(g, b"appended")
    os.copy_file_range(f, g, 1000, 0, 0) if False else None
    os.close(g)
    if turn % 10 == 5:
        os.kill(int(sys.argv[1 + turn // 10]), 9) if len(sys.argv) > 1 + turn // 10 else None
os.close(f)
"#;
    let run = |arguments: &[String]| {
        let mut command = Command::new("python3");
        succeed(command.args(["-c", script]).args(arguments).current_dir(a.path("")));
    };
    run(&[]);
    assert_eq!(a.conflicts(), 0);
    let worker = a.status()["worker_pid"].to_string();
    run(&[worker]);
    sh(
        &a.path(""),
        "seq 100000 >big; cp -p big copy; tar cf t.tar big copy; rm copy; tar xf t.tar; cmp big copy
         python3 - <<'END'
import mmap, os
with open('mapped', 'w+b') as f:
    f.truncate(1 << 20)
    with mmap.mmap(f.fileno(), 0) as m:
        for at in range(0, 1 << 20, 5000): m[at] = 65
        m.flush()
        m[77] = 66
END
         for n in $(seq 40); do (for m in $(seq 200); do echo $n.$m; done >out$n) & done; wait",
    );
    assert_eq!([a.conflicts(), b.conflicts()], [0, 0]);
    for name in ["f", "big", "copy", "mapped", "out1", "out40"] {
        assert!(a.read(name) == b.read(name), "{name}");
        let (ours, theirs) = (looks(&a.path(name)), looks(&b.path(name)));
        assert_eq!(ours, theirs, "{name}");
    }
    cluster.end();
}

/// Goal: inodes that the kernel got from a former worker are those of the next: files stay the same
/// and are found changed when they are.
pub fn the_next_worker_knows_the_same_files() {
    let cluster = Cluster::start();
    let [a, b] = &cluster.nodes;
    for round in 0..3 {
        fs::write(a.path("f"), format!("round {round}\n")).unwrap();
        assert_eq!(b.read("f"), format!("round {round}\n").into_bytes());
    }
    let reader = File::open(b.path("f")).unwrap();
    let writer = File::create(b.path("mine")).unwrap();
    writer.write_all_at(b"before ", 0).unwrap();
    let pid = i32::try_from(b.status()["worker_pid"].as_i64().unwrap()).unwrap();
    // SAFETY: a process of ours.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let mut bytes = [0; 8];
    assert_eq!(reader.read_at(&mut bytes, 0).unwrap(), 8);
    assert_eq!(&bytes, b"round 2\n");
    writer.write_all_at(b"after\n", 7).unwrap();
    drop((reader, writer));
    assert_eq!(a.read("mine"), b"before after\n");
    fs::write(a.path("f"), "and another\n").unwrap();
    assert_eq!(b.read("f"), b"and another\n");
    assert_eq!([a.conflicts(), b.conflicts()], [0, 0]);
    cluster.end();
}

/// Goal: it is the default where others may have the filesystem, too, and only there; status and doctor
/// say which it is, and why.
pub fn the_default_is_by_the_filesystem() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), "n");
    let backing = dir.path().join("shared");
    fs::create_dir(&backing).unwrap();
    node.mount(&backing, &[]);
    let status = node.status();
    assert_eq!(status["config"]["consistency"], "exclusive", "{status:#}");
    let said = text(&node.command(&["status"]).arg(&node.mountpoint).output().unwrap());
    assert!(
        said.contains("consistency: exclusive (") && said.contains("of this machine"),
        "{said}"
    );
    let said = text(&node.command(&["doctor"]).arg(&node.mountpoint).output().unwrap());
    assert!(said.contains("exclusive"), "{said}");
    assert!(node.umount().status.success());
}
