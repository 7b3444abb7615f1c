//! Who calls. Every call carries the sandbox's token; most name the sandbox, and the token has to be that one's. A token
//! says nothing by itself (it is random), so a call that names no sandbox is accepted only with a token that was seen with
//! its sandbox before, and the store is asked each time whether it still holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_gateway::sessions::Tokens;
use chiton_model::{Error, SandboxId};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// How long the store may take to say whose token this is.
const VERIFY: Duration = Duration::from_secs(5);
/// The longest token that is looked at, in bytes. Ours have 64; those of other mints may be signed documents.
const LONGEST: usize = 8 * 1024;
/// How many tokens' sandboxes are kept in mind. Beyond that all are learned anew.
const KNOWN: usize = 16 * 1024;

/// The SHA-256 of a token.
pub(crate) type Digest = [u8; 32];

/// A token and how long it holds.
#[derive(Clone)]
pub struct Issued {
    /// The token. A secret.
    pub token: String,
    /// When it expires, in milliseconds since 1970; 0 for never.
    pub expires_at_ms: i64,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expires_at_ms", &self.expires_at_ms).finish_non_exhaustive()
    }
}

/// Makes tokens in the place of ones that hold.
#[async_trait]
pub trait Mint: Send + Sync + 'static {
    /// A token for the sandbox whose token this is. It must verify as that sandbox's from now on.
    ///
    /// # Errors
    /// Whatever keeps it from making one; the supervisor asks again.
    async fn refresh(&self, sandbox: &SandboxId, token: &str) -> Result<Issued, Error>;
}

/// The mint of a gateway whose tokens hold until a start brings a new one: the token is its own successor.
#[derive(Clone, Copy, Debug, Default)]
pub struct SameToken;

#[async_trait]
impl Mint for SameToken {
    async fn refresh(&self, _: &SandboxId, token: &str) -> Result<Issued, Error> {
        Ok(Issued { token: token.to_owned(), expires_at_ms: 0 })
    }
}

/// A caller whose token holds.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) sandbox: SandboxId,
    pub(crate) digest: Digest,
    /// The start of the sandbox that the token was made for.
    pub(crate) attempt: String,
}

pub(crate) struct Auth {
    tokens: Arc<dyn Tokens>,
    /// Whose tokens were seen, by digest: never the tokens.
    known: Mutex<HashMap<Digest, SandboxId>>,
}

impl Auth {
    pub(crate) fn new(tokens: Arc<dyn Tokens>) -> Self {
        Self { tokens, known: Mutex::default() }
    }

    /// Whether the caller's token is that of the sandbox it names.
    pub(crate) async fn of(&self, metadata: &MetadataMap, sandbox: &str) -> Result<Caller, Status> {
        let digest = digest(bearer(metadata)?);
        // Whether the id is malformed, unknown or another's makes no difference to somebody who has no right to it.
        let sandbox = SandboxId::new(sandbox).map_err(|_| refused())?;
        let asked = tokio::time::timeout(VERIFY, self.tokens.start_of(&sandbox, &digest)).await;
        let attempt = asked.map_err(|_| late())?.ok_or_else(refused)?;
        let mut known = self.known.lock();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(digest, sandbox.clone());
        drop(known);
        Ok(Caller { sandbox, digest, attempt })
    }

    /// Whose token the caller has, for calls that name no sandbox; and the token.
    pub(crate) async fn known<'a>(&self, metadata: &'a MetadataMap) -> Result<(Caller, &'a str), Status> {
        let token = bearer(metadata)?;
        let sandbox = self.known.lock().get(&digest(token)).cloned().ok_or_else(refused)?;
        Ok((self.of(metadata, sandbox.as_str()).await?, token))
    }
}

pub(crate) fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

/// The token of a call (RFC 6750: the scheme's case does not matter).
pub(crate) fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    let missing = || {
        Status::new(
            Code::Unauthenticated,
            "the call carries no token; the supervisor takes it from OPENSHELL_SANDBOX_TOKEN or the file named by \
             OPENSHELL_SANDBOX_TOKEN_FILE, where the driver has to put the sandbox_token of the create",
        )
    };
    let text = metadata.get("authorization").ok_or_else(missing)?.to_str().map_err(|_| missing())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > LONGEST {
        return Err(missing());
    }
    Ok(token)
}

/// One answer for all that is wrong, so that nothing can be found out by asking.
fn refused() -> Status {
    Status::unauthenticated(
        "the token is not that of the current start of this sandbox; one that was started again may have a new one",
    )
}

fn late() -> Status {
    Status::unavailable("the gateway's store did not answer in time; ask again")
}
