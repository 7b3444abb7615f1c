//! The `security` block of a request: makes the confinement of one sandbox tighter, never looser.

use chiton_confine::{Family, ProfileError, TcpRule};
use chiton_model::{Error, nearest, printable};
use serde_json::Value;

use super::SecurityPlan;
use super::security::plain;

const KEYS: [&str; 7] = [
    "deny_sockets",
    "deny_syscalls",
    "deny_tcp",
    "masked_paths",
    "readonly_paths",
    "require_landlock",
    "writable_paths",
];

/// What the block asks for.
#[derive(Debug, Default)]
pub(super) struct Tighten {
    deny_syscalls: Vec<String>,
    deny_sockets: Vec<Family>,
    deny_tcp: bool,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
    require_landlock: bool,
    writable_paths: Option<Vec<String>>,
}

impl Tighten {
    /// Reads the block strictly.
    pub(super) fn decode(value: &Value) -> Result<Self, Error> {
        let mut asked = Self::default();
        let Some(object) = value.as_object() else {
            return Err(Error::invalid("driver_config.security", "security is not a table")
                .cure(format!("the keys are {}", KEYS.join(", "))));
        };
        for (key, value) in object {
            let field = format!("driver_config.security.{key}");
            match key.as_str() {
                "deny_syscalls" => {
                    asked.deny_syscalls = texts(&field, key, value)?;
                    // Refused here, where it can be said which element it is about.
                    let mut probe = SecurityPlan::default().seccomp;
                    probe.deny(&asked.deny_syscalls).map_err(|error| refused(&field, &error))?;
                }
                "deny_sockets" => {
                    let names = texts(&field, key, value)?;
                    asked.deny_sockets = names.iter().map(|name| family(&field, name)).collect::<Result<_, _>>()?;
                }
                "deny_tcp" => asked.deny_tcp = truth(&field, key, value)?,
                "require_landlock" => asked.require_landlock = truth(&field, key, value)?,
                "masked_paths" => asked.masked_paths = hidden(&field, key, value)?,
                "readonly_paths" => asked.readonly_paths = hidden(&field, key, value)?,
                "writable_paths" => {
                    let paths = texts(&field, key, value)?;
                    let mut probe = SecurityPlan::default().landlock;
                    probe.writable(&paths).map_err(|error| refused(&field, &error))?;
                    asked.writable_paths = Some(paths);
                }
                _ => {
                    let error = Error::invalid(&field, format!("security has no option {key:?}"));
                    return Err(error.cure(match nearest(key, KEYS) {
                        Some(known) => format!("did you mean {known:?}?"),
                        None => format!("the options are {}", KEYS.join(", ")),
                    }));
                }
            }
        }
        Ok(asked)
    }

    /// Tightens a plan's confinement; returns the fields (JSON pointers) that the request had a say in.
    pub(super) fn apply(&self, security: &mut SecurityPlan) -> Result<Vec<&'static str>, Error> {
        let mut said = Vec::new();
        let field = "driver_config.security";
        if !self.deny_syscalls.is_empty() || !self.deny_sockets.is_empty() {
            security.seccomp.deny(&self.deny_syscalls).map_err(|error| refused(field, &error))?;
            for family in &self.deny_sockets {
                security.seccomp.deny_family(*family);
            }
            said.push("/security/seccomp");
        }
        if let Some(paths) = &self.writable_paths {
            security.landlock.writable(paths).map_err(|error| refused(field, &error))?;
            said.push("/security/landlock/rules");
        }
        if self.deny_tcp {
            security.landlock.tcp = TcpRule::Nothing;
            said.push("/security/landlock/tcp");
        }
        // Rules that the request asks for must hold: best effort is for what it did not ask for.
        if self.require_landlock || self.deny_tcp || self.writable_paths.is_some() {
            security.landlock.required = true;
            said.push("/security/landlock/required");
        }
        for (asked, paths, pointer) in [
            (&self.masked_paths, &mut security.masked_paths, "/security/masked_paths"),
            (&self.readonly_paths, &mut security.readonly_paths, "/security/readonly_paths"),
        ] {
            for path in asked {
                if !paths.contains(path) {
                    paths.push(path.clone());
                }
            }
            if !asked.is_empty() {
                said.push(pointer);
            }
        }
        Ok(said)
    }
}

fn expected(field: &str, key: &str, value: &Value, what: &str) -> Error {
    Error::invalid(field, format!("{key} is {}, which is not {what}", printable(&value.to_string())))
        .cure(format!("write {what}"))
}

fn refused(field: &str, error: &ProfileError) -> Error {
    Error::invalid(field, error.to_string()).cure(error.cure())
}

fn truth(field: &str, key: &str, value: &Value) -> Result<bool, Error> {
    value.as_bool().ok_or_else(|| expected(field, key, value, "true or false"))
}

fn texts(field: &str, key: &str, value: &Value) -> Result<Vec<String>, Error> {
    let list = value
        .as_array()
        .and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>());
    list.ok_or_else(|| expected(field, key, value, "a list of texts"))
}

fn hidden(field: &str, key: &str, value: &Value) -> Result<Vec<String>, Error> {
    let paths = texts(field, key, value)?;
    match paths.iter().find(|path| !plain(path)) {
        None => Ok(paths),
        Some(path) => Err(Error::invalid(field, format!("path {path:?} cannot be hidden"))
            .cure("write an absolute path without \"..\" that holds neither the root nor /run/chiton")),
    }
}

fn family(field: &str, name: &str) -> Result<Family, Error> {
    let known = Family::ALL.map(|(known, _)| known);
    Family::ALL.iter().find(|(known, _)| *known == name).map(|(_, family)| *family).ok_or_else(|| {
        Error::invalid(field, format!("{name:?} is not a family of sockets that can be denied")).cure(
            match nearest(name, known) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("the families are {}", known.join(", ")),
            },
        )
    })
}
