//! `coalescefs mount`: a mount that outlives the command, or stays in the foreground.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::args::MountArgs;
use crate::cli::children::{Family, Watch, Who};
use crate::cli::exit::{CliError, Exit};
use crate::cli::{places, resolve};
use crate::keeper::{self, Launch, Lifetime, Running};
use crate::mount::attach;
use crate::mount::mountinfo::Device;

/// Signals that end a foreground mount.
const PASSED_ON: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Mounts; returns once the mount answers, or in the foreground once it has ended.
pub fn run(args: &MountArgs, log: resolve::Log) -> Result<Exit, CliError> {
    let places = places::resolve(&args.backing, args.mountpoint.as_deref())?;
    let around = resolve::Surroundings::here();
    let config = resolve::mount_config(&args.options, places.backing, places.mountpoint, around)?;
    attach::plan_method().map_err(|error| CliError::Failed(error.to_string()))?;
    let lifetime = if args.foreground { Lifetime::WithStarter } else { Lifetime::OnItsOwn };
    // Before there is a mount to be ended: a signal that comes meanwhile ends it in order.
    let watch = match lifetime {
        Lifetime::OnItsOwn => None,
        Lifetime::WithStarter => Some(Watch::begin(&PASSED_ON).map_err(cannot_watch)?),
    };
    let running = keeper::start(Launch {
        config: &config,
        lifetime,
        log_file: log.file,
        log_level: log.level,
        namespace: None,
    });
    let running = running.map_err(|error| CliError::Failed(error.to_string()))?;
    let mut family = Family::default();
    let keeper = family.add_keeper(&running, &config.mountpoint);
    check_answers(&config.mountpoint, &running, &mut family, keeper)?;
    watch.map_or(Ok(Exit::Ok), |watch| stay(family, keeper, &watch))
}

fn cannot_watch(error: io::Error) -> CliError {
    CliError::Failed(format!("waiting for the keeper: {error}"))
}

/// Waits for the keeper, or who takes its place; a signal to this process ends the mount in order.
fn stay(mut family: Family, keeper: Who, watch: &Watch) -> Result<Exit, CliError> {
    let status = watch.wait(&mut family, keeper, &PASSED_ON);
    match status.code() {
        Some(code) => Ok(Exit::Keeper(code)),
        None => Err(CliError::NotStored(format!(
            "the daemon was killed ({status}): what was not on disk yet is lost"
        ))),
    }
}

/// The mount must answer this process too, not only the keeper's worker say so. On `Err` it has
/// been ended again.
pub(super) fn check_answers(
    mountpoint: &Path,
    running: &Running,
    family: &mut Family,
    keeper: Who,
) -> Result<(), CliError> {
    let why = match mountpoint.metadata() {
        Ok(meta) if Device::from_st_dev(meta.dev()) == running.device => return Ok(()),
        Ok(_) => "another filesystem is there".to_owned(),
        Err(error) => error.to_string(),
    };
    family.kill(keeper, libc::SIGTERM);
    // It ends in its own time; how is of no interest any more.
    family.wait(keeper);
    Err(CliError::Failed(format!(
        "{} was mounted but does not answer: {why}",
        mountpoint.display()
    )))
}
