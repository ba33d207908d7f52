//! Text for people; sizes and durations as people write and read them. `K`, `M`, `G` are powers of 1024, with or
//! without `B` or `iB`.

use std::time::Duration;

use indicatif::HumanBytes;
use parse_size::Config;

/// Bytes from `20M`, `20MiB`, `1.5 GiB` or `4096`. `Err` has a hint for the user.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let parsed = Config::new().with_binary().parse_size(text);
    parsed.map_err(|_| "a size is a number with K, M, G or T, as in 20M or 1GiB".to_owned())
}

/// As [`parse_size()`], but not zero: for rates.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("nothing would ever be written; leave it out for no limit".to_owned()),
        rate => Ok(rate),
    }
}

/// A duration from `30s`, `500ms` or `2min`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a duration is a number with ms, s, min or h, as in 30s".to_owned())
}

/// Bytes for people: exact where it is short (`20 MiB`), else with two digits (`1.95 GiB`).
pub fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string().replace(".00 ", " ")
}

/// Bytes as an option takes them, exactly: `20M`, `1G`, `4096`.
pub fn option_size(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let whole = |(_, shift): &(&str, u32)| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match units.into_iter().find(whole) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// A word of a command line to be copied into a shell; as it is where that means the same.
pub fn shell_word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A line that begins behind `indent` columns, broken between words so that it ends within `columns`;
/// what follows begins there, too. A word that is too long stays whole.
pub fn fold(text: &str, indent: usize, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let mut folded = String::new();
    let mut column = indent;
    for (number, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > columns {
            folded.push('\n');
            folded.push_str(&" ".repeat(indent));
            column = indent;
        } else if number > 0 {
            folded.push(' ');
            column += 1;
        }
        folded.push_str(word);
        column += length;
    }
    folded
}

/// Milliseconds for people: `1m 5s`, `350ms`; above a second, without milliseconds.
pub fn duration_ms(ms: u64) -> String {
    let rounded = if ms < 1000 { ms } else { ms / 1000 * 1000 };
    humantime::format_duration(Duration::from_millis(rounded)).to_string()
}

/// Text for a terminal: names of files hold any bytes, and control characters in them could move
/// the cursor, hide lines or make new ones.
pub fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_folded_between_words() {
        let text = "one two, three; four fivefivefive six";
        assert_eq!(fold(text, 4, None), text);
        assert_eq!(fold(text, 4, Some(80)), text);
        let narrow = "one two,\n    three;\n    four\n    fivefivefive\n    six";
        assert_eq!(fold(text, 4, Some(12)), narrow);
        assert_eq!(fold("", 4, Some(12)), "");
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("20M", 20 << 20),
            ("20MB", 20 << 20),
            ("20MiB", 20 << 20),
            ("1GiB", 1 << 30),
            ("1.5G", 3 << 29),
            ("4096", 4096),
            ("64k", 64 << 10),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "20X", "-1", "1e99", "lots"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_rate("0").is_err());
        assert_eq!(parse_rate("10M"), Ok(10 << 20));
    }

    #[test]
    fn what_is_copied_into_a_shell_stays_one_word() {
        for text in ["/data/out", "with space", "it's", "$HOME `x` \"y\" \\", "", "*"] {
            let script = format!("printf %s {}", shell_word(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
        assert_eq!(shell_word("/data/out"), "/data/out");
        assert_eq!((option_size(4 << 20), option_size(1280 << 20)), ("4M".into(), "1280M".into()));
    }

    #[test]
    fn names_cannot_draw_on_the_terminal() {
        assert_eq!(printable("a\n\u{1b}[2Jb\u{9b}é"), "a\\n\\u{1b}[2Jb\\u{9b}é");
    }

    proptest::proptest! {
        /// Goal: nothing that is given for a size, a rate or a duration makes a parser panic.
        #[test]
        fn any_text_is_parsed_or_refused(text in ".*", digits in "-?[0-9]{0,40}[.e]?[0-9]{0,5} ?[a-zA-Z]{0,4}") {
            for text in [text, digits] {
                let _ = (parse_size(&text), parse_rate(&text), parse_duration(&text));
            }
        }

        /// Goal: what is shown to be copied means what was meant.
        #[test]
        fn options_are_read_back(number in proptest::prelude::any::<u64>(), shift in 0u32..60) {
            let number = number >> shift << (shift / 2);
            proptest::prop_assert_eq!(parse_size(&option_size(number)), Ok(number));
        }

        #[test]
        fn every_figure_can_be_shown(number in proptest::prelude::any::<u64>()) {
            let shown = [size(number), duration_ms(number)];
            proptest::prop_assert!(shown.iter().all(|text| !text.is_empty()));
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("30").is_err(), "a bare number could be anything");
        assert_eq!(duration_ms(350), "350ms");
        assert_eq!(duration_ms(65_350), "1m 5s");
        assert_eq!(size(20 << 20), "20 MiB");
        assert_eq!(size(3 << 29), "1.50 GiB");
    }
}
