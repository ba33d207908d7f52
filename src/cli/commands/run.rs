//! `coalescefs run`: private mounts for one command; no root needed where user namespaces are
//! allowed.
//!
//! The mounts are seen by the command and what it starts only. They end when the command has ended,
//! or in order when this process is killed (`Lifetime::WithStarter`).

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::mount::check_answers;
use super::umount::users;
use crate::cli::args::RunArgs;
use crate::cli::children::{Family, Watch, Who};
use crate::cli::drained::{self, End};
use crate::cli::exit::{CliError, Exit, complain, worst_of};
use crate::cli::redirect::{self, Target};
use crate::cli::{places, resolve};
use crate::config::MountConfig;
use crate::control::client::Client;
use crate::keeper::{self, Launch, Lifetime};
use crate::mount::attach;
use crate::mount::namespace::{self, Entered};
use crate::worker::EXIT_NOT_STORED;

/// Between two attempts to unmount what left-over processes of the command still use.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// One mount of the command.
struct Over {
    mountpoint: PathBuf,
    keeper: Who,
}

/// Runs the command; returns its status once everything it wrote is on disk.
pub fn run(args: &RunArgs, log: resolve::Log) -> Result<Exit, CliError> {
    let configs = resolve_all(args)?;
    attach::check_device().map_err(|error| CliError::Failed(error.to_string()))?;
    let entered = namespace::enter_private().map_err(|error| {
        CliError::Failed(format!(
            "cannot make a private mount namespace: {error}; without root, user namespaces must \
             be allowed (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns)"
        ))
    })?;
    let mut family = Family::default();
    let mut overs = Vec::new();
    for config in &configs {
        match start(config, &log, entered, &mut family) {
            Ok(over) => overs.push(over),
            Err(error) => {
                end_quietly(&mut family, overs);
                return Err(error);
            }
        }
    }
    if let Err(error) = enter_again() {
        end_quietly(&mut family, overs);
        return Err(error);
    }
    let status = run_command(&args.command, &mut family);
    // Also when the command could not be started, or the wait for it failed.
    end_all(&mut family, overs, args.discard)?;
    status.map(Exit::Command)
}

/// More directories than this are more daemons than anybody wants.
const MOUNTS_MAX: usize = 64;

/// A mount to be made, as the arguments have it.
struct Wanted {
    option: &'static str,
    dir: PathBuf,
    only: Vec<String>,
}

fn wanted(args: &RunArgs) -> Result<Vec<Wanted>, CliError> {
    if args.places.is_empty() {
        return Err(CliError::Usage(
            "the following required arguments were not provided: --over <DIR> or --redirect \
             <GLOB> (try 'coalescefs run --help')"
                .to_owned(),
        ));
    }
    let over = |dir: &PathBuf| Wanted { option: "--over", dir: dir.clone(), only: Vec::new() };
    let redirect =
        |target: Target| Wanted { option: "--redirect", dir: target.dir, only: target.only };
    let targets = redirect::resolve(&args.places.redirect)?;
    let all: Vec<Wanted> =
        args.places.over.iter().map(over).chain(targets.into_iter().map(redirect)).collect();
    if all.len() > MOUNTS_MAX {
        return Err(CliError::Usage(format!(
            "{} directories are to be mounted over, {MOUNTS_MAX} at most is sensible: name one \
             above them with --over",
            all.len()
        )));
    }
    Ok(all)
}

fn resolve_all(args: &RunArgs) -> Result<Vec<MountConfig>, CliError> {
    let around = resolve::Surroundings::here();
    let wanted = wanted(args)?;
    let options = resolve::shared_out(&args.options, wanted.len(), &around);
    let mut configs: Vec<(&'static str, MountConfig)> = Vec::new();
    for Wanted { option, dir, only } in &wanted {
        places::refuse_nested(option, dir)?;
        let places = places::resolve_over(option, dir)?;
        let overlapping = configs.iter().find(|(_, other)| {
            places.backing.starts_with(&other.backing) || other.backing.starts_with(&places.backing)
        });
        if let Some((other_option, other)) = overlapping {
            let (one, two) = (places.backing.display(), other.backing.display());
            return Err(CliError::Usage(format!(
                "{option} {one} and {other_option} {two} overlap: leave one of them out"
            )));
        }
        let below = around.clone().below(&places.backing);
        let config = resolve::mount_config(&options, places.backing, places.mountpoint, below);
        let config = config.map_err(|error| shared_out(error, wanted.len()))?;
        configs.push((option, MountConfig { only: only.clone(), ..config }));
    }
    Ok(configs.into_iter().map(|(_, config)| config).collect())
}

/// The memory that an error is about may not be the one that was given.
fn shared_out(error: CliError, mounts: usize) -> CliError {
    match mounts {
        0 | 1 => error,
        _ => CliError::Usage(format!("{error} (--memory is shared out among {mounts} mounts)")),
    }
}

fn start(
    config: &MountConfig,
    log: &resolve::Log,
    entered: Entered,
    family: &mut Family,
) -> Result<Over, CliError> {
    let running = keeper::start(Launch {
        config,
        lifetime: Lifetime::WithStarter,
        log_file: log.file.clone(),
        log_level: log.level.clone(),
        namespace: Some(entered),
    });
    let running = running.map_err(|error| CliError::Failed(error.to_string()))?;
    let keeper = family.add_keeper(&running, &config.mountpoint);
    check_answers(&config.mountpoint, &running, family, keeper)?;
    Ok(Over { mountpoint: config.mountpoint.clone(), keeper })
}

/// The current directory may lie in one of the directories, and is then still the one below the
/// mount.
fn enter_again() -> Result<(), CliError> {
    std::env::current_dir()
        .and_then(std::env::set_current_dir)
        .map_err(|error| CliError::Failed(format!("the current directory: {error}")))
}

/// As a shell does it: same process group and terminal; what the keyboard sends reaches the command
/// itself, what is sent to this process is passed on.
fn run_command(command: &[OsString], family: &mut Family) -> Result<ExitStatus, CliError> {
    let (name, arguments) = command.split_first().expect("clap requires a command");
    let failed = |error| CliError::Command { command: name.clone(), error };
    let watch = Watch::begin(&[libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP])
        .map_err(failed)?;
    let mask = watch.mask_before();
    let mut process = Command::new(name);
    process.args(arguments);
    let restore = move || {
        mask.set_as_mask();
        Ok(())
    };
    // SAFETY: only a system call between fork and exec.
    unsafe { process.pre_exec(restore) };
    let child = process.spawn().map_err(failed)?;
    let command = family.add(&child);
    Ok(watch.wait(family, command, &[libc::SIGTERM, libc::SIGHUP]))
}

/// Ends mounts nobody has written to.
fn end_quietly(family: &mut Family, overs: Vec<Over>) {
    leave_mounts();
    for over in overs {
        family.kill(over.keeper, libc::SIGTERM);
        // The error that brought us here is the one to report.
        family.wait(over.keeper);
    }
}

/// This process must not keep a mount busy.
fn leave_mounts() {
    // `/` exists and is searchable wherever a process runs.
    let _ = std::env::set_current_dir("/");
}

/// Ends all mounts, in any case; `Err` has what went wrong, data not stored before anything else.
fn end_all(family: &mut Family, overs: Vec<Over>, discard: bool) -> Result<(), CliError> {
    leave_mounts();
    worst_of(overs.into_iter().map(|over| end(family, over, discard)))
}

fn end(family: &mut Family, over: Over, discard: bool) -> Result<(), CliError> {
    let drained = drain(&over.mountpoint, discard);
    // Whatever was said, it is to end now, in order.
    family.kill(over.keeper, libc::SIGTERM);
    if let Err(CliError::NotStored(list)) = drained {
        // It keeps the data, tries again and ends when all is stored: not to be waited for.
        let keeper = family.pid(over.keeper);
        return Err(CliError::NotStored(format!("{list}\nprocess {keeper} goes on trying")));
    }
    match (drained, family.wait(over.keeper).code()) {
        (Ok(End::Lost(list)), _) => Err(list),
        (Ok(_), Some(0)) => Ok(()),
        (_, Some(EXIT_NOT_STORED)) => Err(not_stored(&over.mountpoint)),
        // The daemon ended well, whatever went wrong on the way there.
        (Err(_), Some(0)) => Ok(()),
        (Err(error), _) => Err(CliError::NotStored(error.to_string())),
        (Ok(_), _) => Err(not_stored(&over.mountpoint)),
    }
}

fn not_stored(mountpoint: &Path) -> CliError {
    CliError::NotStored(format!("{}: not everything could be stored", mountpoint.display()))
}

/// Says whom the end waits for.
fn waiting(client: &Client) -> String {
    let mountpoint = client.mount().mount_point.display();
    match users(client) {
        Some(users) => format!("{mountpoint} is still used by {users}: waiting for them to end"),
        None => format!(
            "{mountpoint} is still in use: waiting; 'fuser -vm {mountpoint}' as root \
                         says for whom"
        ),
    }
}

/// Drains and unmounts; waits for processes the command left behind, as they may still write.
fn drain(mountpoint: &Path, discard: bool) -> Result<End, CliError> {
    let failed = |error: crate::control::client::ClientError| CliError::Failed(error.to_string());
    let mut told = false;
    loop {
        let mut client = Client::connect(mountpoint).map_err(failed)?;
        match drained::unmount(&mut client, discard)? {
            End::Busy => {}
            end => return Ok(end),
        }
        if !told {
            told = true;
            complain(&waiting(&client));
        }
        std::thread::sleep(BUSY_PAUSE);
    }
}
