//! What is said of the chain.

use std::sync::Arc;

use chiton_compute_wire::v1;
use chiton_extension_process::server::Host;
use chiton_socket::{Access, PeerListener, own_and_root};

use crate::creates::Door;
use crate::harness::{Base, Served, within};

#[tokio::test(flavor = "multi_thread")]
async fn the_phases_of_an_extension_in_a_process_of_its_own_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let _base = Base::start(folder.path());
    let socket = folder.path().join("door/socket");
    let access = Access { who: "extension", cure: "", allowed: Arc::new(own_and_root()), private: true };
    let listener = PeerListener::bind(&socket, &access).expect("a socket");
    let host = Host::new([Door::closed().kind()]).expect("one extension");
    let _serving = tokio::spawn(host.run(listener, std::future::pending()));
    let chain = format!("[compute]\nextensions = [\"door\"]\n[compute.process.door]\nsocket = {socket:?}\n");
    let served = Served::start_with(folder.path(), vec![], &chain).await;
    let said = within(served.client().await.get_capabilities(v1::GetCapabilitiesRequest {})).await;
    assert_eq!(said.expect("capabilities").lifecycle_phases, ["validate_request"]);
}
