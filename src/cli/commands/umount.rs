//! `coalescefs umount`: returns when everything is on disk and the daemon is gone.

use std::path::Path;

use crate::cli::args::UmountArgs;
use crate::cli::drained::{self, End};
use crate::cli::exit::CliError;
use crate::cli::holders;
use crate::cli::print;
use crate::control::client::{Client, ClientError, find_mount};
use crate::mount::dead;

/// Drains and unmounts. A mount in use stays, with everything written so far on disk.
pub fn run(args: &UmountArgs) -> Result<(), CliError> {
    let mut client = match Client::connect(&args.mountpoint) {
        Err(ClientError::Dead(mountpoint)) if dead::is_dead(&mountpoint) => {
            return Err(clear(&mountpoint));
        }
        other => other.map_err(|error| CliError::Failed(error.to_string()))?,
    };
    match drained::unmount(&mut client, args.discard)? {
        End::Lost(list) => Err(list),
        End::Gone if args.json => print(&format!("{:#}\n", serde_json::json!(client.status()))),
        End::Gone => Ok(()),
        End::Busy => Err(CliError::Failed(busy(&client))),
    }
}

/// Takes a dead mount away; what was lost with its daemon must not go unnoticed.
fn clear(mountpoint: &Path) -> CliError {
    let cleared = find_mount(mountpoint)
        .map_err(|error| error.to_string())
        .and_then(|mount| dead::clear(&mount).map_err(|error| error.to_string()));
    let mountpoint = mountpoint.display();
    match cleared {
        Ok(()) => CliError::NotStored(format!(
            "{mountpoint}: its daemon was gone, the mount is cleared now; data that was \
             acknowledged and not yet stored is lost"
        )),
        Err(error) => CliError::Failed(format!(
            "{mountpoint}: its daemon is gone, and the mount cannot be cleared: {error}"
        )),
    }
}

/// One line that names who uses the mount.
fn busy(client: &Client) -> String {
    let mountpoint = client.mount().mount_point.display();
    match users(client) {
        Some(holders) => format!("{mountpoint} is in use by {holders}: end them and try again"),
        None => format!("{mountpoint} is in use: 'fuser -vm {mountpoint}' as root says by whom"),
    }
}

/// Names some of the processes that use the mount, when any can be seen.
pub(super) fn users(client: &Client) -> Option<String> {
    let daemon = [client.status().keeper_pid, client.status().worker_pid];
    holders::describe(client.mount(), &daemon)
}
