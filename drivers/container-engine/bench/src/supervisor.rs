//! Another gateway's supervisor in sandboxes, held against the other side's lists from inside the sandbox: a program that
//! stands in its place says what it was given.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chiton_container_engine::{ClientTls, Injects, Supervisor, SupervisorOptions, Ways};
use chiton_driver::{
    AgentLaunch, CallError, CreateCall, DriverEvent, GatewayListener, ListenAt, LogOptions, PlanRequest,
};
use chiton_driver_suite::{Bench as _, Failure, Verdict, text_of_files};
use chiton_model::{NetworkMode, SandboxId};
use futures::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket};

use crate::api::query;
use crate::bench::{EngineBench, Target, finally};
use crate::life::{Gateway, done, holds};

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
[ -e /run/chiton ] || [ -e /run/chiton-agent ] && echo "chiton is here"
echo said
trap 'exit 7' TERM
while :; do sleep 0.05; done
"#;

/// Says its token to its gateway, as its endpoint says, again and again.
const CALLER: &str = r#"#!/bin/sh
place="${OPENSHELL_ENDPOINT#http://}"
trap 'exit 7' TERM
while :; do nc -w 2 "${place%:*}" "${place##*:}" < /etc/openshell/auth/sandbox.jwt; sleep 0.05; done
"#;

const PROGRAM: &str = "/opt/openshell/bin/openshell-sandbox";
const TOKEN: &str = "/etc/openshell/auth/sandbox.jwt";
const TLS: [(&str, &str, &str); 3] = [
    ("ca", "/etc/openshell/tls/client/ca.crt", "OPENSHELL_TLS_CA"),
    ("cert", "/etc/openshell/tls/client/tls.crt", "OPENSHELL_TLS_CERT"),
    ("key", "/etc/openshell/tls/client/tls.key", "OPENSHELL_TLS_KEY"),
];
const ENDPOINT: &str = "https://host.openshell.internal:17670";

/// Docker's capabilities by default, by their numbers: what a container has that asks for nothing.
const DOCKER_DEFAULT: [u32; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
/// Podman's.
const PODMAN_DEFAULT: [u32; 11] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31];
/// What is added on docker: `SYS_ADMIN`, `NET_ADMIN`, `SYS_PTRACE`, `SYSLOG`.
const DOCKER_ADDED: [u32; 4] = [21, 12, 19, 34];
/// On podman also `DAC_READ_SEARCH` and `SETPCAP`.
const PODMAN_ADDED: [u32; 6] = [21, 12, 19, 34, 2, 8];
/// `DAC_OVERRIDE`, `FSETID`, `KILL`, `NET_BIND_SERVICE`, `NET_RAW`, `SETFCAP`, `SYS_CHROOT`.
const PODMAN_DROPPED: [u32; 7] = [1, 4, 5, 10, 13, 31, 18];

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

/// The supervisor gets what its own drivers give it, item by item, and its token nobody else sees.
pub async fn a_supervisor_gets_what_its_own_drivers_give_it(target: Target) -> Verdict {
    let scene = Scene::of_file(target).await?;
    let id = Gateway::sandbox()?;
    let token = format!("eyJ.{}.sig", uuid::Uuid::new_v4().simple());
    let call = scene.call(&id, &token).await?;
    holds(!call.plan.to_string().contains(&token), "the plan", "without the token", ())?;
    let driver = &scene.gateway.driver;
    done("create", driver.create(&call).await)?;
    unseen(&scene, &id, &token, "it is created").await?;
    done("start", driver.start(&call).await)?;
    let report = scene.said(&id, 1).await?;
    let podman = scene.ways == Ways::Podman;

    // The entry point, its arguments, who it is and where it begins.
    // Docker's works where the image says, which is /work; podman's never.
    report.is("argv", &format!("{PROGRAM} --workdir {}", if podman { "/sandbox" } else { "/work" }))?;
    report.is("user", "0 0")?;
    report.is("folder", if podman { "/work" } else { "/" })?;
    // Files.
    report.file(PROGRAM, "555 0:0", STAND_IN)?;
    report.file(TOKEN, if podman { "400 0:0" } else { "600 0:0" }, &format!("{token}\n"))?;
    for (name, file, _) in TLS {
        report.file(file, "600 0:0", &format!("the {name} of a test\n"))?;
    }
    holds(report.all("writable").is_empty(), "files that can be written", "none", report.all("writable"))?;
    holds(!report.0.contains("chiton is here"), "Chiton's own agent", "not there", &report.0)?;
    variables(&report, &id, podman)?;
    // Capabilities and what confines it besides.
    let sum = |list: &[u32]| list.iter().fold(0_u64, |all, bit| all | 1 << bit);
    let own = if podman {
        (sum(&PODMAN_DEFAULT) & !sum(&PODMAN_DROPPED)) | sum(&PODMAN_ADDED)
    } else {
        sum(&DOCKER_DEFAULT) | sum(&DOCKER_ADDED)
    };
    for set in ["CapBnd:", "CapEff:"] {
        let found = report.about("status", set).and_then(|value| u64::from_str_radix(value, 16).ok());
        holds(found == Some(own), set, &format!("{own:#x}"), found.map(|found| format!("{found:#x}")))?;
    }
    let gains = if podman { "1" } else { "0" };
    holds(report.about("status", "NoNewPrivs:") == Some(gains), "NoNewPrivs", gains, report.all("status"))?;
    let filtered = if podman { "0" } else { "2" };
    holds(report.about("status", "Seccomp:") == Some(filtered), "Seccomp", filtered, report.all("status"))?;
    hosts(&scene, &report, podman).await?;
    for (target, kind) in [("/run/netns", "tmpfs")].into_iter().filter(|_| podman) {
        let there = report.about("mount", target).is_some_and(|mount| mount.starts_with(kind));
        holds(there, "the mounts", &format!("{kind} at {target}"), report.all("mount"))?;
    }
    if podman {
        holds(report.about("mount", "/sandbox").is_some(), "the workspace", "a volume", report.all("mount"))?;
    }
    let found = scene.bench.inspect(&id).await?;
    let host = &found["HostConfig"];
    holds(host["PidsLimit"] == 2048, "the limit of processes", "2048", &host["PidsLimit"])?;
    let restarts = &host["RestartPolicy"]["Name"];
    holds(*restarts == "no" || *restarts == "", "the restart policy", "none", restarts)?;

    unseen(&scene, &id, &token, "it runs").await?;
    done("stop", driver.stop(&id).await)?;
    unseen(&scene, &id, &token, "it is stopped").await?;
    // The next start is told its own token, also where a reboot took the file.
    let folder = scene.token_folder(&id)?;
    fs::remove_dir_all(&folder).map_err(|error| Failure::bench("remove the token", error))?;
    let next = format!("eyJ.{}.next", uuid::Uuid::new_v4().simple());
    let call = CreateCall { agent: Some(AgentLaunch { token: next.clone(), attempt: "a-2".to_owned() }), ..call };
    done("start", driver.start(&call).await)?;
    let report = scene.said(&id, 2).await?;
    report.file(TOKEN, if podman { "400 0:0" } else { "600 0:0" }, &format!("{next}\n"))?;
    // Whoever starts it without one leaves it the last; without any it is not started.
    done("stop", driver.stop(&id).await)?;
    let call = CreateCall { agent: None, ..call };
    done("start", driver.start(&call).await)?;
    scene.said(&id, 3).await?.file(TOKEN, if podman { "400 0:0" } else { "600 0:0" }, &format!("{next}\n"))?;
    done("stop", driver.stop(&id).await)?;
    fs::remove_dir_all(&folder).map_err(|error| Failure::bench("remove the token", error))?;
    let refused = driver.start(&call).await;
    let cured = matches!(&refused, Err(CallError::NotRun(error)) if error.cure.is_some());
    holds(cured, "a start without any token", "refused with a cure", refused)?;
    done("delete", driver.delete(&id).await)?;
    scene.nothing_left().await
}

fn variables(report: &Report, id: &SandboxId, podman: bool) -> Verdict {
    let spec = r#"{"version":1,"command":["sh","-c","echo main"],"tty":false}"#;
    let mut wanted: BTreeMap<&str, &str> = [
        ("OPENSHELL_ENDPOINT", ENDPOINT),
        ("OPENSHELL_SANDBOX_ID", id.as_str()),
        ("OPENSHELL_SANDBOX", "box"),
        ("OPENSHELL_SSH_SOCKET_PATH", "/run/openshell/ssh.sock"),
        ("OPENSHELL_LOG_LEVEL", "info"),
        ("OPENSHELL_MAIN_PROCESS_SPEC", spec),
        ("OPENSHELL_USER_ENVIRONMENT", r#"{"GREETING":"hello there"}"#),
        ("OPENSHELL_SANDBOX_TOKEN_FILE", TOKEN),
        ("OPENSHELL_OCI_IMAGE_USER", ""),
        ("OPENSHELL_SANDBOX_UID", ""),
        ("OPENSHELL_SANDBOX_GID", ""),
        ("OPENSHELL_TELEMETRY_ENABLED", "false"),
        ("OPENSHELL_NETWORK_RUNTIME_CAPABILITIES", "policy-dns-transparent-tcp"),
        ("GREETING", "hello there"),
        ("IMAGE_SAYS", "from the image"),
    ]
    .into();
    wanted.extend(TLS.map(|(_, file, variable)| (variable, file)));
    let image = std::env::var("ENGINES_IMAGE").unwrap_or_default();
    if podman {
        wanted.insert("OPENSHELL_CONTAINER_IMAGE", &image);
    } else {
        wanted.insert("HOME", "/root");
        wanted.insert("TERM", "xterm");
        wanted.insert("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    }
    let found: BTreeMap<&str, &str> = report.all("env").into_iter().filter_map(|line| line.split_once('=')).collect();
    for (name, value) in &wanted {
        holds(found.get(name) == Some(value), name, value, found.get(name))?;
    }
    let own = |map: &BTreeMap<&str, &str>| map.keys().filter(|name| name.starts_with("OPENSHELL_")).count();
    holds(own(&found) == own(&wanted), "the supervisor's variables", "these alone", &found)?;
    holds(!found.keys().any(|name| name.starts_with("CHITON_")), "the variables", "none of Chiton's", &found)
}

/// Both names lead to the address at which the gateway was told to listen.
async fn hosts(scene: &Scene, report: &Report, podman: bool) -> Verdict {
    let asked = asked(scene).await?.ip().to_string();
    let own = if podman { "host.containers.internal" } else { "host.docker.internal" };
    for name in [own, "host.openshell.internal"] {
        let lines = report.all("host");
        let there = lines.iter().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(asked.as_str()) && words.any(|word| word == name)
        });
        holds(there, &format!("the address of {name}"), &asked, lines)?;
    }
    Ok(())
}

/// The one address that the driver asks its gateway to listen on.
async fn asked(scene: &Scene) -> Verdict<SocketAddr> {
    let asked = done("gateway_listeners", scene.gateway.driver.gateway_listeners().await)?;
    match asked.as_slice() {
        [GatewayListener { at: ListenAt::Address(address), .. }] => Ok(*address),
        _ => Err(Failure::bench("find out where to listen", format!("{asked:?} is not one address")).into()),
    }
}

/// A gateway that listens before there is any sandbox, and on nothing but what it was told, is reached from inside by the
/// name in the endpoint.
pub async fn a_supervisor_reaches_where_its_gateway_was_told_to_listen(target: Target) -> Verdict {
    let folder = tempfile::Builder::new().prefix("chiton-supervisor-").tempdir();
    let folder = folder.map_err(|error| Failure::bench("make a folder", error))?;
    // A port that nobody has at any address, nor gets until it is listened on: who has bound it without listening is not
    // in the way of a listener who shares it.
    let free = || {
        let free = TcpSocket::new_v4()?;
        free.set_reuseaddr(true)?;
        free.bind(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        Ok((free.local_addr()?.port(), free))
    };
    let (port, free) = free().map_err(|error: std::io::Error| Failure::bench("look for a port", error))?;
    let program = folder.path().join("supervisor");
    write(&program, CALLER, 0o755)?;
    let endpoint = format!("http://host.openshell.internal:{port}");
    let scene = Scene::new(target, SupervisorOptions::new(Supervisor::Bin(program), endpoint), folder).await?;
    let asked_first = asked(&scene).await?;
    holds(asked_first.port() == port, "the port", &port.to_string(), asked_first)?;
    let network = scene.bench.api().find(&format!("/networks/chiton.{}", scene.gateway.id)).await?;
    let internal = network.as_ref().map(|network| network["Internal"].clone());
    holds(internal != Some(json!(true)), "the network", "one that leads somewhere", network)?;
    let listener = TcpListener::bind(asked_first)
        .await
        .map_err(|error| Failure::bench(format!("listen on {asked_first}, before there is any sandbox"), error))?;
    drop(free);
    // On the gateway's bridge, and on the host's own network.
    for mode in [NetworkMode::None, NetworkMode::Host] {
        let id = Gateway::sandbox()?;
        let request = Gateway::request(&scene.bench.image(), "echo main", mode);
        let mut call = scene.gateway.call(&request, &id).await?;
        let token = format!("the-token-of-{id}");
        call.agent = Some(AgentLaunch { token: token.clone(), attempt: "a-1".to_owned() });
        done("create", scene.gateway.driver.create(&call).await)?;
        done("start", scene.gateway.driver.start(&call).await)?;
        let heard = tokio::time::timeout(std::time::Duration::from_mins(1), async {
            loop {
                let (caller, _) = listener.accept().await?;
                let mut line = String::new();
                // What the one before said may be waiting still, or was broken off with it; the next call is another.
                let mut caller = BufReader::new(caller);
                let read = tokio::time::timeout(std::time::Duration::from_secs(5), caller.read_line(&mut line)).await;
                if matches!(read, Ok(Ok(_))) && line.trim_end() == token {
                    return Ok::<_, std::io::Error>(());
                }
            }
        });
        let heard = heard.await.map_err(|_| Failure::bench(format!("be called at {asked_first}"), "nobody calls"))?;
        heard.map_err(|error| Failure::bench("hear a caller", error))?;
        done("delete", scene.gateway.driver.delete(&id).await)?;
    }
    let again = asked(&scene).await?;
    holds(again == asked_first, "what is asked for later", &asked_first.to_string(), again)?;
    scene.nothing_left().await
}

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

/// Where nothing is put into sandboxes, nothing is: no program, folder or variable of the gateway's.
pub async fn nothing_is_put_in_without_an_agent(target: Target) -> Verdict {
    let bench = EngineBench::without_agent(target)?;
    let gateway = Gateway::new(&bench).await?;
    let script = "[ -e /run/chiton ] || [ -e /run/chiton-agent ] && echo here; env; cat /proc/mounts; echo $$; exit 4";
    let request = Gateway::request(&bench.image(), script, NetworkMode::None);
    holds(!gateway.driver.capabilities().agent, "the driver's word", "no agent", ())?;
    let id = Gateway::sandbox()?;
    let mut call = gateway.call(&request, &id).await?;
    // Whoever hands credentials over all the same gives them to nobody.
    call.agent = Some(AgentLaunch { token: "a-token-for-nobody".to_owned(), attempt: "a-1".to_owned() });
    done("create", gateway.driver.create(&call).await)?;
    done("start", gateway.driver.start(&call).await)?;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut stream = done("logs", gateway.driver.logs(&id, options).await)?;
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&done("logs", chunk)?.data));
    }
    holds(text.lines().last() == Some("1"), "the main process", "the first of its namespace", &text)?;
    for word in ["chiton", "CHITON", "here"] {
        // Its own root is named by the engine's folders, wherever they are.
        let own = |line: &&str| ["HOSTNAME", "overlay / "].iter().any(|own| line.starts_with(own));
        let found: Vec<_> = text.lines().filter(|line| line.contains(word) && !own(line)).collect();
        holds(found.is_empty(), "what the process sees", &format!("nothing with {word:?}"), found)?;
    }
    let found = bench.inspect(&id).await?;
    let exposed = bench.exposed(&gateway.id, &id).await?;
    holds(!exposed.contains("a-token-for-nobody"), "what is shown", "no token", ())?;
    let command = (&found["Path"], &found["Args"][0]);
    holds(command == (&json!("sh"), &json!("-c")), "what runs", "the command alone", command)?;
    let run = bench.folder(&gateway.id)?.join("run/agent");
    holds(!run.exists(), "the folder of agents' sockets", "not made", &run)?;
    // The log's end is not yet the news of the process's.
    crate::restart::until_exit(&mut gateway.driver.watch(), &id).await?;
    let exit = done("get", gateway.driver.get(&id).await)?;
    let text = format!("{exit:?}");
    holds(text.contains("code: Some(4)"), "its end", "code 4", text)?;
    gateway.delete(&id).await?;
    crate::trials::nothing_left(&bench, &gateway).await
}
