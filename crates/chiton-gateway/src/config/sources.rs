//! Where settings come from, and how they are laid over each other.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chiton_model::nearest;

use super::error::{ConfigError, Origin, quote};
use super::keys::{CLIENT_VARIABLES, DRIVER_SOCKET, ENV_PREFIX, KEYS, Shape};
use super::tree::{Node, Tree};

/// The largest config file, in bytes.
pub const MAX_FILE: usize = 1 << 20;

/// Settings from the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`: the file. Whoever gathers the sources reads it.
    pub config: Option<PathBuf>,
    /// `--data-dir`; relative to the working folder.
    pub data_dir: Option<PathBuf>,
    /// `--listen`, each; replaces the list. A relative path is relative to the working folder.
    pub listen: Vec<String>,
    /// `--driver`, each; replaces the list.
    pub drivers: Vec<String>,
    /// `--compute-driver-socket`: where the one driver that is named listens.
    pub driver_socket: Option<PathBuf>,
}

/// Everything that a configuration is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file and its text, as [`read`] gave it.
    pub file: Option<(PathBuf, String)>,
    /// The environment: `CHITON_*`, `HOME`, `XDG_RUNTIME_DIR`, `XDG_STATE_HOME` and `XDG_DATA_HOME` are
    /// looked at.
    pub env: BTreeMap<String, String>,
    /// The command line.
    pub flags: Flags,
    /// The user the gateway runs as; 0 decides for the system's folders.
    pub uid: u32,
    /// The working folder, to which paths on the command line are relative.
    pub cwd: PathBuf,
}

impl Sources {
    /// This process's sources: reads the file that the flags name, the environment, the user and the working folder.
    pub fn gather(flags: Flags) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let file = flags.config.clone().and_then(|path| match read(&path) {
            Ok(text) => Some((path, text)),
            Err(error) => {
                errors.push(error);
                None
            }
        });
        let mut env = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            // A name that is not UTF-8 is none of ours.
            let Ok(name) = name.into_string() else { continue };
            let looked_at = name.starts_with(ENV_PREFIX)
                || matches!(&*name, "HOME" | "XDG_RUNTIME_DIR" | "XDG_STATE_HOME" | "XDG_DATA_HOME");
            match value.into_string() {
                Ok(value) => drop(env.insert(name, value)),
                Err(_) if looked_at => errors.push(ConfigError {
                    origin: Origin::Env(name),
                    key: String::new(),
                    message: "its value is not valid UTF-8".to_owned(),
                    cure: Some("set it to UTF-8 text or unset it".to_owned()),
                }),
                Err(_) => {}
            }
        }
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        if errors.is_empty() {
            Ok(Self { file, env, flags, uid: nix::unistd::geteuid().as_raw(), cwd })
        } else {
            Err(errors)
        }
    }
}

/// Reads a config file: a regular file of at most [`MAX_FILE`] bytes of UTF-8.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let wrong = |line, message: String, cure: &str| ConfigError {
        origin: Origin::File { path: path.to_owned(), line },
        key: String::new(),
        message,
        cure: Some(cure.to_owned()),
    };
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => wrong(
            None,
            "the config file does not exist".to_owned(),
            "correct --config, or write one: chiton config show --default",
        ),
        io::ErrorKind::PermissionDenied => wrong(
            None,
            "the config file may not be read by this user".to_owned(),
            "give the gateway's user read permission on it and on its folders",
        ),
        _ => wrong(None, format!("the config file cannot be read: {error}"), "name a readable file with --config"),
    };
    // Without O_NONBLOCK a fifo would hold the start up until somebody writes into it.
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| failed(&error))?;
    if !file.metadata().map_err(|error| failed(&error))?.is_file() {
        return Err(wrong(
            None,
            "the config is not a regular file".to_owned(),
            "name a regular file with --config, not a folder, pipe or device",
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() > MAX_FILE {
        return Err(too_large(path));
    }
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..sound].split(|byte| *byte == b'\n').count();
        wrong(Some(line), "the config file is not valid UTF-8 from here on".to_owned(), "save it as UTF-8")
    })
}

pub(super) fn too_large(path: &Path) -> ConfigError {
    ConfigError {
        origin: Origin::File { path: path.to_owned(), line: None },
        key: String::new(),
        message: format!("the config file is larger than {MAX_FILE} bytes"),
        cure: Some("check that --config names the right file".to_owned()),
    }
}

/// Lays environment and flags over the file's tree.
pub(super) fn overlay(root: &mut Node, sources: &Sources, errors: &mut Vec<ConfigError>) {
    for (name, value) in sources.env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        if CLIENT_VARIABLES.contains(&name.as_str()) || name == DRIVER_SOCKET {
            continue;
        }
        let origin = Origin::Env(name.clone());
        let Some(key) = KEYS.iter().find(|key| key.env == Some(name.as_str())) else {
            errors.push(unknown_variable(name));
            continue;
        };
        match from_text(key.shape, value, &origin) {
            Ok(tree) => root.set(&key.path.split('.').collect::<Vec<_>>(), Node { origin, tree }),
            Err((message, cure)) => {
                root.set(&key.path.split('.').collect::<Vec<_>>(), Node { origin: origin.clone(), tree: Tree::Bad });
                errors.push(ConfigError { origin, key: key.path.to_owned(), message, cure: Some(cure) });
            }
        }
    }
    let texts = |items: &[String], origin: &Origin| {
        Tree::List(items.iter().map(|item| Node { origin: origin.clone(), tree: Tree::Text(item.clone()) }).collect())
    };
    if let Some(folder) = &sources.flags.data_dir {
        let origin = Origin::Flag("--data-dir");
        let tree = if let Some(text) = folder.to_str() {
            Tree::Text(text.to_owned())
        } else {
            errors.push(ConfigError {
                origin: origin.clone(),
                key: "gateway.data_dir".to_owned(),
                message: "the path is not valid UTF-8".to_owned(),
                cure: Some("choose a folder whose path is UTF-8".to_owned()),
            });
            Tree::Bad
        };
        root.set(&["gateway", "data_dir"], Node { origin, tree });
    }
    if !sources.flags.listen.is_empty() {
        let origin = Origin::Flag("--listen");
        root.set(&["gateway", "listen"], Node { tree: texts(&sources.flags.listen, &origin), origin });
    }
    if !sources.flags.drivers.is_empty() {
        let origin = Origin::Flag("--driver");
        root.set(&["compute", "drivers"], Node { tree: texts(&sources.flags.drivers, &origin), origin });
    }
}

fn unknown_variable(name: &str) -> ConfigError {
    let known = KEYS.iter().filter_map(|key| key.env).chain(CLIENT_VARIABLES.iter().copied()).chain([DRIVER_SOCKET]);
    let cure = nearest(name, known).map_or_else(
        || "unset it; names under CHITON_ are reserved".to_owned(),
        |near| format!("did you mean {near}?"),
    );
    ConfigError {
        origin: Origin::Env(name.to_owned()),
        key: String::new(),
        message: "unknown configuration variable".to_owned(),
        cure: Some(cure),
    }
}

/// A variable's text in the shape of its key. Lists are separated by commas; an empty text is an empty list.
fn from_text(shape: Shape, text: &str, origin: &Origin) -> Result<Tree, (String, String)> {
    let items =
        || -> Vec<&str> { if text.trim().is_empty() { Vec::new() } else { text.split(',').map(str::trim).collect() } };
    let whole = |item: &str| {
        item.parse().map(Tree::Integer).map_err(|_| {
            (format!("{} is not a whole number", quote(item)), "write whole numbers separated by commas".to_owned())
        })
    };
    let list =
        |items: Vec<Tree>| Tree::List(items.into_iter().map(|tree| Node { origin: origin.clone(), tree }).collect());
    match shape {
        Shape::Texts => Ok(list(items().into_iter().map(|item| Tree::Text(item.to_owned())).collect())),
        Shape::Integers => Ok(list(items().into_iter().map(whole).collect::<Result<_, _>>()?)),
        Shape::Integer => whole(text.trim()),
        Shape::Flag => text
            .trim()
            .parse()
            .map(Tree::Bool)
            .map_err(|_| (format!("{} is neither true nor false", quote(text)), "write true or false".to_owned())),
        Shape::Text | Shape::Span | Shape::Section | Shape::TextTable | Shape::Free => Ok(Tree::Text(text.to_owned())),
    }
}
