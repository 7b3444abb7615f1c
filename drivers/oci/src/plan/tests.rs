use std::collections::BTreeMap;

use chiton_driver::{PlanRequest, PortableWrite, Rule};
use chiton_model::{DriverId, ErrorKind, GatewayId, Resources, WorkspaceName};
use serde_json::{Value, json};

use super::{OciPlan, default_plan, field_rules, write_portable};
use crate::check;
use crate::disk::DiskAbility;
use crate::options::OciOptions;

fn options() -> OciOptions {
    OciOptions::new(
        DriverId::new("oci").unwrap(),
        GatewayId::new("g-1").unwrap(),
        "/var/lib/chiton-test/oci".into(),
        "/run/chiton-test/oci".into(),
        b"agent",
    )
}

/// A machine that can mount images.
fn means() -> DiskAbility {
    DiskAbility { image: Ok("/usr/sbin/mkfs.ext4".into()) }
}

fn request() -> PlanRequest {
    PlanRequest {
        image: String::new(),
        command: vec!["sh".to_owned()],
        env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        secrets: BTreeMap::from([("KEY".to_owned(), "vault".to_owned())]),
        labels: BTreeMap::from([("example.com/team".to_owned(), "x".to_owned())]),
        resources: Resources::default(),
        network: chiton_model::NetworkSpec::default(),
        volumes: Vec::new(),
        workdir: String::new(),
        name: None,
        workspace: WorkspaceName::new("default").unwrap(),
        driver_config: json!({}),
    }
}

/// A plan without a source of images.
fn plan_of(request: &PlanRequest, options: &OciOptions) -> Result<chiton_driver::DefaultPlan, chiton_model::Error> {
    default_plan(request, options, &means(), &|reference| {
        Err(chiton_model::Error::invalid("image", format!("no image {reference:?}")))
    })
}

fn config(driver_config: Value) -> chiton_model::Error {
    plan_of(&PlanRequest { driver_config, ..request() }, &options()).unwrap_err()
}

#[test]
fn the_same_request_gives_the_same_plan_and_every_slot_points_at_its_marker() {
    let first = plan_of(&request(), &options()).unwrap();
    assert_eq!(first, plan_of(&request(), &options()).unwrap());
    let slots: Vec<(&str, &str)> =
        first.slots.iter().map(|(pointer, slot)| (pointer.as_str(), slot.as_str())).collect();
    assert_eq!(
        slots,
        [
            ("/env/KEY", "secret.vault"),
            ("/hostname", "sandbox.name"),
            ("/sandbox/id", "sandbox.id"),
            ("/sandbox/name", "sandbox.name"),
        ]
    );
    for (pointer, slot) in slots {
        assert_eq!(first.plan.pointer(pointer), Some(&json!(format!("<known after apply: {slot}>"))), "{pointer}");
    }
    assert_eq!(first.from_request, ["/command", "/labels/example.com~1team", "/env/A", "/env/KEY"]);
    for pointer in &first.from_request {
        assert!(first.plan.pointer(pointer).is_some(), "{pointer} is not in the plan");
    }
}

#[test]
fn an_unknown_option_is_refused_with_the_nearest_known_one() {
    let error = config(json!({ "hostnme": "x" }));
    assert_eq!(error.message, "the oci driver has no option \"hostnme\"");
    assert_eq!(error.cure.as_deref(), Some("did you mean \"hostname\"?"));
    let error = config(json!({ "privileged": true }));
    let options = "the options are disk, hostname, image_command, read_only, security, stop_grace_seconds";
    assert_eq!(error.cure.as_deref(), Some(options));
    assert_eq!(config(json!([])).message, "the driver's block is not a table");
    assert_eq!(config(json!({ "read_only": 1 })).message, "read_only is 1, which is not true or false");
    assert_eq!(
        config(json!({ "stop_grace_seconds": 46 })).message,
        "stop_grace_seconds is 46, which is not a whole number from 0 to 45"
    );
    assert_eq!(config(json!({ "hostname": "-x" })).message, "host name \"-x\" is not valid");
}

#[test]
fn images_that_cannot_be_used_are_refused_with_a_cure() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.state_dir = dir.path().join("state");
    std::fs::create_dir(&options.state_dir).unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let refused = |image: String, options: &OciOptions| {
        let error = plan_of(&PlanRequest { image, ..request() }, options).unwrap_err();
        assert!(error.cure.is_some(), "{error} has no cure");
        error
    };
    let at = |name: &str| format!("dir:{}", dir.path().join(name).display());
    assert!(matches!(refused(at("absent"), &options).kind, ErrorKind::NotFound));
    assert!(refused(at("file"), &options).message.ends_with("is not a folder"));
    assert!(refused(at(""), &options).message.contains("the driver's own folder"));
    assert!(refused(at("state"), &options).message.contains("the driver's own folder"));
    assert!(refused("dir:relative".to_owned(), &options).message.contains("not an absolute path"));
    options.dir_roots = Some(vec!["/srv/images".into()]);
    std::fs::create_dir(dir.path().join("image")).unwrap();
    assert!(refused(at("image"), &options).message.contains("not below a folder that is allowed"));
    options.host_image = false;
    assert!(refused(String::new(), &options).message.contains("not allowed here"));
}

#[test]
fn every_portable_write_lands_under_a_rule_that_allows_it() {
    let mut plan = plan_of(&request(), &options()).unwrap().plan;
    let before = plan.clone();
    let writes = [
        PortableWrite::Env { name: "B".to_owned(), value: "2".to_owned() },
        PortableWrite::Label { key: "fleet".to_owned(), value: "prod".to_owned() },
        PortableWrite::Annotation { key: "note".to_owned(), value: "x".to_owned() },
        PortableWrite::Mount { source: "/srv".to_owned(), target: "/data".to_owned(), read_only: true },
        PortableWrite::Device { path: "/dev/fuse".to_owned() },
        PortableWrite::Network { address: "192.0.2.7".to_owned() },
        PortableWrite::Resource { name: "memory".to_owned(), quantity: "64Mi".to_owned() },
    ];
    for write in &writes {
        write_portable(&mut plan, write).unwrap();
    }
    let typed = OciPlan::decode(&plan).unwrap();
    assert_eq!(typed.network.address.as_deref(), Some("192.0.2.7"));
    assert_eq!(typed.resources.memory.unwrap().bytes(), 64 << 20);
    let open: Vec<String> =
        field_rules().into_iter().filter(|rule| !matches!(rule.rule, Rule::Sealed)).map(|rule| rule.path).collect();
    for (key, value) in plan.as_object().unwrap() {
        if before[key] != *value {
            assert!(open.iter().any(|path| path.starts_with(&format!("/{key}"))), "{key} is sealed");
        }
    }
    let unknown = PortableWrite::Resource { name: "speed".to_owned(), quantity: "1".to_owned() };
    assert!(write_portable(&mut plan, &unknown).unwrap_err().message.contains("\"speed\""));
    let same = plan.clone();
    write_portable(&mut plan, &writes[3]).unwrap();
    assert_eq!(plan, same, "writing the standing value changed something");
}

#[test]
fn a_plan_with_weakened_confinement_or_a_bad_path_is_refused() {
    let plan = plan_of(&request(), &options()).unwrap().plan;
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut changed = plan.clone();
        change(&mut changed);
        OciPlan::decode(&changed).and_then(|plan| check::filled(&plan)).unwrap_err().message
    };
    assert!(refused(&|plan| plan["security"]["no_new_privileges"] = json!(false)).contains("confinement"));
    assert!(refused(&|plan| plan["security"]["capabilities"] = json!(["CAP_SYS_ADMIN"])).contains("confinement"));
    assert!(refused(&|plan| plan["privileged"] = json!(true)).contains("unknown field"));
    assert!(refused(&|plan| plan["workdir"] = json!("/a/../b")).contains("without \"..\""));
    let mount = |target: &str| json!([{ "source": "/srv", "target": target, "read_only": true }]);
    assert!(refused(&|plan| plan["mounts"] = mount("/proc/sys")).contains("which the driver makes"));
    assert!(refused(&|plan| plan["mounts"] = mount("/run/chiton/x")).contains("which the driver makes"));
    assert!(refused(&|plan| plan["mounts"] = mount("data")).contains("not an absolute path"));
    assert!(refused(&|plan| plan["mounts"] = mount("/")).contains("mounted already"));
    assert!(refused(&|plan| plan["env"] = json!({ "A=B": "" })).contains("cannot be passed"));
}

#[test]
fn a_limit_that_cannot_be_applied_is_refused_by_the_controllers_name() {
    let mut plan = plan_of(&request(), &options()).unwrap().plan;
    plan["resources"] = json!({ "cpu": "1", "memory": "64Mi", "pids": 10 });
    let mounted = |controllers: &[&str]| {
        crate::means::Means::of_root(vec![chiton_oci_monitor::cgroup::Mounted {
            root: "/sys/fs/cgroup".into(),
            unified: true,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        }])
    };
    let typed = OciPlan::decode(&plan).unwrap();
    check::limits(&typed, &mounted(&["cpu", "memory", "pids"]), &means()).unwrap();
    let error = check::limits(&typed, &mounted(&["cpu", "memory"]), &means()).unwrap_err();
    assert!(error.message.contains("resources.pids") && error.message.ends_with("\"pids\""), "{error}");
    assert!(error.cure.is_some());
    plan["resources"] = json!({ "memory": "1Mi" });
    let error = check::limits(&OciPlan::decode(&plan).unwrap(), &mounted(&["memory"]), &means()).unwrap_err();
    assert!(error.message.contains("too small"), "{error}");
}

/// What `check::limits` says of some resources on a machine with these means.
fn limits(resources: Value, driver_config: Value, means: &DiskAbility) -> Result<(), chiton_model::Error> {
    let resources: Resources = serde_json::from_value(resources).unwrap();
    let request = PlanRequest { resources, driver_config, ..request() };
    let plan = default_plan(&request, &options(), means, &|_| unreachable!())?.plan;
    let mounted = chiton_oci_monitor::cgroup::Mounted {
        root: "/sys/fs/cgroup".into(),
        unified: true,
        controllers: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
    };
    check::limits(&OciPlan::decode(&plan).unwrap(), &crate::means::Means::of_root(vec![mounted]), means)
}

#[test]
fn the_means_of_a_disk_limit_stands_in_the_plan_and_a_loss_at_stop_is_said_there() {
    let resources = Resources { disk: Some("64Mi".parse().unwrap()), ..Resources::default() };
    let asked = PlanRequest { resources, ..request() };
    let kept = plan_of(&asked, &options()).unwrap();
    assert_eq!(kept.plan["resources"], json!({ "pids": 4096, "disk": "64Mi", "disk_by": "image" }));
    assert!(kept.from_request.contains(&"/resources/disk".to_owned()));
    let asked = PlanRequest { driver_config: json!({ "disk": "memory" }), ..asked };
    let lost = plan_of(&asked, &options()).unwrap();
    let memory = json!({ "pids": 4096, "disk": "64Mi", "disk_by": "memory", "disk_lost_at_stop": true });
    assert_eq!(lost.plan["resources"], memory);
    assert!(lost.from_request.contains(&"/resources/disk_by".to_owned()));
}

#[test]
fn a_disk_limit_without_a_means_is_refused_with_what_the_machine_lacks_and_memory_only_serves_who_asks() {
    let none = DiskAbility { image: Err("mkfs.ext4 is nowhere".to_owned()) };
    let error = limits(json!({ "disk": "64Mi" }), json!({}), &none).unwrap_err();
    assert!(error.message.contains("mkfs.ext4 is nowhere"), "{error}");
    assert!(error.cure.is_some_and(|cure| cure.contains("disk = \"memory\"")));
    limits(json!({ "disk": "64Mi" }), json!({ "disk": "memory" }), &none).unwrap();
    limits(json!({}), json!({}), &none).unwrap();
    let error = limits(json!({ "disk": "64Mi" }), json!({ "disk": "image" }), &none).unwrap_err();
    assert!(error.message.contains("mkfs.ext4 is nowhere"), "{error}");
}

#[test]
fn limits_that_would_not_hold_are_refused() {
    let says = |resources: Value, config: Value| limits(resources, config, &means()).unwrap_err().message;
    assert!(says(json!({ "inodes": 100 }), json!({})).contains("needs a size"));
    assert!(says(json!({ "disk": "1Mi" }), json!({})).contains("too small"));
    assert!(says(json!({ "disk": "64Mi" }), json!({ "read_only": true })).contains("read-only"));
    assert!(says(json!({}), json!({ "disk": "memory" })).contains("needs a size"));
    let larger = json!({ "disk": "64Mi", "memory": "64Mi" });
    assert!(says(larger, json!({ "disk": "memory" })).contains("does not fit into the memory limit"));
    assert!(says(json!({ "open_files": u32::MAX }), json!({})).contains("open files are more"));
}

#[test]
fn an_operators_disk_limit_is_for_requests_that_name_none_and_have_a_writable_layer() {
    let mut options = options();
    options.default_disk = Some("2Gi".parse().unwrap());
    let disk = |resources: Resources, driver_config: Value| {
        let request = PlanRequest { resources, driver_config, ..request() };
        plan_of(&request, &options).unwrap().plan["resources"]["disk"].clone()
    };
    assert_eq!(disk(Resources::default(), json!({})), "2Gi");
    let own = Resources { disk: Some("1Gi".parse().unwrap()), ..Resources::default() };
    assert_eq!(disk(own, json!({})), "1Gi");
    assert_eq!(disk(Resources::default(), json!({ "read_only": true })), Value::Null);
}
