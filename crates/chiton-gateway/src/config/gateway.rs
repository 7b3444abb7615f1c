//! `[gateway]`, `[log]`, `[reconcile]`, `[sweep]` and `[metrics]`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_model::nearest;

use super::error::{Origin, quote};
use super::reader::{Field, Notes, Section, path};
use super::sources::Sources;
use super::types::{GatewayConfig, Listener, LogConfig, LogFormat, MetricsListen};

/// The longest path of a Unix socket: `sun_path` has 108 bytes with the closing NUL (unix(7)).
const SOCKET_PATH: usize = 107;
/// Intervals below this would be a busy loop.
pub(super) const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The socket of a gateway that was told none, which is also where its clients look: in `data_dir` if the command line
/// (or `CHITON_DATA_DIR`) named one, else in the run folder ([`default_run_dir`]).
pub fn default_socket(data_dir: Option<&Path>, run_dir: Option<&Path>) -> Option<PathBuf> {
    data_dir.or(run_dir).map(|folder| folder.join("gateway.sock"))
}

/// The system's run folder for root; for another user one below `XDG_RUNTIME_DIR`, or where nothing sets that below its
/// state folder. `None` when it has neither: no other place is safe from other users' sockets of the same name.
fn default_run_dir(sources: &Sources) -> Option<PathBuf> {
    if sources.uid == 0 {
        return Some(PathBuf::from("/run/chiton"));
    }
    // The XDG rules: a relative path is invalid and ignored.
    let folder = |name: &str| sources.env.get(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    if let Some(runtime) = folder("XDG_RUNTIME_DIR") {
        return Some(runtime.join("chiton"));
    }
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("chiton/run"))
}

fn default_data_dir(sources: &Sources) -> Option<PathBuf> {
    if sources.uid == 0 {
        return Some(PathBuf::from("/var/lib/chiton"));
    }
    let folder = |name: &str| sources.env.get(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let share = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))?;
    Some(share.join("chiton"))
}

pub(super) fn gateway(root: &Section<'_>, sources: &Sources, notes: &mut Notes) -> Option<GatewayConfig> {
    let section = root.section("gateway");
    let own_run = default_run_dir(sources);
    let folder = |notes: &mut Notes, name: &str, default: Option<PathBuf>, cure: &str| {
        if let Some(field) = section.field(name) {
            let folder = path(notes, &field, field.text()?, &sources.cwd)?;
            notes.show(field.origin(), &field.path, format!("{folder:?}"));
            return Some((folder, field.origin().clone()));
        }
        let key = format!("gateway.{name}");
        if let Some(folder) = default {
            notes.show(&Origin::Default, &key, format!("{folder:?}"));
            return Some((folder, Origin::Default));
        }
        notes.wrong(&Origin::Default, &key, "this user has no default folder", cure);
        None
    };
    let data = folder(notes, "data_dir", default_data_dir(sources), "set HOME, or name a folder with --data-dir");
    let run_default = match &data {
        Some((data, origin)) if *origin != Origin::Default => Some(data.join("run")),
        Some((data, _)) => own_run.clone().or_else(|| Some(data.join("run"))),
        None => Some(PathBuf::new()),
    };
    let run = folder(notes, "run_dir", run_default, "set gateway.run_dir");
    // A client sees neither the file nor its data_dir; what the command line or the environment says it can be told.
    let told = data.as_ref().filter(|(_, origin)| matches!(origin, Origin::Env(_) | Origin::Flag(_)));
    let socket = default_socket(told.map(|(folder, _)| folder.as_path()), own_run.as_deref());
    let listen = listeners(&section, sources, socket, notes);
    let allow_uids = uids(&section, notes);
    Some(GatewayConfig { data_dir: data?.0, run_dir: run?.0, listen, allow_uids })
}

fn listeners(section: &Section<'_>, sources: &Sources, default: Option<PathBuf>, notes: &mut Notes) -> Vec<Listener> {
    let Some(field) = section.field("listen") else {
        let Some(socket) = default else {
            notes.wrong(
                &Origin::Default,
                "gateway.listen",
                "this user has no default socket: neither XDG_RUNTIME_DIR nor HOME is set to an absolute path",
                "set one, or name a socket with --listen unix:PATH, or a folder with --data-dir",
            );
            return Vec::new();
        };
        fits(&Origin::Default, "gateway.listen", &socket, notes);
        let listener = Listener::Unix(socket);
        notes.show(&Origin::Default, "gateway.listen", format!("[{:?}]", listener.to_string()));
        return vec![listener];
    };
    let mut listeners = Vec::new();
    for (item, text) in field.texts() {
        let Some(text) = text.strip_prefix("unix:") else {
            notes.wrong(
                item.origin(),
                &item.path,
                format!("listening on {} is not supported in this version", quote(text)),
                "use a Unix socket: \"unix:/run/chiton/gateway.sock\"",
            );
            continue;
        };
        let Some(socket) = socket(&item, text, &sources.cwd, notes) else { continue };
        let listener = Listener::Unix(socket);
        if listeners.contains(&listener) {
            notes.wrong(
                item.origin(),
                &item.path,
                format!("{} is listed twice", quote(&listener.to_string())),
                "remove one of them",
            );
            continue;
        }
        listeners.push(listener);
    }
    if listeners.is_empty() && field.items().is_empty() && !field.is_bad() {
        notes.wrong(
            field.origin(),
            &field.path,
            "the list is empty",
            "name a socket, or remove the key for the default",
        );
    }
    let shown: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    notes.show(field.origin(), &field.path, format!("{shown:?}"));
    listeners
}

pub(super) fn socket(field: &Field<'_>, text: &str, cwd: &Path, notes: &mut Notes) -> Option<PathBuf> {
    let socket = path(notes, field, text, cwd)?;
    fits(field.origin(), &field.path, &socket, notes).then_some(socket)
}

fn fits(origin: &Origin, key: &str, socket: &Path, notes: &mut Notes) -> bool {
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH {
        notes.wrong(
            origin,
            key,
            format!("the socket's path has {bytes} bytes, the kernel takes {SOCKET_PATH}"),
            "choose a shorter path with gateway.listen",
        );
    }
    bytes <= SOCKET_PATH
}

fn uids(section: &Section<'_>, notes: &mut Notes) -> BTreeSet<u32> {
    let Some(field) = section.field("allow_uids") else {
        notes.show(&Origin::Default, "gateway.allow_uids", "[]");
        return BTreeSet::new();
    };
    let mut uids = BTreeSet::new();
    for item in field.items() {
        let Some(number) = item.integer() else { continue };
        // The highest value means "no user" to the kernel (chown(2)).
        let Some(uid) = u32::try_from(number).ok().filter(|uid| *uid != u32::MAX) else {
            let highest = u32::MAX - 1;
            notes.wrong(
                item.origin(),
                &item.path,
                format!("{number} is not a user id"),
                format!("write a number from 0 to {highest}"),
            );
            continue;
        };
        if !uids.insert(uid) {
            notes.wrong(item.origin(), &item.path, format!("user id {uid} is listed twice"), "remove one of them");
        }
    }
    notes.show(field.origin(), &field.path, format!("{:?}", uids.iter().collect::<Vec<_>>()));
    uids
}

pub(super) fn log(root: &Section<'_>, notes: &mut Notes) -> LogConfig {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let section = root.section("log");
    let format = section.choice(notes, "format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let Some(field) = section.field("level") else {
        notes.show(&Origin::Default, "log.level", "\"info\"");
        return LogConfig { level: "info".to_owned(), format };
    };
    let level = field.text().unwrap_or("info");
    for part in level.split(',') {
        let (target, level) = part.rsplit_once('=').map_or((None, part), |(target, level)| (Some(target), level));
        let sound = |target: &str| {
            !target.is_empty() && target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'))
        };
        if LEVELS.contains(&level) && target.is_none_or(sound) {
            continue;
        }
        let cure = match nearest(level, LEVELS) {
            Some(near) if near != level => format!("did you mean {near:?}?"),
            _ => format!("write one of {}, or target=level, separated by commas without spaces", LEVELS.join(", ")),
        };
        notes.wrong(field.origin(), &field.path, format!("{} is not a log level", quote(part)), cure);
    }
    notes.show(field.origin(), &field.path, format!("{level:?}"));
    LogConfig { level: level.to_owned(), format }
}

pub(super) fn metrics(
    root: &Section<'_>,
    sources: &Sources,
    api: &[Listener],
    notes: &mut Notes,
) -> Option<MetricsListen> {
    let Some(field) = root.section("metrics").field("listen") else {
        notes.show(&Origin::Default, "metrics.listen", "(not set)");
        return None;
    };
    let text = field.text()?;
    let listen = if let Some(text) = text.strip_prefix("unix:") {
        let socket = socket(&field, text, &sources.cwd, notes)?;
        if api.contains(&Listener::Unix(socket.clone())) {
            notes.wrong(
                field.origin(),
                &field.path,
                "this socket serves the API already",
                "choose another path, or remove the key: the API's listeners serve /metrics too",
            );
            return None;
        }
        MetricsListen::Unix(socket)
    } else {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => MetricsListen::Tcp(address),
            Ok(_) => {
                notes.wrong(
                    field.origin(),
                    &field.path,
                    format!("{} is not a loopback address", quote(text)),
                    "metrics have no authentication: use 127.0.0.1, [::1] or a Unix socket, and a proxy in front of it",
                );
                return None;
            }
            Err(_) => {
                notes.wrong(
                    field.origin(),
                    &field.path,
                    format!("{} is no address", quote(text)),
                    "write a loopback address with a port, for example \"127.0.0.1:9464\", or \"unix:/path\"",
                );
                return None;
            }
        }
    };
    notes.show(field.origin(), &field.path, format!("{text:?}"));
    Some(listen)
}
