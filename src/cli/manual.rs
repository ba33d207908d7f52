//! The command line as manual pages and completions are made from it: see `examples/manual.rs`.

use clap::{Command, CommandFactory};

use super::args::{Arguments, HERE, MORE};

/// The program's definition, without what is true of this machine only.
pub fn command() -> Command {
    let mut program = Arguments::command();
    program.build();
    let visible = program.clone();
    for command in visible.get_subcommands() {
        program = program.mut_subcommand(command.get_name(), |command| {
            let is_short = command.get_after_help().is_some_and(|help| help.to_string() == MORE);
            let command = if is_short { command.after_help(None::<&'static str>) } else { command };
            command.mut_args(|arg| {
                // The manual has the long ones only.
                let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string);
                match help {
                    Some(help) => arg.long_help(None::<&'static str>).help(without_here(&help)),
                    None => arg,
                }
            })
        });
    }
    program
}

fn without_here(help: &str) -> String {
    match help.split_once(HERE) {
        Some((general, here)) => {
            format!("{general}{}", here.find(']').map_or("", |end| &here[end..]))
        }
        None => help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a manual made here is right elsewhere.
    #[test]
    fn nothing_of_this_machine_is_in_the_manual() {
        assert_eq!(
            without_here("most [default: 1 to 2; here 3 GiB] x"),
            "most [default: 1 to 2] x"
        );
        for command in command().get_subcommands_mut() {
            assert!(
                !command.render_long_help().to_string().contains(HERE),
                "{}",
                command.get_name()
            );
        }
    }
}
