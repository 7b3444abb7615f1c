//! What this machine lets this process enforce, and by which means: looked at once, and the one place that is asked.
//!
//! Root has every cgroup hierarchy and any range of ids. An ordinary user has a cgroup subtree where one was delegated
//! to it, the ids that `/etc/subuid` and `/etc/subgid` grant, and otherwise what the kernel offers everybody: limits by
//! `setrlimit(2)`, which are counted in the sandbox's own user namespace and so bite for the sandbox alone.

use std::path::PathBuf;

use chiton_model::Error;
use chiton_oci_monitor::cgroup::{self, Mounted};

mod delegation;
mod ids;

pub(crate) use delegation::Delegation;
pub(crate) use ids::{IDS, Ids, Range};

/// What a request can ask to be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Processor time.
    Cpu,
    /// Memory of the sandbox as a whole.
    Memory,
    /// Processes and threads.
    Pids,
}

impl Limit {
    /// All of them, in the order of reports.
    pub(crate) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// Its name in requests, which is the cgroup controller's too.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// By which means a limit is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A cgroup controller, in the hierarchy or subtree at this path.
    Cgroup {
        /// Where.
        root: PathBuf,
        /// Whether it is the unified hierarchy.
        unified: bool,
    },
    /// A resource limit of `setrlimit(2)`, by its name.
    Rlimit(&'static str),
    /// Not at all: what the machine lacks, and what to do about it.
    Nothing {
        /// What is missing.
        lacks: String,
        /// The cure.
        cure: String,
    },
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cgroup { root, unified } => {
                write!(f, "cgroup version {} at {}", if *unified { 2 } else { 1 }, root.display())
            }
            Self::Rlimit(name) => write!(f, "{name}, counted in the sandbox's own user namespace"),
            Self::Nothing { lacks, .. } => write!(f, "not enforceable: {lacks}"),
        }
    }
}

/// What this machine lets this process enforce.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// The effective user id.
    pub(crate) uid: u32,
    /// Hierarchies in which sandboxes' cgroups are made.
    pub(crate) cgroups: Vec<Mounted>,
    /// Of an ordinary user: the subtree that was delegated, or why there is none.
    pub(crate) delegation: Option<Result<Delegation, String>>,
    /// Which host ids sandboxes can have.
    pub(crate) ids: Ids,
}

/// How an ordinary user gets a delegated subtree.
const DELEGATE: &str = "start the gateway in a cgroup of its own that is delegated to this user (Linux 5.14, version 2): \
                        systemd-run --user --scope -p Delegate=yes chiton gateway, or a service with Delegate=yes and \
                        DelegateSubgroup=gateway; or run the gateway as root";

impl Means {
    /// Looks at the machine and changes nothing.
    pub(crate) fn detect() -> std::io::Result<Self> {
        let uid = rustix::process::geteuid();
        let mounted = cgroup::detect()?;
        if uid.is_root() {
            return Ok(Self::of_root(mounted));
        }
        let delegation = Delegation::find(&mounted);
        let cgroups = delegation.iter().map(Delegation::mounted).collect();
        let ids = Ids::of_user(uid.as_raw(), rustix::process::getegid().as_raw());
        Ok(Self { uid: uid.as_raw(), cgroups, delegation: Some(delegation), ids })
    }

    /// What root can do with these hierarchies.
    pub(crate) fn of_root(cgroups: Vec<Mounted>) -> Self {
        Self { uid: 0, cgroups, delegation: None, ids: Ids::Any }
    }

    /// Makes what was found usable: the gateway leaves the delegated cgroup for one below it, so that limits can be set
    /// beside it. What cannot be used after all is gone from what it returns.
    pub(crate) fn take(mut self) -> Self {
        if let Some(Ok(delegation)) = &self.delegation
            && let Err(why) = delegation.take()
        {
            tracing::warn!(%why, "the delegated cgroup cannot be used");
            self.cgroups.clear();
            self.delegation = Some(Err(why));
        }
        self
    }

    /// Whether the driver runs as root.
    pub(crate) fn root(&self) -> bool {
        self.uid == 0
    }

    /// By which means a limit is enforced here.
    pub(crate) fn way(&self, limit: Limit) -> Way {
        let name = limit.name();
        if let Some(place) = self.cgroups.iter().find(|place| place.controllers.iter().any(|known| known == name)) {
            return Way::Cgroup { root: place.root.clone(), unified: place.unified };
        }
        if !self.root() && limit == Limit::Pids {
            return Way::Rlimit("RLIMIT_NPROC");
        }
        let (lacks, cure) = match &self.delegation {
            None => (
                format!("no cgroup hierarchy has the controller {name:?}"),
                format!("mount or enable the {name} cgroup controller"),
            ),
            Some(Ok(delegation)) => (
                format!("the delegated cgroup {} has no controller {name:?}", delegation.base.display()),
                format!("let the system delegate the {name} controller (systemd: Delegate={name})"),
            ),
            Some(Err(why)) => {
                (format!("an ordinary user needs a delegated cgroup for it, and {why}"), DELEGATE.to_owned())
            }
        };
        Way::Nothing { lacks, cure }
    }

    /// Refuses a limit that nothing here enforces.
    pub(crate) fn require(&self, limit: Limit) -> Result<Way, Error> {
        match self.way(limit) {
            Way::Nothing { lacks, cure } => {
                let text = format!("the limit resources.{} cannot be applied: {lacks}", limit.name());
                Err(Error::refused("driver", text).cure(format!("{cure}; or leave the limit out")))
            }
            way => Ok(way),
        }
    }

    /// What is not enforced here for any sandbox, as one sentence; `None` when everything is.
    pub(crate) fn gaps(&self) -> Option<String> {
        let missing: Vec<&str> = Limit::ALL
            .into_iter()
            .filter(|limit| matches!(self.way(*limit), Way::Nothing { .. }))
            .map(Limit::name)
            .collect();
        let mut parts = Vec::new();
        if !missing.is_empty() {
            parts.push(format!("{} cannot be limited", missing.join(" and ")));
        }
        match &self.ids {
            Ids::One { .. } => parts.push("the sandbox's root has the gateway's own host id".to_owned()),
            Ids::Ranges(ranges) if ranges.windows().len() == 1 => {
                parts.push("all sandboxes of this user share one range of host ids".to_owned());
            }
            _ => {}
        }
        (!parts.is_empty()).then(|| format!("{} (chiton doctor says why)", parts.join("; ")))
    }
}

#[cfg(test)]
mod tests;
