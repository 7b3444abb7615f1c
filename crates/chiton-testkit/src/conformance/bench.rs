//! What the kit needs of an author: a config, and a way to see what the extension holds in the world.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use chiton_lifecycle::engine::CreateRequest;
use serde_json::Value;

use crate::driver::DriverSpec;

pub(super) type Held = Arc<dyn Fn() -> BTreeSet<String> + Send + Sync>;
pub(super) type Disturb = Arc<dyn Fn(&str) + Send + Sync>;
type Shape = Arc<dyn Fn(&mut CreateRequest) + Send + Sync>;

/// Everything around one run of one extension. Every run of every test makes a bench of its own, so that none meets what
/// another left.
pub struct Bench {
    pub(super) config: Value,
    pub(super) held: Option<Held>,
    pub(super) disturb: Option<Disturb>,
    pub(super) shape: Option<Shape>,
    pub(super) driver: Option<DriverSpec>,
    pub(super) old_states: Vec<(u32, Value)>,
    pub(super) elsewhere: bool,
    /// Dropped after everything else: folders, servers.
    pub(super) kept: Vec<Box<dyn Any + Send>>,
}

impl Bench {
    /// A bench for an extension with this config. Without [`Bench::held`] the kit sees no effects: right only for an
    /// extension that has none.
    #[must_use]
    pub fn new(config: Value) -> Self {
        Self {
            config,
            held: None,
            disturb: None,
            shape: None,
            driver: None,
            old_states: Vec::new(),
            elsewhere: false,
            kept: Vec::new(),
        }
    }

    /// A bench with an empty folder of its own, for extensions whose effects are files: every file and folder below it is
    /// something that the extension holds, and disturbing one removes it. The closure makes the config from its path.
    #[must_use]
    pub fn in_folder(config: impl FnOnce(&Path) -> Value) -> Self {
        let folder = tempfile::tempdir().expect("the system gives a temporary folder");
        let path = folder.path().to_owned();
        let (listed, disturbed) = (path.clone(), path.clone());
        Self::new(config(&path))
            .held(move || files(&listed))
            .disturb(move |handle| remove(&disturbed, handle))
            .keep(folder)
    }

    /// The effects hook: what the extension holds in the world now, one handle for each thing. It looks at the world itself
    /// (files, a server's answers), never at the extension's own memory. Called very often.
    #[must_use]
    pub fn held(mut self, held: impl Fn() -> BTreeSet<String> + Send + Sync + 'static) -> Self {
        self.held = Some(Arc::new(held));
        self
    }

    /// Breaks one thing that is held behind the extension's back, by its handle: what `reconcile` is there to notice.
    #[must_use]
    pub fn disturb(mut self, disturb: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.disturb = Some(Arc::new(disturb));
        self
    }

    /// What is asked for, where the extension acts only on certain requests: labels, image, its `extensions` entry.
    #[must_use]
    pub fn request(mut self, shape: impl Fn(&mut CreateRequest) + Send + Sync + 'static) -> Self {
        self.shape = Some(Arc::new(shape));
        self
    }

    /// The only driver that it runs on; otherwise it is tried on every kind.
    #[must_use]
    pub fn driver(mut self, driver: DriverSpec) -> Self {
        self.driver = Some(driver);
        self
    }

    /// A state as an older version saved it, for each of the descriptor's `reads_schemas`.
    #[must_use]
    pub fn old_state(mut self, schema_version: u32, payload: Value) -> Self {
        self.old_states.push((schema_version, payload));
        self
    }

    /// The extension runs in another process, behind a socket: while a hook of it runs, the world stands still. A crash of
    /// the gateway is then seen by that process as the end of a connection, and what would strike a hook where it waits
    /// strikes it before or after.
    #[must_use]
    pub fn elsewhere(mut self) -> Self {
        self.elsewhere = true;
        self
    }

    /// Keeps something alive as long as the bench: a temporary folder, a server.
    #[must_use]
    pub fn keep(mut self, value: impl Any + Send) -> Self {
        self.kept.push(Box::new(value));
        self
    }

    pub(super) fn shaped(&self, mut request: CreateRequest) -> CreateRequest {
        if let Some(shape) = &self.shape {
            shape(&mut request);
        }
        request
    }
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("config", &self.config).finish_non_exhaustive()
    }
}

impl From<Value> for Bench {
    fn from(config: Value) -> Self {
        Self::new(config)
    }
}

/// Everything below a folder, by its path there; folders end with a slash.
fn files(folder: &Path) -> BTreeSet<String> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(format!("{name}/"));
                walk(root, &path, found);
            } else {
                found.insert(name);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(folder, folder, &mut found);
    found
}

fn remove(folder: &Path, handle: &str) {
    let path = folder.join(handle);
    let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    removed.unwrap_or_else(|error| panic!("the kit cannot remove {}: {error}", path.display()));
}
