//! What a supervisor gets, item by item.

use std::collections::BTreeMap;
use std::fs;

use chiton_container_engine::Ways;
use chiton_driver::{AgentLaunch, CallError, CreateCall};
use chiton_driver_suite::{Failure, Verdict};
use chiton_model::SandboxId;

use super::{ENDPOINT, PROGRAM, Report, STAND_IN, Scene, TLS, TOKEN, asked, unseen};
use crate::bench::Target;
use crate::life::{Gateway, done, holds};

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
        let written = report.0.contains("netns can be made");
        holds(written, "/run/netns", "a place where the supervisor may write", report.all("mount"))?;
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
