//! What the suite's cases do not reach, because it is about engines alone. Each trial is tried with every engine.

use chiton_driver::{DriverEvent, LogOptions};
use chiton_driver_suite::{Bench as _, Failure, Verdict};
use chiton_model::label::managed;
use chiton_model::{NetworkMode, SandboxId};
use futures::StreamExt as _;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::api::query;
use crate::bench::EngineBench;
use crate::life::{Gateway, done, holds};

/// A main process that runs until it is stopped.
pub(crate) const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// The volumes that an image asks for are made with a sandbox, and go with it.
pub async fn volumes_of_an_image_go_with_the_sandbox(bench: EngineBench) -> Verdict {
    let image = WithVolume::new(&bench).await?;
    let gateway = Gateway::new(&bench).await?;
    let script = "echo kept > /cache/file; exit 0";
    let id = gateway.launched(&Gateway::request(&image.reference, script, NetworkMode::None)).await?;
    let found = bench.inspect(&id).await?;
    let mounts = found["Mounts"].as_array().cloned().unwrap_or_default();
    let volume = mounts.iter().find(|mount| mount["Destination"] == "/cache").and_then(|mount| mount["Name"].as_str());
    let Some(volume) = volume else {
        return holds(false, "the container's mounts", "a volume at /cache", mounts);
    };
    let path = format!("/volumes/{volume}");
    holds(bench.api().find(&path).await?.is_some(), "the image's volume", "there while the sandbox is", volume)?;
    gateway.delete(&id).await?;
    let left = bench.api().find(&path).await?;
    holds(left.is_none(), "the image's volume after the delete", "gone", left)?;
    nothing_left(&bench, &gateway).await
}

/// An image that asks for a volume at `/cache`.
struct WithVolume<'a> {
    bench: &'a EngineBench,
    reference: String,
}

impl<'a> WithVolume<'a> {
    async fn new(bench: &'a EngineBench) -> Verdict<Self> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let (name, repository) = (format!("test-{unique}"), format!("localhost/test-{unique}"));
        let body = json!({ "Image": bench.image(), "Entrypoint": ["sh"], "HostConfig": { "NetworkMode": "none" } });
        bench.api().change(Method::POST, &format!("/containers/create?name={name}"), Some(&body)).await?;
        let change = query("VOLUME /cache");
        let path = format!("/commit?container={name}&repo={}&tag=volume&changes={change}", query(&repository));
        let made = bench.api().change(Method::POST, &path, Some(&json!({}))).await;
        bench.api().remove(&format!("/containers/{name}?force=true&v=true")).await?;
        made?;
        Ok(Self { bench, reference: format!("{repository}:volume") })
    }
}

impl Drop for WithVolume<'_> {
    fn drop(&mut self) {
        let (api, path) = (self.bench.api().clone(), format!("/images/{}?force=true", self.reference));
        crate::bench::finally(async move { api.remove(&path).await });
    }
}

/// A file system in memory has the size and mode that were asked for; where one is left out it is what engines choose.
pub async fn file_systems_in_memory_are_as_they_were_asked_for(bench: EngineBench) -> Verdict {
    let gateway = Gateway::new(&bench).await?;
    let script = "for at in plain small closed; do echo $at $(stat -c %a /$at) $(stat -f -c %b /$at); done; \
                  echo text > /plain/file && cat /plain/file";
    let mut request = Gateway::request(&bench.image(), script, NetworkMode::None);
    request.driver_config["mounts"] = json!([
        { "type": "tmpfs", "target": "/plain" },
        { "type": "tmpfs", "target": "/small", "size_bytes": 1 << 20 },
        { "type": "tmpfs", "target": "/closed", "mode": 0o700 },
    ]);
    let id = gateway.launched(&request).await?;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut stream = done("logs", gateway.driver.logs(&id, options).await)?;
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&done("logs", chunk)?.data));
    }
    let said: Vec<&str> = text.split_whitespace().collect();
    // The size of the others is the machine's.
    let modes: Vec<&str> =
        said.iter().copied().enumerate().filter(|(at, _)| at % 3 != 2).map(|(_, word)| word).collect();
    let wanted = ["plain", "1777", "small", "1777", "closed", "700", "text"];
    holds(modes == wanted, "names, modes and a file", &wanted.join(" "), &text)?;
    holds(said.get(5) == Some(&"256"), "the blocks of one of 1 MiB", "256", &text)?;
    gateway.delete(&id).await?;
    nothing_left(&bench, &gateway).await
}

/// A look at all sandboxes succeeds at any moment, however many are being made, started and removed.
pub async fn lists_survive_passing_states(bench: EngineBench) -> Verdict {
    let gateway = Gateway::new(&bench).await?;
    let request = Gateway::request(&bench.image(), SLEEP, NetworkMode::None);
    let lives = async {
        for _ in 0..4 {
            let lives = (0..4).map(|_| async {
                let id = gateway.launched(&request).await?;
                gateway.delete(&id).await
            });
            for lived in join_all(lives).await {
                lived?;
            }
        }
        Ok(())
    };
    let mut watch = gateway.driver.watch();
    let at_changes = async {
        // At each change, which is when states pass.
        while watch.next().await.is_some() {
            done("list", gateway.driver.list().await)?;
        }
        holds(false, "the watch", "going on", "its end")
    };
    let ended: Verdict = tokio::select! {
        ended = lives => ended,
        failed = at_changes => failed,
    };
    ended?;
    nothing_left(&bench, &gateway).await
}

/// A bridge's network is there for its sandboxes only, and what a crash left of one is swept when a watch begins.
pub async fn networks_are_removed_and_swept(bench: EngineBench) -> Verdict {
    let gateway = Gateway::new(&bench).await?;
    let request = Gateway::request(&bench.image(), SLEEP, NetworkMode::Bridge);
    let (one, other) = (gateway.launched(&request).await?, gateway.launched(&request).await?);
    let used = networks(&bench, &gateway).await?;
    holds(!used.is_empty(), "the gateway's networks", "at least one", &used)?;
    // As a crash between two requests leaves one.
    let left = format!("chiton.{}.left", gateway.id);
    let labels = json!({ managed::GATEWAY_ID: gateway.id.as_str() });
    let body = json!({ "Name": left, "Driver": "bridge", "Labels": labels });
    bench.api().change(Method::POST, "/networks/create", Some(&body)).await?;
    let mut watch = gateway.driver.watch();
    while let Some(event) = watch.next().await {
        if event == DriverEvent::SnapshotEnd {
            break;
        }
    }
    let now = networks(&bench, &gateway).await?;
    holds(now == used, "the networks after a watch began", &format!("{used:?}"), &now)?;
    gateway.delete(&one).await?;
    holds(running(&bench, &other).await?, "the other sandbox", "running still", &other)?;
    gateway.delete(&other).await?;
    let now = networks(&bench, &gateway).await?;
    holds(now.is_empty(), "the networks after the last delete", "none", &now)?;
    nothing_left(&bench, &gateway).await
}

async fn networks(bench: &EngineBench, gateway: &Gateway) -> Verdict<Vec<String>> {
    let label = crate::api::labelled(&format!("{}={}", managed::GATEWAY_ID, gateway.id));
    let found = bench.api().find(&format!("/networks?{label}")).await?.unwrap_or(Value::Null);
    let names = found.as_array().into_iter().flatten().filter_map(|one| Some(one["Name"].as_str()?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

async fn running(bench: &EngineBench, id: &SandboxId) -> Verdict<bool> {
    Ok(bench.inspect(id).await?["State"]["Running"] == true)
}

pub(crate) async fn nothing_left(bench: &EngineBench, gateway: &Gateway) -> Verdict {
    match bench.traces(&gateway.id).await? {
        traces if traces.is_empty() => Ok(()),
        traces => Err(Failure::Left(traces).into()),
    }
}
