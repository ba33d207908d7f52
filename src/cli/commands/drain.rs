//! `coalescefs drain`: waits until what was written so far is on disk, while the mount goes on.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::backing;
use crate::cli::args::DrainArgs;
use crate::cli::drained::{Fate, not_stored};
use crate::cli::exit::{CliError, worst_of};
use crate::cli::print;
use crate::control::client::Client;
use crate::mount::mountinfo::{Device, Mount, MountTable};

/// Drains a file, the mount at or around a directory, or all mounts. `Err(NotStored)` names the
/// files that could not be stored.
pub fn run(args: &DrainArgs) -> Result<(), CliError> {
    let Some(path) = &args.path else {
        return drain_all(table()?.ours().cloned().collect());
    };
    let failed = |error: io::Error| CliError::Failed(format!("{}: {error}", path.display()));
    let stat = path.metadata().map_err(failed)?;
    let device = Device::from_st_dev(stat.dev());
    let mount = table()?.ours().find(|mount| mount.device == device).cloned();
    let mount = mount.ok_or_else(|| {
        let path = path.display();
        CliError::Failed(format!(
            "{path} is not on a coalescefs mount: 'coalescefs status' lists them"
        ))
    })?;
    if !stat.is_file() {
        return drain(mount, None);
    }
    // What the kernel holds of it is handed over first.
    let file = File::open(path).map_err(failed)?;
    backing::settle_range(file.as_fd(), 0, 0).map_err(failed)?;
    drain(mount, Some(stat.ino()))
}

fn table() -> Result<MountTable, CliError> {
    MountTable::read().map_err(|error| CliError::Failed(format!("/proc/self/mountinfo: {error}")))
}

/// At the same time: one that hangs, or cannot be asked, keeps none of the others waiting.
fn drain_all(mounts: Vec<Mount>) -> Result<(), CliError> {
    if mounts.is_empty() {
        return print("no coalescefs mounts\n");
    }
    std::thread::scope(|scope| {
        let each: Vec<_> =
            mounts.into_iter().map(|mount| scope.spawn(|| drain(mount, None))).collect();
        worst_of(each.into_iter().map(|each| each.join().expect("a panic ends the process")))
    })
}

fn drain(mount: Mount, id: Option<u64>) -> Result<(), CliError> {
    let path: PathBuf = mount.mount_point.clone();
    let said = |error: crate::control::client::ClientError| CliError::Failed(error.to_string());
    // Asked before the mount is touched: one whose daemon is gone would let us wait for ever.
    let mut client = Client::connect_to(mount).map_err(said)?;
    if id.is_none() {
        hand_over(&path)?;
    }
    let files = client.drain(id).map_err(said)?;
    if files.is_empty() { Ok(()) } else { Err(not_stored(&path, &files, Fate::Waiting)) }
}

/// syncfs(2) does not reach the daemon, but has the kernel write its pages out to it.
fn hand_over(mountpoint: &Path) -> Result<(), CliError> {
    let handed = File::open(mountpoint).and_then(|dir| backing::sync_filesystem(dir.as_fd()));
    handed.map_err(|error| CliError::Failed(format!("{}: {error}", mountpoint.display())))
}
