//! The plan for a request, before extensions.

use std::collections::BTreeMap;
use std::path::Path;

use chiton_driver::{DefaultPlan, Limit, PlanRequest, WhoseAgent, check_hostname, marker, pointer_segment, slots};
use chiton_image::{ImageConfig, Pinned};
use chiton_model::{Error, nearest, printable};
use serde_json::{Value, json};

use super::tighten::Tighten;
use super::{DiskMeans, ImageKind, ImagePlan, OciPlan, ResourcesPlan, SandboxRef, SecurityPlan};
use crate::disk::{self, DiskAbility};
use crate::options::OciOptions;

/// The search path of programs when the request sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest time to end by itself: with it a stop still fits its deadline.
const GRACE_LIMIT: u64 = 45;

/// What a request may say to this driver alone.
#[derive(Debug, Default)]
struct DriverConfig {
    hostname: Option<String>,
    read_only: bool,
    security: Tighten,
    stop_grace_seconds: Option<u64>,
    disk: Option<DiskMeans>,
    /// Not to run the image's own command when the request has none.
    no_image_command: bool,
}

const KEYS: [&str; 6] = ["disk", "hostname", "image_command", "read_only", "security", "stop_grace_seconds"];

impl DriverConfig {
    fn decode(value: &Value) -> Result<Self, Error> {
        let mut config = Self::default();
        let Some(object) = value.as_object() else {
            return Err(Error::invalid("driver_config", "the driver's block is not a table")
                .cure(format!("the keys are {}", KEYS.join(", "))));
        };
        for (key, value) in object {
            let field = format!("driver_config.{key}");
            let expected = |what: &str| {
                Error::invalid(&field, format!("{key} is {}, which is not {what}", printable(&value.to_string())))
                    .cure(format!("write {what}"))
            };
            match key.as_str() {
                "disk" => {
                    let means = [DiskMeans::Image, DiskMeans::Memory];
                    let found = means.into_iter().find(|means| Some(means.as_str()) == value.as_str());
                    config.disk = Some(found.ok_or_else(|| expected("\"image\" or \"memory\""))?);
                }
                "hostname" => {
                    let name = value.as_str().ok_or_else(|| expected("a text"))?;
                    check_hostname(&field, name)?;
                    config.hostname = Some(name.to_owned());
                }
                "image_command" => {
                    config.no_image_command = !value.as_bool().ok_or_else(|| expected("true or false"))?;
                }
                "read_only" => config.read_only = value.as_bool().ok_or_else(|| expected("true or false"))?,
                "security" => config.security = Tighten::decode(value)?,
                "stop_grace_seconds" => {
                    let seconds = value.as_u64().filter(|seconds| *seconds <= GRACE_LIMIT);
                    let seconds =
                        seconds.ok_or_else(|| expected(&format!("a whole number from 0 to {GRACE_LIMIT}")))?;
                    config.stop_grace_seconds = Some(seconds);
                }
                _ => {
                    let error = Error::invalid(&field, format!("the oci driver has no option {key:?}"));
                    return Err(error.cure(match nearest(key, KEYS) {
                        Some(known) => format!("did you mean {known:?}?"),
                        None => format!("the options are {}", KEYS.join(", ")),
                    }));
                }
            }
        }
        Ok(config)
    }
}

/// Finds out what a reference means now, and how the image wants to be run.
pub(crate) type Resolver<'a> = &'a dyn Fn(&str) -> Result<(Pinned, ImageConfig), Error>;

fn image(
    request: &PlanRequest,
    options: &OciOptions,
    read_only: bool,
    source: Resolver<'_>,
) -> Result<(ImagePlan, ImageConfig), Error> {
    let own = |kind, reference: &str, path| ImagePlan {
        kind,
        reference: reference.to_owned(),
        path,
        source: None,
        digest: None,
        layers: Vec::new(),
        user: String::new(),
        read_only,
    };
    let reference = if request.image.is_empty() { "host" } else { request.image.as_str() };
    if reference == "host" {
        if !options.host_image {
            return Err(Error::refused("policy", "the image \"host\" is not allowed here")
                .cure("name another image, or let the operator set host_image = true for this driver"));
        }
        return Ok((own(ImageKind::Host, reference, None), ImageConfig::default()));
    }
    let Some(path) = reference.strip_prefix("dir:") else {
        let (pinned, config) = source(reference)?;
        return Ok((ImagePlan::resolved(reference, &pinned, &config.user, read_only), config));
    };
    if !path.starts_with('/') {
        return Err(Error::invalid("image", format!("the folder of image {reference:?} is not an absolute path"))
            .cure("begin it with \"/\", for example \"dir:/srv/images/debian\""));
    }
    let resolved = resolve(reference, Path::new(path), options)?;
    Ok((own(ImageKind::Dir, reference, Some(resolved)), ImageConfig::default()))
}

/// Resolves the folder of a `dir:` image and checks that it may be one.
pub(crate) fn resolve(reference: &str, path: &Path, options: &OciOptions) -> Result<String, Error> {
    let resolved = std::fs::canonicalize(path).map_err(|error| {
        Error::not_found(format!("image {reference:?} is not there: {}: {error}", path.display()))
            .cure("unpack a root file system into that folder, or name another folder")
    })?;
    if !resolved.is_dir() {
        return Err(Error::invalid("image", format!("image {reference:?} is not a folder"))
            .cure("name a folder that holds a root file system"));
    }
    if let Some(roots) = &options.dir_roots
        && !roots.iter().any(|root| resolved.starts_with(root))
    {
        return Err(Error::refused("policy", format!("image {reference:?} is not below a folder that is allowed"))
            .cure("move it below one of the driver's dir_roots, or let the operator extend them"));
    }
    for own in [&options.state_dir, &options.run_dir] {
        let own = std::fs::canonicalize(own).unwrap_or_else(|_| own.clone());
        if own.starts_with(&resolved) || resolved.starts_with(&own) {
            return Err(Error::refused(
                "driver",
                format!("image {reference:?} would show the driver's own folder {} in the sandbox", own.display()),
            )
            .cure("name a folder that neither holds the gateway's data nor lies in it"));
        }
    }
    resolved.into_os_string().into_string().map_err(|path| {
        Error::invalid("image", format!("the path {} is not UTF-8", path.to_string_lossy())).cure("rename the folder")
    })
}

/// Pointers to what the request says; its environment is said where it is made.
fn said(request: &PlanRequest, config: &DriverConfig) -> Vec<String> {
    let single = [
        (!request.image.is_empty(), "/image/reference"),
        (!request.command.is_empty(), "/command"),
        (!request.workdir.is_empty(), "/workdir"),
        (config.hostname.is_some(), "/hostname"),
        (config.read_only, "/image/read_only"),
        (config.stop_grace_seconds.is_some(), "/stop_grace_seconds"),
        (request.name.is_some(), "/sandbox/name"),
        (config.disk.is_some(), "/resources/disk_by"),
        (!request.network.is_none(), "/network/mode"),
        (!request.network.allow.is_empty(), "/network/allow"),
        (!request.network.dns.is_empty(), "/network/dns"),
    ];
    let mut said: Vec<String> =
        single.into_iter().filter(|(given, _)| *given).map(|(_, pointer)| pointer.to_owned()).collect();
    said.extend(Limit::asked(&request.resources).map(|limit| format!("/resources/{}", limit.as_str())));
    for index in 0..request.volumes.len() {
        said.extend(["name", "target", "read_only"].map(|part| format!("/volumes/{index}/{part}")));
    }
    said.extend(request.labels.keys().map(|key| format!("/labels/{}", pointer_segment(key))));
    said
}

/// Makes the plan. It depends on the request, the options, where links lead, what the machine has and what the image's name
/// means now, and on nothing else.
pub(crate) fn default_plan(
    request: &PlanRequest,
    options: &OciOptions,
    means: &DiskAbility,
    source: Resolver<'_>,
) -> Result<DefaultPlan, Error> {
    let config = DriverConfig::decode(&request.driver_config)?;
    let (image, from) = image(request, options, config.read_only, source)?;
    let network = super::network::network(&request.network, options)?;
    let mut filled = BTreeMap::from([("/sandbox/id".to_owned(), slots::SANDBOX_ID.to_owned())]);
    let mut from_request = said(request, &config);
    let home = if image.kind == ImageKind::Host { "/workspace" } else { "/root" };
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    let mut from_image = Vec::new();
    if image.kind == ImageKind::Oci {
        // Whose home it is is known when the image's user was looked up; HOME is set then.
        from_image.extend(["/image/source", "/image/digest", "/image/layers", "/image/user"].map(str::to_owned));
        for (name, value) in from.env {
            from_image.push(format!("/env/{}", pointer_segment(&name)));
            env.insert(name, value);
        }
    } else {
        env.insert("HOME".to_owned(), home.to_owned());
    }
    for (name, value) in &request.env {
        from_request.push(format!("/env/{}", pointer_segment(name)));
        env.insert(name.clone(), value.clone());
    }
    for (name, reference) in &request.secrets {
        let slot = format!("{}{reference}", slots::SECRET_PREFIX);
        env.insert(name.clone(), marker(&slot));
        from_request.push(format!("/env/{}", pointer_segment(name)));
        filled.insert(format!("/env/{}", pointer_segment(name)), slot);
    }
    let name = request.name.clone().unwrap_or_else(|| {
        filled.insert("/sandbox/name".to_owned(), slots::SANDBOX_NAME.to_owned());
        marker(slots::SANDBOX_NAME)
    });
    let hostname = config.hostname.unwrap_or_else(|| {
        if request.name.is_none() {
            filled.insert("/hostname".to_owned(), slots::SANDBOX_NAME.to_owned());
        }
        name.clone()
    });
    let mut security = SecurityPlan::of(network.mode);
    from_request.extend(config.security.apply(&mut security)?.into_iter().map(str::to_owned));
    let default_workdir = match image.kind {
        ImageKind::Host => "/workspace",
        ImageKind::Oci if !from.workdir.is_empty() => {
            from_image.push("/workdir".to_owned());
            from.workdir.as_str()
        }
        ImageKind::Dir | ImageKind::Oci => "/",
    };
    let workdir = if request.workdir.is_empty() { default_workdir } else { &request.workdir };
    // A command of the request replaces entrypoint and command of the image, as it does in a pod.
    let mut command = request.command.clone();
    if command.is_empty() && !config.no_image_command {
        command = from.entrypoint.into_iter().chain(from.command).collect();
        if !command.is_empty() {
            from_image.push("/command".to_owned());
        }
    }
    let plan = OciPlan {
        sandbox: SandboxRef { id: marker(slots::SANDBOX_ID), name, workspace: request.workspace.to_string() },
        image,
        agent: if options.agent { WhoseAgent::Chiton } else { WhoseAgent::None },
        command,
        env,
        labels: request.labels.clone(),
        annotations: BTreeMap::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        volumes: request.volumes.iter().map(Into::into).collect(),
        workdir: workdir.to_owned(),
        hostname,
        resources: ResourcesPlan::of(&request.resources, options, config.read_only, disk::chosen(config.disk, means)),
        network,
        security,
        stop_grace_seconds: config.stop_grace_seconds.unwrap_or_else(|| options.stop_grace.as_secs().min(GRACE_LIMIT)),
    };
    Ok(DefaultPlan { plan: json!(plan), slots: filled, from_request, from_image })
}
