//! One operation on one sandbox while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{AgentLaunch, ComputeDriver, CreateCall, Identity, slots};
use chiton_model::condition::{kinds, set};
use chiton_model::{
    Condition, ConditionStatus, CreateFailure, Error, ExtensionName, OperationKind, Phase, Ran, StartReason, StopReason,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::admit::Ticket;
use super::chain::Link;
use super::hooks::{HookFailure, Steps};
use super::inner::Inner;
use super::outcome::Reported;
use crate::extension::{
    Approval, Extension, HookContext, HookCore, ReconcileOutcome, RequestView, SlotValues, StepResult,
};
use crate::journal::{Obligation, OperationRecord, SandboxRecord, StepStatus};
use crate::plan::{Slot, SlotOwner};
use crate::policy::FailurePolicy;

/// A hook with its arguments.
#[derive(Clone)]
pub(super) enum Call {
    BeforeCreate,
    AfterCreate,
    BeforeStart(StartReason),
    AfterReady(StartReason),
    ApproveStop(StopReason),
    BeforeStop(StopReason),
    AfterStop(Ran, StopReason),
    OnCreateFailed(Ran, Arc<CreateFailure>),
    BeforeDelete,
    AfterDelete(Ran),
    Reconcile,
}

/// What a hook answered.
pub(super) enum Answer {
    Nothing,
    Slots(SlotValues),
    Approval(Approval),
    Reconcile(ReconcileOutcome),
}

impl Call {
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::BeforeCreate => Phase::BeforeCreate,
            Self::AfterCreate => Phase::AfterCreate,
            Self::BeforeStart(_) => Phase::BeforeStart,
            Self::AfterReady(_) => Phase::AfterReady,
            Self::ApproveStop(_) => Phase::ApproveStop,
            Self::BeforeStop(_) => Phase::BeforeStop,
            Self::AfterStop(..) => Phase::AfterStop,
            Self::OnCreateFailed(..) => Phase::OnCreateFailed,
            Self::BeforeDelete => Phase::BeforeDelete,
            Self::AfterDelete(_) => Phase::AfterDelete,
            Self::Reconcile => Phase::Reconcile,
        }
    }

    async fn on(self, extension: Arc<dyn Extension>, cx: HookContext) -> StepResult<Answer> {
        let cx = &cx;
        match self {
            Self::BeforeCreate => return extension.before_create(cx).await.map(Answer::Slots),
            Self::AfterCreate => extension.after_create(cx).await,
            Self::BeforeStart(reason) => extension.before_start(cx, reason).await,
            Self::AfterReady(reason) => extension.after_ready(cx, reason).await,
            Self::ApproveStop(reason) => return extension.approve_stop(cx, reason).await.map(Answer::Approval),
            Self::BeforeStop(reason) => extension.before_stop(cx, reason).await,
            Self::AfterStop(ran, reason) => extension.after_stop(cx, ran, reason).await,
            Self::OnCreateFailed(ran, failure) => extension.on_create_failed(cx, ran, &failure).await,
            Self::BeforeDelete => extension.before_delete(cx).await,
            Self::AfterDelete(ran) => extension.after_delete(cx, ran).await,
            Self::Reconcile => return Ok(Answer::Reconcile(extension.reconcile(cx).await)),
        }
        .map(|()| Answer::Nothing)
    }
}

/// One operation on one sandbox.
pub(super) struct Run {
    pub(super) inner: Arc<Inner>,
    pub(super) steps: Steps,
    pub(super) op: OperationRecord,
    pub(super) sandbox: SandboxRecord,
    pub(super) driver: Arc<dyn ComputeDriver>,
    pub(super) chain: Vec<Arc<Link>>,
    pub(super) request: Arc<RequestView>,
    /// The plan as hooks see it: slots that are known by now, no secrets.
    pub(super) plan: Arc<Value>,
    /// The agent's token, while this start is under way. Never stored.
    pub(super) token: String,
    /// When the driver's last create or start began, since boot. After a crash that is not known, nor on which boot's clock
    /// it would be: what depends on it then counts from recovery.
    pub(super) making_began: Duration,
    /// The create was answered with success, in this life of the gateway.
    pub(super) answered: bool,
    /// Obligations that came up, and ids of those that were paid.
    pub(super) owed: Vec<Obligation>,
    pub(super) paid: Vec<String>,
    /// The newest exit that the driver reported during this operation.
    pub(super) exited: Option<Reported>,
    pub(super) ticket: Ticket,
}

/// A fresh agent token and the hash that the store keeps.
pub(super) fn mint_token(inner: &Inner) -> (String, String) {
    let token = hex::encode(inner.world.random::<32>());
    let hash = hex::encode(Sha256::digest(token.as_bytes()));
    (token, hash)
}

/// The request as extensions see it.
pub(super) fn request_view(sandbox: &SandboxRecord) -> RequestView {
    let config = sandbox.spec.driver_config.get(sandbox.driver.as_str()).cloned().unwrap_or_else(|| json!({}));
    RequestView {
        name: Some(sandbox.name.clone()),
        workspace: sandbox.workspace.clone(),
        image: sandbox.spec.image.clone(),
        command: sandbox.spec.command.clone(),
        labels: sandbox.spec.labels.clone(),
        resources: sandbox.spec.resources.clone(),
        network: sandbox.spec.network.clone(),
        volumes: sandbox.spec.volumes.clone(),
        driver_config: config,
    }
}

/// The value of a slot, as far as the record knows it; secrets never.
pub(super) fn known(sandbox: &SandboxRecord, slot: &Slot) -> Option<String> {
    match (&slot.owner, slot.name.as_str()) {
        (SlotOwner::Gateway, slots::SANDBOX_ID) => Some(sandbox.id.to_string()),
        (SlotOwner::Gateway, slots::SANDBOX_NAME) => Some(sandbox.name.to_string()),
        _ => sandbox.slots.get(&slot.name).cloned(),
    }
}

impl Run {
    /// Calls one hook.
    pub(super) async fn call(&mut self, link: &Arc<Link>, call: Call) -> Result<Answer, HookFailure> {
        let phase = call.phase();
        let slots: BTreeMap<String, String> = self
            .sandbox
            .plan
            .slots_of(link.name())
            .filter_map(|(name, slot)| self.sandbox.slots.get(&slot.name).map(|value| (name.to_owned(), value.clone())))
            .collect();
        let (sandbox, kind) = (&self.sandbox, self.op.kind);
        let template = (
            sandbox.id.clone(),
            sandbox.name.clone(),
            sandbox.workspace.clone(),
            sandbox.principal.clone(),
            sandbox.backend.clone(),
        );
        let (request, plan) = (Arc::clone(&self.request), Arc::clone(&self.plan));
        let driver = self.driver.capabilities();
        let make = move |extension: Arc<dyn Extension>, core: HookCore| -> BoxFuture<'static, StepResult<Answer>> {
            let (id, name, workspace, principal, backend) = template.clone();
            let cx = HookContext {
                core,
                sandbox: id,
                name,
                workspace,
                kind,
                principal,
                request: Arc::clone(&request),
                driver: Arc::clone(&driver),
                backend,
                plan: Arc::clone(&plan),
                slots: slots.clone(),
            };
            call.clone().on(extension, cx).boxed()
        };
        self.check_state(link)?;
        let deaf = phase.is_cleanup() || matches!(phase, Phase::BeforeDelete | Phase::BeforeStop);
        self.steps.hook(link, phase, deaf, make).await
    }

    /// A state that this build cannot read stops the subject's operations, naming versions (rule 11).
    fn check_state(&self, link: &Link) -> Result<(), HookFailure> {
        match self.steps.states.get(link.name()) {
            Some(state) if !link.descriptor.reads(state.schema_version) => Err(HookFailure::NotStarted(format!(
                "its saved state has schema version {}, this build reads {} and {:?}",
                state.schema_version, link.descriptor.state_schema, link.descriptor.reads_schemas
            ))),
            _ => Ok(()),
        }
    }

    /// Runs an effect phase over the chain. A required extension's failure is returned; an optional one's becomes a
    /// condition.
    pub(super) async fn effects(&mut self, make: impl Fn() -> Call) -> Result<(), CreateFailure> {
        let phase = make().phase();
        for link in self.chain.clone() {
            if link.entry.observe || !link.descriptor.takes_part(phase) {
                continue;
            }
            self.check_cancel()?;
            let failure = match self.call(&link, make()).await {
                Ok(Answer::Slots(values)) => match self.take_slots(&link, values) {
                    Ok(()) => continue,
                    Err(why) => why,
                },
                Ok(_) => continue,
                Err(failure) => failure.message(),
            };
            let failure =
                CreateFailure { step: phase.to_string(), extension: Some(link.name().to_string()), cause: failure };
            let optional = self.inner.policy(link.name()).failure != FailurePolicy::Required;
            if !optional || self.steps.cancel.cause().is_some() {
                return Err(failure);
            }
            self.condition(kinds::EXTENSION_DEGRADED, ConditionStatus::True, "OptionalFailed", failure.to_string());
        }
        Ok(())
    }

    /// Takes the slots that a `before_create` returned: exactly the declared ones.
    fn take_slots(&mut self, link: &Link, values: SlotValues) -> Result<(), String> {
        let declared: Vec<String> = self.sandbox.plan.slots_of(link.name()).map(|(name, _)| name.to_owned()).collect();
        if let Some(missing) = declared.iter().find(|name| !values.contains_key(*name)) {
            return Err(format!("it declared slot {missing:?} and did not fill it"));
        }
        if let Some(extra) = values.keys().find(|name| !declared.contains(name)) {
            return Err(format!("it filled slot {extra:?}, which it did not declare"));
        }
        if values.is_empty() {
            return Ok(());
        }
        let mark = crate::journal::Mark {
            operation: self.op.id.clone(),
            event: crate::journal::MarkEvent::Slots { extension: link.name().clone(), values: values.clone() },
        };
        self.inner
            .journal
            .mark(self.op.kind, &mark)
            .map_err(|error| format!("the mark of its slots could not be written: {error}"))?;
        self.keep_slots(link.name(), values);
        Ok(())
    }

    pub(super) fn keep_slots(&mut self, extension: &ExtensionName, values: SlotValues) {
        for (name, value) in values {
            self.sandbox.slots.insert(format!("{extension}.{name}"), value);
        }
    }

    /// Refreshes the plan that hooks see.
    pub(super) fn refresh_plan(&mut self) {
        self.plan = Arc::new(self.sandbox.plan.filled(|slot| known(&self.sandbox, slot)));
    }

    /// Ends the operation early when somebody asked for it.
    pub(super) fn check_cancel(&self) -> Result<(), CreateFailure> {
        match self.steps.cancel.cause() {
            None => Ok(()),
            Some(cause) => Err(CreateFailure {
                step: cause.as_str().to_owned(),
                extension: None,
                cause: "somebody asked for it".to_owned(),
            }),
        }
    }

    /// What the driver is handed: every slot and secret in place.
    pub(super) async fn driver_call(&self) -> Result<CreateCall, Error> {
        let mut secrets: BTreeMap<String, String> = BTreeMap::new();
        for slot in self.sandbox.plan.slots.values().filter(|slot| slot.owner == SlotOwner::Secret) {
            let reference = slot.name.strip_prefix(slots::SECRET_PREFIX).unwrap_or(&slot.name);
            self.inner.world.secrets.check(reference, &self.sandbox.principal, &self.sandbox.workspace)?;
            secrets.insert(slot.name.clone(), self.inner.world.secrets.read(reference).await?);
        }
        let unfilled = self.sandbox.plan.slots.values().find(|slot| {
            slot.owner != SlotOwner::Secret && known(&self.sandbox, slot).is_none() && slot.default.is_none()
        });
        if let Some(slot) = unfilled {
            return Err(Error::internal(format!("slot {:?} has no value", slot.name)));
        }
        let plan = self.sandbox.plan.filled(|slot| {
            secrets.get(&slot.name).cloned().or_else(|| known(&self.sandbox, slot)).or_else(|| slot.default.clone())
        });
        let info = self.inner.journal.info();
        let identity = Identity {
            gateway: info.gateway,
            epoch: self.sandbox.epoch.clone(),
            commit: self.sandbox.commit,
            sandbox: self.sandbox.id.clone(),
            name: self.sandbox.name.clone(),
            workspace: self.sandbox.workspace.clone(),
            operation: self.sandbox.created_by.clone(),
            principal: self.sandbox.principal.subject.clone(),
            extensions: self.sandbox.chain.iter().map(|entry| entry.name.clone()).collect(),
        };
        let agent = self
            .driver
            .capabilities()
            .agent
            .then(|| AgentLaunch { token: self.token.clone(), attempt: self.sandbox.attempt.clone() });
        Ok(CreateCall { identity, plan, agent })
    }

    /// Sets a condition on the sandbox.
    pub(super) fn condition(&mut self, kind: &str, status: ConditionStatus, reason: &str, message: String) {
        let now = self.inner.world.clock.now();
        let condition =
            Condition { kind: kind.to_owned(), status, reason: reason.to_owned(), message, last_transition: now };
        set(&mut self.sandbox.conditions, condition);
    }

    /// Says what the operation waits for: to who watches, and to who asks while it waits. Only the outcome is stored.
    pub(super) fn passing(&mut self, kind: &str, reason: &str, message: String) {
        self.condition(kind, ConditionStatus::True, reason, message);
        let condition = self.sandbox.conditions.iter().find(|condition| condition.kind == kind).cloned();
        if let Some(condition) = condition {
            self.inner.passing.lock().insert(self.sandbox.id.clone(), condition);
        }
        self.inner.changed(&self.sandbox);
    }

    /// It waits no longer.
    pub(super) fn passed(&mut self, kind: &str) {
        self.sandbox.conditions.retain(|condition| condition.kind != kind);
        self.inner.passing.lock().remove(&self.sandbox.id);
    }

    /// What is known of an extension's action in these phases; none when it certainly did not start.
    pub(super) fn ran(&self, extension: &ExtensionName, phases: &[Phase]) -> Option<Ran> {
        let mut ran = None;
        for phase in phases {
            let Some(status) = self.steps.status.get(&crate::journal::StepKey::hook(*phase, extension)) else {
                continue;
            };
            let this = match status {
                StepStatus::Completed => Ran::Completed,
                StepStatus::Failed => Ran::Failed,
                StepStatus::Started | StepStatus::Maybe => Ran::Maybe,
            };
            // The order of `Ran` is from sure to unsure; the least sure phase decides.
            ran = ran.max(Some(this));
        }
        ran
    }

    /// Whether a driver call may have had an effect.
    pub(super) fn may_have(&self, call: crate::journal::DriverCall) -> bool {
        !matches!(self.steps.status.get(&crate::journal::StepKey::Driver(call)), None | Some(StepStatus::Failed))
    }
}

/// A new operation's record, with where the mark log stands now.
pub(super) fn operation(
    inner: &Inner,
    ticket: &Ticket,
    kind: OperationKind,
    principal: &chiton_model::Principal,
) -> OperationRecord {
    let info = inner.journal.info();
    OperationRecord {
        id: ticket.operation.clone(),
        subject: ticket.subject.clone(),
        kind,
        start_reason: None,
        stop_reason: None,
        principal: principal.clone(),
        commit: inner.journal.next_commit(),
        marks: inner.journal.mark_position(),
        epoch: info.epoch,
        started_at: inner.world.clock.now(),
        started_boot_ms: u64::try_from(inner.world.clock.since_boot().as_millis()).unwrap_or(u64::MAX),
        deleted: false,
        ended_at: None,
        outcome: None,
        steps: Vec::new(),
        total_us: 0,
    }
}

impl Inner {
    /// Puts together the run of an operation on an existing sandbox.
    pub(super) async fn run(
        self: &Arc<Self>,
        ticket: Ticket,
        op: OperationRecord,
        sandbox: SandboxRecord,
        token: String,
    ) -> Result<Run, Error> {
        self.run_with(ticket, op, sandbox, token, false).await
    }

    /// As [`Inner::run`]. `partial`: by force, without the extensions that are not there; what they owe stays listed.
    pub(super) async fn run_with(
        self: &Arc<Self>,
        ticket: Ticket,
        op: OperationRecord,
        sandbox: SandboxRecord,
        token: String,
        partial: bool,
    ) -> Result<Run, Error> {
        let driver = self.driver(&sandbox.driver)?;
        let chain = if partial {
            let present = sandbox.chain.iter().filter(|entry| self.registry.get(&entry.name).is_some()).cloned();
            self.links(&present.collect::<Vec<_>>()).await?
        } else {
            self.links_or_abandoned(&sandbox.chain).await?
        };
        let states = super::states::States::load(Arc::clone(&self.journal), &op).await?;
        let steps = Steps::new(Arc::clone(self), &op, Arc::new(states), Arc::clone(&ticket.cancel));
        let request = Arc::new(request_view(&sandbox));
        let plan = Arc::new(sandbox.plan.filled(|slot| known(&sandbox, slot)));
        Ok(Run {
            inner: Arc::clone(self),
            steps,
            op,
            sandbox,
            driver,
            chain,
            request,
            plan,
            token,
            making_began: self.world.clock.since_boot(),
            answered: false,
            owed: Vec::new(),
            paid: Vec::new(),
            exited: None,
            ticket,
        })
    }
}
