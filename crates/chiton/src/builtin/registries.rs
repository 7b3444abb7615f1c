//! Whom a kind of driver may ask for images, and as whom: the settings that are the same wherever images are pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::checks::{Issues, escaped};

/// A table `login."HOST"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginConfig {
    /// The user's name.
    pub(super) username: String,
    /// Absolute path of a file with the password or token.
    pub(super) password_file: PathBuf,
}

impl From<LoginConfig> for chiton_image::Credential {
    fn from(login: LoginConfig) -> Self {
        Self { username: login.username, password_file: login.password_file }
    }
}

/// The settings of a table of images that are about registries. Each kind's table has them as fields of its own, so that
/// unknown keys beside them are found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registries<'a> {
    /// The registry of names that have none.
    pub(super) default: Option<&'a String>,
    /// The only registries that may be asked.
    pub(super) only: Option<&'a BTreeSet<String>>,
    /// Registries that are asked over plain HTTP.
    pub(super) insecure: &'a BTreeSet<String>,
    /// Who the gateway is to a registry.
    pub(super) login: &'a BTreeMap<String, LoginConfig>,
}

impl Registries<'_> {
    /// Checks them; `at` is the pointer of the table.
    pub(super) fn check(&self, at: &str, issues: &mut Issues) {
        let place = |name: &str| format!("{at}/{name}");
        let listed = |name: &str, hosts: Vec<String>| -> Vec<(String, String)> {
            hosts.into_iter().enumerate().map(|(index, host)| (format!("{at}/{name}/{index}"), host)).collect()
        };
        let default = self.default.map(|host| (place("default_registry"), host.clone()));
        let hosts = default
            .into_iter()
            .chain(listed("registries", self.only.into_iter().flatten().cloned().collect()))
            .chain(listed("insecure_registries", self.insecure.iter().cloned().collect()))
            .chain(self.login.keys().map(|host| (place("login"), host.clone())));
        for (pointer, host) in hosts.filter(|(_, host)| !chiton_image::is_registry(host)) {
            let message = format!("{host:?} is not HOST or HOST:PORT");
            issues.add(pointer, message, "write it as it stands before the first slash of an image");
        }
        for (host, login) in self.login {
            issues.absolute(format!("{at}/login/{}/password_file", escaped(host)), &login.password_file);
        }
    }
}
