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
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    choose(flag, variable.as_deref(), rustix::process::geteuid().is_root(), runtime.as_deref())
}

/// The socket where a gateway listens that was told nothing else. `None` for an ordinary user without a usable
/// `XDG_RUNTIME_DIR`.
pub fn default_socket() -> Option<PathBuf> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    default_for(rustix::process::geteuid().is_root(), runtime.as_deref())
}

fn default_for(root: bool, runtime: Option<&Path>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from("/run/chiton/gateway.sock"));
    }
    // The XDG base directory specification: a relative path is to be ignored.
    runtime.filter(|path| path.is_absolute()).map(|path| path.join("chiton/gateway.sock"))
}

/// The decision itself, without the environment.
pub(crate) fn choose(
    flag: Option<&str>,
    variable: Option<&str>,
    root: bool,
    runtime: Option<&Path>,
) -> Result<Address, Error> {
    if let Some(text) = flag {
        return parse(text, "--gateway");
    }
    if let Some(text) = variable {
        return parse(text, GATEWAY_VARIABLE);
    }
    default_for(root, runtime).map(|socket| Address { socket, origin: "default" }).ok_or_else(|| {
        Error::unavailable(
            "gateway",
            "nothing says where the gateway is: XDG_RUNTIME_DIR is not set to an absolute path",
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
