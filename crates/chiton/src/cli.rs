//! The command line's form; `driver` has what is about drivers.

pub(crate) mod driver;

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use jiff::Timestamp;

pub(crate) use self::driver::{
    AgentKind, CaseGroup, ConformArgs, ConformCommand, DriverCommand, DriversArgs, DriversCommand, ReportForm,
    ServeArgs,
};
use crate::parse::{EscapeKey, Side, duration, escape_key, key_value, remote_or_local, since_now, volume};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed; standard error says what, why and the cure
  2    wrong usage, of exec too: nothing ran
  141  whoever read standard output went away
Of sandbox exec: the command's own (128 + signal when a signal ended it), 124 when --timeout ended it, 126 when it cannot
be executed, 127 when it is not there, 125 for a failure of chiton's own. Signals are passed on to
the command; three within a second end chiton itself.";

/// A sandbox gateway for agents: plans that can be read before they run, and nothing left to clean up.
#[derive(Debug, Parser)]
#[command(
    name = "chiton",
    version,
    after_help = EXIT_CODES
)]
pub(crate) struct Cli {
    /// The gateway to talk to: unix:PATH. Default: `CHITON_GATEWAY`, else the default socket.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) gateway: Option<String>,
    /// Print one JSON document, or JSON lines.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what Chiton does, for real, and clean up after it.
    Demo,
    /// Run a gateway.
    Gateway(GatewayArgs),
    /// Sandboxes.
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Show what a create would do. Stores nothing.
    Plan(CreateArgs),
    /// Show every value of a sandbox's plan and who set it.
    Explain(FindArgs),
    /// Show a sandbox's operations and where their time went.
    Timeline(FindArgs),
    /// Cleanups that are owed and could not be paid.
    #[command(subcommand)]
    Obligations(ObligationsCommand),
    /// Backend objects that no sandbox owns.
    #[command(subcommand)]
    Orphans(OrphansCommand),
    /// Named volumes, which outlive sandboxes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Images that the drivers keep.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Workspaces.
    #[command(subcommand)]
    Workspaces(WorkspacesCommand),
    /// Facts about the gateway.
    Info,
    /// Extensions of the gateway.
    Extensions,
    /// Drivers of the gateway.
    Drivers(DriversArgs),
    /// Drivers that are built in, for gateways of other processes.
    #[command(subcommand)]
    Driver(DriverCommand),
    /// Hold what others wrote against the contract.
    #[command(subcommand)]
    Conform(ConformCommand),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Save the store: through the running gateway, or from a folder that no gateway holds.
    Backup(BackupArgs),
    /// Put a backup back as a data folder's store. No gateway may hold it.
    Restore(RestoreArgs),
    /// Look at what this machine offers and what is missing.
    Doctor(DoctorArgs),
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// Where a gateway's configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything that must last is kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where to listen: unix:PATH. May be given several times.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// The drivers to run, instead of those in the file: an id, or external:PATH for an external driver on that socket.
    /// May be given several times. When nothing names one, the first kind that can run here is used.
    #[arg(long, value_name = "NAME")]
    pub(crate) driver: Vec<String>,
    /// The socket of an external driver, an absolute path; the one --driver is its name. The file's list is not used.
    #[arg(long, value_name = "PATH")]
    pub(crate) compute_driver_socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    /// Take over the sandboxes of an earlier life of the store. Only when that store is gone for good.
    #[arg(long, value_name = "EPOCH")]
    pub(crate) adopt_epoch: Option<String>,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one value a process, parsed once")]
pub(crate) enum SandboxCommand {
    /// Create a sandbox and wait until it is ready.
    Create(CreateArgs),
    /// List sandboxes.
    List(ListArgs),
    /// Show one sandbox.
    Get(FindArgs),
    /// Run a command in a sandbox.
    Exec(ExecArgs),
    /// Copy files and folders into or out of a sandbox.
    Cp(CopyArgs),
    /// Show the main process's output.
    Logs(LogsArgs),
    /// Stop a sandbox; its files are kept.
    Stop(ChangeArgs),
    /// Start a stopped sandbox.
    Start(ChangeArgs),
    /// Delete a sandbox and everything that belongs to it.
    Delete(DeleteArgs),
    /// Follow changes.
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: lower-case letters, digits and inner hyphens. Default: the gateway makes one.
    pub(crate) name: Option<String>,
    /// The workspace.
    #[arg(long, short = 'w', default_value = "default")]
    pub(crate) workspace: String,
    /// host, dir:PATH, oci:PATH[:TAG], tar:PATH[:TAG] or REGISTRY/NAME[:TAG][@DIGEST]. Default: the driver's.
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// The driver. Default: the gateway's.
    #[arg(long, value_name = "ID")]
    pub(crate) driver: Option<String>,
    /// Options of the driver's own, as JSON object.
    #[arg(long, value_name = "JSON")]
    pub(crate) driver_config: Option<String>,
    /// A label.
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub(crate) label: Vec<(String, String)>,
    /// An environment variable.
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    /// Processor time, as Kubernetes quantity: 500m, 2.
    #[arg(long, value_name = "Q")]
    pub(crate) cpu: Option<String>,
    /// Memory, as Kubernetes quantity: 256Mi.
    #[arg(long, value_name = "Q")]
    pub(crate) memory: Option<String>,
    /// Processes and threads.
    #[arg(long, value_name = "N")]
    pub(crate) pids: Option<u32>,
    /// Bytes that it may keep in its own files, as Kubernetes quantity: 2Gi.
    #[arg(long, value_name = "Q")]
    pub(crate) disk: Option<String>,
    /// Files, folders and links that it may keep.
    #[arg(long, value_name = "N")]
    pub(crate) inodes: Option<u64>,
    /// Files that one of its processes may have open.
    #[arg(long, value_name = "N")]
    pub(crate) open_files: Option<u32>,
    /// none, bridge, host, or named:NAME. Default: none.
    #[arg(long, value_name = "NET")]
    pub(crate) network: Option<String>,
    /// Where it may connect to besides: 10.1.0.0/16, 10.1.2.3:443/tcp.
    #[arg(long, value_name = "RANGE[:PORTS]")]
    pub(crate) allow: Vec<String>,
    /// The address of a name server.
    #[arg(long, value_name = "ADDR")]
    pub(crate) dns: Vec<String>,
    /// A named volume and where it is shown; it outlives the sandbox.
    #[arg(long, value_name = "NAME:PATH[:ro]", value_parser = volume)]
    pub(crate) volume: Vec<chiton_proto::v1::VolumeMount>,
    /// Working folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// A variable whose value is one of the operator's secrets.
    #[arg(long, value_name = "NAME=REF", value_parser = key_value)]
    pub(crate) secret: Vec<(String, String)>,
    /// Ask for an extension.
    #[arg(long, value_name = "NAME")]
    pub(crate) extension: Vec<String>,
    /// Refuse any plan with another digest.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) expect_plan: Option<String>,
    /// Return as soon as the gateway has taken the work on.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// The main process. Default: the sandbox waits for exec.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// Name, or id with --id.
    pub(crate) name: String,
    /// The workspace.
    #[arg(long, short = 'w', default_value = "default")]
    pub(crate) workspace: String,
    /// The argument is an id.
    #[arg(long)]
    pub(crate) id: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    #[command(flatten)]
    pub(crate) one: OneArgs,
    /// Also find the newest sandbox that held the name.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this workspace.
    #[arg(long, short = 'w')]
    pub(crate) workspace: Option<String>,
    /// Also sandboxes that let go of their name.
    #[arg(long)]
    pub(crate) all: bool,
    /// Only with this label.
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub(crate) label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// Run on a pseudo terminal.
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// With -t: what begins the way out, ~. at the beginning of a line; another character, or none.
    #[arg(long, value_name = "CHAR", default_value = "~", value_parser = escape_key)]
    pub(crate) escape: EscapeKey,
    /// Working folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// An environment variable.
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    /// End it after this time: 500ms, 5s, 1m30s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<std::time::Duration>,
    /// The workspace.
    #[arg(long, short = 'w', default_value = "default")]
    pub(crate) workspace: String,
    /// The sandbox is given by its id.
    #[arg(long)]
    pub(crate) id: bool,
    /// The sandbox: its name, or its id with --id.
    pub(crate) name: String,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The workspace.
    #[arg(long, short = 'w', default_value = "default")]
    pub(crate) workspace: String,
    /// The sandbox is given by its id: <ID:/path>.
    #[arg(long)]
    pub(crate) id: bool,
    /// From: a path here, or <NAME:/path>.
    #[arg(value_parser = remote_or_local)]
    pub(crate) source: Side,
    /// To: a path here, or <NAME:/path>.
    #[arg(value_parser = remote_or_local)]
    pub(crate) target: Side,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) one: OneArgs,
    /// Go on with what is written later.
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only the last so many lines.
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// Only since then: an RFC 3339 time, or how long ago: 10m.
    #[arg(long, value_name = "TIME", value_parser = since_now)]
    pub(crate) since: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    pub(crate) one: OneArgs,
    /// Return as soon as the gateway has taken the work on.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Names, or ids with --id.
    #[arg(required_unless_present = "all")]
    pub(crate) names: Vec<String>,
    /// The workspace.
    #[arg(long, short = 'w', default_value = "default")]
    pub(crate) workspace: String,
    /// The arguments are ids.
    #[arg(long)]
    pub(crate) id: bool,
    /// Every sandbox of the workspace.
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Also one that is held because something it needs is missing.
    #[arg(long)]
    pub(crate) force: bool,
    /// Return as soon as the gateway has taken the work on.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only this sandbox. Default: all.
    pub(crate) name: Option<String>,
    /// The workspace.
    #[arg(long, short = 'w', default_value = "default")]
    pub(crate) workspace: String,
    /// The argument is an id.
    #[arg(long, requires = "name")]
    pub(crate) id: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ObligationsCommand {
    /// List them.
    List,
    /// Close one unpaid. Leaves an audit record.
    Discharge {
        /// Its id.
        id: String,
        /// Needed: says that you know that nothing is paid by this.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OrphansCommand {
    /// List them.
    List,
    /// Take over a held sandbox of an earlier life of the store.
    Adopt(OrphanArgs),
    /// Delete one from its platform.
    Delete(OrphanArgs),
}

#[derive(Debug, Args)]
pub(crate) struct OrphanArgs {
    /// Its driver.
    pub(crate) driver: String,
    /// Its sandbox id.
    pub(crate) id: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List them with the sandboxes that have them.
    List {
        /// Only of this workspace.
        #[arg(long, short = 'w')]
        workspace: Option<String>,
    },
    /// Make one.
    Create {
        #[command(flatten)]
        volume: VolumeArgs,
        /// The most bytes in it, for example 10Gi. One sandbox at a time can have a volume with a size.
        #[arg(long, value_name = "QUANTITY")]
        size: Option<String>,
    },
    /// Delete one and all in it, for ever. Refused while a sandbox has it, running or not.
    Delete(VolumeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    /// Its name.
    pub(crate) name: String,
    /// The workspace.
    #[arg(long, short = 'w', default_value = "default")]
    pub(crate) workspace: String,
    /// The driver. Default: the gateway's; to delete, the one that has it.
    #[arg(long, value_name = "ID")]
    pub(crate) driver: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List them.
    List {
        /// Only of this driver.
        #[arg(long, value_name = "ID")]
        driver: Option<String>,
    },
    /// Bring one here before a sandbox needs it.
    Pull {
        /// oci:PATH[:TAG], tar:PATH[:TAG] or REGISTRY/NAME[:TAG][@DIGEST].
        image: String,
        /// For this driver. Default: the gateway's default driver.
        #[arg(long, value_name = "ID")]
        driver: Option<String>,
    },
    /// Remove one that no sandbox needs.
    Rm {
        /// A name that it was pulled by, its digest, or the first 12 digits of that.
        image: String,
        /// Of this driver. Default: the gateway's default driver.
        #[arg(long, value_name = "ID")]
        driver: Option<String>,
    },
    /// Remove those that no sandbox needs and no config pins.
    Prune {
        /// Only those not used for so long, for example 24h. Default: what the driver's limits say.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        older_than: Option<std::time::Duration>,
        /// Only of this driver.
        #[arg(long, value_name = "ID")]
        driver: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspacesCommand {
    /// List them.
    List,
    /// Release one on every driver. Refused while it has sandboxes or volumes.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration offline; every error at once.
    Check(SourceArgs),
    /// Show the configuration of the running gateway, or of a file.
    Show {
        #[command(flatten)]
        sources: SourceArgs,
        /// Show where each value was set.
        #[arg(long)]
        origin: bool,
        /// Show the default configuration, with comments.
        #[arg(long)]
        default: bool,
    },
}

/// Which data folder, where a command works on one without a gateway.
#[derive(Clone, Debug, Args)]
pub(crate) struct FolderArgs {
    /// The gateway's configuration file, which names its data folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder. Default: that of the configuration.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to write, or a folder to write one into.
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// Replace the store that is there, and keep it beside the new one.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The gateway's configuration file: it is checked, and it names the data folder to look at.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder to look at. Default: that of the configuration.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl Cli {
    /// What is wrong with a line whose words are all right by themselves.
    pub(crate) fn fault(&self) -> Option<clap::Error> {
        let Command::Driver(DriverCommand::Serve(args)) = &self.command else { return None };
        let (kind, message) = args.fault()?;
        Some(Self::command().error(kind, message))
    }
}
