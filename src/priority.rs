//! How soon a thread gets a processor: for those that others wait for, and that need little of it.
//!
//! Programs that write at full speed are as many as the machine's processors can bear. A thread that
//! lets one of them write for a tenth of a millisecond must not find itself behind it, nor a lane
//! whose disk has nothing to do. Where none of this is allowed (without CAP_SYS_NICE, RLIMIT_RTPRIO
//! or RLIMIT_NICE), they wait like everybody.

use std::io;

/// More than any program has that did not ask for it, less than what audio and drivers use.
const REALTIME: libc::c_int = 1;
/// The strongest that setpriority(2) knows.
const NICE: libc::c_int = -20;
/// What a thread asks for at a time, in nanoseconds: who asks for little gets it soon (Linux 6.12).
const SLICE_NS: u64 = 100_000;

/// `struct sched_attr` of sched_setattr(2), its first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// The calling thread gets a processor at once, before all that do not ask for the same. For a
/// thread that hardly computes: it can keep others from running.
pub fn run_at_once() {
    // Wakes up when it asked to, and not up to 50 microseconds later: PR_SET_TIMERSLACK of prctl(2).
    // SAFETY: concerns this thread's timers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
    let param = libc::sched_param { sched_priority: REALTIME };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: reads one sched_param; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &param) } < 0 {
        run_soon();
    }
}

/// The calling thread gets a processor before others where that is allowed, else its share of it
/// in small parts.
pub fn run_soon() {
    let set = |nice: i32| {
        let attr = SchedAttr {
            size: size_of::<SchedAttr>() as u32,
            policy: libc::SCHED_OTHER as u32,
            nice,
            runtime: SLICE_NS,
            ..SchedAttr::default()
        };
        // SAFETY: reads the structure, whose size is in it; 0 is the calling thread.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attr, 0) == 0 }
    };
    // SAFETY: takes no pointers; 0 is the calling thread.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if !set(NICE) && !set(nice) {
        log::debug!("a thread stays where it is: {}", io::Error::last_os_error());
    }
}
