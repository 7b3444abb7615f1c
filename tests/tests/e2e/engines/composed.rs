//! The composed driver of `docs/composed-drivers.md`, from the file that is printed there: only what is this machine's and
//! this test's is another.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use chiton_compute_wire::v1;
use chiton_tests::engines::Engine;

use super::served::{CALLER, asked, heard};
use super::{on_each, range};
use crate::beyond::Beside;
use crate::served::process::{Client, IDLE, Served, stock};

on_each!(the_documents_own_example_wraps_an_engine);

const FILE: &str = include_str!("../../../../examples/composed-driver/fleet.toml");

/// The file with other words in the places of these, each of which is in it.
#[track_caller]
fn with(words: &[(&str, &str)]) -> String {
    words.iter().fold(FILE.to_owned(), |text, (word, other)| {
        assert!(text.contains(word), "{word:?} is not in the example any more");
        text.replace(word, other)
    })
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

fn the_documents_own_example_wraps_an_engine(engine: &Engine) {
    let folder = tempfile::tempdir().expect("a folder");
    let (leases, tenants) = (folder.path().join("leases"), folder.path().join("tenants"));
    let program = folder.path().join("supervisor");
    for made in [&leases, &tenants] {
        std::fs::create_dir(made).expect("a folder");
    }
    std::fs::write(&program, CALLER).expect("a program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let (hook, range, kind) = (Beside::start(), range(), engine.kind.name());
    let text = |path: &Path| path.display().to_string();
    let config = with(&[
        ("[compute.driver.docker]", &format!("[compute.driver.{kind}]\ndefault_image = {:?}", engine.image)),
        ("/var/run/docker.sock", &text(&engine.socket)),
        ("10.200.0.0/20", &format!("{range}.0/28")),
        ("10.200.1.2-10.200.1.250", &format!("{range}.2-{range}.9")),
        ("/var/lib/chiton/leases", &text(&leases)),
        ("/var/lib/chiton/tenants", &text(&tenants)),
        ("/run/tenant/extension.sock", &text(&hook.socket())),
    ]);
    let port = TcpListener::bind("0.0.0.0:0").and_then(|free| free.local_addr()).expect("a port").port();
    let endpoint = format!("http://host.openshell.internal:{port}");
    let bin = text(&program);
    let arguments = ["--driver", kind, "--name", "fleet", "--supervisor-bin", &bin, "--endpoint", &endpoint];
    let served = Served::start(folder.path(), &config, &arguments);
    let listener = TcpListener::bind(asked(&served)).expect("where supervisors call");

    let id = format!("s-{}", std::process::id());
    let mut sandbox = stock(&id, "box", &IDLE);
    if let Some(spec) = &mut sandbox.spec {
        spec.template = None;
    }
    served.create(sandbox).expect("it is made");
    served.until(&id, "running");
    assert_eq!(heard(&listener), "a token of the gateway's\n");
    let container = engine.container(&id).expect("its container");
    let labels = &container["Config"]["Labels"];
    let gateway = labels["chiton.dev/gateway-id"].as_str().expect("whose it is").to_owned();
    let address = labels["chiton.dev/address"].as_str().expect("its address");
    assert_eq!((&labels["fleet"], &labels["region"]), (&"prod".into(), &"us-west".into()), "{labels:#}");
    assert_eq!(files(&leases), [address]);
    let networks = container["NetworkSettings"]["Networks"].as_object().expect("networks");
    assert!(networks.values().any(|network| network["IPAddress"] == address), "{networks:#?}");
    let quota = format!("default.{kind}");
    assert_eq!(files(&tenants), [quota.as_str()]);
    assert_eq!(std::fs::read_to_string(tenants.join(&quota)).expect("a quota"), "cpus = 16\n");

    // A workspace with a sandbox in it is not let go of.
    let release = async |mut client: Client| {
        client.delete_workspace(v1::DeleteWorkspaceRequest { workspace: "default".to_owned() }).await
    };
    served.ask(release).expect_err("a sandbox is in it");
    assert_eq!(files(&tenants), [quota]);
    assert!(served.delete(&id).expect("it goes"));
    served.until(&id, "absent");
    assert_eq!(files(&leases), [""; 0]);
    served.ask(release).expect("nothing is in it any more");
    assert_eq!(files(&tenants), [""; 0]);
    // The network stays for the gateway that listens on it.
    assert_eq!(engine.left(&gateway), [format!("{kind} network \"chiton.{gateway}\"")]);
    engine.sweep(&gateway);
}
