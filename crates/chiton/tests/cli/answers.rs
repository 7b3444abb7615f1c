//! What commands print, for people and for scripts.

use chiton_proto::v1 as wire;
use chiton_proto::v1::watch_sandboxes_event::Event;
use insta::assert_snapshot;
use prost_types::Timestamp;

use crate::scripted::Server;

/// 2026-01-02T03:04:05.5Z.
const AT: Option<Timestamp> = Some(Timestamp { seconds: 1_767_323_045, nanos: 500_000_000 });

pub(crate) fn sandbox() -> wire::Sandbox {
    wire::Sandbox {
        id: "s-01kdybx0wc0000000000000000".into(),
        name: "build-7".into(),
        workspace: "default".into(),
        driver: "oci".into(),
        phase: "Ready".into(),
        spec: Some(wire::SandboxSpec {
            image: "host".into(),
            command: vec!["sh".into(), "-c".into(), "sleep 9".into()],
            env: [("A".to_owned(), "1".to_owned())].into(),
            labels: [("team".to_owned(), "red".to_owned())].into(),
            resources: Some(wire::Resources {
                cpu: "500m".into(),
                memory: String::new(),
                pids: 64,
                ..Default::default()
            }),
            ..wire::SandboxSpec::default()
        }),
        conditions: vec![wire::Condition {
            r#type: "Ready".into(),
            status: "True".into(),
            reason: "AgentConnected".into(),
            message: "the agent answers".into(),
            last_transition: AT,
        }],
        plan_digest: "sha256:ab".into(),
        chain: vec![wire::ChainEntry {
            extension: "fleet-labels".into(),
            version: "0.1.0".into(),
            config: "sha256:cd".into(),
            activation: "always".into(),
            observe: false,
        }],
        slots: [("address-lease.address".to_owned(), "10.88.0.2".to_owned())].into(),
        created_at: AT,
        updated_at: AT,
        obligations: 1,
        principal: "uid:0".into(),
        ..wire::Sandbox::default()
    }
}

fn obligation() -> wire::Obligation {
    wire::Obligation {
        id: "ob-1".into(),
        subject: sandbox().id,
        name: "build-7".into(),
        extension: "address-lease".into(),
        phase: "cleanup".into(),
        reason: "cleanup_failed".into(),
        status: "open".into(),
        opened_at: AT,
        attempts: 3,
        last_error: "the folder\nis gone\u{1b}[2J".into(),
        next_attempt_at: AT,
        operation: "op-1".into(),
        expires_at: None,
    }
}

fn operation(state: &str, error: Option<wire::ErrorDetail>) -> wire::Operation {
    let step = |name: &str, begin_us, took_us, error: &str| wire::Step {
        name: name.into(),
        extension: name.split_once(' ').filter(|(_, who)| *who != "create").map_or("", |(_, who)| who).into(),
        phase: name.split(' ').next().unwrap_or_default().into(),
        begin_us,
        took_us,
        error: error.into(),
    };
    wire::Operation {
        id: "op-1".into(),
        kind: "create".into(),
        reason: String::new(),
        started_at: AT,
        ended_at: AT,
        state: state.into(),
        error,
        steps: vec![
            step("before_create address-lease", 100, 900, ""),
            step("driver create", 1_000, 30_007, ""),
            step("after_create fleet-labels", 31_100, 5, "said \u{1b}]0;no\u{7}"),
        ],
        total_us: 40_000,
        principal: "uid:0".into(),
    }
}

fn outcome(operation: wire::Operation, obligations: Vec<wire::Obligation>) -> wire::WaitOperationEvent {
    let outcome = wire::OperationOutcome { operation: Some(operation), sandbox: Some(sandbox()), obligations };
    wire::WaitOperationEvent { event: Some(wire::wait_operation_event::Event::Outcome(outcome)) }
}

fn begun(server: &Server, method: &'static str) {
    server.answers(method, wire::OperationResponse { sandbox: Some(sandbox()), operation: "op-1".into() });
}

/// Ages depend on when the test runs.
fn without_age(text: &str) -> String {
    let is_age = |word: &str| {
        word.strip_suffix('d').is_some_and(|days| !days.is_empty() && days.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let line =
        |line: &str| line.split(' ').map(|word| if is_age(word) { "AGE" } else { word }).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn create_prints_the_name_and_what_is_owed_beside_it() {
    let server = Server::start();
    begun(&server, "create_sandbox");
    server.streams("wait_operation", vec![outcome(operation("succeeded", None), vec![obligation()])]);
    let ran = server.run(&["sandbox", "create", "build-7", "--label", "team=red", "--", "sh"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "build-7\n"));
    assert_snapshot!(ran.err);
}

#[test]
fn create_whose_operation_fails_exits_with_1_and_says_why() {
    let server = Server::start();
    begun(&server, "create_sandbox");
    let why = wire::ErrorDetail {
        code: "refused".into(),
        message: "image \"x\" is not allowed".into(),
        cure: "use host".into(),
        by: "driver".into(),
        ..wire::ErrorDetail::default()
    };
    server.streams("wait_operation", vec![outcome(operation("failed", Some(why)), vec![])]);
    let ran = server.run(&["sandbox", "create"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert_snapshot!(ran.err);
}

#[test]
fn create_without_waiting_does_not_wait() {
    let server = Server::start();
    begun(&server, "create_sandbox");
    let ran = server.run(&["sandbox", "create", "--no-wait"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "build-7\n", ""));
    assert!(server.asked("wait_operation").is_empty());
}

#[test]
fn every_change_carries_an_id_of_its_own() {
    let server = Server::start();
    for (method, verb) in [("create_sandbox", "create"), ("stop_sandbox", "stop"), ("delete_sandbox", "delete")] {
        begun(&server, method);
        for _ in 0..2 {
            assert_eq!(server.run(&["sandbox", verb, "x", "--no-wait"]).code, Some(0));
        }
        let ids: std::collections::BTreeSet<String> = server
            .asked(method)
            .iter()
            .map(|request| request.split("request_id: \"").nth(1).expect("an id")[..36].to_owned())
            .collect();
        assert_eq!(ids.len(), 2, "{method}: {ids:?}");
    }
}

#[test]
fn list_is_an_aligned_table() {
    let server = Server::start();
    let odd = wire::Sandbox { name: "a\u{1b}[31m\tb".into(), phase: "Stopped".into(), ..sandbox() };
    // So old that the width of its age stays the same for long.
    let old = wire::Sandbox { created_at: Some(Timestamp { seconds: 631_152_000, nanos: 0 }), ..sandbox() };
    let page = wire::ListSandboxesResponse { sandboxes: vec![old, odd], ..Default::default() };
    server.answers("list_sandboxes", page);
    let ran = server.run(&["sandbox", "list", "--all"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(server.asked("list_sandboxes")[0].contains("all: true"));
    assert_snapshot!(without_age(&ran.out));
}

#[test]
fn get_is_a_readable_block() {
    let server = Server::start();
    let sandbox = wire::Sandbox { failure: "line one\nline two\u{9b}31m".into(), ..sandbox() };
    server.answers("get_sandbox", sandbox);
    let ran = server.run(&["sandbox", "get", "build-7"]);
    assert_eq!(ran.code, Some(0));
    assert_snapshot!(without_age(&ran.out));
}

#[test]
fn get_in_json_is_one_stable_document() {
    let server = Server::start();
    server.answers("get_sandbox", sandbox());
    let ran = server.run(&["--json", "sandbox", "get", "build-7"]);
    assert_snapshot!(ran.out);
}

#[test]
fn json_holds_no_character_that_drives_a_terminal_and_means_the_same() {
    let server = Server::start();
    let failure = "\u{1b}[2J \u{9b}31m \u{202e}abc \u{7f} \u{2028} ü";
    server.answers("get_sandbox", wire::Sandbox { failure: failure.into(), ..sandbox() });
    let ran = server.run(&["--json", "sandbox", "get", "x"]);
    assert!(!ran.out.chars().any(|c| (c.is_control() && c != '\n') || "\u{202e}\u{2028}".contains(c)), "{:?}", ran.out);
    let document: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(document["failure"], failure);
}

#[test]
fn watch_prints_a_line_per_change() {
    let server = Server::start();
    let event = |event| wire::WatchSandboxesEvent { event: Some(event) };
    let events = vec![
        event(Event::Reset(wire::watch_sandboxes_event::Reset {})),
        event(Event::Changed(sandbox())),
        event(Event::SnapshotEnd(wire::watch_sandboxes_event::SnapshotEnd {})),
        event(Event::Removed(sandbox().id)),
    ];
    server.streams("watch_sandboxes", events);
    assert_snapshot!(server.run(&["sandbox", "watch"]).out);
    let lines = server.run(&["--json", "sandbox", "watch"]).out;
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().expect("a word")).collect();
    assert_eq!(events, ["reset", "changed", "snapshot_end", "removed"]);
    assert_eq!(lines[1]["sandbox"]["name"], "build-7");
}

#[test]
fn logs_go_out_as_they_came_and_json_keeps_what_is_no_text() {
    let server = Server::start();
    let chunk = |stderr, data: &[u8]| wire::LogChunk { at: AT, stderr, data: data.to_vec(), dropped: 0 };
    server.streams("get_logs", vec![chunk(false, b"out\x1b[1m\n"), chunk(true, b"err\n")]);
    let ran = server.run(&["sandbox", "logs", "build-7", "--tail", "5", "--since", "1960-01-01T00:00:00.25Z"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\u{1b}[1m\n", "err\n"));
    let asked = server.asked("get_logs").remove(0);
    assert!(asked.contains("tail: Some(5)") && asked.contains("seconds: -315619200, nanos: 250000000"), "{asked}");
    server.streams("get_logs", vec![chunk(false, b"a"), chunk(true, b"\xff\x00")]);
    assert_snapshot!(server.run(&["--json", "sandbox", "logs", "build-7"]).out);
}

#[test]
fn plan_shows_plan_writes_notes_and_the_digest_last() {
    let server = Server::start();
    let write = |path: &str, before: &str, after: &str, overrides: &str| wire::PlanWrite {
        path: path.into(),
        before: before.into(),
        after: after.into(),
        overrides: overrides.into(),
    };
    let plan = wire::PlanSandboxResponse {
        driver: "oci".into(),
        digest: "sha256:0123".into(),
        plan: r#"{"root":{"readonly":true},"labels":{"x":"y\u001b"}}"#.into(),
        chain: sandbox().chain,
        writes: vec![wire::PlanWrites {
            extension: "fleet-labels".into(),
            writes: vec![
                write("/labels/x", "", "\"y\"", ""),
                write("/root/readonly", "false", "true", "other"),
                write("/gone", "1", "", ""),
            ],
        }],
        values: vec![],
        notes: vec!["the driver has no labels\nof its own".into()],
    };
    server.answers("plan_sandbox", plan);
    let ran = server.run(&["plan", "build-7"]);
    assert!(ran.out.ends_with("\ndigest sha256:0123\n"));
    assert_snapshot!(ran.out);
    let json: serde_json::Value = serde_json::from_str(&server.run(&["--json", "plan"]).out).expect("JSON");
    assert_eq!(json["plan"]["root"]["readonly"], true);
    assert_eq!(json["writes"][0]["writes"][1]["before"], false);
}

#[test]
fn explain_names_the_writer_of_every_value() {
    let server = Server::start();
    let value = |path: &str, value: &str, writer: &str, slot: &str| wire::ExplainedValue {
        path: path.into(),
        value: value.into(),
        writer: writer.into(),
        slot: slot.into(),
    };
    server.answers(
        "explain_sandbox",
        wire::ExplainSandboxResponse {
            sandbox: Some(sandbox()),
            values: vec![
                value("/image", "\"host\"", "request", ""),
                value("/address", "\"10.88.0.2\"", "extension address-lease", "address"),
            ],
        },
    );
    assert_snapshot!(server.run(&["explain", "build-7"]).out);
}

#[test]
fn the_parts_of_a_timeline_sum_to_its_total() {
    let server = Server::start();
    let running = wire::Operation { total_us: 0, ended_at: None, ..operation("running", None) };
    let vast = wire::Operation {
        steps: vec![wire::Step { name: "x".into(), begin_us: u64::MAX, took_us: u64::MAX, ..Default::default() }; 2],
        total_us: 1,
        ..operation("running", None)
    };
    let timeline = |operations| wire::GetTimelineResponse { sandbox: Some(sandbox()), operations };
    server.answers("get_timeline", timeline(vec![operation("succeeded", None), running]));
    let ran = server.run(&["timeline", "build-7"]);
    assert_snapshot!(ran.out);
    let lines: Vec<(bool, u64)> =
        ran.out.lines().map(|line| (line.starts_with(' '), micros(line).expect("a time on every line"))).collect();
    let operations: Vec<_> = lines.chunk_by(|_, (is_part, _)| *is_part).collect();
    assert_eq!(operations.len(), 2);
    for operation in operations {
        let parts: u64 = operation[1..].iter().map(|(_, micros)| micros).sum();
        assert_eq!(operation[0].1, parts, "{}", ran.out);
    }
    // Times that make no sense are shown, and break nothing.
    server.answers("get_timeline", timeline(vec![vast]));
    assert_eq!(server.run(&["timeline", "build-7"]).code, Some(0));
}

/// The time on a line: "… 30.007 ms …".
fn micros(line: &str) -> Option<u64> {
    let before = line.split(" ms").next()?;
    before.rsplit(' ').next()?.replace('.', "").parse().ok()
}

#[test]
fn obligations_are_listed_and_discharged() {
    let server = Server::start();
    server.answers("list_obligations", wire::ListObligationsResponse { obligations: vec![obligation()] });
    // How wide a column is depends on how long ago that was.
    let table = without_age(&server.run(&["obligations", "list"]).out);
    let lines: Vec<String> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_snapshot!(lines.join("\n"));
    server.answers("discharge_obligation", wire::DischargeObligationResponse {});
    assert_eq!(server.run(&["obligations", "discharge", "ob-1", "--force"]).out, "discharged ob-1\n");
    assert!(server.asked("discharge_obligation")[0].contains("force: true"));
}

#[test]
fn orphans_workspaces_and_catalogs_are_tables() {
    let server = Server::start();
    server.answers(
        "list_orphans",
        wire::ListOrphansResponse {
            orphans: vec![wire::Orphan {
                driver: "oci".into(),
                id: "s-1".into(),
                status: "running".into(),
                verdict: "other_epoch".into(),
                epoch: "e-1".into(),
                gateway: "g-1".into(),
            }],
            ..wire::ListOrphansResponse::default()
        },
    );
    let workspace = wire::Workspace { name: "default".into(), driver: "oci".into(), ready: true };
    server.answers("list_workspaces", wire::ListWorkspacesResponse { workspaces: vec![workspace] });
    let extension = wire::Extension {
        name: "fleet-labels".into(),
        version: "0.1.0".into(),
        summary: "labels".into(),
        position: Some(0),
        activation: "always".into(),
        failure: "required".into(),
        sandboxes: 2,
        ..wire::Extension::default()
    };
    server.answers("list_extensions", wire::ListExtensionsResponse { extensions: vec![extension] });
    let driver = wire::Driver {
        id: "oci".into(),
        kind: "oci".into(),
        version: "0.1.0".into(),
        is_default: true,
        points: vec!["labels".into(), "env".into()],
        unavailable: "no cgroups".into(),
        ..wire::Driver::default()
    };
    let second = wire::Driver {
        id: "docker".into(),
        kind: "docker".into(),
        version: "0.1.0".into(),
        limits: vec!["cpu".into(), "memory".into()],
        networks: vec!["bridge".into(), "named".into()],
        features: vec!["two_phase_start".into(), "logs".into()],
        backend: "docker:abc".into(),
        ..wire::Driver::default()
    };
    server.answers("list_drivers", wire::ListDriversResponse { drivers: vec![driver, second] });
    let all = [&["orphans", "list"][..], &["workspaces", "list"], &["extensions"], &["drivers"]];
    let tables: Vec<String> = all.iter().map(|arguments| server.run(arguments).out).collect();
    assert_snapshot!(tables.join("\n"));
}

#[test]
fn images_are_a_table_and_a_pull_prints_the_digest() {
    let server = Server::start();
    let digest = format!("sha256:{}", "ab".repeat(32));
    let image = wire::Image {
        driver: "oci".into(),
        references: vec!["registry.example/app:1".into()],
        digest: digest.clone(),
        bytes: 12_345_678,
        layers: 3,
        used_by: vec!["s-1".into()],
        pinned: true,
        ..wire::Image::default()
    };
    server.answers("list_images", wire::ListImagesResponse { images: vec![image.clone()], ..Default::default() });
    assert_snapshot!(server.run(&["image", "list"]).out, @r"
    NAME                    DIGEST               SIZE     LAYERS  SANDBOXES  PINNED
    registry.example/app:1  sha256:abababababab  12.3 MB  3       1          yes
    ");
    let pulled = wire::PullImageEvent { event: Some(wire::pull_image_event::Event::Pulled(image)) };
    server.answers("pull_image", pulled);
    assert_eq!(server.run(&["image", "pull", "registry.example/app:1"]).out, format!("{digest}\n"));
}

#[test]
fn the_running_gateways_configuration_is_shown_with_origins_on_request() {
    let server = Server::start();
    let value =
        wire::ConfigValue { key: "compute.drivers".into(), value: "[\"oci\"]".into(), origin: "chiton.toml:3".into() };
    server.answers("get_config", wire::GetConfigResponse { values: vec![value] });
    assert_snapshot!(server.run(&["config", "show"]).out);
    assert_snapshot!(server.run(&["config", "show", "--origin"]).out);
}
