//! A filesystem whose writes and syncs fail or hang to order: what a backing directory may be.
//!
//! Flat, over a plain directory. A process of its own, which is this test program again, and which
//! ends, unmounted, when the test does, whatever becomes of it: nobody then waits for it in the
//! kernel. Orders are lines on its standard input, answered by a line.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL,
    TimeOrNow, WriteFlags,
};

use crate::support::Mount;

/// Holds the store and where to mount it, when this program is to be the filesystem.
const VARIABLE: &str = "COALESCEFS_TEST_FAULTY";
/// Its type in the mount table.
const OWN_KIND: &str = "fuse.faulty";
const CLUSTER_KIND: &str = "fuse.mfs";
/// The kernel asks each time.
const TTL: Duration = Duration::ZERO;

/// The process, for a test.
pub struct Faulty {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    store: PathBuf,
    path: PathBuf,
}

impl Faulty {
    /// Mounts it; what is written comes to lie in a directory beside.
    pub fn at(path: &Path) -> Faulty {
        let store = path.with_file_name("store");
        std::fs::create_dir(&store).unwrap();
        Faulty::start(&store, path, ["faulty", OWN_KIND])
    }

    /// The same over what is in `store`, disguised as a client of MooseFS: another one of the same
    /// source may take its place.
    pub fn of_cluster(source: &str, store: &Path, path: &Path) -> Faulty {
        Faulty::start(store, path, [source, CLUSTER_KIND])
    }

    fn start(store: &Path, path: &Path, [source, kind]: [&str; 2]) -> Faulty {
        let places = [store, path, Path::new(source), Path::new(kind)];
        let places = std::env::join_paths(places).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(VARIABLE, places)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut faulty =
            Faulty { child, orders, answers, store: store.to_owned(), path: path.to_owned() };
        faulty.order("work");
        faulty
    }

    /// It dies, and what is mounted stays dead.
    pub fn die(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What is on disk.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// `work`; `hang`: writes; `hang NAME`: those of a file; `freeze NAME`: also looks at it; `freeze`:
    /// all but writes that go on; `write ERRNO`: from now on; `write ERRNO N`: the Nth from now only;
    /// `fsync ERRNO`: the next one; `names ERRNO`: what is about names, attributes and contents;
    /// `lose ERRNO`: the next change of names is made and then fails.
    pub fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{order}");
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It unmounts, and with it all who wait for it are let go.
        let _ = self.child.wait();
        detach(&self.path);
    }
}

/// A mount over such a filesystem. Dropped in this order: nobody must be left waiting for the disk.
pub struct Setup {
    pub mount: Mount,
    pub disk: Faulty,
}

impl Setup {
    /// With what a disk of this machine is like: programs hear of its errors at once.
    pub fn new(options: &[&str]) -> Setup {
        Setup::patient(&[options, &["--patience", "0s"]].concat())
    }

    /// It stands for a disk, or for an engine that nobody else has: close() does not wait.
    pub fn patient(options: &[&str]) -> Setup {
        Setup::with(options, "exclusive")
    }

    /// An engine that other nodes have, too.
    pub fn shared(options: &[&str]) -> Setup {
        Setup::with(options, "close-to-open")
    }

    fn with(options: &[&str], consistency: &str) -> Setup {
        let mut disk = None;
        let options = [options, &["--consistency", consistency]].concat();
        let mount = Mount::beside_made(|path| disk = Some(Faulty::at(path)), &options);
        Setup { mount, disk: disk.unwrap() }
    }

    pub fn open(&self, name: &str) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).open(self.mount.path().join(name)).unwrap()
    }

    pub fn stored(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.disk.store().join(name)).unwrap()
    }
}

#[derive(Default)]
struct Faults {
    write: Option<i32>,
    /// Requests to let through first; that one alone fails then.
    write_after: Option<u64>,
    fsync: Option<i32>,
    names: Option<i32>,
    lose: Option<i32>,
    hangs: bool,
    /// The file that hangs, if it is one only.
    hung: Option<String>,
    /// Looks hang, too.
    is_frozen: bool,
}

impl Faults {
    fn hang(&self, name: &OsStr) -> bool {
        self.hangs && self.hung.as_ref().is_none_or(|hung| name == hung.as_str())
    }
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
}

impl Shared {
    fn obey(&self, order: &str) {
        let words: Vec<&str> = order.split(' ').collect();
        let number = |at: usize| words.get(at).map(|word| word.parse::<i32>().unwrap());
        let mut faults = self.faults.lock().unwrap();
        match words[0] {
            "work" => *faults = Faults::default(),
            "hang" | "freeze" => {
                faults.hangs = true;
                faults.hung = words.get(1).map(|name| name.to_string());
                faults.is_frozen = words[0] == "freeze";
            }
            "write" => {
                (faults.write, faults.write_after) = (number(1), number(2).map(|n| n as u64))
            }
            "fsync" => faults.fsync = number(1),
            "names" => faults.names = number(1),
            "lose" => faults.lose = number(1),
            other => panic!("no such order: {other}"),
        }
        self.changed.notify_all();
    }

    fn look(&self, name: &OsStr) -> Result<(), Errno> {
        let faults = self.faults.lock().unwrap();
        let hangs = |faults: &mut Faults| faults.is_frozen && faults.hang(name);
        let faults = self.changed.wait_while(faults, hangs).unwrap();
        faults.names.map_or(Ok(()), |code| Err(Errno::from_i32(code)))
    }

    /// A name is changed by `act`.
    fn change<T>(&self, name: &OsStr, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.look(name)?;
        let done = act()?;
        let lost = self.faults.lock().unwrap().lose.take();
        lost.map_or(Ok(done), |code| Err(Errno::from_i32(code)))
    }

    fn write(&self, name: &OsStr) -> Result<(), Errno> {
        let mut faults = self.faults.lock().unwrap();
        while faults.hang(name) {
            faults = self.changed.wait(faults).unwrap();
        }
        match (faults.write, &mut faults.write_after) {
            (Some(_), Some(left)) if *left > 0 => {
                *left -= 1;
                Ok(())
            }
            (Some(code), Some(_)) => {
                faults.write = None;
                Err(Errno::from_i32(code))
            }
            (Some(code), None) => Err(Errno::from_i32(code)),
            (None, _) => Ok(()),
        }
    }
}

/// What this process is to serve, when it is started for that.
pub fn orders() -> Option<OsString> {
    std::env::var_os(VARIABLE)
}

/// Serves until standard input ends.
pub fn serve(places: &OsStr) {
    let places: Vec<PathBuf> = std::env::split_paths(places).collect();
    let [store, path, source, kind] = &places[..] else { panic!("places, source and type") };
    let shared = Arc::new(Shared::default());
    let passing = Passing {
        store: store.clone(),
        shared: shared.clone(),
        names: Mutex::default(),
        files: Mutex::default(),
        next_handle: AtomicU64::new(1),
    };
    // Who ends the tests ends their whole group; this process has to unmount first.
    // SAFETY: no handler.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    let mut config = Config::default();
    // Of which many hang.
    config.n_threads = Some(64);
    let device = mount(source, path, kind);
    let session = Session::from_fd(passing, device, SessionACL::All, config);
    std::thread::spawn(move || session.unwrap().run());
    for order in std::io::stdin().lines() {
        shared.obey(&order.unwrap());
        println!("done");
    }
    detach(path);
    // SAFETY: the end of this process, whatever its threads wait for.
    unsafe { libc::_exit(0) }
}

/// Does nothing where nothing is mounted.
fn detach(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a path.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
}

fn mount(source: &Path, path: &Path, kind: &Path) -> OwnedFd {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let [source, path, kind] = [source, path, kind].map(|word| word.to_str().unwrap());
    let words = [source, path, kind, &options];
    let [source, target, kind, data] = words.map(|word| CString::new(word).unwrap());
    // SAFETY: four strings that live as long as the call.
    let result = unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    device.into()
}

struct Passing {
    store: PathBuf,
    shared: Arc<Shared>,
    names: Mutex<HashMap<u64, OsString>>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    next_handle: AtomicU64,
}

impl Passing {
    fn path(&self, ino: INodeNo) -> Result<PathBuf, Errno> {
        if ino == INodeNo::ROOT {
            return Ok(self.store.clone());
        }
        let names = self.names.lock().unwrap();
        Ok(self.store.join(names.get(&ino.0).ok_or(Errno::ESTALE)?))
    }

    fn name(&self, ino: INodeNo) -> OsString {
        self.names.lock().unwrap().get(&ino.0).cloned().unwrap_or_default()
    }

    fn attr(&self, path: &Path) -> Result<FileAttr, Errno> {
        let found = std::fs::metadata(path)?;
        let time = |secs: i64, nanos: i64| UNIX_EPOCH + Duration::new(secs as u64, nanos as u32);
        let is_root = path == self.store;
        Ok(FileAttr {
            ino: if is_root { INodeNo::ROOT } else { INodeNo(found.ino()) },
            size: found.size(),
            blocks: found.blocks(),
            atime: time(found.atime(), found.atime_nsec()),
            mtime: time(found.mtime(), found.mtime_nsec()),
            ctime: time(found.ctime(), found.ctime_nsec()),
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: (found.mode() & 0o7777) as u16,
            nlink: found.nlink() as u32,
            uid: found.uid(),
            gid: found.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn find(&self, name: &OsStr) -> Result<FileAttr, Errno> {
        let attr = self.attr(&self.store.join(name))?;
        self.names.lock().unwrap().insert(attr.ino.0, name.to_owned());
        Ok(attr)
    }

    fn file(&self, handle: FileHandle) -> Arc<File> {
        self.files.lock().unwrap()[&handle.0].clone()
    }

    fn add(&self, file: File) -> FileHandle {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.files.lock().unwrap().insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn open_file(&self, path: &Path, create: bool) -> Result<FileHandle, Errno> {
        let mut options = OpenOptions::new();
        Ok(self.add(options.read(true).write(true).create(create).open(path)?))
    }

    fn change(
        &self,
        ino: INodeNo,
        size: Option<u64>,
        mtime: Option<TimeOrNow>,
    ) -> Result<FileAttr, Errno> {
        let path = self.path(ino)?;
        if let Some(size) = size {
            OpenOptions::new().write(true).open(&path)?.set_len(size)?;
        }
        let time = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        if let Some(time) = time {
            File::open(&path)?.set_modified(time)?;
        }
        self.attr(&path)
    }
}

impl Filesystem for Passing {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.shared.look(name).and_then(|()| self.find(name)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let looked = self.shared.look(&self.name(ino));
        match looked.and_then(|()| self.path(ino)).and_then(|path| self.attr(&path)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let looked = self.shared.look(&self.name(ino));
        match looked.and_then(|()| self.change(ino, size, mtime)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.shared.change(name, || Ok(std::fs::remove_file(self.store.join(name))?)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || Ok(std::fs::rename(self.store.join(name), self.store.join(newname))?);
        match self.shared.change(name, rename) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let make = || Ok((self.open_file(&self.store.join(name), true)?, self.find(name)?));
        match self.shared.change(name, make) {
            Ok((handle, attr)) => {
                reply.created(&TTL, &attr, Generation(0), handle, FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let looked = self.shared.look(&self.name(ino));
        match looked.and_then(|()| self.path(ino)).and_then(|path| self.open_file(&path, false)) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        let looked = self.shared.look(&self.name(ino));
        match looked.and_then(|()| Ok(self.file(fh).read_at(&mut bytes, offset)?)) {
            Ok(count) => reply.data(&bytes[..count]),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || {
            self.shared.write(&self.name(ino))?;
            Ok(self.file(fh).write_all_at(data, offset)?)
        };
        match write() {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.shared.look(OsStr::new("")) {
            Ok(()) => reply.statfs(0, 0, 0, 0, 0, 512, 255, 0),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().unwrap().remove(&fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.shared.faults.lock().unwrap().fsync.take() {
            Some(code) => reply.error(Errno::from_i32(code)),
            None => reply.ok(),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if let Err(error) = self.shared.look(OsStr::new("")) {
            return reply.error(error);
        }
        let mut names: Vec<OsString> = std::fs::read_dir(&self.store)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        for (number, name) in (1..).zip(&names).skip(offset as usize) {
            let Ok(attr) = self.find(name) else { continue };
            if reply.add(attr.ino, number, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
