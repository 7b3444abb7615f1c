//! One connection to the process, from its Describe to its end.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::extension::{ConfigIssue, Descriptor};
use chiton_model::{Error, ExtensionName};
use chiton_socket::Dial;
use futures::future::BoxFuture;
use http::Uri;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::extension::Instance;
use super::peer::Peer;
use super::wire_service::Wire;
use crate::CONTRACT;
use crate::proto::extension_client::ExtensionClient;
use crate::proto::{ConfigureExtensionRequest, DescribeExtensionRequest, ExtensionHealthRequest};
use crate::wire::{read_descriptor, said};

/// How long a call may take that has no hook's deadline: Describe, Configure.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// Between two attempts to be told of an instance's health.
const AGAIN: Duration = Duration::from_secs(1);

/// Why there is no instance for a config on a connection.
#[derive(Clone, Debug)]
pub(super) enum Unconfigured {
    /// The process does not take the config.
    Refused(Vec<ConfigIssue>),
    /// It could not be asked.
    Unasked(String),
}

impl fmt::Display for Unconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked(why) => f.write_str(why),
            Self::Refused(issues) => {
                let list: Vec<String> = issues.iter().map(|one| format!("{} {}", one.pointer, one.message)).collect();
                write!(f, "its process does not take its config: {}", list.join("; "))
            }
        }
    }
}

pub(super) type Configured = Result<String, Unconfigured>;

pub(super) struct Link {
    pub(super) client: ExtensionClient<Wire>,
    pub(super) peer: Option<Peer>,
    pub(super) descriptor: Descriptor,
    /// Set when the connection has ended; setting it ends the connection.
    pub(super) ended: CancellationToken,
    instances: Mutex<HashMap<String, Arc<OnceCell<Configured>>>>,
    handle: Handle,
}

pub(super) fn told(status: &Status) -> String {
    format!("{} ({:?})", said(status.message()), status.code())
}

impl Link {
    /// Connects and asks what is there.
    pub(super) async fn connect(name: &ExtensionName, dial: &Dial) -> Result<Self, Error> {
        let unfit = |why: String| {
            Error::unavailable(&dial.what, format!("{} at {:?} {why}", dial.what, dial.path))
                .cure("look at its log; it must serve chiton.v1.Extension")
        };
        let (stream, who) = dial.connect().await?;
        let peer = Peer::watch(who.pid);
        let (wire, connection) =
            Wire::over(stream).await.map_err(|error| unfit(format!("speaks no HTTP/2: {error}")))?;
        let ended = CancellationToken::new();
        let cut = ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = cut.cancelled() => {}
            }
            cut.cancel();
        });
        let cut_off = ended.clone().drop_guard();
        let mut client = ExtensionClient::with_origin(wire, Uri::from_static("http://extension"));
        let question = DescribeExtensionRequest { name: name.to_string(), contract_version: CONTRACT };
        let described = timeout(LOOK, client.describe(question)).await;
        let described = described.map_err(|_| unfit(format!("did not answer Describe within {LOOK:?}")))?;
        let described = described.map_err(|status| unfit(format!("refused Describe: {}", told(&status))))?;
        let descriptor =
            read_descriptor(name, described.into_inner()).map_err(|why| unfit(format!("is unfit: {why}")))?;
        drop(cut_off.disarm());
        let handle = Handle::current();
        Ok(Self { client, peer, descriptor, ended, instances: Mutex::default(), handle })
    }

    /// Whether the process still answers.
    pub(super) async fn answers(&self) -> bool {
        let mut client = self.client.clone();
        let question = DescribeExtensionRequest { name: self.descriptor.name.to_string(), contract_version: CONTRACT };
        matches!(timeout(LOOK, client.describe(question)).await, Ok(Ok(_)))
    }

    /// Checks a config, or makes an instance for it.
    pub(super) async fn configure(&self, digest: &str, document: &str, dry_run: bool) -> Configured {
        let mut client = self.client.clone();
        let question = ConfigureExtensionRequest {
            name: self.descriptor.name.to_string(),
            digest: digest.to_owned(),
            document_json: document.to_owned(),
            dry_run,
        };
        let answer = timeout(LOOK, client.configure(question)).await;
        let answer =
            answer.map_err(|_| Unconfigured::Unasked(format!("it did not answer Configure within {LOOK:?}")))?;
        let answer =
            answer.map_err(|status| Unconfigured::Unasked(format!("it refused Configure: {}", told(&status))))?;
        let answer = answer.into_inner();
        if !answer.issues.is_empty() {
            let issues = answer.issues.into_iter().map(|issue| ConfigIssue {
                pointer: issue.pointer,
                message: said(&issue.message),
                cure: Some(said(&issue.cure)).filter(|cure| !cure.is_empty()),
            });
            return Err(Unconfigured::Refused(issues.collect()));
        }
        if answer.instance_id.is_empty() && !dry_run {
            return Err(Unconfigured::Unasked("it answered Configure without an instance".to_owned()));
        }
        Ok(answer.instance_id)
    }

    /// The process's instance for a config, made once on each connection. May be awaited outside of any runtime.
    pub(super) async fn instance(self: &Arc<Self>, instance: &Arc<Instance>) -> Configured {
        let cell = Arc::clone(self.instances.lock().entry(instance.digest.clone()).or_default());
        let made = cell.get_or_init(|| async {
            let (link, instance) = (Arc::clone(self), Arc::clone(instance));
            let made = self.handle.spawn(async move {
                let made = link.configure(&instance.digest, &instance.document, false).await;
                if let Ok(id) = &made {
                    tokio::spawn(Arc::clone(&link).watch_health(id.clone(), instance));
                }
                made
            });
            made.await.unwrap_or_else(|_| Err(Unconfigured::Unasked("the gateway ends".to_owned())))
        });
        let made = made.await.clone();
        if matches!(made, Err(Unconfigured::Unasked(_))) {
            self.forget(instance);
        }
        made
    }

    /// The process does not know its instance any more: it is made anew.
    pub(super) fn forget(&self, instance: &Instance) {
        self.instances.lock().remove(&instance.digest);
    }

    /// Sees to it that the process has another instance instead of one that it forgot; false when it takes none.
    fn made_anew(self: Arc<Self>, forgotten: &str, instance: Arc<Instance>) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let current = self.instances.lock().get(&instance.digest).and_then(|made| made.get().cloned());
            if matches!(&current, Some(Ok(id)) if id != forgotten) {
                return true;
            }
            instance.ail("its process forgot the config and is told it again".to_owned());
            self.forget(&instance);
            let made = self.instance(&instance).await;
            if let Err(why) = &made {
                instance.ail(why.to_string());
            }
            made.is_ok()
        })
    }

    /// Takes in what the process says of an instance's health, as long as the connection lives.
    async fn watch_health(self: Arc<Self>, id: String, instance: Arc<Instance>) {
        let ended = self.ended.clone();
        let watch = async {
            loop {
                let question = ExtensionHealthRequest { instance_id: id.clone() };
                match self.client.clone().health(question).await {
                    Ok(answer) => {
                        let mut states = answer.into_inner();
                        while let Ok(Some(state)) = states.message().await {
                            instance.take_health(&state);
                        }
                    }
                    Err(status) if status.code() == Code::Unimplemented => return,
                    Err(status) if status.code() == Code::NotFound => {
                        // What is made in its place has a watch of its own.
                        if Arc::clone(&self).made_anew(&id, Arc::clone(&instance)).await {
                            return;
                        }
                    }
                    Err(status) => instance.ail(format!("its health cannot be asked: {}", told(&status))),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = watch => {}
            () = ended.cancelled() => {}
        }
    }
}
