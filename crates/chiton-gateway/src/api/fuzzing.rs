//! From wire to model, without a gateway around it.

use chiton_lifecycle::journal::SandboxQuery;
use chiton_lifecycle::{CreateRequest, Selector};
use chiton_model::{Error, WorkspaceName};
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use jiff::Timestamp;

use super::{convert, files, sandboxes};

/// A create request.
pub fn create_request(request: wire::CreateSandboxRequest) -> Result<CreateRequest, Error> {
    convert::create(request)
}

/// Which sandbox.
pub fn selector(selector: Option<wire::SandboxSelector>) -> Result<Selector, Error> {
    convert::selector(selector)
}

/// Which workspace.
pub fn workspace(text: &str) -> Result<WorkspaceName, Error> {
    convert::workspace(text)
}

/// A page of a listing.
pub fn page(request: &wire::ListSandboxesRequest) -> Result<SandboxQuery, Error> {
    sandboxes::page(request)
}

/// Since when a log is wanted.
pub fn log_time(at: prost_types::Timestamp) -> Result<Timestamp, Error> {
    convert::timestamp(at)
}

/// The first input of an exec.
pub fn check_exec(first: &agent::ExecInput) -> Result<(), Error> {
    files::check_exec(first)
}
