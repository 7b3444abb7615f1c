//! Containers of a container engine: found by its API, never by what the driver says; killed by hand, and the engine with
//! them.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State};
use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveVolumeOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use chiton_proto::v1 as wire;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio::process::Command;

use super::platform::{Found, Life, Platform, entries};
use crate::engines::{self, GATEWAY, Kind, SANDBOX};

/// The address that it was made with.
const ADDRESS: &str = "chiton.dev/address";

/// No answer of the engine's takes longer.
const ANSWER: Duration = Duration::from_secs(30);
/// No order to end or start the engine takes longer.
const ORDER: Duration = Duration::from_mins(2);

/// How an engine of the run's own is ended and started: `cargo xtask engines`.
#[derive(Clone, Debug)]
pub struct Control {
    program: PathBuf,
    home: PathBuf,
    engine: &'static str,
}

impl Control {
    /// Kills the engine's own process, as a crash would.
    ///
    /// # Errors
    /// It does not end.
    pub async fn kill(&self) -> Result<(), String> {
        self.order("kill").await
    }

    /// Starts it again, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn start(&self) -> Result<(), String> {
        self.order("start").await
    }

    async fn order(&self, order: &str) -> Result<(), String> {
        let Self { program, home, engine } = self;
        let mut command = Command::new(program);
        command.args(["engines", "--dir"]).arg(home).args([order, engine]);
        // A file: what it starts may inherit it, and a pipe would stay open for as long.
        let files = tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file)));
        let (errors, mut said) = files.map_err(|error| format!("a file for what it says: {error}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).kill_on_drop(true);
        match tokio::time::timeout(ORDER, command.status()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                let mut text = String::new();
                // What cannot be read is not known.
                let _ = said.rewind().and_then(|()| said.read_to_string(&mut text));
                Err(format!("{order} {engine}: {status}: {}", text.trim()))
            }
            Ok(Err(error)) => Err(format!("{program:?} cannot be run: {error}")),
            Err(_) => Err(format!("{order} {engine} did not end within {ORDER:?}")),
        }
    }
}

/// The engine.
pub(super) struct Containers {
    engine: engines::Engine,
    driver: &'static str,
    /// The first three numbers of a /24 for the network of its sandboxes.
    subnet: [u8; 3],
    control: Option<Control>,
    api: Docker,
}

/// A network that this machine has no route to.
fn free_subnet() -> [u8; 3] {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    // Destination and mask, in hexadecimal as the machine has them in memory.
    let numbers = |line: &str| -> Option<(u32, u32)> {
        let mut fields = line.split_whitespace().skip(1);
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
        let destination = number(fields.next()?)?;
        Some((destination, number(fields.nth(5)?)?))
    };
    let routes: Vec<(u32, u32)> = routes.lines().filter_map(numbers).filter(|(_, mask)| *mask != 0).collect();
    let mut random = rand::rng();
    loop {
        let subnet = [10, random.random_range(100..200), random.random_range(0..=255)];
        let address = u32::from(Ipv4Addr::new(subnet[0], subnet[1], subnet[2], 0));
        let meets = |(to, mask): &(u32, u32)| address & mask == *to || to & 0xffff_ff00 == address;
        if !routes.iter().any(meets) {
            return subnet;
        }
    }
}

impl Containers {
    pub(super) fn from_environment(kind: Kind, kills_engine: bool) -> Result<Self, String> {
        let engine = engines::Engine::from_environment(kind)?;
        let address = engine.socket.to_string_lossy();
        let api = Docker::connect_with_unix(&address, ANSWER.as_secs(), API_DEFAULT_VERSION)
            .map_err(|error| format!("{address}: {error}"))?;
        let place = |name: &str| {
            let place = env::var_os(name).ok_or_else(|| format!("{name} is not set (cargo xtask engines up)"));
            place.map(PathBuf::from)
        };
        let control = || -> Result<Control, String> {
            Ok(Control { program: place("ENGINES_CONTROL")?, home: place("ENGINES_DIR")?, engine: kind.name() })
        };
        let control = kills_engine.then(control).transpose()?;
        Ok(Self { engine, driver: kind.name(), subnet: free_subnet(), control, api })
    }

    fn filters(gateway_id: &str) -> HashMap<&'static str, Vec<String>> {
        HashMap::from([("label", vec![format!("{GATEWAY}={gateway_id}")])])
    }

    async fn ask<T, E: std::fmt::Display>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("{}: the list of {what}: {error}", self.driver)),
            Err(_) => Err(format!("{}: no list of {what} within {ANSWER:?}", self.driver)),
        }
    }

    async fn containers(&self, gateway_id: &str) -> Result<Vec<ContainerSummary>, String> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&Self::filters(gateway_id)).build();
        self.ask("containers", self.api.list_containers(Some(options))).await
    }

    async fn networks(&self, gateway_id: &str) -> Result<Vec<String>, String> {
        let options = ListNetworksOptionsBuilder::new().filters(&Self::filters(gateway_id)).build();
        let found = self.ask("networks", self.api.list_networks(Some(options))).await?;
        Ok(found.into_iter().filter_map(|network| network.name).collect())
    }

    async fn volume_names(&self, gateway_id: &str) -> Result<Vec<String>, String> {
        let options = ListVolumesOptionsBuilder::new().filters(&Self::filters(gateway_id)).build();
        let found = self.ask("volumes", self.api.list_volumes(Some(options))).await?;
        Ok(found.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }
}

/// A container as something that was found.
fn found(container: &ContainerSummary) -> Found {
    let labels = container.labels.clone().unwrap_or_default();
    let id = labels.get(SANDBOX).cloned().unwrap_or_default();
    let runs = matches!(container.state, Some(State::RUNNING | State::PAUSED | State::RESTARTING));
    // What it has on the network, else what it is to have when it starts.
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let given = networks.into_iter().flatten().filter_map(|(_, endpoint)| endpoint.ip_address.clone());
    let address = given.into_iter().find(|address| !address.is_empty()).or_else(|| labels.get(ADDRESS).cloned());
    let names = container.names.clone().unwrap_or_default().join(", ");
    let state = container.state.map(|state| state.to_string()).unwrap_or_default();
    Found {
        life: if runs { Life::Running } else { Life::There },
        what: format!("container {names} of {id} ({state})"),
        address: address.map(|address| (address, id)),
    }
}

#[async_trait]
impl Platform for Containers {
    fn id(&self) -> &'static str {
        self.driver
    }

    fn usable(&self) -> Result<(), String> {
        if rustix::process::geteuid().is_root() { Ok(()) } else { Err("network namespaces need root".to_owned()) }
    }

    fn config(&self) -> String {
        let Self { engine, driver, subnet: [a, b, c], .. } = self;
        let block = engine.block(&engine.socket);
        format!("{block}pull = \"never\"\n[compute.driver.{driver}.bridge]\nsubnet = \"{a}.{b}.{c}.0/24\"\n")
    }

    fn range(&self) -> String {
        let [a, b, c] = self.subnet;
        // The first address is the engine's.
        format!("{a}.{b}.{c}.2-{a}.{b}.{c}.254")
    }

    fn serves(&self) -> Duration {
        Duration::from_millis(1500)
    }

    fn spec(&self, random: &mut StdRng) -> wire::SandboxSpec {
        let command: &[&str] = match random.random_range(0..10) {
            0..5 => &[],
            5..8 => &["sh", "-c", "while :; do sleep 0.1; done"],
            _ => &["sh", "-c", "sleep 0.2; exit 3"],
        };
        let network =
            random.random_ratio(1, 3).then(|| wire::Network { mode: "bridge".to_owned(), ..Default::default() });
        let volumes = random.random_ratio(1, 6).then(|| wire::VolumeMount {
            name: format!("kept-{}", random.random_range(0..3)),
            target: "/kept".to_owned(),
            ..Default::default()
        });
        wire::SandboxSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            network,
            volumes: volumes.into_iter().collect(),
            ..Default::default()
        }
    }

    fn exec(&self) -> bool {
        true
    }

    fn remote(&self) -> bool {
        true
    }

    async fn look(&self, gateway_id: &str, folder: &Path, _gateway: Option<i32>) -> Result<Vec<Found>, String> {
        let mut all: Vec<Found> = self.containers(gateway_id).await?.iter().map(found).collect();
        let networks = self.networks(gateway_id).await?.into_iter();
        all.extend(networks.map(|name| Found::new(Life::Common, format!("network {name}"))));
        let volumes = self.volume_names(gateway_id).await?.into_iter();
        all.extend(volumes.map(|name| Found::new(Life::Kept, format!("volume {name}"))));
        all.extend(entries(&folder.join("data/run/drivers").join(self.driver).join("agent")));
        Ok(all)
    }

    async fn harm(&self, gateway_id: &str, _folder: &Path, random: &mut StdRng) -> Option<&'static str> {
        let containers = self.containers(gateway_id).await.ok()?;
        let running: Vec<&String> = containers
            .iter()
            .filter(|container| container.state == Some(State::RUNNING))
            .filter_map(|container| container.id.as_ref())
            .collect();
        let id = running.choose(random)?;
        if random.random_ratio(1, 4) {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            self.ask("removals", self.api.remove_container(id, Some(options))).await.ok()?;
            return Some("removed");
        }
        self.ask("kills", self.api.kill_container(id, None::<KillContainerOptions>)).await.ok()?;
        Some("container")
    }

    fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    async fn sweep(&self, gateway_id: &str, _folder: &Path) {
        // What cannot be removed was said to be left already.
        for id in self.containers(gateway_id).await.unwrap_or_default().into_iter().filter_map(|found| found.id) {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            drop(self.ask("removals", self.api.remove_container(&id, Some(options))).await);
        }
        for name in self.networks(gateway_id).await.unwrap_or_default() {
            drop(self.ask("removals", self.api.remove_network(&name)).await);
        }
        for name in self.volume_names(gateway_id).await.unwrap_or_default() {
            drop(self.ask("removals", self.api.remove_volume(&name, None::<RemoveVolumeOptions>)).await);
        }
    }
}
