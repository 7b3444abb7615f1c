//! What can be said of a plan before the engine is asked for anything.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use chiton_driver::{WhoseAgent, check_hostname, check_path, has_open_slot};
use chiton_model::{Error, NetworkMode, label};

use crate::engine::Abilities;
use crate::options::EngineOptions;
use crate::plan::{EnginePlan, MountPlan, allowed_network};
use crate::supervisor::{self, Injects};

/// Where the driver itself puts things.
const OWN_PATHS: [&str; 5] = ["/dev", "/proc", "/sys", crate::body::AGENT_FOLDER, crate::body::AGENT_PROGRAM];

/// Checks a plan, its slots filled or not.
pub(crate) fn plan(plan: &EnginePlan, options: &EngineOptions) -> Result<(), Error> {
    plan.resources.check()?;
    agent(plan, options)?;
    allowed_network(&plan.network, options)?;
    address(plan, options)?;
    if !has_open_slot(&plan.hostname) {
        check_hostname("hostname", &plan.hostname)?;
    }
    if !has_open_slot(&plan.workdir) {
        check_path("workdir", &plan.workdir)?;
    }
    for (name, value) in plan.env.iter().chain(&plan.secrets) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::invalid("env", format!("environment variable {name:?} cannot be passed"))
                .cure("use a name without \"=\" and a value without NUL bytes"));
        }
        if label::is_reserved_env(name) {
            return Err(Error::refused("driver", format!("environment variable {name:?} is the agent's own"))
                .cure("choose another name"));
        }
    }
    if let Some(name) = plan.env.keys().find(|name| plan.secrets.contains_key(*name)) {
        return Err(Error::conflict(format!("environment variable {name:?} is set by a secret and in the open"))
            .cure("set it once"));
    }
    if let Some(index) = plan.command.iter().position(|argument| argument.contains('\0')) {
        return Err(Error::invalid(format!("command[{index}]"), "an argument of the command has a NUL byte in it")
            .cure("leave the NUL byte out; the kernel cannot pass it"));
    }
    targets(plan, options)?;
    for (index, device) in plan.devices.iter().enumerate().filter(|(_, device)| !has_open_slot(&device.path)) {
        let field = format!("devices[{index}].path");
        check_path(&field, &device.path)?;
        if !device.path.starts_with("/dev/") {
            return Err(Error::invalid(field, format!("device {:?} is not below /dev", device.path))
                .cure("name a device node below /dev"));
        }
    }
    Ok(())
}

/// Checks that the plan was made for what the operator decides to inject now, and the confinement that goes with it.
fn agent(plan: &EnginePlan, options: &EngineOptions) -> Result<(), Error> {
    let whose = match &options.agent {
        Injects::Agent => WhoseAgent::Chiton,
        Injects::Nothing => WhoseAgent::None,
        Injects::Supervisor(_) => WhoseAgent::Openshell,
    };
    if plan.agent.whose() != whose {
        let (was, is) = (plan.agent.whose().as_str(), whose.as_str());
        let text = format!("the sandbox was planned with agent = {was:?}, and the driver has agent = {is:?} now");
        return Err(Error::refused("driver", text).cure("delete it and create it anew, or set the driver's agent back"));
    }
    if let Some(supervisor) = plan.agent.supervisor() {
        return supervisor::check(plan, supervisor, options.dialect.supervised());
    }
    if !plan.security.no_new_privileges {
        return Err(loose("programs could gain privileges"));
    }
    if let Some(name) = plan.security.capabilities.iter().find(|name| !options.allowed.capabilities.contains(*name)) {
        return Err(loose(&format!("it has the capability {name:?}, which the operator does not allow")));
    }
    if whose == WhoseAgent::None {
        if plan.command.is_empty() {
            return Err(nothing_to_run());
        }
        if !plan.secrets.is_empty() {
            return Err(no_secrets(options));
        }
    }
    Ok(())
}

/// Neither the request nor its image has a command, and there is no agent that would keep the sandbox.
pub(crate) fn nothing_to_run() -> Error {
    Error::invalid("command", "there is neither a command nor an agent to run")
        .cure("name a command, or an image that has one; or let the operator give the driver agent = \"chiton\"")
}

/// The engine's own ways to a variable of the process lead through what everybody who looks at the engine can read.
pub(crate) fn no_secrets(options: &EngineOptions) -> Error {
    let text = format!(
        "{} shows a container's variables to whoever looks, and there is no agent to hand secrets to",
        options.dialect.kind()
    );
    Error::unsupported(options.id.as_str(), "secrets", text)
        .cure("show the sandbox a file instead, or use a driver with agent = \"chiton\" or one of the kind oci")
}

/// Refuses what this engine cannot do, with limits that it would ignore among them.
pub(crate) fn able(plan: &EnginePlan, abilities: Abilities, options: &EngineOptions) -> Result<(), Error> {
    let limits = [
        ("cpu", plan.resources.cpu.is_some(), abilities.cpu),
        ("memory", plan.resources.memory.is_some(), abilities.memory),
        ("pids", plan.resources.pids.is_some(), abilities.pids),
        ("open_files", plan.resources.open_files.is_some(), abilities.open_files),
    ];
    let id = options.id.as_str();
    if let Some((limit, ..)) = limits.iter().find(|(_, asked, able)| *asked && !able) {
        let text =
            format!("this {} cannot limit {limit}: it is rootless or its kernel lacks it", options.dialect.kind());
        return Err(Error::unsupported(id, format!("resources.{limit}"), text)
            .cure("leave the limit out, or run the engine as root or on a machine with the unified cgroup hierarchy"));
    }
    let supervisor = options.agent.supervisor();
    if abilities.rootless && supervisor.is_some_and(|supervisor| supervisor.host_address.is_none()) {
        let text = format!(
            "how sandboxes reach this machine is unknown: the networks of a rootless {} do not end on it",
            options.dialect.kind()
        );
        return Err(Error::unsupported(id, "agent", text)
            .cure("let the operator set supervisor.host_address to an address of this machine that sandboxes reach"));
    }
    let images = plan.mounts.iter().any(|mount| matches!(mount, MountPlan::Image { .. }));
    if images && !abilities.image_mounts {
        let text = format!("this {} cannot mount images", options.dialect.kind());
        return Err(Error::unsupported(id, "mounts", text).cure("update the engine, or use a volume"));
    }
    if !plan.cdi_devices.is_empty() && !abilities.cdi {
        let text = format!("this {} does not know CDI devices", options.dialect.kind());
        return Err(Error::unsupported(id, "cdi_devices", text).cure("update the engine, or leave them out"));
    }
    Ok(())
}

fn loose(what: &str) -> Error {
    Error::refused("driver", format!("the plan's confinement is looser than the driver's own: {what}"))
        .cure("leave /security as the driver made it")
}

fn targets(plan: &EnginePlan, options: &EngineOptions) -> Result<(), Error> {
    let mounts = plan.mounts.iter().enumerate().map(|(index, mount)| (format!("mounts[{index}]"), mount.target()));
    let volumes =
        plan.volumes.iter().enumerate().map(|(index, volume)| (format!("volumes[{index}]"), volume.target.as_str()));
    let mut seen = BTreeSet::new();
    let supervisor = options.agent.supervisor();
    for (field, target) in mounts.chain(volumes).filter(|(_, target)| !has_open_slot(target)) {
        let field = format!("{field}.target");
        check_path(&field, target)?;
        if let Some(own) = OWN_PATHS.into_iter().find(|own| Path::new(target).starts_with(own)) {
            return Err(Error::invalid(&field, format!("{target:?} is at or below {own:?}, which the driver makes"))
                .cure("choose another path in the sandbox"));
        }
        if let Some(own) = supervisor.and_then(|supervisor| supervisor::overlaps(target, &supervisor.ssh_socket)) {
            return Err(Error::invalid(&field, format!("{target:?} would hide {own:?}, which is the supervisor's"))
                .cure("choose another path in the sandbox"));
        }
        if supervisor.is_some() && Path::new(&plan.workdir).starts_with(target) {
            return Err(Error::invalid(&field, format!("{target:?} would hide the workspace, {:?}", plan.workdir))
                .cure("choose a path below the workspace, or beside it"));
        }
        if target == "/" || !seen.insert(target.trim_end_matches('/')) {
            return Err(Error::invalid(&field, format!("{target:?} is mounted already"))
                .cure("choose another path in the sandbox"));
        }
    }
    for (index, mount) in plan.mounts.iter().enumerate() {
        if let MountPlan::Bind { source, .. } = mount
            && !has_open_slot(source)
        {
            let field = format!("mounts[{index}].source");
            check_path(&field, source)?;
            // Engines make a folder in its place when a bind is written in the older form.
            if std::fs::metadata(source).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                return Err(Error::invalid(field, format!("{source:?} is not on this machine"))
                    .cure("make it first, or show another path"));
            }
        }
    }
    Ok(())
}

fn address(plan: &EnginePlan, options: &EngineOptions) -> Result<(), Error> {
    let Some(address) = plan.network.address.as_ref().filter(|address| !has_open_slot(address)) else { return Ok(()) };
    let wrong = |why: String, cure: &str| Err(Error::invalid("network.address", why).cure(cure));
    let Ok(parsed) = address.parse::<Ipv4Addr>() else {
        return wrong(format!("{address:?} is not an IPv4 address"), "write four numbers, for example 10.1.2.3");
    };
    match (&plan.network.mode, options.bridge.subnet) {
        // Without a network nothing carries it; it stays visible as a label.
        (NetworkMode::None | NetworkMode::Named(_), _) => Ok(()),
        (NetworkMode::Host, _) => {
            wrong("the host's own network takes no address".to_owned(), "ask for another network")
        }
        (NetworkMode::Bridge, _) if options.bridge.gateway() == Some(parsed) => {
            wrong(format!("{address} is the gateway of the bridge's own range"), "lease the addresses after it")
        }
        (NetworkMode::Bridge, Some(subnet))
            if subnet.contains(&parsed) && ![subnet.network(), subnet.broadcast()].contains(&parsed) =>
        {
            Ok(())
        }
        (NetworkMode::Bridge, Some(subnet)) => {
            wrong(format!("{address} is not an address of {subnet}"), "lease addresses of the bridge's range")
        }
        (NetworkMode::Bridge, None) => wrong(
            "an address can be chosen only in a network whose range is known".to_owned(),
            "let the operator set bridge.subnet in the driver's table",
        ),
    }
}
