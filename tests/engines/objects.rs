//! Writes end with the engine's objects. Counts, never times.

use std::fs;
use std::process::Command;

use crate::engine::Engine;
use crate::lanes::Program;
use crate::support::{Mount, sh};

const MIB: u64 = 1 << 20;
const SHARD_BYTES: u64 = 8 * MIB;

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
pub fn writes_end_with_shards(_: &'static str) {
    let engine = Engine::start_sharded(SHARD_BYTES);
    // Not by way of another mount of it: the graph is shown at the engine's own.
    let over = engine.files();
    let options = ["--memory", "128M", "--chunk", "5M", "--max-age", "1h", "--log-level", "trace"];
    let mount = Mount::beside_of(&over, &options);
    let config = &mount.status()["config"];
    assert_eq!(config["stripe_bytes"], SHARD_BYTES, "{config:#}");
    assert_eq!(config["chunk_bytes"], SHARD_BYTES, "{config:#}");
    // It adds up the sizes of files wrongly where somebody asks for one while writes are on their way.
    let looks = "while :; do ls -l . && stat f? || sleep 0.05; done >/dev/null 2>&1";
    let mut looker = Command::new("bash");
    let looker = Program(looker.args(["-c", looks]).current_dir(&over).spawn().unwrap());
    let write = "for n in 1 2 3; do
        seq $n 10000019 | head -c 30000001 >f$n & done; wait; cksum f? >sums";
    sh(mount.path(), write);
    mount.umount_clean();
    drop(looker);
    sh(&over, "cksum f? | cmp - sums");
    let writes = writes_of(&mount);
    assert!(writes.len() >= 12, "{writes:?}");
    for (from, len) in writes {
        let to = from + len;
        let is_within = from / SHARD_BYTES == (to - 1) / SHARD_BYTES;
        assert!(is_within || to.is_multiple_of(SHARD_BYTES), "from {from} to {to}");
    }
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
