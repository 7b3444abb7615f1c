//! The program of an image, and what a crash leaves of it.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use chiton_container_engine::{Supervisor, SupervisorOptions};
use chiton_driver::{AgentLaunch, CallError, DriverEvent};
use chiton_driver_suite::{Bench as _, Failure, Verdict};
use futures::StreamExt as _;
use http::Method;
use serde_json::{Value, json};

use super::{ENDPOINT, PROGRAM, STAND_IN, Scene, TLS, write};
use crate::api::query;
use crate::bench::{EngineBench, Target, finally};
use crate::life::{Gateway, done, holds};

/// A supervisor's image: the stand-in at the path where such images have it.
struct Carrier<'a> {
    bench: &'a EngineBench,
    reference: String,
}

impl<'a> Carrier<'a> {
    async fn new(bench: &'a EngineBench, text: &str) -> Verdict<Self> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let (name, repository) = (format!("test-{unique}"), format!("localhost/test-{unique}"));
        let script = "printf %s \"$0\" > /openshell-sandbox && chmod 755 /openshell-sandbox";
        let body = json!({
            "Image": bench.image(), "Entrypoint": ["sh", "-c", script], "Cmd": [text],
            "HostConfig": { "NetworkMode": "none", "Ulimits": bench.ulimits() },
        });
        let api = bench.api();
        api.change(Method::POST, &format!("/containers/create?name={name}"), Some(&body)).await?;
        let made = async {
            api.change(Method::POST, &format!("/containers/{name}/start"), None).await?;
            let ended = api.change(Method::POST, &format!("/containers/{name}/wait"), None).await?;
            let code = ended.json("wait for the image's container")?["StatusCode"].clone();
            holds(code == 0, "the container that writes the stand-in", "code 0", &code)?;
            let path = format!("/commit?container={name}&repo={}&tag=supervisor", query(&repository));
            api.change(Method::POST, &path, Some(&json!({}))).await.map(drop)
        };
        let made: Verdict = made.await;
        api.remove(&format!("/containers/{name}?force=true&v=true")).await?;
        made?;
        Ok(Self { bench, reference: format!("{repository}:supervisor") })
    }
}

impl Drop for Carrier<'_> {
    fn drop(&mut self) {
        let (api, path) = (self.bench.api().clone(), format!("/images/{}?force=true", self.reference));
        finally(async move { api.remove(&path).await });
    }
}

/// The program of an image is taken out of it once, used as long as it is what was taken out, and nothing else is left.
pub async fn a_supervisor_is_taken_out_of_its_image_once(target: Target) -> Verdict {
    let maker = EngineBench::new(target)?;
    let carrier = Carrier::new(&maker, STAND_IN).await?;
    let folder = tempfile::tempdir().map_err(|error| Failure::bench("make a folder", error))?;
    let options = SupervisorOptions::new(Supervisor::Image(carrier.reference.clone()), ENDPOINT.to_owned());
    let scene = Scene::new(target, options, folder).await?;
    let id = Gateway::sandbox()?;
    let call = scene.call(&id, "a-token").await?;
    let image = &call.plan["agent"]["program"]["image"];
    let pinned = image["pin"].as_str().is_some_and(|pin| pin.contains(':') && !pin.contains("supervisor"));
    holds(pinned, "the image in the plan", "pinned", image)?;
    let kept = kept(&scene)?;
    holds(kept.len() == 1, "what is kept of programs", "one", &kept)?;
    let before = fs::metadata(&kept[0]).and_then(|found| found.modified()).ok();
    // Planned and prepared again: nothing is taken out again.
    scene.call(&id, "a-token").await?;
    let after = fs::metadata(&kept[0]).and_then(|found| found.modified()).ok();
    holds(before.is_some() && before == after, "the kept program", "untouched", (before, after))?;
    // Somebody wrote to it: it is not used as it is.
    write(&kept[0], "#!/bin/sh\necho mine\n", 0o555)?;
    let call = scene.call(&id, "a-token").await?;
    done("create", scene.gateway.driver.create(&call).await)?;
    done("start", scene.gateway.driver.start(&call).await)?;
    let report = scene.said(&id, 1).await?;
    report.file(PROGRAM, "555 0:0", STAND_IN)?;
    for (_, file, variable) in TLS {
        holds(report.all("absent").contains(&file), file, "absent: none was given", report.all("absent"))?;
        holds(report.all("env").iter().all(|line| !line.starts_with(variable)), variable, "unset", report.all("env"))?;
    }
    done("delete", scene.gateway.driver.delete(&id).await)?;
    no_extractor(&scene).await?;
    scene.nothing_left().await
}

/// Programs that the driver keeps.
fn kept(scene: &Scene) -> Verdict<Vec<PathBuf>> {
    let folder = scene.bench.folder(&scene.gateway.id)?.join("state/supervisor");
    let found = fs::read_dir(&folder).map_err(|error| Failure::bench("look for programs", error))?;
    Ok(found.flatten().map(|entry| entry.path().join("program")).collect())
}

async fn no_extractor(scene: &Scene) -> Verdict {
    let name = format!("chiton.supervisor.{}.{}", scene.gateway.id, scene.bench.driver_id());
    let found = scene.bench.api().find(&format!("/containers/{name}/json")).await?;
    holds(found.is_none(), "the container that the program was taken out of", "gone", found)
}

/// What a crash leaves of a supervisor is removed when a watch begins; what is in use is not. What is refused leaves
/// nothing.
pub async fn what_a_crash_leaves_of_a_supervisor_is_swept(target: Target) -> Verdict {
    let scene = Scene::of_file(target).await?;
    let driver = &scene.gateway.driver;
    let id = Gateway::sandbox()?;
    let call = scene.call(&id, "the-token-in-use").await?;
    done("create", driver.create(&call).await)?;
    // As a crash between the file and the container leaves it, whose row is lost too.
    let lost = scene.token_folder(&Gateway::sandbox()?)?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&lost);
    made.map_err(|error| Failure::bench("make a folder", error))?;
    write(&lost.join("sandbox.jwt"), "a lost token\n", 0o600)?;
    let name = format!("chiton.supervisor.{}.{}", scene.gateway.id, scene.bench.driver_id());
    let body = json!({ "Image": scene.bench.image(), "Entrypoint": ["sh"], "HostConfig": { "NetworkMode": "none" } });
    scene.bench.api().change(Method::POST, &format!("/containers/create?name={name}"), Some(&body)).await?;
    // And one in the middle of a copy.
    let half = kept(&scene)?.remove(0).with_file_name(".tmpX");
    write(&half, "half a prog", 0o600)?;
    let mut watch = driver.watch();
    while let Some(event) = watch.next().await {
        if event == DriverEvent::SnapshotEnd {
            break;
        }
    }
    holds(!half.exists(), "half a program", "gone", &half)?;
    holds(!lost.exists(), "a token without a sandbox", "gone", &lost)?;
    holds(scene.token_folder(&id)?.join("sandbox.jwt").exists(), "a token in use", "there", ())?;
    no_extractor(&scene).await?;

    // Refused before anything is made: a token that cannot be one, or none.
    let other = Gateway::sandbox()?;
    for token in [None, Some(""), Some("two\nlines")] {
        let mut call = scene.call(&other, "x").await?;
        call.agent = token.map(|token| AgentLaunch { token: token.to_owned(), attempt: "a-1".to_owned() });
        let refused = driver.create(&call).await;
        let cured = matches!(&refused, Err(CallError::NotRun(error)) if error.cure.is_some());
        holds(cured, "a create without a token", "refused with a cure", refused)?;
        holds(!scene.token_folder(&other)?.exists(), "its token", "not written", ())?;
    }
    // A program that changed since the plan is not what was agreed on.
    let call = scene.call(&other, "x").await?;
    let mut changed = call.clone();
    if let Some(digest) = changed.plan.pointer_mut("/agent/program/digest") {
        *digest = Value::from(format!("sha256:{}", "1".repeat(64)));
    }
    let refused = driver.create(&changed).await;
    let cured = matches!(&refused, Err(CallError::NotRun(error)) if error.message.contains("is not what it was"));
    holds(cured, "a create with another program", "refused", refused)?;
    // A name that is taken: the engine refuses, and the token goes again, at once or with the delete that follows.
    let by_hand = scene.bench.foreign(&scene.gateway.id, &other).await?;
    let taken = driver.create(&call).await;
    holds(taken.is_err(), "a create whose name is taken", "refused", &taken)?;
    if !matches!(taken, Err(CallError::NotRun(_))) {
        done("delete", driver.delete(&other).await)?;
    }
    holds(!scene.token_folder(&other)?.exists(), "its token", "gone", ())?;
    by_hand.remove().await?;
    done("delete", driver.delete(&id).await)?;
    holds(scene.folder.path().join("key").exists(), "the operator's files", "there", ())?;
    scene.nothing_left().await
}
