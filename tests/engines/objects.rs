//! Writes end with the engine's objects. Counts, never times.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::engine::Engine;
use crate::support::{Mount, sh};

const MIB: u64 = 1 << 20;
const SHARD_BYTES: u64 = 8 * MIB;

/// GlusterFS with sharding, all in one process: its client over a directory of its own, without a
/// server or a network.
struct Shards {
    dir: TempDir,
}

impl Shards {
    /// Why it cannot be started here, if it cannot.
    fn cannot_start() -> Option<String> {
        let mut command = Command::new("glusterfs");
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        let is_there = command.status().is_ok_and(|status| status.success());
        (!is_there).then(|| "not installed: glusterfs".to_owned())
    }

    fn start() -> Shards {
        let dir = tempfile::Builder::new().prefix("coalescefs-shards-").tempdir().unwrap();
        let shards = Shards { dir };
        let brick = shards.at("brick");
        [&brick, &shards.at("mnt")].map(|dir| fs::create_dir(dir).unwrap());
        let graph = format!(
            "volume v-posix\n type storage/posix\n option directory {}\nend-volume\n\
             volume v-locks\n type features/locks\n subvolumes v-posix\nend-volume\n\
             volume v-shard\n type features/shard\n option shard-block-size 8MB\n \
             subvolumes v-locks\nend-volume\n",
            brick.display()
        );
        fs::write(shards.at("graph"), graph).unwrap();
        let mut client = Command::new("timeout");
        client.args(["-k", "5", "60", "glusterfs", "--volume-name=v-shard"]);
        client.arg("-f").arg(shards.at("graph")).arg("-l").arg(shards.at("log"));
        client.arg("--pid-file").arg(shards.at("pid")).arg(shards.at("mnt"));
        let status = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(status.status().unwrap().success(), "{client:?}");
        sh(&shards.at("."), "until mountpoint -q mnt; do sleep 0.05; done; mkdir mnt/files");
        shards
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        // The client ends with its mount.
        let _ = Command::new("umount").arg("-l").arg(self.at("mnt")).status();
        let pid = fs::read_to_string(self.at("pid")).unwrap_or_default().trim().parse();
        if let Some(pid) = pid.ok().filter(|pid| *pid > 1) {
            // SAFETY: a process that this test started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// Offset and length of each write of a lane, as its log has it.
fn writes_of(mount: &Mount) -> Vec<(u64, u64)> {
    let log = fs::read_to_string(mount.log_path()).unwrap();
    let number = |line: &str, name: &str| -> Option<u64> {
        line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
    };
    let lines = log.lines().filter(|line| line.contains(" write file="));
    lines.filter_map(|line| Some((number(line, "offset")?, number(line, "len")?))).collect()
}

/// Goal: of files in shards of 8 MiB no write that reaches the end of one goes on behind it, and
/// what is stored is what was written.
pub fn writes_end_with_shards() {
    let shards = Shards::start();
    let over = shards.at("mnt/files");
    let options = ["--memory", "128M", "--chunk", "5M", "--max-age", "1h", "--log-level", "trace"];
    let mount = Mount::beside_of(&over, &options);
    let config = &mount.status()["config"];
    assert_eq!(config["stripe_bytes"], SHARD_BYTES, "{config:#}");
    assert_eq!(config["chunk_bytes"], SHARD_BYTES, "{config:#}");
    let write = "for n in 1 2 3; do
        seq $n 10000019 | head -c 30000001 >f$n & done; wait; cksum f? >sums";
    sh(mount.path(), write);
    mount.umount_clean();
    sh(&over, "cksum f? | cmp - sums");
    let writes = writes_of(&mount);
    assert!(writes.len() >= 12, "{writes:?}");
    for (from, len) in writes {
        let to = from + len;
        let is_within = from / SHARD_BYTES == (to - 1) / SHARD_BYTES;
        assert!(is_within || to.is_multiple_of(SHARD_BYTES), "from {from} to {to}");
    }
}

/// Why [`writes_end_with_shards`] cannot run here, if it cannot.
pub fn cannot_make_shards() -> Option<String> {
    Shards::cannot_start()
}

/// Goal: the chunks of MooseFS are known by its mount.
pub fn layout(name: &'static str) {
    let (mount, _engine) = Engine::mounted(name, &[]);
    let config = &mount.status()["config"];
    assert_eq!(config["stripe_bytes"], 64 * MIB, "{config:#}");
    let chunk_bytes = config["chunk_bytes"].as_u64().unwrap();
    assert_eq!((64 * MIB) % chunk_bytes, 0, "{config:#}");
    let found = &config["abilities"];
    assert_eq!(found["has_hard_links"], true, "{config:#}");
    mount.umount_clean();
}
