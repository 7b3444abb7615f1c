//! A whole gateway over a socket whose driver knows only the public contract: it has nothing to bring a sandbox new
//! credentials with, so those of the create count for every start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::WhoseAgent;
use chiton_driver_external::{ExternalDriver, ExternalOptions};
use chiton_driver_scripted::{Faults, Platform, Script, Server};
use chiton_gateway::compose::Gateway;
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind};
use chiton_lifecycle::journal::OperationOutcome;
use chiton_lifecycle::{Accepted, CreateRequest, Selector};
use chiton_model::{Error, SandboxId, SandboxPhase};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::gateway::{composed, dial, phase, request, says};
use crate::rig::soon;
use crate::supervisor::Supervisor;

/// Drivers behind a socket, as a distribution has them.
fn kind() -> DriverKind {
    let probe = |_: &Value| Err(Error::unavailable("external", "it is chosen by name only"));
    DriverKind { kind: "external", early: |_| None, check: |_| Vec::new(), build, doctor: |_| Vec::new(), probe }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of every driver's constructor")]
fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let text = |key: &str| context.config[key].as_str().unwrap_or_default().to_owned();
    let agent = if text("agent") == "openshell" { WhoseAgent::Openshell } else { WhoseAgent::None };
    let socket = PathBuf::from(text("socket"));
    let options = ExternalOptions::new(context.id, context.gateway, context.state_dir, context.run_dir, socket);
    let driver = ExternalDriver::new(ExternalOptions { agent, ..options });
    Ok(BuiltDriver { driver: Arc::new(driver), agent_folder: None })
}

/// A stock driver's process and its platform, a gateway's folder, and a home for what runs in sandboxes.
struct Scene {
    folder: tempfile::TempDir,
    platform: Arc<Platform>,
    server: Option<Server>,
    agent: &'static str,
}

impl Scene {
    fn new(agent: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("home")).expect("a folder");
        let platform = Platform::new(Faults::default(), Duration::ZERO, None).expect("a platform");
        let mut scene = Self { folder, platform, server: None, agent };
        scene.serve();
        scene
    }

    /// Another process of the driver, after the end of the one before.
    fn serve(&mut self) {
        drop(self.server.take());
        let script = Script { stock: true, ..Script::default() };
        self.server = Some(Server::start(&self.socket(), &self.platform, script).expect("a server"));
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("kyma.sock")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    async fn gateway(&self) -> Gateway {
        self.gateway_with("").await
    }

    async fn gateway_with(&self, more: &str) -> Gateway {
        let (socket, agent) = (self.socket(), self.agent);
        let text = format!(
            "[compute]\ndrivers = [\"kyma\"]\n{more}[compute.driver.kyma]\nsocket = {socket:?}\nagent = \"{agent}\"\n\
             [supervisor]\nlisten = \"127.0.0.1:0\"\n"
        );
        composed(&self.folder.path().join("data"), kind(), text).await
    }

    /// The supervisor in a sandbox: it has what the create gave the sandbox, and dials until it is let in.
    async fn supervisor(&self, gateway: &Gateway, id: &SandboxId) -> Supervisor {
        soon(async {
            loop {
                if let Some(token) = self.platform.token(id.as_str())
                    && let Ok(supervisor) = dial(gateway, &self.home(), id, &token).await
                {
                    return supervisor;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

fn sleeper() -> CreateRequest {
    let mut create = CreateRequest::default();
    create.spec.command = ["/bin/sleep", "1000"].map(str::to_owned).to_vec();
    create
}

async fn done(gateway: &Gateway, accepted: Accepted) {
    let ended = soon(gateway.engine().wait(&accepted.operation.expect("it goes on"))).await.expect("ended");
    assert!(matches!(ended.outcome, Some(OperationOutcome::Succeeded)), "{ended:?}");
}

async fn stop(gateway: &Gateway, id: &SandboxId) {
    let accepted = soon(Box::pin(gateway.engine().stop(request(), id.clone()))).await.expect("accepted");
    done(gateway, accepted).await;
    assert_eq!(phase(gateway, id).await, SandboxPhase::Stopped);
}

async fn start(gateway: &Gateway, id: &SandboxId) -> Accepted {
    soon(Box::pin(gateway.engine().start(request(), id.clone()))).await.expect("accepted")
}

async fn until_ready(gateway: &Gateway, id: &SandboxId) {
    let mut events = gateway.events();
    while phase(gateway, id).await != SandboxPhase::Ready {
        // One that is behind looks at how it is.
        drop(soon(events.recv()).await);
    }
}

async fn delete(gateway: &Gateway, scene: &Scene, id: &SandboxId) {
    let accepted = soon(Box::pin(gateway.engine().delete(request(), id.clone(), false))).await.expect("accepted");
    done(gateway, accepted).await;
    assert!(gateway.engine().get(&Selector::Id(id.clone()), false).await.is_err());
    assert_eq!(scene.platform.token(id.as_str()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_sandboxes_start_again_with_the_token_of_their_create() {
    let mut scene = Scene::new("openshell");
    let first = scene.gateway().await;
    let accepted = soon(Box::pin(first.engine().create(request(), sleeper()))).await.expect("accepted");
    let id = accepted.sandbox.id.clone();
    let supervisor = scene.supervisor(&first, &id).await;
    done(&first, accepted).await;
    assert_eq!(phase(&first, &id).await, SandboxPhase::Ready);
    assert_eq!(says(&first, &id).await, "it's me\n");

    for _ in 0..2 {
        stop(&first, &id).await;
        let accepted = start(&first, &id).await;
        let _supervisor = scene.supervisor(&first, &id).await;
        done(&first, accepted).await;
        assert_eq!(phase(&first, &id).await, SandboxPhase::Ready);
        assert_eq!(says(&first, &id).await, "it's me\n");
    }
    soon(supervisor.ended()).await;

    // Its process may be another by now.
    scene.serve();
    // The driver leaves it to the gateway to stop its sandboxes and to start them again.
    let token = scene.platform.token(id.as_str());
    soon(first.close()).await;
    drop(first);
    let back = soon(Box::pin(scene.gateway())).await;
    let _supervisor = scene.supervisor(&back, &id).await;
    until_ready(&back, &id).await;
    assert_eq!(says(&back, &id).await, "it's me\n");
    assert!(token.is_some() && scene.platform.token(id.as_str()) == token, "it has the one of its create");
    delete(&back, &scene, &id).await;
    soon(back.close()).await;
}

#[test]
fn a_start_in_whose_middle_the_gateway_ended_goes_on_with_it() {
    let scene = Scene::new("openshell");
    let runtime = Runtime::new().expect("a runtime");
    let (gateway, id, token) = runtime.block_on(async {
        // It does not wait for what is under way.
        let gateway = scene.gateway_with("drain = \"0s\"\n").await;
        let accepted = soon(Box::pin(gateway.engine().create(request(), sleeper()))).await.expect("accepted");
        let id = accepted.sandbox.id.clone();
        let supervisor = scene.supervisor(&gateway, &id).await;
        done(&gateway, accepted).await;
        stop(&gateway, &id).await;
        soon(supervisor.ended()).await;
        start(&gateway, &id).await;
        soon(async {
            while !scene.platform.runs(id.as_str()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(phase(&gateway, &id).await, SandboxPhase::Starting);
        let token = scene.platform.token(id.as_str());
        soon(gateway.close()).await;
        (gateway, id, token)
    });
    // Nothing of it runs on.
    runtime.shutdown_timeout(Duration::from_secs(10));
    drop(gateway);
    Runtime::new().expect("a runtime").block_on(async {
        let back = soon(Box::pin(scene.gateway())).await;
        assert_eq!(phase(&back, &id).await, SandboxPhase::Starting);
        let _supervisor = scene.supervisor(&back, &id).await;
        until_ready(&back, &id).await;
        assert_eq!(says(&back, &id).await, "it's me\n");
        assert!(token.is_some() && scene.platform.token(id.as_str()) == token, "it has the one of its create");
        soon(back.close()).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_its_word_is_enough_for_a_whole_life() {
    let scene = Scene::new("none");
    let first = scene.gateway().await;
    let accepted = soon(Box::pin(first.engine().create(request(), sleeper()))).await.expect("accepted");
    let id = accepted.sandbox.id.clone();
    done(&first, accepted).await;
    assert_eq!(phase(&first, &id).await, SandboxPhase::Ready);
    stop(&first, &id).await;
    let accepted = start(&first, &id).await;
    done(&first, accepted).await;
    assert_eq!(phase(&first, &id).await, SandboxPhase::Ready);
    soon(first.close()).await;
    drop(first);
    let back = soon(Box::pin(scene.gateway())).await;
    until_ready(&back, &id).await;
    delete(&back, &scene, &id).await;
    soon(back.close()).await;
}
