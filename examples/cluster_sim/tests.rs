//! Goal: the model does what it says. Small runs against what can be calculated, the same figures for
//! the same seed, and no byte stored twice or forgotten, whatever the engine does. (`sim::run` and
//! `Stream::settle` panic when one is.)

use crate::report;
use crate::setup::{Client, Fault, Setup, Trouble};
use crate::sim::{Outcome, run};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const S: u64 = 1_000_000;

const CACHE: Client = Client::Cache { age_us: 5 * S };
const CLIENTS: [Client; 4] = [
    Client::Direct,
    CACHE,
    Client::Coalesce { circuit: false },
    Client::Coalesce { circuit: true },
];

/// One stream on one server, without jitter.
fn one(client: Client) -> Setup {
    Setup {
        client,
        trouble: None,
        seed: 1,
        nodes: 1,
        streams: 1,
        record_bytes: KIB,
        period_us: 10_000,
        spread_us: 0,
        object_bytes: 4 * MIB,
        width: 1,
        servers: 1,
        request_us: 1000,
        server_bytes_per_s: 100 * MIB,
        delay_us: 100,
        jitter_us: 0,
        node_bytes_per_s: 1000 * MIB,
        request_bytes: 4 * MIB,
        window: 8,
        memory_bytes: 64 * MIB,
        chunk_bytes: 4 * MIB,
        max_age_us: 30 * S,
        warm_up_us: 40 * S,
        end_us: 240 * S,
    }
}

/// Some nodes and servers, and a bad one among them.
fn some(client: Client, fault: Option<Fault>) -> Setup {
    let trouble = fault.map(|fault| Trouble { fault, from_us: 30 * S, to_us: 50 * S });
    Setup {
        trouble,
        nodes: 5,
        streams: 8,
        record_bytes: 256,
        period_us: 2000,
        spread_us: S,
        object_bytes: MIB,
        width: 2,
        servers: 6,
        jitter_us: 100,
        memory_bytes: 32 * MIB,
        chunk_bytes: MIB,
        max_age_us: 10 * S,
        warm_up_us: 10 * S,
        end_us: 60 * S,
        ..one(client)
    }
}

fn measured_s(outcome: &Outcome) -> f64 {
    let measured = outcome.measured();
    (measured.end - measured.start) as f64 / S as f64
}

fn assert_about(found: f64, wanted: f64, part: f64) {
    assert!((found - wanted).abs() <= wanted * part, "{found}, and not {wanted}");
}

/// A program that always wants to write: a record for each way there and back.
#[test]
fn without_a_cache_a_record_takes_a_round_trip_and_its_service() {
    let outcome = run(&Setup { period_us: 1, ..one(Client::Direct) });
    let transfer_us = 1_000_000.0 * KIB as f64 / (1000 * MIB) as f64;
    let service_us = 1000.0 + 1_000_000.0 * KIB as f64 / (100 * MIB) as f64;
    let cycle_us = 200.0 + transfer_us + service_us;
    let per_s = outcome.figures.requests as f64 / measured_s(&outcome);
    assert_about(per_s, 1e6 / cycle_us, 0.002);
    assert_eq!(outcome.figures.held_kib.max(), 0);
}

/// Little's law: who is neither on the way nor served is in the queue.
#[test]
fn the_queue_of_a_busy_server_is_as_long_as_there_are_writers() {
    let outcome = run(&Setup { period_us: 1, streams: 50, ..one(Client::Direct) });
    let service_us = 1000.0 + 1_000_000.0 * KIB as f64 / (100 * MIB) as f64;
    let per_s = outcome.figures.requests as f64 / measured_s(&outcome);
    assert_about(per_s, 1e6 / service_us, 0.002);
    assert_about(outcome.figures.queued.mean(), 50.0 - 201.0 / service_us, 0.01);
}

/// What came in between two looks at a file that was too old.
#[test]
fn a_page_cache_writes_back_what_came_in_its_age() {
    let outcome = run(&one(CACHE));
    let look_us = 5.0 / 6.0;
    let least_kib = 5.0 * 100.0;
    let mean_kib = outcome.figures.request_bytes as f64 / 1024.0 / outcome.figures.requests as f64;
    assert!((least_kib..=least_kib + (look_us + 0.2) * 100.0).contains(&mean_kib), "{mean_kib}");
    let oldest_s = outcome.figures.ages_ms.max() as f64 / 1000.0;
    assert!((5.0..6.1).contains(&oldest_s), "{oldest_s}");
}

/// A slow stream leaves by age: what the kernel handed over in half of the greatest age.
#[test]
fn a_slow_stream_leaves_coalescefs_by_age() {
    for circuit in [false, true] {
        let outcome = run(&one(Client::Coalesce { circuit }));
        let oldest_s = outcome.figures.ages_ms.max() as f64 / 1000.0;
        // 30 s in the kernel, until it looks again after 5 s, and 15 s in the buffer.
        assert!((45.0..50.3).contains(&oldest_s), "{oldest_s}");
    }
}

/// A fast one leaves in whole chunks: one request for each, and a few more where a run, whose size is
/// learned, ends within a chunk.
#[test]
fn a_fast_stream_leaves_coalescefs_in_whole_chunks() {
    let outcome = run(&Setup {
        period_us: 100,
        memory_bytes: 256 * MIB,
        ..one(Client::Coalesce { circuit: true })
    });
    assert_about(outcome.figures.sizes.value_at_quantile(0.5) as f64, (4 * MIB) as f64, 0.002);
    let chunks = 200.0 * 10_000.0 * 1024.0 / (4 * MIB) as f64;
    let requests_each = outcome.figures.requests as f64 / chunks;
    assert!((0.95..1.25).contains(&requests_each), "{requests_each}");
}

/// Servers work for what was sent, and for nothing else.
#[test]
fn work_is_the_sum_of_requests() {
    for client in CLIENTS {
        let setup = one(client);
        let outcome = run(&setup);
        let bytes_us = outcome.figures.request_bytes as f64 / (100.0 * MIB as f64) * 1e6;
        let work_us = 1000.0 * outcome.figures.requests as f64 + bytes_us;
        assert_about(outcome.figures.busy_us() as f64, work_us, 0.02);
    }
}

#[test]
fn what_was_written_is_stored_once_or_counted_as_lost() {
    for fault in [None, Some(Fault::Slow), Some(Fault::Hangs), Some(Fault::Refuses)] {
        for client in CLIENTS {
            let outcome = run(&some(client, fault));
            let figures = &outcome.figures;
            assert_eq!(figures.stored_bytes + figures.lost_bytes, outcome.written_bytes);
            let may_lose =
                fault == Some(Fault::Refuses) && !matches!(client, Client::Coalesce { .. });
            assert_eq!(figures.lost_bytes > 0, may_lose, "{client:?} {fault:?}");
            assert!(outcome.written_bytes > MIB);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    for client in CLIENTS {
        let table = |seed| {
            let setup = Setup { seed, ..some(client, Some(Fault::Hangs)) };
            report::table(&[run(&setup)], report::Style::Plain).to_string()
        };
        assert_eq!(table(7), table(7));
        assert_ne!(table(7), table(8), "{client:?}");
    }
}

/// Programs want twenty times what the engine takes. What the kernel holds twice for a moment, while
/// it waits for replies, is in the figures and within its own part.
#[test]
fn memory_is_bounded_when_programs_want_too_much() {
    for client in CLIENTS {
        let load = Setup { period_us: 10, server_bytes_per_s: 5 * MIB, ..some(client, None) };
        let outcome = run(&load);
        let held_bytes = outcome.figures.held_kib.max() << 10;
        // Figures have three digits.
        assert!(
            held_bytes <= load.memory_bytes / 1000 * 1002,
            "{client:?}: {} MiB",
            held_bytes / MIB
        );
        let daemon_bytes = outcome.figures.most_held_bytes;
        assert!(daemon_bytes <= load.memory_bytes / 5 * 4, "{client:?}: {daemon_bytes}");
        let written = outcome.progress(&outcome.measured());
        assert!(written.iter().sum::<f64>() / (written.len() as f64) < 0.1, "{client:?}");
    }
}

/// What stand-ins are for: a server that hangs holds up its own files, and others only until
/// the lanes that wait for it are found out.
#[test]
fn with_deadlines_other_files_go_on_while_a_server_hangs() {
    let others = |circuit| {
        let load = Setup {
            period_us: 250,
            memory_bytes: 96 * MIB,
            servers: 16,
            ..some(Client::Coalesce { circuit }, Some(Fault::Hangs))
        };
        let outcome = run(&load);
        let progress = outcome.progress(&outcome.trouble().expect("there is one"));
        let others = progress.iter().zip(&outcome.is_on_bad).filter(|(_, is_on_bad)| !**is_on_bad);
        others.map(|(part, _)| *part).fold(f64::INFINITY, f64::min)
    };
    let (without, with) = (others(false), others(true));
    assert!(without < 0.75, "{without}");
    assert!(with > 0.85, "{with}");
}
