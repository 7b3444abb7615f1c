//! The process as a whole: connected, or not since when and why; connected again by itself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use chiton_lifecycle::extension::{ConfigIssue, Descriptor, Extension, ExtensionKind};
use chiton_lifecycle::plan::digest_json;
use chiton_model::{Error, ExtensionName};
use chiton_socket::Dial;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::extension::{Instance, RemoteExtension};
use super::link::{LOOK, Link, Unconfigured};

/// Between two attempts to connect: doubling from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where an extension's process is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The extension's name.
    pub name: ExtensionName,
    /// The socket that its process listens on.
    pub socket: PathBuf,
    /// The users whose process may be there and who may own the socket.
    pub peers: BTreeSet<u32>,
}

/// What is at the socket.
#[derive(Clone)]
pub(super) enum State {
    /// Nobody has looked yet.
    New,
    Down {
        since: Timestamp,
        error: Error,
    },
    /// It is there, and is not what it was when the gateway began: only fences go there.
    Unfit {
        since: Timestamp,
        error: Error,
        link: Arc<Link>,
    },
    Up(Arc<Link>),
}

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) dial: Dial,
    pub(super) handle: Handle,
    state: watch::Sender<State>,
    expected: OnceLock<Descriptor>,
    schema: OnceLock<Result<Option<jsonschema::Validator>, String>>,
    /// Somebody needs a connection now.
    wanted: Notify,
    /// A call was given up without an answer.
    suspected: Notify,
    instances: Mutex<Vec<Weak<Instance>>>,
}

/// An extension's process, as the gateway sees it. Clones share it; when the last is gone, the connection is.
#[derive(Clone)]
pub struct Process {
    pub(super) shared: Arc<Shared>,
    _keeper: Arc<DropGuard>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Process").field(&self.shared.options).finish()
    }
}

impl Process {
    /// Begins to connect, and goes on doing so whenever the connection is lost. To be called on a tokio runtime, which
    /// must outlive the extension's use.
    pub fn start(options: Options) -> Self {
        let dial = Dial {
            what: format!("extension {:?}", options.name.as_str()),
            path: options.socket.clone(),
            peers: options.peers.clone(),
            limit: LOOK,
        };
        let shared = Arc::new(Shared {
            options,
            dial,
            handle: Handle::current(),
            state: watch::Sender::new(State::New),
            expected: OnceLock::new(),
            schema: OnceLock::new(),
            wanted: Notify::new(),
            suspected: Notify::new(),
            instances: Mutex::default(),
        });
        let end = CancellationToken::new();
        let (keeper, ended) = (Arc::clone(&shared), end.clone());
        shared.handle.spawn(async move {
            tokio::select! {
                () = keeper.keep() => {}
                () = ended.cancelled() => {}
            }
            if let State::Up(link) | State::Unfit { link, .. } = &*keeper.state.borrow() {
                link.ended.cancel();
            }
        });
        Self { shared, _keeper: Arc::new(end.drop_guard()) }
    }

    /// What the process says it is, when it can be asked now.
    ///
    /// # Errors
    /// Why it cannot: not there, not trusted, not answering, or not such an extension. Names the socket.
    pub async fn describe(&self) -> Result<Descriptor, Error> {
        let mut states = self.shared.state.subscribe();
        let looked = states.wait_for(|state| !matches!(state, State::New)).await;
        match &*looked.map_err(|_| Error::internal("the look at an extension's process ended early"))? {
            State::Up(link) | State::Unfit { link, .. } => Ok(link.descriptor.clone()),
            State::Down { error, .. } => Err(error.clone()),
            State::New => Err(Error::internal("an extension's process was not looked at")),
        }
    }

    /// Checks a config as far as possible now: by the schema that the process gave, and by the process if it answers.
    pub async fn check(&self, document: &Value) -> Vec<ConfigIssue> {
        self.shared.check(document).await
    }

    /// The extension. From now on a process that says it is something else is not called. A `check` of the kind blocks
    /// its thread until the process answers, a few seconds at most; it must not be one that drives the runtime alone.
    pub fn kind(&self, descriptor: Descriptor) -> ExtensionKind {
        let descriptor = self.shared.expected.get_or_init(|| descriptor).clone();
        let (checking, building) = (self.clone(), self.clone());
        ExtensionKind::dynamic(
            descriptor,
            move |document| {
                let (answer, answered) = std::sync::mpsc::sync_channel(1);
                let (shared, own) = (Arc::clone(&checking.shared), document.clone());
                checking.shared.handle.spawn(async move { drop(answer.send(shared.check(&own).await)) });
                answered.recv_timeout(LOOK * 2).unwrap_or_else(|_| vec![issue("the config could not be checked")])
            },
            move |document| {
                let issues = building.shared.check_schema(document);
                if !issues.is_empty() {
                    return Err(issues);
                }
                // The instance is made when it is needed: the process may be down.
                building.instance(document).map(|extension| Arc::new(extension) as Arc<dyn Extension>)
            },
        )
    }

    pub(super) fn instance(&self, document: &Value) -> Result<RemoteExtension, Vec<ConfigIssue>> {
        let digest = digest_json(document).map_err(|error| vec![issue(&error.message)])?;
        let instance = Arc::new(Instance::new(digest, document.to_string()));
        self.shared.instances.lock().push(Arc::downgrade(&instance));
        if let State::Up(link) = &*self.shared.state.borrow() {
            self.shared.handle.spawn(Shared::introduce(Arc::clone(link), Arc::clone(&instance)));
        }
        Ok(RemoteExtension { process: self.clone(), instance })
    }
}

fn issue(message: &str) -> ConfigIssue {
    ConfigIssue { pointer: String::new(), message: message.to_owned(), cure: None }
}

impl Shared {
    /// The connection, if the process is there and fit; else since when it is not, and why.
    pub(super) fn link(&self) -> Result<Arc<Link>, (Timestamp, String)> {
        let down = match &*self.state.borrow() {
            State::Up(link) => return Ok(Arc::clone(link)),
            State::New => (Timestamp::now(), "its process has not been reached yet".to_owned()),
            State::Down { since, error } | State::Unfit { since, error, .. } => (*since, error.message.clone()),
        };
        self.wanted.notify_one();
        Err(down)
    }

    pub(super) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// A call was given up without an answer: the process is asked whether it still answers at all.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Connects for ever.
    async fn keep(&self) {
        let mut pause = PAUSES.0;
        loop {
            match Link::connect(&self.options.name, &self.dial).await {
                Err(error) => self.down(error),
                Ok(link) => {
                    pause = PAUSES.0;
                    self.hold(Arc::new(link)).await;
                }
            }
            drop(tokio::time::timeout(pause, self.wanted.notified()).await);
            // However often it is wanted: not without a breath.
            tokio::time::sleep(PAUSES.0 / 5).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn down(&self, error: Error) {
        self.state.send_modify(|state| {
            let since = match state {
                State::Down { since, .. } => *since,
                State::New | State::Unfit { .. } | State::Up(_) => {
                    tracing::warn!(extension = %self.options.name, %error, "its process is not usable");
                    Timestamp::now()
                }
            };
            *state = State::Down { since, error };
        });
    }

    /// Keeps a connection until its end.
    async fn hold(&self, link: Arc<Link>) {
        let (name, version) = (&self.options.name, &link.descriptor.version);
        if let Some(why) = self.expected.get().and_then(|expected| changed(expected, &link.descriptor)) {
            let message = format!("{} at {:?} {why}", self.dial.what, self.dial.path);
            let error = Error::unavailable(&self.dial.what, message)
                .cure("start the process as it was, or restart the gateway to take it as it is now");
            let (since, link) = (Timestamp::now(), Arc::clone(&link));
            self.state.send_replace(State::Unfit { since, error: error.clone(), link });
            tracing::error!(extension = %name, %error, "its process is not called");
        } else {
            let instances: Vec<Arc<Instance>> = {
                let mut known = self.instances.lock();
                known.retain(|instance| instance.strong_count() > 0);
                known.iter().filter_map(Weak::upgrade).collect()
            };
            self.state.send_replace(State::Up(Arc::clone(&link)));
            // Said when it is so: who hears it may count on it.
            tracing::info!(extension = %name, version, "its process answers");
            for instance in instances {
                tokio::spawn(Self::introduce(Arc::clone(&link), instance));
            }
        }
        let why = loop {
            tokio::select! {
                () = link.ended.cancelled() => break "ended the connection, or did not answer on it".to_owned(),
                () = self.suspected.notified() => {
                    if !link.answers().await {
                        link.ended.cancel();
                        break format!("did not answer Describe within {LOOK:?}");
                    }
                }
            }
        };
        self.down(
            Error::unavailable(&self.dial.what, format!("{} at {:?} {why}", self.dial.what, self.dial.path))
                .cure("look at its log, and start it again"),
        );
    }

    /// Has the process make the instance before anybody needs it, and notes when it does not.
    async fn introduce(link: Arc<Link>, instance: Arc<Instance>) {
        if let Err(why) = link.instance(&instance).await {
            instance.ail(why.to_string());
        }
    }

    fn check_schema(&self, document: &Value) -> Vec<ConfigIssue> {
        let schema = self.schema.get_or_init(|| match self.expected.get().map(|said_of| &said_of.config_schema) {
            None | Some(Value::Null) => Ok(None),
            Some(schema) => jsonschema::validator_for(schema).map(Some).map_err(|error| error.to_string()),
        });
        let validator = match schema {
            Ok(Some(validator)) => validator,
            Ok(None) if document.is_object() => return Vec::new(),
            Ok(None) => return vec![issue("the config is no object")],
            Err(error) => return vec![issue(&format!("the schema that the process gave cannot be used: {error}"))],
        };
        let wrong = validator.iter_errors(document).map(|error| ConfigIssue {
            pointer: error.instance_path().to_string(),
            message: crate::wire::said(&error.to_string()),
            cure: Some("give it the form that the schema says".to_owned()),
        });
        wrong.collect()
    }

    async fn check(&self, document: &Value) -> Vec<ConfigIssue> {
        let Ok(link) = self.link() else { return self.check_schema(document) };
        match link.configure("", &document.to_string(), true).await {
            // In its own words, which say more than a schema can.
            Err(Unconfigured::Refused(issues)) => return issues,
            Err(Unconfigured::Unasked(why)) => {
                tracing::warn!(extension = %self.options.name, why, "a config is checked by its schema alone");
            }
            Ok(_) => {}
        }
        self.check_schema(document)
    }
}

/// In what a process is not what it was; none where it may be called all the same.
fn changed(expected: &Descriptor, now: &Descriptor) -> Option<String> {
    let words =
        |descriptor: &Descriptor| descriptor.phases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if expected.phases != now.phases {
        return Some(format!("takes part in the phases {}; it did in {}", words(now), words(expected)));
    }
    if expected.needs != now.needs {
        return Some("needs something else of a driver than it did".to_owned());
    }
    if expected.state_schema != now.state_schema || !expected.reads_schemas.is_subset(&now.reads_schemas) {
        return Some(format!(
            "writes state version {} and reads {:?}; it wrote {} and read {:?}",
            now.state_schema, now.reads_schemas, expected.state_schema, expected.reads_schemas
        ));
    }
    if expected.reconcile != now.reconcile || (expected.local_effects && !now.local_effects) {
        return Some("says something else about its reconcile or its effects than it did".to_owned());
    }
    None
}
