//! The calls of the contract.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    ConfigIssue, Descriptor, Draft, Extension, ExtensionKind, Registry, RemoteHook, RemoteStates, StepId, StepResult,
};
use chiton_lifecycle::journal::Subject;
use chiton_lifecycle::plan::{PlanView, digest_json};
use chiton_lifecycle::runtime::CancelToken;
use chiton_model::{ExtensionName, OperationId, Phase, SandboxId};
use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::ask::Asks;
use super::attempt::{Attempt, Conversation, Told, contained, context};
use super::steps::Steps;
use super::world::Machine;
use crate::proto::run_hook_input::Input;
use crate::proto::{
    ConfigureExtensionRequest, ConfigureExtensionResponse, DescribeExtensionRequest, DescribeExtensionResponse,
    ExtensionConfigIssue, ExtensionHealthRequest, ExtensionHealthResponse, FenceRequest, FenceResponse, HeldRequest,
    HeldResponse, PrepareHookRequest, PrepareHookResponse, ReleaseRequest, ReleaseResponse, RunHookInput, RunStart,
    ValidateHookRequest, ValidateHookResponse, extension_server, fence_request,
};
use crate::wire;

/// How often an extension is asked whether it is well: it has no way to say so by itself.
const HEALTH: Duration = Duration::from_secs(1);

/// An extension under one config.
#[derive(Clone)]
struct Instance {
    descriptor: Arc<Descriptor>,
    extension: Arc<dyn Extension>,
}

pub(super) struct Service {
    registry: Registry,
    instances: Mutex<HashMap<String, Instance>>,
    steps: Steps,
    machine: Arc<Machine>,
}

/// Sets a token when it is dropped: when the caller goes away, or the call is done.
struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

type Stop<T> = Result<T, Status>;

fn bad(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

impl Service {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            instances: Mutex::default(),
            steps: Steps::default(),
            machine: Arc::new(Machine(Handle::current())),
        }
    }

    pub(super) fn steps(&self) -> Steps {
        self.steps.clone()
    }

    fn kind(&self, name: &str) -> Stop<&ExtensionKind> {
        let kind = ExtensionName::new(name).ok().and_then(|name| self.registry.get(&name));
        kind.ok_or_else(|| {
            let known: Vec<String> = self.registry.iter().map(|kind| kind.descriptor().name.to_string()).collect();
            Status::not_found(format!("this process serves no extension {name:?}; it serves {}", known.join(", ")))
        })
    }

    fn instance(&self, id: &str) -> Stop<Instance> {
        let found = self.instances.lock().get(id).cloned();
        found.ok_or_else(|| Status::not_found(format!("there is no instance {id:?}")))
    }

    fn configured(&self, asked: &ConfigureExtensionRequest) -> Stop<Result<String, Vec<ConfigIssue>>> {
        let kind = self.kind(&asked.name)?;
        let document = wire::document("document_json", &asked.document_json).map_err(bad)?;
        if asked.dry_run {
            let issues = kind.check(&document);
            return Ok(if issues.is_empty() { Ok(String::new()) } else { Err(issues) });
        }
        let digest = digest_json(&document).map_err(|error| bad(error.to_string()))?;
        if digest != asked.digest {
            return Err(bad(format!("the document's digest is {digest}, not {}", asked.digest)));
        }
        let id = format!("{}/{digest}", asked.name);
        let mut instances = self.instances.lock();
        if instances.contains_key(&id) {
            return Ok(Ok(id));
        }
        Ok(kind.build(&document).map(|extension| {
            let descriptor = Arc::clone(kind.descriptor());
            instances.insert(id.clone(), Instance { descriptor, extension });
            id
        }))
    }

    async fn begin(&self, mut input: Streaming<RunHookInput>) -> Stop<Conversation> {
        let Some(RunHookInput { input: Some(Input::Start(start)) }) = input.message().await? else {
            return Err(bad("the first message of a step is its start"));
        };
        let instance = self.instance(&start.instance_id)?;
        let RunStart { step, subject, time_left_ms, may_repair, state, arguments, sandbox, driver_json, .. } = start;
        let id = step.ok_or_else(|| bad("the step has no id"))?;
        let subject = wire::read_subject(subject).map_err(bad)?;
        let read = StepId {
            call: id.call,
            operation: OperationId::new(&id.operation).map_err(|error| bad(error.to_string()))?,
            phase: Phase::parse(&id.phase).ok_or_else(|| bad(format!("phase {:?} is not known", id.phase)))?,
            extension: instance.descriptor.name.clone(),
            attempt: id.attempt,
        };
        if id.extension != read.extension.as_str() || id.gateway_run.is_empty() {
            return Err(bad("the step's id names another extension than its instance is of, or no life of a gateway"));
        }
        let state = state.map(|state| wire::read_state(&state)).transpose().map_err(bad)?;
        let driver = Arc::new(wire::capabilities(&driver_json).map_err(bad)?);
        let told = Told::read(arguments.unwrap_or_default()).map_err(bad)?;
        if read.phase.is_cleanup() {
            told.ran().map_err(bad)?;
        }
        let (cancel, over) = (CancelToken::new(), CancelToken::new());
        let (output, answers) = unbounded_channel();
        let asks = Asks::new(output.clone(), state);
        let time_left = Duration::from_millis(time_left_ms);
        let hook = RemoteHook {
            step: read,
            subject: subject.clone(),
            state_schema: instance.descriptor.state_schema,
            time_left,
            may_repair,
            cancel: cancel.clone(),
            over: over.clone(),
            states: Arc::clone(&asks) as Arc<dyn RemoteStates>,
            clock: Arc::clone(&self.machine) as _,
            executor: Arc::clone(&self.machine) as _,
        };
        let workspace = match &subject {
            Subject::Workspace(key) => Some(key.workspace.clone()),
            Subject::Sandbox(_) => None,
        };
        let call = context(hook, sandbox, workspace, driver, told).map_err(bad)?;
        let begun = self.steps.begin(&id, &subject, &cancel).await?;
        let extension = instance.extension;
        let attempt =
            Attempt { begun, extension, cancel: cancel.clone(), over, time_left, asks: Arc::clone(&asks), output };
        tokio::spawn(attempt.run(call));
        let conversation = Conversation { input, listening: true, output: answers, asks, cancel, first: None };
        // A hook that ends at once has its answer in the same packet as the answer's head.
        tokio::task::yield_now().await;
        Ok(conversation)
    }
}

/// A document that both sides of a `Held` or `Release` agree on.
fn answered<T>(result: StepResult<T>) -> (Option<crate::proto::Failure>, Option<T>) {
    match result {
        Ok(value) => (None, Some(value)),
        Err(error) => (Some(wire::failure(&error)), None),
    }
}

#[async_trait]
impl extension_server::Extension for Service {
    async fn describe(&self, asked: Request<DescribeExtensionRequest>) -> Stop<Response<DescribeExtensionResponse>> {
        let kind = self.kind(&asked.get_ref().name)?;
        Ok(Response::new(wire::describe(kind.descriptor())))
    }

    async fn configure(&self, asked: Request<ConfigureExtensionRequest>) -> Stop<Response<ConfigureExtensionResponse>> {
        let answer = match self.configured(asked.get_ref())? {
            Ok(instance_id) => ConfigureExtensionResponse { instance_id, issues: Vec::new() },
            Err(issues) => {
                let told = |issue: ConfigIssue| ExtensionConfigIssue {
                    pointer: issue.pointer,
                    message: issue.message,
                    cure: issue.cure.unwrap_or_default(),
                };
                let issues = issues.into_iter().map(told).collect();
                ConfigureExtensionResponse { instance_id: String::new(), issues }
            }
        };
        Ok(Response::new(answer))
    }

    type HealthStream = std::pin::Pin<Box<dyn Stream<Item = Stop<ExtensionHealthResponse>> + Send>>;

    async fn health(&self, asked: Request<ExtensionHealthRequest>) -> Stop<Response<Self::HealthStream>> {
        let instance = self.instance(&asked.get_ref().instance_id)?;
        let draining = self.steps.draining();
        let states = futures::stream::unfold((None, false), move |(last, ended)| {
            let (extension, draining) = (Arc::clone(&instance.extension), draining.clone());
            async move {
                if ended {
                    return None;
                }
                loop {
                    let ending = draining.is_cancelled();
                    let now = if ending {
                        let since = jiff::Timestamp::now();
                        ExtensionHealthResponse {
                            healthy: false,
                            reason: "its process is ending".to_owned(),
                            since_unix_ms: since.as_millisecond(),
                        }
                    } else {
                        health(&*extension)
                    };
                    if last.as_ref() != Some(&now) {
                        return Some((Ok(now.clone()), (Some(now), ending)));
                    }
                    drop(tokio::time::timeout(HEALTH, draining.cancelled()).await);
                }
            }
        });
        Ok(Response::new(Box::pin(states)))
    }

    async fn validate(&self, asked: Request<ValidateHookRequest>) -> Stop<Response<ValidateHookResponse>> {
        let ValidateHookRequest { instance_id, preview, plan } = asked.into_inner();
        let instance = self.instance(&instance_id)?;
        let guard = CancelOnDrop(CancelToken::new());
        let cx = wire::read_preview(preview, guard.0.clone()).map_err(bad)?;
        let result = match plan {
            None => contained(instance.extension.validate_request(&cx)).await,
            Some(merged) => {
                let plan = wire::document("plan_json", &merged.plan_json).map_err(bad)?;
                let view = PlanView { plan, owners: wire::read_owners(merged.owners).map_err(bad)? };
                contained(instance.extension.validate_plan(&cx, &view)).await
            }
        };
        Ok(Response::new(ValidateHookResponse { failure: answered(result).0 }))
    }

    async fn prepare(&self, asked: Request<PrepareHookRequest>) -> Stop<Response<PrepareHookResponse>> {
        let PrepareHookRequest { instance_id, preview, plan_json } = asked.into_inner();
        let instance = self.instance(&instance_id)?;
        let guard = CancelOnDrop(CancelToken::new());
        let cx = wire::read_preview(preview, guard.0.clone()).map_err(bad)?;
        let plan = wire::document("plan_json", &plan_json).map_err(bad)?;
        let recorder = Arc::new(wire::Recorder::new(plan.clone(), Arc::clone(&cx.driver)));
        let mut draft = Draft::by(plan, instance.descriptor.name.clone(), Arc::clone(&recorder) as _);
        let result = contained(instance.extension.prepare_plan(&cx, &mut draft)).await;
        let answer = match result {
            Ok(()) => recorder.answer(&draft),
            Err(error) => PrepareHookResponse { failure: Some(wire::failure(&error)), ..Default::default() },
        };
        Ok(Response::new(answer))
    }

    type RunStream = Conversation;

    async fn run(&self, asked: Request<Streaming<RunHookInput>>) -> Stop<Response<Conversation>> {
        let mut conversation = self.begin(asked.into_inner()).await?;
        // The answer's head goes with the first word, so that a short step is one packet each way.
        conversation.first = conversation.next().await;
        Ok(Response::new(conversation))
    }

    async fn fence(&self, asked: Request<FenceRequest>) -> Stop<Response<FenceResponse>> {
        match asked.into_inner().what {
            Some(fence_request::What::Step(step)) => self.steps.fence_step(&step).await,
            Some(fence_request::What::Operation(fence)) => self.steps.fence_operation(&fence).await,
            None => return Err(bad("the fence names neither a step nor an operation")),
        }
        Ok(Response::new(FenceResponse {}))
    }

    async fn held(&self, asked: Request<HeldRequest>) -> Stop<Response<HeldResponse>> {
        let HeldRequest { instance_id, page } = asked.into_inner();
        let instance = self.instance(&instance_id)?;
        let page = Some(page).filter(|page| !page.is_empty());
        let (failure, found) = answered(contained(instance.extension.held(page)).await);
        let found = found.unwrap_or_default();
        let ids = found.ids.iter().map(ToString::to_string).collect();
        Ok(Response::new(HeldResponse { failure, ids, next: found.next.unwrap_or_default() }))
    }

    async fn release(&self, asked: Request<ReleaseRequest>) -> Stop<Response<ReleaseResponse>> {
        let ReleaseRequest { instance_id, ids } = asked.into_inner();
        let instance = self.instance(&instance_id)?;
        let ids: Result<Vec<SandboxId>, _> = ids.iter().map(SandboxId::new).collect();
        let ids = ids.map_err(|error| bad(error.to_string()))?;
        let (failure, _) = answered(contained(instance.extension.release(&ids)).await);
        Ok(Response::new(ReleaseResponse { failure }))
    }
}

fn health(extension: &dyn Extension) -> ExtensionHealthResponse {
    match extension.unhealthy_since() {
        None => ExtensionHealthResponse { healthy: true, reason: String::new(), since_unix_ms: 0 },
        Some((since, reason)) => {
            ExtensionHealthResponse { healthy: false, reason, since_unix_ms: since.as_millisecond() }
        }
    }
}
