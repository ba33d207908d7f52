//! `coalescefs help [TOPIC]`: a command's help, or a page about something that concerns several.

use clap::CommandFactory;

use crate::cli::args::{Arguments, HelpArgs};
use crate::cli::exit::CliError;
use crate::cli::print;
use crate::cli::topics::{self, TOPICS};

/// Prints it.
pub fn run(args: &HelpArgs) -> Result<(), CliError> {
    let mut program = Arguments::command();
    let Some(topic) = &args.topic else {
        return print(&program.render_help().to_string());
    };
    if let Some(topic) = topics::find(topic) {
        return print(&format!("{}\n", topic.text));
    }
    // The usage lines then name the program.
    program.build();
    match program.find_subcommand_mut(topic).filter(|command| !command.is_hide_set()) {
        Some(command) => print(&command.render_long_help().to_string()),
        None => {
            let names: Vec<_> = TOPICS.iter().map(|topic| topic.name).collect();
            Err(CliError::Usage(format!(
                "there is no help about '{topic}': the topics are {}, and the commands ('coalescefs \
                 help')",
                names.join(", ")
            )))
        }
    }
}
