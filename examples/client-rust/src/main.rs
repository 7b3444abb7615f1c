//! `run-once PROGRAM ARGUMENT…`: its output and its exit code, from a sandbox that is gone afterwards.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use chiton_example_client_rust::run_once;
use chiton_model::Error;
use chiton_proto::v1::SandboxSpec;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "run-once: {error}"));
            ExitCode::from(125)
        }
    }
}

async fn run() -> Result<ExitCode, Error> {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    // The one of the environment, else where a gateway of this user listens.
    let mut client = chiton_client::connect(&chiton_client::discover(None)?).await?;
    let ran = run_once(&mut client, SandboxSpec::default(), argv).await?;
    let written =
        std::io::stdout().write_all(&ran.stdout).and_then(|()| std::io::stderr().write_all(&ran.stderr)).is_ok();
    Ok(if written { ExitCode::from(u8::try_from(ran.code).unwrap_or(1)) } else { ExitCode::FAILURE })
}
