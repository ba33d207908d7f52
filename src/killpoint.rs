//! Places at which a worker can be told to die, for tests: what it leaves there, the next one must
//! be able to take over.
//!
//! `COALESCEFS_KILL_AT=POINT,DEATHS,PASSES` kills the worker when it passes POINT for the PASSES-th
//! time, as long as fewer than DEATHS workers died before. Builds without debug assertions have
//! none of it.

/// What was just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A request was taken from the kernel.
    RequestBegun,
    /// MKDIR in particular.
    MkdirBegun,
    /// Some of a write's bytes are in the arena, and not in its tables.
    WriteCopied,
    /// Some of them are in its tables.
    WritePublished,
    /// All of them, and the reply is not sent.
    WriteDone,
    /// The pool is to bring a file to stable storage.
    SyncBegun,
    /// A lane has bytes in hand.
    DrainTaken,
    /// They are in the backing file.
    DrainWritten,
    /// Their segments are free.
    DrainCompleted,
    /// The backing file has its time back, and the arena does not say so.
    DrainTimed,
    /// The backing file is cut, what is buffered is not.
    TruncateStored,
    /// Both are, and the reply is not sent.
    TruncateDone,
    /// A move is noted, and not done.
    RenameNoted,
    /// It is done, and the nodes do not say so.
    RenameDone,
    /// They do, and the note is still there.
    RenameMoved,
    /// A file is to be made.
    CreateNoted,
    /// It is made, and the node is not.
    CreateMade,
    /// The handle is counted, and the reply is not sent.
    CreateDone,
    /// A file that loses its name is kept by a descriptor.
    UnlinkPinned,
    /// It is to be removed.
    UnlinkNoted,
    /// It is.
    UnlinkRemoved,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 21] = [
        Point::RequestBegun,
        Point::MkdirBegun,
        Point::WriteCopied,
        Point::WritePublished,
        Point::WriteDone,
        Point::SyncBegun,
        Point::DrainTaken,
        Point::DrainWritten,
        Point::DrainCompleted,
        Point::DrainTimed,
        Point::TruncateStored,
        Point::TruncateDone,
        Point::RenameNoted,
        Point::RenameDone,
        Point::RenameMoved,
        Point::CreateNoted,
        Point::CreateMade,
        Point::CreateDone,
        Point::UnlinkPinned,
        Point::UnlinkNoted,
        Point::UnlinkRemoved,
    ];
}

/// The variable that names a point.
pub const VARIABLE: &str = "COALESCEFS_KILL_AT";

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Point, VARIABLE};

    struct Armed {
        point: Point,
        passes_left: AtomicU64,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    /// Worker, at its start: reads the variable. `deaths` is how many workers died before.
    pub fn arm(deaths: u64) {
        let Ok(text) = std::env::var(VARIABLE) else { return };
        let mut words = text.split(',');
        let name = words.next();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let point = Point::ALL.into_iter().find(|point| name == Some(&format!("{point:?}")));
        let (Some(point), Some(deaths_wanted), Some(passes)) = (point, number(), number()) else {
            log::error!("{VARIABLE}={text} is not understood");
            return;
        };
        if deaths < deaths_wanted {
            ARMED.get_or_init(|| Armed { point, passes_left: AtomicU64::new(passes) });
        }
    }

    /// Dies here if it is to.
    pub fn pass(point: Point) {
        let Some(armed) = ARMED.get().filter(|armed| armed.point == point) else { return };
        if armed.passes_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // SAFETY: ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            // Nothing more of this thread, although the others still run.
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::{arm, pass};

/// Does nothing in this build.
#[cfg(not(debug_assertions))]
pub fn arm(_deaths: u64) {}

/// Does nothing in this build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn pass(_point: Point) {}
