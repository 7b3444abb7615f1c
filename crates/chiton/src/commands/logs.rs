//! `sandbox logs`: the main process's output, each stream to the one of the same name.

use std::io::Write as _;
use std::process::ExitCode;

use chiton_client::from_status;
use chiton_model::Error;
use chiton_proto::v1 as wire;
use jiff::Timestamp;
use serde_json::json;

use super::{Context, select};
use crate::cli::LogsArgs;
use crate::output;
use crate::parse::since;

pub(super) async fn run(cx: &Context, args: LogsArgs) -> Result<ExitCode, Error> {
    let since = match &args.since {
        Some(text) => {
            let at = since(text, Timestamp::now()).map_err(|why| Error::invalid("since", why))?;
            Some(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
        }
        None => None,
    };
    let request =
        wire::GetLogsRequest { sandbox: Some(select(&args.one)), follow: args.follow, tail: args.tail, since };
    let mut chunks = cx.connect().await?.get_logs(request).await.map_err(|status| from_status(&status))?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(|status| from_status(&status))? {
        if cx.json {
            let at = chunk.at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok()).map(|at| at.to_string());
            let stream = if chunk.stderr { "stderr" } else { "stdout" };
            output::json_line(&json!({ "at": at, "stream": stream, "text": String::from_utf8_lossy(&chunk.data) }));
            continue;
        }
        let written = if chunk.stderr {
            std::io::stderr().write_all(&chunk.data)
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(&chunk.data).and_then(|()| out.flush())
        };
        if written.is_err() {
            // The reader went away.
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::SUCCESS)
}
