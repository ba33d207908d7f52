//! The disk's place on this machine: the FUSE mount, the loop device on its file, and the
//! filesystem on that. Made by the disk's process; taken away by it, or by the benchmark when it
//! could not.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::disk::{FILE, REQUEST_BYTES};
use super::{Kind, Setup};

/// Of `<linux/prctl.h>`.
const PR_SET_IO_FLUSHER: i32 = 57;

/// Where everything is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    dir: PathBuf,
    device: Option<String>,
    /// The root of the filesystem on the disk.
    pub mountpoint: PathBuf,
}

impl Place {
    /// New directories, and the FUSE mount with the descriptor to serve it.
    pub fn new() -> Result<(Place, OwnedFd), String> {
        let dir = tempfile::Builder::new().prefix("coalescefs-disk-").tempdir();
        let dir = dir.map_err(|error| format!("a temporary directory: {error}"))?.keep();
        let place = Place { mountpoint: dir.join("fs"), device: None, dir };
        let mounted = [place.below(), place.mountpoint.clone()]
            .iter()
            .try_for_each(fs::create_dir)
            .map_err(|error| format!("{}: {error}", place.dir.display()))
            .and_then(|()| mount_fuse(&place.below()));
        match mounted {
            Ok(device) => Ok((place, device)),
            Err(error) => {
                place.take_away();
                Err(error)
            }
        }
    }

    /// The loop device and what is on it, once the FUSE mount is served.
    pub fn make(&mut self, setup: &Setup) -> Result<(), String> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on", "--sector-size=4096"]);
        let device = run(losetup.arg(self.below().join(FILE)))?;
        self.device = Some(device.clone());
        tune(&device, setup)?;
        // Discarding is refused, and leaving work for later would disturb what is measured.
        let mkfs: &[&str] = match setup.filesystem {
            Kind::Ext4 => {
                &["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]
            }
            Kind::Xfs => &["mkfs.xfs", "-q", "-K"],
        };
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&device))?;
        run(Command::new("mount").arg(&device).arg(&self.mountpoint))?;
        match setup.filesystem {
            Kind::Ext4 => read_bitmaps(&device),
            Kind::Xfs => Ok(()),
        }
    }

    /// Leaves nothing, whatever of it is there; the filesystem stays with those who still use it.
    pub fn take_away(&self) {
        unmount(&self.mountpoint);
        if let Some(device) = &self.device {
            let _ = run(Command::new("losetup").arg("--detach").arg(device));
        }
        unmount(&self.below());
        // Not recursively: nothing is to be deleted on what could not be unmounted.
        for dir in [&self.below(), &self.mountpoint, &self.dir] {
            let _ = fs::remove_dir(dir);
        }
    }

    /// The most dirty pages the kernel may keep for it, as on a machine with less memory; no limit
    /// but the machine's if there is none.
    pub fn limit_dirty(&self, bytes: Option<u64>) -> Result<(), String> {
        let device = self.device.as_deref().unwrap_or_default().trim_start_matches("/dev/");
        let bdi = PathBuf::from(format!("/sys/block/{device}/bdi"));
        match bytes {
            Some(bytes) => {
                set(&bdi.join("strict_limit"), "1")?;
                set(&bdi.join("max_bytes"), &bytes.to_string())
            }
            None => {
                set(&bdi.join("strict_limit"), "0")?;
                set(&bdi.join("max_ratio"), "100")
            }
        }
    }

    fn below(&self) -> PathBuf {
        self.dir.join("below")
    }
}

/// The bitmaps of all block groups, which a filesystem in use has in memory. The kernel reads them
/// by and by after mounting, far from where anybody writes: whoever is measured then would pay.
fn read_bitmaps(device: &str) -> Result<(), String> {
    let groups = format!("/proc/fs/ext4/{}/mb_groups", device.trim_start_matches("/dev/"));
    fs::read(&groups).map(drop).map_err(|error| format!("{groups}: {error}"))
}

/// As the kernel sees a disk that turns.
fn tune(device: &str, setup: &Setup) -> Result<(), String> {
    let name = device.trim_start_matches("/dev/");
    let queue = PathBuf::from(format!("/sys/block/{name}/queue"));
    set(&queue.join("scheduler"), "mq-deadline")?;
    set(&queue.join("rotational"), "1")?;
    // A larger one would come to the disk in two pieces.
    set(&queue.join("max_sectors_kb"), &(REQUEST_BYTES / 1024).to_string())?;
    // What the elevator has is at the drive, which knows better; merging goes on before it.
    set(&queue.join("nr_requests"), &setup.drive.queue.to_string())
}

fn set(path: &Path, value: &str) -> Result<(), String> {
    fs::write(path, value).map_err(|error| format!("{} = {value}: {error}", path.display()))
}

fn mount_fuse(path: &Path) -> Result<OwnedFd, String> {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    let device = device.map_err(|error| format!("/dev/fuse: {error}"))?;
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let words = ["emulated-disk", "fuse.emulated-disk", &data].map(c_string);
    let target = c_string(path);
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    let [source, kind, data] = &words;
    // SAFETY: four strings that live as long as the call.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    };
    match result {
        0 => Ok(device.into()),
        _ => Err(format!("mounting FUSE, which needs root: {}", std::io::Error::last_os_error())),
    }
}

fn unmount(path: &Path) {
    // SAFETY: a path. EINVAL: nothing is mounted there.
    unsafe { libc::umount2(c_string(path).as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
}

fn c_string(word: impl AsRef<Path>) -> CString {
    CString::new(word.as_ref().as_os_str().as_bytes()).expect("no zero bytes")
}

/// What it printed, without the end of the line.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{:?}: {}", command.get_program(), text(&output.stderr))),
    }
}

/// The benchmark's end is told by the end of standard input; until then the disk is needed.
pub fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Lets this thread and those it starts run before all ordinary ones, wake up on time, and get
/// memory without writing to the disk that it is. Where the machine does not let it, the self check
/// tells whether the disk is good enough all the same.
pub fn run_first(priority: i32) {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: this thread; a valid structure.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    }
}
