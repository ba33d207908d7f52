//! Goal: each cause is told from the others. Method: the state of a mount in which only that one
//! is there.

use std::path::Path;

use super::*;
use crate::config::MountConfig;
use crate::control::protocol::{ByteRange, DiskStatus, FileStatus, LaneStatus, RecentDrain};

/// Forty files in plenty of memory, on a disk that is busy.
fn pressed() -> Status {
    let config =
        MountConfig { chunk_bytes: MIB, ..MountConfig::for_tests(Path::new("/b"), 1 << 30) };
    Status {
        bdi: "tuned".into(),
        memory_bytes: 1 << 30,
        held_bytes: 900 << 20,
        backlog_bytes: 900 << 20,
        waiting_writes: 7,
        streams: 40,
        uptime_ms: 20_000,
        bytes_in: 500 << 20,
        recent: RecentDrain {
            window_ms: 10_000,
            bytes: 1000 << 20,
            busy_ms: 9_700,
            writes: 100,
            turns: 50,
        },
        ..Status::of(config)
    }
}

fn disk(device: &str, recent: RecentDrain) -> DiskStatus {
    DiskStatus {
        device: device.into(),
        chunk_bytes: MIB,
        positioning_us: None,
        bytes_per_s: None,
        lanes: 1,
        engine: None,
        recent,
    }
}

fn lane(lane: u64, path: &str, for_ms: u64) -> LaneStatus {
    let range = ByteRange { offset: 0, length: 5 };
    LaneStatus { lane, device: "8:1".into(), path: path.into(), range, for_ms, bytes_per_s: 1 }
}

fn words(now: &Status, before: Option<&Status>) -> String {
    explain(now, before).in_words(|bytes| format!("{bytes}B"), |ms| format!("{ms}ms"))
}

#[test]
fn nothing_is_slow_while_nobody_is_held_back() {
    let calm = Status { waiting_writes: 0, held_bytes: 300 << 20, ..pressed() };
    assert_eq!(explain(&calm, None), Slowness::Nothing);
    assert_eq!(words(&calm, None), "nothing is slow");
}

#[test]
fn a_disk_that_is_busy_is_the_limit() {
    let before = Status { uptime_ms: 19_000, bytes_in: 300 << 20, ..pressed() };
    let expected = Slowness::Device {
        device: None,
        drained_bytes: 100 << 20,
        busy_percent: 97,
        received_bytes: Some(200 << 20),
    };
    assert_eq!(explain(&pressed(), Some(&before)), expected);
    let text = words(&pressed(), Some(&before));
    assert_eq!(
        text,
        "the disk: it takes 104857600B/s, and is written to 97% of the time; 209715200B/s come \
         from programs"
    );
    assert!(!words(&pressed(), None).contains("programs"));
    // Held back before any waits, too.
    let early = Status { waiting_writes: 0, ..pressed() };
    assert!(matches!(explain(&early, None), Slowness::Device { .. }));
}

#[test]
fn short_turns_for_want_of_memory_say_how_much_would_help() {
    let mut now = Status { memory_bytes: 32 << 20, held_bytes: 30 << 20, ..pressed() };
    now.recent.turns = 4000;
    let expected = Slowness::Memory { wanted_bytes: 80 << 20, streams: 40, turn_bytes: 256 << 10 };
    assert_eq!(explain(&now, None), expected);
    assert!(words(&now, None).contains("--memory 83886080B would help"));
    // Short turns in plenty of memory are not for want of it.
    now.memory_bytes = 1 << 30;
    now.held_bytes = 900 << 20;
    assert!(matches!(explain(&now, None), Slowness::Device { .. }));
}

/// Goal: turns are compared with the chunk that was learned, not with the one the mount began with.
#[test]
fn turns_shorter_than_the_learned_chunk_want_memory() {
    let mut now = Status { memory_bytes: 256 << 20, held_bytes: 250 << 20, ..pressed() };
    // Of 4 MiB.
    now.recent.turns = 250;
    assert!(matches!(explain(&now, None), Slowness::Device { .. }));
    let disk = |chunk_bytes| DiskStatus { chunk_bytes, ..disk("8:1", RecentDrain::default()) };
    now.disks = vec![disk(MIB), disk(8 << 20)];
    let expected = Slowness::Memory { wanted_bytes: 640 << 20, streams: 40, turn_bytes: 4 << 20 };
    assert_eq!(explain(&now, None), expected);
    // It is small again: turns are long enough, also for the first one.
    now.disks = vec![disk(2 << 20)];
    now.config.chunk_bytes = 8 << 20;
    assert!(matches!(explain(&now, None), Slowness::Device { .. }));
}

#[test]
fn programs_that_wait_while_the_disk_idles_want_memory() {
    let mut now = pressed();
    now.recent.busy_ms = 1_000;
    assert!(matches!(explain(&now, None), Slowness::Memory { wanted_bytes, .. }
        if wanted_bytes == 2 << 30));
}

#[test]
fn a_stuck_lane_is_named_with_its_file() {
    let mut now = Status { waiting_writes: 0, held_bytes: 1, ..pressed() };
    now.lanes = vec![lane(0, "a", 30), lane(1, "dir/b", 12_000)];
    let text = words(&now, None);
    assert_eq!(
        text,
        "lane 1 has been stuck in one write to dir/b for 12000ms: the disk does not answer"
    );
    now.lanes[1].for_ms = STUCK_MS - 1;
    assert_eq!(explain(&now, None), Slowness::Nothing);
}

/// Goal: with outputs on several disks all stuck lanes are counted, and the disk of the one that has
/// been for longest is named.
#[test]
fn stuck_lanes_of_all_disks_are_counted() {
    let idle = RecentDrain::default();
    let mut now = Status { disks: vec![disk("8:1", idle), disk("8:17", idle)], ..pressed() };
    let other = LaneStatus { device: "8:17".into(), ..lane(1, "b", 5_000) };
    now.lanes = vec![lane(0, "a", 2_000), other, lane(2, "c", 30)];
    let text = "lane 1 has been stuck in one write to b for 5000ms: the disk 8:17 does not answer; so \
                is another lane";
    assert_eq!(words(&now, None), text);
    now.lanes[2].for_ms = 1_000;
    assert!(words(&now, None).ends_with("; so are 2 other lanes"));
}

/// Goal: of several disks the one that holds programs back is named, with its own figures: two that
/// are half busy are no busy one, and one that is small among idle ones is.
#[test]
fn of_several_disks_the_busiest_is_named() {
    let busy = |busy_ms| RecentDrain { busy_ms, ..pressed().recent };
    let mut now =
        Status { disks: vec![disk("8:1", busy(600)), disk("8:17", busy(9_000))], ..pressed() };
    now.recent = now.disks[0].recent.and(now.disks[1].recent);
    assert_eq!(
        now.recent,
        RecentDrain { bytes: 2000 << 20, turns: 100, writes: 200, ..busy(9_600) }
    );
    let text = words(&now, None);
    assert_eq!(text, "the disk 8:17: it takes 104857600B/s, and is written to 90% of the time");
    now.disks[1].recent.busy_ms = 4_900;
    now.disks[0].recent.busy_ms = 4_900;
    assert!(matches!(explain(&now, None), Slowness::Memory { .. }));
    now.disks[0].recent.busy_ms = 8_000;
    now.disks[0].lanes = 8;
    assert!(matches!(explain(&now, None), Slowness::Memory { .. }), "eight lanes, each idle");
    now.disks.truncate(1);
    now.disks[0].lanes = 1;
    assert!(words(&now, None).starts_with("the disk: "));
}

#[test]
fn a_kernel_that_could_not_be_tuned_is_named_while_programs_write() {
    let bdi = "not tuned: Permission denied (os error 13)";
    let now = Status { waiting_writes: 0, held_bytes: 1, bdi: bdi.into(), ..pressed() };
    assert_eq!(explain(&now, None), Slowness::Kernel { why: bdi.into() });
    assert!(words(&now, None).contains("Permission denied"));
    // Nothing came in between.
    assert_eq!(explain(&now, Some(&now.clone())), Slowness::Nothing);
    // Here it is our own doing.
    let held = Status { bdi: bdi.into(), ..pressed() };
    assert!(matches!(explain(&held, None), Slowness::Device { .. }));
}

#[test]
fn a_limit_that_was_asked_for_is_named() {
    let mut now = pressed();
    now.config.drain_rate = Some(110 << 20);
    assert_eq!(explain(&now, None), Slowness::RateLimit { limit_bytes: 110 << 20 });
    now.config.drain_rate = Some(500 << 20);
    assert!(matches!(explain(&now, None), Slowness::Device { .. }));
}

#[test]
fn memory_full_of_refused_bytes_is_no_slow_disk() {
    let file = FileStatus { backlog_bytes: 800 << 20, ..FileStatus::default() };
    let now = Status { errors: vec![file], ..pressed() };
    assert_eq!(explain(&now, None), Slowness::Refused { files: 1, bytes: 800 << 20 });
}

/// Goal: a mount on which nothing is written, and requests about names hang, is not called fast.
#[test]
fn requests_that_hang_are_named() {
    let request = |path: &str, error: Option<&str>| RequestStatus {
        what: "stat".into(),
        path: path.into(),
        for_ms: 4000,
        tries: 3,
        error: error.map(str::to_owned),
    };
    let calm = Status { waiting_writes: 0, held_bytes: 0, ..pressed() };
    let hanging = Status {
        hanging_requests: 9,
        longest_request_ms: 4000,
        waiting_requests: vec![request("d/f", None), request("d/g", None)],
        ..calm
    };
    let expected = "9 requests of programs wait for the engine, the longest: stat of d/f for \
                    4000ms: no answer";
    assert_eq!(words(&hanging, None), expected);
    let failing = Status { waiting_requests: vec![request("", Some("ENOTCONN"))], ..hanging };
    let expected = "stat of the mount's root for 4000ms: tried 3 times, last ENOTCONN";
    assert!(words(&failing, None).ends_with(expected), "{}", words(&failing, None));
    let left = Status { waiting_requests: Vec::new(), ..failing };
    let expected = "9 requests to the filesystem below have not come back, for up to 4000ms";
    assert_eq!(words(&left, None), expected);
}
