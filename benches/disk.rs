//! Many writers on a disk with seeks, which is emulated: see `emulated/mod.rs`. As root.
//!
//! `cargo bench --bench disk -- --check`: whether this machine can be the disk, and what it does.
//! `cargo bench --bench disk`: then also forty writers, straight, through coalescefs and through
//! whatever else could help, compared with one sequential writer of the same run.
//! `cargo bench --bench disk -- --plot FILE...`: pictures of what was kept of earlier runs.

mod common;
mod emulated;

use std::path::{Path, PathBuf};

use clap::Parser;

use emulated::contender::{self, Contender};
use emulated::contest::{Contest, Outcome};
use emulated::load::{self, Load};
use emulated::model::{Drive, Stripe};
use emulated::record::{self, Machine, Record, Run};
use emulated::{Disk, Kind, Setup, check, plot, reader, table};

#[derive(Parser)]
struct Args {
    /// Only see whether this machine can be the disk
    #[arg(long)]
    check: bool,
    /// Measure also when the machine is too busy to be the disk: such figures show nothing
    #[arg(long)]
    busy: bool,
    /// The filesystem on the disk
    #[arg(long, value_enum, default_value = "ext4")]
    filesystem: Kind,
    /// The disk's size, which is taken from memory
    #[arg(long, default_value = "4GiB", value_parser = size)]
    capacity: u64,
    /// Bytes a second under the head
    #[arg(long, default_value = "100MB", value_parser = size)]
    rate: u64,
    /// Data disks of a RAID5 or RAID6; none: a single disk
    #[arg(long)]
    data_disks: Option<u64>,
    /// Bytes on one disk of it before the next one follows
    #[arg(long, default_value = "128KiB", value_parser = size)]
    unit: u64,
    /// Processes that write, with a file each
    #[arg(long, default_value = "40")]
    writers: u64,
    /// Bytes of one write()
    #[arg(long, default_value = "4KiB", value_parser = size)]
    record: u64,
    /// Bytes of all files together
    #[arg(long, default_value = "1600MB", value_parser = size)]
    bytes: u64,
    /// Bytes a second of one writer [default: full speed]
    #[arg(long, value_parser = size)]
    writer_rate: Option<u64>,
    /// Every other writer has a tenth of the others' rate and bytes; when they have full speed, of
    /// an equal part of the disk's
    #[arg(long)]
    mixed: bool,
    /// Somebody reads a big file on the same disk meanwhile
    #[arg(long)]
    reader: bool,
    /// Who is measured, in this order, separated by commas [default: all that are installed]
    #[arg(long, value_enum, value_delimiter = ',')]
    contender: Vec<Contender>,
    /// What may be in memory and not on the disk, for each contender but `straight`
    #[arg(long, default_value = "256MiB", value_parser = size)]
    memory: u64,
    /// How often each contender is measured, in turn: the table has medians and ranges then
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Where the file with all results goes [default: target/bench]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Measure nothing: draw what is in these files, beside the first
    #[arg(long, value_name = "FILE", num_args = 1..)]
    plot: Vec<PathBuf>,
    /// cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn drive(&self) -> Drive {
        let stripe = self.data_disks.map(|data_disks| Stripe { data_disks, unit_bytes: self.unit });
        Drive { rate: self.rate, stripe, ..Drive::sata(self.capacity) }
    }

    fn contenders(&self) -> Result<Vec<Contender>, String> {
        if let Some(missing) = self.contender.iter().find(|wanted| !wanted.is_installed()) {
            return Err(format!("--contender {}: it is not installed", missing.name()));
        }
        let (installed, missing) = contender::installed();
        if !self.contender.is_empty() {
            return Ok(self.contender.clone());
        }
        for missing in missing {
            println!("{}: not installed, left out", missing.name());
        }
        Ok(installed)
    }

    fn results(&self) -> PathBuf {
        let usual = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        self.keep.clone().unwrap_or_else(usual)
    }

    fn load(&self) -> Load {
        Load {
            writers: self.writers,
            record: self.record as usize,
            bytes_each: self.bytes / self.writers,
            rate: self.writer_rate,
            slow_rate: self
                .mixed
                .then(|| self.writer_rate.unwrap_or(self.rate / self.writers) / load::SLOW_PART),
        }
    }
}

/// As disks are sold: 100MB is a hundred million.
fn size(text: &str) -> Result<u64, parse_size::Error> {
    parse_size::parse_size(text)
}

fn run(args: &Args) -> Result<(), String> {
    if !args.plot.is_empty() {
        for picture in plot::draw(&args.plot)? {
            println!("{}", picture.display());
        }
        return Ok(());
    }
    let contenders = args.contenders()?;
    let drive = args.drive();
    let setup = Setup { drive, filesystem: args.filesystem };
    let mut disk = Disk::start(&setup)?;
    let sequential = check::check(&mut disk, &drive)?;
    match check::accept(&sequential, &drive) {
        Err(refused) if !args.busy => return Err(refused),
        Err(refused) => eprintln!("disk: {refused}"),
        Ok(()) => {}
    }
    if args.check {
        return Ok(());
    }
    let measured = Run {
        date: record::date(),
        version: record::version(),
        options: std::env::args().skip(1).collect(),
        machine: Machine::this(),
        filesystem: args.filesystem,
        drive,
        load: args.load(),
        reader: args.reader,
        memory_bytes: args.memory,
        sequential_rate: sequential.rate(),
    };
    println!("dirty pages of `straight`: {}", measured.machine.dirty_limits);
    let mut record = Record::create(&args.results(), &measured)?;
    let read = args.reader.then(|| reader::prepare(&mut disk, args.capacity)).transpose()?;
    let contest = Contest { load: measured.load, memory_bytes: args.memory, read };
    let mut outcomes = Vec::new();
    for round in 1..=args.runs {
        for &contender in &contenders {
            let outcome = contest.run(contender, &mut disk)?;
            outcomes.push(Outcome { round, ..outcome });
            record.push(&outcomes[outcomes.len() - 1])?;
        }
    }
    println!("{}\n{}", table::table(&outcomes, measured.sequential_rate), table::NOTES);
    println!("all results: {}", record.path().display());
    Ok(())
}

/// This program is also the disk and the writers.
fn act() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [first, setup] if first == emulated::SERVE => {
            emulated::disk::serve(setup);
            Ok(())
        }
        [first, writer] if first == load::WRITE => load::write(writer),
        _ => {
            common::interrupt::catch_interrupt();
            run(&Args::parse())
        }
    }
}

fn main() -> std::process::ExitCode {
    match act() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
