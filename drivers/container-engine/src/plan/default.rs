//! The plan for a request, before extensions.

use std::collections::BTreeMap;

use chiton_driver::{DefaultPlan, Limit, PlanRequest, marker, pointer_segment, slots};
use chiton_image::ImageConfig;
use chiton_model::Error;
use serde_json::json;

use super::config::DriverConfig;
use super::{EnginePlan, ImagePlan, ResourcesPlan, SandboxRef, SecurityPlan, VolumePlan, network};
use crate::engine::Abilities;
use crate::options::EngineOptions;

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

/// Makes the plan. It depends on the request, the options, where links lead and what the image's name means now, and on
/// nothing else.
pub(crate) fn default_plan(request: &PlanRequest, context: PlanContext<'_>) -> Result<DefaultPlan, Error> {
    let PlanContext { options, abilities, found: Found { image, config: from } } = context;
    let config = DriverConfig::decode(&request.driver_config, options)?;
    let network = network::network(&request.network, options)?;
    let mut filled = BTreeMap::from([("/sandbox/id".to_owned(), slots::SANDBOX_ID.to_owned())]);
    let mut from_request = said(request, &config);
    let mut from_image = vec!["/image/pin".to_owned()];
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    for (name, value) in from.env {
        from_image.push(format!("/env/{}", pointer_segment(&name)));
        env.insert(name, value);
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
    // A command of the request replaces entrypoint and command of the image, as it does in a pod.
    let mut command = request.command.clone();
    if command.is_empty() && config.image_command != Some(false) {
        command = from.entrypoint.into_iter().chain(from.command).collect();
        if !command.is_empty() {
            from_image.push("/command".to_owned());
        }
    }
    let user = config.user.unwrap_or_else(|| {
        from_image.push("/user".to_owned());
        from.user
    });
    let asked_workdir = if request.workdir.is_empty() { config.workdir } else { Some(request.workdir.clone()) };
    let workdir = asked_workdir.unwrap_or_else(|| {
        if from.workdir.is_empty() {
            return "/".to_owned();
        }
        from_image.push("/workdir".to_owned());
        from.workdir
    });
    let plan = EnginePlan {
        sandbox: SandboxRef { id: marker(slots::SANDBOX_ID), name, workspace: request.workspace.to_string() },
        image,
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
        security: SecurityPlan {
            capabilities: config.capabilities,
            read_only_root: config.read_only,
            ..SecurityPlan::default()
        },
        stop_grace_seconds: grace,
    };
    Ok(DefaultPlan { plan: json!(plan), slots: filled, from_request, from_image })
}
