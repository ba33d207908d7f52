//! `--config FILE`: options of `mount` and `run` from a TOML file, under the names that they have on
//! the command line, with the values that they take there; for `run` also what it mounts over.
//!
//! A value is checked by the same parser as on the command line, as if it had been given before what
//! is there: so the command line wins. Of rules, those of the command line are asked first.

use std::ops::Range;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, FromArgMatches};
use toml::de::{DeArray, DeTable, DeValue};

use super::args::{Arguments, Command, LogArgs, MountOptions, RunPlaces};
use super::exit::{self, CliError};

/// What the file cannot say itself.
const CONFIG: &str = "config";

/// Everything that a file may say.
#[derive(Debug, Args)]
struct FileOptions {
    #[command(flatten)]
    places: RunPlaces,
    #[command(flatten)]
    options: MountOptions,
    #[command(flatten)]
    log: LogArgs,
}

/// Completes arguments by the file that they name; `given` is what clap made them from. `Err` has
/// one line with file and line.
pub fn complete(arguments: &mut Arguments, given: &ArgMatches) -> Result<(), CliError> {
    let (options, places) = match &mut arguments.command {
        Command::Mount(args) => (&mut args.options, None),
        Command::Run(args) => (&mut args.options, Some(&mut args.places)),
        _ => return Ok(()),
    };
    let Some(path) = options.config.clone() else { return Ok(()) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| CliError::Usage(format!("--config {}: {error}", path.display())))?;
    let file = ConfigFile { path: &path, text: &text, has_places: places.is_some() };
    let given = given.subcommand().map_or(given, |(_, given)| given);
    let all = merged(&file, given)?;
    arguments.log = all.log;
    *options = MountOptions { config: Some(path.clone()), ..all.options };
    // As a whole: a place of the file beside one that was asked for would be a surprise.
    if let Some(places) = places.filter(|places| places.is_empty()) {
        *places = all.places;
    }
    Ok(())
}

/// What the file says, and over it what is given.
fn merged(file: &ConfigFile, given: &ArgMatches) -> Result<FileOptions, CliError> {
    let mut words = file.words()?;
    let rules_before = words.iter().filter(|word| word.starts_with("--rule=")).count();
    words.extend(given_words(given));
    let refused = |error: clap::Error| CliError::Usage(exit::one_line(&error.to_string()));
    let matches = parser().try_get_matches_from(words).map_err(refused)?;
    let mut all = FileOptions::from_arg_matches(&matches).map_err(refused)?;
    all.options.rule.rotate_left(rules_before);
    Ok(all)
}

/// A parser of these options alone, of which the last one counts.
fn parser() -> clap::Command {
    let command = clap::Command::new("").no_binary_name(true).disable_help_flag(true);
    FileOptions::augment_args(command.args_override_self(true))
}

/// What `mount` does not have.
fn is_place(arg: &clap::Arg) -> bool {
    matches!(arg.get_id().as_str(), "over" | "redirect")
}

/// The options of the command line, without those that are only defaults.
fn given_words(given: &ArgMatches) -> Vec<String> {
    let mut words = Vec::new();
    for arg in parser().get_arguments().filter(|arg| !is_place(arg)) {
        let (id, name) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        if id == CONFIG || given.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        for value in given.get_raw(id).into_iter().flatten() {
            words.push(match arg.get_action() {
                ArgAction::SetTrue => format!("--{name}"),
                // All of these are text: their parsers have seen it.
                _ => format!("--{name}={}", value.to_string_lossy()),
            });
        }
    }
    words
}

struct ConfigFile<'a> {
    path: &'a Path,
    text: &'a str,
    /// Whether the command mounts over what the file may name.
    has_places: bool,
}

impl ConfigFile<'_> {
    fn refused(&self, place: &Range<usize>, why: &str) -> CliError {
        let before = self.text.get(..place.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        CliError::Usage(format!("{}, line {line}: {}", self.path.display(), exit::one_line(why)))
    }

    /// What the file says, in the words of the command line.
    fn words(&self) -> Result<Vec<String>, CliError> {
        let table = DeTable::parse(self.text)
            .map_err(|error| self.refused(&error.span().unwrap_or(0..0), error.message()))?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut words = Vec::new();
        for (name, value) in entries {
            for (place, word) in self.words_of(name.get_ref(), name.span(), value.get_ref())? {
                // By itself, so that the error is of this line.
                parser()
                    .try_get_matches_from([&word])
                    .map_err(|error| self.refused(&place, &error.to_string()))?;
                words.push(word);
            }
        }
        Ok(words)
    }

    /// One entry: several words for a list, none for a switch that is off. With where each is.
    fn words_of(
        &self,
        name: &str,
        place: Range<usize>,
        value: &DeValue,
    ) -> Result<Vec<(Range<usize>, String)>, CliError> {
        let parser = parser();
        let is_known = |arg: &&clap::Arg| {
            arg.get_id().as_str() != CONFIG && (self.has_places || !is_place(arg))
        };
        let known: Vec<&clap::Arg> = parser.get_arguments().filter(is_known).collect();
        let Some(arg) = known.iter().find(|arg| arg.get_long() == Some(name)) else {
            let names: Vec<&str> = known.iter().filter_map(|arg| arg.get_long()).collect();
            let why = format!("'{name}' is no option: there are {}", names.join(", "));
            return Err(self.refused(&place, &why));
        };
        match (arg.get_action(), value) {
            (ArgAction::SetTrue, DeValue::Boolean(true)) => Ok(vec![(place, format!("--{name}"))]),
            (ArgAction::SetTrue, DeValue::Boolean(false)) => Ok(Vec::new()),
            (ArgAction::SetTrue, _) => {
                Err(self.refused(&place, &format!("{name} is true or false, without quotes")))
            }
            (ArgAction::Append, DeValue::Array(list)) => self.list(name, list),
            (_, value) => match scalar(value) {
                Some(text) => Ok(vec![(place, format!("--{name}={text}"))]),
                None => {
                    let why = format!("{name} is one value, in quotes as on the command line");
                    Err(self.refused(&place, &why))
                }
            },
        }
    }

    fn list(&self, name: &str, list: &DeArray) -> Result<Vec<(Range<usize>, String)>, CliError> {
        let word = |item: &toml::Spanned<DeValue>| {
            let text = match item.get_ref() {
                DeValue::Table(table) => rule_text(table),
                value => scalar(value).ok_or_else(|| format!("{name} is a list of texts")),
            };
            let text = text.map_err(|why| self.refused(&item.span(), &why))?;
            Ok((item.span(), format!("--{name}={text}")))
        };
        list.iter().map(word).collect()
    }
}

fn scalar(value: &DeValue) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        _ => None,
    }
}

/// A rule in a table of its own, as `--rule` takes it.
fn rule_text(table: &DeTable) -> Result<String, String> {
    let mut glob = None;
    let mut settings = Vec::new();
    for (name, value) in table.iter() {
        let name = name.get_ref();
        let text = match value.get_ref() {
            DeValue::Boolean(true) => "on".to_owned(),
            DeValue::Boolean(false) => "off".to_owned(),
            value => scalar(value).ok_or_else(|| format!("{name} is one value, in quotes"))?,
        };
        match name.as_ref() {
            "glob" => glob = Some(text),
            name => settings.push(format!("{name}={text}")),
        }
    }
    let glob = glob.ok_or("a rule has no glob: say with glob = '...' for which files it is")?;
    Ok(format!("{glob}:{}", settings.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::ChunkOption;
    use crate::cli::args::LanesOption;
    use clap::CommandFactory;
    use std::time::Duration;

    /// A command line, completed by a file with this text.
    fn completed(file: &str, words: &[&str]) -> Result<Arguments, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        let path = format!("--config={}", path.display());
        let words = [&["coalescefs", words[0], path.as_str()], &words[1..]].concat();
        let given = Arguments::command().try_get_matches_from(words).unwrap();
        let mut arguments = Arguments::from_arg_matches(&given).unwrap();
        let done = complete(&mut arguments, &given).map(|()| arguments);
        done.map_err(|error| {
            assert!(matches!(error, CliError::Usage(_)));
            error.to_string()
        })
    }

    fn completed_from(file: &str, words: &[&str]) -> Result<MountOptions, String> {
        let arguments = completed(file, &[&["mount", "/b"], words].concat())?;
        let Command::Mount(args) = arguments.command else { panic!("{arguments:?}") };
        Ok(args.options)
    }

    fn run(file: &str, words: &[&str]) -> (RunPlaces, LogArgs) {
        let arguments = completed(file, &[&["run"], words, &["--", "true"]].concat()).unwrap();
        let Command::Run(args) = arguments.command else { panic!("{:?}", arguments.command) };
        (args.places, arguments.log)
    }

    const FILE: &str = "\
memory = '256M'
chunk = \"8M\"
max-age = '5s'
lanes = 2
no-writeback-cache = true
allow-other = true
rule = ['a*:chunk=1M', 'b*:coalesce=off']
";

    #[test]
    fn names_and_values_are_those_of_the_options() {
        let options = completed_from(FILE, &[]).unwrap();
        assert_eq!((options.memory, options.chunk), (Some(256 << 20), ChunkOption::Bytes(8 << 20)));
        assert_eq!(options.max_age, Duration::from_secs(5));
        assert_eq!(options.lanes, LanesOption::Count(2));
        assert!(options.no_writeback_cache && options.allow_other);
        assert_eq!(options.rule.len(), 2);
        assert_eq!(options.min_free, 0, "a default that nobody mentions");
    }

    #[test]
    fn the_command_line_wins() {
        let words = ["--chunk=2M", "--max-age=30s", "--no-allow-other", "--rule=c:priority=high"];
        let options = completed_from(FILE, &words).unwrap();
        assert_eq!((options.memory, options.chunk), (Some(256 << 20), ChunkOption::Bytes(2 << 20)));
        assert_eq!(options.max_age, Duration::from_secs(30), "also where it is the default");
        assert!(options.no_allow_other && !options.allow_other);
        let globs: Vec<&str> = options.rule.iter().map(|rule| rule.glob.as_str()).collect();
        assert_eq!(globs, ["c", "a*", "b*"]);
    }

    /// Goal: a file has all that `run` needs, and what is given replaces it.
    #[test]
    fn places_and_the_log_are_said_there_too() {
        let file = "over = ['a', 'b']\nredirect = 'c/*'\nlog-level = 'debug'\nlog-file = '/l'\n";
        let (places, log) = run(file, &[]);
        assert_eq!(places.over, [Path::new("a"), Path::new("b")]);
        assert_eq!(places.redirect, ["c/*"]);
        assert_eq!(log.log_level, Some(log::LevelFilter::Debug));
        assert_eq!(log.log_file.as_deref(), Some(Path::new("/l")));
        let (places, log) = run(file, &["--redirect=d/*", "--log-level=error"]);
        assert_eq!((places.over.len(), places.redirect), (0, vec!["d/*".to_owned()]));
        assert_eq!(log.log_level, Some(log::LevelFilter::Error));
        assert_eq!(log.log_file.as_deref(), Some(Path::new("/l")));
        let error = completed_from("over = 'a'", &[]).unwrap_err();
        assert!(error.contains("line 1: 'over' is no option"), "{error}");
    }

    #[test]
    fn a_switch_that_is_off_is_as_if_it_were_not_there() {
        let options =
            completed_from("allow-other = false\nno-writeback-cache = false", &[]).unwrap();
        assert!(!options.allow_other && !options.no_writeback_cache);
        assert!(completed_from("allow-other = false", &["--allow-other"]).unwrap().allow_other);
    }

    #[test]
    fn rules_may_be_tables() {
        let file = "[[rule]]\nglob = 'x'\nchunk = '1M'\ncoalesce = false\n\n[[rule]]\nglob = \
                    'y'\nmax-age = '1s'\n";
        let options = completed_from(file, &[]).unwrap();
        assert_eq!(
            (options.rule[0].chunk_bytes, options.rule[0].coalesce),
            (Some(1 << 20), Some(false))
        );
        assert_eq!(options.rule[1].max_age_ms, Some(1000));
    }

    #[test]
    fn each_mistake_is_named_with_its_line() {
        for (file, line, words) in [
            ("\nchunks = '1M'", 2, "'chunks' is no option: there are memory, chunk"),
            ("memory = '1G'\nchunk = '1X'", 2, "a size is a number"),
            ("chunk = 1.5", 1, "in quotes"),
            ("chunk = 0x100000", 1, "in quotes"),
            ("log-level = 'loud'", 1, "loud"),
            ("allow-other = 'yes'", 1, "true or false"),
            ("config = 'x'", 1, "no option"),
            ("rule = ['a:chunk=1M',\n 'b:chunks=1M']", 2, "names are chunk"),
            ("[[rule]]\nchunk='1M'", 1, "no glob"),
            ("rule = '[a:chunk=1M'", 1, "is no glob"),
            ("fsync = 'never'", 1, "strict"),
            ("a = 1\nchunk = ", 2, ""),
        ] {
            let error = completed_from(file, &[]).unwrap_err();
            assert!(error.contains(&format!("c.toml, line {line}: ")), "{file}: {error}");
            assert!(error.contains(words) && !error.contains('\n'), "{file}: {error}");
        }
    }
}
