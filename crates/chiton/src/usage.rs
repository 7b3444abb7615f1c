//! What is said of arguments that make no sense, and with which exit code.

use std::ffi::OsString;

use chiton_model::Error;

use crate::commands::exec;
use crate::output;

/// Exit code of wrong usage.
const USAGE: u8 = 2;

/// Reports what the parser found: help and version on standard output, faults on standard error.
pub(crate) fn report(error: &clap::Error, arguments: &[OsString]) -> u8 {
    if !error.use_stderr() {
        // A reader of the help that went away has seen enough.
        drop(error.print());
        return 0;
    }
    let own = own(arguments);
    if own.contains(&"--json") {
        let text = error.render().to_string();
        let text = text.trim_end();
        output::fail(&Error::invalid("arguments", text.strip_prefix("error: ").unwrap_or(text)), true);
    } else {
        drop(error.print());
    }
    if is_exec(&own) { exec::OWN_FAILURE } else { USAGE }
}

/// The words that are for this program: what comes after `--` is somebody else's.
fn own(arguments: &[OsString]) -> Vec<&str> {
    arguments.iter().skip(1).filter_map(|word| word.to_str()).take_while(|word| *word != "--").collect()
}

/// Whether the words are for `sandbox exec`, where 2 would be taken for the command's own code.
fn is_exec(own: &[&str]) -> bool {
    let mut commands = Vec::new();
    let mut words = own.iter();
    while let Some(word) = words.next() {
        match *word {
            // Its value is no command.
            "--gateway" => drop(words.next()),
            word if word.starts_with('-') => {}
            word => commands.push(word),
        }
    }
    commands.starts_with(&["sandbox", "exec"])
}
