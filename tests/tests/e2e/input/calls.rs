//! What a client of its own may send and no command line does.

use std::fmt::Write as _;

use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use tokio_stream::iter;

use super::nothing_is_stored;
use crate::harness::{Gateway, root};
use crate::life::CHAIN;

/// A tar of one file, whose name nobody checked.
fn tar(name: &str, kind: tar::EntryType, link: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(512 * 3, 0);
    bytes
}

fn by_name(name: &str) -> wire::SandboxSelector {
    wire::SandboxSelector { by: Some(wire::sandbox_selector::By::Name(name.to_owned())), ..Default::default() }
}

fn upload(gateway: &Gateway, path: &str, tar: Vec<u8>) -> String {
    use agent::write_tar_request::Input;
    let message = |input| wire::WriteTarRequest {
        input: Some(wire::write_tar_request::Input::Tar(agent::WriteTarRequest { input: Some(input) })),
    };
    let messages = [
        wire::WriteTarRequest { input: Some(wire::write_tar_request::Input::Sandbox(by_name("box"))) },
        message(Input::Start(agent::WriteTarStart { path: path.to_owned(), ..Default::default() })),
        message(Input::Data(tar.into())),
        message(Input::Finish(true)),
    ];
    let answer = gateway.ask(async |mut client| client.write_tar(iter(messages)).await);
    answer.map_or_else(|status| format!("{:?}: {}", status.code(), status.message()), |_| "taken".to_owned())
}

#[test]
fn archives_that_reach_out_of_their_folder_are_refused() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway.shell("box", "mkdir /workspace/in; ln -s /tmp /workspace/in/out").ok();
    let file = tar::EntryType::Regular;
    let mut told = String::new();
    for (what, path, bytes) in [
        ("a name that climbs", "/workspace/in", tar("../climbed", file, "")),
        ("a name that climbs later", "/workspace/in", tar("a/../../climbed", file, "")),
        ("an absolute name", "/workspace/in", tar("/tmp/absolute", file, "")),
        ("a name through a link", "/workspace/in", tar("out/through", file, "")),
        ("a hard link to outside", "/workspace/in", tar("hard", tar::EntryType::Link, "/etc/passwd")),
        ("a device", "/workspace/in", tar("device", tar::EntryType::Block, "")),
        ("an empty name", "/workspace/in", tar("", file, "")),
        ("no tar", "/workspace/in", b"no tar at all".repeat(100)),
        ("half a tar", "/workspace/in", tar("half", file, "")[..300].to_vec()),
        ("a relative folder", "workspace/in", tar("a", file, "")),
        ("a folder that is a file", "/etc/passwd", tar("a", file, "")),
    ] {
        writeln!(told, "{what}: {}", upload(&gateway, path, bytes)).expect("a string");
    }
    insta::assert_snapshot!(told, @r#"
    a name that climbs: InvalidArgument: the tar entry "../climbed" holds ".."; nothing of it was written
    a name that climbs later: InvalidArgument: the tar entry "a/../../climbed" holds ".."; nothing of it was written
    an absolute name: InvalidArgument: the tar entry "/tmp/absolute" has an absolute name; nothing of it was written
    a name through a link: InvalidArgument: the tar entry out/through leads out of /workspace/in through a link
    a hard link to outside: InvalidArgument: the tar entry "/etc/passwd" has an absolute name; nothing of it was written
    a device: InvalidArgument: the tar entry device is a device; devices are not unpacked
    an empty name: InvalidArgument: the tar entry  has no name
    no tar: InvalidArgument: the tar stream is broken: numeric field was not a number: r at all when getting cksum for no tar at allno tar at allno tar at allno tar at allno tar at allno tar at allno tar at allno tar at
    half a tar: InvalidArgument: the tar stream is broken: failed to read entire block
    a relative folder: InvalidArgument: the path "workspace/in" is not absolute; give an absolute path inside the sandbox
    a folder that is a file: FailedPrecondition: /etc/passwd could not be entered: Not a directory (os error 20)
    "#);
    let found = gateway.shell("box", "ls /tmp; ls -A /workspace /workspace/in | grep -v '^$'").ok();
    insta::assert_snapshot!(found, @r#"
    /workspace:
    in
    /workspace/in:
    out
    "#);
    assert_eq!(upload(&gateway, "/workspace/in", tar("fine", file, "")), "taken", "it is not the form of the test");
}

#[test]
fn calls_that_no_command_line_makes_are_refused() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let told = gateway.ask(async |mut client| {
        let mut told = String::new();
        let mut tell = |what: &str, status: Option<tonic::Status>| {
            let status = status
                .map_or_else(|| "taken".to_owned(), |status| format!("{:?}: {}", status.code(), status.message()));
            writeln!(told, "{what}: {status}").expect("a string");
        };
        let create = |name: &str, request_id: &str, env: &[(&str, String)]| wire::CreateSandboxRequest {
            name: name.to_owned(),
            request_id: request_id.to_owned(),
            spec: Some(wire::SandboxSpec {
                env: env.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        tell("no sandbox is named", client.get_sandbox(wire::GetSandboxRequest::default()).await.err());
        tell(
            "a variable with a NUL",
            client.create_sandbox(create("box", "", &[("A", "a\0b".to_owned())])).await.err(),
        );
        tell(
            "a variable too long",
            client.create_sandbox(create("box", "", &[("A", "x".repeat(1 << 20))])).await.err(),
        );
        tell(
            "a message too long",
            client.create_sandbox(create("box", "", &[("A", "x".repeat(64 << 20))])).await.err(),
        );
        tell("a request id too long", client.create_sandbox(create("box", &"x".repeat(10_000), &[])).await.err());
        tell("a request id with a NUL", client.create_sandbox(create("box", "a\0b", &[])).await.err());
        let request = wire::WaitOperationRequest { operation: "op-none".to_owned() };
        let mut events = client.wait_operation(request).await.expect("a stream").into_inner();
        tell("an operation that is not there", events.message().await.err());
        let request = wire::ListSandboxesRequest { page_token: "../x".to_owned(), ..Default::default() };
        tell("a page that is not there", client.list_sandboxes(request).await.err());
        tell(
            "a page too long",
            client.list_sandboxes(wire::ListSandboxesRequest { page_size: 5000, ..Default::default() }).await.err(),
        );
        tell("exec without a start", client.exec_sandbox(iter([])).await.err());
        tell(
            "exec without a sandbox",
            client.exec_sandbox(iter([wire::ExecSandboxRequest { input: None }])).await.err(),
        );
        told
    });
    insta::assert_snapshot!(told, @r#"
    no sandbox is named: InvalidArgument: no sandbox is selected
    a variable with a NUL: InvalidArgument: the value of environment variable "A" contains a NUL byte
    a variable too long: InvalidArgument: the environment has 1048579 bytes, the limit is 131072
    a message too long: InvalidArgument: a message of the request is too large: Error, decoded message length too large: found 67108887 bytes, the limit is: 4194304 bytes
    a request id too long: InvalidArgument: request id "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" is not valid
    a request id with a NUL: InvalidArgument: request id "a\0b" is not valid
    an operation that is not there: NotFound: there is no operation op-none
    a page that is not there: InvalidArgument: sandbox id "../x" is not valid
    a page too long: InvalidArgument: a page has at most 1000 sandboxes, not 5000
    exec without a start: InvalidArgument: the stream ended before its first messages
    exec without a sandbox: InvalidArgument: the first message must select the sandbox, the second must be the start
    "#);
    nothing_is_stored(&gateway);
}

#[test]
fn one_request_id_never_makes_two_sandboxes() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let create = |name: &str| {
        let request = wire::CreateSandboxRequest {
            name: name.to_owned(),
            request_id: "the-same".to_owned(),
            ..Default::default()
        };
        let answer = gateway.ask(async |mut client| client.create_sandbox(request).await);
        answer.map(|answer| answer.into_inner().sandbox.unwrap_or_default().id)
    };
    let first = create("box").expect("an answer");
    assert_eq!(create("box").expect("an answer"), first);
    let other = create("other").expect_err("another request with that id");
    insta::assert_snapshot!(format!("{:?}: {}", other.code(), other.message()), @r#"Aborted: request id "the-same" was used for another create request"#);
    gateway.until_idle();
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]).as_array().map(Vec::len), Some(1));
}
