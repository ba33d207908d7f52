//! The process that serves the mount.

use std::os::fd::RawFd;
use std::sync::Arc;

use crate::config::MountConfig;

/// What the keeper prepared before it forked the worker. The descriptors are in a table that
/// keeper and worker share (`CLONE_FILES`), so they stay open when the worker dies; none may be
/// closed by the worker.
#[derive(Debug)]
pub struct WorkerContext {
    /// The resolved options.
    pub config: Arc<MountConfig>,
    /// `/dev/fuse`, mounted.
    pub fuse_fd: RawFd,
    /// The backing directory, opened before it was mounted over.
    pub backing_fd: RawFd,
    /// Listening control socket.
    pub listener_fd: RawFd,
    /// eventfd: the keeper wrote to the control page.
    pub wake_worker_fd: RawFd,
    /// eventfd: the worker wrote to the control page.
    pub wake_keeper_fd: RawFd,
    /// How many workers served this mount before.
    pub restarts: u64,
}

/// Exit code of a worker that ended the mount with everything stored.
pub const EXIT_CLEAN: i32 = 0;
/// Exit code of a worker that ended with data that is not in the backing files.
pub const EXIT_NOT_STORED: i32 = 75;
