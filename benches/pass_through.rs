//! What it costs that bytes and names go through a FUSE filesystem: straight into a directory, and
//! through bindfs, mergerfs and coalescefs, in alternating rounds of one run.
//!
//! `cargo bench --bench pass_through [-- DIR]`, as root, which drops the page cache and mounts a
//! tmpfs to be measured, too. DIR (default: the temporary directory) decides which filesystem is
//! measured. On a shared machine only the ratios within a round mean something.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::ASCII_FULL_CONDENSED;

use common::carriers::{Mount, Tmpfs, is_installed};
use common::interrupt::{catch_interrupt, go_on};
use common::statistics::{Spread, spread};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PIECE: usize = 1 << 20;
/// What is in a small file.
const RECORD: &[u8] = b"012345678\n";

#[derive(Parser)]
struct Args {
    /// Where files are made
    #[arg(default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Bytes of the big file
    #[arg(long, default_value = "512MiB", value_parser = |text: &str| parse_size::parse_size(text))]
    bytes: u64,
    /// How many small files
    #[arg(long, default_value = "50000")]
    files: u64,
    /// How often everything is measured
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured, in this order: a step uses what the one before it has left.
#[derive(Clone, Copy)]
enum Step {
    Write,
    ReadCold,
    ReadWarm,
    Create,
    Stat,
    Unlink,
}

impl Step {
    /// In each round, one after the other.
    const OF_BIG: [Step; 3] = [Step::Write, Step::ReadCold, Step::ReadWarm];
    /// Each in all rounds before the next: ext4 passes over inodes that were freed less than a minute
    /// ago, one by one, so that creates after unlinks would measure that.
    const OF_SMALL: [Step; 3] = [Step::Create, Step::Stat, Step::Unlink];

    fn all() -> impl Iterator<Item = Step> {
        Step::OF_BIG.into_iter().chain(Step::OF_SMALL)
    }

    fn name(self) -> &'static str {
        match self {
            Step::Write => "write by 1 MiB, until on the disk, MB/s",
            Step::ReadCold => "read by 1 MiB, not cached, MB/s",
            Step::ReadWarm => "read by 1 MiB, once more, MB/s",
            Step::Create => "create, write 10 bytes, close: files/s",
            Step::Stat => "stat: files/s",
            Step::Unlink => "unlink: files/s",
        }
    }

    /// Does it in `dir`, with small files of this round's own; the rate, in the unit of the name.
    fn run(self, dir: &Path, round: usize, args: &Args) -> Outcome<f64> {
        if let Step::ReadCold = self {
            fs::write("/proc/sys/vm/drop_caches", "1")
                .map_err(|error| format!("/proc/sys/vm/drop_caches: {error}"))?;
        }
        let (big, small) = (dir.join("big"), dir.join(format!("small{round}")));
        let paths: Vec<PathBuf> =
            (0..args.files).map(|number| small.join(number.to_string())).collect();
        if let Step::Create = self {
            fs::create_dir(&small)?;
        }
        let begun = Instant::now();
        match self {
            Step::Write => write_big(&big, args.bytes)?,
            Step::ReadCold | Step::ReadWarm => read_big(&big, args.bytes)?,
            Step::Create => paths.iter().try_for_each(|path| fs::write(path, RECORD))?,
            Step::Stat => paths.iter().try_for_each(|path| fs::metadata(path).map(drop))?,
            Step::Unlink => paths.iter().try_for_each(fs::remove_file)?,
        }
        let took = begun.elapsed();
        Ok(match self {
            Step::Write | Step::ReadCold | Step::ReadWarm => rate(args.bytes, took) / 1e6,
            Step::Create | Step::Stat | Step::Unlink => rate(args.files, took),
        })
    }
}

fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn write_big(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![b'x'; PIECE];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(PIECE as u64) as usize;
        file.write_all(&piece[..count])?;
        left -= count as u64;
    }
    file.sync_all()
}

fn read_big(path: &Path, bytes: u64) -> Outcome<()> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    let mut found = 0;
    loop {
        match file.read(&mut piece)? as u64 {
            0 if found == bytes => return Ok(()),
            0 => return Err(format!("{}: {found} bytes of {bytes}", path.display()).into()),
            count => found += count,
        }
    }
}

/// A way into a directory of its own; the mount, if there is one, ends with it.
struct Way {
    name: &'static str,
    entry: PathBuf,
    mount: Option<Mount>,
}

/// All that are installed, beside each other below `dir`; the first one is straight.
fn ways(dir: &Path) -> Outcome<Vec<Way>> {
    let mut ways = Vec::new();
    for name in ["straight", "bindfs", "mergerfs", "coalescefs"] {
        let (below, entry) = (dir.join(name), dir.join(format!("{name}-entry")));
        if !matches!(name, "straight" | "coalescefs") && !is_installed(name) {
            println!("{name}: not installed, left out");
            continue;
        }
        fs::create_dir(&below)?;
        fs::create_dir(&entry)?;
        let (entry, mount) = match name {
            "bindfs" => (entry.clone(), Some(Mount::bindfs(&below, &entry)?)),
            "mergerfs" => (entry.clone(), Some(Mount::mergerfs(&below, &entry)?)),
            "coalescefs" => (below.clone(), Some(Mount::coalescefs(&below, None)?)),
            _ => (below, None),
        };
        ways.push(Way { name, entry, mount });
    }
    Ok(ways)
}

/// Rates of all rounds, by way and step.
type Rates = Vec<Vec<Vec<f64>>>;

/// One step on all ways.
fn measure_step(
    (at, step): (usize, Step),
    round: usize,
    ways: &[Way],
    args: &Args,
    rates: &mut Rates,
) -> Outcome<()> {
    // Another one begins each time: what one leaves to be written disturbs the next.
    for turn in 0..ways.len() {
        let who = (round + turn) % ways.len();
        go_on()?;
        let rate = step.run(&ways[who].entry, round, args);
        go_on()?;
        let rate = rate.map_err(|error| format!("{}: {error}", ways[who].name))?;
        rates[who][at].push(rate);
    }
    Ok(())
}

fn measure(ways: &[Way], args: &Args) -> Outcome<Rates> {
    let mut rates = vec![vec![Vec::new(); Step::all().count()]; ways.len()];
    let rounds = args.rounds as usize;
    let steps: Vec<(usize, Step)> = Step::all().enumerate().collect();
    let (of_big, of_small) = steps.split_at(Step::OF_BIG.len());
    for round in 0..rounds {
        for &step in of_big {
            measure_step(step, round, ways, args, &mut rates)?;
        }
        for way in ways {
            fs::remove_file(way.entry.join("big"))?;
        }
    }
    for &step in of_small {
        for round in 0..rounds {
            measure_step(step, round, ways, args, &mut rates)?;
        }
    }
    Ok(rates)
}

fn compare(dir: &Path, args: &Args) -> Outcome<()> {
    let ways = ways(dir)?;
    let rates = measure(&ways, args)?;
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED);
    let names = ways[1..].iter().map(|way| way.name.to_owned());
    table.set_header(["".to_owned(), "straight".to_owned()].into_iter().chain(names));
    for (at, step) in Step::all().enumerate() {
        let straight = &rates[0][at];
        let median = spread(straight.iter().copied()).map_or(0.0, |its| its.median);
        let ratios = rates[1..].iter().map(|rates| {
            let ratios = rates[at].iter().zip(straight).map(|(rate, straight)| rate / straight);
            spread(ratios).map_or_else(String::new, |Spread { least, median, most }| {
                format!("{median:.3} ({least:.3} to {most:.3})")
            })
        });
        table.add_row([step.name().to_owned(), format!("{median:.0}")].into_iter().chain(ratios));
    }
    println!("{table}");
    ways.into_iter().filter_map(|way| way.mount).try_for_each(Mount::end)?;
    Ok(())
}

fn run(args: &Args) -> Outcome<()> {
    let dir = tempfile::Builder::new().prefix("pass-through-").tempdir_in(&args.dir);
    let dir = dir.map_err(|error| format!("{}: {error}", args.dir.display()))?;
    println!(
        "straight: the median; others: the median of their part of it in {} rounds, and the range",
        args.rounds
    );
    println!("\n{}:", args.dir.display());
    compare(dir.path(), args)?;
    println!("\ntmpfs:");
    let tmpfs = dir.path().join("tmpfs");
    fs::create_dir(&tmpfs)?;
    let tmpfs = Tmpfs::mount(&tmpfs)?;
    compare(tmpfs.path(), args)
}

fn main() -> std::process::ExitCode {
    catch_interrupt();
    match run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pass_through: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
