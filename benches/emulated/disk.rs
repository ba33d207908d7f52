//! The process that is the disk: a FUSE filesystem of one file, whose requests are answered when
//! the model is done with them.
//!
//! Three threads: one reads requests, in the order in which the host issued them, and gives them to
//! the model; one sleeps until the model is done with one, and answers; the main thread takes
//! orders. The first two run at real-time priority: a disk does not wait for its turn on the host's
//! processors. Nothing is cached and a write is on the medium when it is answered, so that a flush
//! finds nothing to do.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, Session, SessionACL, WriteFlags,
};

use super::medium::Medium;
use super::model::{self, Counters, Direction, Model};
use super::place::{self, Place};
use super::{Pace, Setup};

/// The file's name.
pub const FILE: &str = "disk";
/// The kernel's own limit without `fs.fuse.max_pages_limit`, and about what disks take.
pub const REQUEST_BYTES: u32 = 1 << 20;
const INODE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(86400);
/// Above all ordinary threads is all it takes.
const PRIORITY: i32 = 10;

/// What waits for the model.
enum Reply {
    Read(ReplyData, u64, usize),
    Write(ReplyWrite, u32),
}

struct Queue {
    model: Model,
    pace: Pace,
    replies: HashMap<u64, Reply>,
    next_id: u64,
}

struct Shared {
    medium: Medium,
    queue: Mutex<Queue>,
    changed: Condvar,
    begun: Instant,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("a panic ends this process")
    }

    fn submit(&self, direction: Direction, start: u64, bytes: usize, reply: Reply) {
        let now = self.begun.elapsed();
        let mut queue = self.queue();
        if queue.pace == Pace::Instant {
            drop(queue);
            return self.answer(reply);
        }
        let id = queue.next_id;
        queue.next_id += 1;
        queue.replies.insert(id, reply);
        queue.model.submit(now, model::Request { id, direction, start, bytes: bytes as u64 });
        drop(queue);
        self.changed.notify_one();
    }

    /// The timer: never returns.
    fn answer_in_time(&self) {
        let mut bytes = Vec::new();
        let mut queue = self.queue();
        loop {
            let now = self.begun.elapsed();
            if let Some(id) = queue.model.next_done(now) {
                let reply = queue.replies.remove(&id).expect("every request has one");
                drop(queue);
                self.answer_with(reply, &mut bytes);
                queue = self.queue();
                continue;
            }
            let until = queue.model.busy_until();
            let left = until.map_or(TTL, |until| until.saturating_sub(now));
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.expect("a panic ends this process").0;
        }
    }

    fn answer(&self, reply: Reply) {
        self.answer_with(reply, &mut Vec::new());
    }

    fn answer_with(&self, reply: Reply, bytes: &mut Vec<u8>) {
        match reply {
            Reply::Write(reply, count) => reply.written(count),
            Reply::Read(reply, offset, count) => {
                bytes.resize(count, 0);
                match self.medium.read(bytes, offset) {
                    Ok(()) => reply.data(bytes),
                    Err(error) => reply.error(error.into()),
                }
            }
        }
    }

    fn obey(&self, order: &str) -> String {
        let mut queue = self.queue();
        match order {
            "counters" => serde_json::to_string::<Counters>(&queue.model.counters()),
            "modelled" => serde_json::to_string(&(queue.pace = Pace::Modelled)),
            "instant" => serde_json::to_string(&(queue.pace = Pace::Instant)),
            other => panic!("no such order: {other}"),
        }
        .expect("plain numbers")
    }
}

/// Is the disk until standard input ends, then takes it away.
pub fn serve(setup: &str) {
    let setup: Setup = serde_json::from_str(setup).expect("the benchmark's own words");
    place::ignore_signals();
    // Threads that others wait for: with one gone, the whole disk must be gone.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        std::process::abort();
    }));
    let (place, shared) = match start(&setup) {
        Ok(started) => started,
        Err(error) => return say(&Err::<Place, String>(error)),
    };
    say(&Ok::<&Place, String>(&place));
    for order in std::io::stdin().lines().map_while(Result::ok) {
        println!("{}", shared.obey(&order));
    }
    shared.obey("instant");
    place.take_away();
}

fn say<T: serde::Serialize>(result: &Result<T, String>) {
    println!("{}", serde_json::to_string(result).expect("plain text"));
}

fn start(setup: &Setup) -> Result<(Place, Arc<Shared>), String> {
    let bytes = setup.drive.capacity_bytes;
    let medium = Medium::new(bytes).map_err(|error| format!("{bytes} bytes of memory: {error}"))?;
    let queue = Queue {
        model: Model::new(setup.drive),
        pace: Pace::Instant,
        replies: HashMap::with_capacity(1024),
        next_id: 0,
    };
    let shared = Arc::new(Shared {
        medium,
        queue: Mutex::new(queue),
        changed: Condvar::new(),
        begun: Instant::now(),
    });
    let (mut place, device) = Place::new()?;
    let made = run_threads(&shared, device, setup).and_then(|()| place.make(setup));
    if let Err(error) = made {
        place.take_away();
        return Err(error);
    }
    shared.obey("modelled");
    Ok((place, shared))
}

fn run_threads(shared: &Arc<Shared>, device: OwnedFd, setup: &Setup) -> Result<(), String> {
    let timer = shared.clone();
    std::thread::spawn(move || {
        place::run_first(PRIORITY);
        timer.answer_in_time();
    });
    let (shared, drive) = (shared.clone(), setup.drive);
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Before the session starts its thread, which inherits it.
        place::run_first(PRIORITY);
        let host = Host { shared, bytes: drive.capacity_bytes, queue: drive.queue };
        let mut config = Config::default();
        // More would take requests out of order.
        config.n_threads = Some(1);
        let session = Session::from_fd(host, device, SessionACL::All, config);
        let _ = ready.send(session.as_ref().map(|_| ()).map_err(|error| error.to_string()));
        session.map(Session::run)
    });
    is_ready.recv().expect("it sends before it ends").map_err(|error| format!("FUSE: {error}"))
}

/// The filesystem that the host sees.
struct Host {
    shared: Arc<Shared>,
    bytes: u64,
    queue: usize,
}

impl Host {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_root = ino == INodeNo::ROOT;
        FileAttr {
            ino,
            size: if is_root { 0 } else { self.bytes },
            blocks: self.bytes / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Host {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Without it a loop device has one request at a time.
        let lacking = |_| std::io::Error::other("no asynchronous direct I/O");
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(lacking)?;
        let refused = || std::io::Error::other("a limit was refused");
        config.set_max_write(REQUEST_BYTES).map_err(|_| refused())?;
        // What the host has under way is what the drive may choose from.
        let queue = u16::try_from(self.queue).unwrap_or(u16::MAX);
        config.set_max_background(queue).map_err(|_| refused())?;
        config.set_congestion_threshold(queue).map_err(|_| refused()).map(drop)
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some(FILE) => reply.entry(&TTL, &self.attr(INODE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let count = u64::from(size).min(self.bytes.saturating_sub(offset)) as usize;
        self.shared.submit(Direction::Read, offset, count, Reply::Read(reply, offset, count));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.shared.medium.write(data, offset) {
            Ok(()) => {
                let answer = Reply::Write(reply, data.len() as u32);
                self.shared.submit(Direction::Write, offset, data.len(), answer);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}
