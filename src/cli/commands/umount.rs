//! `coalescefs umount`: returns when everything is on disk and the daemon is gone.

use crate::cli::args::UmountArgs;
use crate::cli::drained::{self, End};
use crate::cli::exit::CliError;
use crate::cli::holders;
use crate::cli::print;
use crate::control::client::Client;

/// Drains and unmounts. A mount in use stays, with everything written so far on disk.
pub fn run(args: &UmountArgs) -> Result<(), CliError> {
    let mut client =
        Client::connect(&args.mountpoint).map_err(|error| CliError::Failed(error.to_string()))?;
    match drained::unmount(&mut client)? {
        End::Gone if args.json => print(&format!("{:#}\n", serde_json::json!(client.status()))),
        End::Gone => Ok(()),
        End::Busy => Err(CliError::Failed(busy(&client))),
    }
}

/// One line that names who uses the mount.
pub(super) fn busy(client: &Client) -> String {
    let mountpoint = client.mount().mount_point.display();
    let daemon = [client.status().keeper_pid, client.status().worker_pid];
    match holders::describe(client.mount(), &daemon) {
        Some(holders) => format!("{mountpoint} is in use by {holders}: end them and try again"),
        None => format!("{mountpoint} is in use: 'fuser -vm {mountpoint}' as root says by whom"),
    }
}
