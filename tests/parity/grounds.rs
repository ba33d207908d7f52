//! The filesystems to compare on: that of the temporary directory, and, as root, new ones on loop
//! devices and in memory, each made once and taken away by `Drop`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Enough for every case, and what mkfs.xfs takes; sparse.
const IMAGE_BYTES: u64 = 400 << 20;

/// Filesystems that can be made, and by what.
const KINDS: [(&str, &[&str]); 4] = [
    // Blocks of the size that FUSE shows for its own; a small image would have smaller ones.
    ("ext4", &["mkfs.ext4", "-q", "-F", "-b", "4096"]),
    ("xfs", &["mkfs.xfs", "-q", "-f"]),
    ("btrfs", &["mkfs.btrfs", "-q", "-f"]),
    ("tmpfs", &[]),
];

/// A place for mounts and plain directories on one filesystem.
pub struct Ground {
    /// The kind of filesystem.
    pub kind: &'static str,
    /// Entries of a large directory; fewer where time is better spent on other things.
    pub entries: usize,
    dir: PathBuf,
    mounted: bool,
    _holder: TempDir,
}

impl Ground {
    /// The temporary directory.
    pub fn here() -> Ground {
        let holder = holder();
        let kind = match crate::sys::statfs_type(holder.path()) {
            0xEF53 => "ext4",
            0x5846_5342 => "xfs",
            0x9123_683E => "btrfs",
            0x0102_1994 => "tmpfs",
            _ => "other",
        };
        let dir = holder.path().to_path_buf();
        Ground { kind, entries: 100_000, dir, mounted: false, _holder: holder }
    }

    /// Those that can be made, or why not.
    pub fn made() -> Vec<(&'static str, Result<Ground, String>)> {
        KINDS.map(|(kind, mkfs)| (kind, Self::make(kind, mkfs))).into()
    }

    fn make(kind: &'static str, mkfs: &[&str]) -> Result<Ground, String> {
        if let Some(reason) = crate::support::cannot_be_root() {
            return Err(reason);
        }
        let holder = holder();
        let (dir, image) = (holder.path().join("fs"), holder.path().join("image"));
        fs::create_dir(&dir).map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        match mkfs {
            [] => mount.args(["-t", kind, "-o", &format!("size={IMAGE_BYTES}"), "none"]),
            [program, arguments @ ..] => {
                let file = File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES));
                file.map_err(|error| error.to_string())?;
                run(Command::new(program).args(arguments).arg(&image))?;
                mount.args(["-t", kind, "-o", "loop"]).arg(&image)
            }
        };
        run(mount.arg(&dir))?;
        // From here on Drop unmounts.
        let ground = Ground { kind, entries: 10_000, dir, mounted: true, _holder: holder };
        crate::sys::let_all_in(ground.path());
        Ok(ground)
    }

    /// Where to make directories.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a case that hangs must not keep it.
            let _ = run(Command::new("umount").arg("-l").arg(&self.dir));
        }
    }
}

/// A directory that ordinary users may pass through.
fn holder() -> TempDir {
    let holder = tempfile::Builder::new().prefix("coalescefs-parity-").tempdir().unwrap();
    crate::sys::let_all_in(holder.path());
    holder
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
