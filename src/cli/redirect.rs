//! `run --redirect GLOB`: from globs of files to the directories to mount over, and what of each is
//! to be coalesced.
//!
//! The directories of a glob are looked up as a shell does it: those that are there now. Files need
//! not exist. Where a directory does not exist either, or none matches, the directory above is
//! mounted over, and the rest of the glob says which files below it are meant. An existing file that
//! is a symbolic link is followed: it is written where it leads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::exit::CliError;
use crate::config::rules;

/// A directory to mount over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Canonical.
    pub dir: PathBuf,
    /// The files in it that are coalesced, as [`crate::config::MountConfig::only`] has it.
    pub only: Vec<String>,
}

type Found = BTreeMap<PathBuf, Vec<String>>;

/// The directories that the globs concern, none of them in another. Relative globs begin at the
/// current directory. `Err` names the glob.
pub fn resolve(globs: &[String]) -> Result<Vec<Target>, CliError> {
    let mut found = Found::new();
    for glob in globs {
        let base = if glob.starts_with('/') { "/" } else { "." };
        let names: Vec<&str> = names(glob).collect();
        let refused = |why: String| CliError::Usage(format!("--redirect '{glob}': {why}"));
        if names.is_empty() || glob.ends_with('/') {
            return Err(refused("it names no files: give DIR/* for all of a directory".to_owned()));
        }
        expand(Path::new(base), &names, &mut found).map_err(refused)?;
    }
    Ok(without_nested(found))
}

/// The names of a path; a slash within braces belongs to a name, and so does an escaped one.
fn names(glob: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut is_escaped) = (0usize, false);
    let is_end = move |letter: char| {
        let was_escaped = is_escaped;
        is_escaped = letter == '\\' && !was_escaped;
        match letter {
            _ if was_escaped => return false,
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == '/' && depth == 0
    };
    glob.split(is_end).filter(|name| !matches!(*name, "" | "."))
}

fn expand(dir: &Path, names: &[&str], found: &mut Found) -> Result<(), String> {
    let (first, rest) = names.split_first().expect("checked by the caller, and kept below");
    if rest.is_empty() {
        follow_links(dir, first, found)?;
        return add(dir, names, found);
    }
    if first.contains("**") || first.contains('/') {
        return add(dir, names, found);
    }
    if !first.contains(['*', '?', '[', '{', '\\']) {
        let below = dir.join(first);
        return match below.metadata() {
            Ok(meta) if meta.is_dir() => expand(&below, rest, found),
            Ok(_) => Err(format!("{} is no directory", below.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => add(dir, names, found),
            Err(error) => Err(format!("{}: {error}", below.display())),
        };
    }
    let mut dirs = matching(dir, first)?;
    // As in a shell.
    dirs.retain(|name| first.starts_with('.') || !name.starts_with('.'));
    dirs.retain(|name| dir.join(name).is_dir());
    if dirs.is_empty() {
        return add(dir, names, found);
    }
    dirs.iter().try_for_each(|name| expand(&dir.join(name), rest, found))
}

/// What of a directory matches. Names that are not UTF-8 are left out: no mount can have one.
fn matching(dir: &Path, glob: &str) -> Result<Vec<String>, String> {
    let matcher = rules::parse(glob)?;
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().into_string();
        names.extend(name.ok().filter(|name| matcher.is_match(name)));
    }
    Ok(names)
}

fn add(dir: &Path, names: &[&str], found: &mut Found) -> Result<(), String> {
    let glob = format!("/{}", names.join("/"));
    rules::matcher(&glob)?;
    let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
    if dir == Path::new("/") {
        return Err(
            "nothing can be mounted over /: create the directory of the files first".to_owned()
        );
    }
    found.entry(dir).or_default().push(glob);
    Ok(())
}

/// Adds the files that links among the matching files lead to.
fn follow_links(dir: &Path, glob: &str, found: &mut Found) -> Result<(), String> {
    for name in matching(dir, glob)? {
        let link = dir.join(&name);
        let Ok(target) = fs::read_link(&link) else { continue };
        let target = match link.canonicalize() {
            Ok(target) if target.is_file() => target,
            // A device, say.
            Ok(_) => continue,
            Err(_) => dir.join(target),
        };
        let place = (target.parent(), target.file_name().and_then(|name| name.to_str()));
        if let (Some(parent), Some(name)) = place
            && parent.is_dir()
        {
            add(parent, &[&globset::escape(name)], found)?;
        }
    }
    Ok(())
}

/// A directory in another one is seen through the mount over that.
fn without_nested(found: Found) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    // Those above come first.
    for (dir, only) in found {
        let above = targets.iter_mut().find_map(|target| {
            let below = dir.strip_prefix(&target.dir).ok()?.to_str()?;
            Some((globset::escape(below), target))
        });
        match above {
            Some((below, target)) => {
                target.only.extend(only.iter().map(|glob| format!("/{below}{glob}")));
            }
            None => targets.push(Target { dir, only }),
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        _dir: tempfile::TempDir,
        root: PathBuf,
    }

    impl Scene {
        fn new(dirs: &[&str]) -> Scene {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            for dir in dirs {
                fs::create_dir_all(root.join(dir)).unwrap();
            }
            Scene { _dir: dir, root }
        }

        /// Directories relative to the scene, and globs.
        fn resolve(&self, globs: &[&str]) -> Vec<(String, Vec<String>)> {
            let globs: Vec<String> =
                globs.iter().map(|glob| format!("{}/{glob}", self.root.display())).collect();
            let short = |target: Target| {
                let dir = target.dir.strip_prefix(&self.root).unwrap().to_str().unwrap();
                (dir.to_owned(), target.only)
            };
            resolve(&globs).unwrap().into_iter().map(short).collect()
        }
    }

    fn wanted(all: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
        all.iter().map(|(dir, globs)| ((*dir).to_owned(), owned(globs))).collect()
    }

    #[test]
    fn directories_are_found_and_files_need_not_be_there() {
        let scene = Scene::new(&["d/a", "d/b", "d/.hidden", "e"]);
        fs::write(scene.root.join("d/file"), "").unwrap();
        for (globs, found) in [
            (&["d/*/OUT*"][..], wanted(&[("d/a", &["/OUT*"]), ("d/b", &["/OUT*"])])),
            (&["e/./x", "e/y*"], wanted(&[("e", &["/x", "/y*"])])),
            (&["d/{a,b/c}/x"], wanted(&[("d", &["/{a,b/c}/x"])])),
            (&["d/**/x"], wanted(&[("d", &["/**/x"])])),
            (&["e/new/*/x"], wanted(&[("e", &["/new/*/x"])])),
            (&["e/*/x"], wanted(&[("e", &["/*/x"])])),
            (&["d/a/../b/x"], wanted(&[("d/b", &["/x"])])),
            (&["d/z*", "d/a/x"], wanted(&[("d", &["/z*", "/a/x"])])),
        ] {
            assert_eq!(scene.resolve(globs), found, "{globs:?}");
        }
    }

    /// Goal: what is special in a glob is not so in a name that was found, nor behind a backslash.
    #[test]
    fn special_letters_in_names_are_letters() {
        let scene = Scene::new(&["d/f[1]", "d/{a"]);
        let found = scene.resolve(&["d/x", "d/f*/y"]);
        assert_eq!(found, wanted(&[("d", &["/x", "/f[[]1[]]/y"])]));
        assert_eq!(scene.resolve(&["d/\\{a/OUT"]), wanted(&[("d/{a", &["/OUT"])]));
    }

    #[test]
    fn links_among_the_files_are_followed() {
        let scene = Scene::new(&["out", "disk"]);
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, scene.root.join("out").join(name)).unwrap();
        };
        link("../disk/O*1", "OUT1");
        link("/dev/null", "OUT2");
        link("../disk/other", "log");
        let found = scene.resolve(&["out/OUT*"]);
        assert_eq!(found, wanted(&[("disk", &["/O[*]1"]), ("out", &["/OUT*"])]));
    }

    #[test]
    fn each_mistake_is_named() {
        let scene = Scene::new(&["d"]);
        fs::write(scene.root.join("file"), "").unwrap();
        for (glob, words) in [
            ("d/", "names no files"),
            ("d/..", "would match nothing"),
            ("d/none/../x", "would match nothing"),
            ("d/[a", "unclosed"),
            ("file/x", "is no directory"),
        ] {
            let glob = format!("{}/{glob}", scene.root.display());
            let error = resolve(&[glob]).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)));
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
