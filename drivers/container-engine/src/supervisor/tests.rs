//! What the engine is asked for when a supervisor is injected, against the other side's lists.

use std::collections::BTreeMap;

use bollard::models::{ContainerCreateBody, MountType};
use chiton_driver::WhoseAgent;
use chiton_model::{ErrorKind, NetworkMode};
use serde_json::{Value, json};

use super::{AgentPlan, ClientTls, HostAddress, Injected, Injects, ProgramPlan, Supervisor, SupervisorOptions};
use crate::body::{self, Put};
use crate::engine::Abilities;
use crate::options::EngineOptions;
use crate::plan::{EnginePlan, MountPlan, PlanContext, default_plan, field_rules};
use crate::tests::{ABLE, PaperPodman, found, identity, options, request};
use crate::{check, plan};

fn supervised(podman: bool, tls: bool) -> EngineOptions {
    let mut all = options();
    if podman {
        all.dialect = &PaperPodman;
    }
    let program = Supervisor::Bin("/srv/openshell-sandbox".into());
    let mut own = SupervisorOptions::new(program, "https://host.openshell.internal:17670".to_owned());
    own.tls = tls.then(|| ClientTls { ca: "/tls/ca".into(), cert: "/tls/cert".into(), key: "/tls/key".into() });
    all.agent = Injects::Supervisor(Box::new(own));
    all
}

fn program() -> ProgramPlan {
    ProgramPlan::Bin { path: "/srv/openshell-sandbox".to_owned(), digest: format!("sha256:{}", "0".repeat(64)) }
}

/// The plan of a request, its slots filled.
fn planned(
    request: &chiton_driver::PlanRequest,
    options: &EngineOptions,
    image: &Value,
) -> Result<EnginePlan, chiton_model::Error> {
    plan::check_config(request, options)?;
    let mut found = found();
    found.config.user = image["user"].as_str().unwrap_or_default().to_owned();
    found.config.workdir = image["workdir"].as_str().unwrap_or_default().to_owned();
    found.config.env = vec![("FROM_IMAGE".to_owned(), "yes".to_owned())];
    found.config.command = vec!["of-the-image".to_owned()];
    let context = PlanContext { options, abilities: ABLE, found, program: Some(program()) };
    let made = default_plan(request, context)?;
    let mut filled = made.plan;
    for (pointer, slot) in &made.slots {
        *filled.pointer_mut(pointer).unwrap() = json!(if slot == "sandbox.id" { "s-1" } else { "named" });
    }
    let decoded = EnginePlan::decode(&filled)?;
    check::plan(&decoded, options)?;
    Ok(decoded)
}

fn made(plan: &EnginePlan, options: &EngineOptions, selinux: bool) -> ContainerCreateBody {
    let injected = Injected {
        program: "/state/supervisor/0/program".into(),
        token: "/run/supervisor/s-1/sandbox.jwt".into(),
        host: "10.1.0.1".to_owned(),
    };
    let AgentPlan::Openshell(supervisor) = &plan.agent else { panic!("{:?}", plan.agent) };
    body::container(plan, &identity(), &Put::Supervisor(supervisor.clone(), injected), options, selinux)
}

fn env(body: &ContainerCreateBody) -> BTreeMap<String, String> {
    let lines = body.env.clone().unwrap();
    lines
        .iter()
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn text(map: &[(&str, &str)]) -> BTreeMap<String, String> {
    map.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn docker_is_asked_for_what_the_other_sides_docker_driver_asks_for() {
    let options = supervised(false, true);
    let mut asked = request(json!({ "tty": true, "log_level": "debug" }));
    asked.env = text(&[("A", "1"), ("PATH", "/mine"), ("TERM", "dumb")]);
    let plan = planned(&asked, &options, &json!({ "user": "app:staff", "workdir": "/srv/app" })).unwrap();
    let body = made(&plan, &options, false);
    assert_eq!(body.entrypoint.as_deref(), Some(&["/opt/openshell/bin/openshell-sandbox".to_owned()][..]));
    assert_eq!(body.cmd, Some(["--workdir", "/srv/app"].map(str::to_owned).to_vec()));
    assert_eq!((body.user.as_deref(), body.working_dir.as_deref()), (Some("0"), Some("/")));
    assert_eq!((body.open_stdin, body.attach_stdin), (Some(false), Some(false)));
    let user_environment = r#"{"A":"1","PATH":"/mine","TERM":"dumb"}"#;
    let wanted = text(&[
        ("A", "1"),
        ("HOME", "/root"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("TERM", "dumb"),
        ("OPENSHELL_ENDPOINT", "https://host.openshell.internal:17670"),
        ("OPENSHELL_SANDBOX_ID", "s-1"),
        ("OPENSHELL_SANDBOX", "box"),
        ("OPENSHELL_SSH_SOCKET_PATH", "/run/openshell/ssh.sock"),
        ("OPENSHELL_LOG_LEVEL", "debug"),
        ("OPENSHELL_MAIN_PROCESS_SPEC", r#"{"version":1,"command":["sleep","600"],"tty":true}"#),
        ("OPENSHELL_USER_ENVIRONMENT", user_environment),
        ("OPENSHELL_SANDBOX_TOKEN_FILE", "/etc/openshell/auth/sandbox.jwt"),
        ("OPENSHELL_TLS_CA", "/etc/openshell/tls/client/ca.crt"),
        ("OPENSHELL_TLS_CERT", "/etc/openshell/tls/client/tls.crt"),
        ("OPENSHELL_TLS_KEY", "/etc/openshell/tls/client/tls.key"),
        ("OPENSHELL_OCI_IMAGE_USER", "app:staff"),
        ("OPENSHELL_SANDBOX_UID", ""),
        ("OPENSHELL_SANDBOX_GID", ""),
        ("OPENSHELL_TELEMETRY_ENABLED", "false"),
        ("OPENSHELL_NETWORK_RUNTIME_CAPABILITIES", "policy-dns-transparent-tcp"),
    ]);
    assert_eq!(env(&body), wanted);
    let host = body.host_config.unwrap();
    let owned = |list: &[&str]| Some(list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
    assert_eq!(host.cap_add, owned(&["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYSLOG"]));
    assert_eq!(host.cap_drop, owned(&[]));
    assert_eq!(host.security_opt, owned(&["apparmor=unconfined"]));
    let hosts = ["host.docker.internal:10.1.0.1", "host.openshell.internal:10.1.0.1"];
    assert_eq!(host.extra_hosts, owned(&hosts));
    assert_eq!((host.privileged, host.readonly_rootfs), (Some(false), Some(false)));
    assert_eq!(host.network_mode.as_deref(), Some("chiton.g-1"), "it needs a network");
    let shown: Vec<_> = host
        .mounts
        .unwrap()
        .into_iter()
        .map(|mount| {
            assert_eq!((mount.typ, mount.read_only), (Some(MountType::BIND), Some(true)));
            (mount.source.unwrap(), mount.target.unwrap())
        })
        .collect();
    let pairs = [
        ("/state/supervisor/0/program", "/opt/openshell/bin/openshell-sandbox"),
        ("/run/supervisor/s-1/sandbox.jwt", "/etc/openshell/auth/sandbox.jwt"),
        ("/tls/ca", "/etc/openshell/tls/client/ca.crt"),
        ("/tls/cert", "/etc/openshell/tls/client/tls.crt"),
        ("/tls/key", "/etc/openshell/tls/client/tls.key"),
    ];
    assert_eq!(shown, pairs.map(|(source, target)| (source.to_owned(), target.to_owned())));
    // Where the engine runs under SELinux all of it is relabelled for every container, as the other side does.
    let binds = made(&plan, &options, true).host_config.unwrap().binds.unwrap();
    assert_eq!(binds, pairs.map(|(source, target)| format!("{source}:{target}:ro,z")));
}

#[test]
fn podman_is_asked_for_what_the_other_sides_podman_driver_asks_for() {
    let options = supervised(true, false);
    let plan = planned(&request(json!({})), &options, &json!({ "workdir": "/srv/app" })).unwrap();
    let body = made(&plan, &options, false);
    assert_eq!(body.cmd, Some(["--workdir", "/sandbox"].map(str::to_owned).to_vec()), "always there");
    assert_eq!((body.user.as_deref(), body.working_dir.as_deref()), (Some("0:0"), None));
    let env = env(&body);
    assert_eq!(env["OPENSHELL_CONTAINER_IMAGE"], "box:1");
    assert_eq!(env["OPENSHELL_MAIN_PROCESS_SPEC"], r#"{"version":1,"command":["sleep","600"],"tty":false}"#);
    for absent in ["HOME", "PATH", "TERM", "OPENSHELL_USER_ENVIRONMENT", "OPENSHELL_TLS_CA", "FROM_IMAGE"] {
        assert!(!env.contains_key(absent), "{absent}: {env:?}");
    }
    let host = body.host_config.unwrap();
    let list = |list: Option<Vec<String>>| list.unwrap().join(" ");
    assert_eq!(list(host.cap_add), "SYS_ADMIN NET_ADMIN SYS_PTRACE SYSLOG DAC_READ_SEARCH SETPCAP");
    assert_eq!(
        list(host.cap_drop),
        "DAC_OVERRIDE FSETID KILL NET_BIND_SERVICE NET_RAW SETFCAP SYS_CHROOT AUDIT_WRITE MKNOD"
    );
    assert_eq!(list(host.security_opt), "no-new-privileges seccomp=unconfined");
    assert_eq!(list(host.extra_hosts), "host.containers.internal:10.1.0.1 host.openshell.internal:10.1.0.1");
    let mounts = host.mounts.unwrap();
    let of = |target: &str| mounts.iter().find(|mount| mount.target.as_deref() == Some(target)).unwrap().clone();
    assert_eq!(of("/run/netns").typ, Some(MountType::TMPFS));
    assert_eq!(
        (of("/sandbox").typ, of("/sandbox").source),
        (Some(MountType::VOLUME), None),
        "it goes with the sandbox"
    );
}

#[test]
fn a_rootless_engine_needs_to_be_told_how_sandboxes_reach_the_machine() {
    let mut options = supervised(true, false);
    let plan = planned(&request(json!({})), &options, &json!({})).unwrap();
    let rootless = Abilities { rootless: true, ..ABLE };
    let error = check::able(&plan, rootless, &options).expect_err("nothing says it");
    assert!(error.cure.unwrap().contains("supervisor.host_address"));
    check::able(&plan, ABLE, &options).unwrap();
    if let Injects::Supervisor(own) = &mut options.agent {
        own.host_address = Some(HostAddress::Engine);
    }
    check::able(&plan, rootless, &options).unwrap();
}

#[test]
fn without_a_command_the_main_process_is_a_shell_on_a_terminal() {
    let options = supervised(false, false);
    // Whatever is said of a terminal: that is about a command.
    let mut asked = request(json!({ "tty": false }));
    asked.command.clear();
    let plan = planned(&asked, &options, &json!({})).unwrap();
    let spec = r#"{"version":1,"command":["/bin/bash","-l"],"tty":true}"#;
    assert_eq!(env(&made(&plan, &options, false))["OPENSHELL_MAIN_PROCESS_SPEC"], spec);
    assert_eq!(plan.command, ["/bin/bash", "-l"], "and not the image's");
    assert_eq!(plan.workdir, "/sandbox");
    for root in ["", "/"] {
        assert_eq!(planned(&asked, &options, &json!({ "workdir": root })).unwrap().workdir, "/sandbox");
    }
}

#[test]
fn everything_injected_is_in_the_plan_and_sealed() {
    let options = supervised(true, true);
    let mut asked = request(json!({}));
    asked.name = None;
    let plan = planned(&asked, &options, &json!({ "user": "app" })).unwrap();
    let agent = json!(plan)["agent"].clone();
    assert_eq!(agent["whose"], "openshell");
    assert_eq!(agent["program"]["digest"], format!("sha256:{}", "0".repeat(64)));
    assert_eq!(
        (&agent["env"]["OPENSHELL_SANDBOX_ID"], &agent["env"]["OPENSHELL_SANDBOX"]),
        (&json!("s-1"), &json!("named"))
    );
    let sealed = |pointer: &str| field_rules().iter().all(|rule| !pointer.starts_with(&rule.path));
    for pointer in ["/agent", "/agent/env/OPENSHELL_ENDPOINT", "/user", "/security/capabilities", "/command"] {
        assert!(sealed(pointer), "{pointer}");
    }
    // The schema knows all of it: a plan that was written down is read again as it was.
    assert_eq!(EnginePlan::decode(&json!(plan)).unwrap(), plan);
    let mut other = json!(plan);
    other["agent"]["more"] = json!(1);
    assert!(EnginePlan::decode(&other).is_err(), "read strictly");
}

#[test]
fn what_the_supervisor_decides_is_refused_in_a_request() {
    let options = supervised(false, false);
    for (key, value) in [
        ("user", json!("app")),
        ("capabilities", json!(["NET_RAW"])),
        ("read_only", json!(true)),
        ("image_command", json!(false)),
        ("log_level", json!("loud; rm")),
    ] {
        let error = planned(&request(json!({ (key): value })), &options, &json!({})).unwrap_err();
        assert!(
            matches!(&error.kind, ErrorKind::Invalid { field } if *field == format!("driver_config.{key}")),
            "{error:?}"
        );
        assert!(error.cure.is_some());
    }
    let mut asked = request(json!({}));
    asked.env = text(&[("OPENSHELL_SANDBOX_TOKEN", "x")]);
    let error = planned(&asked, &options, &json!({})).unwrap_err();
    assert!(error.message.contains("OPENSHELL_SANDBOX_TOKEN") && error.cure.is_some(), "{error:?}");
    let mut asked = request(json!({}));
    asked.secrets = text(&[("PASSWORD", "db")]);
    let error = planned(&asked, &options, &json!({})).unwrap_err();
    assert!(error.message.contains("secrets") && error.cure.is_some(), "{error:?}");
    // And the other way round.
    for key in ["tty", "log_level"] {
        let value = if key == "tty" { json!(true) } else { json!("debug") };
        let error = plan::check_config(&request(json!({ (key): value })), &crate::tests::options()).unwrap_err();
        assert!(error.message.contains("about a supervisor"), "{error:?}");
    }
}

#[test]
fn mounts_and_workspaces_stay_off_what_is_the_supervisors() {
    let options = supervised(false, false);
    let with = |target: &str| {
        let mut plan = planned(&request(json!({})), &options, &json!({})).unwrap();
        plan.mounts.push(MountPlan::Tmpfs { target: target.to_owned(), size_bytes: None, mode: None });
        check::plan(&plan, &options)
    };
    for target in [
        "/opt",
        "/opt/openshell/bin",
        "/etc",
        "/etc/openshell/auth",
        "/run",
        "/run/openshell",
        "/var/run/netns",
        "/sandbox",
    ] {
        let error = with(target).expect_err(target);
        assert!(error.cure.is_some() && error.message.contains("would hide"), "{target}: {error:?}");
    }
    for target in ["/sandbox/cache", "/opt/tools", "/etc/project", "/data"] {
        with(target).unwrap_or_else(|error| panic!("{target}: {error:?}"));
    }
    for workdir in ["/etc", "/opt/openshell/x", "/proc/self", "/run/openshell"] {
        let error = planned(&request(json!({})), &options, &json!({ "workdir": workdir })).expect_err(workdir);
        assert!(error.message.contains("cannot be the workspace"), "{workdir}: {error:?}");
    }
}

#[test]
fn looser_or_other_confinement_is_refused() {
    for podman in [false, true] {
        let options = supervised(podman, false);
        let changes: [fn(&mut EnginePlan); 4] = [
            |plan| plan.security.capabilities.push("SYS_MODULE".to_owned()),
            |plan| plan.security.no_new_privileges = !plan.security.no_new_privileges,
            |plan| "app".clone_into(&mut plan.user),
            |plan| plan.agent = AgentPlan::None,
        ];
        for change in changes {
            let mut plan = planned(&request(json!({})), &options, &json!({})).unwrap();
            change(&mut plan);
            assert!(check::plan(&plan, &options).expect_err("refused").cure.is_some());
        }
    }
    assert_eq!(
        planned(&request(json!({})), &supervised(false, false), &json!({})).unwrap().agent.whose(),
        WhoseAgent::Openshell
    );
}

#[test]
fn sandboxes_of_another_agent_are_told_apart() {
    let mut none = options();
    none.agent = Injects::Nothing;
    let without = crate::tests::plan_of(&request(json!({})), &none);
    assert_eq!((&without.agent, &without.security.seccomp), (&AgentPlan::None, &None));
    let with = crate::tests::plan_of(&request(json!({})), &options());
    assert!(json!(with).get("agent").is_none(), "what everybody has is not mentioned");
    for (plan, options) in [(&without, &options()), (&with, &none), (&with, &supervised(false, false))] {
        let error = check::plan(plan, options).expect_err("of another time");
        assert!(error.message.contains("planned with agent") && error.cure.is_some(), "{error:?}");
    }
    // Nothing injected: a command is needed, and secrets have no way.
    let mut plan = without.clone();
    plan.command.clear();
    assert!(check::plan(&plan, &none).unwrap_err().cure.unwrap().contains("name a command"));
    let mut plan = without.clone();
    plan.secrets.insert("PASSWORD".to_owned(), "x".to_owned());
    assert!(check::plan(&plan, &none).unwrap_err().message.contains("no agent to hand secrets to"));
    let body = body::container(&without, &identity(), &Put::Nothing, &none, true);
    assert_eq!((body.entrypoint, body.cmd), (Some(vec!["sleep".to_owned()]), Some(vec!["600".to_owned()])));
    let host = body.host_config.unwrap();
    assert_eq!((host.binds, host.mounts), (None, Some(Vec::new())), "nothing of the gateway's is shown");
    assert_eq!(without.network.mode, NetworkMode::None);
}

/// An engine that is never asked, with a program of this text.
fn with_program(folder: &std::path::Path, text: &str) -> (std::sync::Arc<crate::engine::Engine>, ProgramPlan) {
    let mut all = supervised(false, false);
    all.state_dir = folder.join("state");
    let path = folder.join("program");
    std::fs::write(&path, text).unwrap();
    let digest = format!("sha256:{}", hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text)));
    let path = path.to_string_lossy().into_owned();
    (std::sync::Arc::new(crate::engine::Engine::new(all)), ProgramPlan::Bin { path, digest })
}

#[tokio::test]
async fn a_program_that_is_there_waits_for_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, plan) = with_program(folder.path(), "#!/bin/sh\n");
    let id = chiton_model::SandboxId::new("s-1").unwrap();
    let kept = engine.ensure_program(&id, &plan).await.unwrap();
    // Another is being brought, which takes long.
    let _other = engine.programs.brings_one().await;
    let again = tokio::time::timeout(std::time::Duration::from_secs(30), engine.ensure_program(&id, &plan));
    assert_eq!(again.await.expect("it does not wait").unwrap(), kept);
}

#[tokio::test]
async fn a_program_that_changed_never_stands_where_sandboxes_are_shown_it() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, plan) = with_program(folder.path(), "#!/bin/sh\n");
    std::fs::write(folder.path().join("program"), "#!/bin/sh\nother\n").unwrap();
    let id = chiton_model::SandboxId::new("s-1").unwrap();
    let error = engine.ensure_program(&id, &plan).await.unwrap_err();
    assert!(error.error().message.contains("is not what it was"), "{error:?}");
    let folders = std::fs::read_dir(engine.options.state_dir.join("supervisor")).unwrap();
    let files: Vec<_> = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap()).collect();
    assert!(files.is_empty(), "{files:?}");
    // Nor is a pipe waited for.
    std::fs::remove_file(folder.path().join("program")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(folder.path().join("program")).status().unwrap().success());
    let asked = tokio::time::timeout(std::time::Duration::from_secs(30), engine.ensure_program(&id, &plan));
    assert!(asked.await.expect("it is not read").is_err());
}
