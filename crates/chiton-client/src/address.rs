//! Where the gateway listens.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use chiton_model::Error;

/// The environment variable that names the gateway, for every command.
pub const GATEWAY_VARIABLE: &str = "CHITON_GATEWAY";

/// A gateway's address, and who named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Path of its Unix socket.
    pub socket: PathBuf,
    /// Where the path comes from: "--gateway", "`CHITON_GATEWAY`" or "default".
    pub origin: &'static str,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "unix:{}", self.socket.display())
    }
}

/// The gateway to talk to: `flag` if there is one, else `CHITON_GATEWAY`, else the default socket.
///
/// # Errors
/// `invalid` if the flag or the variable is not `unix:PATH` or a path; `unavailable` if nothing names a gateway and
/// there is no default for this user.
pub fn discover(flag: Option<&str>) -> Result<Address, Error> {
    let variable = match env::var(GATEWAY_VARIABLE) {
        Ok(value) => Some(value).filter(|value| !value.is_empty()),
        Err(env::VarError::NotPresent) => None,
        Err(env::VarError::NotUnicode(_)) => {
            return Err(Error::invalid(GATEWAY_VARIABLE, format!("{GATEWAY_VARIABLE} is not UTF-8")));
        }
    };
    choose(flag, variable.as_deref(), rustix::process::geteuid().is_root(), own_run_folder().as_deref())
}

/// The socket where a gateway listens that was told nothing else. `None` for an ordinary user without a usable
/// `XDG_RUNTIME_DIR`, `XDG_STATE_HOME` or `HOME`.
pub fn default_socket() -> Option<PathBuf> {
    default_for(rustix::process::geteuid().is_root(), own_run_folder().as_deref())
}

fn own_run_folder() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    user_run_folder(variable("XDG_RUNTIME_DIR"), variable("XDG_STATE_HOME"), variable("HOME"))
}

/// The folder for sockets of a user other than root: below `XDG_RUNTIME_DIR`; where nothing sets that (`su`, cron, a
/// bare machine) below the user's state folder, which is the user's alone too. The XDG base directory specification: a
/// relative path is to be ignored.
pub(crate) fn user_run_folder(
    runtime: Option<PathBuf>,
    state: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let sound = |path: Option<PathBuf>| path.filter(|path| path.is_absolute());
    if let Some(runtime) = sound(runtime) {
        return Some(runtime.join("chiton"));
    }
    let state = sound(state).or_else(|| sound(home).map(|home| home.join(".local/state")))?;
    Some(state.join("chiton/run"))
}

fn default_for(root: bool, run: Option<&Path>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from("/run/chiton/gateway.sock"));
    }
    run.map(|path| path.join("gateway.sock"))
}

/// The decision itself, without the environment.
pub(crate) fn choose(
    flag: Option<&str>,
    variable: Option<&str>,
    root: bool,
    run: Option<&Path>,
) -> Result<Address, Error> {
    if let Some(text) = flag {
        return parse(text, "--gateway");
    }
    if let Some(text) = variable {
        return parse(text, GATEWAY_VARIABLE);
    }
    default_for(root, run).map(|socket| Address { socket, origin: "default" }).ok_or_else(|| {
        Error::unavailable(
            "gateway",
            "nothing says where the gateway is: neither XDG_RUNTIME_DIR nor HOME is set to an absolute path",
        )
        .cure("name it with --gateway unix:PATH or CHITON_GATEWAY")
    })
}

fn parse(text: &str, origin: &'static str) -> Result<Address, Error> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    // A path has a slash; everything else is most likely a host, which a gateway does not listen on.
    if path.is_empty() || path.contains('\0') || !path.contains('/') || text.contains("://") {
        return Err(Error::invalid(origin, format!("{origin} is {text:?}, which is no address of a gateway"))
            .cure("write it as unix:PATH, for example unix:/run/chiton/gateway.sock"));
    }
    Ok(Address { socket: PathBuf::from(path), origin })
}
