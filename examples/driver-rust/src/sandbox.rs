//! One sandbox: what was asked, its latest start, and whether that goes on.

use std::io;
use std::path::PathBuf;

use chiton_compute_wire::v1::{DriverCondition, DriverSandbox, DriverSandboxSpec, DriverSandboxTemplate};
use chiton_compute_wire::{ExitStatus, ObservedStatus, names, sandbox};
use tokio::sync::watch;

use crate::asked::Asked;
use crate::files::{load, save};
use crate::keeper::Run;

pub(crate) struct Sandbox {
    pub(crate) folder: PathBuf,
    pub(crate) asked: Asked,
    pub(crate) run: Option<Run>,
    /// While its keeper lives; closed at its end.
    pub(crate) alive: Option<watch::Receiver<()>>,
    /// Whether we killed the keeper, too.
    pub(crate) killed: bool,
    pub(crate) deleting: bool,
}

impl Sandbox {
    /// What a folder tells; none when its create came to nothing.
    pub(crate) fn load(folder: PathBuf) -> io::Result<Option<Self>> {
        let Some(asked) = load(&folder.join("sandbox.json"))? else { return Ok(None) };
        let run = load(&folder.join("run.json"))?;
        Ok(Some(Self { folder, asked, run, alive: None, killed: false, deleting: false }))
    }

    /// Its keeper is gone: what it wrote down, or what is known without it.
    pub(crate) fn over(&mut self) -> io::Result<()> {
        self.alive = None;
        let path = self.folder.join("run.json");
        let Some(mut run) = load::<Run>(&path)? else { return Ok(()) };
        if run.reason.is_none() {
            if self.killed {
                (run.code, run.reason) = (Some(137), Some("Signaled".to_owned()));
            } else {
                let reason = if run.keeper.is_of_this_boot()? { "MonitorLost" } else { "HostRestarted" };
                (run.reason, run.message) = (Some(reason.to_owned()), "nobody saw how it ended".to_owned());
            }
            self.run = Some(run.clone());
            return save(&path, &run);
        }
        self.run = Some(run);
        Ok(())
    }

    /// As it is told.
    pub(crate) fn seen(&self) -> DriverSandbox {
        let observed = match &self.run {
            _ if self.alive.is_some() => ObservedStatus::Running,
            None => ObservedStatus::Created,
            Some(run) => {
                let reason = run.reason.clone().unwrap_or_default();
                ObservedStatus::Exited(ExitStatus { code: run.code, reason, at: None })
            }
        };
        let run = self.run.clone().unwrap_or_default();
        let mut status = sandbox::status(&self.asked.name, &observed, Some(&run.attempt), &run.message);
        status.deleting = self.deleting;
        if run.stopped {
            status.conditions.push(DriverCondition {
                r#type: names::conditions::SUSPENDED.to_owned(),
                status: "True".to_owned(),
                reason: "Stopped".to_owned(),
                ..DriverCondition::default()
            });
        }
        // Labels are all that is told of what was asked: the rest is nobody's business.
        let labels = self.asked.labels.clone().into_iter().collect();
        let template = Some(DriverSandboxTemplate { labels, ..DriverSandboxTemplate::default() });
        DriverSandbox {
            id: self.asked.id.clone(),
            name: self.asked.name.clone(),
            namespace: self.asked.namespace.clone(),
            workspace: self.asked.workspace.clone(),
            spec: Some(DriverSandboxSpec { template, ..DriverSandboxSpec::default() }),
            status: Some(status),
        }
    }
}
