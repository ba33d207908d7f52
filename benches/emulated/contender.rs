//! Who may carry the bytes, and with what.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::load::{Load, output};
use crate::common::carriers::{Mount, is_installed};
use crate::common::helper::Helper;

/// Blocks of a buffer in a pipe: few large ones, and always some to fill while one is written.
const BLOCKS: u64 = 20;
/// The most that `buffer` takes for one.
const MOST_OF_A_BLOCK: u64 = 512 << 10;

/// Who carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// The kernel alone, with as many dirty pages as it lets the machine have
    Straight,
    /// The kernel alone, the disk's dirty pages limited to --memory
    Tuned,
    /// `mbuffer` in a pipe before each file
    Mbuffer,
    /// `buffer` in a pipe before each file
    Buffer,
    /// A bindfs of the directory
    Bindfs,
    /// A mergerfs of the directory alone
    Mergerfs,
    /// A coalescefs over the directory
    Coalescefs,
}

/// Those that are installed, and those that are not.
pub fn installed() -> (Vec<Contender>, Vec<Contender>) {
    let all = <Contender as clap::ValueEnum>::value_variants().iter().copied();
    all.partition(|contender| contender.is_installed())
}

impl Contender {
    /// As it is called in results.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Straight => "straight",
            Contender::Tuned => "tuned",
            Contender::Mbuffer => "mbuffer",
            Contender::Buffer => "buffer",
            Contender::Bindfs => "bindfs",
            Contender::Mergerfs => "mergerfs",
            Contender::Coalescefs => "coalescefs",
        }
    }

    /// Whether its program is.
    pub fn is_installed(self) -> bool {
        match self {
            Contender::Straight | Contender::Tuned | Contender::Coalescefs => true,
            Contender::Mbuffer | Contender::Buffer | Contender::Bindfs | Contender::Mergerfs => {
                is_installed(self.name())
            }
        }
    }

    /// What it may hold itself: a fifth is for what the kernel keeps. Of a coalescefs it keeps an
    /// eighth of the daemon's memory, see `src/mount/bdi.rs`, and what the disk has of metadata.
    fn own_bytes(self, memory_bytes: u64) -> u64 {
        memory_bytes / 5 * 4
    }

    /// What the kernel may keep of the disk's dirty pages; no limit but the machine's if none.
    pub fn dirty_bytes(self, memory_bytes: u64) -> Option<u64> {
        match self {
            Contender::Straight => None,
            Contender::Mbuffer | Contender::Buffer => {
                Some(memory_bytes - self.own_bytes(memory_bytes))
            }
            // A coalescefs writes past the page cache, what it has there is the mount's.
            Contender::Tuned | Contender::Bindfs | Contender::Mergerfs | Contender::Coalescefs => {
                Some(memory_bytes)
            }
        }
    }
}

/// A contender at work on one directory; taken away by `Drop`.
pub struct Carrier {
    inlet: Option<PathBuf>,
    mount: Option<Mount>,
    pipes: Vec<Helper>,
}

impl Carrier {
    /// Is ready when this returns. What it needs besides `dir` is made beside it.
    pub fn start(
        contender: Contender,
        dir: &Path,
        load: &Load,
        memory_bytes: u64,
    ) -> Result<Carrier, String> {
        let own_bytes = contender.own_bytes(memory_bytes);
        let mut carrier = Carrier { inlet: None, mount: None, pipes: Vec::new() };
        let inlet = dir.with_file_name(format!("{}-inlet", contender.name()));
        let needs_inlet =
            !matches!(contender, Contender::Straight | Contender::Tuned | Contender::Coalescefs);
        if needs_inlet {
            fs::create_dir(&inlet).map_err(|error| format!("{}: {error}", inlet.display()))?;
            carrier.inlet = Some(inlet.clone());
        }
        match contender {
            Contender::Straight | Contender::Tuned => {}
            Contender::Coalescefs => carrier.mount = Some(Mount::coalescefs(dir, Some(own_bytes))?),
            Contender::Bindfs => carrier.mount = Some(Mount::bindfs(dir, &inlet)?),
            Contender::Mergerfs => carrier.mount = Some(Mount::mergerfs(dir, &inlet)?),
            Contender::Mbuffer | Contender::Buffer => {
                let bytes = own_bytes / load.writers;
                for number in 0..load.writers {
                    let (from, to) = (output(&inlet, number), output(dir, number));
                    carrier.pipes.push(pipe(contender, &from, &to, bytes)?);
                }
            }
        }
        Ok(carrier)
    }

    /// Where the writers' files are to be, if not in the directory itself. The caller removes it in
    /// the end.
    pub fn inlet(&self) -> Option<&Path> {
        self.inlet.as_deref()
    }

    /// Its processes; those that share memory together.
    pub fn families(&self) -> Vec<Vec<u32>> {
        let mounts = self.mount.iter().map(|mount| mount.pids().to_vec());
        mounts.chain(self.pipes.iter().map(|pipe| vec![pipe.pid()])).collect()
    }

    /// Everything has been handed to the filesystem on the disk then.
    pub fn end(mut self) -> Result<(), String> {
        self.mount.take().map_or(Ok(()), Mount::end)?;
        self.pipes.drain(..).try_for_each(Helper::end)
    }
}

/// Copies what comes through a new FIFO to a file.
fn pipe(contender: Contender, from: &Path, to: &Path, bytes: u64) -> Result<Helper, String> {
    let mkfifo = Command::new("mkfifo").arg(from).status();
    if !mkfifo.is_ok_and(|status| status.success()) {
        return Err(format!("{}: no FIFO can be made", from.display()));
    }
    let block = (bytes / BLOCKS / 4096 * 4096).clamp(4096, MOST_OF_A_BLOCK);
    let mut command = Command::new(contender.name());
    if contender == Contender::Mbuffer {
        // No display of how it goes.
        command.arg("-q");
    }
    command.args(["-m", &bytes.to_string(), "-s", &block.to_string(), "-i"]).arg(from);
    Helper::start(command.arg("-o").arg(to))
}
