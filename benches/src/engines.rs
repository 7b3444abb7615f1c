//! The `docker` and `podman` drivers beside the raw API of their engines, alternating: the same image, limits and
//! confinement, so that the difference is Chiton's. Engines are found as tests find them (`cargo xtask engines`).

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ExecConfig, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use chiton_proto::v1 as wire;
use futures::StreamExt as _;

use crate::figures::{Disk, Figures, millis};
use crate::gateway::{Done, Gateway, create, delete, exec_true, spec};

/// Execs a round.
const EXECS: usize = 3;
/// The longest answer of an engine, in seconds.
const PATIENCE: u64 = 60;

/// An engine that is measured.
struct Peer {
    kind: &'static str,
    socket: String,
    api: Docker,
    image: String,
}

pub(crate) async fn run(rounds: usize) -> Done<()> {
    let Ok(image) = std::env::var("ENGINES_IMAGE") else {
        println!("SKIPPED engines: ENGINES_IMAGE is not set (cargo xtask engines run -- cargo xtask bench 50 engines)");
        return Ok(());
    };
    for (kind, variable) in [("docker", "ENGINES_DOCKER"), ("podman", "ENGINES_PODMAN")] {
        let Ok(socket) = std::env::var(variable) else {
            println!("SKIPPED {kind}: {variable} is not set");
            continue;
        };
        let api = Docker::connect_with_unix(&socket, PATIENCE, API_DEFAULT_VERSION)?.negotiate_version().await?;
        measure(&Peer { kind, socket, api, image: image.clone() }, rounds).await?;
    }
    Ok(())
}

#[derive(Default)]
struct Rows {
    sync: Figures,
    raw: [Figures; 4],
    ours: [Figures; 4],
}

async fn measure(peer: &Peer, rounds: usize) -> Done<()> {
    let folder = tempfile::Builder::new().prefix("chiton-bench-").tempdir()?;
    let config = format!(
        "[compute]\ndrivers = [{kind:?}]\n[compute.driver.{kind}]\nsocket = {socket:?}\ndefault_image = {image:?}\n",
        kind = peer.kind,
        socket = peer.socket,
        image = peer.image
    );
    let gateway = Gateway::start_with(folder.path(), Some(&config))?;
    let mut client = gateway.client().await?;
    let mut floor = Disk::open(folder.path())?;
    let mut rows = Rows::default();
    for round in 0..=rounds {
        let synced = floor.sync()?;
        let raw = peer.round(&format!("bench-{}-{round}", std::process::id())).await?;
        let ours = round_of_ours(&gateway, &mut client, round).await?;
        // The first round fills caches.
        if round > 0 {
            rows.sync.add(synced);
            rows.raw.iter_mut().zip(raw).for_each(|(row, time)| row.add(time));
            rows.ours.iter_mut().zip(ours).for_each(|(row, time)| row.add(time));
        }
    }
    rows.report(peer.kind);
    Ok(())
}

async fn round_of_ours(gateway: &Gateway, client: &mut chiton_client::Client, round: usize) -> Done<[Duration; 4]> {
    let name = format!("bench-{round}");
    let request = wire::SandboxSpec { command: ["sleep", "600"].map(str::to_owned).to_vec(), ..spec("") };
    let begin = Instant::now();
    create(client, &name, request).await?;
    let ready = begin.elapsed();
    let begin = Instant::now();
    for _ in 0..EXECS {
        exec_true(client, &name).await?;
    }
    let exec = begin.elapsed() / u32::try_from(EXECS)?;
    let cli = command(&gateway.program, &["--gateway", &gateway.address, "sandbox", "exec", &name, "--", "true"])?;
    let begin = Instant::now();
    delete(client, &name).await?;
    Ok([ready, exec, cli, begin.elapsed()])
}

/// One command line to its end.
fn command(program: &Path, arguments: &[&str]) -> Done<Duration> {
    let begin = Instant::now();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(begin.elapsed());
    }
    Err(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr)).into())
}

impl Peer {
    /// What a careful user asks the API for: the limits and the confinement that our containers have.
    fn body(&self) -> ContainerCreateBody {
        let log = match self.kind {
            "docker" => "local",
            _ => "k8s-file",
        };
        let limit = |name: &str| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(1024), hard: Some(1024) };
        ContainerCreateBody {
            image: Some(self.image.clone()),
            // It ends when it is asked to, as a sandbox does: a process 1 without a handler would not.
            cmd: Some(["sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"].map(str::to_owned).to_vec()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                memory: Some(256 << 20),
                memory_swap: Some(256 << 20),
                pids_limit: Some(256),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                log_config: Some(HostConfigLogConfig {
                    typ: Some(log.to_owned()),
                    config: Some(HashMap::from([("max-size".to_owned(), "8192k".to_owned())])),
                }),
                ulimits: Some(vec![limit("nofile"), limit("nproc")]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    async fn round(&self, name: &str) -> Done<[Duration; 4]> {
        let begin = Instant::now();
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        self.api.create_container(Some(options), self.body()).await?;
        self.api.start_container(name, None::<StartContainerOptions>).await?;
        let started = begin.elapsed();
        let begin = Instant::now();
        for _ in 0..EXECS {
            self.exec_true(name).await?;
        }
        let exec = begin.elapsed() / u32::try_from(EXECS)?;
        let url = format!("unix://{}", self.socket);
        let cli = match self.kind {
            "docker" => command(Path::new("docker"), &["--host", &url, "exec", name, "true"])?,
            _ => command(Path::new("podman"), &["--url", &url, "exec", name, "true"])?,
        };
        let begin = Instant::now();
        self.api.stop_container(name, Some(StopContainerOptionsBuilder::new().t(10).build())).await?;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        self.api.remove_container(name, Some(options)).await?;
        Ok([started, exec, cli, begin.elapsed()])
    }

    async fn exec_true(&self, name: &str) -> Done<()> {
        let exec = ExecConfig {
            cmd: Some(vec!["true".to_owned()]),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let id = self.api.create_exec(name, exec).await?.id;
        if let StartExecResults::Attached { mut output, .. } =
            self.api.start_exec(&id, None::<StartExecOptions>).await?
        {
            while output.next().await.transpose()?.is_some() {}
        }
        match self.api.inspect_exec(&id).await?.exit_code {
            Some(0) => Ok(()),
            code => Err(format!("true ended with {code:?}").into()),
        }
    }
}

impl Rows {
    fn report(&self, kind: &str) {
        println!("\n# driver {kind} beside its engine's raw API");
        self.sync.report("F: fdatasync of 4 KiB");
        let whats = ["create → running, ready", "exec true", "exec true, whole CLI process", "stop and remove"];
        for ((what, raw), ours) in whats.iter().zip(&self.raw).zip(&self.ours) {
            raw.report(&format!("{kind}: {what}"));
            ours.report(&format!("chiton: {what}"));
            println!("{what}: {:.2} ×", ours.median().as_secs_f64() / raw.median().as_secs_f64());
        }
        for (what, at) in [("create → ready", 0), ("stop and remove", 3)] {
            let goal = self.raw[at].median().mul_f64(1.05) + self.sync.median() * 2;
            println!("{what}: {:.1} ms; goal 1.05 × + 2 F = {:.1} ms", millis(self.ours[at].median()), millis(goal));
        }
    }
}
