//! What requests may say, and who may look.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use chiton_compute_wire::json::to_struct;
use chiton_compute_wire::names::{CONTRACT_VERSION, SERVICE, features};
use chiton_compute_wire::v1 as wire;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::subject::{Client, Subject, heard, sandbox, script, sleeper, template};

pub(crate) async fn it_says_what_it_is(mut subject: Subject) {
    let client = subject.client().await;
    let said = client.calls.clone().get_capabilities(wire::GetCapabilitiesRequest {}).await.unwrap().into_inner();
    assert!(said.driver_name.starts_with("example-"), "{said:?}");
    assert_eq!((said.contract_version, said.default_image.as_str()), (CONTRACT_VERSION, "host"));
    assert_eq!(said.plan_fields, ["env", "label", "resource"]);
    assert_eq!(said.features, [(features::START_CARRIES_SANDBOX.to_owned(), true)].into());
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let healthy = HealthClient::new(client.channel.clone()).check(request).await.unwrap().into_inner();
    assert_eq!(healthy.status(), ServingStatus::Serving);
    let request = wire::EnsureWorkspaceRequest { workspace: "default".to_owned() };
    let unused = client.calls.clone().ensure_workspace(request).await.unwrap_err();
    assert_eq!(unused.code(), Code::Unimplemented);
    // It is the same installation after a crash.
    subject.killed_and_back();
    let again = subject.client().await.calls.get_capabilities(wire::GetCapabilitiesRequest {}).await.unwrap();
    assert_eq!(again.into_inner().backend_id, said.backend_id);
    assert!(!said.backend_id.is_empty());
}

/// Refused by both calls, with this code and these words; nothing is there afterwards.
async fn refused(client: &Client, code: Code, asked: &wire::DriverSandbox, words: &[&str]) {
    for answer in [client.validate(asked).await, client.create(asked).await] {
        let status = answer.expect_err(&format!("refused: {asked:?}"));
        assert_eq!(status.code(), code, "{status:?} for {asked:?}");
        for word in words {
            assert!(status.message().contains(word), "{word:?} is not in {status:?}");
        }
        assert!(!status.message().contains(char::is_control), "{status:?}");
        assert!(!status.message().contains("a-token-that-nobody-sees"), "{status:?}");
    }
}

pub(crate) async fn malformed_requests_are_refused_and_leave_nothing(subject: Subject) {
    let client = subject.client().await;
    let invalid = async |asked: &wire::DriverSandbox, words: &[&str]| {
        refused(&client, Code::InvalidArgument, asked, words).await;
    };
    for id in ["", "../up", "a/b", "Upper", "-a", "a-", "a\0b", "ü", "a\nb", &"a".repeat(64)] {
        invalid(&sleeper(id), &["id"]).await;
        for answer in [client.get(id).await.map(drop), client.stop(id).await, client.delete(id).await.map(drop)] {
            assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument, "{id:?}");
        }
    }
    let no_spec = wire::DriverSandbox { spec: None, ..sleeper("one") };
    invalid(&no_spec, &["spec"]).await;
    invalid(&sandbox("one", &[]), &["command"]).await;
    for name in ["", "bell\u{7}", "next\u{85}line", &"n".repeat(254)] {
        invalid(&wire::DriverSandbox { name: name.to_owned(), ..sleeper("one") }, &["name"]).await;
    }
    invalid(&sandbox("one", &["echo", "a\0b"]), &["NUL"]).await;
    invalid(&sandbox("one", &["echo", &"a".repeat(128 << 10)]), &["131071"]).await;
    for (name, value) in [("", "x"), ("A=B", "x"), ("A", "a\0b"), ("A\0", "x")] {
        let mut asked = sleeper("one");
        asked.spec.get_or_insert_default().environment.insert(name.to_owned(), value.to_owned());
        invalid(&asked, &["environment"]).await;
    }
    let mut asked = sleeper("one");
    template(&mut asked).labels.insert("a".to_owned(), "line\nbreak".to_owned());
    invalid(&asked, &["label"]).await;
    for (config, words) in [
        (json!({"nicenes": 3}), &["nicenes", "niceness"][..]),
        (json!({"colour": 3}), &["colour", "niceness", "grace_seconds"]),
        (json!({"niceness": 20}), &["niceness", "19"]),
        (json!({"niceness": -1}), &["niceness", "19"]),
        (json!({"niceness": 1.5}), &["niceness", "whole"]),
        (json!({"niceness": true}), &["niceness", "whole"]),
        (json!({"grace_seconds": "1"}), &["grace_seconds", "whole"]),
    ] {
        let mut asked = sleeper("one");
        template(&mut asked).driver_config = Some(to_struct(&config));
        invalid(&asked, words).await;
    }
    for text in
        ["x", "-1", "+1", "1mi", "1 Mi", "١", "1e", "1.2.3", ".", "0", "0Mi", "1e99", "99999999999E", "1ii", "Mi"]
    {
        for cpu in [true, false] {
            let mut asked = sleeper("one");
            let resources = template(&mut asked).resources.get_or_insert_default();
            *(if cpu { &mut resources.cpu_limit } else { &mut resources.memory_limit }) = text.into();
            invalid(&asked, &["quantity"]).await;
        }
    }
    assert_eq!(client.list().await, []);
    assert_eq!(client.get("one").await.unwrap_err().code(), Code::NotFound);
    client.create(&sleeper("one")).await.unwrap();
    subject.nothing_left().await;
}

fn resources(asked: &mut wire::DriverSandbox) -> &mut wire::DriverResourceRequirements {
    template(asked).resources.get_or_insert_default()
}

pub(crate) async fn what_cannot_be_held_to_is_refused(subject: Subject) {
    let client = subject.client().await;
    let unable = async |change: &dyn Fn(&mut wire::DriverSandbox), words: &[&str]| {
        let mut asked = sleeper("one");
        change(&mut asked);
        refused(&client, Code::FailedPrecondition, &asked, words).await;
    };
    unable(&|asked| "500m".clone_into(&mut resources(asked).cpu_limit), &["cpu", "niceness"]).await;
    unable(&|asked| "1".clone_into(&mut resources(asked).cpu_request), &["cpu"]).await;
    unable(&|asked| "1Mi".clone_into(&mut resources(asked).memory_limit), &["memory_limit"]).await;
    unable(&|asked| "64Mi".clone_into(&mut resources(asked).memory_request), &["memory_request"]).await;
    unable(&|asked| "debian".clone_into(&mut template(asked).image), &["image"]).await;
    unable(&|asked| asked.spec.get_or_insert_default().tty = true, &["terminals"]).await;
    unable(
        &|asked| asked.spec.get_or_insert_default().resource_requirements = Some(wire::ResourceRequirements::default()),
        &["GPU"],
    )
    .await;
    subject.nothing_left().await;
}

pub(crate) async fn unicode_arrives_as_it_is(subject: Subject) {
    let client = subject.client().await;
    let strange = "ü 漢字 🦀 \u{202e} tab\tline\nescape\u{1b}[31m '\"\\$HOME `id` %s";
    let pipe = subject.pipe("said");
    let mut asked = script("one", r#"printf '%s|%s|%s' "$WORD" "$1" "$A_B" > "$PIPE""#);
    let spec = asked.spec.get_or_insert_default();
    spec.command.extend(["sh".to_owned(), strange.to_owned()]);
    for (name, value) in [("WORD", strange), ("PIPE", &pipe), ("a.b-c", "x")] {
        spec.environment.insert(name.to_owned(), value.to_owned());
    }
    // The sandbox's own variables come over the template's.
    template(&mut asked).environment = [("A_B".to_owned(), "t".to_owned()), ("WORD".to_owned(), "t".to_owned())].into();
    template(&mut asked).labels.insert("land".to_owned(), "Österreich 🦀".to_owned());
    asked.name = "schöner Name 漢".into();
    client.create(&asked).await.unwrap();
    assert_eq!(heard(&pipe).await, format!("{strange}|{strange}|t"));
    let found = client.get("one").await.unwrap();
    assert_eq!((&found.name, &found.workspace), (&asked.name, &asked.workspace));
    assert_eq!(found.spec.unwrap().template.unwrap().labels, template(&mut asked).labels);
    subject.nothing_left().await;
}

/// Files below a folder that hold a text, and their modes.
fn holding(folder: &Path, text: &str, found: &mut Vec<(String, u32)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            holding(&entry.path(), text, found);
        } else if kind.is_file() && String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).contains(text) {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            found.push((entry.file_name().to_string_lossy().into_owned(), mode));
        }
    }
}

pub(crate) async fn the_token_is_in_one_private_file(subject: Subject) {
    let client = subject.client().await;
    let token = "a-token-that-nobody-sees";
    let pipe = subject.pipe("said");
    client.create(&script("one", &format!("cat \"$SANDBOX_TOKEN_FILE\" > {pipe}; sleep 1000"))).await.unwrap();
    assert_eq!(heard(&pipe).await, token);
    let mut found = Vec::new();
    holding(&subject.state(), token, &mut found);
    assert_eq!(found, [("token".to_owned(), 0o600)]);
    for process in subject.processes() {
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(token), "{process}/{file}");
        }
    }
    let told = [format!("{:?}", client.get("one").await), format!("{:?}", client.watch().await.snapshot().await)];
    assert!(!told.concat().contains(token), "{told:?}");
    // A start brings its own.
    client.stop("one").await.unwrap();
    let mut next = script("one", &format!("cat \"$SANDBOX_TOKEN_FILE\" > {pipe}"));
    next.spec.get_or_insert_default().sandbox_token = "another".into();
    client.start("one", Some(next)).await.unwrap();
    assert_eq!(heard(&pipe).await, "another");
    subject.nothing_left().await;
}

pub(crate) async fn its_folder_and_socket_are_private(subject: Subject) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&subject.socket()), 0o600);
    assert_eq!(mode(subject.socket().parent().unwrap()), 0o700);
    assert_eq!(mode(&subject.state()), 0o700);
}
