//! create, start and stop.

use std::time::{Duration, Instant};

use chiton_driver::{AgentLaunch, CallError, CallResult, CreateCall, ObservedStatus, StartCall};
use chiton_model::{Error, SandboxId};
use chiton_oci_monitor::wire::{Request, State};

use super::spawn::await_state;
use super::{ACT, Doing, Host, Monitor};
use crate::connection::Connection;
use crate::means::Range;
use crate::network::{self, Lease};
use crate::plan::{NetworkMode, OciPlan};
use crate::record::{Paths, Record, boot_id};

impl Host {
    /// Makes the sandbox up to an init that waits; `None` when it exists already.
    pub(crate) fn create(&self, call: &CreateCall) -> CallResult<Option<Monitor>> {
        let deadline = Instant::now() + ACT;
        let id = &call.identity.sandbox;
        let (plan, agent) = self.decode(call)?;
        let paths = Paths::new(&self.options, id);
        let ready = self.ready()?;
        crate::check::limits(&plan, &ready.means, self.disk_means()).map_err(CallError::NotRun)?;
        self.network.check(&plan.network)?;
        let making = self.making(id);
        let _making = making.try_lock_until(deadline).ok_or_else(|| made_by_another(id))?;
        let spawned = {
            let busy = self.busy(id);
            let _busy = busy.lock();
            refuse_deleted(&paths, id)?;
            match self.observe(id)?.map(|observed| observed.status) {
                // Half made, or a folder without a record: what an interrupted create or a power loss left.
                Some(ObservedStatus::Broken(_)) | None => self.clear(id, deadline)?,
                Some(_) => return Ok(None),
            }
            let range = self.take_range(&ready.means, &plan)?;
            let spawned = self.network.claim(id, &plan.network, None).and_then(|lease| {
                let record = self.record(call, &plan, range, lease)?;
                self.adopt_image(record.image.as_ref(), || {
                    Self::make_folders(&paths, range.first, agent.is_some()).failed("make the sandbox's folders")?;
                    self.make_disk(&plan, &paths)?;
                    record.store(&paths.dir).failed("write the sandbox's record")?;
                    network::write_resolver_file(&plan, &paths).failed("write the resolver's file")?;
                    self.make_volumes(&plan, &call.identity)
                })?;
                if record.network.is_some() {
                    self.network.ready()?;
                }
                self.spawn(&plan, &record, &paths, agent, false)
            });
            if spawned.is_err() {
                self.free_range(range.first);
                // What fails here is tried again by delete, which the record tells of it.
                let _ = self.network.release(id, None);
            }
            // The folder is there once it was made: who is told that nothing ran would not come to delete it.
            spawned.map_err(|error| match error {
                CallError::NotRun(error) if paths.dir.exists() => CallError::Failed(error),
                other => other,
            })?
        };
        let mut spawned = spawned;
        if plan.network.mode == NetworkMode::Bridge {
            // While the launch child works. The sandbox's port passes nothing until this is done.
            if let Err(error) = self.network.apply() {
                let busy = self.busy(id);
                let _busy = busy.lock();
                self.end(id, deadline)?;
                let _ = spawned.child.wait();
                return Err(error);
            }
        }
        let monitor = await_monitor(spawned, &State::Created, deadline, "create the sandbox", ready.user.is_some())?;
        Self::report(id, &paths)?;
        Ok(Some(monitor))
    }

    /// Runs the sandbox; a new monitor is returned where the container had to be built anew.
    pub(crate) fn start(&self, call: &StartCall) -> CallResult<Option<Monitor>> {
        let deadline = Instant::now() + ACT;
        let id = &call.identity.sandbox;
        let (plan, agent) = self.decode(call)?;
        let paths = Paths::new(&self.options, id);
        let attempt = agent.map(|agent| agent.attempt.clone());
        let making = self.making(id);
        let _making = making.try_lock_until(deadline).ok_or_else(|| made_by_another(id))?;
        let busy = self.busy(id);
        let guard = busy.lock();
        refuse_deleted(&paths, id)?;
        let Some(observed) = self.observe(id)? else {
            return Err(CallError::NotRun(Error::not_found(format!("sandbox {id} was not created on this machine"))));
        };
        match observed.status {
            ObservedStatus::Running => return Ok(None),
            ObservedStatus::Created if observed.attempt == attempt => {
                drop(guard);
                let connection = Connection::open(&paths.run).failed("connect to the monitor")?;
                let mut connection = connection.ok_or_else(|| gone(id))?;
                connection.ask(&Request::Start).failed("ask the monitor to start")?;
                ran(await_state(&mut connection, &State::Running, deadline, "start the sandbox")?)?;
                return Ok(None);
            }
            // Made for another start (its environment says so), or ended: built anew around the files it kept.
            ObservedStatus::Created | ObservedStatus::Exited(_) | ObservedStatus::Broken(_) => {
                self.end(id, deadline)?;
            }
        }
        let Some(old) = Record::load(&paths.dir).not_run("read the sandbox's record")? else { return Err(gone(id)) };
        let ready = self.ready()?;
        Self::still_mapped(&ready.means, &old).map_err(CallError::NotRun)?;
        let range = Range { first: old.first_id, count: old.ids };
        self.network.check(&plan.network)?;
        let lease = self.network.claim(id, &plan.network, old.network.as_ref())?;
        let record = self.record(call, &plan, range, lease)?;
        Self::make_folders(&paths, record.first_id, agent.is_some()).failed("make the sandbox's folders")?;
        record.store(&paths.dir).failed("write the sandbox's record")?;
        network::write_resolver_file(&plan, &paths).failed("write the sandbox's resolver file")?;
        if record.network.is_some() {
            // It runs as soon as it is made, so that its rules come first.
            self.network.ready()?;
            self.network.apply()?;
        }
        let spawned = self.spawn(&plan, &record, &paths, agent, true)?;
        drop(guard);
        let monitor = await_monitor(spawned, &State::Running, deadline, "start the sandbox", ready.user.is_some())?;
        Self::report(id, &paths)?;
        Ok(Some(monitor))
    }

    /// Stops the sandbox; returns when its init was reaped and its cgroups are gone.
    pub(crate) fn stop(&self, id: &SandboxId) -> CallResult<()> {
        let paths = Paths::new(&self.options, id);
        let Some(record) = Record::load(&paths.dir).not_run("read the sandbox's record")? else { return Ok(()) };
        let grace = Duration::from_secs(record.stop_grace_seconds);
        let deadline = Instant::now() + ACT.max(grace + Duration::from_secs(10));
        if let Some(mut connection) = Connection::open(&paths.run).failed("connect to the monitor")? {
            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            connection.ask(&Request::Stop { grace_ms }).failed("ask the monitor to stop")?;
            // Its last word is followed by the end of the connection.
            while connection.next(deadline).failed("stop the sandbox")?.is_some() {}
        }
        // Nothing is left to end, unless the monitor did not live to do it.
        let busy = self.busy(id);
        let _busy = busy.lock();
        self.end(id, deadline)
    }

    /// The plan, and the agent's credentials where the driver carries one.
    fn decode<'a>(&self, call: &'a CreateCall) -> CallResult<(OciPlan, Option<&'a AgentLaunch>)> {
        let plan = OciPlan::decode(&call.plan).map_err(CallError::NotRun)?;
        crate::check::agent(&plan, &self.options).map_err(CallError::NotRun)?;
        let agent = call.agent.as_ref().filter(|_| self.options.agent);
        if plan.command.is_empty() && agent.is_none() {
            return Err(CallError::NotRun(crate::check::nothing_to_run()));
        }
        crate::check::filled(&plan).map_err(CallError::NotRun)?;
        Ok((plan, agent))
    }

    fn record(&self, call: &CreateCall, plan: &OciPlan, range: Range, network: Option<Lease>) -> CallResult<Record> {
        let identity = &call.identity;
        let mut annotations = plan.annotations.clone();
        let address = network.as_ref().map(|lease| lease.address.to_string()).or(plan.network.address.clone());
        if let Some(address) = address {
            annotations.insert("chiton.dev/address".to_owned(), address);
        }
        Ok(Record {
            version: Record::VERSION,
            id: identity.sandbox.clone(),
            gateway: identity.gateway.clone(),
            epoch: identity.epoch.clone(),
            commit: identity.commit,
            labels: Record::labels(identity, &plan.labels),
            annotations,
            image: super::image::image_use(plan)?,
            first_id: range.first,
            ids: range.count,
            cgroups: self.cgroups(&identity.sandbox)?,
            attempt: call.agent.as_ref().filter(|_| self.options.agent).map(|agent| agent.attempt.clone()),
            volumes: plan.volumes.iter().map(|volume| volume.name.clone()).collect(),
            stop_grace_seconds: plan.stop_grace_seconds,
            boot: boot_id(),
            network,
        })
    }
}

fn refuse_deleted(paths: &Paths, id: &SandboxId) -> CallResult<()> {
    if !paths.tombstone.exists() {
        return Ok(());
    }
    Err(CallError::NotRun(Error::refused("driver", format!("sandbox {id} was deleted and its id is never used again"))))
}

fn made_by_another(id: &SandboxId) -> CallError {
    let error = Error::conflict(format!("another call is making sandbox {id} and did not end in time"));
    CallError::NotRun(error.cure("try again when that call is over, or delete the sandbox, which ends it"))
}

fn gone(id: &SandboxId) -> CallError {
    CallError::Unknown(Error::internal(format!("sandbox {id}: its monitor went away during the call")))
}

/// A main process that ended before anybody could look has run all the same.
fn ran(state: State) -> CallResult<()> {
    match state {
        State::Running | State::Exited { .. } => Ok(()),
        other => Err(CallError::Unknown(Error::internal(format!("the monitor said {other:?}")))),
    }
}

/// Waits for a spawned monitor, and for its end when it gives up. The child of an `ordinary` user's driver is not the
/// monitor but who spawned it.
fn await_monitor(
    mut monitor: Monitor,
    wanted: &State,
    deadline: Instant,
    doing: &str,
    ordinary: bool,
) -> CallResult<Monitor> {
    match await_state(&mut monitor.connection, wanted, deadline, doing) {
        Ok(State::Exited { .. }) if *wanted == State::Created => {
            let _ = monitor.child.wait();
            Err(CallError::Failed(Error::conflict(format!("{doing}: it was ended meanwhile"))))
        }
        Ok(_) => {
            // Who spawned a monitor that speaks has nothing more to do; it is to be gone before the sandbox is.
            let _ = if ordinary { monitor.child.wait().map(Some) } else { monitor.child.try_wait() };
            Ok(monitor)
        }
        Err(error) => {
            if !matches!(error.error().kind, chiton_model::ErrorKind::Deadline) {
                let _ = monitor.child.wait();
            }
            Err(error)
        }
    }
}
