//! What an engine offers, for people who set one up, and whether it is there at all.

use std::sync::Arc;
use std::time::Duration;

use bollard::ClientVersion;
use chiton_model::{Error, printable};

use crate::client::Client;
use crate::engine::Engine;
use crate::options::EngineOptions;

/// How long a probe may take.
const PROBE: Duration = Duration::from_millis(1800);
/// The oldest API that has all that the driver asks for.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// Something that the driver needs of the engine or of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// Whether it is as needed.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when it is as needed.
    pub cure: String,
}

/// Whether an engine answers at the socket: its name, version and place. Blocks for at most two seconds; not to be called
/// on a thread that drives other tasks.
pub fn probe(options: &EngineOptions) -> Result<String, Error> {
    blocking(async {
        let looked = tokio::time::timeout(PROBE, version(options)).await;
        looked.unwrap_or_else(|_| {
            let text = format!("{} at {} does not answer", options.dialect.kind(), options.socket.display());
            Err(Error::unavailable(options.dialect.kind(), text).cure(options.dialect.start_it()))
        })
    })
}

async fn version(options: &EngineOptions) -> Result<String, Error> {
    let kind = options.dialect.kind();
    let client = Client::new(options.dialect, options.socket.clone());
    let found = client.look("ask for the version", |api| async move { api.version().await });
    let found = found.await.map_err(crate::client::Failure::error)?;
    let version = found.version.unwrap_or_default();
    let agreed = client.api().await.map_err(crate::client::Failure::error)?.client_version();
    if agreed < OLDEST {
        let text = format!("{kind} {version} speaks version {agreed} of the API, and {OLDEST} is needed");
        return Err(Error::unavailable(kind, text).cure("update the engine"));
    }
    Ok(format!("{kind} {} at {}", printable(&version), options.socket.display()))
}

/// Looks at the engine. Blocks; not to be called on a thread that drives other tasks.
pub fn doctor(options: &EngineOptions) -> Vec<Finding> {
    let engine = Arc::new(Engine::new(options.clone()));
    let work = async {
        let mut findings = vec![match version(options).await {
            Ok(detail) => good("engine", detail),
            Err(error) => return Ok(vec![bad("engine", error.message, error.cure.unwrap_or_default())]),
        }];
        findings.extend(abilities(&engine).await);
        findings.extend(image(&engine).await);
        Ok::<_, Error>(findings)
    };
    blocking(work).unwrap_or_else(|error| vec![bad("engine", error.message, error.cure.unwrap_or_default())])
}

fn good(what: &str, detail: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), ok: true, detail: detail.into(), cure: String::new() }
}

fn bad(what: &str, detail: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), ok: false, detail: detail.into(), cure: cure.into() }
}

async fn abilities(engine: &Engine) -> Vec<Finding> {
    let found = match engine.abilities().await {
        Ok(found) => found,
        Err(error) => {
            let error = error.into_error();
            return vec![bad("limits", error.message, error.cure.unwrap_or_default())];
        }
    };
    let limits = match found.not_limited() {
        None => good("limits", "cpu, memory, pids and open files are enforced"),
        Some(text) => bad("limits", text, "run the engine as root, or on a machine with the unified cgroup hierarchy"),
    };
    let selinux = match (found.selinux, engine.options.relabel) {
        (false, _) => good("selinux", "the engine does not use it"),
        (true, true) => good("selinux", "what is bound into sandboxes is relabelled"),
        (true, false) => bad("selinux", "the engine uses it, and binds are not relabelled", "set relabel = true"),
    };
    vec![limits, selinux]
}

async fn image(engine: &Arc<Engine>) -> Option<Finding> {
    let name = &engine.options.default_image;
    if name.is_empty() {
        return None;
    }
    Some(match engine.resolve("").await {
        Ok(found) => good("default image", format!("{name} is {}", found.image.pin)),
        Err(error) => bad("default image", error.message, error.cure.unwrap_or_default()),
    })
}

fn blocking<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::internal(format!("a look at the engine cannot be begun: {error}")))?;
    runtime.block_on(work)
}
