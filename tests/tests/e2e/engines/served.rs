//! An engine's driver behind a socket, for a gateway of another make: its supervisors find it, also after a reboot.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use chiton_compute_wire::v1;
use chiton_compute_wire::v1::gateway_listener_requirement::Selector;
use chiton_tests::engines::Engine;

use super::on_each;
use crate::served::process::{Client, IDLE, Served, stock};

on_each!(supervisors_find_their_gateway_also_after_a_reboot);

/// In a supervisor's place: says its token to its gateway until it is heard.
pub(super) const CALLER: &str = r#"#!/bin/sh
place="${OPENSHELL_ENDPOINT#http://}"
trap 'exit 0' TERM
while :; do nc -w 2 "${place%:*}" "${place##*:}" < /etc/openshell/auth/sandbox.jwt; sleep 0.05; done
"#;

/// The one address that it asks for.
#[track_caller]
pub(super) fn asked(served: &Served) -> SocketAddr {
    let request = v1::GetGatewayListenerRequirementsRequest {};
    let asked = served.ask(async |mut client: Client| client.get_gateway_listener_requirements(request).await);
    match asked.expect("an answer").requirements.as_slice() {
        [one] => match &one.selector {
            Some(Selector::ExactBindAddress(address)) => address.parse().expect("an address"),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What the first caller says who says anything: one that found no time to speak gives up and calls again.
#[track_caller]
pub(super) fn heard(listener: &TcpListener) -> String {
    loop {
        let (mut caller, _) = listener.accept().expect("a caller");
        caller.set_read_timeout(Some(Duration::from_mins(1))).expect("a limit");
        let mut said = String::new();
        caller.read_to_string(&mut said).expect("what it says");
        if !said.is_empty() {
            return said;
        }
    }
}

fn supervisors_find_their_gateway_also_after_a_reboot(engine: &Engine) {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("supervisor");
    std::fs::write(&program, CALLER).expect("a program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let port = TcpListener::bind("0.0.0.0:0").and_then(|free| free.local_addr()).expect("a port").port();
    // The endpoint is in the file; the command line says nothing of it.
    let config = format!(
        "{}agent = \"openshell\"\n[compute.driver.{}.supervisor]\nbin = {:?}\n\
         endpoint = \"http://host.openshell.internal:{port}\"\n",
        engine.block(&engine.socket),
        engine.kind,
        program.display().to_string()
    );
    let bin = program.display().to_string();
    let arguments = ["--driver", engine.kind.name(), "--agent", "openshell", "--supervisor-bin", &bin];
    let mut served = Served::start(folder.path(), &config, &arguments);
    let address = asked(&served);
    let listener = TcpListener::bind(address).expect("what was asked for can be listened on before there is a sandbox");
    let id = format!("s-{}", std::process::id());
    let mut sandbox = stock(&id, "box", &IDLE);
    if let Some(spec) = &mut sandbox.spec {
        spec.template = None;
    }
    served.create(sandbox).expect("it is made");
    assert_eq!(heard(&listener), "a token of the gateway's\n");
    served.until(&id, "running");
    let container = engine.container(&id).expect("its container");
    let label = container["Config"]["Labels"]["chiton.dev/gateway-id"].as_str();
    let gateway = label.expect("whose it is").to_owned();
    served.stop(&id).expect("it stops");
    served.until(&id, "exited");

    // What a reboot ends: the processes, and what is below the run folder.
    served.kill();
    let run = folder.path().join("data/run");
    if run.exists() {
        std::fs::remove_dir_all(&run).expect("the run folder");
    }
    // What called before is not to be taken for what calls then.
    listener.set_nonblocking(true).expect("a flag");
    while listener.accept().is_ok() {}
    listener.set_nonblocking(false).expect("a flag");
    served.begin();
    assert_eq!(asked(&served), address);
    served.start_sandbox(&id).expect("it starts without its token");
    served.until(&id, "running");
    assert_eq!(heard(&listener), "a token of the gateway's\n");
    assert!(served.delete(&id).expect("it goes"));
    served.until(&id, "absent");
    // The network stays for the gateway that listens on it.
    let network = format!("{} network \"chiton.{gateway}\"", engine.kind);
    assert_eq!(engine.left(&gateway), [network]);
    let tokens = std::fs::read_dir(folder.path().join(format!("data/drivers/{}/tokens", engine.kind)));
    assert_eq!(tokens.expect("the folder of tokens").count(), 0);
    engine.sweep(&gateway);
}
