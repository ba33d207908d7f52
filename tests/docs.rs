//! Goal: what the documents tell people to type works, as they tell it.
//! Method: the `sh` blocks of each document are run in order, in one shell each, in an empty
//! directory with an output directory `out` and a program `script` that writes into it. A block whose
//! info string says `sh skip: REASON` is counted as ignored.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Trial};

use support::{PROGRAM, processes_of};

/// For a whole document; far more than any takes.
const LIMIT: &str = "300";

/// What stands between two fences.
#[derive(Debug, PartialEq)]
struct Block {
    /// Of the first fence.
    line: usize,
    /// Why it is not run.
    skip: Option<String>,
    text: String,
}

/// The blocks of shell commands of a document. `Err` names a block that is skipped without a reason.
fn blocks(document: &str) -> Result<Vec<Block>, String> {
    let mut found: Vec<Block> = Vec::new();
    // The info string of the block that the line is in.
    let mut inside: Option<&str> = None;
    for (number, line) in document.lines().enumerate() {
        match (line.strip_prefix("```"), inside) {
            (Some(info), None) => {
                inside = Some(info);
                let skip = info.strip_prefix("sh skip:").map(|reason| reason.trim().to_owned());
                if skip.as_deref() == Some("") {
                    return Err(format!("line {}: no reason for skipping", number + 1));
                }
                if info == "sh" || skip.is_some() {
                    found.push(Block { line: number + 1, skip, text: String::new() });
                }
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(info)) if info.split(' ').next() == Some("sh") => {
                let Some(block) = found.last_mut() else {
                    return Err(format!("line {}: neither 'sh' nor 'sh skip:'", number + 1));
                };
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, _) => {}
        }
    }
    Ok(found)
}

/// A shell passes over a `! COMMAND` that succeeds; here it is an error.
fn checked(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("! ") {
        Some(command) => format!("if {command}; then exit 99; fi\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Runs the blocks; what is mounted and running afterwards is ended whatever happens.
fn run(document: &str, blocks: &[Block]) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let work = root.join("work");
    fs::create_dir_all(work.join("out")).unwrap();
    let script = "#!/bin/sh\nfor n in $(seq 40); do seq 1 1000 >out/OUTPUT$n & done; wait\n";
    fs::write(work.join("script"), script).unwrap();
    fs::set_permissions(work.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let programs = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut failure = None;
    for block in blocks.iter().filter(|block| block.skip.is_none()) {
        // Standard error to a file: a daemon that stays would keep a pipe open.
        let said = root.join("said");
        let output = fs::File::create(&said).unwrap();
        let status = Command::new("timeout")
            .args(["-k", "5", LIMIT, "bash", "-euxo", "pipefail", "-c", &checked(&block.text)])
            .current_dir(&work)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        if !status.success() {
            let said = fs::read_to_string(&said).unwrap();
            failure = Some(format!("{document}:{}: {status}\n{said}", block.line));
            break;
        }
    }
    let left = leave_nothing(&work);
    assert_eq!(failure, None, "{}", failure.as_deref().unwrap_or_default());
    assert!(left.is_empty(), "{document} leaves mounts: {left:?}");
}

/// Ends what was mounted below; returns what that was.
fn leave_nothing(below: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points: Vec<String> =
        points.filter(|point| Path::new(point).starts_with(below)).map(str::to_owned).collect();
    for point in points.iter().rev() {
        let _ = Command::new("umount").args(["-l", point]).status();
        for pid in processes_of(Path::new(point)) {
            // SAFETY: a daemon of this test's own mount.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
    }
    points
}

fn blocks_are_found() {
    let text = "```sh\na\n```\n```\nb\n```\n```sh skip: too long\nc\n```\n```sh\nd\ne\n```\n";
    let found = blocks(text).unwrap();
    let parts: Vec<_> = found.iter().map(|it| (it.line, it.skip.as_deref(), &*it.text)).collect();
    assert_eq!(parts, [(1, None, "a\n"), (7, Some("too long"), "c\n"), (10, None, "d\ne\n")]);
    assert_eq!(checked("a\n! b c\n"), "a\nif b c; then exit 99; fi\n");
    assert!(blocks("```sh skip:\nx\n```\n").is_err());
    assert!(blocks("```sh later\nx\n```\n").is_err());
}

/// All that there are, by their paths in the repository.
fn documents() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| format!("docs/{}", name.to_str().unwrap()));
    let mut documents: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    documents.push("README.md".to_owned());
    documents.sort();
    documents
}

fn main() {
    let arguments = Arguments::from_args();
    let skip = support::cannot_mount().or_else(support::cannot_be_root);
    if let Some(reason) = &skip {
        eprintln!("the documents' commands are not run: {reason}");
    }
    let mut trials = vec![Trial::test("blocks_are_found", || {
        blocks_are_found();
        Ok(())
    })];
    for document in documents() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&document);
        let blocks = blocks(&fs::read_to_string(path).unwrap()).unwrap();
        for block in blocks.iter().filter(|block| block.skip.is_some()) {
            let reason = block.skip.as_deref().unwrap_or_default();
            let name = format!("{document}:{} ({reason})", block.line);
            trials.push(Trial::test(name, || Ok(())).with_ignored_flag(true));
        }
        if blocks.iter().all(|block| block.skip.is_some()) {
            continue;
        }
        let trial = Trial::test(document.clone(), move || {
            run(&document, &blocks);
            Ok(())
        });
        trials.push(trial.with_ignored_flag(skip.is_some()));
    }
    libtest_mimic::run(&arguments, trials).exit();
}
