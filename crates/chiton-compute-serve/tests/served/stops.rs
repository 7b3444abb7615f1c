//! A stop is done when the base driver says so, and not before.

use chiton_compute_wire::v1;
use chiton_driver::{CallError, ComputeDriver as _};
use chiton_driver_scripted::Fault;
use chiton_model::SandboxId;
use tonic::Code;

use crate::harness::{Base, Served, sandbox};

/// Its state, and the status and reason of its condition `Ready`, and whether it has `Suspended`.
fn shown(sandbox: &v1::DriverSandbox) -> (String, String, String, bool) {
    let status = sandbox.status.as_ref().expect("a status");
    let ready = status.conditions.iter().find(|one| one.r#type == "Ready").expect("a condition");
    let suspended = status.conditions.iter().any(|one| one.r#type == "Suspended");
    (status.state.clone(), ready.status.clone(), ready.reason.clone(), suspended)
}

fn is(state: &str, ready: &str, reason: &str, suspended: bool) -> (String, String, String, bool) {
    (state.to_owned(), ready.to_owned(), reason.to_owned(), suspended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_the_base_does_not_confirm_is_no_stop_and_is_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut base = Base::start(folder.path());
    let served = Served::start(folder.path(), vec![]).await;
    served.create(sandbox("s-one")).await.expect("it is made");
    served.until("s-one", "running").await;
    base.become_faulty(&[Fault::StopUnimplemented]);
    for _ in 0..2 {
        let failed = served.stop("s-one").await.expect_err("the base does not stop it");
        assert_eq!(failed.code(), Code::Unavailable, "{failed}");
        assert!(failed.message().contains("stops are not implemented"), "{failed}");
        let found = served.get("s-one").await.expect("it is there");
        assert_eq!(shown(&found), is("running", "Unknown", "StopUnconfirmed", false));
    }
    // A gateway above does not take it for stopped, and so lets go of nothing.
    let (above, id) = (served.above(folder.path()), SandboxId::new("s-one").expect("an id"));
    let failed = above.stop(&id).await.expect_err("it is not stopped");
    assert!(matches!(failed, CallError::Unknown(_)), "{failed:?}");

    base.become_faulty(&[]);
    above.stop(&id).await.expect("it is stopped now");
    let found = served.get("s-one").await.expect("it is there");
    let (state, ready, _, suspended) = shown(&found);
    assert_eq!((state.as_str(), ready.as_str(), suspended), ("exited", "False", true));
    assert!(served.delete("s-one").await.expect("it goes"));
}
