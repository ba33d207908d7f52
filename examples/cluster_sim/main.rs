//! Many nodes that write to one distributed storage engine, with and without coalescefs, simulated.
//!
//! `cargo run --release --example cluster_sim`. Buffers, schedulers, admission and circuits are the
//! real ones; programs, kernels, network and servers are models (`docs/scaling.md` says which, and what
//! they leave out). One thread for each simulation, as many at once as there are processors. The same
//! options give the same figures.

mod cached;
mod coalesce;
mod direct;
mod engine;
mod figures;
mod page_cache;
#[path = "../../src/schedule/tests/random.rs"]
#[allow(dead_code)] // the tests use the rest
mod random;
mod report;
mod setup;
mod sim;
mod stream;
#[cfg(test)]
mod tests;
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use parse_size::Config;

use report::Style;
use setup::{Client, Fault, Setup, Trouble};
use sim::Outcome;

const MIB: u64 = 1 << 20;
/// Without a cache things are as they will be within a second, and each record is a request: such a
/// run, with all its times, is so much shorter.
const DIRECT_PART: u64 = 4;

const NOTES: &str = "\
Every byte written was stored, once, or is counted as lost. Without a cache all times are a quarter.";

/// Simulates nodes that write many slow streams to a distributed storage engine
#[derive(Debug, Parser)]
struct Args {
    /// Nodes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Programs on each node, each with a file of its own
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams: u32,
    /// Same seed, same figures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of one write()
    #[arg(long, default_value = "256", value_parser = size)]
    record: u64,
    /// Bytes that each program wants to write per second
    #[arg(long, default_value = "128K", value_parser = size)]
    rate: u64,
    /// For how long programs write
    #[arg(long, default_value = "120s", value_parser = duration)]
    time: Duration,
    /// Servers of the engine
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    servers: u32,
    /// Servers that the objects of one file lie on, in turn
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    width: u32,
    /// Bytes of an object, and of the largest request
    #[arg(long, default_value = "4M", value_parser = size)]
    object: u64,
    /// What a request costs a server beside its bytes
    #[arg(long, default_value = "1ms", value_parser = duration)]
    request_time: Duration,
    /// Bytes that a server takes per second
    #[arg(long, default_value = "200M", value_parser = size)]
    server_rate: u64,
    /// What a node may hold that is not stored
    #[arg(long, default_value = "256M", value_parser = size)]
    memory: u64,
    /// coalescefs' option
    #[arg(long, default_value = "4M", value_parser = size)]
    chunk: u64,
    /// coalescefs' option
    #[arg(long, default_value = "30s", value_parser = duration)]
    max_age: Duration,
    /// What to simulate, may be repeated; steady and hangs when none is named
    #[arg(long)]
    case: Vec<Case>,
    /// How tables look
    #[arg(long, default_value = "plain")]
    style: Style,
}

/// What the engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// All servers work
    Steady,
    /// One server is ten times slower for a quarter of the time
    Slow,
    /// One server hangs for a quarter of the time, and comes back
    Hangs,
    /// One server refuses for a quarter of the time, and comes back
    Refuses,
}

impl Case {
    fn title(self) -> &'static str {
        match self {
            Case::Steady => "All servers work",
            Case::Slow => "One server is ten times slower for a quarter of the time",
            Case::Hangs => "One server hangs for a quarter of the time",
            Case::Refuses => "One server refuses for a quarter of the time",
        }
    }

    /// This case with each of its clients.
    fn setups(self, base: &Setup) -> impl Iterator<Item = Setup> {
        self.clients().into_iter().map(move |client| {
            let part = if client == Client::Direct { DIRECT_PART } else { 1 };
            let end_us = base.end_us / part;
            let (warm_up_us, trouble) = (base.warm_up_us / part, self.trouble(end_us));
            Setup { client, trouble, warm_up_us, end_us, ..base.clone() }
        })
    }

    fn trouble(self, end_us: u64) -> Option<Trouble> {
        let fault = match self {
            Case::Steady => return None,
            Case::Slow => Fault::Slow,
            Case::Hangs => Fault::Hangs,
            Case::Refuses => Fault::Refuses,
        };
        Some(Trouble { fault, from_us: end_us / 2, to_us: end_us / 4 * 3 })
    }

    fn clients(self) -> Vec<Client> {
        let mut clients = vec![
            Client::Direct,
            Client::Cache { age_us: 5_000_000 },
            Client::Cache { age_us: 30_000_000 },
            Client::Coalesce { circuit: false },
        ];
        if self != Case::Steady {
            clients.push(Client::Coalesce { circuit: true });
        }
        clients
    }
}

fn size(text: &str) -> Result<u64, String> {
    match Config::new().with_binary().parse_size(text) {
        Ok(bytes) if (1..1 << 50).contains(&bytes) => Ok(bytes),
        _ => Err("a size is a number above zero, with K, M, G or T, as in 128K".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_micros(1) && time < Duration::from_secs(1 << 20) => {
            Ok(time)
        }
        _ => Err("a time is a number with ms, s or min, as in 30s".to_owned()),
    }
}

/// The load that the options ask for. `Err` names the option.
fn setup(args: &Args) -> Result<Setup, String> {
    let segment_bytes = 64 << 10;
    let end_us = args.time.as_micros() as u64;
    let problems = [
        (args.width > args.servers, "--width: there are not so many servers"),
        (args.record > args.object, "--record: a record is larger than an object"),
        (args.record > MIB, "--record: at most 1M"),
        (args.record > args.rate * 1000, "--rate: less than a record in 1000 s"),
        (!args.chunk.is_power_of_two(), "--chunk: not a power of two"),
        (args.chunk < segment_bytes, "--chunk: at least 64K"),
        (args.memory < 4 * args.chunk, "--memory: less than four chunks"),
        (args.memory < 16 * MIB, "--memory: at least 16M"),
        (end_us < 1_000_000, "--time: at least 1s"),
        (!args.object.is_multiple_of(segment_bytes), "--object: not a multiple of 64K"),
    ];
    if let Some((_, problem)) = problems.into_iter().find(|(is_wrong, _)| *is_wrong) {
        return Err(problem.to_owned());
    }
    Ok(Setup {
        client: Client::Direct,
        trouble: None,
        seed: args.seed,
        nodes: args.nodes as usize,
        streams: args.streams as usize,
        record_bytes: args.record,
        period_us: (args.record * 1_000_000 / args.rate).max(1),
        spread_us: 1_000_000.min(end_us / 4),
        object_bytes: args.object,
        width: args.width as usize,
        servers: args.servers as usize,
        request_us: args.request_time.as_micros() as u64,
        server_bytes_per_s: args.server_rate,
        delay_us: 100,
        jitter_us: 100,
        node_bytes_per_s: 10_000_000_000 / 8,
        request_bytes: args.object,
        window: 8,
        memory_bytes: args.memory,
        chunk_bytes: args.chunk,
        max_age_us: args.max_age.as_micros() as u64,
        warm_up_us: end_us / 3,
        end_us,
    })
}

/// Runs all setups, as many at once as there are processors; outcomes in the order of the setups.
fn run_all(setups: &[Setup]) -> Vec<Outcome> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(setups.len()) {
            scope.spawn(|| {
                while let Some((i, setup)) = take(setups, &next) {
                    let outcome = sim::run(setup);
                    outcomes.lock().expect("no panics under this lock").push((i, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no panics under this lock");
    outcomes.sort_by_key(|(i, _)| *i);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn take<'a>(setups: &'a [Setup], next: &AtomicUsize) -> Option<(usize, &'a Setup)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    setups.get(i).map(|setup| (i, setup))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let base = match setup(&args) {
        Ok(base) => base,
        Err(problem) => {
            eprintln!("cluster_sim: {problem}");
            return ExitCode::from(2);
        }
    };
    let usual = [Case::Steady, Case::Hangs];
    let cases = if args.case.is_empty() { usual.to_vec() } else { args.case };
    let setups: Vec<Setup> = cases.iter().flat_map(|case| case.setups(&base)).collect();
    let mut outcomes = run_all(&setups).into_iter();
    for case in cases {
        let of_case: Vec<_> = outcomes.by_ref().take(case.clients().len()).collect();
        println!("{}\n\n{}\n", case.title(), report::table(&of_case, args.style));
    }
    println!("{NOTES}");
    ExitCode::SUCCESS
}
