//! From a file of this machine to the engine.

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::{Bytes, BytesMut};
use chiton_driver::{CallError, CallResult, transfer_in_words};
use chiton_image::{Cancel, Digest, ImageError, Pinned, Progress};
use chiton_model::{Error, printable};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::bring::Say;
use super::{FILES, blocking};
use crate::client::Failure;
use crate::engine::Engine;

/// How long a look at the file may take.
const LOOK: Duration = Duration::from_mins(1);
/// Bytes that are sent at once.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the engine.
const PIECES: usize = 4;

/// Loads the image of a file under its pin. Dropped, the stream breaks off, and the engine takes it for no image.
pub(super) async fn load(engine: &Arc<Engine>, pin: &str, file: &str, say: &Say) -> CallResult<()> {
    let api = engine.client.api().await?;
    say.say(format!("loading the image {file}"));
    let (sender, receiver) = mpsc::channel(PIECES);
    let cancel = Cancel::default();
    let _ended = cancel.on_drop();
    let exporter = blocking({
        let (engine, say, pin, file) = (Arc::clone(engine), say.clone(), pin.to_owned(), file.to_owned());
        move || export(&engine, &say, &pin, &file, &cancel, sender)
    });
    let sent = async {
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let mut news = pin!(api.import_image_stream(options, ReceiverStream::new(receiver), None));
        let mut ended = Ok(());
        while let Some(piece) = news.next().await {
            if let Err(error) = piece {
                ended = Err(error);
                break;
            }
        }
        ended
    };
    // Boxed: the connection ends before the other side is waited for, which ends it too.
    let (handed, answered) = tokio::join!(exporter, Box::pin(sent));
    let loaded = match (handed, answered) {
        (Ok(Some(image)), Ok(())) => image,
        // The engine did not take all of it, and says why.
        (Ok(_), Err(error)) => return Err(failed(engine, file, error)),
        (Ok(None), Ok(())) => return Err(refused(engine, file, "it took only a part of it")),
        (Err(error), _) => return Err(CallError::Failed(error)),
    };
    verify(engine, pin, file, &loaded).await
}

/// What was handed over.
struct Handed {
    config: Digest,
    image: Pinned,
}

/// Writes the image into the pipe; nothing when the engine stopped reading. Blocking.
fn export(
    engine: &Engine,
    say: &Say,
    pin: &str,
    file: &str,
    cancel: &Cancel,
    sender: mpsc::Sender<io::Result<Bytes>>,
) -> Result<Option<Handed>, ImageError> {
    let images = engine.images.documents()?;
    let (image, _) = images.resolve(file, LOOK)?;
    if pin != format!("{FILES}:{}", image.digest.hex()) {
        let wanted = pin.rsplit(':').next().and_then(|hex| format!("sha256:{hex}").parse().ok());
        let what = format!("the image of {file}, which was changed since the plan was made,");
        return Err(ImageError::Digest { what, wanted: wanted.unwrap_or(image.digest), found: image.digest });
    }
    let tell = |progress| {
        if let Progress::Fetched { bytes, of } = progress {
            say.say(transfer_in_words("loading", bytes, of));
        }
    };
    let mut pipe = Pipe { sender, piece: BytesMut::new() };
    match images.export(&image, pin, &mut pipe, cancel, &tell) {
        Ok(config) => Ok(Some(Handed { config, image })),
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        Err(error) => {
            // The stream ends as one that is broken, not as one that is whole.
            let _ = pipe.sender.blocking_send(Err(io::Error::other("the image cannot be read to its end")));
            Err(error)
        }
    }
}

/// Whether what the engine has under the name is what was handed over.
async fn verify(engine: &Engine, pin: &str, file: &str, handed: &Handed) -> CallResult<()> {
    let found = match engine.inspect_image(pin).await {
        Ok(found) => found,
        Err(Failure::Absent(_)) => return Err(refused(engine, file, "it does not have it afterwards")),
        Err(failure) => return Err(failure.into()),
    };
    if found.id.as_deref() == Some(handed.config.to_string().as_str()) {
        return Ok(());
    }
    // Where an engine names images by a manifest of its own, their contents are what can be compared.
    let layers = found.root_fs.and_then(|root| root.layers).unwrap_or_default();
    if layers.iter().map(String::as_str).eq(handed
        .image
        .layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect::<Vec<_>>()
        .iter()
        .map(String::as_str))
    {
        return Ok(());
    }
    Err(refused(engine, file, &format!("under the name {pin} it has another image")))
}

fn refused(engine: &Engine, file: &str, why: &str) -> CallError {
    let kind = engine.options.dialect.kind();
    let text = format!("the image {file} cannot be loaded into {kind}: {why}");
    CallError::Failed(Error::unavailable(kind, text).cure("look at the engine's own log"))
}

fn failed(engine: &Engine, file: &str, error: ApiError) -> CallError {
    let why = match error {
        ApiError::DockerStreamError { error } => printable(error.trim()),
        error => engine.client.failure("load the image", error).error().message,
    };
    let kind = engine.options.dialect.kind();
    let text = format!("the image {file} cannot be loaded into {kind}: {why}");
    CallError::Failed(
        Error::unavailable(kind, text).cure("see what the engine says of it; it needs room for the image"),
    )
}

/// Bytes on their way to the engine, which says how fast.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: BytesMut,
}

impl Pipe {
    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = self.piece.split().freeze();
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
