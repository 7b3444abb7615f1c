//! What is said of arguments that make no sense, and with which exit code.

use std::ffi::OsString;

use chiton_model::Error;

use crate::output;

/// Exit code of wrong usage, of every command: nothing ran, and the text says so.
const USAGE: u8 = 2;

/// Reports what the parser found: help and version on standard output, faults on standard error.
pub(crate) fn report(error: &clap::Error, arguments: &[OsString]) -> u8 {
    if !error.use_stderr() {
        // A reader of the help that went away has seen enough.
        drop(error.print());
        return 0;
    }
    if own(arguments).contains(&"--json") {
        let text = error.render().to_string();
        let text = text.trim_end();
        output::fail(&Error::invalid("arguments", text.strip_prefix("error: ").unwrap_or(text)), true);
    } else {
        drop(error.print());
    }
    USAGE
}

/// The words that are for this program: what comes after `--` is somebody else's.
fn own(arguments: &[OsString]) -> Vec<&str> {
    arguments.iter().skip(1).filter_map(|word| word.to_str()).take_while(|word| *word != "--").collect()
}
