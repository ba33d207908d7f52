//! `coalescefs mount`: a mount that outlives the command, or stays in the foreground.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::args::MountArgs;
use crate::cli::children::{Family, Watch, Who};
use crate::cli::exit::{CliError, Exit};
use crate::cli::walk::{self, Found};
use crate::cli::{places, resolve};
use crate::keeper::{self, Kept, Launch, Lifetime, Running};
use crate::mount::attach;
use crate::mount::mountinfo::{Device, MountTable};

/// Signals that end a foreground mount.
const PASSED_ON: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Mounts; returns once the mount answers, or in the foreground once it has ended.
pub fn run(args: &MountArgs, log: resolve::Log) -> Result<Exit, CliError> {
    // First of all, as what was passed is known by its number.
    let kept = if args.foreground { Kept::take().map_err(CliError::Failed)? } else { None };
    match kept {
        Some(kept) if is_still_there(&kept, args)? => return go_on(kept, log),
        Some(kept) => kept.discard(),
        None => {}
    }
    let places = places::resolve(&args.backing, args.mountpoint.as_deref())?;
    let around = resolve::Surroundings::here().below(&places.backing);
    let config = resolve::mount_config(&args.options, places.backing, places.mountpoint, around)?;
    attach::plan_method().map_err(|error| CliError::Failed(error.to_string()))?;
    let lifetime = if args.foreground { Lifetime::OfService } else { Lifetime::OnItsOwn };
    // Before there is a mount to be ended: a signal that comes meanwhile ends it in order.
    let watch = match lifetime {
        Lifetime::OnItsOwn => None,
        _ => Some(Watch::begin(&PASSED_ON).map_err(cannot_watch)?),
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

/// Whether the mount that the service manager kept is the one that is to be made. Neither is
/// touched: nobody answers for it yet. `Err` when it is another.
fn is_still_there(kept: &Kept, args: &MountArgs) -> Result<bool, CliError> {
    let failed = |what: &Path, error| CliError::Failed(format!("{}: {error}", what.display()));
    let table =
        MountTable::read().map_err(|error| failed(Path::new("/proc/self/mountinfo"), error))?;
    if !table.has(kept.device(), kept.mountpoint()) {
        return Ok(false);
    }
    let wanted = args.mountpoint.as_deref().unwrap_or(&args.backing);
    match walk::find(wanted, &table).map_err(|error| failed(wanted, error))? {
        Found::Mount(mount) if mount.device == kept.device() => Ok(true),
        _ => Err(CliError::Failed(format!(
            "the service manager kept the mount at {0}, and {1} is to be mounted: 'coalescefs \
             mount --foreground {0}' goes on with it",
            kept.mountpoint().display(),
            wanted.display()
        ))),
    }
}

/// Goes on with a mount whose processes were killed, with the options that it was made with.
fn go_on(kept: Kept, log: resolve::Log) -> Result<Exit, CliError> {
    let watch = Watch::begin(&PASSED_ON).map_err(cannot_watch)?;
    let launch = Launch {
        config: kept.config(),
        lifetime: Lifetime::OfService,
        log_file: log.file,
        log_level: log.level,
        namespace: None,
    };
    let running = keeper::adopt_kept(&kept, &launch);
    let running = running.map_err(|error| CliError::Failed(error.to_string()))?;
    let mut family = Family::default();
    let keeper = family.add_keeper(&running, kept.mountpoint());
    // The keeper has them now; from here on this process must not keep the mount alive.
    drop(kept);
    stay(family, keeper, &watch)
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
            "the daemon was killed ({status}): what was not on disk yet is lost, but for what \
             a service manager keeps (see FileDescriptorStoreMax= of its unit)"
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
