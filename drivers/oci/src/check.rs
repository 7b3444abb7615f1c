//! What this machine can do of a plan, looked at before anything is stored.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use chiton_driver::{WhoseAgent, check_hostname, check_path, has_open_slot};
use chiton_model::Error;

use crate::disk;
use crate::means::{Limit, Means};
use crate::options::OciOptions;
use crate::plan::{OciPlan, ResourcesPlan};

/// The least processor time that the kernel accepts: 1 ms in each 100 ms.
const LEAST_MILLICORES: u64 = 10;

/// Checks all of a sealed plan.
pub(crate) fn plan(plan: &OciPlan, options: &OciOptions, means: &Means, disk: &disk::DiskAbility) -> Result<(), Error> {
    limits(plan, means, disk)?;
    agent(plan, options)?;
    filled(plan)?;
    plan.image.pinned()?;
    if let Some(path) = &plan.image.path {
        crate::plan::resolve(&plan.image.reference, Path::new(path), options)?;
    }
    for (index, mount) in plan.mounts.iter().enumerate() {
        if has_open_slot(&mount.source) {
            continue;
        }
        let field = format!("mounts[{index}].source");
        let source = std::fs::canonicalize(&mount.source).map_err(|error| {
            Error::invalid(&field, format!("host path {:?} cannot be shown: {error}", mount.source))
                .cure("name a path that exists")
        })?;
        for own in [&options.state_dir, &options.run_dir] {
            if source.starts_with(own) || own.starts_with(&source) {
                let text = format!("host path {:?} would show the driver's own folder in the sandbox", mount.source);
                return Err(Error::refused("driver", text).cure("show a folder that does not hold the gateway's data"));
            }
        }
    }
    for (index, device) in plan.devices.iter().enumerate() {
        if !has_open_slot(&device.path) {
            check_device(&format!("devices[{index}].path"), &device.path)?;
        }
    }
    Ok(())
}

/// Checks that the plan was made for what the operator decides about agents now, and that something would run.
pub(crate) fn agent(plan: &OciPlan, options: &OciOptions) -> Result<(), Error> {
    let whose = if options.agent { WhoseAgent::Chiton } else { WhoseAgent::None };
    if plan.agent != whose {
        let (was, is) = (plan.agent.as_str(), whose.as_str());
        let text = format!("the sandbox was planned with agent = {was:?}, and the driver has agent = {is:?} now");
        return Err(Error::refused("driver", text).cure("delete it and create it anew, or set the driver's agent back"));
    }
    if !options.agent && plan.command.is_empty() {
        return Err(nothing_to_run());
    }
    Ok(())
}

/// Neither the request nor its image has a command, and there is no agent that would keep the sandbox.
pub(crate) fn nothing_to_run() -> Error {
    Error::invalid("command", "there is neither a command nor an agent to run")
        .cure("name a command, or an image that has one; or let the operator give the driver agent = \"chiton\"")
}

/// Checks what is certain of the plan's texts alone.
pub(crate) fn filled(plan: &OciPlan) -> Result<(), Error> {
    if let Some(what) = plan.security.looser_than_default_on(plan.network.mode) {
        return Err(Error::refused(
            "driver",
            format!("the plan's confinement is looser than the driver's own: {what}"),
        )
        .cure("leave /security as the driver made it; a request makes it tighter by driver_config.security"));
    }
    if !has_open_slot(&plan.hostname) {
        check_hostname("hostname", &plan.hostname)?;
    }
    if !has_open_slot(&plan.workdir) {
        check_path("workdir", &plan.workdir)?;
    }
    for (name, value) in &plan.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::invalid("env", format!("environment variable {name:?} cannot be passed"))
                .cure("use a name without \"=\" and a value without NUL bytes"));
        }
    }
    if let Some(index) = plan.command.iter().position(|argument| argument.contains('\0')) {
        return Err(Error::invalid(format!("command[{index}]"), "an argument of the command has a NUL byte in it")
            .cure("leave the NUL byte out; the kernel cannot pass it"));
    }
    let mounts = plan.mounts.iter().enumerate().map(|(index, mount)| (format!("mounts[{index}]"), &mount.target));
    let volumes = plan.volumes.iter().enumerate().map(|(index, volume)| (format!("volumes[{index}]"), &volume.target));
    let mut targets = BTreeSet::new();
    for (field, target) in mounts.chain(volumes).filter(|(_, target)| !has_open_slot(target)) {
        let field = format!("{field}.target");
        check_path(&field, target)?;
        let taken = ["/dev", "/proc", "/sys", "/run/chiton", "/run/chiton-agent"]
            .into_iter()
            .find(|own| Path::new(target).starts_with(own));
        if let Some(own) = taken {
            return Err(Error::invalid(&field, format!("{target:?} is at or below {own:?}, which the driver makes"))
                .cure("choose another path in the sandbox"));
        }
        if target == "/" || !targets.insert(target.trim_end_matches('/')) {
            return Err(Error::invalid(&field, format!("{target:?} is mounted already"))
                .cure("choose another path in the sandbox"));
        }
    }
    for (index, mount) in plan.mounts.iter().enumerate() {
        if !has_open_slot(&mount.source) && !mount.source.starts_with('/') {
            let field = format!("mounts[{index}].source");
            return Err(Error::invalid(field, format!("host path {:?} is not absolute", mount.source))
                .cure("begin it with \"/\""));
        }
    }
    Ok(())
}

fn check_device(field: &str, path: &str) -> Result<(), Error> {
    check_path(field, path)?;
    let refuse = |why: &str| Error::invalid(field, format!("device {path:?} cannot be shown: {why}"));
    if !path.starts_with("/dev/") {
        return Err(refuse("it is not below /dev").cure("name a device node below /dev"));
    }
    let metadata = std::fs::symlink_metadata(path).map_err(|error| refuse(&error.to_string()))?;
    if !metadata.file_type().is_char_device() {
        return Err(refuse("it is not a character device").cure("name a character device, for example /dev/fuse"));
    }
    // Nobody in the sandbox has the node's owner or group.
    if metadata.mode() & 0o006 != 0o006 {
        return Err(refuse("only its owner and group may use it, and the sandbox is neither")
            .cure("let everybody read and write the device (mode 0666), by a udev rule for example"));
    }
    Ok(())
}

/// Checks limits: each is applied or the sandbox is refused.
pub(crate) fn limits(plan: &OciPlan, means: &Means, disk: &disk::DiskAbility) -> Result<(), Error> {
    let limits = &plan.resources;
    disk::check(limits, plan.image.read_only, disk)?;
    open_files(limits)?;
    for limit in Limit::ALL {
        let wanted = match limit {
            Limit::Cpu => limits.cpu.is_some(),
            Limit::Memory => limits.memory.is_some(),
            Limit::Pids => limits.pids.is_some(),
        };
        if wanted {
            means.require(limit)?;
        }
    }
    if let Some(memory) = limits.memory.as_ref().filter(|memory| memory.bytes() < OciOptions::LEAST_MEMORY) {
        return Err(Error::invalid("resources.memory", format!("a memory limit of {memory} is too small to start in"))
            .cure("allow at least 16Mi"));
    }
    if let Some(cpu) = limits.cpu.as_ref().filter(|cpu| cpu.millicores() < LEAST_MILLICORES) {
        return Err(Error::invalid("resources.cpu", format!("a cpu limit of {cpu} is less than the kernel can apply"))
            .cure("allow at least 10m"));
    }
    if let Some(pids) = limits.pids.filter(|pids| *pids < OciOptions::LEAST_PIDS) {
        return Err(Error::invalid("resources.pids", format!("a pids limit of {pids} leaves no room for the launch"))
            .cure("allow at least 4"));
    }
    Ok(())
}

/// A process cannot be given more open files than this one may have.
fn open_files(limits: &ResourcesPlan) -> Result<(), Error> {
    let most = crate::spec::open_files_limit();
    match limits.open_files {
        Some(asked) if u64::from(asked) > most => {
            let text = format!("{asked} open files are more than this gateway may give, which are {most}");
            Err(Error::refused("driver", text)
                .cure(format!("ask for at most {most}, or raise the gateway's own hard limit (LimitNOFILE)")))
        }
        _ => Ok(()),
    }
}
