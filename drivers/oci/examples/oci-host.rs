//! The three modes that this driver needs of other binaries, in one: the launch child (a hidden subcommand of the main
//! binary), the monitor (a mode of the agent) and a stand-in for the agent. Tests and measurements run it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|mode| mode.to_str()) {
        Some("oci-launch") => chiton_driver_oci::launch::main(args),
        Some("monitor") => chiton_oci_monitor::main(args),
        Some("agent") => agent(args),
        _ => {
            eprintln!("usage: oci-host oci-launch|monitor|agent …");
            ExitCode::from(2)
        }
    }
}

/// Says which agent variables it was given and whether its socket answers, and becomes the command.
fn agent(args: impl Iterator<Item = OsString>) -> ExitCode {
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("CHITON_")) {
        println!("{name}={value}");
    }
    let socket = std::env::var_os("CHITON_AGENT_SOCKET").unwrap_or_default();
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        println!("connected");
    }
    let command: Vec<OsString> = args.skip_while(|argument| argument == "--").collect();
    let Some((program, arguments)) = command.split_first() else { return ExitCode::SUCCESS };
    let workdir = std::env::var_os("CHITON_AGENT_WORKDIR").unwrap_or_else(|| "/".into());
    let error = Command::new(program).args(arguments).current_dir(workdir).exec();
    eprintln!("{error}");
    ExitCode::from(127)
}
