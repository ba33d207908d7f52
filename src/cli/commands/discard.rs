//! `coalescefs discard`: gives up what of files cannot be stored.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::args::DiscardArgs;
use crate::cli::exit::{CliError, complain};
use crate::cli::{print, units};
use crate::control::client::{Client, ClientError};
use crate::control::errno;
use crate::control::protocol::describe_ranges;
use crate::mount::mountinfo::{Device, MountTable};

/// Says what is lost, a line for each file. `Err` when one of them stays as it is; the others are
/// given up all the same.
pub fn run(args: &DiscardArgs) -> Result<(), CliError> {
    let mut failed = Vec::new();
    for file in &args.files {
        match discard(file, args.force) {
            Ok(line) => print(&format!("{}\n", units::printable(&line)))?,
            Err(message) => failed.push(format!("{}: {message}", file.display())),
        }
    }
    let Some(last) = failed.pop() else { return Ok(()) };
    failed.iter().for_each(|line| complain(line));
    Err(CliError::Failed(last))
}

/// The file is known to the daemon by its inode number: its name may be of bytes that no message
/// can carry, or have changed.
fn discard(file: &Path, force: bool) -> Result<String, String> {
    let stat = file.metadata().map_err(|error| error.to_string())?;
    let device = Device::from_st_dev(stat.dev());
    let table = MountTable::read().map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let mount = table.ours().find(|mount| mount.device == device);
    let mount = mount.ok_or("is not on a coalescefs mount")?.clone();
    let said = |error: ClientError| match error {
        // What the daemon says is about the file.
        ClientError::Refused { message, .. } => message,
        other => other.to_string(),
    };
    let mut client = Client::connect_to(mount).map_err(said)?;
    let given_up = client.discard(stat.ino(), force).map_err(said)?;
    let mut line = format!(
        "{}: gave up {}{}: {}; the file has {} bytes now",
        file.display(),
        units::size(given_up.bytes),
        describe_ranges(&given_up.ranges, 0),
        errno::name(given_up.errno),
        given_up.size
    );
    if let Err(error) = cut(file, given_up.size) {
        line.push_str(&format!("; the mount goes on showing its former size: {error}"));
    }
    Ok(line)
}

/// The kernel believes no size but its own, so it has to be told by a truncation.
fn cut(file: &Path, size: u64) -> std::io::Result<()> {
    if file.metadata()?.len() == size {
        return Ok(());
    }
    OpenOptions::new().write(true).open(file)?.set_len(size)
}
