//! `[compute.process."x"]`: extensions that run in processes of their own.

use std::path::Path;

use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::{Error, ExtensionName};
use chiton_socket::own_and_root;
use serde_json::Value;

use super::error::{join, quote};
use super::reader::{Notes, Section, path};
use super::types::{Catalog, ProcessConfig};

/// What is compiled in, and the extensions that the operator runs elsewhere.
pub(super) struct WithProcesses<'a> {
    pub(super) built_in: &'a dyn Catalog,
    pub(super) processes: &'a [ProcessConfig],
}

impl Catalog for WithProcesses<'_> {
    fn extensions(&self) -> Vec<String> {
        let own = self.processes.iter().map(|process| process.name.to_string());
        self.built_in.extensions().into_iter().chain(own).collect()
    }

    fn check_extension(&self, name: &str, document: &Value) -> Vec<ConfigIssue> {
        if self.processes.iter().any(|process| process.name.as_str() == name) {
            // Only its process knows; it is asked when the gateway starts.
            return Vec::new();
        }
        self.built_in.check_extension(name, document)
    }

    fn driver_kinds(&self) -> Vec<String> {
        self.built_in.driver_kinds()
    }

    fn check_driver(&self, kind: &str, id: &str, options: &Value) -> Vec<ConfigIssue> {
        self.built_in.check_driver(kind, id, options)
    }

    fn probe_driver(&self, kind: &str, options: &Value) -> Result<String, Error> {
        self.built_in.probe_driver(kind, options)
    }
}

pub(super) fn processes(compute: &Section<'_>, catalog: &dyn Catalog, notes: &mut Notes) -> Vec<ProcessConfig> {
    let built_in = catalog.extensions();
    let mut processes = Vec::new();
    for (text, field) in compute.section("process").fields() {
        let section = field.section();
        let name = match ExtensionName::new(text) {
            Ok(name) => name,
            Err(error) => {
                let message = format!("{} is not an extension name", quote(text));
                notes.wrong(field.origin(), &field.path, message, error.cure.unwrap_or_default());
                continue;
            }
        };
        if built_in.iter().any(|known| known == text) {
            let message = format!("extension {text:?} is compiled into this gateway");
            notes.wrong(field.origin(), &field.path, message, "remove the table, or give the other one another name");
            continue;
        }
        let Some(socket) = section.field("socket") else {
            let cure = "name the socket that its process listens on: socket = \"/run/my-extension/socket\"";
            notes.wrong(field.origin(), &join(&section.path, "socket"), "there is no socket", cure);
            continue;
        };
        // A table is in the file alone: nothing is relative to a working folder.
        let Some(at) = socket.text().and_then(|text| path(notes, &socket, text, Path::new("/"))) else { continue };
        notes.show(socket.origin(), &socket.path, format!("{:?}", at.display().to_string()));
        let Some(peers) = peers(&section, notes) else { continue };
        processes.push(ProcessConfig { name, socket: at, peers });
    }
    processes
}

/// Who may be at the other end.
fn peers(section: &Section<'_>, notes: &mut Notes) -> Option<std::collections::BTreeSet<u32>> {
    let Some(field) = section.field("peer_uids") else { return Some(own_and_root()) };
    let mut peers = std::collections::BTreeSet::new();
    for item in field.items() {
        let number = item.integer()?;
        let Ok(uid) = u32::try_from(number) else {
            notes.wrong(item.origin(), &item.path, format!("{number} is not a user id"), "write the id of a user");
            return None;
        };
        peers.insert(uid);
    }
    if peers.is_empty() {
        let cure = "name the user of its process; without the key it is this gateway's and root";
        notes.wrong(field.origin(), &field.path, "the list is empty", cure);
        return None;
    }
    notes.show(field.origin(), &field.path, format!("{peers:?}").replace(['{', '}'], ""));
    Some(peers)
}
