//! An engine, for a test alone: started by `tests/engines/engine`, stopped by `Drop`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Mount, succeed, text};

/// All that the script knows.
pub const ENGINES: [&str; 4] = ["gluster", "moosefs", "sshfs", "overlay"];

/// Bounds a command of the script, in seconds; starting an engine takes most.
const LIMIT: &str = "240";

/// A running one.
pub struct Engine {
    dir: TempDir,
}

impl Engine {
    /// Why one cannot be started here, if it cannot.
    pub fn cannot_start(name: &str) -> Option<String> {
        let output = script(&["check", name]).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
        (!output.status.success()).then_some(said)
    }

    /// Starts it.
    pub fn start(name: &str) -> Engine {
        Self::start_with(name, "2G")
    }

    /// Starts it, each of its disks so large, as truncate(1) has it. MooseFS' client tries for two
    /// minutes by default before it says that they are full.
    pub fn start_with(name: &str, bytes: &str) -> Engine {
        let retries = ("ENGINE_MOOSEFS_OPTIONS", "mfsioretries=3");
        Self::start_set(name, &[("ENGINE_BYTES", bytes), retries])
    }

    /// Starts GlusterFS with files in shards of so many bytes.
    pub fn start_sharded(bytes: u64) -> Engine {
        let bytes = bytes.to_string();
        Self::start_set("gluster", &[("ENGINE_BYTES", "2G"), ("ENGINE_SHARD_BYTES", &bytes)])
    }

    fn start_set(name: &str, variables: &[(&str, &str)]) -> Engine {
        let dir = tempfile::Builder::new().prefix("coalescefs-engine-").tempdir().unwrap();
        let engine = Engine { dir };
        let mut start = script(&["start", name]);
        start.env("ENGINE_OWNER", std::process::id().to_string());
        start.envs(variables.iter().copied());
        run(start.arg(engine.path()));
        fs::create_dir(engine.files()).unwrap();
        engine
    }

    /// One with a mount over it. In this order, so that a test that fails ends the engine first:
    /// nobody is left waiting for it.
    pub fn mounted(name: &str, options: &[&str]) -> (Mount, Engine) {
        let engine = Self::start(name);
        let mount = engine.mount(options);
        (mount, engine)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The engine's own mount.
    pub fn root(&self) -> PathBuf {
        self.path().join("mnt")
    }

    /// A directory in it, which is what [`Engine::mount`] covers.
    pub fn files(&self) -> PathBuf {
        self.root().join("files")
    }

    /// coalescefs over [`Engine::files`], mounted beside; log and mountpoint are not on the engine.
    pub fn mount(&self, options: &[&str]) -> Mount {
        Self::mount_of(&self.files(), options)
    }

    /// The same over a directory of an engine's client.
    pub fn mount_of(files: &Path, options: &[&str]) -> Mount {
        let bind = |at: &Path| {
            succeed(Command::new("mount").arg("--bind").arg(files).arg(at));
        };
        Mount::beside_made(bind, options)
    }

    /// One of the script's commands, which must succeed.
    pub fn order(&self, command: &str) {
        run(script(&[command]).arg(self.path()));
    }

    /// The most that [`Engine::files`] may hold, by its own quota.
    pub fn limit(&self, bytes: u64) {
        run(script(&["limit"]).arg(self.path()).arg(bytes.to_string()));
    }

    /// Starts it with a second client, so that there are two nodes; neither client keeps attributes.
    pub fn start_for_two(name: &str) -> Engine {
        let variables = [("ENGINE_BYTES", "2G"), ("ENGINE_SSHFS_OPTIONS", "dir_cache=no")];
        let engine = Self::start_set(name, &variables);
        run(script(&["another"]).envs(variables).arg(engine.path()));
        engine
    }

    /// sshfs as it is by default: for nobody but who mounted it.
    pub fn start_private() -> Engine {
        Self::start_set("sshfs", &[("ENGINE_SSHFS_OPTIONS", "dir_cache=yes")])
    }

    /// [`Engine::files`] as the second client has it.
    pub fn files_of_another(&self) -> PathBuf {
        self.path().join("mnt2/files")
    }

    /// Another client, which knows nothing of what the first one held.
    pub fn change_client(&self) {
        self.order("crash");
        self.order("remount");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Removes the directory, too.
        let _ = script(&["stop"]).arg(self.path()).status();
    }
}

fn script(words: &[&str]) -> Command {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines/engine");
    let mut command = Command::new("timeout");
    command.args(["-k", "5", LIMIT]).arg(file).args(words).stdin(Stdio::null());
    command
}

/// By way of files: what an engine leaves running would keep a pipe open.
fn run(command: &mut Command) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let (out, err) = (log.reopen().unwrap(), log.reopen().unwrap());
    let status = command.stdout(out).stderr(err).status().unwrap();
    let said = fs::read_to_string(log.path()).unwrap_or_default();
    assert!(status.success(), "{command:?}: {status}\n{said}");
}

/// What `coalescefs WORDS MOUNTPOINT` says.
pub fn say(mount: &Mount, words: &[&str]) -> String {
    let mut command = Command::new(crate::support::PROGRAM);
    text(&command.args(words).arg(mount.path()).output().unwrap())
}
