//! Secrets.

use bytes::Bytes;
use chiton_compute_wire::names::features::SECRET_ENVIRONMENT;
use chiton_compute_wire::v1::{DriverSandbox, GetSandboxRequest};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use crate::ask::Ask as _;
use crate::raw::{stream, unary};
use crate::stage::Stage;
use crate::verdict::{By, Verdict, broken, ensure, must, not_here};

/// Whether bytes have a text in them. Everything is looked at as it came, also what this kit does not know.
fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn shown_nowhere(stage: &Stage, sandbox: &DriverSandbox, secret: &str) -> Verdict {
    let (wire, limits) = (&stage.wire, stage.limits());
    must("CreateSandbox", stage.create(sandbox).await?)?;
    let hidden = |call: &str, bytes: &Bytes| {
        ensure(!has(bytes, secret), &format!("what {call} answers"), "no secret of the sandbox's in it", "the secret")
    };
    let request = GetSandboxRequest { sandbox_id: sandbox.id.clone(), sandbox_name: sandbox.name.clone() };
    let asked = unary(&wire.channel, "GetSandbox", request.encode_to_vec().into());
    hidden("GetSandbox", &must("GetSandbox", wire.answer("GetSandbox", limits.call, asked).await?)?)?;
    let asked = unary(&wire.channel, "ListSandboxes", Bytes::new());
    hidden("ListSandboxes", &must("ListSandboxes", wire.answer("ListSandboxes", limits.call, asked).await?)?)?;
    // The snapshot tells of it; nothing need come after that.
    let end = Instant::now() + limits.event;
    let watched = timeout_at(end, async {
        let Ok(mut events) = stream(&wire.channel, "WatchSandboxes").await else { return Ok(()) };
        while let Ok(Some(event)) = events.message().await {
            hidden("WatchSandboxes", &event)?;
            if has(&event, &sandbox.id) {
                return Ok(());
            }
        }
        Ok(())
    });
    // What a watch does not tell at all is the matter of other cases.
    watched.await.unwrap_or(Ok(()))
}

pub(crate) async fn token_is_not_shown(stage: &Stage) -> Verdict {
    let mut sandbox = stage.sandbox();
    let token = sandbox.spec().sandbox_token.clone();
    shown_nowhere(stage, &sandbox, &token).await
}

pub(crate) async fn environment_is_not_shown(stage: &Stage) -> Verdict {
    if !stage.run.capabilities.features.get(SECRET_ENVIRONMENT).copied().unwrap_or_default() {
        return not_here(By::Driver, "the driver does not take secret variables");
    }
    let secret = stage.word("secret-value");
    let sandbox =
        stage.sandbox().with(|ask| drop(ask.spec().secret_environment.insert("CONFORM".to_owned(), secret.clone())));
    shown_nowhere(stage, &sandbox, &secret).await
}

pub(crate) async fn refusals_hide_the_token(stage: &Stage) -> Verdict {
    let mut sandbox = stage.sandbox();
    let token = sandbox.spec().sandbox_token.clone();
    "../conform".clone_into(&mut sandbox.id);
    match stage.create(&sandbox).await? {
        Err(status) if has(status.message().as_bytes(), &token) || has(status.details(), &token) => {
            Err(broken("the refusal of a create", "no token in it", "the token"))
        }
        Err(status) if status.code() == Code::Ok => Err(broken("the refusal of a create", "a code", "OK")),
        // That it is refused is the matter of others.
        _ => Ok(()),
    }
}
