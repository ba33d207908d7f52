//! Writes manual pages and shell completions, made from the command line's own definition:
//! `cargo run --example manual -- DIRECTORY`. A program of its own, so that the filesystem's has
//! nothing of it. DIRECTORY gets `man/*.1` and `completions/`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use coalescefs::cli::manual;
use coalescefs::cli::topics::TOPICS;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: manual DIRECTORY");
        return ExitCode::from(2);
    };
    match pages(&directory.join("man")).and_then(|()| completions(&directory.join("completions"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// A page for the program, with the topics, and one for each command.
fn pages(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let program = manual::command();
    let commands: Vec<Command> =
        program.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let names: Vec<_> = commands.iter().map(|it| format!("coalescefs-{}", it.get_name())).collect();
    let mut main = File::create(directory.join("coalescefs.1"))?;
    write_page(&program, "coalescefs", &mut main)?;
    topics(&mut main)?;
    see_also(&names, &mut main)?;
    for (command, name) in commands.into_iter().zip(names) {
        let mut file = File::create(directory.join(format!("{name}.1")))?;
        write_page(&command, &name, &mut file)?;
        see_also(&["coalescefs".to_owned()], &mut file)?;
    }
    Ok(())
}

fn write_page(command: &Command, name: &str, out: &mut impl Write) -> io::Result<()> {
    let manual = format!("coalescefs {}", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone().disable_help_flag(true).display_name(name))
        .title(name.to_uppercase())
        .section("1")
        .source(&manual)
        .manual("coalescefs manual");
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    if command.has_subcommands() {
        page.render_subcommands_section(out)?;
    }
    Ok(())
}

/// As they are: their columns are part of them.
fn topics(out: &mut impl Write) -> io::Result<()> {
    for topic in &TOPICS {
        let mut roff = Roff::new();
        roff.control("SH", [topic.name.to_uppercase().as_str()]);
        roff.control("nf", []);
        for line in topic.text.lines() {
            match line {
                "" => roff.control("sp", []),
                line => roff.text([roman(line)]),
            };
        }
        roff.control("fi", []);
        roff.to_writer(out)?;
    }
    Ok(())
}

fn see_also(names: &[String], out: &mut impl Write) -> io::Result<()> {
    let mut roff = Roff::new();
    let references: Vec<_> = names.iter().map(|name| format!("{name}(1)")).collect();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(format!("{}, mount.coalescefs(8)", references.join(", ")))]);
    roff.to_writer(out)
}

/// Under the names by which each shell looks for them.
fn completions(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (shell, name) in
        [(Shell::Bash, "coalescefs"), (Shell::Zsh, "_coalescefs"), (Shell::Fish, "coalescefs.fish")]
    {
        let mut file = File::create(directory.join(name))?;
        clap_complete::generate(shell, &mut manual::command(), "coalescefs", &mut file);
    }
    Ok(())
}
