//! What a supervisor is told to enforce.
//!
//! This gateway has no policies in the supervisor's sense. "None" is no answer, though: a supervisor that gets none makes
//! one up, sends it by a call for people and tools, and does not start when that fails. So each is given the same narrow
//! policy: its working folder and `/tmp` to write, the system's folders to read, nothing of the network. What a sandbox
//! may do beyond its supervisor is its driver's business.

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::wire::sandbox::{FilesystemPolicy, GetSandboxConfigResponse, LandlockPolicy, PolicySource, SandboxPolicy};

const READ: [&str; 11] =
    ["/bin", "/sbin", "/usr", "/lib", "/lib64", "/etc", "/opt", "/proc", "/dev/urandom", "/var/lib", "/var/log"];
const WRITE: [&str; 2] = ["/tmp", "/dev/null"];

fn policy() -> SandboxPolicy {
    let paths = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect();
    SandboxPolicy {
        version: 1,
        filesystem: Some(FilesystemPolicy {
            include_workdir: true,
            read_only: paths(&READ),
            read_write: paths(&WRITE),
        }),
        // Without it the supervisor would not start on kernels without Landlock; the driver's own walls stand.
        landlock: Some(LandlockPolicy { compatibility: "best_effort".to_owned() }),
        process: None,
    }
}

/// The one configuration.
pub(crate) fn config() -> GetSandboxConfigResponse {
    let policy = policy();
    GetSandboxConfigResponse {
        version: 1,
        policy_hash: hex::encode(Sha256::digest(policy.encode_to_vec())),
        policy: Some(policy),
        config_revision: 1,
        policy_source: PolicySource::Sandbox.into(),
        policy_validation_failure_mode: "fail_closed".to_owned(),
        ..GetSandboxConfigResponse::default()
    }
}
