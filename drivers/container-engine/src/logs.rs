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
        let chunks = stream.filter_map(move |piece| {
            let chunk = match piece {
                Ok(piece) => chunk(piece).filter(|chunk| since.is_none_or(|since| chunk.at >= since)).map(Ok),
                Err(error) => Some(Err(CallError::from(client.failure("read the output", error)))),
            };
            std::future::ready(chunk)
        });
        Ok(chunks.boxed())
    }
}

/// A piece of output with the engine's time before it.
fn chunk(piece: LogOutput) -> Option<LogChunk> {
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
