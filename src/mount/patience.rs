//! Calls that may wait for a filesystem that does not answer, with a limit.

use std::sync::mpsc;
use std::time::Duration;

/// What `task` returns; `None` when it takes longer. It is left behind then: nothing can end a wait
/// for a server that lives and does not answer.
pub fn within<T: Send + 'static>(
    limit: Duration,
    task: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (told, answer) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens after the limit.
        let _ = told.send(task());
    });
    answer.recv_timeout(limit).ok()
}
