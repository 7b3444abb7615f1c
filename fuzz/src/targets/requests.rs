//! Requests: protobuf bytes as a caller sends them, through translation, to what the engine takes.

use std::collections::BTreeMap;

use chiton_gateway::fuzzing::{check_exec, create_request, log_time, page, selector, workspace};
use chiton_lifecycle::Selector;
use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use prost::Message;

use super::Target;
use crate::behaviour::note;
use crate::check::{explained, round_trip};

pub(super) const TARGET: Target = Target {
    name: "requests",
    about: "API requests: protobuf bytes, messages, what the engine takes",
    run,
    seeds,
    words: &[
        "{\"read_only\":true}",
        "[[[[[[[[",
        "{\"a\":",
        "1e400",
        "0.1",
        "-0.0",
        "1e23",
        "500m",
        "Mi",
        "host",
        "dir:/",
        "CHITON_A",
        "chiton.dev/x",
        "sha256:",
        "\0",
        "/",
    ],
    longest: 4096,
    short: 8_000,
    memory: (400, 1 << 20),
};

fn spec() -> wire::SandboxSpec {
    let map = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    wire::SandboxSpec {
        image: "host".to_owned(),
        command: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
        env: map("A", "1"),
        labels: map("tier", "gold"),
        resources: Some(wire::Resources {
            cpu: "500m".to_owned(),
            memory: "64Mi".to_owned(),
            pids: 64,
            disk: "1Gi".to_owned(),
            inodes: 9,
            open_files: 64,
        }),
        network: Some(wire::Network {
            mode: "bridge".to_owned(),
            allow: vec!["10.0.0.0/8:80/tcp".to_owned()],
            dns: vec!["192.0.2.1".to_owned()],
        }),
        volumes: vec![wire::VolumeMount { name: "data".to_owned(), target: "/data".to_owned(), read_only: true }],
        workdir: "/tmp".to_owned(),
        secrets: map("TOKEN", "db"),
        extensions: vec!["fleet-labels".to_owned()],
        driver: "oci".to_owned(),
        driver_config: map("oci", "{\"read_only\":true,\"x\":[0.1,1e23]}"),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let by = |by| Some(wire::SandboxSelector { by: Some(by), workspace: "team".to_owned() });
    let create = wire::CreateSandboxRequest {
        name: "web".to_owned(),
        workspace: "team".to_owned(),
        spec: Some(spec()),
        expect_plan: format!("sha256:{}", "0".repeat(64)),
        request_id: "r-1".to_owned(),
    };
    let mut deep = create.clone();
    let nested = format!("{{\"a\":{}1{}}}", "[".repeat(126), "]".repeat(126));
    deep.spec.get_or_insert_default().driver_config = [("other".to_owned(), nested)].into();
    let start = agent::ExecStart { argv: vec!["ls".to_owned()], workdir: "/".to_owned(), ..Default::default() };
    let numbered = |number: u8, message: &dyn ErasedMessage| {
        let mut bytes = vec![number];
        message.put(&mut bytes);
        bytes
    };
    vec![
        numbered(0, &create),
        numbered(0, &deep),
        numbered(0, &wire::CreateSandboxRequest::default()),
        numbered(
            1,
            &wire::GetSandboxRequest { sandbox: by(wire::sandbox_selector::By::Id("s-1".to_owned())), all: true },
        ),
        numbered(
            1,
            &wire::GetSandboxRequest { sandbox: by(wire::sandbox_selector::By::Name("web".to_owned())), all: false },
        ),
        numbered(
            2,
            &wire::ListSandboxesRequest {
                workspace: "team".to_owned(),
                page_size: 10,
                page_token: "s-1".to_owned(),
                labels: [("tier".to_owned(), "gold".to_owned())].into(),
                all: true,
            },
        ),
        numbered(
            3,
            &wire::GetLogsRequest {
                sandbox: by(wire::sandbox_selector::By::Id("s-1".to_owned())),
                follow: true,
                tail: Some(3),
                since: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
            },
        ),
        numbered(4, &agent::ExecInput { input: Some(agent::exec_input::Input::Start(start)) }),
    ]
}

/// Messages of several types in one list.
trait ErasedMessage {
    fn put(&self, into: &mut Vec<u8>);
}

impl<M: Message> ErasedMessage for M {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend(self.encode_to_vec());
    }
}

/// The message, if it is one; encoded and read again it is the same.
fn decoded<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(&message.encode_to_vec()[..]);
    assert!(again.is_ok_and(|again| again == message), "encoded again it is another");
    Some(message)
}

fn answered<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            explained(&error);
            None
        }
    }
}

fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    note(kind % 5);
    match kind % 5 {
        0 => {
            if let Some(request) = decoded::<wire::CreateSandboxRequest>(bytes) {
                create(request);
            }
        }
        1 => {
            if let Some(request) = decoded::<wire::GetSandboxRequest>(bytes) {
                note(matches!(answered(selector(request.sandbox)), Some(Selector::Id(_))));
            }
        }
        2 => {
            if let Some(request) = decoded::<wire::ListSandboxesRequest>(bytes)
                && let Some(query) = answered(page(&request))
            {
                assert!((1..=1000).contains(&query.limit), "a page of {}", query.limit);
                let token = query.after.map(|id| id.to_string()).unwrap_or_default();
                assert_eq!(token, request.page_token, "the page begins elsewhere");
            }
        }
        3 => {
            if let Some(request) = decoded::<wire::GetLogsRequest>(bytes) {
                answered(selector(request.sandbox));
                if let Some((at, time)) = request.since.and_then(|at| Some((at, answered(log_time(at))?))) {
                    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
                    assert_eq!(time.as_nanosecond(), nanos);
                }
            }
        }
        _ => {
            if let Some(input) = decoded::<agent::ExecInput>(bytes) {
                answered(check_exec(&input));
            }
        }
    }
}

fn create(request: wire::CreateSandboxRequest) {
    answered(workspace(&request.workspace));
    let given = request.clone();
    let Some(request) = answered(create_request(request)) else { return };
    note(request.name.is_some());
    let spec = &request.spec;
    note((spec.driver_config.len(), spec.labels.len(), spec.resources.cpu.is_some(), spec.driver.is_some()));
    let wire = given.spec.unwrap_or_default();
    assert_eq!(spec.env, wire.env.into_iter().collect::<BTreeMap<_, _>>());
    assert_eq!(spec.command, wire.command);
    assert_eq!(spec.driver_config.len(), wire.driver_config.len());
    if let Err(error) = spec.check() {
        return explained(&error);
    }
    // What is taken is stored in a row, some levels deep, and must be read from there for as long as the sandbox lives.
    let row = serde_json::json!({ "row": [spec] });
    round_trip(&row);
    round_trip(spec);
}
