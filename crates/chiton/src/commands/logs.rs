//! `sandbox logs`: the main process's output, each stream to the one of the same name.

use std::io::Write as _;
use std::process::ExitCode;

use chiton_client::from_status;
use chiton_model::Error;
use chiton_proto::v1 as wire;
use jiff::Timestamp;
use serde_json::json;

use super::{Context, answer, select};
use crate::cli::LogsArgs;
use crate::output;

/// A wire time has its nanoseconds from 0 up; a time before 1970 has them below.
fn wire_time(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = (at.as_second(), at.subsec_nanosecond());
    if nanos < 0 {
        prost_types::Timestamp { seconds: seconds - 1, nanos: nanos + 1_000_000_000 }
    } else {
        prost_types::Timestamp { seconds, nanos }
    }
}

pub(super) async fn run(cx: &Context, args: LogsArgs) -> Result<ExitCode, Error> {
    let since = args.since.map(wire_time);
    let request =
        wire::GetLogsRequest { sandbox: Some(select(&args.one)), follow: args.follow, tail: args.tail, since };
    let mut chunks = answer(cx.connect().await?.get_logs(request)).await?;
    while let Some(chunk) = chunks.message().await.map_err(|status| from_status(&status))? {
        if chunk.dropped > 0 && !cx.json {
            // Not a part of the output: it cannot be mistaken for it where the two streams are kept apart.
            eprintln!("chiton: {} bytes of output were not kept here", chunk.dropped);
            continue;
        }
        if cx.json && chunk.dropped > 0 {
            let at = chunk.at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok()).map(|at| at.to_string());
            output::json_line(&json!({ "at": at, "dropped": chunk.dropped }));
            continue;
        }
        if cx.json {
            let at = chunk.at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok()).map(|at| at.to_string());
            let stream = if chunk.stderr { "stderr" } else { "stdout" };
            let (form, text) = output::data(&chunk.data);
            output::json_line(&json!({ "at": at, "stream": stream, form: text }));
            continue;
        }
        let written = if chunk.stderr {
            std::io::stderr().write_all(&chunk.data)
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(&chunk.data).and_then(|()| out.flush())
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::from(output::READER_GONE));
            }
            Err(error) => return Err(Error::internal(format!("the output cannot be written: {error}"))),
        }
    }
    Ok(ExitCode::SUCCESS)
}
