//! The promises of every driver, kept by this one.

#[path = "common/bench.rs"]
mod bench;
mod common;
#[path = "common/net.rs"]
mod net;

use std::sync::Arc;

use bench::OciBench;
use chiton_driver_suite::{Case, Outcome, driver_suite, run};
use common::{World, call, request, root, sandbox_id};

driver_suite!(OciBench::new(true));

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_case_holds_on_a_machine_of_its_own() {
    if !net::machine("the_bridge_case_holds_on_a_machine_of_its_own") {
        return;
    }
    let _outside = net::build();
    let case = Case::named("network::bridge_is_its_own").unwrap();
    let report = run(case, Arc::new(OciBench::new(true).unwrap())).await;
    assert_eq!(report.outcome, Outcome::Passed, "{report}");
    net::assert_no_objects();
}
