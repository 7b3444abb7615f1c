//! Where the engines differ, though they speak one API.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::PathBuf;

use bollard::ClientVersion;
use bollard::models::{HostConfigLogConfig, SystemInfo};

use crate::supervisor::Ways;

/// One engine's ways.
pub trait Dialect: Debug + Send + Sync {
    /// The kind of driver, and the word for people.
    fn kind(&self) -> &'static str;

    /// Where its socket is when the operator names none.
    fn default_socket(&self) -> PathBuf;

    /// How the engine is started, for a message's cure.
    fn start_it(&self) -> &'static str;

    /// The log driver whose files the API reads back, with its settings for so many bytes.
    fn log_config(&self, bytes: u64) -> HostConfigLogConfig;

    /// Whether members of one network can be kept from reaching each other.
    fn keeps_members_apart(&self) -> bool;

    /// The options of a network that keep sandboxes apart: its members, or networks.
    fn isolation(&self) -> HashMap<String, String>;

    /// Whether this machine has the address of a network's gateway also while no container is on that network.
    fn networks_last(&self) -> bool {
        true
    }

    /// The version of the API that all of its versions speak, where asking takes long; otherwise it is asked.
    fn speaks(&self) -> Option<ClientVersion> {
        None
    }

    /// Whether somebody who attaches to a container that is over makes its processes anew, though nobody started it.
    fn attaching_revives(&self) -> bool {
        false
    }

    /// How another gateway's supervisor is started on it.
    fn supervised(&self) -> Ways {
        Ways::Docker
    }

    /// What an engine of this version of the API can do beyond the oldest.
    fn later_abilities(&self, version: &ClientVersion) -> LaterAbilities;

    /// What names this installation of the engine on a machine, and stays when it is restarted.
    fn installation(&self, info: &SystemInfo, machine: &str) -> Option<String>;
}

/// What came to engines later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaterAbilities {
    /// Images can be mounted.
    pub image_mounts: bool,
    /// Devices can be asked for by their CDI names.
    pub cdi: bool,
}
