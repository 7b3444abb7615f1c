//! What is refused in `[compute]`: drivers, extensions and their tables.

use insta::assert_snapshot;

use super::{bad, file};

#[test]
fn a_misspelt_key() {
    let text = r"[compute]
polcy = 1
";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.polcy: unknown key; did you mean "policy"?"#);
}

#[test]
fn a_misspelt_section() {
    let text = r#"[compte]
drivers = ["oci"]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:1: compte: unknown key; did you mean "compute"?"#);
}

#[test]
fn a_key_in_the_wrong_section() {
    let text = r#"[log]
data_dir = "/srv"
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:2: log.data_dir: unknown key; did you mean gateway.data_dir?");
}

#[test]
fn a_key_that_resembles_nothing() {
    let text = r"[compute]
frobnicate = true
";
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:2: compute.frobnicate: unknown key; remove it; known here: drivers, default_driver, extensions, missing, drain, late_effects, driver, extension, process, policy");
}

#[test]
fn a_list_that_is_text() {
    let text = r#"[compute]
extensions = "fleet-labels"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.extensions: is a string; write a list of strings, for example ["a", "b"]"#);
}

#[test]
fn a_list_with_a_number() {
    let text = r#"[compute]
drivers = ["oci", 7]
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:2: compute.drivers[1]: is an integer; write a string in quotes");
}

#[test]
fn a_section_that_is_a_number() {
    let text = r"compute = 3
";
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:1: compute: is an integer; write a table");
}

#[test]
fn an_array_of_sections() {
    let text = r#"[[compute]]
drivers = ["oci"]
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:1: compute: is a list; write a table");
}

#[test]
fn an_unknown_extension() {
    let text = r#"[compute]
extensions = [
  "fleet-lables",
]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:3: compute.extensions[0]: unknown extension "fleet-lables"; did you mean "fleet-labels"?"#);
}

#[test]
fn an_extension_listed_twice() {
    let text = r#"[compute]
extensions = ["address-lease", "address-lease"]
[compute.extension.address-lease]
range = "10.0.0.1-10.0.0.9"
folder = "/srv/leases"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.extensions[1]: extension "address-lease" is listed twice; remove one of them"#);
}

#[test]
fn a_driver_listed_twice() {
    let text = r#"[compute]
drivers = ["oci", "oci"]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.drivers[1]: driver "oci" is listed twice; remove one of them"#);
}

#[test]
fn no_driver() {
    let text = r"[compute]
drivers = []
";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.drivers: the list is empty; name a driver, for example drivers = ["oci"]; without the key the first that can run is used"#);
}

#[test]
fn an_unknown_driver() {
    let text = r#"[compute]
drivers = ["ocy"]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.drivers: unknown driver "ocy"; did you mean "oci"?"#);
}

#[test]
fn a_driver_id_with_odd_letters() {
    let text = r#"[compute]
drivers = ["OCI\u0007"]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.drivers[0]: "OCI\u{7}" is not a driver id; use 1 to 63 lower-case letters, digits and inner hyphens"#);
}

#[test]
fn several_drivers_and_no_default() {
    let text = r#"[compute]
drivers = ["oci", "second"]
[compute.driver.second]
kind = "oci"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.default_driver: there are several drivers and no default; write default_driver = "oci", or another of them, or set CHITON_COMPUTE_DEFAULT_DRIVER"#);
}

#[test]
fn a_default_driver_that_is_not_listed() {
    let text = r#"[compute]
drivers = ["oci"]
default_driver = "docker"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:3: compute.default_driver: driver "docker" is not in compute.drivers; add it there, or choose one of: oci"#);
}

#[test]
fn an_unknown_driver_kind() {
    let text = r#"[compute]
drivers = ["second"]
[compute.driver.second]
rootless = true
kind = "dokcer"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:5: compute.driver.second.kind: unknown driver kind "dokcer"; known: oci"#);
}

#[test]
fn a_driver_kind_that_is_no_text() {
    let text = r"[compute.driver.oci]
kind = 5
";
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:2: compute.driver.oci.kind: is not a string; write a string in quotes");
}

#[test]
fn a_driver_table_without_a_kind_of_that_name() {
    let text = r"[compute.driver.oic]
rootless = true
";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:1: compute.driver.oic: unknown driver kind "oic"; did you mean "oci"?"#);
}

#[test]
fn an_option_that_the_driver_refuses() {
    let text = r#"[compute.driver.oci]
rootless = "yes"
runc = "/bin/runc"
"#;
    assert_snapshot!(bad(&file(text)), @r"
    chiton.toml:2: compute.driver.oci.rootless: is not a boolean
    chiton.toml:3: compute.driver.oci.runc: unknown option
    ");
}

#[test]
fn a_table_of_an_unknown_extension() {
    let text = r#"[compute.extension.fleet]
labels = { a = "b" }
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:1: compute.extension.fleet: unknown extension "fleet"; known: address-lease, fleet-labels"#);
}

#[test]
fn an_unknown_key_in_an_extensions_table() {
    let text = r#"[compute]
extensions = ["fleet-labels"]

[compute.extension."fleet-labels"]
labls = { fleet = "prod" }
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:5: compute.extension.fleet-labels.labls: unknown field `labls`, expected `labels`; did you mean "labels"?"#);
}

#[test]
fn a_value_that_the_extension_refuses() {
    let text = r#"[compute]
extensions = ["fleet-labels"]

[compute.extension."fleet-labels".labels]
fleet = "prod"
"chiton.dev/x" = "y"
region = "us west"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:6: compute.extension.fleet-labels.labels."chiton.dev/x": label "chiton.dev/x" is reserved: keys under "chiton.dev/" are set by the gateway; choose a key without a reserved prefix; to ask for an extension use --extension
    chiton.toml:7: compute.extension.fleet-labels.labels.region: value "us west" of label "region" is not valid; use at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit
    "#);
}

#[test]
fn a_listed_extension_that_needs_a_table() {
    let text = r#"[compute]
extensions = [
  "fleet-labels",
  "address-lease",
]
[compute.extension.fleet-labels]
labels.fleet = "prod"
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:4: compute.extension.address-lease: missing field `range`; add a table [compute.extension.address-lease]");
}

#[test]
fn a_number_that_json_does_not_have() {
    let text = r"[compute.driver.oci]
weights = [1.0,
  nan]
";
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:3: compute.driver.oci.weights[1]: NaN is not a finite number; write a finite number");
}

#[test]
fn an_unknown_word() {
    let text = r#"[compute]
missing = "holt"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.missing: unknown value "holt"; did you mean "hold"?"#);
}

#[test]
fn durations_that_are_none() {
    let text = r#"[compute]
drain = "5 s"
[reconcile]
interval = "-1s"
[sweep]
interval = "0s"
grace = "10"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: compute.drain: duration "5 s" is not valid: it contains a space; write a number and a unit, for example "1m"
    chiton.toml:4: reconcile.interval: duration "-1s" is not valid: it must not be negative; write a number and a unit, for example "5m"
    chiton.toml:6: sweep.interval: duration "0s" is too short; write at least "1s"
    chiton.toml:7: sweep.grace: duration "10" is not valid: it has no unit; write a number and a unit, for example "10m"
    "#);
}

#[test]
fn a_duration_without_quotes() {
    let text = r"[compute]
drain = 60
";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.drain: is an integer; write a duration in quotes, for example "30s""#);
}

#[test]
fn a_window_for_late_effects_that_is_none_is_refused() {
    let text = "[compute]\nlate_effects = \"500ms\"\n";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.late_effects: duration "500ms" is too short; write at least "1s""#);
}
