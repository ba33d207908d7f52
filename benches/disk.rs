//! Many writers on a disk with seeks, which is emulated: see `emulated/mod.rs`. As root.
//!
//! `cargo bench --bench disk -- --check`: whether this machine can be the disk, and what it does.

mod emulated;

use clap::Parser;

use emulated::model::{Drive, Stripe};
use emulated::{Disk, Kind, Setup, check};

#[derive(Parser)]
struct Args {
    /// Only see whether this machine can be the disk
    #[arg(long)]
    check: bool,
    /// The filesystem on the disk
    #[arg(long, value_enum, default_value = "ext4")]
    filesystem: Kind,
    /// The disk's size, which is taken from memory
    #[arg(long, default_value = "4G", value_parser = size)]
    capacity: u64,
    /// Bytes a second under the head
    #[arg(long, default_value = "100MB", value_parser = size)]
    rate: u64,
    /// Data disks of a RAID5 or RAID6; none: a single disk
    #[arg(long)]
    data_disks: Option<u64>,
    /// Bytes on one disk of it before the next one follows
    #[arg(long, default_value = "128K", value_parser = size)]
    unit: u64,
    /// cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn drive(&self) -> Drive {
        let stripe = self.data_disks.map(|data_disks| Stripe { data_disks, unit_bytes: self.unit });
        Drive { rate: self.rate, stripe, ..Drive::sata(self.capacity) }
    }
}

fn size(text: &str) -> Result<u64, parse_size::Error> {
    parse_size::Config::new().with_binary().parse_size(text)
}

fn run(args: &Args) -> Result<(), String> {
    let drive = args.drive();
    let setup = Setup { drive, filesystem: args.filesystem, dirty_bytes: None };
    let mut disk = Disk::start(&setup)?;
    let sequential = check::check(&mut disk, &drive)?;
    println!(
        "sequential: {:.1}% of the nominal rate",
        sequential.rate() / drive.rate as f64 * 100.0
    );
    Ok(())
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, setup] = &arguments[..]
        && first == emulated::SERVE
    {
        emulated::disk::serve(setup);
        return std::process::ExitCode::SUCCESS;
    }
    match run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
