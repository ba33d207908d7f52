//! `--rule GLOB:NAME=VALUE,...`: as given; what depends on other options is checked in `resolve`.

use super::units;
use crate::config::rules::{self, Priority, Rule};

/// A rule from its words. `Err` has a hint for the user.
pub fn parse(text: &str) -> Result<Rule, String> {
    const FORM: &str = "a rule is GLOB:NAME=VALUE,... as in 'OUTPUT*:chunk=64M,max-age=5s'; names \
                        are chunk, max-age, priority and coalesce";
    // At the last colon: names of files may have one, values have none.
    let (glob, settings) = text.rsplit_once(':').ok_or(FORM)?;
    rules::matcher(glob)?;
    let mut rule = Rule { glob: glob.to_owned(), ..Rule::default() };
    for setting in settings.split(',') {
        let (name, value) = setting.split_once('=').ok_or(FORM)?;
        let is_new = set(&mut rule, name, value).map_err(|why| format!("{setting}: {why}"))?;
        if !is_new {
            return Err(format!("{name} is given twice: leave one of them out"));
        }
    }
    Ok(rule)
}

/// Returns whether it was not set before.
fn set(rule: &mut Rule, name: &str, value: &str) -> Result<bool, String> {
    Ok(match name {
        "chunk" => rule.chunk_bytes.replace(units::parse_size(value)?).is_none(),
        "max-age" => {
            let max_age = units::parse_duration(value)?.as_millis();
            rule.max_age_ms.replace(u64::try_from(max_age).unwrap_or(u64::MAX)).is_none()
        }
        "priority" => rule.priority.replace(priority(value)?).is_none(),
        "coalesce" => rule.coalesce.replace(switch(value)?).is_none(),
        _ => return Err("names are chunk, max-age, priority and coalesce".to_owned()),
    })
}

fn priority(value: &str) -> Result<Priority, String> {
    match value {
        "normal" => Ok(Priority::Normal),
        "high" => Ok(Priority::High),
        _ => Err("normal or high".to_owned()),
    }
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings() {
        let rule = parse("a:b/*.{x,y}:chunk=64M,max-age=5s,priority=high,coalesce=off").unwrap();
        let expected = Rule {
            glob: "a:b/*.{x,y}".to_owned(),
            chunk_bytes: Some(64 << 20),
            max_age_ms: Some(5000),
            priority: Some(Priority::High),
            coalesce: Some(false),
        };
        assert_eq!(rule, expected);
        assert_eq!(parse("*:coalesce=on").unwrap().coalesce, Some(true));
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, words) in [
            ("OUTPUT*", "a rule is GLOB:"),
            ("OUTPUT*:", "a rule is GLOB:"),
            ("*:chunk", "a rule is GLOB:"),
            ("*:chunk=64X", "chunk=64X: a size is"),
            ("*:max-age=5", "a duration is"),
            ("*:prio=high", "prio=high: names are"),
            ("*:priority=urgent", "normal or high"),
            ("*:coalesce=no", "on or off"),
            ("*:chunk=1M,chunk=2M", "twice"),
            ("[a:chunk=1M", "is no glob"),
            (":chunk=1M", "a glob is missing"),
            ("../x:chunk=1M", "would match nothing"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
