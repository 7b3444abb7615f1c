//! Chores. `cargo xtask test` sets up what the tests need and runs them all; `lint` and `bench` do what they say; `crash`
//! kills a real gateway over and over; `limits` prints what happens when limits are exceeded; `suite` prints driver × behaviour; `guest` runs the driver's tests in a virtual machine; `ci` is what the gate runs.
#![forbid(unsafe_code)]

mod engines;
mod guest;
mod setup;
mod suite;

use std::env;
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask test [ARGS of cargo test] | lint | bench [ARGS] | crash [ARGS] | guest [TESTS] | engines … | suite [CASE] | limits | ci";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match task.as_str() {
        "test" => setup::prepare().and_then(|()| engines::around(|variables| test(&rest, variables))),
        "engines" => engines::main(&rest),
        "lint" => lint(),
        "bench" => setup::prepare().and_then(|()| bench(&rest)),
        "crash" => setup::prepare().and_then(|()| crash(rest)),
        "suite" => setup::prepare().and_then(|()| engines::around(|variables| suite::run(&rest, variables))),
        "limits" => setup::prepare().and_then(|()| limits()),
        "guest" => setup::prepare_guest().and_then(|()| guest::run(&rest)),
        "ci" => {
            setup::prepare().and_then(|()| lint()).and_then(|()| engines::around(|variables| test(&rest, variables)))
        }
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs cargo and shows what it says.
fn cargo(arguments: &[&str]) -> Result<(), String> {
    cargo_with(arguments, &engines::Variables::new())
}

fn cargo_with(arguments: &[&str], variables: &engines::Variables) -> Result<(), String> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("$ cargo {}", arguments.join(" "));
    let status = engines::status_of(Command::new(program).args(arguments).envs(variables.iter().cloned()))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", arguments.join(" "))) }
}

fn test(rest: &[String], variables: &engines::Variables) -> Result<(), String> {
    let mut arguments = vec!["test", "--locked"];
    // Beside this, cargo takes no notice of the names of packages.
    if !rest.iter().take_while(|word| *word != "--").any(|word| word.starts_with("-p") || word.starts_with("--package"))
    {
        arguments.push("--workspace");
    }
    arguments.extend(rest.iter().map(String::as_str));
    cargo_with(&arguments, variables)
}

/// Exceeds every limit and prints what happened, for root and for an ordinary user.
fn limits() -> Result<(), String> {
    for (binary, test) in [("table", "every_limit"), ("ordinary", "the_table_of_limits")] {
        cargo(&[
            "test",
            "--quiet",
            "--locked",
            "-p",
            "chiton-driver-oci",
            "--test",
            binary,
            test,
            "--",
            "--nocapture",
        ])?;
    }
    Ok(())
}

fn lint() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    // Its database of advisories needs the network; what comes in and under which licence does not.
    if Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return cargo(&["deny", "check", "bans", "licenses", "sources"]);
    }
    eprintln!("xtask: SKIPPED cargo deny: it is not installed (cargo install cargo-deny --locked)");
    Ok(())
}

fn bench(rest: &[String]) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "chiton", "--locked"])?;
    cargo(&["build", "--release", "--package", "chiton-tests", "--bin", "chiton-test", "--locked"])?;
    let mut arguments = vec!["run", "--release", "--package", "chiton-bench", "--locked", "--"];
    arguments.extend(rest.iter().map(String::as_str));
    cargo(&arguments)
}

fn crash(mut rest: Vec<String>) -> Result<(), String> {
    cargo(&["build", "--package", "chiton-tests", "--bins", "--locked"])?;
    let run = |rest: &[String], variables: &engines::Variables| {
        let mut arguments =
            vec!["run", "--quiet", "--package", "chiton-tests", "--bin", "chiton-crash", "--locked", "--"];
        arguments.extend(rest.iter().map(String::as_str));
        cargo_with(&arguments, variables)
    };
    let engine = ["docker", "podman"].into_iter().find(|name| names_driver(&rest, name));
    let given = engine.is_none_or(|name| env::var_os(format!("ENGINES_{}", name.to_uppercase())).is_some());
    if given {
        return run(&rest, &engines::Variables::new());
    }
    engines::alone("crash", |variables| {
        // Nobody else has these engines: they are killed, too.
        if !rest.iter().any(|word| word.starts_with("--engine-kills")) {
            rest.extend(["--engine-kills", ENGINE_KILLS].map(str::to_owned));
        }
        run(&rest, variables)
    })
}

/// At one in so many kills of a gateway its engine is killed, too.
const ENGINE_KILLS: &str = "10";

/// Whether the words choose this driver.
fn names_driver(words: &[String], name: &str) -> bool {
    let follows = words.windows(2).any(|pair| pair[0] == "--driver" && pair[1] == name);
    follows || words.iter().any(|word| word.strip_prefix("--driver=") == Some(name))
}
