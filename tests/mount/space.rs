//! Disks that get full: on small filesystems of each kind, as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::image::Image;
use crate::support::{Mount, sh, text};

const STREAMS: u64 = 40;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mount/space.py");
const OPTIONS: [&str; 4] = ["--memory", "16M", "--chunk", "256K"];

/// A filesystem's kind and how many MiB it has: about as few as it can.
#[derive(Clone, Copy)]
struct Small(&'static str, u64);

const SMALL: [Small; 4] =
    [Small("ext4", 96), Small("xfs", 320), Small("btrfs", 256), Small("tmpfs", 96)];

impl Small {
    fn make(self) -> Image {
        Image::make(self.0, self.1 << 20).unwrap()
    }
}

/// Every test on every kind of filesystem.
pub fn trials(skip: &Option<String>) -> Vec<Trial> {
    type Test = (&'static str, fn(Small));
    const TESTS: [Test; 8] = [
        ("filled_by_forty_that_sync", |small| fill(small, "fsync", "ring")),
        ("filled_by_forty_that_close", |small| fill(small, "close", "ring")),
        ("filled_with_an_eater", |small| with_an_eater(small, "ring")),
        ("min_free", min_free),
        ("allocated_ahead", |small| allocated_ahead(small, "ring")),
        ("windows_filled_by_forty", |small| fill(small, "fsync", "file")),
        ("windows_with_an_eater", |small| with_an_eater(small, "file")),
        ("windows_are_given_back", |small| allocated_ahead(small, "file")),
    ];
    let mut trials = Vec::new();
    for small in SMALL {
        let skip = skip.clone().or_else(|| Image::cannot_make(small.0));
        if let Some(reason) = &skip {
            eprintln!("disks of kind {} are not filled: {reason}", small.0);
        }
        for (name, test) in TESTS {
            let name = format!("space::{}::{name}", small.0);
            let trial = crate::trial(&skip, &name, move || test(small));
            trials.push(trial);
        }
    }
    let skip = skip.clone().or_else(|| Image::cannot_make("btrfs"));
    for (name, sync) in [("synced", "fsync"), ("closed", "close")] {
        let name = format!("space::btrfs::quota_{name}");
        trials.push(crate::trial(&skip, &name, move || quota(sync)));
    }
    trials
}

fn options(layout: &'static str) -> Vec<&'static str> {
    OPTIONS.into_iter().chain(["--layout", layout]).collect()
}

fn free_bytes(dir: &Path) -> u64 {
    sh(dir, "stat -f -c '%a %S' . | { read -r a s; echo $((a * s)); }").trim().parse().unwrap()
}

/// Starts programs that together write `bytes`.
fn start(dir: &Path, bytes: u64, sync: &str) -> Vec<Child> {
    let start = |number: u64| {
        let mut program = Command::new("python3");
        program.arg(SCRIPT).args([number, bytes / STREAMS].map(|n| n.to_string())).arg(sync);
        program.current_dir(dir).stdout(Stdio::piped()).spawn().unwrap()
    };
    (0..STREAMS).map(start).collect()
}

/// What each program was told: its number, the bytes it was told are safe, and the error.
struct Told {
    number: u64,
    acknowledged: usize,
    refusal: Option<String>,
}

fn finish(programs: Vec<Child>) -> Vec<Told> {
    let told = |program: Child| {
        let output = program.wait_with_output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        Told {
            number: said["number"].as_u64().unwrap(),
            acknowledged: said["acknowledged"].as_u64().unwrap() as usize,
            refusal: said["refusal"].as_str().map(str::to_owned),
        }
    };
    programs.into_iter().map(told).collect()
}

fn assert_kept(dir: &Path, told: &[Told]) {
    for Told { number, acknowledged, .. } in told {
        // Where there was no space for its name, nothing was acknowledged.
        let bytes = fs::read(dir.join(format!("OUTPUT{number}"))).unwrap_or_default();
        assert!(bytes.len() >= *acknowledged, "OUTPUT{number}: {acknowledged} were acknowledged");
        let expected = (0..).flat_map(|n| format!("{number:02}{n:07}\n").repeat(1024).into_bytes());
        let mut compared = bytes.iter().copied().zip(expected).take(*acknowledged);
        let wrong = compared.position(|(found, written)| found != written);
        assert_eq!(wrong, None, "of {acknowledged} bytes acknowledged in OUTPUT{number}");
    }
}

/// Somebody was refused, and all who were for such a reason.
fn assert_refused(told: &[Told], errnos: &[&str]) {
    let refusals: Vec<&str> = told.iter().filter_map(|told| told.refusal.as_deref()).collect();
    assert!(!refusals.is_empty(), "nobody was refused");
    assert!(refusals.iter().all(|refusal| errnos.contains(refusal)), "{refusals:?}");
}

/// No file takes more than its bytes need.
fn assert_nothing_reserved(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let meta = entry.unwrap().metadata().unwrap();
        let taken = meta.blocks() * 512;
        // And a list of extents, which is long where the disk was full.
        let most = meta.len().next_multiple_of(4096) + 8192 + meta.len() / 128;
        assert!(taken <= most, "{taken} for {}", meta.len());
    }
}

/// Goal: forty programs fill a disk; what fsync or close said is safe is there, those that got no
/// space heard of it, what is deleted is used again, and nothing stays allocated ahead.
fn fill(small: Small, sync: &str, layout: &'static str) {
    let image = small.make();
    let mount = Mount::over_in(image.path(), &options(layout));
    let filler = image.path().join("filler");
    fs::write(&filler, vec![1; 24 << 20]).unwrap();
    let told = finish(start(mount.path(), free_bytes(image.path()) * 5 / 4, sync));
    assert_refused(&told, &["ENOSPC"]);
    assert_kept(mount.path(), &told);
    fs::remove_file(&filler).unwrap();
    // Some filesystems have it back when that is on the disk.
    sh(image.path(), "sync -f .");
    sh(mount.path(), "dd if=/dev/zero of=again bs=1M count=4 conv=fsync status=none");
    mount.umount_clean();
    assert_kept(mount.backing(), &told);
    assert_eq!(fs::metadata(mount.backing().join("again")).unwrap().len(), 4 << 20);
    assert_nothing_reserved(mount.backing());
}

/// Goal: the same while another program takes the space below, and the worker is killed.
fn with_an_eater(small: Small, layout: &'static str) {
    let image = small.make();
    let mount = Mount::over_in(image.path(), &options(layout));
    let bytes = free_bytes(image.path());
    let programs = start(mount.path(), bytes, "fsync");
    let mut eater = Command::new("dd");
    eater.args(["if=/dev/zero", "of=eaten", "bs=64K"]).stderr(Stdio::null());
    let mut eater = eater.current_dir(image.path()).spawn().unwrap();
    let worker = mount.worker_pid();
    // SAFETY: the worker of this mount.
    unsafe { libc::kill(worker, libc::SIGKILL) };
    let told = finish(programs);
    assert!(!eater.wait().unwrap().success(), "the disk was not full");
    assert_refused(&told, &["ENOSPC"]);
    mount.umount_clean();
    assert_kept(mount.backing(), &told);
    assert_nothing_reserved(mount.backing());
}

/// Goal: `--min-free` leaves that much to others.
fn min_free(small: Small) {
    const MIN_FREE: u64 = 40 << 20;
    let image = small.make();
    let options: Vec<&str> = OPTIONS.into_iter().chain(["--min-free", "40M"]).collect();
    let mount = Mount::over_in(image.path(), &options);
    let bytes = free_bytes(image.path()) * 5 / 4;
    // The last bytes may bring a block or two of the filesystem's own with them. What was let go is
    // there for others at once, and shown by btrfs when it is on the disk.
    let check = || {
        let shown = free_bytes(image.path());
        sh(image.path(), "sync -f .");
        let free = free_bytes(image.path());
        assert!(free >= MIN_FREE - (2 << 20), "{free} bytes are free, {shown} before a sync");
    };
    // Little by little, when hardly anything is buffered at any time.
    let said = sh(mount.path(), "dd if=/dev/zero of=f bs=128K oflag=sync 2>&1 || true");
    assert!(said.contains("No space left"), "{said}");
    check();
    sh(mount.path(), "rm f; sync -f \"$PWD/..\"");
    let told = finish(start(mount.path(), bytes, "fsync"));
    assert_refused(&told, &["ENOSPC"]);
    check();
    mount.umount_clean();
    assert_kept(mount.backing(), &told);
    assert!(free_bytes(image.path()) < MIN_FREE * 2, "space was left that could be used");
}

/// Goal: forty programs come up against a quota: what fsync or close said is safe is there, the
/// others hear EDQUOT, or ENOSPC where not even room could be held, and all that is buffered is
/// stored when the quota is raised. A quota of btrfs, which is one of the subvolume and needs no
/// other tools; root is bound by it as by those of users, as long as it does not override them.
fn quota(sync: &str) {
    let image = Small("btrfs", 256).make();
    let sub = "btrfs -q subvolume create sub && btrfs -q quota enable . && chmod 755 sub &&
        btrfs -q qgroup limit 32M sub";
    sh(image.path(), sub);
    let mount = Mount::over_in(&image.path().join("sub"), &OPTIONS);
    let told = finish(start(mount.path(), 64 << 20, sync));
    assert_refused(&told, &["EDQUOT", "ENOSPC"]);
    assert_kept(mount.path(), &told);
    // What is freed counts against the quota until the filesystem commits: by chance all fits.
    let ended = mount.umount();
    if !ended.status.success() {
        assert_eq!(ended.status.code(), Some(75), "{}", text(&ended));
        // Asked of the whole: what is asked of a subvolume that is full is refused, too.
        sh(image.path(), "btrfs -q qgroup limit none 0/$(btrfs inspect-internal rootid sub) .");
        sh(mount.path(), "dd if=/dev/zero of=again bs=1M count=4 conv=fsync status=none");
        mount.umount_clean();
    }
    assert_kept(mount.backing(), &told);
    assert_nothing_reserved(mount.backing());
}

/// Goal: the size of a file below never shows what is allocated ahead; it goes when the file is
/// closed or cut, also when the worker dies; and what a program allocated itself stays.
fn allocated_ahead(small: Small, layout: &'static str) {
    let image = small.make();
    let mount = Mount::beside_in(image.path(), &options(layout));
    let script = r#"
import os, subprocess, sys
below, worker = sys.argv[1], int(sys.argv[2])
def stream(name):
    out = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
    for n in range(1, 65):
        os.write(out, b"%06d..\n" % n * 7282)
        if n % 8 == 0:
            os.fsync(out)
        assert os.stat(f"{below}/{name}").st_size <= os.fstat(out).st_size
    return out
first, second = stream("first"), stream("second")
os.ftruncate(second, 32 << 20)
if worker:
    os.kill(worker, 9)
third, own, tail = stream("third"), stream("own"), stream("tail")
subprocess.check_call(["fallocate", "-n", "-l", "16M", "own"])
# Nothing is allocated for what follows, but XFS does that itself, and keeps it where fallocate was
# used before.
os.ftruncate(tail, os.fstat(tail).st_size)
os.write(tail, b"tail" * 2000)
for out in first, second, third, own, tail:
    os.close(out)
"#;
    let run = |dir: &Path, below: &Path, worker: i32| {
        let mut program = Command::new("python3");
        program.args(["-c", script]).arg(below).arg(worker.to_string());
        assert!(program.current_dir(dir).status().unwrap().success());
    };
    let plain = image.path().join("plain");
    fs::create_dir(&plain).unwrap();
    run(&plain, &plain, 0);
    run(mount.path(), mount.backing(), mount.worker_pid());
    mount.umount_clean();
    let of = |name: &str| fs::metadata(mount.backing().join(name)).unwrap();
    assert_eq!(of("second").len(), 32 << 20);
    // XFS allocates ahead itself, and keeps that.
    let as_plain = fs::metadata(plain.join("second")).unwrap().blocks();
    assert!(of("second").blocks() <= as_plain + 2048, "blocks where a plain file has a hole");
    assert!(of("own").blocks() * 512 >= 16 << 20, "what the program allocated is gone");
    fs::remove_file(mount.backing().join("own")).unwrap();
    assert_nothing_reserved(mount.backing());
}
