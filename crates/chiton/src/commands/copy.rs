//! `sandbox cp`: files and folders, into or out of a sandbox. What is not whole is never seen under its name.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chiton_client::{Client, from_status};
use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Context, answer, local_tar, selector};
use crate::cli::CopyArgs;
use crate::output;
use crate::parse::Side;

/// Bytes of a message.
const CHUNK: usize = 256 * 1024;
/// Messages that wait for a slow other side.
const BUFFER: usize = 8;

/// A copy's remote side.
pub(super) struct Remote {
    pub(super) sandbox: wire::SandboxSelector,
    pub(super) path: String,
}

pub(super) async fn run(cx: &Context, args: CopyArgs) -> Result<ExitCode, Error> {
    let remote =
        |name: &str, path: &str| Remote { sandbox: selector(name, &args.workspace, false), path: path.to_owned() };
    let bytes = match (&args.source, &args.target) {
        (Side::Local(source), Side::Remote { name, path }) => {
            upload(&mut cx.connect().await?, source, remote(name, path)).await?
        }
        (Side::Remote { name, path }, Side::Local(target)) => {
            download(&mut cx.connect().await?, remote(name, path), target).await?
        }
        (Side::Local(_), Side::Local(_)) => {
            return Err(Error::invalid("source", "both sides are paths on this machine")
                .cure("write one of them as NAME:/path"));
        }
        (Side::Remote { .. }, Side::Remote { .. }) => {
            return Err(Error::invalid("source", "both sides are in sandboxes").cure("copy to this machine first"));
        }
    };
    if cx.json {
        output::document(&json!({ "bytes": bytes }));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::invalid("path", format!("{}: {error}", path.display()))
}

/// A bar that appears on a terminal when the copy takes longer than a second.
pub(super) fn bar(total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template("{bytes}/{total_bytes} {binary_bytes_per_sec} {wide_bar}") {
        bar.set_style(style);
    }
    bar
}

/// What is at a path in a sandbox; none when nothing is.
async fn stat(client: &mut Client, remote: &Remote, path: &str) -> Result<Option<agent::StatResponse>, Error> {
    let request = wire::ReadFileRequest { sandbox: Some(remote.sandbox.clone()), path: path.to_owned() };
    match client.stat(request).await {
        Ok(found) => Ok(Some(found.into_inner())),
        Err(status) if status.code() == tonic::Code::NotFound && from_status(&status).message.contains(path) => {
            Ok(None)
        }
        Err(status) => Err(from_status(&status)),
    }
}

fn is_folder(found: Option<&agent::StatResponse>) -> bool {
    found.is_some_and(|found| found.kind() == agent::stat_response::Kind::Folder)
}

async fn upload(client: &mut Client, source: &Path, mut remote: Remote) -> Result<u64, Error> {
    let metadata = fs::metadata(source).map_err(io(source))?;
    let target = stat(client, &remote, &remote.path).await?;
    if metadata.is_dir() {
        return local_tar::upload(client, source, remote, is_folder(target.as_ref())).await;
    }
    if !metadata.is_file() {
        return Err(Error::invalid("source", format!("{} is neither a file nor a folder", source.display())));
    }
    if is_folder(target.as_ref()) {
        let name = source
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| Error::invalid("source", "the file's name is not UTF-8"))?;
        remote.path = format!("{}/{name}", remote.path.trim_end_matches('/'));
    }
    let (sender, stream) = mpsc::channel(BUFFER);
    let mode = metadata.permissions().mode() & 0o7777;
    let (source, progress) = (source.to_owned(), bar(Some(metadata.len())));
    let reading = tokio::spawn(read_into(source, sender, remote, mode, progress));
    let sent = client.write_file(ReceiverStream::new(stream)).await.map_err(|status| from_status(&status));
    // Why the reading ended tells more than what the other side made of it.
    reading.await.map_err(|error| Error::internal(error.to_string()))??;
    Ok(sent?.into_inner().size)
}

async fn read_into(
    source: PathBuf,
    sender: mpsc::Sender<wire::WriteFileRequest>,
    remote: Remote,
    mode: u32,
    progress: ProgressBar,
) -> Result<(), Error> {
    use agent::write_file_request::Input;
    let message = |input| wire::WriteFileRequest {
        input: Some(wire::write_file_request::Input::File(agent::WriteFileRequest { input: Some(input) })),
    };
    let mut file = tokio::fs::File::open(&source).await.map_err(io(&source))?;
    let first = [
        wire::WriteFileRequest { input: Some(wire::write_file_request::Input::Sandbox(remote.sandbox)) },
        message(Input::Start(agent::WriteFileStart { path: remote.path, mode })),
    ];
    for request in first {
        if sender.send(request).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let mut chunk = vec![0; CHUNK];
        let length = file.read(&mut chunk).await.map_err(io(&source))?;
        if length == 0 {
            break;
        }
        chunk.truncate(length);
        progress.inc(length as u64);
        if sender.send(message(Input::Data(chunk.into()))).await.is_err() {
            // The other side ended the call; it says why.
            return Ok(());
        }
    }
    drop(sender.send(message(Input::Finish(true))).await);
    progress.finish_and_clear();
    Ok(())
}

async fn download(client: &mut Client, remote: Remote, target: &Path) -> Result<u64, Error> {
    let found = stat(client, &remote, &remote.path)
        .await?
        .ok_or_else(|| Error::not_found(format!("there is no {:?} in the sandbox", remote.path)))?;
    let name = remote.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let into_folder = target.is_dir();
    if is_folder(Some(&found)) {
        return local_tar::download(client, remote, target, into_folder).await;
    }
    let target = if into_folder { target.join(name) } else { target.to_owned() };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io(folder))?;
    let request = wire::ReadFileRequest { sandbox: Some(remote.sandbox), path: remote.path };
    let mut chunks = answer(client.read_file(request)).await?;
    let (progress, mut bytes, mut mode) = (bar(Some(found.size)), 0, None);
    while let Some(chunk) = chunks.message().await.map_err(|status| from_status(&status))? {
        mode.get_or_insert(chunk.mode);
        file.write_all(&chunk.data).map_err(io(&target))?;
        bytes += chunk.data.len() as u64;
        progress.inc(chunk.data.len() as u64);
    }
    progress.finish_and_clear();
    // What a sandbox says of its file may not make a program of ours privileged.
    let mode = mode.filter(|mode| *mode != 0).unwrap_or(0o644) & 0o777;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).map_err(io(&target))?;
    file.persist(&target).map_err(|error| io(&target)(error.error))?;
    Ok(bytes)
}
