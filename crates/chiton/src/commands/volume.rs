//! Named volumes: `volume list`, `create` and `delete`.

use std::process::ExitCode;

use chiton_model::Error;
use chiton_proto::v1 as wire;
use jiff::Timestamp;
use serde_json::json;

use super::look::since;
use super::operate::done;
use super::{Context, answer};
use crate::cli::VolumeCommand;
use crate::output::{self, Table};

pub(super) async fn run(cx: &Context, command: VolumeCommand) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    match command {
        VolumeCommand::List { workspace } => {
            let request = wire::ListVolumesRequest { workspace: workspace.unwrap_or_default() };
            let answer = answer(client.list_volumes(request)).await?;
            if cx.json {
                output::document(&json!(answer.volumes.iter().map(output::volume).collect::<Vec<_>>()));
            } else {
                output::line(&table(&answer.volumes, Timestamp::now()));
            }
            return Ok(output::partial(&answer.failed, cx.json));
        }
        VolumeCommand::Create { volume, size } => {
            let request = wire::CreateVolumeRequest {
                name: volume.name,
                workspace: volume.workspace,
                driver: volume.driver.unwrap_or_default(),
                size: size.unwrap_or_default(),
            };
            let made = answer(client.create_volume(request)).await?;
            if cx.json {
                output::document(&output::volume(&made));
            } else {
                done(cx, "created", &made.name);
            }
        }
        VolumeCommand::Delete(volume) => {
            let request = wire::DeleteVolumeRequest {
                name: volume.name.clone(),
                workspace: volume.workspace,
                driver: volume.driver.unwrap_or_default(),
            };
            answer(client.delete_volume(request)).await?;
            done(cx, "deleted", &volume.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(volumes: &[wire::Volume], now: Timestamp) -> String {
    let mut table = Table::new(&["NAME", "WORKSPACE", "DRIVER", "SIZE", "AGE", "BY", "USED BY"]);
    for volume in volumes {
        let size = if volume.size == 0 { "-".to_owned() } else { volume.size.to_string() };
        let users: Vec<&str> = volume.used_by.iter().map(|user| user.name.as_str()).collect();
        table.row([
            &volume.name,
            &volume.workspace,
            &volume.driver,
            &size,
            &since(volume.created_at, now),
            &volume.created_by,
            &users.join(", "),
        ]);
    }
    table.text()
}
