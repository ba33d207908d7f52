//! `coalescefs upgrade`: the program that is run takes the place of the one that serves a mount.

use crate::cli::args::UpgradeArgs;
use crate::cli::exit::CliError;
use crate::control::client::Client;

/// Returns when the mount is served by this program. `Err` changes nothing.
pub fn run(args: &UpgradeArgs) -> Result<(), CliError> {
    let failed = |words: String| CliError::Failed(words);
    let program = std::env::current_exe()
        .map_err(|error| failed(format!("cannot find out which program this is: {error}")))?;
    let mut client =
        Client::connect(&args.mountpoint).map_err(|error| failed(error.to_string()))?;
    client.upgrade(&program).map_err(|error| failed(error.to_string()))
}
