//! A driver with a chain and a journal of its own, driven as a gateway without a second chance drives it: only the calls
//! that such a one makes, in its order. It deletes its row on any create error and sends no delete.

use chiton_compute_wire::v1;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use tonic::Code;

use super::peer::{Peer, Phase};
use super::process::{Client, IDLE, Served, pass, stock};
use crate::harness::root;

pub(super) const CONFIG: &str = r#"
[compute]
extensions = ["fleet-labels", "address-lease"]
[compute.extension."fleet-labels"]
labels = { fleet = "prod" }
[compute.extension."address-lease"]
range = "10.99.0.2-10.99.0.250"
folder = "{folder}/leases"
"#;

pub(super) const OCI: [&str; 4] = ["--driver", "oci", "--agent", "none"];

/// Leases that are held.
pub(super) fn leases(served: &Served) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(served.folder().join("leases")) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

fn ready(sandbox: &v1::DriverSandbox) -> (String, String) {
    let status = sandbox.status.as_ref().expect("a status");
    let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready").expect("a condition");
    (ready.status.clone(), format!("{}: {}", ready.reason, ready.message))
}

#[test]
fn a_life_by_the_book() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(folder.path(), CONFIG, &OCI);
    let said = served.ask(async |mut client: Client| client.get_capabilities(v1::GetCapabilitiesRequest {}).await);
    let said = said.expect("capabilities");
    assert_eq!((said.driver_name.as_str(), said.contract_version), ("oci", 1));
    assert!(said.lifecycle_phases.iter().any(|phase| phase == "before_create"), "{said:?}");
    let (id, sandbox) = ("7f3c0c1e-5a55-4d55-9b0e-2f7d7f2b8a11", |id| stock(id, "box", &IDLE));

    // Looked at, nothing is stored.
    let look = v1::ValidateSandboxCreateRequest { sandbox: Some(sandbox(id)) };
    served.ask(async |mut client: Client| client.validate_sandbox_create(look).await).expect("it can be made");
    assert_eq!((served.list(), leases(&served)), (vec![], vec![]));

    served.create(sandbox(id)).expect("it is made");
    served.until(id, "running");
    assert_eq!(leases(&served).len(), 1);
    // Once more is not once again.
    served.create(sandbox(id)).expect("it is there");
    served.start_sandbox(id).expect("it runs");
    assert_eq!((served.list(), leases(&served).len()), (vec![id.to_owned()], 1));
    let shown = format!("{:?}", served.get(id));
    assert!(!shown.contains("a token of the gateway's"), "{shown}");

    served.stop(id).expect("it stops");
    let stopped = served.until(id, "exited");
    let suspended = stopped.status.expect("a status").conditions.into_iter().find(|one| one.r#type == "Suspended");
    assert_eq!(suspended.expect("a condition").status, "True");
    assert_eq!(leases(&served).len(), 1, "a stopped sandbox keeps what it has");
    served.start_sandbox(id).expect("it starts");
    served.until(id, "running");

    assert!(served.delete(id).expect("it goes"));
    served.watch_until(|payload| matches!(payload, Payload::Deleted(gone) if gone.sandbox_id == id));
    // Told to whoever comes later, too.
    served.watch_until(|payload| matches!(payload, Payload::Deleted(gone) if gone.sandbox_id == id));
    served.until(id, "absent");
    assert_eq!(leases(&served), [""; 0]);
    assert!(!served.delete(id).expect("it is gone"));
    let refused = served.create(sandbox(id)).expect_err("an id is never used again");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

#[test]
fn a_gateway_that_keeps_rows_agrees_with_its_driver_over_the_ends_of_both() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = Served::start(folder.path(), CONFIG, &OCI);
    let mut peer = Peer::new();
    peer.begin(&served);
    for id in ["s-one", "s-two", "s-three"] {
        peer.create(&served, stock(id, id, &IDLE)).expect("it is taken");
    }
    peer.create(&served, stock("s-bad", "bad", &["/no/such/program"])).expect("it is taken, and fails later");
    let refused = peer.create(&served, v1::DriverSandbox { id: "../x".to_owned(), ..stock("s", "odd", &IDLE) });
    assert_eq!(refused.expect_err("no id").code(), Code::InvalidArgument);
    let three = [("s-one", Phase::Ready), ("s-three", Phase::Ready), ("s-two", Phase::Ready)];
    let with = |more: &[(&'static str, Phase)]| [&three[..], more].concat();
    peer.until(&with(&[("s-bad", Phase::Error)]));

    // The driver dies; the watch begins anew and the list agrees.
    let before = peer.snapshots();
    served.kill();
    served.begin();
    peer.reconcile(&served);
    // A stop that ends while the watch begins is told twice: the second time to a row that may be starting by then.
    peer.until_told_anew(before);
    peer.stop(&served, "s-two");
    let stopped = [("s-one", Phase::Ready), ("s-three", Phase::Ready), ("s-two", Phase::Stopped)];
    peer.until(&[&stopped[..], &[("s-bad", Phase::Error)]].concat());
    peer.start(&served, "s-two");
    peer.delete(&served, "s-bad");
    peer.until(&three);

    // It ends and comes back; in between the driver does, too. What was its own row is the driver's sandbox.
    peer.end(&served);
    served.end(rustix::process::Signal::TERM);
    served.begin();
    peer.begin(&served);
    peer.reconcile(&served);
    peer.until(&three);
    assert_eq!(leases(&served).len(), 3);
    for id in ["s-one", "s-two", "s-three"] {
        peer.delete(&served, id);
    }
    peer.until(&[]);
    peer.end(&served);
    assert_eq!((served.list(), leases(&served)), (vec![], vec![]));
}

#[test]
fn a_create_that_fails_after_its_answer_undoes_itself_and_stays_to_be_seen() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(folder.path(), CONFIG, &OCI);
    let id = "s-fails";
    served.create(stock(id, "box", &["/no/such/program"])).expect("its answer comes before its work");
    let failed = served.until(id, "broken");
    let (status, why) = ready(&failed);
    assert_eq!(status, "False");
    assert!(why.starts_with("CreateFailed: "), "{why}");
    assert_eq!(leases(&served), [""; 0], "what was acquired is released");
    assert_eq!(
        served.create(stock(id, "box", &["sleep", "9"])).expect_err("it failed").code(),
        Code::FailedPrecondition
    );
    // Its name is free.
    served.create(stock("s-second", "box", &IDLE)).expect("another of its name");
    served.until("s-second", "running");
    assert!(served.delete(id).expect("it goes"));
    served.until(id, "absent");
    assert!(served.delete("s-second").expect("it goes"));
    served.until("s-second", "absent");
    assert_eq!((served.list(), leases(&served)), (vec![], vec![]));
}

#[test]
fn a_delete_in_the_middle_of_a_create_ends_it_and_names_are_nobodys_identity() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(folder.path(), CONFIG, &OCI);
    for round in 0..8 {
        let id = format!("s-soon-{round}");
        served.create(stock(&id, "box", &IDLE)).expect("it is made");
        pass(std::time::Duration::from_millis(round * 25));
        assert!(served.delete(&id).expect("it goes"));
        served.until(&id, "absent");
    }
    // Both at once: it is made and deleted, or never made.
    for round in 0..8 {
        let id = format!("s-race-{round}");
        let raced = served.ask(async |mut client: Client| {
            let made = v1::CreateSandboxRequest { sandbox: Some(stock(&id, "box", &IDLE)) };
            let gone = v1::DeleteSandboxRequest { sandbox_id: id.clone(), sandbox_name: String::new() };
            let mut other = client.clone();
            let (_, gone) = futures::join!(client.create_sandbox(made), other.delete_sandbox(gone));
            gone
        });
        raced.expect("an answer to the delete");
        served.until(&id, "absent");
    }
    for id in ["s-one", "s-two"] {
        served.create(stock(id, "box", &IDLE)).expect("both are called so");
    }
    for id in ["s-one", "s-two"] {
        served.until(id, "running");
        assert!(served.delete(id).expect("it goes"));
        served.until(id, "absent");
    }
    assert_eq!((served.list(), leases(&served)), (vec![], vec![]));
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(folder.path(), CONFIG, &OCI);
    let good = || stock("s-odd", "box", &["sleep", "1"]);
    let with = |change: &dyn Fn(&mut v1::DriverSandbox, &mut v1::DriverSandboxTemplate)| {
        let mut sandbox = good();
        let mut template = sandbox.spec.as_mut().and_then(|spec| spec.template.take()).unwrap_or_default();
        change(&mut sandbox, &mut template);
        if let Some(spec) = &mut sandbox.spec {
            spec.template = Some(template);
        }
        sandbox
    };
    let block = |key: &str| {
        let value = serde_json::json!({ key: { "first_id": 1 } });
        Some(chiton_compute_wire::json::to_struct(&value))
    };
    let limits = |cpu: &str| v1::DriverResourceRequirements {
        cpu_limit: cpu.to_owned(),
        ..v1::DriverResourceRequirements::default()
    };
    let odd: [(&str, v1::DriverSandbox, Code); 8] = [
        ("sandbox.spec", v1::DriverSandbox { spec: None, ..good() }, Code::InvalidArgument),
        ("sandbox id", v1::DriverSandbox { id: "../../etc".to_owned(), ..good() }, Code::InvalidArgument),
        ("name", v1::DriverSandbox { name: "a\u{7}b".to_owned(), ..good() }, Code::InvalidArgument),
        ("cpu", with(&|_, template| template.resources = Some(limits("NaN"))), Code::InvalidArgument),
        ("tty", with(&|sandbox, _| sandbox.spec.as_mut().expect("a spec").tty = true), Code::InvalidArgument),
        ("no option", with(&|_, template| template.driver_config = block("colour")), Code::InvalidArgument),
        // The base driver's block, which nobody delegated.
        ("base driver", with(&|_, template| template.driver_config = block("oci")), Code::FailedPrecondition),
        ("agent_socket_path", with(&|_, t| t.agent_socket_path = "/run/x".to_owned()), Code::InvalidArgument),
    ];
    for (about, sandbox, code) in odd {
        let look = v1::ValidateSandboxCreateRequest { sandbox: Some(sandbox.clone()) };
        let looked = served.ask(async |mut client: Client| client.validate_sandbox_create(look).await);
        let made = served.create(sandbox).expect_err(about);
        assert_eq!(looked.expect_err(about).code(), made.code(), "{about}");
        assert_eq!(made.code(), code, "{about}: {made}");
        assert!(made.message().contains(about), "{about}: {made}");
    }
    assert_eq!((served.list(), leases(&served)), (vec![], vec![]));
}

#[test]
fn a_driver_that_is_asked_to_end_drains_and_takes_up_its_sandboxes_again() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = Served::start(folder.path(), CONFIG, &OCI);
    served.create(stock("s-one", "one", &IDLE)).expect("it is made");
    served.until("s-one", "running");
    served.create(stock("s-two", "two", &IDLE)).expect("it is made");
    served.end(rustix::process::Signal::TERM);
    assert!(!served.socket().exists(), "its socket goes with it");
    served.begin();
    // What ran runs on; what was being made was finished before the end.
    served.until("s-one", "running");
    served.until("s-two", "running");
    assert_eq!(leases(&served).len(), 2);
    for id in ["s-one", "s-two"] {
        assert!(served.delete(id).expect("it goes"));
        served.until(id, "absent");
    }
    assert_eq!((served.list(), leases(&served)), (vec![], vec![]));
}
