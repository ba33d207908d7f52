//! Who carries bytes between a program and a directory: FUSE filesystems, mounted for as long as a
//! value lives, and programs that stand in a pipe. None outlives the benchmark.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::helper::Helper;

const COALESCEFS: &str = env!("CARGO_BIN_EXE_coalescefs");
/// Long even for a machine with much else to do.
const MOUNTED_WITHIN: Duration = Duration::from_secs(20);

/// A directory seen through one of them.
pub struct Mount {
    at: PathBuf,
    /// The process that serves it, where it is not a daemon.
    server: Option<Helper>,
    pids: Vec<u32>,
}

impl Mount {
    /// coalescefs over `dir`, with that much memory or its default.
    pub fn coalescefs(dir: &Path, memory_bytes: Option<u64>) -> Result<Mount, String> {
        let mut command = Command::new(COALESCEFS);
        command.arg("mount").arg(dir);
        if let Some(bytes) = memory_bytes {
            command.args(["--memory", &bytes.to_string()]);
        }
        run(&mut command)?;
        // From here on it is taken away whatever happens.
        let mut mount = Mount { at: dir.to_owned(), server: None, pids: Vec::new() };
        mount.pids = daemon(dir)?;
        Ok(mount)
    }

    /// bindfs, which shows `dir` at `at`; with threads, which it is faster with.
    pub fn bindfs(dir: &Path, at: &Path) -> Result<Mount, String> {
        Mount::served(Command::new("bindfs").args(["-f", "--multithreaded"]).args([dir, at]), at)
    }

    /// mergerfs of one branch. By default it leaves 4 GB of a branch alone.
    pub fn mergerfs(dir: &Path, at: &Path) -> Result<Mount, String> {
        Mount::served(
            Command::new("mergerfs").args(["-f", "-o", "minfreespace=0"]).args([dir, at]),
            at,
        )
    }

    fn served(command: &mut Command, at: &Path) -> Result<Mount, String> {
        let before = device(at)?;
        let server = Helper::start(command)?;
        let mut mount = Mount { at: at.to_owned(), pids: vec![server.pid()], server: Some(server) };
        let begun = Instant::now();
        while device(at)? == before {
            if let Some(server) = &mut mount.server
                && server.has_ended()
            {
                return Err(mount
                    .server
                    .take()
                    .map_or(Ok(()), Helper::end)
                    .err()
                    .unwrap_or_default());
            }
            if begun.elapsed() > MOUNTED_WITHIN {
                return Err(format!("{}: not mounted in time", at.display()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(mount)
    }

    /// Its processes, which share memory.
    #[allow(dead_code)] // not every benchmark asks
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Has coalescefs store everything that was written so far.
    #[allow(dead_code)] // not every benchmark asks
    pub fn drain(&self) -> Result<(), String> {
        run(Command::new(COALESCEFS).arg("drain").arg(&self.at))
    }

    /// Everything has been handed to the filesystem below then.
    pub fn end(mut self) -> Result<(), String> {
        let unmounted = self.unmount();
        let server = self.server.take();
        self.at = PathBuf::new();
        unmounted?;
        server.map_or(Ok(()), Helper::end)
    }

    fn unmount(&self) -> Result<(), String> {
        match self.server {
            Some(_) => run(Command::new("fusermount3").arg("-u").arg(&self.at)),
            None => run(Command::new(COALESCEFS).arg("umount").arg(&self.at)),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Only after a failure; a helper that was interrupted has unmounted by itself.
        if !self.at.as_os_str().is_empty() {
            let _ = self.unmount();
        }
    }
}

/// A tmpfs as long as it lives.
#[allow(dead_code)] // not every benchmark wants one
pub struct Tmpfs(PathBuf);

#[allow(dead_code)]
impl Tmpfs {
    /// On that directory.
    pub fn mount(at: &Path) -> Result<Tmpfs, String> {
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at))?;
        Ok(Tmpfs(at.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.0));
    }
}

fn device(path: &Path) -> Result<u64, String> {
    fs::metadata(path).map(|at| at.dev()).map_err(|error| format!("{}: {error}", path.display()))
}

/// The processes of a coalescefs.
fn daemon(mountpoint: &Path) -> Result<Vec<u32>, String> {
    let output = Command::new(COALESCEFS).args(["status", "--json"]).arg(mountpoint).output();
    let output = output.map_err(|error| format!("{COALESCEFS}: {error}"))?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{COALESCEFS} status: {error}"))?;
    let pid = |name: &str| status[name].as_u64().and_then(|pid| u32::try_from(pid).ok());
    Ok(["keeper_pid", "worker_pid"].into_iter().filter_map(pid).collect())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let name = command.get_program().to_string_lossy().into_owned();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Whether a program is where programs are looked for.
pub fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}
