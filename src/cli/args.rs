//! What clap parses: the arguments as they were given, nothing resolved.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use log::LevelFilter;

use super::commands::bench::BenchArgs;
use super::commands::demo::DemoArgs;
use super::{resolve, rules, units};
use crate::config::rules::Rule;
use crate::config::{FsyncPolicy, Layout};
use crate::keeper::Beginning;
use crate::mount::{generic, machine};

/// More would only wait for each other.
const LANES: std::ops::RangeInclusive<u32> = 1..=64;

/// The end of a help that is kept short.
pub(super) const MORE: &str =
    "More about each option: 'coalescefs help mount', 'coalescefs help run'.";

/// What comes before a default of this machine, which has no place in a manual.
pub const HERE: &str = "; here ";

/// Turns many trickles of tiny writes into one large sequential write after another.
#[derive(Debug, Parser)]
#[command(
    name = "coalescefs",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 75 data is not on disk; 'run' has \
                  the command's own.\nSizes: K, M, G, T are powers of 1024: 20M = 20MiB. \
                  Durations: 500ms, 30s, 2min.\nMore: 'coalescefs help TOPIC', TOPIC being a \
                  command, sizes, exit-codes, signals, files, rules, conduct or \
                  fstab."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where to say what.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What to log: off, error, warn, info, debug or trace [default: RUST_LOG, else warn]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Log")]
    pub log_level: Option<LevelFilter>,
    /// Append the mount's log here [default: none in the background, else stderr]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "COALESCEFS_LOG_FILE",
        hide_env_values = true,
        help_heading = "Log"
    )]
    pub log_file: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount over a directory; goes to the background once it works
    Mount(MountArgs),
    /// Run a command that sees directories through private mounts, then put everything on disk
    Run(RunArgs),
    /// Put everything on disk and unmount
    Umount(UmountArgs),
    /// Give up what of files cannot be stored, so that they are what the disk has
    Discard(DiscardArgs),
    /// Wait until what was written so far is on disk; the mount goes on
    Drain(DrainArgs),
    /// Show how much waits to be written, and how fast it goes
    Status(StatusArgs),
    /// Watch files, lanes and stalls live
    Top(TopArgs),
    /// Let this program take over a mount from the one that serves it; nothing notices
    Upgrade(UpgradeArgs),
    /// Say what is wrong with this machine, a directory or a mount, and how to mend it
    Doctor(DoctorArgs),
    /// Show what it does for 40 programs that write into FIFOs' outputs
    Demo(DemoArgs),
    /// Measure a directory's disk, and say what to give to 'mount' over it
    Bench(BenchArgs),
    /// Explain a command or a topic
    Help(HelpArgs),
    /// The process that holds a mount; started by the others
    #[command(hide = true)]
    Keeper(KeeperArgs),
}

/// `mount`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, after_help = MORE)]
pub struct MountArgs {
    /// Directory whose files are written
    pub backing: PathBuf,
    /// Where to mount [default: over BACKING itself]
    pub mountpoint: Option<PathBuf>,
    /// Stay until the mount ends; SIGTERM ends it
    #[arg(long)]
    pub foreground: bool,
    /// How to buffer.
    #[command(flatten)]
    pub options: MountOptions,
    /// Print help
    #[arg(short, long, action = ArgAction::HelpShort)]
    pub help: Option<bool>,
}

/// `run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, after_help = MORE)]
pub struct RunArgs {
    /// What to mount over.
    #[command(flatten)]
    pub places: RunPlaces,
    /// At the end, give up and list what cannot be stored
    ///
    /// Exit code 75 all the same.
    #[arg(long)]
    pub discard: bool,
    /// How to buffer.
    #[command(flatten)]
    pub options: MountOptions,
    /// Print help
    #[arg(short, long, action = ArgAction::HelpShort)]
    pub help: Option<bool>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What `run` mounts over. One of them must be given, here or in the file of `--config`.
#[derive(Debug, Default, Args)]
pub struct RunPlaces {
    /// Mount over this directory; may be repeated
    ///
    /// The command alone sees that mount.
    #[arg(long, value_name = "DIR")]
    pub over: Vec<PathBuf>,
    /// Coalesce only these, as '/data/*/OUTPUT*'
    ///
    /// Mounts over their directories, and passes other files through. May be repeated.
    #[arg(long, value_name = "GLOB")]
    pub redirect: Vec<String>,
}

impl RunPlaces {
    /// Whether there is nothing to mount over.
    pub fn is_empty(&self) -> bool {
        self.over.is_empty() && self.redirect.is_empty()
    }
}

/// `umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// Unmount also when data cannot be stored; it is lost then, and listed. Exit code 75 all the same
    #[arg(long)]
    pub discard: bool,
    /// Print the mount's last state as JSON, as `status --json` does
    #[arg(long)]
    pub json: bool,
}

/// `discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// Files on a mount, as `status` lists them
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Also files with which nothing is wrong
    #[arg(long)]
    pub force: bool,
}

/// `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// A file, or a directory for all of its mount [default: all coalescefs mounts]
    pub path: Option<PathBuf>,
}

/// `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Where it is mounted [default: the only coalescefs mount]
    pub mountpoint: Option<PathBuf>,
    /// Between two looks
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration,
          default_value = "1s")]
    pub interval: Duration,
    /// Print lines instead of a screen, as when standard output is no terminal
    #[arg(long)]
    pub plain: bool,
    /// With lines: end after so many looks [default: when the mount ends]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// `upgrade`.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where it is mounted [default: all coalescefs mounts]
    pub mountpoint: Option<PathBuf>,
    /// As JSON: an object, or an array when no MOUNTPOINT is given; sizes in bytes, times in ms
    #[arg(long)]
    pub json: bool,
    /// Also the files that hold data or have an error
    #[arg(long)]
    pub files: bool,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A mount, or a directory to be mounted over [default: the machine and all coalescefs mounts]
    pub path: Option<PathBuf>,
    /// As JSON: an object with the worst verdict and all checks
    #[arg(long)]
    pub json: bool,
}

/// `help`.
#[derive(Debug, Args)]
pub struct HelpArgs {
    /// A command, or one of sizes, exit-codes, signals, files, rules, conduct, fstab [default: all commands]
    pub topic: Option<String>,
}

/// `keeper`.
#[derive(Debug, Args)]
pub struct KeeperArgs {
    /// For `ps` to show; the order comes over standard input
    pub mountpoint: PathBuf,
    /// Take over the mount that this descriptor describes
    #[arg(long, value_name = "FD")]
    pub adopt: Option<i32>,
    /// Only say whether that would succeed
    #[arg(long, requires = "adopt")]
    pub rehearse: bool,
}

impl KeeperArgs {
    /// What the process is to begin with.
    pub fn beginning(&self) -> Beginning {
        match self.adopt {
            None => Beginning::Mount,
            Some(order) if self.rehearse => Beginning::Rehearse(order),
            Some(order) => Beginning::Adopt(order),
        }
    }
}

/// How to buffer: the same for `mount` and `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct MountOptions {
    /// Most bytes held in memory
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, help = memory_help())]
    pub memory: Option<u64>,
    /// Bytes of one file written in one turn
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk, help = chunk_help(),
          default_value = "auto", hide_default_value = true)]
    pub chunk: ChunkOption,
    /// How files lie on the disk, 'ring' or 'file'
    #[arg(
        long,
        value_name = "LAYOUT",
        value_enum,
        default_value_t,
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub layout: Layout,
    /// No byte waits longer for its turn
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration,
          default_value = "30s")]
    pub max_age: Duration,
    /// Writes at once to a disk, or 'auto'
    ///
    /// More than 1 only pays off on flash, on several disks behind one, or on a network filesystem.
    /// 'auto' stays at 1 where the kernel says that the disk has heads, and elsewhere takes one more,
    /// up to 8, as long as that makes it faster by a tenth.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_lanes)]
    pub lanes: LanesOption,
    /// Most bytes per second [default: no limit]
    ///
    /// Leaves some for others.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_rate)]
    pub drain_rate: Option<u64>,
    /// fsync is 'strict' or 'lazy'
    ///
    /// With 'strict' it waits for the disk, with 'lazy' for memory: what was synced may then be
    /// lost with the power.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t, hide_possible_values = true)]
    pub fsync: FsyncPolicy,
    /// 'exclusive' or 'close-to-open'
    ///
    /// Whether other nodes change the directory, too. With 'close-to-open' close() waits until the
    /// file is stored, and open() sees what was closed elsewhere before. 'auto' is that on network
    /// filesystems and FUSE, and 'exclusive' on disks of this machine.
    #[arg(long, value_name = "MODE", value_enum, default_value_t, hide_possible_values = true)]
    pub consistency: ConsistencyOption,
    /// Leave this much of the disk free
    ///
    /// Writes that would take it fail with ENOSPC.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "0")]
    pub min_free: u64,
    /// Outages of an engine to bridge
    ///
    /// A shorter one is seen by no program. In a longer one close and fsync fail, and so does write
    /// when memory is full; open, stat and the like fail with the engine's error, or with ETIMEDOUT
    /// when there is no answer.
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration,
          default_value = "60s")]
    pub patience: Duration,
    /// Settings of some files: GLOB:NAME=VALUE,...
    ///
    /// NAME=VALUE is chunk=SIZE, max-age=DURATION, priority=normal or high, coalesce=on or off. The
    /// first rule whose GLOB matches decides. May be repeated.
    #[arg(long, value_name = "RULE", value_parser = rules::parse)]
    pub rule: Vec<Rule>,
    /// More options, from a TOML file
    ///
    /// They have the same names there, and the command line wins. For 'run' also over and redirect.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Let every write() come to the daemon at once: slow
    #[arg(long)]
    pub no_writeback_cache: bool,
    /// Let other users in [default: when root mounts, unless the filesystem below keeps them out]
    #[arg(long, overrides_with = "no_allow_other")]
    pub allow_other: bool,
    /// Keep other users out, root included
    #[arg(long, overrides_with = "allow_other")]
    pub no_allow_other: bool,
    /// Generic options of mount(8), as ro,nosuid
    ///
    /// Those of BACKING hold in any case.
    #[arg(short = 'o', long = "mount-options", value_name = "LIST",
          value_parser = generic::parse)]
    pub mount_options: Vec<generic::Change>,
}

/// `--chunk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChunkOption {
    /// Learned from the disk, within what memory allows.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
}

/// `--consistency`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConsistencyOption {
    /// By the type of the backing filesystem
    #[default]
    Auto,
    /// Nobody else changes the directory
    Exclusive,
    /// Other nodes do
    CloseToOpen,
}

/// `--lanes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanesOption {
    /// Learned from each device.
    Auto,
    /// So many.
    Count(u32),
}

impl LanesOption {
    /// At first.
    pub fn first(self) -> u32 {
        match self {
            LanesOption::Auto => 1,
            LanesOption::Count(count) => count,
        }
    }
}

impl Default for LanesOption {
    fn default() -> LanesOption {
        LanesOption::Count(1)
    }
}

fn parse_lanes(text: &str) -> Result<LanesOption, String> {
    if text == "auto" {
        return Ok(LanesOption::Auto);
    }
    let count = text.parse().ok().filter(|count| LANES.contains(count));
    count.map(LanesOption::Count).ok_or_else(|| {
        format!("neither a number in {}..={} nor 'auto'", LANES.start(), LANES.end())
    })
}

fn parse_chunk(text: &str) -> Result<ChunkOption, String> {
    if text == "auto" {
        return Ok(ChunkOption::Auto);
    }
    units::parse_size(text).map(ChunkOption::Bytes)
}

fn memory_help() -> String {
    let here = units::size(resolve::default_memory_bytes(machine::ram_bytes()));
    format!("Most bytes held [default: an eighth of RAM, 64M to 16G{HERE}{here}]")
}

fn chunk_help() -> String {
    let memory_bytes = resolve::default_memory_bytes(machine::ram_bytes());
    let here = units::size(resolve::default_chunk_bytes(memory_bytes));
    format!("Bytes of a file in a turn [default: auto, learned from the disk{HERE}first {here}]")
}
