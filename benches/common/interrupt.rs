//! Ctrl-C, after which nothing is to stay mounted.

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes SIGINT an error like others, so that everything is taken away in order. Other processes die
/// of it and so end what waits for them.
pub fn catch_interrupt() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGINT, note as *const () as libc::sighandler_t) };
}

/// `Err` when the benchmark is to stop.
pub fn go_on() -> Result<(), String> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err("interrupted".to_owned()),
        false => Ok(()),
    }
}
