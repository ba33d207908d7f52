//! Where bytes land on the disk: whole stripes, and few extents. Counts, never times; on loop
//! devices, as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::support::image::Image;
use crate::support::{Mount, sh, succeed, text};

/// Sparse.
const IMAGE_BYTES: u64 = 4 << 30;

/// The tests of this file.
pub fn trials(skip: &Option<String>) -> Vec<Trial> {
    type Test = (&'static str, fn(&'static str));
    const TESTS: [Test; 3] = [
        ("files_have_one_extent", files_have_one_extent),
        ("windows_make_room_for_others", windows_make_room_for_others),
        ("windows_of_removed_files_are_given_back", windows_of_removed_files_are_given_back),
    ];
    let cannot = |kind| skip.clone().or_else(|| Image::cannot_make(kind));
    let of_xfs: [(&str, fn()); 3] = [
        ("layout::xfs::closed_files_lie_side_by_side", closed_files_lie_side_by_side),
        ("layout::xfs::writes_are_whole_stripes", writes_are_whole_stripes),
        ("layout::xfs::parts_of_chunks_are_whole_stripes", parts_of_chunks_are_whole_stripes),
    ];
    let mut trials: Vec<_> =
        of_xfs.map(|(name, test)| crate::trial(&cannot("xfs"), name, test)).into();
    for kind in ["ext4", "xfs"] {
        for (name, test) in TESTS {
            let name = format!("layout::{kind}::{name}");
            trials.push(crate::trial(&cannot(kind), &name, move || test(kind)));
        }
    }
    trials
}

/// Runs a program in the mount, with `arguments`.
fn python(mount: &Mount, script: &str, arguments: &[&str]) {
    let mut program = Command::new("python3");
    program.args(["-c", script]).args(arguments).current_dir(mount.path());
    succeed(&mut program);
}

fn blocks_bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Extents of forty files that were written side by side, in such a layout.
fn extents_of_forty(kind: &str, layout: &str) -> Vec<u32> {
    let image = Image::make(kind, IMAGE_BYTES).unwrap();
    let options = ["--memory", "32M", "--chunk", "256K", "--layout", layout];
    let mount = Mount::over_in(image.path(), &options);
    let script = r#"
import os
files = [os.open(f"f{n}", os.O_WRONLY | os.O_CREAT, 0o644) for n in range(40)]
for n in range(600):
    for number, file in enumerate(files):
        os.write(file, b"%02d%08d\n" % (number, n) * 1000)
"#;
    python(&mount, script, &[]);
    mount.umount_clean();
    let extents = |number: u32| {
        let path = mount.backing().join(format!("f{number}"));
        let bytes = fs::read(&path).unwrap();
        let right = (0..600).flat_map(|n| format!("{number:02}{n:08}\n").repeat(1000).into_bytes());
        assert!(bytes.into_iter().eq(right), "f{number}");
        let taken = blocks_bytes(&path);
        assert!(taken <= 11 * 600 * 1000 + 16384, "{taken} bytes taken by f{number}");
        let mut map = Command::new("filefrag");
        let said = text(&succeed(map.arg(&path)));
        let count = said.rsplit(": ").next().and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    (0..40).map(extents).collect()
}

/// Goal: files that are written side by side have one extent each, where turns that follow each
/// other leave many; and no block stays beyond their ends.
fn files_have_one_extent(kind: &'static str) {
    let ring = extents_of_forty(kind, "ring");
    let file = extents_of_forty(kind, "file");
    println!("{kind}: ring {ring:?}, file {file:?}");
    assert!(file.iter().all(|extents| *extents == 1), "{file:?}");
    assert!(ring.iter().sum::<u32>() > 3 * 40, "nothing to be better than: {ring:?}");
}

/// Goal: the disk goes on from the end of one closed file to the beginning of the next: there is
/// nothing between them, though each ends within a block.
fn closed_files_lie_side_by_side() {
    let image = Image::make("xfs", IMAGE_BYTES).unwrap();
    let mount = Mount::over_in(image.path(), &["--max-age", "1h"]);
    let write =
        "for n in $(seq 40); do dd if=/dev/zero of=f$n bs=10007 count=50 status=none & done;
        wait";
    sh(mount.path(), write);
    mount.umount_clean();
    let mut places: Vec<(u64, u64)> =
        (1..=40).flat_map(|n| blocks_of(&mount.backing().join(format!("f{n}")))).collect();
    places.sort_unstable();
    let is_gap = |pair: &&[(u64, u64)]| pair[0].1 + 1 != pair[1].0;
    let gaps = places.windows(2).filter(is_gap).count();
    assert!(gaps <= 8, "{gaps} gaps: {places:?}");
}

/// The first and the last block of each extent.
fn blocks_of(path: &Path) -> Vec<(u64, u64)> {
    let said = text(&succeed(Command::new("filefrag").arg("-v").arg(path)));
    let extent = |line: &str| {
        let (first, last) = line.split(':').nth(2)?.split_once("..")?;
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    said.lines().filter_map(extent).collect()
}

/// A stream that has a window of tens of MiB; the script goes on in `rest`.
const IN_WINDOW: &str = r#"
import os, sys, time
below = sys.argv[1]
def free():
    stat = os.statvfs(below)
    return stat.f_bavail * stat.f_frsize
before = free()
f = os.open("f", os.O_WRONLY | os.O_CREAT, 0o644)
os.write(f, b"f" * (1 << 20))
os.fsync(f)
path = below + "/f"
assert os.stat(path).st_blocks * 512 > 32 << 20, os.stat(path)
assert os.fstat(f).st_blocks * 512 < 2 << 20, "the window shows"
assert before - os.statvfs(".").f_bavail * 4096 < 8 << 20, "it counts as used"
"#;

/// Goal: a file that finds no room gets what is allocated ahead for others, whose bytes stay right.
fn windows_make_room_for_others(kind: &'static str) {
    let image = Image::make(kind, 512 << 20).unwrap();
    let options = ["--memory", "16M", "--chunk", "256K", "--layout", "file", "--max-age", "1h"];
    let mount = Mount::beside_in(image.path(), &options);
    let rest = r#"
os.write(f, b"g" * 1000)
# The kernel hands these over, so that the file is not clean: clean ones are cut in any case.
os.close(os.open("f", os.O_WRONLY))
filler = os.open(below + "/filler", os.O_WRONLY | os.O_CREAT, 0o644)
os.posix_fallocate(filler, 0, free() - (8 << 20))
g = os.open("g", os.O_WRONLY | os.O_CREAT, 0o644)
for _ in range(24):
    os.write(g, b"h" * (1 << 20))
os.fsync(g)
os.write(f, b"i" * (1 << 20))
os.fsync(f)
os.close(f)
os.close(g)
"#;
    let below = mount.backing().to_str().unwrap();
    python(&mount, &format!("{IN_WINDOW}{rest}"), &[below]);
    mount.umount_clean();
    let right: Vec<u8> = [(b'f', 1 << 20), (b'g', 1000), (b'i', 1 << 20)]
        .into_iter()
        .flat_map(|(byte, count)| std::iter::repeat_n(byte, count))
        .collect();
    assert!(fs::read(mount.backing().join("f")).unwrap() == right);
    assert!(fs::read(mount.backing().join("g")).unwrap() == [b'h'].repeat(24 << 20));
    for name in ["f", "g"] {
        let path = mount.backing().join(name);
        let (taken, len) = (blocks_bytes(&path), fs::metadata(&path).unwrap().len());
        assert!(taken <= len + 32768, "{taken} bytes taken by {name} of {len}");
    }
}

/// Goal: what a file without a name is written to, and one that is cut, does not keep a window.
fn windows_of_removed_files_are_given_back(kind: &'static str) {
    let image = Image::make(kind, 512 << 20).unwrap();
    let options = ["--memory", "16M", "--chunk", "256K", "--layout", "file", "--max-age", "1h"];
    let mount = Mount::beside_in(image.path(), &options);
    let rest = r#"
if sys.argv[2] == "unlink":
    os.unlink("f")
else:
    os.ftruncate(f, 1000)
until = time.monotonic() + 60
while free() < before - (16 << 20):
    assert time.monotonic() < until, "the window stays"
    time.sleep(0.05)
os.write(f, b"again" * 100000)
os.fsync(f)
"#;
    let below = mount.backing().to_str().unwrap();
    for how in ["unlink", "cut"] {
        python(&mount, &format!("{IN_WINDOW}{rest}"), &[below, how]);
    }
    mount.umount_clean();
}

/// One write of a lane, as its log has it.
struct Write {
    offset: u64,
    len: u64,
}

fn writes_of(mount: &Mount) -> Vec<Write> {
    let log = fs::read_to_string(mount.log_path()).unwrap();
    let number = |line: &str, name: &str| -> Option<u64> {
        line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
    };
    let write =
        |line: &str| Some(Write { offset: number(line, "offset")?, len: number(line, "len")? });
    log.lines().filter(|line| line.contains(" write file=")).filter_map(write).collect()
}

/// Goal: on a RAID of four data disks with units of 64 KiB every write begins and ends with a
/// stripe, but for the end of the file; also when a chunk of another size is asked for.
fn writes_are_whole_stripes() {
    const STRIPE: u64 = 256 << 10;
    let image = Image::make_with("xfs", IMAGE_BYTES, &["-d", "su=64k,sw=4"]).unwrap();
    let options = ["--memory", "40M", "--chunk", "1300K", "--max-age", "1h"];
    let options: Vec<&str> = options.into_iter().chain(["--log-level", "trace"]).collect();
    let mount = Mount::over_in(image.path(), &options);
    let config = &mount.status()["config"];
    assert_eq!(config["stripe_bytes"].as_u64(), Some(STRIPE));
    assert_eq!(config["chunk_bytes"].as_u64(), Some(6 * STRIPE));
    let write = "for n in 1 2 3; do dd if=/dev/zero of=f$n bs=10007 count=3000 status=none & done;
        wait";
    sh(mount.path(), write);
    mount.umount_clean();
    let writes = writes_of(&mount);
    let end = 3000 * 10007;
    assert!(writes.len() > 6, "{} writes", writes.len());
    for write in &writes {
        let (from, to) = (write.offset, write.offset + write.len);
        let is_whole = from.is_multiple_of(STRIPE) && (to.is_multiple_of(STRIPE) || to == end);
        assert!(is_whole, "from {from} to {to}");
    }
}

/// Goal: also when there is no memory for whole chunks, nearly all writes begin and end with a stripe.
/// Method: sixteen files, of each of which memory has less than a chunk. The kernel's requests come out
/// of order now and then, and what is missing is not waited for when memory is full.
fn parts_of_chunks_are_whole_stripes() {
    const STRIPE: u64 = 256 << 10;
    let image = Image::make_with("xfs", IMAGE_BYTES, &["-d", "su=64k,sw=4"]).unwrap();
    let options = ["--memory", "32M", "--chunk", "2M", "--max-age", "1h", "--drain-rate", "60M"];
    let options: Vec<&str> = options.into_iter().chain(["--log-level", "trace"]).collect();
    let mount = Mount::over_in(image.path(), &options);
    let write =
        "for n in $(seq 16); do dd if=/dev/zero of=f$n bs=10007 count=500 status=none & done;
        wait";
    sh(mount.path(), write);
    mount.umount_clean();
    let writes = writes_of(&mount);
    let end = 500 * 10007;
    let is_part = |write: &&Write| write.len < 2 << 20 && write.offset + write.len != end;
    let parts: Vec<_> = writes.iter().filter(is_part).collect();
    let is_whole = |write: &&&Write| {
        write.offset.is_multiple_of(STRIPE) && (write.offset + write.len).is_multiple_of(STRIPE)
    };
    let whole = parts.iter().filter(is_whole).count();
    assert!(parts.len() > 16, "{} parts of chunks among {} writes", parts.len(), writes.len());
    assert!(whole * 10 >= parts.len() * 9, "{whole} of {} are whole stripes", parts.len());
}
