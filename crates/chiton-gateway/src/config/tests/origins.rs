use super::super::{Config, Origin, Sources};
use super::good::FULL;
use super::{env, file, good, listed};

fn origin(config: &Config, key: &str) -> (String, String) {
    let mut found = config.origins().iter().filter(|shown| shown.key == key);
    let shown = found.next().unwrap_or_else(|| panic!("{key} is not shown"));
    assert!(found.next().is_none(), "{key} is shown twice");
    (shown.value.clone(), shown.origin.to_string())
}

fn pair(value: &str, origin: &str) -> (String, String) {
    (value.to_owned(), origin.to_owned())
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let text = "[gateway]\ndata_dir = \"/from-file\"\n";
    assert_eq!(origin(&good(&file("")), "gateway.data_dir"), pair("\"/var/lib/chiton\"", "default"));
    let mut sources = file(text);
    assert_eq!(origin(&good(&sources), "gateway.data_dir"), pair("\"/from-file\"", "chiton.toml:2"));
    sources = env(sources, "CHITON_DATA_DIR", "/from-env");
    assert_eq!(origin(&good(&sources), "gateway.data_dir"), pair("\"/from-env\"", "env CHITON_DATA_DIR"));
    sources.flags.data_dir = Some("/from-flag".into());
    assert_eq!(origin(&good(&sources), "gateway.data_dir"), pair("\"/from-flag\"", "flag --data-dir"));
}

#[test]
fn a_list_is_replaced_and_not_joined() {
    let sources = env(file(FULL), "CHITON_COMPUTE_EXTENSIONS", "");
    let config = good(&sources);
    assert!(config.compute.extensions.is_empty());
    assert_eq!(origin(&config, "compute.extensions"), pair("[]", "env CHITON_COMPUTE_EXTENSIONS"));
    let sources = env(file(FULL), "CHITON_LISTEN", "unix:/c.sock, unix:/d.sock");
    assert_eq!(
        origin(&good(&sources), "gateway.listen"),
        pair("[\"unix:/c.sock\", \"unix:/d.sock\"]", "env CHITON_LISTEN")
    );
}

#[test]
fn a_driver_on_the_command_line_replaces_the_list_and_the_files_default() {
    let mut sources = file(FULL);
    sources.flags.drivers = vec!["oci".to_owned()];
    let config = good(&sources);
    assert_eq!(listed(&config).0.len(), 1);
    assert_eq!(listed(&config).1, "oci");
    assert_eq!(origin(&config, "compute.drivers"), pair("[\"oci\"]", "flag --driver"));
}

#[test]
fn every_setting_of_a_full_config_is_shown_once_with_its_line() {
    let config = good(&file(FULL));
    let table: Vec<_> =
        config.origins().iter().map(|shown| format!("{} = {}  # {}", shown.key, shown.value, shown.origin)).collect();
    insta::assert_snapshot!(table.join("\n"), @r#"
    compute.default_driver = "second"  # chiton.toml:10
    compute.drain = "90s"  # chiton.toml:13
    compute.driver.second.kind = "oci"  # chiton.toml:16
    compute.driver.second.rootless = true  # chiton.toml:17
    compute.drivers = ["oci", "second"]  # chiton.toml:9
    compute.extension.fleet-labels.labels.fleet = "prod"  # chiton.toml:20
    compute.extension.fleet-labels.labels.region = "us-west"  # chiton.toml:20
    compute.extensions = ["fleet-labels"]  # chiton.toml:11
    compute.late_effects = "10m"  # default
    compute.missing = "hold"  # chiton.toml:12
    compute.policy.address-lease.abandon = false  # default
    compute.policy.address-lease.activation = "always"  # default
    compute.policy.address-lease.concurrency = (what the extension declares)  # default
    compute.policy.address-lease.deadline = "1m"  # chiton.toml:32
    compute.policy.address-lease.failure = "required"  # default
    compute.policy.address-lease.overrides = []  # default
    compute.policy.address-lease.reconcile = "advisory"  # default
    compute.policy.fleet-labels.abandon = false  # default
    compute.policy.fleet-labels.activation = "on-request"  # chiton.toml:23
    compute.policy.fleet-labels.allow.labels.tier = "gold"  # chiton.toml:24
    compute.policy.fleet-labels.allow.principals = ["uid:1000"]  # chiton.toml:24
    compute.policy.fleet-labels.allow.workspaces = ["team-a"]  # chiton.toml:24
    compute.policy.fleet-labels.concurrency = 4  # chiton.toml:28
    compute.policy.fleet-labels.deadline = "5s"  # chiton.toml:26
    compute.policy.fleet-labels.failure = "optional"  # chiton.toml:25
    compute.policy.fleet-labels.overrides = ["address-lease:/network/address"]  # chiton.toml:29
    compute.policy.fleet-labels.reconcile = "authoritative"  # chiton.toml:27
    compute.policy.gone-for-good.abandon = true  # chiton.toml:35
    compute.policy.gone-for-good.activation = "always"  # default
    compute.policy.gone-for-good.concurrency = (what the extension declares)  # default
    compute.policy.gone-for-good.deadline = "30s"  # default
    compute.policy.gone-for-good.failure = "required"  # default
    compute.policy.gone-for-good.overrides = []  # default
    compute.policy.gone-for-good.reconcile = "advisory"  # default
    gateway.allow_uids = [1000, 1001]  # chiton.toml:6
    gateway.data_dir = "/srv/chiton"  # chiton.toml:3
    gateway.listen = ["unix:/srv/a.sock", "unix:/srv/b.sock"]  # chiton.toml:5
    gateway.run_dir = "/srv/run"  # chiton.toml:4
    log.format = "json"  # chiton.toml:47
    log.level = "info,chiton_gateway::api=debug"  # chiton.toml:46
    metrics.listen = "[::1]:9464"  # chiton.toml:57
    reconcile.interval = "1h"  # chiton.toml:50
    secrets."registry.token".allow.principals = ["uid:1000"]  # chiton.toml:43
    secrets."registry.token".file = "/etc/token"  # chiton.toml:42
    secrets.db.allow.workspaces = ["team-a"]  # chiton.toml:39
    secrets.db.env = "DB_PASSWORD"  # chiton.toml:38
    supervisor.allow_remote = false  # default
    supervisor.listen = "127.0.0.1:17680"  # default
    sweep.grace = "1m30s"  # chiton.toml:54
    sweep.interval = "10m"  # chiton.toml:53
    "#);
    let mut keys: Vec<_> = config.origins().iter().map(|shown| &shown.key).collect();
    keys.dedup();
    assert_eq!(keys.len(), config.origins().len());
}

#[test]
fn without_a_file_everything_is_a_default() {
    let config = good(&Sources { file: None, ..file("") });
    assert!(config.origins().iter().all(|shown| shown.origin == Origin::Default));
}

#[test]
fn every_variable_sets_its_key() {
    for (name, value, key, shown) in [
        ("CHITON_DATA_DIR", "/d", "gateway.data_dir", "\"/d\""),
        ("CHITON_RUN_DIR", "/r", "gateway.run_dir", "\"/r\""),
        ("CHITON_LISTEN", "unix:/s", "gateway.listen", "[\"unix:/s\"]"),
        ("CHITON_ALLOW_UIDS", "7, 8", "gateway.allow_uids", "[7, 8]"),
        ("CHITON_COMPUTE_DRIVERS", "oci", "compute.drivers", "[\"oci\"]"),
        ("CHITON_COMPUTE_DEFAULT_DRIVER", "oci", "compute.default_driver", "\"oci\""),
        ("CHITON_COMPUTE_EXTENSIONS", "", "compute.extensions", "[]"),
        ("CHITON_COMPUTE_MISSING", "hold", "compute.missing", "\"hold\""),
        ("CHITON_COMPUTE_DRAIN", "5s", "compute.drain", "\"5s\""),
        ("CHITON_COMPUTE_LATE_EFFECTS", "6s", "compute.late_effects", "\"6s\""),
        ("CHITON_LOG", "debug", "log.level", "\"debug\""),
        ("CHITON_LOG_FORMAT", "json", "log.format", "\"json\""),
        ("CHITON_RECONCILE_INTERVAL", "7s", "reconcile.interval", "\"7s\""),
        ("CHITON_SWEEP_INTERVAL", "8s", "sweep.interval", "\"8s\""),
        ("CHITON_SWEEP_GRACE", "9s", "sweep.grace", "\"9s\""),
        ("CHITON_SUPERVISOR_LISTEN", "127.0.0.1:2", "supervisor.listen", "\"127.0.0.1:2\""),
        ("CHITON_SUPERVISOR_ALLOW_REMOTE", "true", "supervisor.allow_remote", "true"),
        ("CHITON_METRICS_LISTEN", "127.0.0.1:1", "metrics.listen", "\"127.0.0.1:1\""),
    ] {
        assert_eq!(origin(&good(&env(file(""), name, value)), key), pair(shown, &format!("env {name}")));
    }
    let known = super::super::keys::KEYS.iter().filter(|key| key.env.is_some()).count();
    assert_eq!(known, 18, "a variable was added: add it above");
}

#[test]
fn no_secret_value_is_in_any_output() {
    let config = good(&env(file(FULL), "DB_PASSWORD", "hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(origin(&config, "secrets.db.env").0, "\"DB_PASSWORD\"");
}
