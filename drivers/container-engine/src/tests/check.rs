//! What is refused before an engine is asked.

use chiton_model::{CpuQuantity, ErrorKind, MemoryQuantity, NetworkMode};
use serde_json::json;

use super::{ABLE, generous, options, plan_of, request};
use crate::check;
use crate::engine::Abilities;
use crate::plan::{DevicePlan, EnginePlan, MountPlan};

fn plan() -> EnginePlan {
    plan_of(&request(json!({})), &options())
}

/// The plan after a change is refused, and the error names a word.
fn refused(change: impl FnOnce(&mut EnginePlan), word: &str) {
    let mut changed = plan();
    change(&mut changed);
    let error = check::plan(&changed, &options()).expect_err(word);
    let field = if let ErrorKind::Invalid { field } = &error.kind { field.as_str() } else { "" };
    assert!(error.message.contains(word) || field.contains(word), "{word}: {field}: {}", error.message);
    assert!(error.cure.is_some(), "{}", error.message);
}

fn tmpfs(target: &str) -> MountPlan {
    MountPlan::Tmpfs { target: target.to_owned(), size_bytes: None, mode: None }
}

#[test]
fn a_plan_as_the_driver_made_it_is_good() {
    check::plan(&plan(), &options()).unwrap();
    check::able(&plan(), ABLE, &options()).unwrap();
}

#[test]
fn looser_confinement_is_refused() {
    refused(|plan| plan.security.no_new_privileges = false, "gain privileges");
    refused(|plan| plan.security.capabilities.push("SYS_ADMIN".to_owned()), "SYS_ADMIN");
    refused(|plan| plan.network.mode = NetworkMode::Host, "host's own network");
    refused(|plan| plan.network.mode = NetworkMode::Named("other".to_owned()), "other");
}

#[test]
fn variables_that_cannot_be_passed_are_refused() {
    for name in ["", "A=B", "A\0"] {
        refused(|plan| drop(plan.env.insert(name.to_owned(), "x".to_owned())), "environment variable");
        refused(|plan| drop(plan.secrets.insert(name.to_owned(), "x".to_owned())), "environment variable");
    }
    refused(|plan| drop(plan.env.insert("A".to_owned(), "\0".to_owned())), "environment variable");
    refused(|plan| drop(plan.env.insert("CHITON_AGENT_LAUNCH".to_owned(), "env".to_owned())), "CHITON_AGENT_LAUNCH");
    refused(
        |plan| {
            plan.env.insert("A".to_owned(), "x".to_owned());
            plan.secrets.insert("A".to_owned(), "y".to_owned());
        },
        "set by a secret",
    );
    refused(|plan| plan.command.push("a\0b".to_owned()), "command[2]");
}

#[test]
fn mounts_stay_off_what_the_driver_makes_and_off_each_other() {
    for target in
        ["/dev/shm", "/proc", "/sys/fs", "/run/chiton", "/run/chiton/x", "/run/chiton-agent", "/", "a", "/a/../b"]
    {
        refused(|plan| plan.mounts.push(tmpfs(target)), "mounts[0].target");
    }
    refused(|plan| plan.mounts.extend([tmpfs("/a"), tmpfs("/a/")]), "mounts[1].target");
    let bind = |source: &str| MountPlan::Bind {
        source: source.to_owned(),
        target: "/a".to_owned(),
        read_only: true,
        selinux_label: None,
    };
    refused(|plan| plan.mounts.push(bind("usr")), "mounts[0].source");
    refused(|plan| plan.mounts.push(bind("/usr/../etc")), "mounts[0].source");
    refused(|plan| plan.mounts.push(bind("/no/such/folder")), "/no/such/folder");
    // Beside what the driver makes is fine, and what is not known yet is checked when it is.
    let mut good = plan();
    good.mounts.extend([tmpfs("/run/chiton-agents"), bind("<known after apply: x.path>"), tmpfs("/devices")]);
    check::plan(&good, &options()).unwrap();
}

#[test]
fn devices_host_names_and_folders_are_checked() {
    for device in ["/etc/passwd", "dev/null", "/dev/../etc/passwd"] {
        refused(|plan| plan.devices.push(DevicePlan { path: device.to_owned() }), "devices[0].path");
    }
    refused(|plan| plan.hostname = "a b".to_owned(), "hostname");
    refused(|plan| plan.workdir = "relative".to_owned(), "workdir");
}

#[test]
fn limits_of_nothing_are_refused() {
    refused(|plan| plan.resources.pids = Some(0), "resources.pids");
    refused(|plan| plan.resources.open_files = Some(0), "resources.open_files");
    refused(|plan| plan.resources.open_files = Some(u32::MAX), "resources.open_files");
    refused(|plan| plan.resources.memory = Some(MemoryQuantity::parse("memory", "5Mi").unwrap()), "6 MiB");
    refused(|plan| plan.resources.cpu = Some(CpuQuantity::parse("cpu", "9m").unwrap()), "hundredth");
}

#[test]
fn addresses_need_a_network_whose_range_is_known() {
    let with = |mode: NetworkMode, address: &str, subnet: Option<&str>| {
        let mut options = generous();
        options.allowed.host_network = true;
        options.bridge.subnet = subnet.map(|subnet| subnet.parse().unwrap());
        let mut plan = plan();
        plan.network.mode = mode;
        plan.network.address = Some(address.to_owned());
        check::plan(&plan, &options).is_ok()
    };
    let subnet = Some("10.1.0.0/24");
    assert!(with(NetworkMode::Bridge, "10.1.0.9", subnet));
    assert!(with(NetworkMode::None, "10.9.0.9", None), "it stays visible as a label");
    assert!(!with(NetworkMode::Bridge, "10.1.0.0", subnet), "the network's own");
    assert!(!with(NetworkMode::Bridge, "10.1.0.1", subnet), "its gateway's");
    assert!(!with(NetworkMode::Bridge, "10.1.0.255", subnet), "everybody's");
    assert!(!with(NetworkMode::Bridge, "10.2.0.9", subnet));
    assert!(!with(NetworkMode::Bridge, "10.1.0.9", None));
    assert!(!with(NetworkMode::Host, "10.1.0.9", subnet));
    assert!(!with(NetworkMode::None, "fd00::1", None));
    assert!(!with(NetworkMode::None, "10.1.0.256", None));
}

#[test]
fn what_the_engine_cannot_do_is_refused_by_name() {
    let unable = |abilities: Abilities, change: fn(&mut EnginePlan), point: &str| {
        let mut plan = plan();
        plan.resources = crate::plan::ResourcesPlan::default();
        change(&mut plan);
        check::able(&plan, ABLE, &options()).unwrap();
        let error = check::able(&plan, abilities, &options()).expect_err(point);
        assert!(matches!(&error.kind, ErrorKind::Unsupported { point: found, .. } if found == point), "{error:?}");
        assert!(error.cure.is_some());
    };
    let cpu = |plan: &mut EnginePlan| plan.resources.cpu = Some(CpuQuantity::parse("cpu", "1").unwrap());
    unable(Abilities { cpu: false, ..ABLE }, cpu, "resources.cpu");
    let memory = |plan: &mut EnginePlan| plan.resources.memory = Some(MemoryQuantity::parse("memory", "1Gi").unwrap());
    unable(Abilities { memory: false, ..ABLE }, memory, "resources.memory");
    unable(Abilities { pids: false, ..ABLE }, |plan| plan.resources.pids = Some(9), "resources.pids");
    let files = |plan: &mut EnginePlan| plan.resources.open_files = Some(9);
    unable(Abilities { open_files: false, ..ABLE }, files, "resources.open_files");
    let image =
        |plan: &mut EnginePlan| plan.mounts.push(MountPlan::Image { source: "a".to_owned(), target: "/a".to_owned() });
    unable(Abilities { image_mounts: false, ..ABLE }, image, "mounts");
    unable(Abilities { cdi: false, ..ABLE }, |plan| plan.cdi_devices.push("a/b=c".to_owned()), "cdi_devices");
    let said = Abilities { cpu: false, pids: false, ..ABLE }.not_limited().unwrap();
    assert!(said.contains("cpu, pids") && !said.contains("memory"), "{said}");
    assert_eq!(ABLE.not_limited(), None);
}
