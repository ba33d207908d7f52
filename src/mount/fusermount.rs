//! `fusermount3`, the setuid helper through which ordinary users mount and unmount.
//!
//! Its protocol: an environment variable names one end of a socket pair; over it comes one byte
//! with the mounted `/dev/fuse` descriptor attached (SCM_RIGHTS). See fusermount3(1) and libfuse's
//! `fuse_kern_mount`.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{MountError, check};
use crate::arena::UnmountMode;
use crate::config::MountConfig;

const PROGRAM: &str = "fusermount3";
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Where the helper is, looked for in PATH.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|file| file.is_file())
}

/// Escapes the value of an option: the helper splits at commas.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// Mounts over `config.mountpoint` with `options`; returns the mounted `/dev/fuse`. Waits for the
/// helper. `Err` has the helper's own words.
pub fn mount(config: &MountConfig, options: &[String]) -> Result<OwnedFd, MountError> {
    let failed =
        |message: String| MountError::Fusermount { mountpoint: config.mountpoint.clone(), message };
    let program = find().ok_or(MountError::NoFusermount)?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
    let socket = theirs.as_raw_fd();
    let mut command = Command::new(program);
    command
        .arg("-o")
        .arg(options.join(","))
        .arg("--")
        .arg(&config.mountpoint)
        .env(SOCKET_VARIABLE, socket.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: only fcntl(2) between fork and exec.
    unsafe { command.pre_exec(move || leave_open(socket)) };
    let mut helper = command.spawn().map_err(|error| failed(error.to_string()))?;
    drop(theirs);
    let descriptor = receive_descriptor(&ours);
    let mut words = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        // Words that cannot be read are missing in the message, no more.
        let _ = stderr.read_to_string(&mut words);
    }
    let _ = helper.wait();
    descriptor.map_err(|error| match last_line(&words) {
        "" => failed(format!("fusermount3: {error}")),
        line => failed(line.to_owned()),
    })
}

/// Replaces this process with the helper, unmounting `mountpoint` without a word. Returns only when
/// it cannot be started.
pub fn exec_unmount(mountpoint: &std::path::Path, mode: UnmountMode) -> io::Error {
    let Some(program) = find() else { return io::Error::from_raw_os_error(libc::EPERM) };
    let mut command = Command::new(program);
    command.arg("-u");
    if mode == UnmountMode::Lazy {
        command.arg("-z");
    }
    command
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .exec()
}

/// The helper's final complaint, without its own name and path in front.
fn last_line(words: &str) -> &str {
    let line = words.trim_end().lines().last().unwrap_or_default();
    line.split_once("fusermount3: ").map_or(line, |(_, complaint)| complaint)
}

fn leave_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: clears the close-on-exec flag of a valid descriptor.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// Waits for one descriptor. `Err(UnexpectedEof)` when the sender went away without one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = 0u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Room for one descriptor, aligned as a control message must be.
    let mut control = [0u64; 4];
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let received = loop {
        // SAFETY: everything the header points to lives until the end of the call.
        let result =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
        match result {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            received => break received,
        }
    };
    // SAFETY: the kernel filled the header; CMSG_FIRSTHDR checks the length.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    if received == 0 || header.is_null() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: not null, so it points to a whole header inside `control`.
    let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
    if (level, kind) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: SCM_RIGHTS carries descriptors, which are ours now.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_backslashes_stay_part_of_the_value() {
        assert_eq!(escape(r"/a,b\c"), r"/a\,b\\c");
    }

    #[test]
    fn only_the_complaint_itself_is_shown() {
        let words = "warning\n/usr/bin/fusermount3: user has no write access\n";
        assert_eq!(last_line(words), "user has no write access");
        assert_eq!(last_line(""), "");
        assert_eq!(last_line("fusermount: x\n"), "fusermount: x");
    }

    /// Goal: a helper that ends without a descriptor is an error and not a wait for ever.
    #[test]
    fn no_descriptor_is_an_end_of_file() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = receive_descriptor(&ours).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
