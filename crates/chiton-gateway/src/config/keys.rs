//! Every key that a configuration may hold: the one table that says what is known, of what shape, and which environment
//! variable sets it.

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    /// Text that is a duration.
    Span,
    Texts,
    Integer,
    Integers,
    Flag,
    /// A table whose keys are in this list, below it.
    Section,
    /// A table whose every value is text.
    TextTable,
    /// A table that somebody else's schema describes.
    Free,
}

impl Shape {
    /// The shape in words, with an example of how to write it.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "a string in quotes",
            Self::Span => "a duration in quotes, for example \"30s\"",
            Self::Texts => "a list of strings, for example [\"a\", \"b\"]",
            Self::Integer => "a whole number",
            Self::Integers => "a list of whole numbers, for example [1000, 1001]",
            Self::Flag => "true or false",
            Self::Section | Self::Free => "a table",
            Self::TextTable => "a table of strings, for example { key = \"value\" }",
        }
    }
}

/// A known key.
pub(super) struct Key {
    /// Its path; `*` stands for a name that the operator chooses.
    pub(super) path: &'static str,
    pub(super) shape: Shape,
    /// The environment variable that sets it.
    pub(super) env: Option<&'static str>,
}

const fn key(path: &'static str, shape: Shape) -> Key {
    Key { path, shape, env: None }
}

const fn with_env(path: &'static str, shape: Shape, env: &'static str) -> Key {
    Key { path, shape, env: Some(env) }
}

/// All known keys.
pub(super) const KEYS: &[Key] = &[
    key("gateway", Shape::Section),
    with_env("gateway.data_dir", Shape::Text, "CHITON_DATA_DIR"),
    with_env("gateway.run_dir", Shape::Text, "CHITON_RUN_DIR"),
    with_env("gateway.listen", Shape::Texts, "CHITON_LISTEN"),
    with_env("gateway.allow_uids", Shape::Integers, "CHITON_ALLOW_UIDS"),
    key("compute", Shape::Section),
    with_env("compute.drivers", Shape::Texts, "CHITON_COMPUTE_DRIVERS"),
    with_env("compute.default_driver", Shape::Text, "CHITON_COMPUTE_DEFAULT_DRIVER"),
    with_env("compute.extensions", Shape::Texts, "CHITON_COMPUTE_EXTENSIONS"),
    with_env("compute.missing", Shape::Text, "CHITON_COMPUTE_MISSING"),
    with_env("compute.drain", Shape::Span, "CHITON_COMPUTE_DRAIN"),
    with_env("compute.late_effects", Shape::Span, "CHITON_COMPUTE_LATE_EFFECTS"),
    key("compute.driver", Shape::Section),
    key("compute.driver.*", Shape::Free),
    key("compute.extension", Shape::Section),
    key("compute.extension.*", Shape::Free),
    key("compute.process", Shape::Section),
    key("compute.process.*", Shape::Section),
    key("compute.process.*.socket", Shape::Text),
    key("compute.process.*.peer_uids", Shape::Integers),
    key("compute.policy", Shape::Section),
    key("compute.policy.*", Shape::Section),
    key("compute.policy.*.activation", Shape::Text),
    key("compute.policy.*.match", Shape::Section),
    key("compute.policy.*.match.workspaces", Shape::Texts),
    key("compute.policy.*.match.principals", Shape::Texts),
    key("compute.policy.*.match.labels", Shape::TextTable),
    key("compute.policy.*.allow", Shape::Section),
    key("compute.policy.*.allow.workspaces", Shape::Texts),
    key("compute.policy.*.allow.principals", Shape::Texts),
    key("compute.policy.*.allow.labels", Shape::TextTable),
    key("compute.policy.*.failure", Shape::Text),
    key("compute.policy.*.deadline", Shape::Span),
    key("compute.policy.*.reconcile", Shape::Text),
    key("compute.policy.*.concurrency", Shape::Integer),
    key("compute.policy.*.abandon", Shape::Flag),
    key("compute.policy.*.overrides", Shape::Texts),
    key("secrets", Shape::Section),
    key("secrets.*", Shape::Section),
    key("secrets.*.env", Shape::Text),
    key("secrets.*.file", Shape::Text),
    key("secrets.*.allow", Shape::Section),
    key("secrets.*.allow.workspaces", Shape::Texts),
    key("secrets.*.allow.principals", Shape::Texts),
    key("log", Shape::Section),
    with_env("log.level", Shape::Text, "CHITON_LOG"),
    with_env("log.format", Shape::Text, "CHITON_LOG_FORMAT"),
    key("reconcile", Shape::Section),
    with_env("reconcile.interval", Shape::Span, "CHITON_RECONCILE_INTERVAL"),
    key("sweep", Shape::Section),
    with_env("sweep.interval", Shape::Span, "CHITON_SWEEP_INTERVAL"),
    with_env("sweep.grace", Shape::Span, "CHITON_SWEEP_GRACE"),
    key("supervisor", Shape::Section),
    with_env("supervisor.listen", Shape::Text, "CHITON_SUPERVISOR_LISTEN"),
    with_env("supervisor.allow_remote", Shape::Flag, "CHITON_SUPERVISOR_ALLOW_REMOTE"),
    key("metrics", Shape::Section),
    with_env("metrics.listen", Shape::Text, "CHITON_METRICS_LISTEN"),
];

/// Variables that clients read: known, and no part of the configuration.
pub(super) const CLIENT_VARIABLES: &[&str] = &["CHITON_GATEWAY"];

/// The variable that names the socket of an external driver, beside the one driver that is named. No key: what it sets is
/// that driver's own table.
pub(super) const DRIVER_SOCKET: &str = "CHITON_COMPUTE_DRIVER_SOCKET";

/// The prefix of every environment variable that is ours.
pub(super) const ENV_PREFIX: &str = "CHITON_";

/// The keys directly below a pattern (empty for the root): name or `*`, and shape.
pub(super) fn below(pattern: &str) -> impl Iterator<Item = (&'static str, Shape)> {
    KEYS.iter().filter_map(move |known| {
        let rest = if pattern.is_empty() { known.path } else { known.path.strip_prefix(pattern)?.strip_prefix('.')? };
        (!rest.contains('.')).then_some((rest, known.shape))
    })
}

/// Paths at which a key of that name is known, without those below a chosen name.
pub(super) fn elsewhere(name: &str) -> Option<&'static str> {
    KEYS.iter()
        .map(|known| known.path)
        .find(|path| !path.contains('*') && path.rsplit_once('.').is_some_and(|(_, last)| last == name))
}
