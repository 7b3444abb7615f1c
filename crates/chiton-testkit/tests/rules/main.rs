//! The rules of the lifecycle, one history each: what random histories reach too seldom to be relied on.

mod answers;
mod cleanup;
mod clock;
mod drivers;
mod hooks;
mod pieces;
mod plans;
mod recovery;
mod running;

use std::time::Duration;

use chiton_lifecycle::engine::{Accepted, CreateRequest, Request};
use chiton_model::{Error, SandboxName};
use chiton_testkit::{DriverSpec, ExtensionScript, Lab};

pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// A started lab with one extension that takes part in every phase.
pub(crate) fn one(seed: u64) -> Lab {
    let mut lab = Lab::new(seed).driver(DriverSpec::new("fake")).extension(ExtensionScript::everywhere("ext"));
    lab.start();
    lab
}

pub(crate) fn named(lab: &Lab, request_id: &str) -> Request {
    Request { request_id: Some(request_id.to_owned()), ..lab.request() }
}

pub(crate) fn create_as(lab: &Lab, request: Request, name: &str) -> Result<Accepted, Error> {
    let name = Some(SandboxName::new(name).expect("a valid name"));
    let engine = lab.engine();
    lab.block_on(async move { engine.create(request, CreateRequest { name, ..CreateRequest::default() }).await })
}

/// All is quiet and balances.
pub(crate) fn settle(lab: &Lab) {
    assert!(lab.quiesce(HOUR), "not quiet\n{:?}", lab.ledger());
    lab.assert_sound();
}
