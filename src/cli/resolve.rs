//! From raw arguments to resolved options. Everything is checked here or in `places`, before
//! anything is changed.

use std::path::{Path, PathBuf};

use log::LevelFilter;

use super::args::{ChunkOption, ConsistencyOption, LanesOption, MountOptions};
use super::exit::CliError;
use super::{below, units};
use crate::backing::{Abilities, Stripe, ToldBy};
use crate::config::{Consistency, MIN_MEMORY_BYTES, MountConfig};
use crate::mount::mountinfo::MountTable;
use crate::mount::origin::Origin;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Smallest and largest default of `--memory`: enough for some dozen streams, and no more than
/// helps: the drain is then already as sequential as it gets.
const DEFAULT_MEMORY: (u64, u64) = (64 * MIB, 16 << 30);
/// Smallest and largest default of `--chunk`: positioning a disk head costs about 1 MiB, so 16 MiB
/// make it a few percent; below 256 KiB a turn is not worth it.
const DEFAULT_CHUNK: (u64, u64) = (256 * KIB, 16 * MIB);
/// Memory is divided into at least this many chunks: with fewer, one file's turn holds most of it.
const CHUNKS_MIN: u64 = 4;
/// Pages are never split.
const PAGE_BYTES: u64 = 4 * KIB;
/// Largest segment: defaults are multiples of it, whatever the segment size turns out to be.
const SEGMENT_MAX_BYTES: u64 = 64 * KIB;

/// An eighth of RAM, within bounds.
pub fn default_memory_bytes(ram_bytes: u64) -> u64 {
    (ram_bytes / 8).clamp(DEFAULT_MEMORY.0, DEFAULT_MEMORY.1) / SEGMENT_MAX_BYTES
        * SEGMENT_MAX_BYTES
}

/// About a 64th of `--memory`, within bounds: a power of two, as filesystems with buddy allocators
/// (ext4) put blocks of such sizes one behind the other, and leave gaps between others.
pub fn default_chunk_bytes(memory_bytes: u64) -> u64 {
    let chunk = (memory_bytes / 48).clamp(DEFAULT_CHUNK.0, DEFAULT_CHUNK.1);
    1 << chunk.ilog2()
}

/// About that default, in whole stripes where one is known: one stripe, doubled as often as goes. A
/// stripe of three or five disks is no power of two; the gaps that ext4 leaves then are room only,
/// while a stripe that is written in parts is read before. Objects may be written in parts.
fn default_chunk_in(config: &MountConfig) -> u64 {
    let default = default_chunk_bytes(config.memory_bytes);
    let doubled = |unit: u64| (default / unit).checked_ilog2().map(|doublings| unit << doublings);
    config.chunk_units_bytes().into_iter().find_map(doubled).unwrap_or_else(|| {
        let unit_bytes = config.chunk_unit_bytes();
        if unit_bytes <= config.memory_bytes / CHUNKS_MIN { unit_bytes } else { default }
    })
}

/// The smallest chunk of at least so many bytes that ends where stripes or objects do: multiples of
/// the largest unit that is not larger, or of the smallest one doubled until it is.
fn fitting_chunk_bytes(config: &MountConfig, least_bytes: u64) -> Option<u64> {
    let units = config.chunk_units_bytes();
    let (smallest, larger) = units.split_last()?;
    if larger.is_empty() {
        return least_bytes.checked_next_multiple_of(*smallest);
    }
    match larger.iter().find(|unit| **unit <= least_bytes) {
        Some(unit) => least_bytes.checked_next_multiple_of(*unit),
        None => smallest.checked_mul(least_bytes.div_ceil(*smallest).next_power_of_two()),
    }
}

/// What the resolution depends on besides the arguments.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The machine's memory.
    pub ram_bytes: u64,
    /// Whether the effective user is root.
    pub is_root: bool,
    /// The stripe below the directory that is to be mounted over.
    pub stripe: Option<Stripe>,
    /// What its filesystem can do.
    pub abilities: Abilities,
    /// Its type in the mount table.
    pub kind: Kind,
}

/// The type of the filesystem below.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    /// As the mount table calls it; empty when it is not known.
    pub name: String,
    /// Whether it is another process's or another machine's, so that other nodes may have it, too.
    pub is_elsewhere: bool,
    /// Whether it keeps out all users but the one who mounted it.
    pub is_private: bool,
    /// Where the directory lies in it then.
    pub origin: Option<Origin>,
}

impl Kind {
    /// Of what a directory lies on. Asks nobody but the mount table.
    pub fn of(directory: &Path) -> Kind {
        let table = MountTable::read().unwrap_or_default();
        table.holding(directory).map_or_else(Kind::default, |mount| Kind {
            name: mount.fs_type.to_string_lossy().into_owned(),
            is_elsewhere: mount.is_elsewhere(),
            is_private: mount.is_private(),
            origin: Origin::of(&table, directory),
        })
    }
}

/// Who else may change the directory, and why that is thought.
pub fn consistency(option: ConsistencyOption, kind: &Kind) -> (Consistency, String) {
    let of = if kind.name.is_empty() { "an unknown filesystem" } else { &kind.name };
    match option {
        ConsistencyOption::Exclusive => (Consistency::Exclusive, "as given".to_owned()),
        ConsistencyOption::CloseToOpen => (Consistency::CloseToOpen, "as given".to_owned()),
        ConsistencyOption::Auto if kind.is_elsewhere => {
            (Consistency::CloseToOpen, format!("other nodes may have {of}, too"))
        }
        ConsistencyOption::Auto => (Consistency::Exclusive, format!("{of} is of this machine")),
    }
}

impl Surroundings {
    /// Of this process.
    pub fn here() -> Surroundings {
        // SAFETY: no arguments, cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        let (ram_bytes, abilities) = (crate::mount::machine::ram_bytes(), Abilities::default());
        Surroundings { ram_bytes, is_root, stripe: None, abilities, kind: Kind::default() }
    }

    /// The same for a mount over a directory. May wait for its disk, but not for ever.
    pub fn below(self, backing: &Path) -> Surroundings {
        let below::Below { stripe, abilities, .. } = below::look_soon(backing);
        Surroundings { stripe, abilities, kind: Kind::of(backing), ..self }
    }
}

/// Resolves the options for a mount of `backing` at `mountpoint`, both canonical. `Err` is wrong
/// usage, with the nearest value that works.
pub fn mount_config(
    options: &MountOptions,
    backing: PathBuf,
    mountpoint: PathBuf,
    around: Surroundings,
) -> Result<MountConfig, CliError> {
    checked_config(options, backing, mountpoint, around).map_err(|error| match &options.config {
        Some(file) => CliError::Usage(format!("{error} (options are also in {})", file.display())),
        None => error,
    })
}

fn checked_config(
    options: &MountOptions,
    backing: PathBuf,
    mountpoint: PathBuf,
    around: Surroundings,
) -> Result<MountConfig, CliError> {
    let memory_bytes = memory_bytes(options, &around)?;
    let (consistency, consistency_why) = consistency(options.consistency, &around.kind);
    let mut config = MountConfig {
        backing,
        mountpoint,
        memory_bytes,
        chunk_bytes: 0,
        chunk_auto: options.chunk == ChunkOption::Auto,
        stripe_bytes: around.stripe.map(|stripe| stripe.bytes),
        stripe_count: around.stripe.map_or(1, |stripe| stripe.count),
        stripe_divides: around.stripe.is_some_and(|s| matches!(s.told_by, ToldBy::Engine(_))),
        abilities: around.abilities,
        layout: options.layout,
        max_age_ms: u64::try_from(options.max_age.as_millis()).unwrap_or(u64::MAX),
        lanes: options.lanes.first(),
        lanes_auto: options.lanes == LanesOption::Auto,
        writeback_cache: !options.no_writeback_cache,
        drain_rate: options.drain_rate,
        fsync: options.fsync,
        consistency,
        consistency_why,
        min_free_bytes: options.min_free,
        rules: options.rule.clone(),
        only: Vec::new(),
        origin: around.kind.origin,
        patience_ms: u64::try_from(options.patience.as_millis()).unwrap_or(u64::MAX),
        // Nobody gets at more through the mount than without it.
        allow_other: options.allow_other
            || (around.is_root && !around.kind.is_private && !options.no_allow_other),
        mount_flags: options.mount_options.iter().fold(0, |flags, change| change.applied_to(flags)),
    };
    let chunk_bytes = match options.chunk {
        ChunkOption::Auto => default_chunk_in(&config),
        ChunkOption::Bytes(bytes) => bytes,
    };
    config.chunk_bytes = checked_chunk_bytes(&config, "--chunk", chunk_bytes)?;
    for at in 0..config.rules.len() {
        let name = format!("--rule '{}': chunk", config.rules[at].glob);
        if let Some(chunk_bytes) = config.rules[at].chunk_bytes {
            let checked = checked_chunk_bytes(&config, &name, chunk_bytes)?;
            config.rules[at].chunk_bytes = Some(checked);
        }
    }
    Ok(config)
}

/// The options of each of several mounts that together hold what one would.
pub fn shared_out(options: &MountOptions, mounts: usize, around: &Surroundings) -> MountOptions {
    let share = |memory_bytes: u64| memory_bytes / mounts.max(1) as u64;
    let default = || share(default_memory_bytes(around.ram_bytes)).max(MIN_MEMORY_BYTES);
    let memory = match mounts {
        0 | 1 => options.memory,
        _ => Some(options.memory.map_or_else(default, share)),
    };
    MountOptions { memory, ..options.clone() }
}

fn memory_bytes(options: &MountOptions, around: &Surroundings) -> Result<u64, CliError> {
    let Some(memory) = options.memory else { return Ok(default_memory_bytes(around.ram_bytes)) };
    let given = units::size(memory);
    if memory < MIN_MEMORY_BYTES {
        let least = units::size(MIN_MEMORY_BYTES);
        return Err(CliError::Usage(format!("--memory {given} is too little: at least {least}")));
    }
    if memory > around.ram_bytes {
        let ram = units::size(around.ram_bytes);
        return Err(CliError::Usage(format!(
            "--memory {given} is more than this machine has ({ram}): give less, half at most is \
             sensible"
        )));
    }
    // Whole pages: what is beyond could hold no segment.
    Ok(memory / PAGE_BYTES * PAGE_BYTES)
}

fn checked_chunk_bytes(config: &MountConfig, name: &str, chunk: u64) -> Result<u64, CliError> {
    if chunk == 0 || !chunk.is_multiple_of(PAGE_BYTES) {
        return Err(CliError::Usage(format!(
            "{name} {chunk} is not a multiple of {PAGE_BYTES}: try {}",
            chunk.saturating_add(1).checked_next_multiple_of(PAGE_BYTES).unwrap_or(PAGE_BYTES)
        )));
    }
    let most = config.memory_bytes / CHUNKS_MIN;
    let in_stripes = fitting_chunk_bytes(config, chunk);
    if let Some(chunk) = in_stripes.filter(|chunk| *chunk <= most) {
        return Ok(chunk);
    }
    let rounded = chunk.checked_next_multiple_of(u64::from(config.segment_bytes()));
    match rounded {
        Some(rounded) if rounded <= most => Ok(rounded),
        _ => Err(CliError::Usage(format!(
            "--memory {} is less than {CHUNKS_MIN} chunks of {}: at least --memory {}, or {name} {}",
            units::size(config.memory_bytes),
            units::size(chunk),
            units::size(rounded.unwrap_or(chunk).saturating_mul(CHUNKS_MIN)),
            units::size(most / SEGMENT_MAX_BYTES * SEGMENT_MAX_BYTES),
        ))),
    }
}

/// Where a mount logs.
#[derive(Clone, Debug)]
pub struct Log {
    /// In the form of RUST_LOG.
    pub level: String,
    /// Absolute: a daemon has another current directory.
    pub file: Option<PathBuf>,
}

impl Log {
    /// Resolves `--log-file`, whose directory must exist.
    pub fn new(level: String, file: Option<PathBuf>) -> Result<Log, CliError> {
        let file = file.map(|file| absolute(&file)).transpose()?;
        Ok(Log { level, file })
    }
}

fn absolute(file: &Path) -> Result<PathBuf, CliError> {
    let absolute = std::path::absolute(file)
        .map_err(|error| CliError::Usage(format!("--log-file {}: {error}", file.display())))?;
    match absolute.parent() {
        Some(dir) if dir.is_dir() && !absolute.is_dir() => Ok(absolute),
        _ => Err(CliError::Usage(format!(
            "--log-file {}: not a file in an existing directory",
            file.display()
        ))),
    }
}

/// `--log-level`, else RUST_LOG, else warnings.
pub fn log_level(given: Option<LevelFilter>) -> String {
    given
        .map(|level| level.to_string())
        .or_else(|| std::env::var("RUST_LOG").ok().filter(|level| !level.is_empty()))
        .unwrap_or_else(|| "warn".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::Rule;
    use std::time::Duration;

    fn machine() -> Surroundings {
        let abilities = Abilities::default();
        Surroundings {
            ram_bytes: 8 << 30,
            is_root: true,
            stripe: None,
            abilities,
            kind: Kind::default(),
        }
    }

    fn options() -> MountOptions {
        MountOptions { max_age: Duration::from_secs(30), ..MountOptions::default() }
    }

    fn with_chunk(chunk: Option<u64>) -> MountOptions {
        let chunk = chunk.map_or(ChunkOption::Auto, ChunkOption::Bytes);
        MountOptions { chunk, ..options() }
    }

    fn resolve(options: &MountOptions) -> Result<MountConfig, CliError> {
        mount_config(options, "/b".into(), "/b".into(), machine())
    }

    #[test]
    fn defaults() {
        let config = resolve(&options()).unwrap();
        assert_eq!(config.memory_bytes, 1 << 30);
        assert_eq!(config.chunk_bytes, 16 * MIB);
        assert_eq!(config.max_age_ms, 30_000);
        assert!(config.writeback_cache && config.allow_other);
        assert_eq!((config.lanes, config.lanes_auto), (1, false));
        let auto = MountOptions { lanes: LanesOption::Auto, ..options() };
        assert!(resolve(&auto).unwrap().lanes_auto);
        assert_eq!(default_memory_bytes(100 * MIB), 64 * MIB);
        assert_eq!(default_memory_bytes(1 << 40), 16 << 30);
        assert_eq!(default_chunk_bytes(16 << 30), 16 * MIB);
        assert_eq!(default_chunk_bytes(256 * MIB), 4 * MIB);
        assert_eq!(default_chunk_bytes(MIN_MEMORY_BYTES), 256 * KIB);
    }

    /// Goal: every accepted combination satisfies what `MountConfig` promises.
    #[test]
    fn chunks_are_whole_segments_and_fit_four_times() {
        let mut accepted = 0;
        for memory in [4 * MIB, 5_000_000, 16 * MIB, 64 * MIB, 100 * MIB, 1 << 30] {
            for chunk in [None, Some(4 * KIB), Some(68 * KIB), Some(MIB), Some(20 * MIB)] {
                let options = MountOptions { memory: Some(memory), ..with_chunk(chunk) };
                let Ok(config) = resolve(&options) else { continue };
                accepted += 1;
                assert_eq!(config.chunk_bytes % u64::from(config.segment_bytes()), 0);
                assert!(config.chunk_bytes >= chunk.unwrap_or(256 * KIB));
                assert!(config.chunk_bytes * 4 <= config.memory_bytes);
                assert!(config.memory_bytes <= memory);
            }
        }
        assert_eq!(accepted, 26);
    }

    /// Goal: chunks are whole stripes where memory allows, whatever number of disks there is, and
    /// powers of two of them where nobody says otherwise.
    #[test]
    fn chunks_are_whole_stripes() {
        let chunk = |stripe_bytes, memory, chunk| {
            let stripe = Stripe { bytes: stripe_bytes, count: 1, told_by: ToldBy::Xfs };
            let around = Surroundings { stripe: Some(stripe), ..machine() };
            let options = MountOptions { memory: Some(memory), ..with_chunk(chunk) };
            mount_config(&options, "/b".into(), "/b".into(), around).unwrap().chunk_bytes
        };
        assert_eq!(chunk(256 * KIB, 1 << 30, None), 16 * MIB);
        assert_eq!(chunk(320 * KIB, 1 << 30, None), 10 * MIB, "five disks");
        assert_eq!(chunk(48 * KIB, 1 << 30, None), 12 * MIB, "less than a segment");
        assert_eq!(chunk(3 * MIB, 64 * MIB, None), 3 * MIB, "more than the default");
        assert_eq!(chunk(3 * MIB, 8 * MIB, None), 256 * KIB, "more than a quarter");
        assert_eq!(chunk(320 * KIB, 1 << 30, Some(MIB)), 1280 * KIB, "rounded up");
        assert_eq!(chunk(3 * MIB, 8 * MIB, Some(MIB)), MIB, "as given");
    }

    /// Goal: chunks end where objects do, parts and multiples of them; and where rows of them do that
    /// lie side by side, if they are that large.
    #[test]
    fn chunks_are_parts_or_multiples_of_objects() {
        use crate::backing::Engine;
        let chunk = |bytes, count, memory, chunk| {
            let stripe = Stripe { bytes, count, told_by: ToldBy::Engine(Engine::Ceph) };
            let around = Surroundings { stripe: Some(stripe), ..machine() };
            let options = MountOptions { memory: Some(memory), ..with_chunk(chunk) };
            mount_config(&options, "/b".into(), "/b".into(), around).unwrap().chunk_bytes
        };
        assert_eq!(chunk(4 * MIB, 1, 1 << 30, None), 16 * MIB, "four objects");
        assert_eq!(chunk(64 * MIB, 1, 1 << 30, None), 16 * MIB, "a quarter of one");
        assert_eq!(chunk(30 * MIB, 1, 1 << 30, None), 15 * MIB, "half of one");
        assert_eq!(chunk(512 * KIB, 4, 1 << 30, None), 16 * MIB, "eight rows");
        assert_eq!(chunk(MIB, 3, 1 << 30, None), 12 * MIB, "four rows of three");
        assert_eq!(chunk(4 * MIB, 40, 1 << 30, None), 16 * MIB, "less than a row");
        assert_eq!(chunk(64 * MIB, 1, 16 * MIB, None), 256 * KIB, "a small memory");
        assert_eq!(chunk(4 * MIB, 1, 1 << 30, Some(20 * MIB)), 20 * MIB, "as given");
        assert_eq!(chunk(4 * MIB, 1, 1 << 30, Some(5 * MIB)), 8 * MIB, "rounded up");
        assert_eq!(chunk(4 * MIB, 1, 1 << 30, Some(3 * MIB)), 4 * MIB, "up to one");
        assert_eq!(chunk(64 * MIB, 1, 1 << 30, Some(20 * MIB)), 32 * MIB, "up to a half");
        assert_eq!(chunk(64 * KIB, 4, 1 << 30, Some(MIB)), MIB, "four rows");
        assert_eq!(chunk(100 * KIB, 1, 1 << 30, Some(MIB)), MIB.next_multiple_of(1600 * KIB));
    }

    #[test]
    fn who_may_use_the_mount() {
        let user = Surroundings { is_root: false, ..machine() };
        let other = |options: &MountOptions, around| {
            mount_config(options, "/b".into(), "/b".into(), around).unwrap().allow_other
        };
        assert!(!other(&options(), user.clone()) && other(&options(), machine()));
        let kind = Kind { is_private: true, ..Kind::default() };
        let over_private = Surroundings { kind, ..machine() };
        assert!(!other(&options(), over_private.clone()));
        assert!(other(&MountOptions { allow_other: true, ..options() }, over_private));
        assert!(other(&MountOptions { allow_other: true, ..options() }, user));
        assert!(!other(&MountOptions { no_allow_other: true, ..options() }, machine()));
    }

    proptest::proptest! {
        /// Goal: whatever sizes are given, they are refused in one line or make a sound mount.
        #[test]
        fn any_sizes_are_refused_or_sound(
            memory in proptest::prelude::any::<u64>(), shift in 0u32..60,
            chunk in proptest::prelude::any::<Option<u64>>(), chunk_shift in 0u32..60,
        ) {
            let chunk = chunk.map(|chunk| (chunk >> chunk_shift) / PAGE_BYTES * PAGE_BYTES);
            let options = MountOptions { memory: Some(memory >> shift), ..with_chunk(chunk) };
            match resolve(&options) {
                Ok(config) => {
                    proptest::prop_assert!(config.chunk_bytes * CHUNKS_MIN <= config.memory_bytes);
                    proptest::prop_assert_eq!(config.chunk_bytes % u64::from(config.segment_bytes()), 0);
                }
                Err(error) => proptest::prop_assert!(!error.to_string().contains('\n')),
            }
        }

        /// Goal: no word for any option makes the parser panic.
        #[test]
        fn any_word_is_parsed_or_refused(option in "--[a-z-]{0,20}=?", word in ".*", other in ".*") {
            use clap::Parser;
            for option in [&option, "--memory", "--max-age", "--lanes", "--drain-rate", "--log-level"] {
                let words = ["coalescefs", "mount", "/b", option, &word, &other];
                let _ = crate::cli::args::Arguments::try_parse_from(words);
            }
        }
    }

    #[test]
    fn wrong_values_name_one_that_works() {
        let cases = [
            (Some(MIB), None, "at least 4 MiB"),
            (Some(16 << 30), None, "more than this machine has (8 GiB)"),
            (Some(8 * MIB), Some(4 * MIB), "at least --memory 16 MiB, or --chunk 2 MiB"),
            (None, Some(5000), "try 8192"),
            (None, Some(0), "try 4096"),
            (None, Some(u64::MAX - 4095), "less than 4 chunks"),
            (None, Some(u64::MAX), "not a multiple"),
        ];
        for (memory, chunk, words) in cases {
            let error = resolve(&MountOptions { memory, ..with_chunk(chunk) }).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)));
            assert!(error.to_string().contains(words), "{error} does not say '{words}'");
            assert!(!error.to_string().contains('\n'));
        }
    }

    /// Goal: several mounts together have the memory of one, and each at least the least.
    #[test]
    fn memory_is_shared_out() {
        let share = |memory, mounts| {
            shared_out(&MountOptions { memory, ..options() }, mounts, &machine()).memory
        };
        assert_eq!(share(Some(1 << 30), 4), Some(256 << 20));
        assert_eq!((share(None, 1), share(None, 4)), (None, Some(256 << 20)));
        assert_eq!(share(None, 1000), Some(MIN_MEMORY_BYTES));
    }

    #[test]
    fn chunks_of_rules_are_checked_like_others() {
        let with = |chunk| {
            let rule = Rule { glob: "x*".to_owned(), chunk_bytes: Some(chunk), ..Rule::default() };
            resolve(&MountOptions { memory: Some(64 << 20), rule: vec![rule], ..options() })
        };
        // Segments are of 16 KiB here.
        assert_eq!(with(20 << 10).unwrap().rules[0].chunk_bytes, Some(32 << 10));
        for chunk in [0, 1000, 32 << 20] {
            let error = with(chunk).unwrap_err().to_string();
            assert!(error.contains("--rule 'x*': chunk"), "{error}");
        }
    }
}
