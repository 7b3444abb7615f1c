//! The example client: a program in a sandbox of its own, and nothing left whatever comes of it.

use chiton_example_client_rust::{Ran, run_once};
use chiton_model::{Error, ErrorKind};
use chiton_proto::v1::SandboxSpec;
use serde_json::json;

use crate::harness::{Gateway, root};
use crate::life::CHAIN;

fn run(gateway: &Gateway, spec: SandboxSpec, argv: &[&str]) -> Result<Ran, Error> {
    let argv = argv.iter().map(ToString::to_string).collect();
    let ran = gateway.ask(async move |mut client| run_once(&mut client, spec, argv).await);
    assert_eq!(gateway.json(&["sandbox", "list"]), json!([]), "{ran:?}");
    ran
}

#[test]
fn the_example_runs_a_program_and_leaves_nothing_also_when_the_create_fails() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let ran = run(&gateway, SandboxSpec::default(), &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(ran, Ok(Ran { code: 3, stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec() }));
    let labels = [("fault/before_start".to_owned(), "fail".to_owned())].into();
    let error = run(&gateway, SandboxSpec { labels, ..SandboxSpec::default() }, &["true"]).expect_err("it is undone");
    assert_eq!(error.kind, ErrorKind::Refused { by: "fault".to_owned() }, "{error}");
    let missing = SandboxSpec { image: "dir:/no/such/folder".to_owned(), ..SandboxSpec::default() };
    let error = run(&gateway, missing, &["true"]).expect_err("refused before anything is made");
    assert!(matches!(error.kind, ErrorKind::Invalid { .. } | ErrorKind::NotFound), "{error:?}");
}
