//! The command line's form, of all that is about drivers: those of a gateway, one served on a socket, one that is judged.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, Subcommand, ValueEnum};

const DRIVERS_EXAMPLES: &str = "\
Examples:
  chiton drivers list --wide
  chiton drivers get kyma --json";

const SERVE_EXAMPLES: &str = "\
Examples:
  The docker driver for a gateway of another make, whose supervisor it puts into every sandbox:
    chiton driver serve --driver docker --listen unix:///run/chiton/docker.sock \\
      --supervisor-bin /usr/libexec/supervisor --endpoint https://10.0.0.1:8080
  The embedded driver with the extensions that a file configures, for a gateway that runs as user 1000:
    chiton driver serve --driver oci --listen unix:///run/oci/driver.sock --config composed.toml \\
      --agent none --peer-uid 1000
  Such a socket in a Chiton gateway:
    chiton gateway --driver mine --compute-driver-socket /run/oci/driver.sock";

const CONFORM_EXAMPLES: &str = "\
Examples:
  chiton conform driver --socket /run/kyma.sock --image registry.example/tools/busybox:1
  chiton conform driver --socket /run/kyma.sock --report junit --output conformance.xml
  chiton conform driver --socket /run/kyma.sock --declare known.toml --restart-command 'systemctl restart kyma'
  chiton conform driver --socket /run/kyma.sock --group wire --only watch:: -- sleep infinity
docs/driver-conformance.md says what each case means. It makes and deletes sandboxes on the driver's platform; what is there from others is left alone.
Exit codes: 0 when every case passed or was declared, 1 when one failed, 2 wrong usage.";

/// `drivers`; without a word more it lists.
#[derive(Debug, Args)]
#[command(after_help = DRIVERS_EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct DriversArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DriversCommand>,
    #[command(flatten)]
    pub(crate) list: DriversListArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DriversCommand {
    /// List them: kind, which is the default, whether it can be reached, how many sandboxes it has.
    List(DriversListArgs),
    /// Show one: what it offers, where its platform is, and why it cannot be reached, if so.
    Get {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Default, Args)]
pub(crate) struct DriversListArgs {
    /// Also what each offers: points, limits, networks, features.
    #[arg(long)]
    pub(crate) wide: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DriverCommand {
    /// Serve a driver that is built in, with extensions if some are configured, on a socket for another process's gateway.
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub(crate) struct ServeArgs {
    /// The kind of driver to serve: oci, docker, podman.
    #[arg(long, value_name = "KIND")]
    pub(crate) driver: String,
    /// Where to listen, as `unix://PATH` with an absolute path. Default: the socket that systemd hands over.
    #[arg(long, value_name = "ADDRESS", value_parser = socket)]
    pub(crate) listen: Option<Socket>,
    /// The configuration file: the driver's table, extensions and their policies.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything that must last is kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Which program in its sandboxes talks to the gateway.
    #[arg(long, value_name = "WHOSE", default_value = "openshell")]
    pub(crate) agent: AgentKind,
    /// The supervisor as a file on this machine. With --agent openshell.
    #[arg(long, value_name = "PATH", conflicts_with = "supervisor_image")]
    pub(crate) supervisor_bin: Option<PathBuf>,
    /// The supervisor as an image. With --agent openshell.
    #[arg(long, value_name = "REF")]
    pub(crate) supervisor_image: Option<String>,
    /// Where a sandbox's supervisor finds the gateway: http://HOST:PORT or https://HOST:PORT. With --agent openshell.
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    pub(crate) endpoint: Option<String>,
    /// What it calls itself to gateways. Default: the kind.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Let requests set options of the base driver, in a block of its kind, when extensions stand around it.
    #[arg(long)]
    pub(crate) delegate: bool,
    /// Who may call, by user id. May be given several times. Default: root and the user who serves.
    #[arg(long, value_name = "UID", value_parser = uid)]
    pub(crate) peer_uid: Vec<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConformCommand {
    /// Hold a driver behind a socket against the contract, case by case.
    Driver(ConformArgs),
}

#[derive(Debug, Args)]
#[command(after_help = CONFORM_EXAMPLES)]
pub(crate) struct ConformArgs {
    /// The driver's socket: an absolute path, or `unix://PATH`.
    #[arg(long, value_name = "PATH", value_parser = socket)]
    pub(crate) socket: Socket,
    /// An image with a shell, as the driver names images. Default: the driver's own default image.
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// The groups of cases to run; may be given twice. Default: both.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Vec<CaseGroup>,
    /// Only cases with this in their names, and what those need.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) only: String,
    /// The image has no shell: what is looked at from inside is declared.
    #[arg(long)]
    pub(crate) no_shell: bool,
    /// The workspace of the sandboxes.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) workspace: String,
    /// A TOML file of expected failures, one a line: "CASE" = "WHY".
    #[arg(long, value_name = "FILE")]
    pub(crate) declare: Option<PathBuf>,
    /// A declared failure that does not happen is an error.
    #[arg(long)]
    pub(crate) strict: bool,
    /// How to restart the driver, as a line for /bin/sh. Without it the cases about restarts are declared.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) restart_command: Option<String>,
    /// Whose process the driver may be, by user id. May be given several times. Default: root and the caller.
    #[arg(long, value_name = "UID", value_parser = uid)]
    pub(crate) peer_uid: Vec<u32>,
    /// The form of the report. Default: a table for people.
    #[arg(long, value_name = "FORM")]
    pub(crate) report: Option<ReportForm>,
    /// The file to write the report to. Default: standard output.
    #[arg(long, value_name = "FILE", requires = "report")]
    pub(crate) output: Option<PathBuf>,
    /// The main process of sandboxes that are to live: it runs until it is told to end. Default: a loop of /bin/sh.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// A group of conformance cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaseGroup {
    /// The contract, call by call.
    Wire,
    /// The promises of every driver, kept as a gateway uses it.
    Behaviour,
}

/// Whose program in a sandbox talks to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AgentKind {
    /// Chiton's agent.
    Chiton,
    /// The supervisor given by --supervisor-bin or --supervisor-image.
    Openshell,
    /// Nobody: ready is the driver's word, and there is no exec.
    None,
}

/// The form of a report for other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportForm {
    /// The XML of `JUnit`, which most build servers read.
    Junit,
    /// One JSON document.
    Json,
}

/// A Unix socket at an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket(PathBuf);

impl Socket {
    /// Its path; absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// `unix:///run/x.sock`, `unix:/run/x.sock`, `/run/x.sock`.
pub(crate) fn socket(text: &str) -> Result<Socket, String> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    if path.is_empty() {
        return Err("the path is empty; write unix:///run/NAME.sock".to_owned());
    }
    if !path.starts_with('/') {
        return Err(format!("{path:?} is not an absolute path; write unix:///run/NAME.sock"));
    }
    if path.ends_with('/') || path.contains('\0') {
        return Err(format!("{path:?} is no path of a socket; write unix:///run/NAME.sock"));
    }
    Ok(Socket(PathBuf::from(path)))
}

/// The highest value means "no user" to the kernel (chown(2)).
fn uid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(uid) if uid != u32::MAX => Ok(uid),
        _ => Err(format!("write a user id, a number from 0 to {}; id -u NAME prints a user's", u32::MAX - 1)),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |rest: &&str| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        !host.is_empty() && !host.contains('@') && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    match rest.filter(plain) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

impl ServeArgs {
    /// What the parts of the line say together; none when it makes sense.
    pub(crate) fn fault(&self) -> Option<(ErrorKind, String)> {
        let supervisor = self.supervisor_bin.is_some() || self.supervisor_image.is_some();
        let given = [
            ("--supervisor-bin", self.supervisor_bin.is_some()),
            ("--supervisor-image", self.supervisor_image.is_some()),
            ("--endpoint", self.endpoint.is_some()),
        ];
        match self.agent {
            AgentKind::Openshell if !supervisor => Some((
                ErrorKind::MissingRequiredArgument,
                "--agent openshell needs the supervisor: add --supervisor-bin PATH or --supervisor-image REF; without \
                 one in its sandboxes that gateway never calls them ready. For another gateway: --agent chiton or \
                 --agent none"
                    .to_owned(),
            )),
            AgentKind::Openshell => None,
            AgentKind::Chiton | AgentKind::None => given.iter().find(|(_, given)| *given).map(|(flag, _)| {
                (
                    ErrorKind::ArgumentConflict,
                    format!("{flag} goes with --agent openshell alone: leave one of them out"),
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests;
