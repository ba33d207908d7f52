//! `coalescefs demo`.

use crate::cli::exit::CliError;

/// `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}

/// Runs the demonstration.
pub fn run(_args: &DemoArgs) -> Result<(), CliError> {
    Err(CliError::Failed("the demonstration is not built in".to_owned()))
}
