//! What holds for some of a mount's files only: rules by path, and which files are coalesced.
//!
//! A glob without `/` is compared with a file's name, wherever it is; one with `/` with the whole
//! path below the mountpoint, where a leading `/` changes nothing. `*` and `?` do not match `/`,
//! `**` does. The first rule that matches decides; what it does not say is as the mount's options
//! have it. Made by `cli`, asked by `fs`; pure.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::MountConfig;

/// What the files of a glob have of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Which files.
    pub glob: String,
    /// Instead of the mount's, also where that is learned; a multiple of the segment, too.
    pub chunk_bytes: Option<u64>,
    /// Instead of [`MountConfig::max_age_ms`].
    pub max_age_ms: Option<u64>,
    /// Whose whole chunk goes first.
    pub priority: Option<Priority>,
    /// Whether they are buffered at all.
    pub coalesce: Option<bool>,
}

/// Whose whole chunk goes first; see [`crate::schedule::Priority`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// One of many.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// How one file is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// Bytes of one turn, where a rule says so; else the chunk of the device is in force.
    pub chunk_bytes: Option<u64>,
    /// No byte waits longer.
    pub max_age_ms: u64,
    /// Whose whole chunk goes first.
    pub priority: Priority,
    /// Whether it is buffered; else writes go to the backing file at once.
    pub coalesce: bool,
}

/// The rules of a mount, ready to be asked.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<(GlobMatcher, Rule)>,
    /// Files that are coalesced where no rule says whether; `None` is all.
    only: Option<Vec<GlobMatcher>>,
    others: Treatment,
}

impl Rules {
    /// `Err` names a glob that is none; not after `cli` has checked them.
    pub fn new(config: &MountConfig) -> Result<Rules, String> {
        let compiled = |rule: &Rule| Ok::<_, String>((matcher(&rule.glob)?, rule.clone()));
        let only: Result<Vec<_>, _> = config.only.iter().map(|glob| matcher(glob)).collect();
        Ok(Rules {
            rules: config.rules.iter().map(compiled).collect::<Result<_, _>>()?,
            only: Some(only?).filter(|only| !only.is_empty()),
            others: Treatment {
                chunk_bytes: None,
                max_age_ms: config.max_age_ms,
                priority: Priority::Normal,
                coalesce: true,
            },
        })
    }

    /// Whether files may differ at all.
    pub fn is_any(&self) -> bool {
        !self.rules.is_empty() || self.only.is_some()
    }

    /// How a file that no rule concerns is treated.
    pub fn others(&self) -> Treatment {
        self.others
    }

    /// How the file at `path`, relative to the mountpoint, is treated.
    pub fn of(&self, path: &Path) -> Treatment {
        let rule = self.rules.iter().find(|(glob, _)| glob.is_match(path));
        let rule = rule.map(|(_, rule)| rule);
        let is_wanted =
            || self.only.as_ref().is_none_or(|only| only.iter().any(|glob| glob.is_match(path)));
        let others = self.others;
        Treatment {
            chunk_bytes: rule.and_then(|rule| rule.chunk_bytes),
            max_age_ms: rule.and_then(|rule| rule.max_age_ms).unwrap_or(others.max_age_ms),
            priority: rule.and_then(|rule| rule.priority).unwrap_or_default(),
            coalesce: rule.and_then(|rule| rule.coalesce).unwrap_or_else(is_wanted),
        }
    }
}

/// A glob that says which paths below the mountpoint it means. `Err` says in words what is wrong
/// with it, and what to give instead.
pub fn matcher(glob: &str) -> Result<GlobMatcher, String> {
    let below = glob.strip_prefix('/').unwrap_or(glob);
    if below.is_empty() {
        return Err("a glob is missing: give '*' for all files".to_owned());
    }
    if below.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(format!(
            "'{glob}' would match nothing: leave out '.', '..' and empty names, paths begin at \
             the mountpoint"
        ));
    }
    let anywhere = if glob.contains('/') { below.to_owned() } else { format!("**/{glob}") };
    parse(&anywhere).map_err(|why| format!("'{glob}' is no glob: {why}"))
}

/// A glob whose `*` does not match `/`, as in a shell. `Err` says in words what is wrong.
pub fn parse(glob: &str) -> Result<GlobMatcher, String> {
    let mut glob = GlobBuilder::new(glob);
    glob.literal_separator(true).backslash_escape(true).empty_alternates(true);
    let parsed = glob.build().map_err(|error| error.kind().to_string())?;
    Ok(parsed.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[Rule], only: &[&str]) -> Rules {
        let mut config = MountConfig::for_tests(Path::new("/b"), 64 << 20);
        config.rules = rules.to_vec();
        config.only = only.iter().map(|glob| (*glob).to_owned()).collect();
        Rules::new(&config).unwrap()
    }

    fn rule(glob: &str) -> Rule {
        Rule { glob: glob.to_owned(), ..Rule::default() }
    }

    #[test]
    fn globs_mean_names_or_whole_paths() {
        for (glob, path, matches) in [
            ("OUTPUT*", "OUTPUT1", true),
            ("OUTPUT*", "run/OUTPUT1", true),
            ("OUTPUT*", "run/OUTPUT1/x", false),
            ("/OUTPUT*", "OUTPUT1", true),
            ("/OUTPUT*", "run/OUTPUT1", false),
            ("run/*", "run/a", true),
            ("run/*", "run/a/b", false),
            ("run/**", "run/a/b", true),
            ("**/x/*.log", "a/b/x/y.log", true),
            ("{a,b}[0-9]?", "b7z", true),
            ("a{,.log}", "a", true),
            ("a{,.log}", "a.log", true),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
        ] {
            assert_eq!(matcher(glob).unwrap().is_match(path), matches, "{glob} {path}");
        }
        for glob in ["", "/", "a//b", "./a", "a/../b", "a/", "[a", "{a", "a**\\"] {
            let words = matcher(glob).unwrap_err();
            assert!(!words.contains('\n'), "{words}");
        }
    }

    #[test]
    fn the_first_match_decides() {
        let first = Rule { chunk_bytes: Some(1 << 20), ..rule("*.log") };
        let second = Rule { coalesce: Some(false), max_age_ms: Some(7), ..rule("*") };
        let rules = rules(&[first, second], &[]);
        let log = rules.of(Path::new("a/b.log"));
        assert_eq!((log.chunk_bytes, log.coalesce), (Some(1 << 20), true));
        assert_eq!(log.max_age_ms, rules.others().max_age_ms);
        let other = rules.of(Path::new("a/b"));
        assert_eq!((other.max_age_ms, other.coalesce, other.chunk_bytes), (7, false, None));
    }

    #[test]
    fn only_what_is_named_is_coalesced_unless_a_rule_says_so() {
        let chunk = Rule { chunk_bytes: Some(1 << 20), ..rule("*") };
        let wanted = Rule { coalesce: Some(true), ..rule("*.data") };
        let rules = rules(&[wanted, chunk], &["/OUTPUT*"]);
        for (path, coalesce) in
            [("OUTPUT7", true), ("sub/OUTPUT7", false), ("log", false), ("x.data", true)]
        {
            assert_eq!(rules.of(Path::new(path)).coalesce, coalesce, "{path}");
        }
        assert_eq!(rules.of(Path::new("OUTPUT7")).chunk_bytes, Some(1 << 20));
    }
}
