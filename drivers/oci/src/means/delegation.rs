//! A cgroup subtree that the system gave to an ordinary user.
//!
//! Only the unified hierarchy can be delegated safely (cgroup-v2, "Delegation"): the user owns a cgroup and what is
//! below it, and limits above bind whatever the user does. A cgroup that passes controllers on must not hold processes
//! itself ("no internal processes"), so the gateway moves into [`LEAF`] below it and sandboxes are made beside that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chiton_oci_monitor::cgroup::{CONTROLLERS, Mounted};
use rustix::fs::{Access, access};

/// The gateway's own cgroup below a delegated one; also the name to give a service manager that can make it itself
/// (systemd: `DelegateSubgroup=gateway`).
pub(crate) const LEAF: &str = "gateway";

/// A delegated subtree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delegation {
    /// The cgroup that was delegated.
    pub(crate) base: PathBuf,
    /// Which of the controllers that limits need it has.
    pub(crate) controllers: Vec<String>,
    /// Whether this process is in the leaf already.
    inside: bool,
}

impl Delegation {
    /// Finds the subtree that this process is in, or says why it has none.
    pub(crate) fn find(mounted: &[Mounted]) -> Result<Self, String> {
        let Some(unified) = mounted.iter().find(|place| place.unified) else {
            return Err("cgroup version 2 is not mounted".to_owned());
        };
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
            return Err("this process is in no cgroup of version 2".to_owned());
        };
        Self::at(&unified.root, path)
    }

    /// The same for a process in `path` of the hierarchy at `root`.
    fn at(root: &Path, path: &str) -> Result<Self, String> {
        if Path::new(path).components().any(|part| part == std::path::Component::ParentDir) {
            return Err("this process is in a cgroup outside of what is mounted".to_owned());
        }
        let own = root.join(path.trim_start_matches('/'));
        let inside = own != root && own.file_name().is_some_and(|name| name == LEAF);
        let base = if inside { own.parent().unwrap_or(root).to_path_buf() } else { own };
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            if access(base.join(file), Access::WRITE_OK).is_err() {
                return Err(format!("its cgroup {} belongs to another user", base.display()));
            }
        }
        let listed = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        let has = |name: &str| listed.split_whitespace().any(|word| word == name);
        let controllers = CONTROLLERS.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect();
        Ok(Self { base, controllers, inside })
    }

    /// As a place for sandboxes' cgroups.
    pub(crate) fn mounted(&self) -> Mounted {
        Mounted { root: self.base.clone(), unified: true, controllers: self.controllers.clone() }
    }

    /// Moves this process into the leaf and passes the controllers on; says why it cannot be used otherwise.
    pub(crate) fn take(&self) -> Result<(), String> {
        let leaf = self.base.join(LEAF);
        let failed = |what: &str, error: &io::Error| format!("{what} {}: {error}", self.base.display());
        if !self.inside {
            match fs::create_dir(&leaf) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("no cgroup can be made below", &error));
                }
                _ => {}
            }
            write(&leaf.join("cgroup.procs"), "0").map_err(|error| failed("the gateway cannot move below", &error))?;
        }
        for controller in &self.controllers {
            match write(&self.base.join("cgroup.subtree_control"), &format!("+{controller}")) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    return Err(format!("its cgroup {} holds other processes than the gateway", self.base.display()));
                }
                Err(error) => return Err(failed("controllers cannot be enabled in", &error)),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}
