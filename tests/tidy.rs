//! Goal: the layering and the habits that the architecture promises, read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(below: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "no sources below {below}");
    files
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("a source is text")
}

fn is_test(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with("tests.rs") || name.contains("/tests/")
}

/// What is before the unit tests of a file.
fn code(path: &Path) -> String {
    let text = text(path);
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].to_owned()
}

/// The modules of this crate that a file names.
fn imports(path: &Path) -> Vec<String> {
    let text = code(path);
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        modules.push(rest[..end].to_owned());
    }
    modules
}

fn assert_imports_only(module: &str, allowed: &[&str]) {
    for path in sources(&format!("src/{module}")) {
        if is_test(&path) {
            continue;
        }
        for import in imports(&path) {
            let is_allowed = import == module || allowed.contains(&import.as_str());
            assert!(is_allowed, "{} imports {import}", path.display());
        }
    }
}

#[test]
fn the_pure_core_imports_only_std_and_itself() {
    for module in ["buffer", "schedule"] {
        assert_imports_only(module, &["buffer", "schedule"]);
        for path in sources(&format!("src/{module}")) {
            if is_test(&path) {
                continue;
            }
            let text = code(&path);
            for impure in
                ["std::time", "std::thread", "std::fs", "std::io", "libc::", "log::", "std::sync"]
            {
                assert!(!text.contains(impure), "{} uses {impure}", path.display());
            }
        }
    }
}

#[test]
fn data_flows_one_way() {
    assert_imports_only("backing", &[]);
    assert_imports_only("arena", &["buffer", "config"]);
    let below_drain = ["arena", "backing", "buffer", "clock", "isolation", "priority", "schedule"];
    assert_imports_only("drain", &below_drain);
    let below_fs = [
        "arena",
        "backing",
        "buffer",
        "clock",
        "config",
        "control",
        "drain",
        "isolation",
        "killpoint",
        "priority",
        "schedule",
        "stats",
    ];
    assert_imports_only("fs", &below_fs);
    assert_imports_only("stats", &["arena", "control"]);
    assert_imports_only("fuse", &["arena", "backing", "fs", "isolation", "killpoint"]);
}

#[test]
fn files_are_short_and_begin_with_a_head() {
    for path in sources("src") {
        let text = text(&path);
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
        assert!(is_test(&path) || text.starts_with("//!"), "{} has no head", path.display());
    }
}

#[test]
fn unsafe_says_why_it_is_sound() {
    for path in sources("src") {
        let text = text(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let is_block = line.contains("unsafe {") || line.contains("unsafe impl");
            let above = &lines[number.saturating_sub(8)..number];
            let is_explained = above.iter().any(|line| line.contains("// SAFETY:"));
            assert!(!is_block || is_explained, "{}:{}", path.display(), number + 1);
        }
    }
}

#[test]
fn nothing_panics_on_purpose() {
    for path in sources("src") {
        if is_test(&path) {
            continue;
        }
        let text = code(&path);
        for word in [".unwrap()", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}
