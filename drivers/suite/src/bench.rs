//! What a driver's author writes so that the driver can be held against the cases.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver::ComputeDriver;
use chiton_model::{GatewayId, SandboxId};

use crate::proxy::Proxy;
use crate::verdict::{Failure, Stop, Verdict};

/// The host's folder of a sandbox in which its gateway binds the agent's socket.
pub type AgentFolder = dyn Fn(&SandboxId) -> PathBuf + Send + Sync;

/// One life of a gateway as far as a driver is concerned: a driver value, and where its sandboxes' agents dial.
#[derive(Clone)]
pub struct Subject {
    /// The driver.
    pub driver: Arc<dyn ComputeDriver>,
    /// The host's folder that a sandbox's agent finds its gateway's socket `agent.sock` in. None for drivers that carry
    /// no agent.
    pub agent_folder: Option<Arc<AgentFolder>>,
}

/// An object that somebody made on the platform by hand, without our labels.
#[async_trait]
pub trait Foreign: Send + Sync {
    /// Whether it is there still, unchanged.
    async fn is_there(&self) -> Verdict<bool>;

    /// Removes it.
    async fn remove(&self) -> Verdict;
}

/// A name on the platform that means one image now and another one later.
#[async_trait]
pub trait Named: Send + Sync {
    /// The name, as requests write it.
    fn reference(&self) -> String;

    /// Lets the name mean another image from now on: one in which the file `/retagged` exists. The first has no such file.
    async fn retag(&self) -> Verdict;
}

/// A driver whose connection to its engine goes through a proxy.
pub struct FaultyBench {
    /// The driver.
    pub subject: Subject,
    /// What stands between it and the engine.
    pub proxy: Proxy,
    /// Requests of the driver's by what they do, as the engine's API has them: method and path pattern.
    pub routes: Routes,
}

/// How the engine's API spells what the late-effect cases interfere with. A pattern's `*` stands for any text.
#[derive(Clone, Debug)]
pub struct Routes {
    /// The request that makes the object.
    pub create: (http::Method, String),
    /// The request that starts it.
    pub start: (http::Method, String),
    /// The request that stops it.
    pub stop: (http::Method, String),
    /// The request that removes it.
    pub delete: (http::Method, String),
    /// The look at one object.
    pub look: (http::Method, String),
    /// The stream of the engine's events.
    pub events: (http::Method, String),
}

/// Makes drivers on a real platform, and looks at that platform from outside.
///
/// One value stands for one platform with fresh folders; each case gets a value of its own. What a bench does not have it
/// says by [`absent`] with the reason, which the report then carries: nothing is skipped in silence.
#[async_trait]
pub trait Bench: Send + Sync + 'static {
    /// What reports call it: `oci`, `docker`.
    fn name(&self) -> String;

    /// A driver value of a gateway. The first time its folders are fresh; asked again for the same gateway, it is what a
    /// restarted gateway makes: a second value on the same state. Every gateway works on the same platform.
    async fn driver(&self, gateway: &GatewayId) -> Verdict<Subject>;

    /// An image that is here, with `sh`, `cat`, `sleep`, `head`, `wc`, `dd`, `env`, `id`, `ls` and `/tmp`.
    fn image(&self) -> String;

    /// Why a case, by its name, cannot be run against this driver, where neither capabilities nor another method tell. An
    /// expected failure, declared: it stands in the report.
    fn waived(&self, _case: &str) -> Option<String> {
        None
    }

    /// Why the platform cannot say that a lack of memory was why a process was killed. It must be killed all the same.
    fn silent_about_memory(&self) -> Option<String> {
        None
    }

    /// The step in which the platform tells the times of output.
    fn log_step(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    /// Everything on the platform that belongs to a gateway's sandboxes: objects, processes, mounts, folders, networks.
    /// Named volumes do not count: they outlive sandboxes.
    async fn traces(&self, gateway: &GatewayId) -> Verdict<Vec<String>>;

    /// All that the platform shows of a sandbox to whoever may look at it (inspect, list), and the text of every file
    /// below the driver's state folder.
    async fn exposed(&self, gateway: &GatewayId, id: &SandboxId) -> Verdict<String>;

    /// The backend object's labels as the platform shows them, as key and value.
    async fn labels(&self, gateway: &GatewayId, id: &SandboxId) -> Verdict<Vec<(String, String)>>;

    /// Makes an object by hand that looks as much like a sandbox of this id as somebody may want it to, but has none of
    /// our labels.
    async fn foreign(&self, _gateway: &GatewayId, _id: &SandboxId) -> Verdict<Box<dyn Foreign>> {
        absent("make an object by hand")
    }

    /// An image name that can be made to mean another image.
    async fn named(&self, _gateway: &GatewayId) -> Verdict<Box<dyn Named>> {
        absent("let an image's name mean another image")
    }

    /// A request's `driver_config` that leaves the main process so many seconds to end by itself.
    fn grace(&self, seconds: u64) -> serde_json::Value {
        serde_json::json!({ "stop_grace_seconds": seconds })
    }

    /// A name for the network kind `named` that exists on the platform.
    async fn network(&self) -> Verdict<String> {
        absent("name a network")
    }

    /// A driver of the gateway, on the same state as [`Bench::driver`], whose connection misbehaves on demand.
    async fn faulty(&self, _gateway: &GatewayId) -> Verdict<FaultyBench> {
        absent("put a proxy between driver and engine")
    }
}

/// What a bench answers that does not offer something.
pub fn absent<T>(what: &str) -> Verdict<T> {
    Err(Stop::Skipped(format!("this bench cannot {what}")))
}

/// The socket of a real engine, whose path the environment variable holds. Without the variable there is no engine and
/// what needs one is skipped; where engines are required (`ENGINES_REQUIRED=1`), that is a failure.
pub fn engine(variable: &str) -> Verdict<PathBuf> {
    match std::env::var_os(variable) {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ if std::env::var_os("ENGINES_REQUIRED").is_some_and(|required| required == "1") => {
            Err(Failure::bench("find an engine", format!("ENGINES_REQUIRED is 1 and {variable} is not set")).into())
        }
        _ => Err(Stop::Skipped(format!("{variable} is not set; cargo xtask engines starts engines and says it"))),
    }
}

impl Failure {
    /// The bench failed in what it is for.
    pub fn bench(doing: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Bench { doing: doing.into(), why: why.to_string() }
    }
}

/// Adds all that is in a folder's files, where it is text: a part of what [`Bench::exposed`] answers.
pub fn text_of_files(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => text_of_files(&path, text),
            Ok(kind) if kind.is_file() => {
                text.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()));
                text.push('\n');
            }
            _ => {}
        }
    }
}
