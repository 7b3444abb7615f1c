//! The promises of every driver (`chiton-driver-suite`), asked of a driver behind a socket as a gateway uses it.
//!
//! The bench knows the socket and nothing else, so that what needs a look at the platform from outside is declared.

use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver::Deadlines;
use chiton_driver_external::{ExternalDriver, ExternalOptions};
use chiton_driver_suite::{Bench, Case, Failure, Outcome as Played, Stop as SuiteStop, Subject, Verdict, absent};
use chiton_model::{DriverId, GatewayId, SandboxId, WorkspaceName};
use serde_json::{Value, json};

use crate::stage::Run;
use crate::verdict::{By, Finding, Outcome, Stop};
use crate::wire::Wire;

/// The cases of the wire that have to pass before any of these says anything.
pub(crate) const AFTER: &[&str] = &["watch::begins_with_everything", "process::exit_code_is_told", "delete::again"];

/// What a driver with one gateway on its socket is not asked.
const WAIVED: &[(&str, &str)] = &[
    ("owner::sees_its_own_only", "a socket is one gateway's; calls name no owner"),
    (
        "plan::config_is_strict",
        "which keys its driver_config has is not known here; config::unknown_keys_are_refused asks",
    ),
    ("owner::deletes_its_own_only", "a socket is one gateway's; calls name no owner"),
];

/// A driver behind a socket.
struct SocketBench {
    run: Arc<Run>,
    folder: tempfile::TempDir,
}

fn stuck(doing: &str, why: impl std::fmt::Display) -> SuiteStop {
    Failure::bench(doing, why).into()
}

fn told<T>(doing: &str, verdict: crate::verdict::Verdict<T>) -> Verdict<T> {
    verdict.map_err(|stop| match stop {
        Stop::Broken(finding) => stuck(doing, finding),
        Stop::NotHere(why, _) => stuck(doing, why),
    })
}

impl SocketBench {
    fn new(run: &Arc<Run>) -> Verdict<Self> {
        let folder = tempfile::tempdir().map_err(|error| stuck("make a folder", error))?;
        Ok(Self { run: Arc::clone(run), folder })
    }

    async fn wire(&self) -> Verdict<Wire> {
        told("call the driver", Wire::connect(&self.run.options.dial(), self.run.options.limits).await)
    }

    async fn list(&self) -> Verdict<Vec<chiton_compute_wire::v1::DriverSandbox>> {
        let list = told("list", self.wire().await?.list().await)?;
        list.map_err(|status| stuck("list", crate::verdict::said(&status)))
    }

    async fn get(&self, id: &SandboxId) -> Verdict<chiton_compute_wire::v1::DriverSandbox> {
        let found = told("look at a sandbox", self.wire().await?.get(id.as_str(), "").await)?;
        found.map_err(|status| stuck("look at a sandbox", crate::verdict::said(&status)))
    }
}

#[async_trait]
impl Bench for SocketBench {
    fn name(&self) -> String {
        "socket".to_owned()
    }

    async fn driver(&self, gateway: &GatewayId) -> Verdict<Subject> {
        let (options, id) = (&self.run.options, DriverId::new("subject"));
        let id = id.map_err(|error| stuck("name the driver", error))?;
        let state = self.folder.path().join(gateway.as_str());
        let limits = options.limits;
        let deadlines = Deadlines {
            prepare: limits.create,
            look: limits.call,
            act: limits.create.max(limits.act).max(limits.delete),
            ready: limits.ready,
        };
        let external = ExternalOptions {
            peers: options.peers.clone(),
            deadlines,
            ..ExternalOptions::new(id, gateway.clone(), state.clone(), state.join("run"), options.socket.clone())
        };
        let driver = ExternalDriver::new(external);
        driver.greet().await.map_err(|error| stuck("greet the driver", error))?;
        Ok(Subject { driver: Arc::new(driver), agent_folder: None })
    }

    fn image(&self) -> String {
        let Run { options, capabilities, .. } = &*self.run;
        if options.image.is_empty() { capabilities.default_image.clone() } else { options.image.clone() }
    }

    fn waived(&self, case: &str) -> Option<String> {
        WAIVED.iter().find(|(name, _)| *name == case).map(|(_, why)| (*why).to_owned())
    }

    async fn traces(&self, _gateway: &GatewayId) -> Verdict<Vec<String>> {
        let list = self.list().await?.into_iter();
        Ok(list.map(|sandbox| sandbox.id).filter(|id| !self.run.before.contains(id)).collect())
    }

    async fn exposed(&self, _gateway: &GatewayId, id: &SandboxId) -> Verdict<String> {
        Ok(format!("{:?}\n{:?}", self.get(id).await?, self.list().await?))
    }

    async fn labels(&self, _gateway: &GatewayId, id: &SandboxId) -> Verdict<Vec<(String, String)>> {
        let labels = self.get(id).await?.spec.and_then(|spec| spec.template).map(|template| template.labels);
        match labels {
            Some(labels) if !labels.is_empty() => Ok(labels.into_iter().collect()),
            _ => absent("see the labels of an object: the driver does not tell them"),
        }
    }

    /// How long a driver waits is its own setting.
    fn grace(&self, _seconds: u64) -> Value {
        json!({})
    }
}

/// Why none of these cases applies, if so.
pub(crate) fn not_here(run: &Run) -> Option<(String, By)> {
    if run.options.shell.is_empty() {
        return Some(("the image is said to have no shell".to_owned(), By::Options));
    }
    if !run.before.is_empty() {
        return Some(("the driver has sandboxes of others; these cases need one that has none".to_owned(), By::Suite));
    }
    if WorkspaceName::new(run.options.workspace.as_str()).is_err() {
        return Some(("the workspace has a name that no gateway gives".to_owned(), By::Options));
    }
    None
}

/// Plays one case.
pub(crate) async fn played(case: &Case, run: &Arc<Run>) -> Outcome {
    let bench = match SocketBench::new(run) {
        Ok(bench) => bench,
        Err(stop) => return failed(case, &stop.to_string()),
    };
    match chiton_driver_suite::run(case, Arc::new(bench)).await.outcome {
        Played::Passed => Outcome::Pass,
        Played::Failed(why) => failed(case, &why),
        Played::Skipped(why) => Outcome::Declared { why, by: By::Suite, found: None },
    }
}

fn failed(case: &Case, why: &str) -> Outcome {
    let found = chiton_model::printable(why);
    Outcome::Fail(Finding {
        what: "the driver as a gateway uses it".to_owned(),
        expected: case.about.to_owned(),
        found,
    })
}
