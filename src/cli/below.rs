//! What is found out of a directory before it is mounted over, and how it is said.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::exit::complain;
use super::units;
use crate::backing::{self, Abilities, DirectIo, KernelCalls, MountedAs, Stripe};
use crate::mount::mountinfo::MountTable;
use crate::mount::patience::within;

/// For a server that is slow, not for one that is away: a mount is made all the same, and knows less.
const LIMIT: Duration = Duration::from_secs(5);

/// What is known.
#[derive(Debug, Default)]
pub struct Below {
    /// Where writes are to begin and end.
    pub stripe: Option<Stripe>,
    /// What the filesystem can do.
    pub abilities: Abilities,
    /// Why nothing can be made in the directory.
    pub refusal: Option<io::Error>,
}

/// Asks the filesystem of a directory. Leaves nothing behind, see [`backing::probe`]. May wait for
/// it. Errors: open(2) of the directory.
pub fn look(directory: &Path) -> io::Result<Below> {
    let dir = File::open(directory)?;
    let table = MountTable::read().unwrap_or_default();
    let mount = table.holding(directory);
    let ask = |file: Option<BorrowedFd<'_>>| {
        let mount = mount?;
        let mounted = MountedAs {
            fs_type: mount.fs_type.as_bytes(),
            source: mount.source.as_bytes(),
            mount_point: &mount.mount_point,
            super_options: mount.super_options.as_bytes(),
        };
        backing::stripe(dir.as_fd(), file, mounted)
    };
    let mut stripe = None;
    let (abilities, refusal) =
        backing::probe(&KernelCalls, dir.as_fd(), &mut |file| stripe = ask(Some(file)));
    Ok(Below { stripe: stripe.or_else(|| ask(None)), abilities, refusal })
}

/// The same, but does not wait for ever; nothing is known then.
pub fn look_soon(directory: &Path) -> Below {
    look_within(LIMIT, directory, look)
}

fn look_within(
    limit: Duration,
    directory: &Path,
    look: impl FnOnce(&Path) -> io::Result<Below> + Send + 'static,
) -> Below {
    let asked = directory.to_owned();
    let why = match within(limit, move || look(&asked)) {
        Some(Ok(below)) => return below,
        Some(Err(error)) => error.to_string(),
        None => format!("no answer within {} s", limit.as_secs()),
    };
    let directory = directory.display();
    complain(&format!("what the filesystem of {directory} can do is not known: {why}"));
    Below::default()
}

/// What is there, what is not, and figures; in one line.
pub fn in_words(abilities: &Abilities) -> String {
    let all = [
        ("fallocate", abilities.allocates),
        ("fallocate beyond the end", abilities.allocates_behind),
        ("holes", abilities.punches_holes),
        ("RESOLVE_BENEATH", abilities.opens_beneath),
        ("file handles", abilities.has_handles),
        ("attributes", abilities.has_attributes),
        ("ACLs", abilities.has_acls),
        ("hard links", abilities.has_hard_links),
        ("symlinks", abilities.has_symlinks),
        ("RENAME_NOREPLACE", abilities.renames_noreplace),
        ("RENAME_EXCHANGE", abilities.renames_exchange),
        ("case folding", abilities.folds_case),
    ];
    let direct = match abilities.direct_io {
        Some(DirectIo::Aligned { offset, .. }) => (format!("direct I/O ({offset})"), Some(true)),
        Some(DirectIo::Unsupported) => ("direct I/O".to_owned(), Some(false)),
        None => ("direct I/O".to_owned(), None),
    };
    let all = all.map(|(name, answer)| (name.to_owned(), answer));
    let named = |wanted: Option<bool>| {
        let answers = [direct.clone()].into_iter().chain(all.clone());
        let names = answers.filter(|(_, answer)| *answer == wanted).map(|(name, _)| name);
        names.collect::<Vec<_>>().join(", ")
    };
    let mut parts = vec![named(Some(true))];
    parts.extend(abilities.name_bytes_max.map(|bytes| format!("names of {bytes} bytes")));
    parts.extend(abilities.file_bytes_max.map(|bytes| format!("files of {}", units::size(bytes))));
    parts.extend(abilities.time_step_ns.map(|ns| format!("times to {}", time_step(ns))));
    for (word, names) in [("not", named(Some(false))), ("not known", named(None))] {
        if !names.is_empty() {
            parts.push(format!("{word}: {names}"));
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

/// `1 ns`, `100 ns`, `1 us`, `2 s`.
pub fn time_step(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line() {
        let some = Abilities {
            direct_io: Some(DirectIo::Aligned { memory: 4, offset: 512 }),
            allocates: Some(true),
            has_acls: Some(false),
            folds_case: Some(false),
            name_bytes_max: Some(255),
            file_bytes_max: Some(16 << 40),
            time_step_ns: Some(100),
            ..Abilities::default()
        };
        assert_eq!(
            in_words(&some),
            "direct I/O (512), fallocate; names of 255 bytes; files of 16 TiB; times to 100 ns; \
             not: ACLs, case folding; not known: fallocate beyond the end, holes, \
             RESOLVE_BENEATH, file handles, attributes, hard links, symlinks, RENAME_NOREPLACE, \
             RENAME_EXCHANGE"
        );
        assert!(in_words(&Abilities::default()).starts_with("not known: direct I/O, fallocate"));
        let steps = [1, 100, 1_000, 10_000_000, 2_000_000_000].map(time_step);
        assert_eq!(steps, ["1 ns", "100 ns", "1 us", "10 ms", "2 s"]);
    }

    #[test]
    fn a_directory_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let below = look_soon(dir.path());
        assert!(below.refusal.is_none() && below.abilities.has_hard_links == Some(true));
        assert!(look(&dir.path().join("no")).is_err());
        assert_eq!(look_soon(&dir.path().join("no")).abilities, Abilities::default());
    }

    /// Goal: an engine that hangs does not keep a mount from being made. Method: one that answers
    /// when the test is over.
    #[test]
    fn an_engine_that_hangs() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let hanging = move |_: &Path| {
            let _ = wait.recv();
            look(Path::new("/"))
        };
        let below = look_within(Duration::from_millis(1), Path::new("/x"), hanging);
        assert_eq!(below.abilities, Abilities::default());
        drop(end);
    }
}
