//! What the other side calls things.

use super::Ways;

/// The program in the sandbox.
pub(super) const PROGRAM: &str = "/opt/openshell/bin/openshell-sandbox";
/// The program in an image that carries it.
pub(super) const IN_IMAGE: &str = "/openshell-sandbox";
/// The token in the sandbox.
pub(super) const TOKEN: &str = "/etc/openshell/auth/sandbox.jwt";
/// The authority, the certificate and its key in the sandbox.
pub(super) const TLS: [&str; 3] =
    ["/etc/openshell/tls/client/ca.crt", "/etc/openshell/tls/client/tls.crt", "/etc/openshell/tls/client/tls.key"];
/// Where it listens unless the operator says otherwise.
pub(super) const SSH_SOCKET: &str = "/run/openshell/ssh.sock";
/// Where the workload works when the image does not say.
pub(super) const WORKSPACE: &str = "/sandbox";
/// The name by which sandboxes know this machine; each engine has one of its own besides.
pub(super) const HOST: &str = "host.openshell.internal";
/// What the main process is when nobody names one, on a terminal.
pub(super) const SCRATCH: [&str; 2] = ["/bin/bash", "-l"];
/// Everything in the sandbox that is the supervisor's.
pub(super) const ROOTS: [&str; 7] = [
    "/opt/openshell",
    "/etc/openshell",
    "/etc/openshell-tls",
    "/run/openshell",
    "/run/openshell-sidecar",
    "/run/netns",
    "/var/run/netns",
];

pub(super) const ENDPOINT: &str = "OPENSHELL_ENDPOINT";
pub(super) const SANDBOX_ID: &str = "OPENSHELL_SANDBOX_ID";
pub(super) const SANDBOX_NAME: &str = "OPENSHELL_SANDBOX";
pub(super) const SSH_SOCKET_PATH: &str = "OPENSHELL_SSH_SOCKET_PATH";
pub(super) const LOG_LEVEL: &str = "OPENSHELL_LOG_LEVEL";
/// The main process as JSON: `{"version":1,"command":[…],"tty":false}`.
pub(super) const MAIN_PROCESS: &str = "OPENSHELL_MAIN_PROCESS_SPEC";
/// The workload's variables as a JSON object.
pub(super) const USER_ENVIRONMENT: &str = "OPENSHELL_USER_ENVIRONMENT";
pub(super) const TOKEN_FILE: &str = "OPENSHELL_SANDBOX_TOKEN_FILE";
/// In the order of [`TLS`].
pub(super) const TLS_VARIABLES: [&str; 3] = ["OPENSHELL_TLS_CA", "OPENSHELL_TLS_CERT", "OPENSHELL_TLS_KEY"];
pub(super) const IMAGE_USER: &str = "OPENSHELL_OCI_IMAGE_USER";
/// Always empty: who the workload is follows from the image's user.
pub(super) const IDS: [&str; 2] = ["OPENSHELL_SANDBOX_UID", "OPENSHELL_SANDBOX_GID"];
pub(super) const TELEMETRY: &str = "OPENSHELL_TELEMETRY_ENABLED";
pub(super) const NETWORK_RUNTIME: &str = "OPENSHELL_NETWORK_RUNTIME_CAPABILITIES";
pub(super) const NETWORK_RUNTIME_IS: &str = "policy-dns-transparent-tcp";
/// The image as the request names it. Podman only.
pub(super) const IMAGE: &str = "OPENSHELL_CONTAINER_IMAGE";
/// Where helpers of the supervisor are looked for. Docker only.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Ways {
    /// Who the supervisor is.
    pub(super) fn user(self) -> &'static str {
        match self {
            Self::Docker => "0",
            Self::Podman => "0:0",
        }
    }

    /// Capabilities beside the engine's own, without `CAP_`.
    pub(super) fn added(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYSLOG"],
            Self::Podman => &["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYSLOG", "DAC_READ_SEARCH", "SETPCAP"],
        }
    }

    /// Capabilities that the engine would give and the supervisor does not have.
    pub(super) fn dropped(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &[],
            // The last two because its Docker-compatible API gives them, and its own, which the other side speaks, does not.
            Self::Podman => &[
                "DAC_OVERRIDE",
                "FSETID",
                "KILL",
                "NET_BIND_SERVICE",
                "NET_RAW",
                "SETFCAP",
                "SYS_CHROOT",
                "AUDIT_WRITE",
                "MKNOD",
            ],
        }
    }

    /// What the engine's own confinement is told. The supervisor confines the workload itself, for which it makes
    /// namespaces and mounts that the engine's profiles deny.
    pub(super) fn security(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["apparmor=unconfined"],
            Self::Podman => &["no-new-privileges", "seccomp=unconfined"],
        }
    }

    /// Whether the supervisor can gain no privileges by execution.
    pub(super) fn no_new_privileges(self) -> bool {
        self == Self::Podman
    }

    /// The engine's own name for this machine.
    pub(super) fn host(self) -> &'static str {
        match self {
            Self::Docker => "host.docker.internal",
            Self::Podman => "host.containers.internal",
        }
    }

    /// The mode of the token's file.
    pub(super) fn token_mode(self) -> u32 {
        match self {
            Self::Docker => 0o600,
            Self::Podman => 0o400,
        }
    }

    /// A file system in memory of the supervisor's, where it keeps the names of the namespaces that it makes.
    pub(super) fn memory(self) -> Option<&'static str> {
        (self == Self::Podman).then_some("/run/netns")
    }

    /// Whether the workspace is a volume of the sandbox's own.
    pub(super) fn keeps_workspace(self) -> bool {
        self == Self::Podman
    }

    /// Where the container begins; where the image says when none. The supervisor makes the workspace, which the
    /// engine must not do before it.
    pub(super) fn begins(self) -> Option<&'static str> {
        (self == Self::Docker).then_some("/")
    }
}
