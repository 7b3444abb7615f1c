//! Containers of a container engine: found by its API, never by what the driver says; killed by hand, and the engine with
//! them.

use std::env;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use chiton_proto::v1 as wire;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::Value;
use tokio::process::Command;

use super::platform::{Found, Life, Platform, entries};
use crate::engines::{self, GATEWAY, Kind, SANDBOX};

/// The address that it was made with.
const ADDRESS: &str = "chiton.dev/address";

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
        let place = |name: &str| {
            let place = env::var_os(name).ok_or_else(|| format!("{name} is not set (cargo xtask engines up)"));
            place.map(PathBuf::from)
        };
        let control = || -> Result<Control, String> {
            Ok(Control { program: place("ENGINES_CONTROL")?, home: place("ENGINES_DIR")?, engine: kind.name() })
        };
        let control = kills_engine.then(control).transpose()?;
        Ok(Self { engine, driver: kind.name(), subnet: free_subnet(), control })
    }

    /// Asks the engine on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&engines::Engine) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let engine = self.engine.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&engine)).await;
        asked.map_err(|error| error.to_string())?
    }

    async fn listed(&self, path: &'static str, gateway_id: &str) -> Result<Vec<Value>, String> {
        let label = format!("{GATEWAY}={gateway_id}");
        self.ask(move |engine| engine.listed(path, &label)).await
    }
}

const CONTAINERS: &str = "/containers/json?all=true";

/// A container as something that was found.
fn found(container: &Value) -> Found {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (labels, state) = (&container["Labels"], text(&container["State"]));
    let id = text(&labels[SANDBOX]);
    // What it has on the network, else what it is to have when it starts.
    let networks = container["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    let given = networks.map(|(_, endpoint)| text(&endpoint["IPAddress"])).find(|address| !address.is_empty());
    let address = given.or_else(|| labels[ADDRESS].as_str().map(str::to_owned));
    Found {
        life: if ["running", "paused", "restarting"].contains(&&*state) { Life::Running } else { Life::There },
        what: format!("container {} of {id} ({state})", container["Names"]),
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
        Duration::from_millis(2500)
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
        let mut all: Vec<Found> = self.listed(CONTAINERS, gateway_id).await?.iter().map(found).collect();
        for (list, life, what) in [("/networks", Life::Common, "network"), ("/volumes", Life::Kept, "volume")] {
            let list = self.listed(list, gateway_id).await?.into_iter();
            all.extend(list.map(|found| Found::new(life, format!("{what} {}", found["Name"]))));
        }
        all.extend(entries(&folder.join("data/run/drivers").join(self.driver).join("agent")));
        Ok(all)
    }

    async fn harm(&self, gateway_id: &str, _folder: &Path, random: &mut StdRng) -> Option<&'static str> {
        let containers = self.listed(CONTAINERS, gateway_id).await.ok()?;
        let running: Vec<&str> = containers
            .iter()
            .filter(|container| container["State"] == "running")
            .filter_map(|container| container["Id"].as_str())
            .collect();
        let id = running.choose(random)?;
        let (method, path, kind) = if random.random_ratio(1, 4) {
            ("DELETE", format!("/containers/{id}?force=true&v=true"), "removed")
        } else {
            ("POST", format!("/containers/{id}/kill"), "container")
        };
        let (status, _) = self.ask(move |engine| engine.ask(method, &path, None)).await.ok()?;
        (200..300).contains(&status).then_some(kind)
    }

    fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    async fn sweep(&self, gateway_id: &str, _folder: &Path) {
        let gateway_id = gateway_id.to_owned();
        let swept = self.ask(move |engine| {
            engine.sweep(&gateway_id);
            Ok(())
        });
        // What is left was said already.
        drop(swept.await);
    }
}
