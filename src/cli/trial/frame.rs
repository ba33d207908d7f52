//! What the lines of a table are drawn with.

use comfy_table::presets::{ASCII_FULL_CONDENSED, UTF8_FULL_CONDENSED};
use comfy_table::{ContentArrangement, Table};

/// What lines a table is drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Anywhere.
    Ascii,
    /// Where the locale says UTF-8.
    Utf8,
}

impl Frame {
    /// By the locale, as other programs do; POSIX: the first of these that is not empty decides.
    pub fn of_locale() -> Frame {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_lowercase();
        let is_utf8 = locale.contains("utf-8") || locale.contains("utf8");
        if is_utf8 { Frame::Utf8 } else { Frame::Ascii }
    }

    /// An empty table, as wide as what it holds.
    pub fn table(self) -> Table {
        let mut table = Table::new();
        table.load_style(match self {
            Frame::Ascii => ASCII_FULL_CONDENSED,
            Frame::Utf8 => UTF8_FULL_CONDENSED,
        });
        table.set_content_arrangement(ContentArrangement::Disabled);
        table
    }
}
