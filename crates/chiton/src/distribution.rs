//! What is compiled in, and the way into the program.

use std::ffi::OsString;
use std::process::ExitCode;

use chiton_gateway::{DriverKind, GuestKind, Plugins};
use chiton_lifecycle::crash::Points;
use chiton_lifecycle::extension::ExtensionKind;
use chiton_model::Error;
use clap::Parser as _;

use crate::cli::Cli;
use crate::commands;
use crate::output;
use crate::usage;

/// A program in the making.
#[derive(Default)]
pub struct Distribution {
    pub(crate) plugins: Plugins,
    errors: Vec<Error>,
}

impl Distribution {
    /// A program without drivers and extensions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind of driver.
    #[must_use]
    pub fn driver(mut self, kind: DriverKind) -> Self {
        self.errors.extend(self.plugins.driver(kind).err());
        self
    }

    /// Adds an extension. An error of its constructor is reported by [`Distribution::main`], with all others.
    #[must_use]
    pub fn extension(mut self, kind: Result<ExtensionKind, Error>) -> Self {
        match kind.and_then(|kind| self.plugins.extension(kind)) {
            Ok(()) => {}
            Err(error) => self.errors.push(error),
        }
        self
    }

    /// Adds what serves agents of another make, which drivers may bring into their sandboxes. There is one at most.
    #[must_use]
    pub fn guests(mut self, kind: GuestKind) -> Self {
        if self.plugins.guests.is_some() {
            self.errors
                .push(Error::already_exists(format!("two servers of guests are registered, one as {:?}", kind.name)));
        }
        self.plugins.guests = Some(kind);
        self
    }

    /// Has the places where a crash may come watched: for tests that kill the program there. A release build announces none.
    #[must_use]
    pub fn crash_points(mut self, points: Points) -> Self {
        self.plugins.points = points;
        self
    }

    /// Runs the program with this process's command line.
    pub fn main(self) -> ExitCode {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        // Helper processes of drivers must be single-threaded: they come before everything else.
        for kind in self.plugins.drivers() {
            if let Some(code) = (kind.early)(arguments.get(1..).unwrap_or_default()) {
                return code;
            }
        }
        if !self.errors.is_empty() {
            return output::fail_all(&self.errors, false);
        }
        let cli = match Cli::try_parse_from(&arguments) {
            Ok(cli) => cli,
            Err(error) => return ExitCode::from(usage::report(&error, &arguments)),
        };
        if let Some(fault) = cli.fault() {
            return ExitCode::from(usage::report(&fault, &arguments));
        }
        commands::run(&self.plugins, cli)
    }
}
