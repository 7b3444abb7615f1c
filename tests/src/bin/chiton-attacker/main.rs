//! Attacks on the machine from inside a sandbox, one by name, each for real.
//!
//! The end-to-end tests copy this program into a sandbox and run it there; they run the same program outside of any sandbox
//! too, where an attack has to succeed: a test that could not fail would prove nothing.
//!
//! `chiton-attacker NAME[=ARGUMENT[,ARGUMENT]...]...` tries each attack in a process of its own, since one that succeeds
//! changes what the next may do, and a filter may kill it. For each it prints one line: `NAME succeeded DETAIL`,
//! `NAME refused ERRNO`, or `NAME killed SIGNAL`. It ends with 0 when all could be tried, whatever came of them.
#![expect(unsafe_code, reason = "system calls that no library offers; all of it is in `raw`")]

mod files;
mod kernel;
mod mounts;
mod namespaces;
mod network;
mod processes;
mod raw;
mod resources;

use std::env;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use nix::errno::Errno;

/// What an attack gave, in a word or two, or what stopped it.
type Tried = io::Result<String>;
/// One attack.
type Attack = fn(&[String]) -> Tried;

/// Said of the process that tries one attack.
const ONE: &str = "--one";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == ONE => one(rest),
        Some(_) => all(&arguments),
        None => {
            eprintln!("usage: chiton-attacker NAME[=ARGUMENT[,ARGUMENT]...]...");
            ExitCode::from(2)
        }
    }
}

fn find(name: &str) -> Option<Attack> {
    let tables = [
        files::ATTACKS,
        kernel::ATTACKS,
        mounts::ATTACKS,
        namespaces::ATTACKS,
        network::ATTACKS,
        processes::ATTACKS,
        resources::ATTACKS,
    ];
    tables.into_iter().flatten().find(|(known, _)| *known == name).map(|(_, attack)| *attack)
}

fn one(arguments: &[String]) -> ExitCode {
    let Some((name, rest)) = arguments.split_first() else { return ExitCode::from(2) };
    let Some(attack) = find(name) else {
        eprintln!("there is no attack {name}");
        return ExitCode::from(2);
    };
    match attack(rest) {
        Ok(detail) => println!("succeeded {detail}"),
        Err(error) => println!("refused {}", named(&error)),
    }
    ExitCode::SUCCESS
}

/// `EPERM`, or the error's words where the kernel said nothing.
fn named(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| format!("{:?}", Errno::from_raw(number)))
}

fn all(attacks: &[String]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for attack in attacks {
        let (name, rest) = attack.split_once('=').map_or((attack.as_str(), None), |(name, rest)| (name, Some(rest)));
        let rest = rest.into_iter().flat_map(|rest| rest.split(','));
        let tried = Command::new("/proc/self/exe").arg(ONE).arg(name).args(rest).output();
        let line = match tried {
            Err(error) => format!("untried {error}"),
            Ok(output) => match (output.status.signal(), output.status.code()) {
                (Some(signal), _) => format!("killed {signal}"),
                (None, Some(0)) => String::from_utf8_lossy(&output.stdout).trim_end().replace('\n', " | "),
                (None, _) => format!("untried {}", String::from_utf8_lossy(&output.stderr).trim_end()),
            },
        };
        if line.starts_with("untried") {
            code = ExitCode::FAILURE;
        }
        // A reader that went away is not what is tested.
        drop(writeln!(io::stdout(), "{attack} {line}"));
    }
    code
}

/// An argument that an attack cannot do without.
fn argument<'a>(arguments: &'a [String], index: usize, what: &str) -> io::Result<&'a str> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("the attack needs {what}"));
    arguments.get(index).map(String::as_str).ok_or_else(missing)
}

/// A failure that has no number of the kernel's.
fn failed(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
