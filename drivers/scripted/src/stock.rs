//! The driver without the contract's additions: what a driver that knows only the public contract says and hears.

use chiton_compute_wire::v1::{DriverSandbox, DriverSandboxSpec, DriverSandboxStatus, GetCapabilitiesResponse};

/// Leaves out what has a number from 1000 on.
pub(crate) fn capabilities(said: &mut GetCapabilitiesResponse) {
    said.contract_version = 0;
    said.lifecycle_phases.clear();
    said.plan_fields.clear();
    said.features.clear();
    said.backend_id.clear();
}

/// As [`capabilities`].
pub(crate) fn sandbox(sandbox: &mut DriverSandbox) {
    if let Some(DriverSandboxSpec { agent_attempt, agent_socket, secret_environment, .. }) = &mut sandbox.spec {
        agent_attempt.clear();
        agent_socket.clear();
        secret_environment.clear();
    }
    if let Some(DriverSandboxStatus { state, exit_code, attempt, .. }) = &mut sandbox.status {
        state.clear();
        attempt.clear();
        *exit_code = None;
    }
}
