//! From a registry to the engine, by the engine itself.

use std::pin::pin;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error as ApiError;
use bollard::query_parameters::CreateImageOptionsBuilder;
use chiton_driver::{CallError, CallResult};
use chiton_image::ImageError;
use chiton_model::{Error, printable};
use futures::StreamExt;

use super::blocking;
use super::bring::Say;
use super::progress::Progress;
use crate::client::Failure;
use crate::engine::Engine;

/// How long the engine may say nothing: unpacking a large layer is silent.
const SILENCE: Duration = Duration::from_mins(10);

/// Pulls an image by its digest. Dropped, the connection closes, and the engine gives up what nobody else waits for.
pub(super) async fn pull(engine: &Engine, name: &str, digest: &str, say: &Say) -> CallResult<()> {
    let registry = name.split('/').next().unwrap_or_default();
    let credentials = credentials(engine, registry).await?;
    let options = CreateImageOptionsBuilder::new().from_image(name).tag(digest).build();
    let api = engine.client.api().await?;
    say.say(format!("pulling the image {name}"));
    let mut news = pin!(api.create_image(Some(options), None, credentials));
    let mut progress = Progress::default();
    loop {
        let piece = tokio::time::timeout(SILENCE, news.next()).await.map_err(|_| {
            let text = format!("the pull of {name} made no progress for {} minutes", SILENCE.as_secs() / 60);
            CallError::Failed(Error::deadline(text).cure("look at the engine's own log, and try again"))
        })?;
        match piece {
            Some(Ok(piece)) => progress.told(&piece).into_iter().for_each(|text| say.say(text)),
            Some(Err(error)) => return Err(failed(engine, name, registry, error)),
            None => break,
        }
    }
    // What the engine has now is what counts.
    let found = engine.inspect_image(&format!("{name}@{digest}")).await;
    found.map(drop).map_err(CallError::from)
}

/// Nothing of a pull has to be undone.
fn failed(engine: &Engine, name: &str, registry: &str, error: ApiError) -> CallError {
    let cure = format!(
        "see what the engine says of it: its machine must reach {registry} (one without TLS by its own settings), and have room"
    );
    if let ApiError::DockerStreamError { error } = error {
        let text = format!("the image {name} cannot be pulled: {}", printable(error.trim()));
        return CallError::Failed(Error::unavailable(registry, text).cure(cure));
    }
    match engine.client.failure("pull the image", error) {
        Failure::Absent(error) => CallError::Failed(
            Error::not_found(format!("the image {name} is no longer in its registry: {}", error.message))
                .cure("create the sandbox anew: a tag is looked up again"),
        ),
        failure => CallError::Failed(failure.error().cure(cure)),
    }
}

/// Who the gateway is to a registry, for the engine to say; read at each use, and never kept.
async fn credentials(engine: &Engine, registry: &str) -> CallResult<Option<DockerCredentials>> {
    let Some(login) = engine.options.images.credentials.get(registry).cloned() else { return Ok(None) };
    let (file, host) = (login.password_file, registry.to_owned());
    let password = blocking(move || {
        std::fs::read_to_string(&file).map_err(|source| ImageError::Io {
            doing: format!("read the password file {} of registry {host}", file.display()),
            source,
        })
    });
    let password = password.await.map_err(|error| {
        CallError::NotRun(Error::unavailable(registry, error.message).cure("put it there, readable by the gateway"))
    })?;
    Ok(Some(DockerCredentials {
        username: Some(login.username),
        password: Some(password.trim_end_matches(['\r', '\n']).to_owned()),
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    }))
}
