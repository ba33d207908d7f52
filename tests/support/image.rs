//! New filesystems on loop devices and in memory, for a test alone; as root.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Filesystems that can be made, and by what.
pub const KINDS: [(&str, &[&str]); 4] = [
    // Blocks of the size that FUSE shows for its own; a small image would have smaller ones. Inodes
    // of 256 bytes have nanoseconds and times past 2038.
    ("ext4", &["mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256"]),
    ("xfs", &["mkfs.xfs", "-q", "-f"]),
    ("btrfs", &["mkfs.btrfs", "-q", "-f"]),
    ("tmpfs", &[]),
];

/// A mounted filesystem; taken away by `Drop`.
pub struct Image {
    kind: &'static str,
    dir: PathBuf,
    holder: TempDir,
}

impl Image {
    /// Why none of a kind can be made here, if it cannot.
    pub fn cannot_make(kind: &str) -> Option<String> {
        let program = KINDS.iter().find(|(known, _)| *known == kind)?.1.first();
        let is_missing = |program| {
            let mut command = Command::new(program);
            command.arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
        };
        let missing = program.filter(|program| is_missing(**program));
        super::cannot_be_root().or_else(|| missing.map(|program| format!("no {program}")))
    }

    /// Makes and mounts one of `bytes`, sparse. `Err` says why it cannot be made here.
    pub fn make(kind: &str, bytes: u64) -> Result<Image, String> {
        Image::make_with(kind, bytes, &[])
    }

    /// The same, made with more options.
    pub fn make_with(kind: &str, bytes: u64, options: &[&str]) -> Result<Image, String> {
        if let Some(reason) = super::cannot_be_root() {
            return Err(reason);
        }
        let known = KINDS.iter().find(|(known, _)| *known == kind);
        let (kind, mkfs) = known.ok_or_else(|| format!("no filesystem {kind} is known"))?;
        // Drop unmounts what is mounted.
        let holder = holder();
        let image = Image { kind, dir: holder.path().join("fs"), holder };
        fs::create_dir(image.path()).map_err(|error| error.to_string())?;
        match mkfs {
            [] => {
                let mut mount = Command::new("mount");
                mount.args(["-t", kind, "-o", &format!("size={bytes}"), "none"]);
                run(mount.arg(image.path()))?;
            }
            [program, arguments @ ..] => {
                let file = File::create(image.file()).and_then(|file| file.set_len(bytes));
                file.map_err(|error| error.to_string())?;
                run(Command::new(program).args(arguments).args(options).arg(image.file()))?;
                image.mount(&[])?;
            }
        }
        let_all_in(image.path());
        Ok(image)
    }

    /// Which of [`KINDS`].
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What is behind the loop device.
    pub fn file(&self) -> PathBuf {
        self.holder.path().join("image")
    }

    /// Mounts the file, which is not mounted.
    pub fn mount(&self, options: &[&str]) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount.args(["-t", self.kind, "-o", "loop"]).args(options);
        run(mount.arg(self.file()).arg(self.path()))
    }

    /// Whether it could be unmounted: not while it is in use.
    pub fn unmount(&self) -> bool {
        run(Command::new("umount").arg(self.path())).is_ok()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily: a test that hangs must not keep it.
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

/// A directory that ordinary users may pass through.
pub fn holder() -> TempDir {
    let holder = tempfile::Builder::new().prefix("coalescefs-image-").tempdir().unwrap();
    let_all_in(holder.path());
    holder
}

/// Lets ordinary users pass through a directory.
pub fn let_all_in(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
