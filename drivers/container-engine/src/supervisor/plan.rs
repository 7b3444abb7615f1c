//! What will be injected, readable before it is.

use std::collections::BTreeMap;
use std::path::Path;

use chiton_driver::{WhoseAgent, check_path, has_open_slot, marker, slots};
use chiton_model::{Error, ErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SupervisorOptions, Ways, names};
use crate::plan::{EnginePlan, ImagePlan};

/// What the driver puts into the sandbox beside its image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "whose", rename_all = "snake_case", deny_unknown_fields)]
pub enum AgentPlan {
    /// Chiton's agent: its program at `/run/chiton-agent`, the folder with its gateway's socket at `/run/chiton`.
    #[default]
    Chiton,
    /// Nothing: the command is the sandbox's first process.
    None,
    /// An `OpenShell` gateway's supervisor.
    Openshell(Box<SupervisorPlan>),
}

impl AgentPlan {
    /// Whose it is.
    pub fn whose(&self) -> WhoseAgent {
        match self {
            Self::Chiton => WhoseAgent::Chiton,
            Self::None => WhoseAgent::None,
            Self::Openshell(_) => WhoseAgent::Openshell,
        }
    }

    /// The supervisor, if it is one.
    pub fn supervisor(&self) -> Option<&SupervisorPlan> {
        match self {
            Self::Openshell(plan) => Some(plan),
            Self::Chiton | Self::None => None,
        }
    }

    /// Whether it is what plans do not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The supervisor of one sandbox. It holds no token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SupervisorPlan {
    /// Its program.
    pub program: ProgramPlan,
    /// The entry point: where the program is in the sandbox.
    pub entrypoint: String,
    /// Its arguments; the sandbox's working folder follows the last.
    pub arguments: Vec<String>,
    /// The main process that it is to start.
    pub main: MainPlan,
    /// Its variables, over those of image and request. The workload's own come to it as JSON besides, and where its token
    /// is when it has one.
    pub env: BTreeMap<String, String>,
    /// Variables that image and request may set otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defaults: BTreeMap<String, String>,
    /// Files of this machine that it is shown, read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FilePlan>,
    /// Where in the sandbox its token is, read-only.
    pub token_file: String,
    /// Names of this machine in the sandbox.
    pub hosts: Vec<String>,
    /// Capabilities of the engine's own that it does not have, without `CAP_`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_capabilities: Vec<String>,
    /// What the engine's own confinement is told.
    pub security_options: Vec<String>,
    /// File systems in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<String>,
    /// Where a volume of the sandbox's own is, which goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The folder in which the container begins; the image's own without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_in: Option<String>,
}

/// The supervisor's program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProgramPlan {
    /// A file of this machine.
    Bin {
        /// Its absolute path.
        path: String,
        /// What was in it when the plan was made, `sha256:…`. With other content it is not used.
        digest: String,
    },
    /// A file of an image.
    Image {
        /// The image; every byte of it is fixed.
        image: ImagePlan,
        /// The file in it.
        path: String,
    },
}

/// The main process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MainPlan {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// A file that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilePlan {
    /// Absolute path on this machine.
    pub source: String,
    /// Absolute path in the sandbox.
    pub target: String,
}

/// What a plan is made from.
pub(crate) struct Sandbox<'a> {
    pub(crate) options: &'a SupervisorOptions,
    pub(crate) ways: Ways,
    pub(crate) program: ProgramPlan,
    pub(crate) image: &'a ImagePlan,
    /// As the image declares it; empty where it does not.
    pub(crate) image_user: &'a str,
    /// As the image declares it.
    pub(crate) image_workdir: &'a str,
    /// As the request asks for it.
    pub(crate) workdir: Option<&'a str>,
    pub(crate) main: MainPlan,
    pub(crate) log_level: Option<&'a str>,
    /// The sandbox's name, or the mark in its place.
    pub(crate) name: &'a str,
}

/// The main process of a request: its command, or a shell, which always has a terminal.
pub(crate) fn default_main(command: &[String], tty: Option<bool>) -> MainPlan {
    if command.is_empty() {
        return MainPlan { command: names::SCRATCH.map(str::to_owned).to_vec(), tty: true };
    }
    MainPlan { command: command.to_vec(), tty: tty.unwrap_or(false) }
}

/// The main process as the supervisor reads it.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    command: &'a [String],
    tty: bool,
}

/// The plan, its slots by pointer within the sandbox's plan, and the workspace.
pub(crate) fn planned(sandbox: Sandbox<'_>) -> (SupervisorPlan, BTreeMap<String, String>, String) {
    let Sandbox { options, ways, program, image, image_user, image_workdir, workdir, main, log_level, name } = sandbox;
    // Podman's driver always works in the workspace; docker's where the image says.
    let image_workdir = if ways == Ways::Docker { image_workdir.trim_end_matches('/') } else { "" };
    let workdir =
        workdir.or(Some(image_workdir).filter(|path| !path.is_empty())).unwrap_or(names::WORKSPACE).to_owned();
    let document = Document { version: 1, command: &main.command, tty: main.tty };
    let document = serde_json::to_string(&document).unwrap_or_default();
    let mut env: BTreeMap<String, String> = [
        (names::ENDPOINT, options.endpoint.as_str()),
        (names::SANDBOX_ID, &marker(slots::SANDBOX_ID)),
        (names::SANDBOX_NAME, name),
        (names::SSH_SOCKET_PATH, &options.ssh_socket),
        (names::MAIN_PROCESS, &document),
        (names::TELEMETRY, if options.telemetry { "true" } else { "false" }),
        (names::NETWORK_RUNTIME, names::NETWORK_RUNTIME_IS),
        (names::IMAGE_USER, image_user),
        (names::IDS[0], ""),
        (names::IDS[1], ""),
        (names::LOG_LEVEL, log_level.unwrap_or(&options.log_level)),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut defaults = BTreeMap::new();
    match ways {
        Ways::Docker => {
            env.insert("PATH".to_owned(), names::PATH.to_owned());
            defaults.insert("HOME".to_owned(), "/root".to_owned());
            defaults.insert("TERM".to_owned(), "xterm".to_owned());
        }
        Ways::Podman => drop(env.insert(names::IMAGE.to_owned(), image.reference.clone())),
    }
    let mut files = Vec::new();
    if let Some(tls) = &options.tls {
        for ((source, target), variable) in
            [&tls.ca, &tls.cert, &tls.key].iter().zip(names::TLS).zip(names::TLS_VARIABLES)
        {
            files.push(FilePlan { source: source.to_string_lossy().into_owned(), target: target.to_owned() });
            env.insert(variable.to_owned(), target.to_owned());
        }
    }
    let mut filled = BTreeMap::from([(format!("/agent/env/{}", names::SANDBOX_ID), slots::SANDBOX_ID.to_owned())]);
    if has_open_slot(name) {
        filled.insert(format!("/agent/env/{}", names::SANDBOX_NAME), slots::SANDBOX_NAME.to_owned());
    }
    let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
    let plan = SupervisorPlan {
        program,
        entrypoint: names::PROGRAM.to_owned(),
        arguments: vec!["--workdir".to_owned()],
        main,
        env,
        defaults,
        files,
        token_file: names::TOKEN.to_owned(),
        hosts: owned(&[ways.host(), names::HOST]),
        dropped_capabilities: owned(ways.dropped()),
        security_options: owned(ways.security()),
        memory: ways.memory().map(str::to_owned).into_iter().collect(),
        workspace: ways.keeps_workspace().then(|| names::WORKSPACE.to_owned()),
        begins_in: ways.begins().map(str::to_owned),
    };
    (plan, filled, workdir)
}

/// The part of a path of the sandbox that is the supervisor's, above or below it, if some is.
pub(crate) fn overlaps(target: &str, ssh_socket: &str) -> Option<String> {
    let meets = |own: &str| Path::new(target).starts_with(own) || Path::new(own).starts_with(target);
    names::ROOTS.into_iter().chain([ssh_socket]).find(|own| meets(own)).map(str::to_owned)
}

/// What must hold of a plan with a supervisor, filled or not.
pub(crate) fn check(plan: &EnginePlan, supervisor: &SupervisorPlan, ways: Ways) -> Result<(), Error> {
    let loose = |what: &str| {
        Error::refused("driver", format!("what is injected is not what the driver made: {what}"))
            .cure("leave /agent, /user and /security as the driver made them")
    };
    if plan.user != ways.user() {
        return Err(loose("it runs as another user"));
    }
    if plan.security.no_new_privileges != ways.no_new_privileges() {
        return Err(loose("programs may gain privileges, or may not"));
    }
    if plan.security.capabilities != ways.added() {
        return Err(loose("it has other capabilities"));
    }
    if plan.security.read_only_root {
        return Err(Error::invalid("driver_config.read_only", "the supervisor writes to the sandbox's root")
            .cure("leave read_only out"));
    }
    if !plan.secrets.is_empty() {
        return Err(Error::new(
            ErrorKind::Refused { by: "driver".to_owned() },
            "secrets would stand in the container's environment, which whoever may look at the engine reads",
        )
        .cure("let the supervisor's own gateway hand them out, or use a driver with agent = \"chiton\""));
    }
    if supervisor.main.command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("command", "the main process has no program").cure("name one"));
    }
    if !has_open_slot(&plan.workdir) {
        check_path("workdir", &plan.workdir)?;
        let ssh_socket = supervisor.env.get(names::SSH_SOCKET_PATH).map_or(names::SSH_SOCKET, String::as_str);
        let kernel = ["/proc", "/sys", "/dev"].into_iter().find(|own| Path::new(&plan.workdir).starts_with(own));
        if let Some(own) = kernel.map(str::to_owned).or_else(|| overlaps(&plan.workdir, ssh_socket)) {
            let text =
                format!("{:?} cannot be the workspace: {own:?} is the supervisor's or the kernel's", plan.workdir);
            return Err(Error::invalid("workdir", text).cure("choose another folder"));
        }
    }
    Ok(())
}

impl Ways {
    /// Who the first process is.
    pub(crate) fn runs_as(self) -> String {
        self.user().to_owned()
    }

    /// Its capabilities beside the engine's own.
    pub(crate) fn capabilities(self) -> Vec<String> {
        self.added().iter().map(|name| (*name).to_owned()).collect()
    }

    /// Whether it can gain no privileges by execution.
    pub(crate) fn gains_nothing(self) -> bool {
        self.no_new_privileges()
    }
}
