//! Mounting: opens `/dev/fuse`, ties it to a mountpoint, and gives the descriptor back.
//!
//! mount(2) is tried whenever CAP_SYS_ADMIN is there (root, or inside a user namespace), else the
//! setuid helper `fusermount3`. Called once, by the keeper, before anything answers requests; the
//! kernel's INIT request waits in the descriptor until a worker reads it.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::generic::{self, Flags};
use super::{FS_TYPE, MountError, c_path, check, fusermount, open_directory, privilege};
use crate::config::MountConfig;

const DEVICE: &str = "/dev/fuse";

/// How a mount is made, and so how it is unmounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// mount(2) and umount2(2).
    Syscall,
    /// The setuid helper.
    Fusermount,
}

/// A new mount that nobody serves yet.
#[derive(Debug)]
pub struct Attached {
    /// `/dev/fuse`.
    pub fuse_fd: OwnedFd,
    /// How it was made.
    pub method: Method,
}

/// Finds out how this process could mount, without mounting: opens `/dev/fuse` once to see that it
/// may. `Err` says what is missing.
pub fn plan_method() -> Result<Method, MountError> {
    check_device()?;
    if privilege::has_sys_admin() {
        return Ok(Method::Syscall);
    }
    fusermount::find().map(|_| Method::Fusermount).ok_or(MountError::NoFusermount)
}

/// Whether this user may open `/dev/fuse`. The helper opens it as the user, too.
pub fn check_device() -> Result<(), MountError> {
    open_device().map(drop)
}

/// Mounts over `config.mountpoint`; `backing` is the backing directory, whose mount flags the new
/// mount takes over, beside those of `config`. May wait for the helper, never for the mount itself.
pub fn attach(config: &MountConfig, backing: BorrowedFd<'_>) -> Result<Attached, MountError> {
    let method = plan_method()?;
    let flags = generic::of_backing(backing) | config.mount_flags;
    if method == Method::Syscall {
        match attach_by_syscall(config, backing, flags) {
            Err(MountError::Refused { error, .. })
                if error.raw_os_error() == Some(libc::EPERM) && fusermount::find().is_some() => {}
            other => return other,
        }
    }
    let fuse_fd = fusermount::mount(config, &fusermount_options(config, flags))?;
    Ok(Attached { fuse_fd, method: Method::Fusermount })
}

fn open_device() -> Result<File, MountError> {
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE);
    device.map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => MountError::DeviceNotPermitted,
        _ => MountError::NoDevice,
    })
}

fn attach_by_syscall(
    config: &MountConfig,
    backing: BorrowedFd<'_>,
    flags: Flags,
) -> Result<Attached, MountError> {
    let device = open_device()?;
    let mounted = mount_device(config, &device, backing, flags);
    mounted
        .map_err(|error| MountError::Refused { mountpoint: config.mountpoint.clone(), error })?;
    Ok(Attached { fuse_fd: device.into(), method: Method::Syscall })
}

fn mount_device(
    config: &MountConfig,
    device: &File,
    backing: BorrowedFd<'_>,
    flags: Flags,
) -> io::Result<()> {
    // SAFETY: no arguments, cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if config.allow_other {
        options.push_str(",allow_other");
    }
    let source = c_path(&config.backing)?;
    // By descriptor, so that nobody who owns a directory above turns the path to another place.
    let mountpoint = match config.mountpoint == config.backing {
        true => backing.try_clone_to_owned()?,
        false => open_directory(&config.mountpoint, libc::O_PATH)?,
    };
    let target = c_path(Path::new(&format!("/proc/self/fd/{}", mountpoint.as_raw_fd())))?;
    let fs_type = CString::new(FS_TYPE).expect("a constant without zero bytes");
    let options = CString::new(options).expect("numbers and constants without zero bytes");
    // SAFETY: four valid C strings that outlive the call.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            fs_type.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    })?;
    Ok(())
}

/// The helper adds descriptor, owner, nosuid and nodev itself.
fn fusermount_options(config: &MountConfig, flags: Flags) -> Vec<String> {
    let mut options = vec![
        "default_permissions".to_owned(),
        format!("subtype={}", super::SUBTYPE),
        format!("fsname={}", fusermount::escape(&config.backing.to_string_lossy())),
    ];
    if config.allow_other {
        options.push("allow_other".to_owned());
    }
    options.extend(generic::for_helper(flags));
    options
}
