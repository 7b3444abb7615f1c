//! What calls do to the platform.

use chiton_driver::{CallError, CreateCall, DriverEvent, Locality, Observed, ObservedStatus};
use chiton_model::{Error, ExitStatus, SandboxId};

use super::platform::{Object, ScriptedPlatform};
use crate::ledger::Effect;

fn failed<T>(message: String) -> Result<T, CallError> {
    Err(CallError::Failed(Error::internal(message)))
}

impl ScriptedPlatform {
    fn local(&self) -> bool {
        self.0.spec.capabilities.locality == Locality::Local
    }

    /// Refuses a create under a tombstone, as a local driver does.
    fn check_tombstone(&self, id: &SandboxId) -> Result<(), CallError> {
        if self.local() && self.0.state.lock().tombstones.contains(id) {
            return Err(CallError::NotRun(Error::conflict(format!("sandbox {id} was deleted"))));
        }
        Ok(())
    }

    fn make(&self, call: &CreateCall, status: ObservedStatus) {
        let observed = Observed {
            id: call.identity.sandbox.clone(),
            status,
            attempt: None,
            gateway: call.identity.gateway.clone(),
            epoch: call.identity.epoch.clone(),
            commit: call.identity.commit,
        };
        let object = Object { observed, plan: call.plan.clone(), starts: 0 };
        self.0.state.lock().objects.insert(call.identity.sandbox.clone(), object);
    }

    pub(super) fn do_create(&self, call: &CreateCall) -> Result<(), CallError> {
        let id = &call.identity.sandbox;
        self.check_tombstone(id)?;
        match self.object(id).map(|object| object.status) {
            Some(ObservedStatus::Broken(why)) => return failed(format!("object {id} is half made: {why}")),
            Some(_) => return Ok(()),
            None => {}
        }
        self.make(call, ObservedStatus::Created);
        self.effect(id, Effect::Created);
        if self.0.spec.capabilities.two_phase_start() {
            self.publish_object(id);
            return Ok(());
        }
        self.do_start(call)
    }

    pub(super) fn do_half_make(&self, call: &CreateCall) -> Result<(), CallError> {
        let id = &call.identity.sandbox;
        self.check_tombstone(id)?;
        if self.object(id).is_none() {
            self.make(call, ObservedStatus::Broken("scripted".to_owned()));
            self.effect(id, Effect::HalfMade);
            self.publish_object(id);
        }
        Ok(())
    }

    pub(super) fn do_start(&self, call: &CreateCall) -> Result<(), CallError> {
        let id = &call.identity.sandbox;
        let (starts, exit) = {
            let mut state = self.0.state.lock();
            let Some(object) = state.objects.get_mut(id) else { return failed(format!("there is no object {id}")) };
            match &object.observed.status {
                ObservedStatus::Running => return Ok(()),
                ObservedStatus::Broken(why) => return failed(format!("object {id} is half made: {why}")),
                ObservedStatus::Created | ObservedStatus::Exited(_) => {}
            }
            object.observed.status = ObservedStatus::Running;
            object.observed.attempt = call.agent.as_ref().map(|agent| agent.attempt.clone());
            object.plan = call.plan.clone();
            object.starts += 1;
            (object.starts, state.exits.pop_front())
        };
        self.effect(id, Effect::Started);
        if let Some(agent) = &call.agent {
            self.0.agents.launched(id, &agent.attempt);
        }
        self.publish_object(id);
        if let Some((after, code)) = exit {
            let (platform, id) = (self.clone(), id.clone());
            let sleep = self.0.world.sleep(after);
            self.0.world.spawn_outside(async move {
                sleep.await;
                platform.exit_of(&id, starts, code);
            });
        }
        Ok(())
    }

    pub(super) fn do_stop(&self, id: &SandboxId) {
        {
            let mut state = self.0.state.lock();
            if self.local() {
                // Acts on one local sandbox come one after the other: none is at work any more when a stop begins.
                state.in_flight.retain(|_, sandbox| sandbox != id);
            }
            let Some(object) = state.objects.get_mut(id) else { return };
            if object.observed.status != ObservedStatus::Running {
                return;
            }
            let status = ExitStatus { code: Some(143), reason: "Signaled".to_owned(), at: Some(self.0.world.wall()) };
            object.observed.status = ObservedStatus::Exited(status);
        }
        self.0.agents.gone(id);
        self.effect(id, Effect::Stopped);
        self.publish_object(id);
    }

    pub(super) fn do_delete(&self, id: &SandboxId) {
        let was = {
            let mut state = self.0.state.lock();
            if self.local() {
                // A local delete first ends whatever else is at work on the sandbox.
                state.in_flight.retain(|_, sandbox| sandbox != id);
                state.tombstones.insert(id.clone());
            }
            state.objects.remove(id)
        };
        if was.is_some() {
            self.0.agents.gone(id);
            self.effect(id, Effect::Deleted);
            self.publish(DriverEvent::Deleted(id.clone()));
        }
    }
}
