//! The worker's eye on its keeper: reads the control page when it rings, and takes its place when
//! it is gone.
//!
//! The thread `wake` does both. Until taking over has succeeded the worker serves as before; only
//! unmounting has to wait for a keeper.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::{Asked, WorkerContext};
use crate::arena::Arena;
use crate::keeper::{Estate, SuccessionError, sys};

/// The running program, also when its file was replaced or removed.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// First pause after taking over failed, doubled each time ...
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// ... up to this: what is missing, memory or processes, may take long to come back.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the worker needs to become the keeper.
pub(super) struct Successor {
    arena: Arena,
    wake_worker_fd: RawFd,
    keeper_pidfd: RawFd,
    estate: Estate,
    /// What to become in place of this program.
    upgrade: Mutex<Option<PathBuf>>,
}

impl Successor {
    pub(super) fn new(context: &WorkerContext) -> Arc<Successor> {
        Arc::new(Successor {
            arena: context.arena,
            wake_worker_fd: context.wake_worker_fd,
            keeper_pidfd: context.keeper_pidfd,
            estate: context.estate.clone(),
            upgrade: Mutex::new(None),
        })
    }

    /// Starts the thread, which sends what the keeper asks for.
    pub(super) fn start(self: &Arc<Self>, ask: Sender<Asked>) -> io::Result<()> {
        let this = self.clone();
        std::thread::Builder::new().name("wake".into()).spawn(move || this.watch(&ask))?;
        Ok(())
    }

    /// Has `program` take the place of keeper and worker. Once it is sure that it can, calls
    /// `begin`, and ends the keeper: from then on there is no way back. Waits some seconds at most.
    pub(super) fn upgrade(
        &self,
        program: &Path,
        begin: impl FnOnce(),
    ) -> Result<(), SuccessionError> {
        self.estate.rehearse(program)?;
        *self.upgrade.lock().expect("no panics under this lock") = Some(program.to_owned());
        begin();
        sys::kill_by_pidfd(self.keeper(), libc::SIGKILL)?;
        Ok(())
    }

    fn keeper(&self) -> BorrowedFd<'_> {
        // SAFETY: the keeper's descriptor, open as long as the process.
        unsafe { BorrowedFd::borrow_raw(self.keeper_pidfd) }
    }

    fn watch(&self, ask: &Sender<Asked>) {
        // SAFETY: as in `keeper`.
        let bell = unsafe { BorrowedFd::borrow_raw(self.wake_worker_fd) };
        loop {
            // The receiver lives as long as the process.
            if self.arena.control().take_finish_request() {
                let _ = ask.send(Asked::Finish);
            }
            if let Some(errno) = self.arena.control().take_unmount_result() {
                let _ = ask.send(Asked::Unmounted { errno });
            }
            let [rung, keeper_gone] = sys::poll([Some(bell), Some(self.keeper())], None);
            if rung {
                sys::clear(bell);
            }
            if keeper_gone {
                self.become_keeper();
            }
        }
    }

    /// Tries until it succeeds, which ends this program.
    fn become_keeper(&self) -> ! {
        let mountpoint = self.estate.mountpoint().display();
        log::warn!("{mountpoint}: the keeper is gone; the worker takes its place");
        let mut pause = FIRST_PAUSE;
        loop {
            let upgrade = self.upgrade.lock().expect("no panics under this lock").take();
            for program in upgrade.iter().map(PathBuf::as_path).chain([Path::new(THIS_PROGRAM)]) {
                let Err(error) =
                    self.estate.rehearse(program).and_then(|()| self.estate.hand_over(program));
                log::error!("{mountpoint}: cannot become the keeper: {error}");
            }
            log::error!("{mountpoint}: served without a keeper; next try in {pause:?}");
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
