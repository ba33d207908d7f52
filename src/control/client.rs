//! The command line's end of the control socket.
//!
//! Finds the daemon of a mount from the mount table, never by looking at the mount itself: it may
//! hang. Believes only servers that run as root, as the user who made the mount, or as the caller:
//! anybody may bind an abstract address.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::address;
use super::peer::{self, Peer};
use super::protocol::{Answer, FileStatus, GivenUp, Request, Status};
use crate::mount::mountinfo::{Mount, MountTable};
use crate::mount::resolve_name;

/// A daemon answers status from memory; a worker that died is back within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Progress comes several times a second; a worker that is silent for this long is stuck.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a daemon is looked for again after the connection broke in the middle.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing is mounted there.
    #[error(
        "{} is not a mountpoint: {}", path.display(), match around {
            Some(mount) => format!("it lies in the coalescefs mount at {}", mount.display()),
            None => "'coalescefs status' lists the mounts".to_owned(),
        }
    )]
    NotMounted {
        /// What was said to be one.
        path: PathBuf,
        /// The mount of ours that it lies in.
        around: Option<PathBuf>,
    },
    /// Something else is mounted there.
    #[error("{} is not a coalescefs mount but one of type {fs_type}", path.display())]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// What.
        fs_type: String,
    },
    /// The mount is there and nobody serves it.
    #[error(
        "the daemon of {path} is gone, with what it had not stored yet: 'coalescefs umount {path}' \
         clears the mount, 'coalescefs mount' replaces it",
        path = .0.display()
    )]
    Dead(PathBuf),
    /// Somebody listens who has no right to.
    #[error(
        "{} cannot be asked: {peer} answers for it, who is neither root nor its owner, and is not \
         believed", path.display()
    )]
    NotTrusted {
        /// Which mount.
        path: PathBuf,
        /// Who answers.
        peer: Peer,
    },
    /// The daemon does not answer this user, or not this request.
    #[error("{}: {message}", path.display())]
    Refused {
        /// Which mount.
        path: PathBuf,
        /// The daemon's words.
        message: String,
    },
    /// The connection broke, or the answer makes no sense.
    #[error("cannot talk to the daemon of {}: {error}", path.display())]
    Broken {
        /// Which mount.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The path cannot be resolved.
    #[error("{}: {error}", path.display())]
    Path {
        /// As given.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// How [`Client::umount`] ended.
#[derive(Debug)]
pub enum UmountEnd {
    /// Everything is on disk, the mount is gone.
    Done,
    /// In use; everything so far is in the backing files.
    Busy,
    /// These could not be stored; the mount stays.
    NotStored(Vec<FileStatus>),
    /// These could not be stored, and the mount is gone.
    Lost(Vec<FileStatus>),
    /// Anything else, in the daemon's words.
    Failed(String),
}

/// A connection to the daemon of one mount.
#[derive(Debug)]
pub struct Client {
    mount: Mount,
    stream: BufReader<UnixStream>,
    status: Status,
}

/// The top-most mount at `path`, which must be one of ours. A final symbolic link is followed only
/// when the link itself is no mountpoint.
pub fn find_mount(path: &Path) -> Result<Mount, ClientError> {
    let cannot = |error| ClientError::Path { path: path.to_owned(), error };
    let table = MountTable::read().map_err(cannot)?;
    let name = resolve_name(path).map_err(cannot)?;
    let mount = match table.top_at(&name) {
        Some(mount) => mount,
        None => {
            let target = name.canonicalize().map_err(cannot)?;
            let around = table.holding(&target).filter(|mount| mount.is_ours());
            let around = around.map(|mount| mount.mount_point.clone());
            table.top_at(&target).ok_or(ClientError::NotMounted { path: name, around })?
        }
    };
    if !mount.is_ours() {
        let fs_type = crate::mount::mountinfo::type_name(&mount.fs_type);
        return Err(ClientError::NotOurs { path: mount.mount_point.clone(), fs_type });
    }
    Ok(mount.clone())
}

impl Client {
    /// Connects to the daemon of the mount at `path`. May wait some seconds for it to answer.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        Client::connect_to(find_mount(path)?)
    }

    /// As [`Client::connect`], for a mount found in the table. A worker that dies in the middle of
    /// its answer is followed by another within milliseconds, which is asked in its place.
    pub fn connect_to(mount: Mount) -> Result<Client, ClientError> {
        let give_up = Instant::now() + RECONNECT_TIMEOUT;
        loop {
            match Client::try_connect_to(mount.clone()) {
                Err(ClientError::Broken { error, .. })
                    if broke_off(&error) && Instant::now() < give_up =>
                {
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                result => return result,
            }
        }
    }

    fn try_connect_to(mount: Mount) -> Result<Client, ClientError> {
        let path = || mount.mount_point.clone();
        let mut why_not = ClientError::Dead(path());
        for attempt in 0..address::ATTEMPTS {
            let found = peer::connect(&address::of_mount(mount.device, attempt))
                .and_then(|stream| Ok((peer::of(&stream)?, stream)));
            let (peer, stream) = match found {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    // Maybe a squatter's: the next one may be the daemon's. One who is known by
                    // name is the better reason.
                    if !matches!(why_not, ClientError::NotTrusted { .. }) {
                        why_not = ClientError::Broken { path: path(), error };
                    }
                    continue;
                }
            };
            if !is_trusted(&mount, peer) {
                why_not = ClientError::NotTrusted { path: path(), peer };
                continue;
            }
            let mut stream = BufReader::new(stream);
            match first_status(&mut stream, &path()) {
                // Else a daemon whose mount is gone and whose device number was given again.
                Ok(status) if status.config.backing.as_os_str() == mount.source => {
                    return Ok(Client { mount, stream, status: *status });
                }
                Ok(_) => {}
                Err(error) => why_not = error,
            }
        }
        Err(why_not)
    }

    /// The mount this client talks about.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// State of the mount when the connection was made; after [`Client::umount`] its last state.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The files that hold data or have an error.
    pub fn files(&mut self) -> Result<Vec<FileStatus>, ClientError> {
        loop {
            match ask(&mut self.stream, &Request::Files) {
                Ok(Answer::Files { files }) => return Ok(files),
                Err(error) if broke_off(&error) => {
                    let path = self.mount.mount_point.clone();
                    self.reconnect(ClientError::Broken { path, error })?;
                }
                other => return Err(unexpected(other, &self.mount.mount_point)),
            }
        }
    }

    /// Drains and unmounts, with `discard` whatever cannot be stored; waits until that has ended in
    /// one way or the other, and calls
    /// `progress` with the bytes left several times a second. When the worker dies on the way, its
    /// successor is asked again.
    pub fn umount(
        &mut self,
        discard: bool,
        mut progress: impl FnMut(u64),
    ) -> Result<UmountEnd, ClientError> {
        loop {
            match self.try_umount(discard, &mut progress) {
                Err(ClientError::Broken { error, path }) => {
                    log::info!("{}: {error}; asking again", path.display());
                    self.reconnect(ClientError::Broken { error, path })?;
                }
                result => return result,
            }
        }
    }

    /// Has `program` take the place of keeper and worker; waits until it answers. `Err(Refused)` has
    /// the reason why it cannot; nothing has changed then.
    pub fn upgrade(&mut self, program: &Path) -> Result<(), ClientError> {
        let before = self.status.keeper_pid;
        let request = Request::Upgrade { program: program.to_owned() };
        self.stream
            .get_ref()
            .set_read_timeout(Some(PROGRESS_TIMEOUT))
            .map_err(|error| ClientError::Broken { path: self.mount.mount_point.clone(), error })?;
        match ask(&mut self.stream, &request) {
            Ok(Answer::Upgrading) => {}
            other => return Err(unexpected(other, &self.mount.mount_point)),
        }
        let give_up = Instant::now() + PROGRESS_TIMEOUT;
        while self.status.keeper_pid == before {
            let path = self.mount.mount_point.clone();
            let error = io::ErrorKind::TimedOut.into();
            let silent = ClientError::Broken { path, error };
            if Instant::now() > give_up {
                return Err(silent);
            }
            std::thread::sleep(RECONNECT_PAUSE);
            self.reconnect(silent)?;
        }
        Ok(())
    }

    /// Gives up what of a file, by its inode number, is not stored. `Err(Refused)` has the reason why
    /// not. Not asked twice: the second answer would be that there is nothing to give up.
    pub fn discard(&mut self, id: u64, force: bool) -> Result<GivenUp, ClientError> {
        let path = self.mount.mount_point.clone();
        self.stream
            .get_ref()
            .set_read_timeout(Some(PROGRESS_TIMEOUT))
            .map_err(|error| ClientError::Broken { path: path.clone(), error })?;
        match ask(&mut self.stream, &Request::Discard { id, force }) {
            Ok(Answer::Discarded(given_up)) => Ok(given_up),
            other => Err(unexpected(other, &path)),
        }
    }

    /// Has one file, by its inode number, or everything stored and synced that was acknowledged until
    /// now; waits for it, for as long as the disk hangs. Returns the files that could not be.
    pub fn drain(&mut self, id: Option<u64>) -> Result<Vec<FileStatus>, ClientError> {
        loop {
            match self.try_drain(id) {
                Err(ClientError::Broken { error, path }) => {
                    self.reconnect(ClientError::Broken { error, path })?;
                }
                result => return result,
            }
        }
    }

    fn try_drain(&mut self, id: Option<u64>) -> Result<Vec<FileStatus>, ClientError> {
        let path = self.mount.mount_point.clone();
        let broken = |error| ClientError::Broken { path: path.clone(), error };
        self.stream.get_ref().set_read_timeout(Some(PROGRESS_TIMEOUT)).map_err(broken)?;
        let mut answer = ask(&mut self.stream, &Request::Drain { id });
        loop {
            match answer {
                Ok(Answer::Progress { .. }) => {}
                Ok(Answer::Done) => return Ok(Vec::new()),
                Ok(Answer::NotStored { files, .. }) => return Ok(files),
                other => return Err(unexpected(other, &path)),
            }
            answer = read_answer(&mut self.stream);
        }
    }

    fn try_umount(
        &mut self,
        discard: bool,
        progress: &mut impl FnMut(u64),
    ) -> Result<UmountEnd, ClientError> {
        let path = self.mount.mount_point.clone();
        let broken = |error| ClientError::Broken { path: path.clone(), error };
        self.stream.get_ref().set_read_timeout(Some(PROGRESS_TIMEOUT)).map_err(broken)?;
        let mut answer = ask(&mut self.stream, &Request::Umount { discard });
        loop {
            match answer {
                Ok(Answer::Progress { backlog_bytes }) => progress(backlog_bytes),
                Ok(Answer::Status(status)) => self.status = *status,
                Ok(Answer::Done) => return Ok(UmountEnd::Done),
                Ok(Answer::Busy) => return Ok(UmountEnd::Busy),
                Ok(Answer::NotStored { files, lost: false }) => {
                    return Ok(UmountEnd::NotStored(files));
                }
                Ok(Answer::NotStored { files, lost: true }) => return Ok(UmountEnd::Lost(files)),
                Ok(Answer::Failed { message }) => return Ok(UmountEnd::Failed(message)),
                other => return Err(unexpected(other, &path)),
            }
            answer = read_answer(&mut self.stream);
        }
    }

    /// Connects to the next worker of the same mount; gives up with `why` when the daemon is gone.
    fn reconnect(&mut self, why: ClientError) -> Result<(), ClientError> {
        let give_up = Instant::now() + RECONNECT_TIMEOUT;
        while Instant::now() < give_up && self.daemon_lives() {
            match Client::connect_to(self.mount.clone()) {
                Ok(client) if client.status.mounted_at_ms == self.status.mounted_at_ms => {
                    *self = client;
                    return Ok(());
                }
                _ => std::thread::sleep(RECONNECT_PAUSE),
            }
        }
        Err(why)
    }

    /// The mount is there, or it is gone and its last bytes are being stored.
    fn daemon_lives(&self) -> bool {
        let mounted = MountTable::read()
            .is_ok_and(|table| table.has(self.mount.device, &self.mount.mount_point));
        // A worker takes the place of a dead keeper.
        let processes = [self.status.keeper_pid, self.status.worker_pid];
        mounted || processes.iter().any(|pid| Path::new(&format!("/proc/{pid}/fd")).exists())
    }
}

/// The other end went away in the middle, or does not get round to us at the moment.
fn broke_off(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, ResourceBusy, UnexpectedEof,
    };
    let kind = error.kind();
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | ResourceBusy | UnexpectedEof)
}

fn is_trusted(mount: &Mount, peer: Peer) -> bool {
    peer.uid == 0 || Some(peer.uid) == mount.user_id() || peer.uid == peer::own_uid()
}

fn first_status(
    stream: &mut BufReader<UnixStream>,
    path: &Path,
) -> Result<Box<Status>, ClientError> {
    let broken = |error| ClientError::Broken { path: path.to_owned(), error };
    stream.get_ref().set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(broken)?;
    stream.get_ref().set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(broken)?;
    match ask(stream, &Request::Status) {
        Ok(Answer::Status(status)) => Ok(status),
        other => Err(unexpected(other, path)),
    }
}

fn unexpected(answer: io::Result<Answer>, path: &Path) -> ClientError {
    let path = path.to_owned();
    match answer {
        Ok(Answer::Failed { message }) => ClientError::Refused { path, message },
        Ok(_) => ClientError::Refused { path, message: "answer not understood".to_owned() },
        Err(error) => ClientError::Broken { path, error },
    }
}

fn ask(stream: &mut BufReader<UnixStream>, request: &Request) -> io::Result<Answer> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    match stream.get_mut().write_all(&line) {
        // A server that refuses us has said so and closed: what it said is there to be read.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    read_answer(stream)
}

fn read_answer(stream: &mut BufReader<UnixStream>) -> io::Result<Answer> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}
