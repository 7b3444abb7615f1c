//! Extensions: operator-installed code that takes part in lifecycle phases.
//!
//! An extension's action and the cleanup that undoes it are methods of one trait, so they sit side by side in its source.
//! Every method has a default that does nothing; the descriptor names the phases that are called.

mod context;
mod descriptor;
mod draft;
mod error;
mod fence;
mod kind;
mod probe;
mod remote;
mod traits;

pub(crate) use context::{Alive, StateSink};
pub use context::{HookContext, HookCore, RequestContext, RequestView, WorkspaceContext};
pub use descriptor::{Descriptor, Needs, ReconcileSupport};
pub use draft::{Draft, PortableDraft, PortableWriter};
pub use error::{StepError, StepResult};
pub use fence::{Fence, StepId};
pub use kind::{ConfigIssue, ExtensionKind, Registry, decode_config};
pub use probe::HookProbe;
pub use remote::{RemoteHook, RemoteSandbox, RemoteStates};
pub use traits::{Approval, Extension, HeldPage, ReconcileOutcome, SlotValues};
