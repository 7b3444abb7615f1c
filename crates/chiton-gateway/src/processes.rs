//! Extensions in processes of their own, at the gateway's start: asked what they are, or remembered.

use std::fs;
use std::path::Path;

use chiton_driver::replace_file;
use chiton_extension_process::client::{Options, Process};
use chiton_lifecycle::extension::{Descriptor, Registry};
use chiton_model::Error;
use futures::future::join_all;

use crate::config::{Config, ProcessConfig};

/// Adds the extensions of the configured processes. A process that is down is known by what it last said of itself; its
/// extension is then unhealthy until it is up.
pub(crate) async fn register(config: &Config, registry: &mut Registry) -> Result<(), Vec<Error>> {
    let folder = config.gateway.data_dir.join("extensions");
    let kinds = join_all(config.compute.processes.iter().map(|process| start(process, config, &folder))).await;
    let mut errors = Vec::new();
    for kind in kinds {
        match kind {
            Ok(kind) => errors.extend(registry.register(kind).err()),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

async fn start(
    wanted: &ProcessConfig,
    config: &Config,
    folder: &Path,
) -> Result<chiton_lifecycle::extension::ExtensionKind, Vec<Error>> {
    let name = &wanted.name;
    let process =
        Process::start(Options { name: name.clone(), socket: wanted.socket.clone(), peers: wanted.peers.clone() });
    let file = folder.join(format!("{name}.json"));
    let descriptor = match process.describe().await {
        Ok(descriptor) => {
            remember(&file, &descriptor).map_err(|error| vec![error])?;
            descriptor
        }
        Err(error) => match recall(&file) {
            Some(descriptor) => {
                tracing::warn!(extension = %name, %error, "its process is not usable; it is known from its last answer");
                descriptor
            }
            None => return Err(vec![never_seen(wanted, &error)]),
        },
    };
    let kind = process.kind(descriptor);
    let listed = config.compute.extensions.iter().find(|listed| listed.name == *name);
    let Some(listed) = listed else { return Ok(kind) };
    let issues = process.check(&listed.document).await;
    if issues.is_empty() {
        return Ok(kind);
    }
    let errors = issues.into_iter().map(|issue| {
        let key = format!("compute.extension.{:?}{}", name.as_str(), issue.pointer.replace('/', "."));
        let error = Error::invalid(key.clone(), format!("{key}: {}", issue.message));
        error.cure(issue.cure.unwrap_or_else(|| "correct it in the configuration".to_owned()))
    });
    Err(errors.collect())
}

fn never_seen(wanted: &ProcessConfig, error: &Error) -> Error {
    let name = wanted.name.as_str();
    let message = format!(
        "extension {name:?} runs in a process of its own, and what it is has never been learnt: {}",
        error.message
    );
    let cure = error.cure.clone().unwrap_or_default();
    Error::unavailable(name, message).cure(format!("start what listens on {:?} first; {cure}", wanted.socket))
}

/// Keeps what a process said of itself, whole or not at all.
fn remember(file: &Path, descriptor: &Descriptor) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(descriptor)
        .map_err(|error| Error::internal(format!("what a process said cannot be kept: {error}")))?;
    if fs::read(file).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    replace_file(file, &text).map_err(|error| {
        Error::unavailable("gateway", format!("what a process said cannot be kept in {file:?}: {error}"))
            .cure("make room there, and let this user write there")
    })
}

/// What was kept; what cannot be read any more counts as never kept.
fn recall(file: &Path) -> Option<Descriptor> {
    let text = fs::read(file).ok()?;
    match serde_json::from_slice(&text) {
        Ok(descriptor) => Some(descriptor),
        Err(error) => {
            tracing::warn!(?file, %error, "what a process said of itself cannot be read any more");
            None
        }
    }
}
