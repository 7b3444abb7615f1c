//! What a reboot leaves of a supervisor.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use chiton_container_engine::{Supervisor, SupervisorOptions, Ways};
use chiton_driver::{CreateCall, DriverEvent};
use chiton_driver_suite::{Bench as _, Failure, Verdict, text_of_files};
use futures::StreamExt as _;

use super::{ENDPOINT, STAND_IN, Scene, TOKEN, write};
use crate::bench::Target;
use crate::life::{Gateway, done, holds};

/// A gateway that tells the token at the create alone starts its sandboxes again after a reboot: what is kept is in the
/// state folder, its owner's alone, and goes with the sandbox or with a sweep.
pub async fn a_supervisor_is_started_again_after_a_reboot(target: Target) -> Verdict {
    let folder = tempfile::Builder::new().prefix("chiton-supervisor-").tempdir();
    let folder = folder.map_err(|error| Failure::bench("make a folder", error))?;
    let program = folder.path().join("supervisor");
    write(&program, STAND_IN, 0o755)?;
    let mut options = SupervisorOptions::new(Supervisor::Bin(program), ENDPOINT.to_owned());
    options.keep_tokens = true;
    let scene = Scene::new(target, options, folder).await?;
    let own = scene.bench.folder(&scene.gateway.id)?;
    let id = Gateway::sandbox()?;
    let token = format!("eyJ.{}.sig", uuid::Uuid::new_v4().simple());
    let call = scene.call(&id, &token).await?;
    done("create", scene.gateway.driver.create(&call).await)?;
    done("start", scene.gateway.driver.start(&call).await)?;
    scene.said(&id, 1).await?;
    let kept = own.join("state/tokens").join(id.as_str());
    let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777).unwrap_or_default();
    let modes = (mode(&kept), mode(&kept.join("sandbox.jwt")));
    let wanted = (0o700, if scene.ways == Ways::Podman { 0o400 } else { 0o600 });
    holds(modes == wanted, "the modes of the token's folder and file", &format!("{wanted:?}"), format!("{modes:?}"))?;
    let mut elsewhere = String::new();
    text_of_files(&own.join("run"), &mut elsewhere);
    holds(!elsewhere.contains(&token), "the run folder", "without the token", ())?;

    // The engine ended what ran, and what is in memory is gone: the run folder, and this driver.
    done("stop", scene.gateway.driver.stop(&id).await)?;
    match fs::remove_dir_all(own.join("run")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::bench("remove the run folder", error).into());
        }
        _ => {}
    }
    let next = scene.bench.driver(&scene.gateway.id).await?.driver;
    // A crash in the middle of a create left this; a sweep knows whose tokens are needed.
    let lost = own.join("state/tokens").join(Gateway::sandbox()?.as_str());
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&lost);
    created.map_err(|error| Failure::bench("make a folder", error))?;
    write(&lost.join(".tmpX"), "half a tok", 0o600)?;
    let mut watch = next.watch();
    while let Some(event) = watch.next().await {
        if event == DriverEvent::SnapshotEnd {
            break;
        }
    }
    holds(!lost.exists(), "a token without a sandbox", "gone", &lost)?;
    let call = CreateCall { agent: None, ..call };
    done("start without a token", next.start(&call).await)?;
    let mode = if scene.ways == Ways::Podman { "400 0:0" } else { "600 0:0" };
    scene.said(&id, 2).await?.file(TOKEN, mode, &format!("{token}\n"))?;
    done("delete", next.delete(&id).await)?;
    holds(!kept.exists(), "the token of a deleted sandbox", "gone", &kept)?;
    scene.nothing_left().await
}
