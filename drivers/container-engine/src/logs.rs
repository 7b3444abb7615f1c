//! The main process's output, as the engine keeps it.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use chiton_driver::{CallError, CallResult, LogChunk, LogOptions, LogStream};
use chiton_model::{Error, SandboxId};
use futures::StreamExt;
use jiff::Timestamp;

use crate::engine::Engine;
use crate::names;

impl Engine {
    pub(crate) async fn logs(&self, id: &SandboxId, options: LogOptions) -> CallResult<LogStream> {
        if self.observe(id).await?.is_none() {
            let error = Error::not_found(format!("sandbox {id} is not on this engine"));
            return Err(CallError::NotRun(error));
        }
        let since = options.since;
        let mut asked = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).follow(options.follow);
        if let Some(lines) = options.tail {
            asked = asked.tail(&lines.to_string());
        }
        if let Some(second) = since.and_then(|since| i32::try_from(since.as_second()).ok()) {
            asked = asked.since(second);
        }
        let api = self.client.api().await?;
        let stream = api.logs(&names::container(id), Some(asked.build()));
        let client = std::sync::Arc::clone(&self.client);
        let mut ends = LineEnds::default();
        let chunks = stream.flat_map(move |piece| {
            let found: Vec<_> = match piece {
                Ok(piece) => ends.mend(piece_of(piece)).into_iter().filter(|it| within(it.at, since)).map(Ok).collect(),
                Err(error) => vec![Err(CallError::from(client.failure("read the output", error)))],
            };
            futures::stream::iter(found)
        });
        Ok(chunks.boxed())
    }
}

/// Whether a piece is as young as asked for. Some engines tell whole seconds: rather one line too many than one too few.
fn within(at: Timestamp, since: Option<Timestamp>) -> bool {
    let whole = at.subsec_nanosecond() == 0;
    since.is_none_or(|since| at >= since || (whole && at.as_second() == since.as_second()))
}

/// The length of the pieces in which docker keeps lines that are longer.
const PIECE: usize = 16 << 10;

/// Gives back the ends of long lines. Docker keeps a line that is too long in pieces that have one time, and its way to
/// keep output as bytes forgets the end of such a line. That it was there is certain when something follows.
#[derive(Default)]
struct LineEnds {
    /// The stream and time of a line of which more must follow, and whether its last piece was told.
    cut: [Option<(Timestamp, bool)>; 2],
}

impl LineEnds {
    fn mend(&mut self, piece: Option<LogChunk>) -> Vec<LogChunk> {
        let Some(chunk) = piece else { return Vec::new() };
        let cut = &mut self.cut[usize::from(chunk.stderr)];
        let open = !chunk.data.ends_with(b"\n");
        let mut told = Vec::with_capacity(2);
        let goes_on = cut.is_some_and(|(at, ended)| at == chunk.at && !ended);
        if let Some((at, true)) = *cut {
            told.push(LogChunk { at, data: Bytes::from_static(b"\n"), ..chunk.clone() });
        }
        *cut = match (open, chunk.data.len() == PIECE, goes_on) {
            (true, true, _) => Some((chunk.at, false)),
            (true, false, true) => Some((chunk.at, true)),
            _ => None,
        };
        told.push(chunk);
        told
    }
}

/// A piece of output with the engine's time before it.
fn piece_of(piece: LogOutput) -> Option<LogChunk> {
    let (stderr, message) = match piece {
        LogOutput::StdErr { message } => (true, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => (false, message),
        LogOutput::StdIn { .. } => return None,
    };
    let (at, data) = stamped(&message);
    Some(LogChunk { at: at.unwrap_or(Timestamp::UNIX_EPOCH), stderr, data, dropped: 0 })
}

fn stamped(message: &Bytes) -> (Option<Timestamp>, Bytes) {
    let end = message.iter().take(64).position(|byte| *byte == b' ');
    let at = end.and_then(|end| std::str::from_utf8(&message[..end]).ok()?.parse::<Timestamp>().ok());
    match (at, end) {
        (Some(at), Some(end)) => (Some(at), message.slice(end + 1..)),
        // A piece of a line that the engine cut has no time of its own.
        _ => (None, message.clone()),
    }
}

#[cfg(test)]
mod tests;
