//! `backup` and `restore`.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use chiton_client::{GATEWAY_VARIABLE, from_status};
use chiton_gateway::Plugins;
use chiton_gateway::compose::store_folder;
use chiton_gateway::config::{Config, Listener};
use chiton_model::{Error, ErrorKind};
use chiton_proto::v1 as wire;
use chiton_proto::v1::backup_part::Part;
use chiton_store::{BackupFile, Manifest, StoreError};
use serde_json::json;
use tokio::time::timeout;

use super::gateway::{configuration, errors};
use super::{ANSWER_DEADLINE, Context};
use crate::cli::{BackupArgs, FolderArgs, RestoreArgs, SourceArgs};
use crate::output;

/// The configuration of a gateway that does not run here.
pub(super) fn configured(plugins: &Plugins, folder: &FolderArgs) -> Result<Config, Vec<Error>> {
    let args = SourceArgs {
        config: folder.config.clone(),
        data_dir: folder.data_dir.clone(),
        listen: Vec::new(),
        driver: Vec::new(),
        compute_driver_socket: None,
    };
    configuration(plugins, args).map_err(|found| errors(&found))
}

fn first(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::internal("the configuration is refused without an error"))
}

/// Who did it, for the audit trail of a store that no gateway holds.
fn who() -> String {
    format!("uid:{}", rustix::process::getuid().as_raw())
}

pub(super) async fn save(plugins: &Plugins, cx: &Context, args: BackupArgs) -> Result<ExitCode, Error> {
    let named = cx.gateway.is_some() || std::env::var_os(GATEWAY_VARIABLE).is_some_and(|value| !value.is_empty());
    let folder = args.folder.config.is_some() || args.folder.data_dir.is_some();
    let (manifest, path) = if folder {
        let config = configured(plugins, &args.folder).map_err(first)?;
        match offline(&config, &args.target) {
            // A gateway holds it: it makes the backup.
            Err(StoreError::Locked { folder, holder }) => {
                let Some(Listener::Unix(socket)) = config.gateway.listen.first() else {
                    return Err(StoreError::Locked { folder, holder }.into());
                };
                online(cx, Some(&format!("unix:{}", socket.display())), &args.target).await?
            }
            other => other?,
        }
    } else {
        match online(cx, cx.gateway.as_deref(), &args.target).await {
            Err(error) if !named && is_nobody(&error) => {
                let config = configured(plugins, &args.folder).map_err(first)?;
                offline(&config, &args.target).map_err(|found| match found {
                    StoreError::Missing { .. } => error,
                    other => other.into(),
                })?
            }
            other => other?,
        }
    };
    if cx.json {
        output::document(&json!({ "file": path, "manifest": manifest }));
    } else {
        output::line(&format!("{}", path.display()));
        output::note(&format!(
            "{} sandboxes of gateway {}, epoch {}; it holds their records, and neither their files nor the configuration",
            manifest.sandboxes, manifest.gateway, manifest.epoch
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether nobody answered, as opposed to somebody who said no.
fn is_nobody(error: &Error) -> bool {
    matches!(&error.kind, ErrorKind::Unavailable { what } if what == "gateway")
}

fn offline(config: &Config, target: &std::path::Path) -> Result<(Manifest, PathBuf), StoreError> {
    let snapshot = chiton_store::save_offline(&store_folder(&config.gateway.data_dir), &who())?;
    let manifest = snapshot.manifest.clone();
    let mut file = BackupFile::begin(target, manifest.clone())?;
    let (mut database, mut piece) = (snapshot.into_database(), vec![0; 1 << 20]);
    loop {
        let read = database
            .read(&mut piece)
            .map_err(|source| StoreError::Io { path: config.gateway.data_dir.clone(), source })?;
        if read == 0 {
            return file.finish().map(|path| (manifest, path));
        }
        file.write(&piece[..read])?;
    }
}

async fn online(cx: &Context, gateway: Option<&str>, target: &std::path::Path) -> Result<(Manifest, PathBuf), Error> {
    let mut client = match gateway {
        Some(gateway) => chiton_client::connect(&chiton_client::discover(Some(gateway))?).await?,
        None => cx.connect().await?,
    };
    let mut parts = super::answer(client.backup(wire::BackupRequest {})).await?;
    let mut next = async || match timeout(ANSWER_DEADLINE, parts.message()).await {
        Ok(part) => Ok(part.map_err(|status| from_status(&status))?.and_then(|part| part.part)),
        Err(_) => Err(Error::deadline(format!("the gateway sent nothing for {} s", ANSWER_DEADLINE.as_secs()))
            .cure("look at the gateway's log")),
    };
    let Some(Part::Manifest(text)) = next().await? else {
        return Err(Error::internal("the gateway did not begin its answer with a manifest"));
    };
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| Error::internal(format!("the manifest of the backup cannot be read: {error}")))?;
    let mut file = BackupFile::begin(target, manifest.clone())?;
    while let Some(part) = next().await? {
        let Part::Data(data) = part else {
            return Err(Error::internal("the gateway sent a second manifest"));
        };
        file.write(&data)?;
    }
    Ok((manifest, file.finish()?))
}

pub(super) fn restore(plugins: &Plugins, args: &RestoreArgs, json: bool) -> ExitCode {
    let config = match configured(plugins, &args.folder) {
        Ok(config) => config,
        Err(found) => return output::fail_all(&found, json),
    };
    let folder = store_folder(&config.gateway.data_dir);
    let restored = match chiton_store::restore(&args.file, &folder, args.replace, &who()) {
        Ok(restored) => restored,
        Err(error) => return output::fail(&error.into(), json),
    };
    let manifest = &restored.manifest;
    if json {
        output::document(&json!({
            "folder": folder, "manifest": manifest, "epoch": restored.epoch, "replaced": restored.replaced,
        }));
        return ExitCode::SUCCESS;
    }
    output::line(&format!("restored {} sandboxes into {}", manifest.sandboxes, folder.display()));
    if let Some(replaced) = &restored.replaced {
        output::note(&format!("the store that was there is kept in {}", replaced.display()));
    }
    output::note(&format!(
        "its sandboxes belong to epoch {} and are held: nothing touches them. If that store is gone for good, start once with\n      chiton gateway --adopt-epoch {0}",
        manifest.epoch
    ));
    ExitCode::SUCCESS
}
