//! Names, values, requests and options of any bytes. `COALESCEFS_TEST_SEED` repeats a run.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Mount, PROGRAM, is_mounted, text};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let given = std::env::var("COALESCEFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(clock);
        eprintln!("COALESCEFS_TEST_SEED={seed}");
        Random(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Any bytes but NUL.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| 1 + self.below(255) as u8).collect()
    }
}

fn errno_or(result: isize) -> Result<isize, i32> {
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap())
    } else {
        Ok(result)
    }
}

/// One call on a file: what it answered.
#[derive(Debug)]
enum Call {
    Set(CString, Vec<u8>, i32),
    Get(CString, usize),
    Remove(CString),
    List(usize),
}

impl Call {
    fn random(random: &mut Random) -> Call {
        let prefix = random.of(&["user.", "trusted.", "security.", "system.", "", "USER.", "user"]);
        let len = random.of(&[0, 1, 1, 1, 7, 200, 249, 250, 251, 255, 256, 260]);
        // One letter: names that come again.
        let rest = if len == 1 { vec![b"ab"[random.below(2)]] } else { random.bytes(len) };
        let name = CString::new([prefix.as_bytes(), &rest[..]].concat()).unwrap();
        let size = random.of(&[0, 1, 20, 100, 1000, 4096, 65_535, 65_536, 65_537, 100_000]);
        match random.below(8) {
            0..4 => Call::Set(name, random.bytes(size), random.of(&[0, 0, 1, 2, 3, 64])),
            4 | 5 => Call::Get(name, size),
            6 => Call::Remove(name),
            _ => Call::List(size),
        }
    }

    fn on(&self, file: &Path) -> (Result<isize, i32>, Vec<Vec<u8>>) {
        let path = CString::new(file.as_os_str().as_bytes()).unwrap();
        let mut buf = match self {
            Call::Get(_, size) | Call::List(size) => vec![0u8; *size],
            _ => Vec::new(),
        };
        let (at, room) = (buf.as_mut_ptr(), buf.len());
        // SAFETY: valid C strings, and buffers of the lengths given.
        let result = unsafe {
            match self {
                Call::Set(name, value, flags) => {
                    let (value, len) = (value.as_ptr().cast(), value.len());
                    libc::lsetxattr(path.as_ptr(), name.as_ptr(), value, len, *flags) as isize
                }
                Call::Get(name, _) => {
                    libc::lgetxattr(path.as_ptr(), name.as_ptr(), at.cast(), room)
                }
                Call::Remove(name) => libc::lremovexattr(path.as_ptr(), name.as_ptr()) as isize,
                Call::List(_) => libc::llistxattr(path.as_ptr(), at.cast(), room),
            }
        };
        let result = errno_or(result);
        buf.truncate(result.map_or(0, |len| len as usize));
        let mut parts: Vec<Vec<u8>> = match self {
            Call::List(_) => buf.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
            _ => vec![buf],
        };
        parts.sort();
        (result, parts)
    }
}

/// Goal: attributes of any name and length answer as on a plain directory.
pub fn attributes() {
    let mut random = Random::seeded();
    let mount = Mount::over(&[]);
    let plain = mount.plain();
    let names = ["file", "other"];
    for name in names {
        fs::write(mount.path().join(name), "x").unwrap();
        fs::write(plain.join(name), "x").unwrap();
    }
    let mut works = 0;
    for number in 0..2000 {
        let (name, call) = (random.of(&names), Call::random(&mut random));
        let (there, here) = (call.on(&plain.join(name)), call.on(&mount.path().join(name)));
        assert!(
            here == there,
            "call {number} on {name}: {:?}, not {:?}: {call:?}",
            here.0,
            there.0
        );
        works += usize::from(here.0.is_ok());
    }
    assert!(works > 100, "only {works} calls worked");
    mount.umount_clean();
}

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Goal: neither nonsense, nor endless lines, nor many callers who say nothing, little or leave in
/// the middle make the worker fall, grow or forget the others.
pub fn control() {
    let mut random = Random::seeded();
    let mount = Mount::over(&[]);
    let device = fs::metadata(mount.path()).unwrap().dev();
    let name = format!("coalescefs-{}-{}", libc::major(device), libc::minor(device));
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let worker = mount.worker_pid();
    let before = resident_kib(worker);
    let starts: [&[u8]; 5] =
        [b"", b"{\"request\":", b"{\"request\":\"status\"", b"[[[[[[[[", b"{\"request\":\"stat"];
    // Some stay, and say a byte now and then: fewer than are answered at a time.
    let mut slow: Vec<UnixStream> =
        (0..8).map(|_| UnixStream::connect_addr(&address).unwrap()).collect();
    for round in 0..300 {
        let mut stream = UnixStream::connect_addr(&address).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // Answers to more lines, which nobody reads, would fill the socket.
        let len = random.of(&[0, 1, 40, 4000, 4096, 5000, 100_000]);
        let mut bytes = random.of(&starts).to_vec();
        bytes.extend(random.bytes(len));
        if random.below(2) == 0 {
            bytes.push(b'\n');
        }
        // Refused in the middle, perhaps.
        let _ = stream.write_all(&bytes);
        if random.below(3) == 0 {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        if round % 20 == 0 {
            slow.iter_mut().for_each(|stream| drop(stream.write(b"{")));
            assert_eq!(mount.worker_pid(), worker);
        }
    }
    drop(slow);
    let mut endless = UnixStream::connect_addr(&address).unwrap();
    assert!((0..10_000).any(|_| endless.write_all(&[b'x'; 4096]).is_err()), "never refused");
    let mut stream = BufReader::new(UnixStream::connect_addr(&address).unwrap());
    stream.get_mut().write_all(b"no request\n{\"request\":\"files\"}\n").unwrap();
    let mut lines = stream.lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("not understood"));
    assert!(lines.next().unwrap().contains("\"files\""));
    assert_eq!((mount.worker_pid(), mount.figure("worker_restarts")), (worker, 0));
    let after = resident_kib(worker);
    assert!(after < before + (32 << 10), "{before} KiB grew to {after} KiB");
    mount.umount_clean();
}

/// Goal: whatever is on the command line, the program ends with 0, 1 or 2 and one line of error.
pub fn command_lines() {
    let mut random = Random::seeded();
    let words: [&[u8]; 24] = [
        b"mount",
        b"umount",
        b"status",
        b"run",
        b"--memory",
        b"--chunk",
        b"--max-age",
        b"--lanes",
        b"--drain-rate",
        b"--over",
        b"--",
        b"-",
        b"--json",
        b"--files",
        b"--foreground",
        b"-o",
        b"--log-level",
        b"--log-file",
        b"--memory=1e400",
        b"--chunk=-0",
        b"--lanes=99999999999999",
        b"/nowhere/a",
        b"/proc/self/fd/0/x",
        b"--no-allow-other",
    ];
    for _ in 0..250 {
        let mut arguments = vec![random.of(&words[..4]).to_vec()];
        for _ in 0..random.below(6) {
            let len = random.of(&[1, 3, 20, 300]);
            let odd = random.bytes(len);
            arguments.push(if random.below(3) == 0 { odd } else { random.of(&words).to_vec() });
        }
        if arguments.len() == 1 && arguments[0] == b"status" {
            continue; // of every mount there is
        }
        let arguments: Vec<_> = arguments.into_iter().map(std::ffi::OsString::from_vec).collect();
        let output = Command::new(PROGRAM)
            .args(&arguments)
            .current_dir("/proc/self")
            .env_remove("COALESCEFS_LOG_FILE")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(0..=2)), "{arguments:?}: {}", text(&output));
        let lines = output.stderr.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines <= 1, "{arguments:?}: {}", text(&output));
        let is_clean = output.stderr.iter().all(|byte| *byte >= b' ' || *byte == b'\n');
        assert!(is_clean, "{arguments:?}: control characters in {:?}", text(&output));
    }
}

/// Goal: no option, path or name runs a command or becomes an argument of its own in the mount
/// helper: each comes to the program as it was given, or is refused.
pub fn mount_helper() {
    let dir = tempfile::tempdir().unwrap();
    let (witness, program) = (dir.path().join("witness"), dir.path().join("program"));
    fs::write(&program, "#!/bin/sh\nprintf '%s\\0' \"$@\" >\"$SEEN\"\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let seen = dir.path().join("seen");
    let helper = |backing: &str, options: &str| {
        let _ = fs::remove_file(&seen);
        // Not executed directly: the program was just written and may still be open elsewhere.
        let output = Command::new("sh")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/mount-scripts/mount.coalescefs"))
            .args([backing, "/nowhere/mountpoint", "-o", options])
            .env("COALESCEFS", &program)
            .env("SEEN", &seen)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(!witness.exists(), "{backing:?} {options:?} ran a command");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output));
        let arguments = fs::read(&seen).ok()?;
        let mut arguments: Vec<String> = arguments
            .split(|byte| *byte == 0)
            .map(|it| String::from_utf8(it.into()).unwrap())
            .collect();
        arguments.pop();
        Some(arguments)
    };
    let end = |backing: &str| ["--", backing, "/nowhere/mountpoint"].map(str::to_owned);
    let hostile = [
        "$(touch witness)",
        "`touch witness`",
        "; touch witness",
        "| touch witness",
        "a\ntouch witness",
        "\"; touch witness; \"",
        "'; touch witness; '",
        "*",
        "?",
        "~",
        "$IFS",
        "-o",
        "--foreground",
        "a b",
        "${PATH}",
        "\\",
        "%s%n",
        "-n",
        "--",
    ];
    for odd in hostile {
        let taken = helper(odd, "defaults");
        if !odd.starts_with('-') {
            assert_eq!(taken, Some([&["mount".to_owned()], &end(odd)[..]].concat()), "{odd:?}");
        }
        let wanted = [&["mount".to_owned(), format!("--memory={odd}")], &end("/b")[..]];
        assert_eq!(helper("/b", &format!("memory={odd}")), Some(wanted.concat()), "{odd:?}");
        assert_eq!(helper("/b", odd), None, "the option {odd:?} is refused");
        let name = format!("{odd}=1");
        assert_eq!(helper("/b", &name), None, "the option {name:?} is refused");
    }
    assert!(!is_mounted(Path::new("/nowhere/mountpoint")));
    let check = Command::new("shellcheck")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/mount-scripts/mount.coalescefs"))
        .output();
    // Where there is no shellcheck, others run it.
    assert!(check.map_or(true, |output| output.status.success()));
}
