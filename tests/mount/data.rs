//! Bytes: what is written is what is read, at every moment and by everybody.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Mount, record, records, sh};

/// Options under which nothing is drained by itself during a test.
const HOLD: [&str; 2] = ["--max-age", "1h"];

/// Makes the kernel hand over what its page cache holds, without an fsync of ours.
fn write_back(file: &File) {
    // SAFETY: a valid descriptor.
    let result = unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            0,
            0,
            libc::SYNC_FILE_RANGE_WAIT_BEFORE
                | libc::SYNC_FILE_RANGE_WRITE
                | libc::SYNC_FILE_RANGE_WAIT_AFTER,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Goal: a reader sees each record right after the write() that made it, in the same process, in
/// another, and after the file was closed and the page cache dropped, while it is buffered.
pub fn written_data_is_seen_at_once_by_everybody() {
    let mount = Mount::over(&HOLD);
    let path = mount.path().join("OUTPUT1");
    let mut writer = File::create(&path).unwrap();
    let mut reader = File::open(&path).unwrap();
    let mut all = Vec::new();
    for number in 0..2000 {
        writer.write_all(record(1, number).as_bytes()).unwrap();
        all.extend_from_slice(record(1, number).as_bytes());
        if number % 100 == 0 {
            let mut seen = vec![0; all.len()];
            reader.rewind().unwrap();
            reader.read_exact(&mut seen).unwrap();
            assert_eq!(seen, all);
            assert_eq!(sh(mount.path(), "cat OUTPUT1").into_bytes(), all);
            assert_eq!(fs::metadata(&path).unwrap().len(), all.len() as u64);
        }
    }
    write_back(&writer);
    drop((writer, reader));
    assert!(mount.figure("backlog_bytes") >= all.len() as u64);
    // Without the page cache of the mount the bytes come from the buffer.
    fs::write("/proc/sys/vm/drop_caches", "3").ok();
    assert_eq!(fs::read(&path).unwrap(), all);
    mount.umount_clean();
    assert_eq!(fs::read(&path).unwrap(), all);
}

/// Goal: data really is held back, and really is below after umount; else the tests around prove
/// nothing.
pub fn buffered_data_is_not_below_yet_and_is_after_umount() {
    let mount = Mount::beside(&HOLD);
    let mut file = File::create(mount.path().join("f")).unwrap();
    file.write_all(&records(3, 1000)).unwrap();
    write_back(&file);
    assert_eq!(fs::metadata(mount.backing().join("f")).unwrap().len(), 0);
    assert_eq!(mount.figure("backlog_bytes"), records(3, 1000).len() as u64);
    drop(file);
    mount.umount_clean();
    assert_eq!(fs::read(mount.backing().join("f")).unwrap(), records(3, 1000));
}

/// Goal: writes at random places, overlapping, with drains in between, equal a model in memory.
/// Method: xorshift with a printed seed; small chunks and memory so that lanes are busy.
pub fn writes_in_any_order_overlapping() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1
    });
    println!("seed {seed}");
    let mut state: u64 = seed;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mount = Mount::over(&["--memory", "8M", "--chunk", "256K", "--max-age", "200ms"]);
    let path = mount.path().join("f");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut model: Vec<u8> = Vec::new();
    for step in 0..3000u64 {
        let at = random(3 << 20) as usize;
        let longest = if random(10) == 0 { 300_000 } else { 300 };
        let len = 1 + random(longest) as usize;
        let byte = (step % 251) as u8 + 1;
        if model.len() < at + len {
            model.resize(at + len, 0);
        }
        model[at..at + len].fill(byte);
        file.write_all_at(&vec![byte; len], at as u64).unwrap();
        if random(50) == 0 {
            write_back(&file);
        }
        if random(100) == 0 {
            let size = random(3 << 20) as usize;
            model.resize(size, 0);
            file.set_len(size as u64).unwrap();
        }
        if random(20) == 0 && !model.is_empty() {
            let from = random(model.len() as u64) as usize;
            let mut seen = vec![0; (model.len() - from).min(100_000)];
            file.read_exact_at(&mut seen, from as u64).unwrap();
            assert!(seen == model[from..from + seen.len()], "seed {seed}, step {step}");
        }
    }
    assert!(fs::read(&path).unwrap() == model, "seed {seed}: through the mount");
    drop(file);
    mount.umount_clean();
    assert!(fs::read(&path).unwrap() == model, "seed {seed}: below");
}

/// Goal: a shared mapping and write() show each other's bytes, and both are drained.
pub fn mmap_and_write_see_each_other() {
    let mount = Mount::over(&HOLD);
    let path = mount.path().join("f");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(&[b'a'; 8192], 0).unwrap();
    // SAFETY: a fresh mapping of a file that stays that long.
    let map = unsafe {
        let flags = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), 8192, flags, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: within the mapping, no other reference to it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(map.cast::<u8>(), 8192) };
    assert_eq!(bytes[5000], b'a');
    bytes[5000] = b'm';
    file.write_all_at(b"w", 5001).unwrap();
    let mut seen = [0; 3];
    file.read_exact_at(&mut seen, 5000).unwrap();
    assert_eq!(&seen, b"mwa");
    assert_eq!(bytes[5001], b'w');
    // SAFETY: the mapping made above.
    unsafe { libc::munmap(map, 8192) };
    drop(file);
    mount.umount_clean();
    assert_eq!(fs::read(&path).unwrap()[5000..5003], *b"mwa");
}

/// Goal: cutting and extending a file with buffered bytes gives what it gives anywhere.
pub fn truncation_both_ways_while_buffered() {
    let mount = Mount::over(&HOLD);
    let path = mount.path().join("f");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(&[1; 200_000], 0).unwrap();
    write_back(&file);
    file.set_len(100_001).unwrap();
    file.set_len(150_000).unwrap();
    let mut wanted = vec![1; 100_001];
    wanted.resize(150_000, 0);
    assert!(fs::read(&path).unwrap() == wanted);
    // Open with O_TRUNC, as a shell's > does.
    fs::write(&path, "short").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"short");
    drop(file);
    mount.umount_clean();
    assert_eq!(fs::read(&path).unwrap(), b"short");
}

/// Goal: a file without a name works until it is closed, and its bytes are then not written.
pub fn unlinked_open_files_work() {
    let mount = Mount::over(&HOLD);
    let path = mount.path().join("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(&records(1, 10_000)).unwrap();
    write_back(&file);
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    file.write_all(b"more").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut seen = Vec::new();
    file.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, [records(1, 10_000), b"more".to_vec()].concat());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    mount.wait_for("the deleted file's bytes to go", |status| status["backlog_bytes"] == 0);
    assert_eq!(mount.figure("bytes_out"), 0);
    mount.umount_clean();
}

/// Goal: after fsync() the bytes are in the backing file; a second one costs no write.
pub fn fsync_reaches_the_backing_file() {
    let mount = Mount::beside(&HOLD);
    let mut file = File::create(mount.path().join("f")).unwrap();
    file.write_all(&records(1, 5000)).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs::read(mount.backing().join("f")).unwrap(), records(1, 5000));
    let writes = mount.figure("drain_writes");
    file.sync_all().unwrap();
    assert_eq!(mount.figure("drain_writes"), writes);
    drop(file);
    mount.umount_clean();
}

/// Goal: mtime is when the program wrote or what it set, never when the bytes were drained.
pub fn times_are_those_of_the_program() {
    let mount = Mount::over(&["--max-age", "300ms"]);
    let (set, written) = (mount.path().join("set"), mount.path().join("written"));
    fs::write(&set, records(1, 3000)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options().append(true).open(&set).unwrap().set_modified(time).unwrap();
    fs::write(&written, records(2, 3000)).unwrap();
    let modified = fs::metadata(&written).unwrap().modified().unwrap();
    mount.wait_for("everything to be drained", |status| status["backlog_bytes"] == 0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(fs::metadata(&set).unwrap().modified().unwrap(), time);
    assert_eq!(fs::metadata(&written).unwrap().modified().unwrap(), modified);
    mount.umount_clean();
    assert_eq!(fs::metadata(&set).unwrap().modified().unwrap(), time);
    assert_eq!(fs::metadata(&written).unwrap().modified().unwrap(), modified);
}

/// Goal: the option that leaves the kernel's writeback cache out changes nothing but speed.
pub fn without_the_writeback_cache() {
    let mount = Mount::over(&["--no-writeback-cache", "--max-age", "1h", "--memory", "8M"]);
    sh(mount.path(), "for n in 1 2 3; do seq 1 2000 | grep --line-buffered . >OUT$n & done; wait");
    for n in 1..=3 {
        let text = fs::read_to_string(mount.path().join(format!("OUT{n}"))).unwrap();
        assert_eq!(text.lines().count(), 2000);
    }
    let output = Command::new("dd")
        .args(["if=/dev/zero", "of=big", "bs=1M", "count=40"])
        .current_dir(mount.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    mount.umount_clean();
    assert_eq!(fs::metadata(mount.path().join("big")).unwrap().len(), 40 << 20);
    assert_eq!(fs::read_to_string(mount.path().join("OUT2")).unwrap().lines().last(), Some("2000"));
}
