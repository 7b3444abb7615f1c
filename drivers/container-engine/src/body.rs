//! From a filled plan to the request that makes the container.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, EndpointIpamConfig, EndpointSettings, HostConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountTmpfsOptions, MountType, NetworkingConfig,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use chiton_driver::Identity;
use chiton_model::NetworkMode;

use crate::names;
use crate::options::EngineOptions;
use crate::plan::{EnginePlan, MountPlan, SelinuxLabel};
use crate::supervisor::{self, Injected, SupervisorPlan};

/// Where the agent's folder is in the sandbox.
pub(crate) const AGENT_FOLDER: &str = "/run/chiton";
/// Where the agent's program is in the sandbox; beside the folder, which belongs to the gateway.
pub(crate) const AGENT_PROGRAM: &str = "/run/chiton-agent";
/// The mode of a file system in memory that has none of its own, as engines choose it.
const TMPFS_MODE: u32 = 0o1777;
/// The label that carries a leased address.
const ADDRESS: &str = "chiton.dev/address";

/// The label that says how many seconds a stop leaves the main process to end by itself. Not every engine keeps it.
pub(crate) const STOP_GRACE: &str = "chiton.dev/stop-grace-seconds";

/// What is injected into a sandbox, as the host sees it.
pub(crate) enum Put {
    /// Nothing.
    Nothing,
    /// Chiton's agent.
    Agent {
        /// Its program.
        program: PathBuf,
        /// The folder in which the gateway's socket is.
        folder: PathBuf,
    },
    /// Another gateway's supervisor.
    Supervisor(Box<SupervisorPlan>, Injected),
}

impl Put {
    /// What is bound read-only: source, target, and how it is relabelled.
    fn binds(&self) -> Vec<(&Path, &str, &'static str)> {
        match self {
            Self::Nothing => Vec::new(),
            // The folder is this container's alone.
            Self::Agent { program, folder } => vec![(program, AGENT_PROGRAM, "z"), (folder, AGENT_FOLDER, "Z")],
            Self::Supervisor(plan, injected) => {
                injected.binds(plan).map(|(source, target)| (source, target, "z")).collect()
            }
        }
    }

    fn supervisor(&self) -> Option<(&SupervisorPlan, &Injected)> {
        match self {
            Self::Supervisor(plan, injected) => Some((plan, injected)),
            Self::Nothing | Self::Agent { .. } => None,
        }
    }
}

/// The body of a create. It holds no secret.
pub(crate) fn container(
    plan: &EnginePlan,
    identity: &Identity,
    put: &Put,
    options: &EngineOptions,
    selinux: bool,
) -> ContainerCreateBody {
    let (entrypoint, command) = process(plan, put);
    let told = matches!(put, Put::Agent { .. });
    let working_dir = match put.supervisor() {
        Some((supervisor, _)) => supervisor.begins_in.clone(),
        None => Some(plan.workdir.clone()),
    };
    ContainerCreateBody {
        image: Some(plan.image.pin.clone()),
        entrypoint: Some(entrypoint),
        cmd: Some(command),
        env: Some(environment(plan, put)),
        labels: Some(labels(plan, identity)),
        user: (!plan.user.is_empty()).then(|| plan.user.clone()),
        working_dir,
        hostname: (plan.network.mode != NetworkMode::Host).then(|| plan.hostname.clone()),
        // The agent is told how to start by the first who attaches, and reads nothing after.
        open_stdin: Some(told),
        stdin_once: Some(told),
        attach_stdin: Some(told),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        stop_signal: Some("SIGTERM".to_owned()),
        host_config: Some(host(plan, identity, put, options, selinux)),
        networking_config: networking(plan, identity, options),
        ..ContainerCreateBody::default()
    }
}

fn process(plan: &EnginePlan, put: &Put) -> (Vec<String>, Vec<String>) {
    match put {
        Put::Nothing => {
            let (program, rest) = plan.command.split_at(plan.command.len().min(1));
            (program.to_vec(), rest.to_vec())
        }
        Put::Agent { .. } => {
            let own = ["agent", "--"].map(str::to_owned);
            (vec![AGENT_PROGRAM.to_owned()], own.into_iter().chain(plan.command.clone()).collect())
        }
        Put::Supervisor(supervisor, _) => {
            let arguments = supervisor.arguments.iter().cloned().chain([plan.workdir.clone()]);
            (vec![supervisor.entrypoint.clone()], arguments.collect())
        }
    }
}

fn environment(plan: &EnginePlan, put: &Put) -> Vec<String> {
    let env = put.supervisor().map(|(supervisor, _)| supervisor::variables(&plan.env, supervisor));
    let env = env.as_ref().unwrap_or(&plan.env);
    let mut env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if matches!(put, Put::Agent { .. }) {
        env.push(format!("CHITON_AGENT_SOCKET={AGENT_FOLDER}/agent.sock"));
        env.push("CHITON_AGENT_LAUNCH=stdin".to_owned());
    }
    env
}

/// The plan's labels, and over them those that say whose it is.
fn labels(plan: &EnginePlan, identity: &Identity) -> HashMap<String, String> {
    let address = plan.network.address.iter().map(|address| (ADDRESS.to_owned(), address.clone()));
    let managed = identity.labels().map(|(key, value)| (key.to_owned(), value));
    let grace = (STOP_GRACE.to_owned(), plan.stop_grace_seconds.to_string());
    plan.labels.clone().into_iter().chain(address).chain([grace]).chain(managed).collect()
}

fn host(plan: &EnginePlan, identity: &Identity, put: &Put, options: &EngineOptions, selinux: bool) -> HostConfig {
    let supervisor = put.supervisor();
    let relabel = selinux && options.relabel;
    let memory = plan.resources.memory.as_ref().map(|memory| i64::try_from(memory.bytes()).unwrap_or(i64::MAX));
    let millis = |millis: u64| i64::try_from(millis.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    HostConfig {
        network_mode: Some(network_mode(plan, identity, options)),
        dns: (!plan.network.dns.is_empty()).then(|| plan.network.dns.iter().map(ToString::to_string).collect()),
        memory,
        // The same number: no swap besides.
        memory_swap: memory,
        nano_cpus: plan.resources.cpu.as_ref().map(|cpu| millis(cpu.millicores())),
        pids_limit: plan.resources.pids.map(i64::from),
        ulimits: Some(ulimits(plan, options)),
        cap_drop: Some(
            supervisor.map_or_else(|| vec!["ALL".to_owned()], |(plan, _)| plan.dropped_capabilities.clone()),
        ),
        cap_add: (!plan.security.capabilities.is_empty()).then(|| plan.security.capabilities.clone()),
        security_opt: Some(
            supervisor.map_or_else(|| vec!["no-new-privileges".to_owned()], |(plan, _)| plan.security_options.clone()),
        ),
        extra_hosts: supervisor.map(|(plan, injected)| supervisor::host_entries(plan, &injected.host)),
        privileged: Some(false),
        readonly_rootfs: Some(plan.security.read_only_root),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        auto_remove: Some(false),
        log_config: Some(options.dialect.log_config(options.log_bytes)),
        binds: binds(plan, put, relabel),
        mounts: Some(mounts(plan, identity, put, relabel)),
        devices: (!plan.devices.is_empty()).then(|| plan.devices.iter().map(|device| mapped(&device.path)).collect()),
        device_requests: (!plan.cdi_devices.is_empty()).then(|| {
            let devices = Some(plan.cdi_devices.clone());
            vec![DeviceRequest { driver: Some("cdi".to_owned()), device_ids: devices, ..DeviceRequest::default() }]
        }),
        runtime: options.runtime.clone(),
        ..HostConfig::default()
    }
}

fn mapped(path: &str) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(path.to_owned()),
        path_in_container: Some(path.to_owned()),
        cgroup_permissions: Some("rwm".to_owned()),
    }
}

fn ulimits(plan: &EnginePlan, options: &EngineOptions) -> Vec<ResourcesUlimits> {
    let mut limits = options.ulimits.clone();
    if let Some(files) = plan.resources.open_files {
        let files = i64::from(files);
        limits.insert("nofile".to_owned(), crate::options::Ulimit { soft: files, hard: files });
    }
    let named = |(name, limit): (String, crate::options::Ulimit)| ResourcesUlimits {
        name: Some(name),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    };
    limits.into_iter().map(named).collect()
}

fn network_mode(plan: &EnginePlan, identity: &Identity, options: &EngineOptions) -> String {
    match &plan.network.mode {
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Bridge => names::network(options, &identity.sandbox),
        NetworkMode::Named(name) => name.clone(),
    }
}

fn networking(plan: &EnginePlan, identity: &Identity, options: &EngineOptions) -> Option<NetworkingConfig> {
    let address = plan.network.address.clone()?;
    let name = match &plan.network.mode {
        NetworkMode::Bridge => names::network(options, &identity.sandbox),
        NetworkMode::Named(name) => name.clone(),
        NetworkMode::None | NetworkMode::Host => return None,
    };
    let ipam = EndpointIpamConfig { ipv4_address: Some(address), ..EndpointIpamConfig::default() };
    let endpoint = EndpointSettings { ipam_config: Some(ipam), ..EndpointSettings::default() };
    Some(NetworkingConfig { endpoints_config: Some(HashMap::from([(name, endpoint)])) })
}

/// Binds that are to be relabelled: only the older form of a bind can say so.
fn binds(plan: &EnginePlan, put: &Put, relabel: bool) -> Option<Vec<String>> {
    if !relabel {
        return None;
    }
    let own = put.binds().into_iter();
    let mut binds: Vec<String> =
        own.map(|(source, target, label)| format!("{}:{target}:ro,{label}", source.display())).collect();
    for mount in &plan.mounts {
        if let MountPlan::Bind { source, target, read_only, selinux_label: Some(label) } = mount {
            let mode = if *read_only { "ro" } else { "rw" };
            let label = match label {
                SelinuxLabel::Shared => "z",
                SelinuxLabel::Private => "Z",
            };
            binds.push(format!("{source}:{target}:{mode},{label}"));
        }
    }
    (!binds.is_empty()).then_some(binds)
}

fn bind(source: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

fn mounts(plan: &EnginePlan, identity: &Identity, put: &Put, relabel: bool) -> Vec<Mount> {
    let mut mounts = Vec::new();
    if !relabel {
        mounts.extend(put.binds().into_iter().map(|(source, target, _)| bind(&source.to_string_lossy(), target, true)));
    }
    if let Some((supervisor, _)) = put.supervisor() {
        mounts.extend(supervisor.mounts());
    }
    for volume in &plan.volumes {
        mounts.push(Mount {
            typ: Some(MountType::VOLUME),
            source: Some(names::volume(&identity.gateway, &identity.workspace, &volume.name)),
            target: Some(volume.target.clone()),
            read_only: Some(volume.read_only),
            ..Mount::default()
        });
    }
    for mount in &plan.mounts {
        mounts.push(match mount {
            MountPlan::Bind { selinux_label: Some(_), .. } if relabel => continue,
            MountPlan::Bind { source, target, read_only, .. } => bind(source, target, *read_only),
            MountPlan::Volume { source, target, read_only } => Mount {
                typ: Some(MountType::VOLUME),
                source: Some(source.clone()),
                target: Some(target.clone()),
                read_only: Some(*read_only),
                ..Mount::default()
            },
            MountPlan::Tmpfs { target, size_bytes, mode } => Mount {
                typ: Some(MountType::TMPFS),
                target: Some(target.clone()),
                // Podman takes options that are left out for zeros: all of them, or none.
                tmpfs_options: (size_bytes.is_some() || mode.is_some()).then(|| MountTmpfsOptions {
                    size_bytes: size_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                    mode: Some(mode.unwrap_or(TMPFS_MODE).into()),
                    ..MountTmpfsOptions::default()
                }),
                ..Mount::default()
            },
            MountPlan::Image { source, target } => Mount {
                typ: Some(MountType::IMAGE),
                source: Some(source.clone()),
                target: Some(target.clone()),
                read_only: Some(true),
                ..Mount::default()
            },
        });
    }
    mounts
}
