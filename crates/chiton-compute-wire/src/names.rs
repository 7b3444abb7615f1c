//! The words of the contract that are no field names.

/// The service, as `grpc.health.v1` and reflection name it.
pub const SERVICE: &str = "openshell.compute.v1.ComputeDriver";

/// The version of our additions to the contract.
pub const CONTRACT_VERSION: u32 = 1;

/// `true` under this prefix and an extension's name says that the extension is on a sandbox's chain.
pub const EXTENSION_LABEL: &str = "openshell.io/extension.";

/// What [`EXTENSION_LABEL`] is set to.
pub const ENABLED: &str = "enabled";

/// What a driver can do beyond the contract's core.
pub mod features {
    /// It knows workspaces.
    pub const WORKSPACES: &str = "workspaces";
    /// A start may carry the sandbox, with the credentials of that start.
    pub const START_CARRIES_SANDBOX: &str = "start_carries_sandbox";
    /// It brings Chiton's agent into its sandboxes.
    pub const CHITON_AGENT: &str = "chiton_agent";
    /// It takes variables that must not be stored or shown.
    pub const SECRET_ENVIRONMENT: &str = "secret_environment";

    /// Each of them.
    pub const ALL: [&str; 4] = [WORKSPACES, START_CARRIES_SANDBOX, CHITON_AGENT, SECRET_ENVIRONMENT];
}

/// Types of conditions.
pub mod conditions {
    /// The sandbox runs and can be used.
    pub const READY: &str = "Ready";
    /// It was stopped and keeps its files.
    pub const SUSPENDED: &str = "Suspended";
}

/// Reasons of `Ready=False` that pass by themselves, in lower case; any other is final.
pub const PASSING: [&str; 8] = [
    "reconcilererror",
    "dependenciesnotready",
    "supervisornotconnected",
    "starting",
    "containerstarting",
    "containercreated",
    "healthcheckstarting",
    "inspectfailed",
];

/// Keys of a platform event's metadata, by which slow work tells of itself.
pub mod progress {
    /// What of it is being done, for people.
    pub const ACTIVE_DETAIL: &str = "openshell.progress.active_detail";
    /// What was done, for people.
    pub const COMPLETE_LABEL: &str = "openshell.progress.complete_label";
}
