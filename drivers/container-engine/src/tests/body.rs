//! The request that makes the container.

use bollard::models::{ContainerCreateBody, MountType};
use chiton_model::label::managed;
use chiton_model::{NetworkMode, VolumeName};
use proptest::prelude::*;
use serde_json::json;

use super::{generous, identity, options, plan_of, request};
use crate::body::{self, Put};
use crate::options::{EngineOptions, Ulimit};
use crate::plan::{EnginePlan, MountPlan, SelinuxLabel, VolumePlan};

const PROGRAM: &str = "/state/agent/chiton-agent-1";
const FOLDER: &str = "/run/agent/s-1";

fn made(plan: &EnginePlan, options: &EngineOptions, agent: bool, selinux: bool) -> ContainerCreateBody {
    let files = Put::Agent { program: PROGRAM.into(), folder: FOLDER.into() };
    body::container(plan, &identity(), if agent { &files } else { &Put::Nothing }, options, selinux)
}

fn mount_targets(body: &ContainerCreateBody) -> Vec<String> {
    let mounts = body.host_config.as_ref().unwrap().mounts.clone().unwrap_or_default();
    mounts.into_iter().filter_map(|mount| mount.target).collect()
}

fn binds(body: &ContainerCreateBody) -> Vec<String> {
    body.host_config.as_ref().unwrap().binds.clone().unwrap_or_default()
}

#[test]
fn it_is_confined_whatever_was_asked_for() {
    let plan = plan_of(&request(json!({})), &options());
    for agent in [true, false] {
        let body = made(&plan, &options(), agent, false);
        let host = body.host_config.unwrap();
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, None);
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!((host.privileged, host.auto_remove), (Some(false), Some(false)));
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.pids_limit, Some(4096), "the operator's default");
        assert_eq!((host.pid_mode, host.ipc_mode, host.userns_mode, host.uts_mode), (None, None, None, None));
    }
}

#[test]
fn the_agent_is_the_entry_point_and_is_told_by_standard_input() {
    let plan = plan_of(&request(json!({})), &options());
    let body = made(&plan, &options(), true, false);
    assert_eq!(body.entrypoint, Some(vec!["/run/chiton-agent".to_owned()]));
    assert_eq!(body.cmd, Some(["agent", "--", "sleep", "600"].map(str::to_owned).to_vec()));
    assert_eq!((body.open_stdin, body.stdin_once), (Some(true), Some(true)));
    let env = body.env.clone().unwrap();
    assert!(env.contains(&"CHITON_AGENT_LAUNCH=stdin".to_owned()), "{env:?}");
    assert!(env.contains(&"CHITON_AGENT_SOCKET=/run/chiton/agent.sock".to_owned()), "{env:?}");
    let without = made(&plan, &options(), false, false);
    assert_eq!((without.entrypoint, without.cmd), (Some(vec!["sleep".to_owned()]), Some(vec!["600".to_owned()])));
    assert_eq!(without.open_stdin, Some(false));
    assert!(!without.env.unwrap().iter().any(|variable| variable.starts_with("CHITON_")));
}

#[test]
fn managed_labels_win() {
    let mut plan = plan_of(&request(json!({})), &options());
    for (key, _) in identity().labels() {
        plan.labels.insert(key.to_owned(), "somebody else's".to_owned());
    }
    plan.labels.insert(body::STOP_GRACE.to_owned(), "9999".to_owned());
    plan.labels.insert("example.com/own".to_owned(), "kept".to_owned());
    let labels = made(&plan, &options(), true, false).labels.unwrap();
    for (key, value) in identity().labels() {
        assert_eq!(labels[key], value, "{key}");
    }
    assert_eq!(labels[body::STOP_GRACE], "10");
    assert_eq!(labels["example.com/own"], "kept");
    assert_eq!(labels[managed::GATEWAY_ID], "g-1");
}

#[test]
fn the_agent_is_relabelled_where_selinux_is_and_may_be_and_mounted_otherwise() {
    let mut plan = plan_of(&request(json!({})), &options());
    plan.mounts = [Some(SelinuxLabel::Shared), Some(SelinuxLabel::Private), None]
        .into_iter()
        .zip(["/shared", "/private", "/plain"])
        .map(|(selinux_label, target)| MountPlan::Bind {
            source: "/usr".to_owned(),
            target: target.to_owned(),
            read_only: selinux_label.is_none(),
            selinux_label,
        })
        .collect();
    let mut options = options();
    let relabelled = made(&plan, &options, true, true);
    assert_eq!(
        binds(&relabelled),
        [
            format!("{PROGRAM}:/run/chiton-agent:ro,z"),
            format!("{FOLDER}:/run/chiton:ro,Z"),
            "/usr:/shared:rw,z".to_owned(),
            "/usr:/private:rw,Z".to_owned(),
        ]
    );
    assert_eq!(mount_targets(&relabelled), ["/plain"]);
    let everything = ["/run/chiton-agent", "/run/chiton", "/shared", "/private", "/plain"];
    for (relabel, selinux) in [(true, false), (false, true), (false, false)] {
        options.relabel = relabel;
        let body = made(&plan, &options, true, selinux);
        assert_eq!(binds(&body), Vec::<String>::new());
        assert_eq!(mount_targets(&body), everything);
        let mounts = body.host_config.unwrap().mounts.unwrap();
        assert!(mounts[..2].iter().all(|mount| mount.read_only == Some(true) && mount.typ == Some(MountType::BIND)));
    }
}

#[test]
fn limits_and_volumes_and_networks_are_as_the_plan_says() {
    let mut asked = request(json!({ "capabilities": ["NET_RAW"], "read_only": true }));
    asked.resources =
        serde_json::from_value(json!({ "cpu": "1500m", "memory": "64Mi", "pids": 20, "open_files": 99 })).unwrap();
    let mut options = generous();
    for name in ["nofile", "nproc"] {
        options.ulimits.insert(name.to_owned(), Ulimit { soft: 1024, hard: 1024 });
    }
    let mut plan = plan_of(&asked, &options);
    let name = VolumeName::new("data").unwrap();
    plan.volumes = vec![VolumePlan { name, target: "/data".to_owned(), read_only: true }];
    plan.network.mode = NetworkMode::Bridge;
    let body = made(&plan, &options, true, false);
    let host = body.host_config.clone().unwrap();
    assert_eq!((host.nano_cpus, host.memory, host.memory_swap), (Some(1_500_000_000), Some(64 << 20), Some(64 << 20)));
    assert_eq!((host.pids_limit, host.readonly_rootfs), (Some(20), Some(true)));
    assert_eq!(host.cap_add, Some(vec!["NET_RAW".to_owned()]));
    let limits: Vec<_> =
        host.ulimits.unwrap().into_iter().map(|limit| (limit.name.unwrap(), limit.soft, limit.hard)).collect();
    let wanted = [("nofile", 99), ("nproc", 1024)].map(|(name, limit)| (name.to_owned(), Some(limit), Some(limit)));
    assert_eq!(limits, wanted, "the request's over the operator's");
    let mounts = host.mounts.unwrap();
    let volume = mounts.iter().find(|mount| mount.target.as_deref() == Some("/data")).unwrap();
    assert_eq!(volume.source.as_deref(), Some("chiton.g-1.default.data"));
    assert_eq!((volume.typ, volume.read_only), (Some(MountType::VOLUME), Some(true)));
    assert_eq!(host.network_mode.as_deref(), Some("chiton.g-1"));
}

proptest! {
    /// Whatever a secret is, and whatever it is called: nothing of its value is in what the engine is told.
    #[test]
    fn no_secret_is_in_the_body(
        secrets in proptest::collection::btree_map("[A-Z_]{1,12}", "[!-~]{12,60}", 1..5),
        token in "[a-z0-9]{32}",
    ) {
        let mut plan = plan_of(&request(json!({})), &options());
        plan.secrets = secrets.iter().map(|(name, value)| (name.clone(), format!("{token}{value}"))).collect();
        for selinux in [true, false] {
            let body = made(&plan, &options(), true, selinux);
            for text in [serde_json::to_string(&body).unwrap(), format!("{body:?}")] {
                prop_assert!(!text.contains(&token));
                for value in plan.secrets.values() {
                    prop_assert!(!text.contains(value.as_str()));
                }
            }
        }
    }

    /// What is open arrives as it was written.
    #[test]
    fn open_variables_arrive_as_they_are(value in "\\PC{0,60}") {
        let mut plan = plan_of(&request(json!({})), &options());
        plan.env.insert("OPEN".to_owned(), value.clone());
        let env = made(&plan, &options(), true, false).env.unwrap();
        let wanted = format!("OPEN={value}");
        prop_assert!(env.contains(&wanted));
    }
}
