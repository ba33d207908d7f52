//! The clocks: one for ages and waits, one for the times that files show.

use std::time::Duration;

/// Milliseconds of CLOCK_BOOTTIME: goes on while the machine sleeps, never jumps, and is the same
/// for a worker and its successor.
pub fn boottime_ms() -> u64 {
    let now = now(libc::CLOCK_BOOTTIME);
    now.as_secs() * 1000 + u64::from(now.subsec_millis())
}

/// Microseconds of the same clock.
pub fn boottime_us() -> u64 {
    now(libc::CLOCK_BOOTTIME).as_micros() as u64
}

/// Seconds and nanoseconds since 1970, for modification times.
pub fn realtime() -> (i64, u32) {
    let now = now(libc::CLOCK_REALTIME);
    (now.as_secs() as i64, now.subsec_nanos())
}

fn now(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec; both clocks exist on every Linux this runs on.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
