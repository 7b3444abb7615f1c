//! Which driver runs when the operator named none: the first that can, told wherever somebody looks.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Gateway, Output, PROGRAM, root};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Value and origin of a setting.
fn setting(list: &Value, key: &str) -> (String, String) {
    let rows = list.as_array().expect("a list");
    let row = rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key} is not in {list:#}"));
    (text(row, "value").to_owned(), text(row, "origin").to_owned())
}

/// What the `oci` driver finds on a machine on which these tests run.
fn found() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    format!("containers of this kernel, Linux {}, as root", release.trim())
}

/// Runs the program as a root that may not mount, in a folder.
fn powerless(folder: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_admin", "--", PROGRAM]).args(arguments).current_dir(folder);
    let output = command.output().expect("setpriv of util-linux");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Output { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_gateway_that_is_told_no_driver_uses_oci_here_and_says_that_it_was_detected() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    let detected = format!("detected ({})", found());
    let running = gateway.json(&["config", "show"]);
    assert_eq!(setting(&running, "compute.drivers"), ("[\"oci\"]".to_owned(), detected.clone()));
    assert_eq!(setting(&running, "compute.default_driver"), ("\"oci\"".to_owned(), detected.clone()));
    assert!(gateway.chiton(&["config", "show", "--origin"]).ok().contains(&detected));
    let drivers = gateway.json(&["drivers"]);
    let listed: Vec<_> = drivers.as_array().expect("a list").iter().map(|driver| text(driver, "id")).collect();
    assert_eq!((listed, &drivers[0]["default"], &drivers[0]["unavailable"]), (vec!["oci"], &json!(true), &Value::Null));
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    assert_eq!(text(&gateway.get("box"), "driver"), "oci");
    gateway.chiton(&["sandbox", "delete", "box"]).ok();

    // The same is said of a file that no gateway runs with.
    let shown = gateway.json(&["config", "show", "--config", "chiton.toml"]);
    assert_eq!(setting(&shown, "compute.drivers"), ("[\"oci\"]".to_owned(), detected));
    let checked = gateway.json(&["config", "check", "--config", "chiton.toml"]);
    assert_eq!(checked, json!({ "ok": true, "detected": { "driver": "oci", "found": found() } }));
    assert_eq!(
        gateway.chiton(&["config", "check", "--config", "chiton.toml"]).ok(),
        format!("the configuration is sound\nno driver is configured: here and now oci would be used ({})\n", found())
    );
    // Of the kinds that are not used the doctor tells what they lack, and is content.
    let doctor = gateway.json(&["doctor", "--config", "chiton.toml", "--data-dir", "data"]);
    assert_eq!((&doctor["used"], text(&doctor, "detected")), (&json!(["oci"]), found().as_str()));
    let kinds: Vec<&String> = doctor["drivers"].as_object().expect("by id").keys().collect();
    assert_eq!(kinds, ["docker", "links", "oci", "podman"]);
    gateway.terminate();

    // What is named is used unasked.
    gateway.configure("[compute]\ndrivers = [\"links\"]\n");
    gateway.begin();
    let running = gateway.json(&["config", "show"]);
    let (value, origin) = setting(&running, "compute.drivers");
    assert_eq!(value, "[\"links\"]");
    assert!(origin.ends_with("chiton.toml:2"), "{origin}");
    assert_eq!(gateway.json(&["config", "check", "--config", "chiton.toml"]), json!({ "ok": true }));
    // The workspace of the sandbox on oci is deleted with it.
    gateway.terminate();
    gateway.configure("");
    gateway.begin();
}

#[test]
fn a_sandbox_of_a_driver_that_is_not_detected_any_more_is_missed_with_the_list_that_brings_it_back() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("[compute]\ndrivers = [\"links\"]\n");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway.terminate();
    gateway.configure("");
    let said = gateway.try_begin().expect_err("its driver is not there");
    assert!(said.contains("cannot be served: driver \"links\" is not configured"), "{said}");
    let cure = "cure: list every driver that has sandboxes: [compute] drivers = [\"oci\", \"links\"] and \
                default_driver = \"oci\"; or serve the rest: [compute] missing = \"hold\"";
    assert!(said.contains(cure), "{said}");
    // The cure is one.
    gateway.configure("[compute]\ndrivers = [\"oci\", \"links\"]\ndefault_driver = \"oci\"\n");
    gateway.begin();
    assert_eq!(text(&gateway.get("box"), "phase"), "Ready");
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
}

#[test]
fn where_no_driver_can_run_a_start_says_why_of_each_and_a_check_of_the_file_is_none_the_worse() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    // The machine may have engines at their usual places.
    let elsewhere = "[compute.driver.docker]\nsocket = \"/nowhere/docker.sock\"\n\
                     [compute.driver.podman]\nsocket = \"/nowhere/podman.sock\"\n";
    std::fs::write(folder.path().join("chiton.toml"), elsewhere).expect("a config");
    let refused = powerless(folder.path(), &["gateway", "--config", "chiton.toml", "--data-dir", "data"]).refused();
    insta::assert_snapshot!(refused, @r"
    error: no driver is configured, and none that is built in can run here:
      oci: user: uid 0 without CAP_SYS_ADMIN: it may not mount; run the gateway outside of the container that it is in, or give it CAP_SYS_ADMIN there
      docker: docker at /nowhere/docker.sock cannot be reached: Socket not found: /nowhere/docker.sock; start it (systemctl start docker), or set the driver's socket
      podman: podman at /nowhere/podman.sock cannot be reached: Socket not found: /nowhere/podman.sock; start it (systemctl start podman.socket, with --user when it is rootless), or set the driver's socket
      links: it is chosen by name only; name it: --driver links [unavailable]
      cure: put one of them right; one that is named is used without this look: --driver oci
    ");
    assert!(!folder.path().join("data/store").exists(), "something was made all the same");

    let Output { code, stdout, stderr } = powerless(folder.path(), &["config", "check", "--config", "chiton.toml"]);
    assert_eq!((code, stdout.as_str()), (0, "the configuration is sound\n"), "{stderr}");
    assert!(stderr.starts_with("note: no driver is configured, and none that is built in can run here:"), "{stderr}");
    let checked = powerless(folder.path(), &["--json", "config", "check", "--config", "chiton.toml"]).ok();
    let checked: Value = serde_json::from_str(&checked).expect("JSON");
    assert_eq!(checked["ok"], true);
    assert_eq!(checked["detected"]["driver"], Value::Null);
    let tried: Vec<&str> =
        checked["detected"]["tried"].as_array().expect("a list").iter().map(|tried| text(tried, "driver")).collect();
    assert_eq!(tried, ["oci", "docker", "podman", "links"]);
    let doctor = powerless(folder.path(), &["--json", "doctor", "--config", "chiton.toml", "--data-dir", "data"]);
    assert_eq!(doctor.code, 1);
    let doctor: Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    assert_eq!((&doctor["used"], &doctor["detected"]), (&json!([]), &Value::Null));

    // Whoever names one is not asked whether it can run.
    let named = powerless(folder.path(), &["config", "check", "--config", "chiton.toml", "--driver", "oci"]);
    assert_eq!((named.code, named.stderr.as_str()), (0, ""));
}

#[test]
fn the_doctor_looks_for_each_driver_that_is_configured_by_its_name() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let config = "[compute]\ndrivers = [\"oci\", \"second\"]\ndefault_driver = \"oci\"\n[compute.driver.second]\n\
                  kind = \"oci\"\nhost_image = false\ndir_roots = []\n";
    std::fs::write(gateway.path("two.toml"), config).expect("a config");
    let doctor = ["doctor", "--config", "two.toml"];
    let report = gateway.chiton(&[&["--json"], &doctor[..]].concat());
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert_eq!((&report["used"], &report["detected"]), (&json!(["oci", "second"]), &Value::Null));
    let images = |id: &str| {
        let findings = report["drivers"][id].as_array().expect("findings");
        findings.iter().find(|finding| finding["check"] == "images").expect("it looks at images")["ok"].clone()
    };
    assert_eq!((images("oci"), images("second")), (json!(true), json!(false)), "each is looked at with its own table");
    let told = gateway.chiton(&doctor);
    assert_eq!(told.code, 1, "one allows no image: {told:?}");
    assert!(told.stdout.contains("\ndriver second, kind oci\n"), "{}", told.stdout);
    assert!(!told.stdout.contains("driver links"), "{}", told.stdout);
}
