//! The plan for a request, before extensions.

use std::collections::BTreeMap;

use chiton_driver::{DefaultPlan, Limit, PlanRequest, marker, pointer_segment, slots};
use chiton_image::ImageConfig;
use chiton_model::{Error, NetworkMode};
use serde_json::json;

use super::config::DriverConfig;
use super::{EnginePlan, ImagePlan, ResourcesPlan, SandboxRef, SecurityPlan, VolumePlan, network};
use crate::engine::Abilities;
use crate::options::EngineOptions;
use crate::supervisor::{self, AgentPlan, ProgramPlan, Sandbox, Ways};

/// The search path of programs when neither image nor request sets one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the image's name means now, and how the image wants to be run.
pub(crate) struct Found {
    /// Pinned.
    pub(crate) image: ImagePlan,
    /// Its own words.
    pub(crate) config: ImageConfig,
}

/// What a plan is made from besides the request.
pub(crate) struct PlanContext<'a> {
    pub(crate) options: &'a EngineOptions,
    pub(crate) abilities: Abilities,
    pub(crate) found: Found,
    /// The supervisor's program, where one is injected.
    pub(crate) program: Option<ProgramPlan>,
}

/// Pointers to what the request says; its environment is said where it is made.
fn said(request: &PlanRequest, config: &DriverConfig) -> Vec<String> {
    let single = [
        (!request.image.is_empty(), "/image/reference"),
        (!request.command.is_empty(), "/command"),
        (!request.workdir.is_empty() || config.workdir.is_some(), "/workdir"),
        (config.hostname.is_some(), "/hostname"),
        (config.user.is_some(), "/user"),
        (config.read_only, "/security/read_only_root"),
        (!config.capabilities.is_empty(), "/security/capabilities"),
        (config.cdi_devices.is_some(), "/cdi_devices"),
        (config.stop_grace_seconds.is_some(), "/stop_grace_seconds"),
        (request.name.is_some(), "/sandbox/name"),
        (!request.network.is_none(), "/network/mode"),
        (!request.network.dns.is_empty(), "/network/dns"),
    ];
    let mut said: Vec<String> =
        single.into_iter().filter(|(given, _)| *given).map(|(_, pointer)| pointer.to_owned()).collect();
    said.extend(Limit::asked(&request.resources).map(|limit| format!("/resources/{}", limit.as_str())));
    for index in 0..request.volumes.len() {
        said.extend(["name", "target", "read_only"].map(|part| format!("/volumes/{index}/{part}")));
    }
    said.extend((0..config.mounts.len()).map(|index| format!("/mounts/{index}")));
    said.extend(request.labels.keys().map(|key| format!("/labels/{}", pointer_segment(key))));
    said
}

/// Checks the request's own block; before anything is asked of a registry.
pub(crate) fn check_config(request: &PlanRequest, options: &EngineOptions) -> Result<(), Error> {
    DriverConfig::decode(&request.driver_config, options)?;
    network::network(&request.network, options).map(drop)
}

/// The confinement that goes with what is injected. Without an agent nobody confines programs beyond what the engine does.
fn security(agent: &AgentPlan, capabilities: Vec<String>, read_only_root: bool, ways: Ways) -> SecurityPlan {
    let own = SecurityPlan { capabilities, read_only_root, ..SecurityPlan::default() };
    match agent {
        AgentPlan::Chiton => own,
        AgentPlan::None => SecurityPlan { seccomp: None, landlock: None, ..own },
        AgentPlan::Openshell(_) => SecurityPlan {
            no_new_privileges: ways.gains_nothing(),
            capabilities: ways.capabilities(),
            seccomp: None,
            landlock: None,
            ..own
        },
    }
}

/// What the sandbox's own process is.
struct Ran {
    command: Vec<String>,
    user: String,
    workdir: String,
}

/// The process as the request and the image have it.
fn ran(
    asked: &[String],
    image_command: bool,
    user: Option<String>,
    workdir: Option<String>,
    from: ImageConfig,
    from_image: &mut Vec<String>,
) -> Ran {
    // A command of the request replaces entrypoint and command of the image, as it does in a pod.
    let mut command = asked.to_vec();
    if command.is_empty() && image_command {
        command = from.entrypoint.into_iter().chain(from.command).collect();
        if !command.is_empty() {
            from_image.push("/command".to_owned());
        }
    }
    let user = user.unwrap_or_else(|| {
        from_image.push("/user".to_owned());
        from.user
    });
    let workdir = workdir.unwrap_or_else(|| {
        if from.workdir.is_empty() {
            return "/".to_owned();
        }
        from_image.push("/workdir".to_owned());
        from.workdir
    });
    Ran { command, user, workdir }
}

/// Makes the plan. It depends on the request, the options, where links lead and what the image's name means now, and on
/// nothing else.
pub(crate) fn default_plan(request: &PlanRequest, context: PlanContext<'_>) -> Result<DefaultPlan, Error> {
    let PlanContext { options, abilities, found: Found { image, config: mut from }, program } = context;
    let config = DriverConfig::decode(&request.driver_config, options)?;
    let mut network = network::network(&request.network, options)?;
    let supervised = options.agent.supervisor().zip(program);
    if supervised.is_some() && network.mode == NetworkMode::None {
        // It reaches its gateway over it, and has rules of its own for the workload.
        network.mode = NetworkMode::Bridge;
    }
    let mut filled = BTreeMap::from([("/sandbox/id".to_owned(), slots::SANDBOX_ID.to_owned())]);
    let mut from_request = said(request, &config);
    let mut from_image = vec!["/image/pin".to_owned()];
    let mut env = BTreeMap::new();
    // The engine itself gives a container its image's variables. A supervisor hands the workload those that are named here.
    if supervised.is_none() {
        env.insert("PATH".to_owned(), PATH.to_owned());
        for (name, value) in std::mem::take(&mut from.env) {
            from_image.push(format!("/env/{}", pointer_segment(&name)));
            env.insert(name, value);
        }
    }
    for (name, value) in &request.env {
        from_request.push(format!("/env/{}", pointer_segment(name)));
        env.insert(name.clone(), value.clone());
    }
    let mut secrets = BTreeMap::new();
    for (name, reference) in &request.secrets {
        let slot = format!("{}{reference}", slots::SECRET_PREFIX);
        let pointer = format!("/secrets/{}", pointer_segment(name));
        // What the agent is handed wins; a value that does not hold must not stand in the plan.
        env.remove(name);
        secrets.insert(name.clone(), marker(&slot));
        from_request.push(pointer.clone());
        filled.insert(pointer, slot);
    }
    from_image.retain(|pointer| !from_request.contains(pointer));
    let name = request.name.clone().unwrap_or_else(|| {
        filled.insert("/sandbox/name".to_owned(), slots::SANDBOX_NAME.to_owned());
        marker(slots::SANDBOX_NAME)
    });
    let grace = config.grace(options);
    let hostname = config.hostname.unwrap_or_else(|| {
        if request.name.is_none() {
            filled.insert("/hostname".to_owned(), slots::SANDBOX_NAME.to_owned());
        }
        name.clone()
    });
    let asked_workdir = if request.workdir.is_empty() { config.workdir } else { Some(request.workdir.clone()) };
    let ways = options.dialect.supervised();
    let (agent, ran) = if let Some((supervisor, program)) = supervised {
        let main = supervisor::default_main(&request.command, config.tty);
        let command = main.command.clone();
        let sandbox = Sandbox {
            options: supervisor,
            ways,
            program,
            image: &image,
            image_user: &from.user,
            image_workdir: &from.workdir,
            workdir: asked_workdir.as_deref(),
            main,
            log_level: config.log_level.as_deref(),
            name: &name,
        };
        let (plan, slots, workdir) = supervisor::planned(sandbox);
        filled.extend(slots);
        (AgentPlan::Openshell(Box::new(plan)), Ran { command, user: ways.runs_as(), workdir })
    } else {
        let agent = if options.agent.talks() { AgentPlan::Chiton } else { AgentPlan::None };
        let image_command = config.image_command != Some(false);
        (agent, ran(&request.command, image_command, config.user, asked_workdir, from, &mut from_image))
    };
    let security = security(&agent, config.capabilities, config.read_only, ways);
    let Ran { command, user, workdir } = ran;
    let plan = EnginePlan {
        sandbox: SandboxRef { id: marker(slots::SANDBOX_ID), name, workspace: request.workspace.to_string() },
        image,
        agent,
        command,
        env,
        secrets,
        labels: request.labels.clone(),
        mounts: config.mounts,
        devices: Vec::new(),
        cdi_devices: config.cdi_devices.unwrap_or_default(),
        volumes: request.volumes.iter().map(VolumePlan::from).collect(),
        user,
        workdir,
        hostname,
        resources: ResourcesPlan::of(&request.resources, options, abilities),
        network,
        security,
        stop_grace_seconds: grace,
    };
    Ok(DefaultPlan { plan: json!(plan), slots: filled, from_request, from_image })
}
