//! Another gateway's supervisor in sandboxes, held against the other side's lists from inside the sandbox: a program that
//! stands in its place says what it was given.

mod given;
mod program;
mod reach;
mod reboot;
mod without;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chiton_container_engine::{ClientTls, Injects, Supervisor, SupervisorOptions, Ways};
use chiton_driver::{AgentLaunch, CreateCall, GatewayListener, ListenAt, LogOptions, PlanRequest};
use chiton_driver_suite::{Bench as _, Failure, Verdict, text_of_files};
use chiton_model::{NetworkMode, SandboxId};
use futures::StreamExt as _;
use http::Method;
use sha2::{Digest as _, Sha256};

use crate::bench::{EngineBench, Target};
use crate::life::{Gateway, done, holds};

pub use given::a_supervisor_gets_what_its_own_drivers_give_it;
pub use program::{a_supervisor_is_taken_out_of_its_image_once, what_a_crash_leaves_of_a_supervisor_is_swept};
pub use reach::a_supervisor_reaches_where_its_gateway_was_told_to_listen;
pub use reboot::a_supervisor_is_started_again_after_a_reboot;
pub use without::nothing_is_put_in_without_an_agent;

/// Says all that it was given, and runs until it is stopped.
const STAND_IN: &str = r#"#!/bin/sh
echo "argv $0 $*"
echo "folder $(pwd)"
echo "user $(id -u) $(id -g)"
env | while read -r line; do echo "env $line"; done
for file in /opt/openshell/bin/openshell-sandbox /etc/openshell/auth/sandbox.jwt \
    /etc/openshell/tls/client/ca.crt /etc/openshell/tls/client/tls.crt /etc/openshell/tls/client/tls.key; do
    [ -e "$file" ] || { echo "absent $file"; continue; }
    echo "mode $file $(stat -c '%a %u:%g' "$file")"
    echo "content $file $(sha256sum < "$file" | cut -d' ' -f1)"
    (: >> "$file") 2> /dev/null && echo "writable $file"
done
while read -r name value; do
    case "$name" in CapBnd:|CapEff:|NoNewPrivs:|Seccomp:) echo "status $name $value" ;; esac
done < /proc/self/status
while read -r address names; do echo "host $address $names"; done < /etc/hosts
while read -r _ target kind options _; do echo "mount $target $kind $options"; done < /proc/mounts
(: > /run/netns/try) 2> /dev/null && echo "netns can be made"
[ -e /run/chiton ] || [ -e /run/chiton-agent ] && echo "chiton is here"
echo said
trap 'exit 7' TERM
while :; do sleep 0.05; done
"#;

const PROGRAM: &str = "/opt/openshell/bin/openshell-sandbox";
const TOKEN: &str = "/etc/openshell/auth/sandbox.jwt";
const TLS: [(&str, &str, &str); 3] = [
    ("ca", "/etc/openshell/tls/client/ca.crt", "OPENSHELL_TLS_CA"),
    ("cert", "/etc/openshell/tls/client/tls.crt", "OPENSHELL_TLS_CERT"),
    ("key", "/etc/openshell/tls/client/tls.key", "OPENSHELL_TLS_KEY"),
];
const ENDPOINT: &str = "https://host.openshell.internal:17670";

/// A platform whose sandboxes get the stand-in, and what it is made from.
struct Scene {
    bench: EngineBench,
    gateway: Gateway,
    ways: Ways,
    /// Files of the operator.
    folder: tempfile::TempDir,
}

impl Scene {
    /// With the stand-in as a file, and with certificates.
    async fn of_file(target: Target) -> Verdict<Self> {
        let folder = tempfile::Builder::new().prefix("chiton-supervisor-").tempdir();
        let folder = folder.map_err(|error| Failure::bench("make a folder", error))?;
        let path = |name: &str| folder.path().join(name);
        write(&path("supervisor"), STAND_IN, 0o755)?;
        for (name, ..) in TLS {
            write(&path(name), &format!("the {name} of a test\n"), 0o600)?;
        }
        let mut options = SupervisorOptions::new(Supervisor::Bin(path("supervisor")), ENDPOINT.to_owned());
        options.tls = Some(ClientTls { ca: path("ca"), cert: path("cert"), key: path("key") });
        Self::new(target, options, folder).await
    }

    async fn new(target: Target, options: SupervisorOptions, folder: tempfile::TempDir) -> Verdict<Self> {
        let ways = target.dialect.supervised();
        let bench = EngineBench::injecting(target, Injects::Supervisor(Box::new(options)))?;
        let gateway = Gateway::new(&bench).await?;
        Ok(Self { bench, gateway, ways, folder })
    }

    fn request(&self) -> PlanRequest {
        let mut request = Gateway::request(&self.bench.image(), "echo main", NetworkMode::None);
        request.env.insert("GREETING".to_owned(), "hello there".to_owned());
        request
    }

    /// The call of a request, with a token.
    async fn call(&self, id: &SandboxId, token: &str) -> Verdict<CreateCall> {
        let mut call = self.gateway.call(&self.request(), id).await?;
        call.agent = Some(AgentLaunch { token: token.to_owned(), attempt: "a-1".to_owned() });
        Ok(call)
    }

    /// Where the driver keeps a sandbox's token.
    fn token_folder(&self, id: &SandboxId) -> Verdict<PathBuf> {
        Ok(self.bench.folder(&self.gateway.id)?.join("run/supervisor").join(id.as_str()))
    }

    /// What the stand-in said in its `count`th life.
    async fn said(&self, id: &SandboxId, count: usize) -> Verdict<Report> {
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let mut stream = done("logs", self.gateway.driver.logs(id, options).await)?;
        let mut text = String::new();
        let read = async {
            while let Some(chunk) = stream.next().await {
                text.push_str(&String::from_utf8_lossy(&done("logs", chunk)?.data));
                if text.lines().filter(|line| *line == "said").count() >= count {
                    return Ok(());
                }
            }
            Ok(())
        };
        let read: Result<Verdict, _> = tokio::time::timeout(std::time::Duration::from_mins(1), read).await;
        read.map_err(|_| Failure::bench("read what the supervisor said", "it says no more"))??;
        let life = text.split("said\n").nth(count - 1).unwrap_or_default().to_owned();
        Ok(Report(life))
    }

    /// Nothing of the gateway's sandboxes is on the platform; its network stays for the next, and is removed here.
    async fn nothing_left(&self) -> Verdict {
        let network = format!("chiton.{}", self.gateway.id);
        let kept = format!("network {network:?}");
        let left = self.bench.traces(&self.gateway.id).await?;
        holds(left == [kept.clone()], "what is left", &format!("the network alone: {kept}"), &left)?;
        let tokens = self.bench.folder(&self.gateway.id)?.join("run/supervisor");
        let entries: Vec<_> = fs::read_dir(&tokens).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        holds(entries.is_empty(), "the folder of tokens", "empty", entries)?;
        self.bench.api().remove(&format!("/networks/{network}")).await
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Verdict {
    let written = fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    written.map_err(|error| Failure::bench(format!("write {}", path.display()), error).into())
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// What the stand-in said.
struct Report(String);

impl Report {
    /// The rest of the lines that begin with a word.
    fn all(&self, word: &str) -> Vec<&str> {
        self.0.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
    }

    fn is(&self, word: &str, expected: &str) -> Verdict {
        let found = self.all(word);
        holds(found == [expected], word, expected, found)
    }

    /// A field of the line about a file.
    fn about(&self, word: &str, file: &str) -> Option<&str> {
        self.all(word).into_iter().find_map(|line| line.strip_prefix(file)?.strip_prefix(' '))
    }

    fn file(&self, file: &str, mode: &str, content: &str) -> Verdict {
        holds(self.about("mode", file) == Some(mode), &format!("the mode of {file}"), mode, self.about("mode", file))?;
        let found = self.about("content", file);
        holds(found == Some(hash(content).as_str()), &format!("the content of {file}"), &hash(content), found)
    }
}

/// The one address that the driver asks its gateway to listen on.
async fn asked(scene: &Scene) -> Verdict<SocketAddr> {
    let asked = done("gateway_listeners", scene.gateway.driver.gateway_listeners().await)?;
    match asked.as_slice() {
        [GatewayListener { at: ListenAt::Address(address), .. }] => Ok(*address),
        _ => Err(Failure::bench("find out where to listen", format!("{asked:?} is not one address")).into()),
    }
}

/// The token is in nothing that anybody can look at, its own file aside, which is its owner's alone.
async fn unseen(scene: &Scene, id: &SandboxId, token: &str, when: &str) -> Verdict {
    let mut text = String::new();
    for path in [
        format!("/containers/chiton-{id}/json"),
        format!("/containers/chiton-{id}/top"),
        format!("/containers/chiton-{id}/logs?stdout=true&stderr=true"),
        "/containers/json?all=true".to_owned(),
        "/volumes".to_owned(),
    ] {
        text.push_str(&scene.bench.api().ask(Method::GET, &path, None).await?.text);
    }
    holds(text.contains(id.as_str()), &format!("what is shown when {when}"), "the sandbox's id", "a look past it")?;
    let folder = scene.bench.folder(&scene.gateway.id)?;
    text_of_files(&folder.join("state"), &mut text);
    holds(!text.contains(token), &format!("what is shown when {when}"), "no token", "one")?;
    let file = scene.token_folder(id)?.join("sandbox.jwt");
    let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o777).unwrap_or_default();
    let wanted = if scene.ways == Ways::Podman { 0o400 } else { 0o600 };
    holds(mode(&file) == wanted, "the mode of the token's file", &format!("{wanted:o}"), format!("{:o}", mode(&file)))?;
    let parent = scene.token_folder(id)?;
    holds(mode(&parent) == 0o700, "the mode of its folder", "700", format!("{:o}", mode(&parent)))?;
    let run = scene.bench.folder(&scene.gateway.id)?.join("run");
    let mut elsewhere = String::new();
    for entry in fs::read_dir(&run).into_iter().flatten().flatten().filter(|entry| entry.file_name() != "supervisor") {
        text_of_files(&entry.path(), &mut elsewhere);
    }
    holds(!elsewhere.contains(token), "other files of the driver", "without the token", ())
}
