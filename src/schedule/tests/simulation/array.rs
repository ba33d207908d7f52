//! Many disks: a scheduler and a lane for each, one memory for all. Streams fall on disks at
//! random, as if by a hash of their names.

use super::engine::{Disk, Setup, Sharing, Writer};
use super::loads::{KIB, equal};
use super::report::Report;
use super::{Random, run, run_bounded, seed};

const CHUNK_BYTES: u64 = 256 * KIB;
const REQUEST_BYTES: u64 = 64 * KIB;
const DISK: Disk = Disk { position_us: 10_000, bytes_per_us: 10 };
/// Ten times slower.
const SLOW: Disk = Disk { position_us: 100_000, bytes_per_us: 1 };

/// Equal writers that together want `share` of what disks as fast as [`DISK`] take in chunks.
fn array(disks: usize, writers: usize, share: f64) -> Setup {
    let random = &mut Random(seed(1));
    let chunk_us = DISK.position_us + CHUNK_BYTES / DISK.bytes_per_us;
    let all_bytes_per_us = disks as f64 * CHUNK_BYTES as f64 / chunk_us as f64;
    let period_us = (REQUEST_BYTES as f64 * writers as f64 / all_bytes_per_us / share) as u64;
    let writer = |_| Writer {
        request_bytes: REQUEST_BYTES,
        period_us,
        start_us: random.below(period_us),
        disk: random.below(disks as u64) as usize,
    };
    Setup {
        disks: vec![DISK; disks],
        writers: (0..writers).map(writer).collect(),
        in_flight_max: 64,
        turn_chunks: 256,
        share_bytes: CHUNK_BYTES,
        memory_bytes: writers as u64 * 192 * KIB,
        warm_up_us: 60_000_000,
        end_us: 100_000_000,
        ..equal(writers as u64, CHUNK_BYTES, REQUEST_BYTES)
    }
}

/// The first disk is slow, and there was time to fill memory with what it cannot take.
fn with_a_slow_disk(disks: usize, writers: usize, share: f64) -> Setup {
    let mut setup = array(disks, writers, share);
    setup.disks[0] = SLOW;
    setup.memory_bytes = writers as u64 * 128 * KIB;
    setup.warm_up_us = 140_000_000;
    setup.end_us = 260_000_000;
    setup
}

/// What a writer asks for in the measured time, but for the request that may be under way.
fn wanted_bytes(setup: &Setup) -> u64 {
    let requests = (setup.end_us - setup.warm_up_us) / setup.writers[0].period_us;
    (requests - 1) * REQUEST_BYTES
}

/// Part of the time in which each disk wrote.
fn busy(setup: &Setup, report: &Report) -> Vec<f64> {
    let measured_us = (setup.end_us - setup.warm_up_us) as f64;
    report.disks.iter().map(|disk| disk.busy_us as f64 / measured_us).collect()
}

fn mean(parts: &[f64]) -> f64 {
    parts.iter().sum::<f64>() / parts.len() as f64
}

/// The least that a writer of a fast disk got of what it asked for.
fn least_part_of_others(setup: &Setup, report: &Report) -> f64 {
    let others = (0..setup.writers.len()).filter(|i| setup.writers[*i].disk > 0);
    let least = others.map(|i| report.acknowledged_bytes[i]).min().unwrap();
    least as f64 / wanted_bytes(setup) as f64
}

#[test]
fn disks_that_can_take_it_give_each_writer_what_it_wants() {
    for (disks, writers) in [(16, 1_600), (100, 2_000)] {
        let setup = array(disks, writers, 0.5);
        let report = run(setup.clone());
        let least = report.acknowledged_bytes.iter().min().unwrap();
        assert!(*least >= wanted_bytes(&setup), "{least}");
        assert_eq!(report.longest_wait_ms, 0, "there is room");
    }
}

/// All writers slow down alike, although some disks have more of them than others.
#[test]
fn overloaded_disks_slow_all_writers_down_alike() {
    let setup = array(16, 1_600, 2.0);
    let report = run_bounded(setup.clone());
    let busy = busy(&setup, &report);
    assert!(report.spread(0..1_600) <= 1.1, "{}", report.spread(0..1_600));
    assert!(busy.iter().all(|part| *part > 0.99), "{busy:?}");
}

/// As long as a slow disk takes what its streams write, the other streams do not notice it.
#[test]
fn a_slow_disk_that_can_take_it_disturbs_nobody() {
    let setup = with_a_slow_disk(16, 1_600, 0.05);
    let report = run(setup.clone());
    assert!(least_part_of_others(&setup, &report) >= 1.0);
    assert_eq!(report.longest_wait_ms, 0, "there is room");
}

/// One that cannot holds all back: memory fills with its streams' bytes, and room is given to all
/// files alike. All writers get what those of the slow disk get, which is little, but not less.
#[test]
fn a_slow_disk_that_is_overloaded_slows_all_writers_down_to_its_own() {
    let setup = with_a_slow_disk(16, 1_600, 0.5);
    let report = run_bounded(setup.clone());
    let (busy, spread) = (busy(&setup, &report), report.spread(0..1_600));
    let least = least_part_of_others(&setup, &report);
    println!("others: {:.2} of the time busy, {least:.2} of what is wanted", mean(&busy[1..]));
    assert!(busy[0] > 0.99, "the slow one works all the time: {}", busy[0]);
    assert!(spread <= 1.25, "{spread}");
    assert!(least < 0.5, "memory is full: {least}");
    assert!(report.longest_wait_ms < 2_000, "{} ms", report.longest_wait_ms);
}

/// What would help: memory that is divided among the disks, and more requests in flight than wait
/// for the slow disk. Either alone does not.
#[test]
fn the_other_disks_keep_their_rate_with_memory_and_requests_of_their_own() {
    let part = |sharing, in_flight_max| {
        let setup = Setup { sharing, in_flight_max, ..with_a_slow_disk(16, 1_600, 0.5) };
        let report = run_bounded(setup.clone());
        let part = least_part_of_others(&setup, &report);
        println!("{sharing:?}, {in_flight_max} in flight: {part:.2}");
        part
    };
    assert!(part(Sharing::All, 1_600) < 0.5);
    assert!(part(Sharing::Disk, 64) < 0.75);
    assert!(part(Sharing::Disk, 1_600) >= 1.0);
}
