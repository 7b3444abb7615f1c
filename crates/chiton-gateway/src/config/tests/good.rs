use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_lifecycle::Missing;
use chiton_lifecycle::policy::{Activation, FailurePolicy, Match, Policy};
use chiton_model::{DriverId, Principal, WorkspaceName};
use serde_json::json;

use super::super::{
    Drivers, Listener, LogFormat, MetricsListen, SecretSource, Sources, default_config_text, default_socket,
};
use super::{env, file, good, listed};

pub(super) const FULL: &str = r#"
[gateway]
data_dir = "/srv/chiton"
run_dir = "/srv/run"
listen = ["unix:/srv/a.sock", "unix:/srv/b.sock"]
allow_uids = [1000, 1001]

[compute]
drivers = ["oci", "second"]
default_driver = "second"
extensions = ["fleet-labels"]
missing = "hold"
drain = "90s"

[compute.driver.second]
kind = "oci"
rootless = true

[compute.extension."fleet-labels"]
labels = { fleet = "prod", region = "us-west" }

[compute.policy."fleet-labels"]
activation = "on-request"
allow = { workspaces = ["team-a"], principals = ["uid:1000"], labels = { tier = "gold" } }
failure = "optional"
deadline = "5s"
reconcile = "authoritative"
concurrency = 4
overrides = ["address-lease:/network/address"]

[compute.policy.address-lease]
deadline = "1m"

[compute.policy.gone-for-good]
abandon = true

[secrets.db]
env = "DB_PASSWORD"
allow = { workspaces = ["team-a"] }

[secrets."registry.token"]
file = "/etc/token"
allow = { principals = ["uid:1000"] }

[log]
level = "info,chiton_gateway::api=debug"
format = "json"

[reconcile]
interval = "1h"

[sweep]
interval = "10m"
grace = "1m30s"

[metrics]
listen = "[::1]:9464"
"#;

#[test]
fn a_full_config_is_taken_as_written() {
    let config = good(&file(FULL));
    assert_eq!(config.gateway.data_dir, Path::new("/srv/chiton"));
    assert_eq!(config.gateway.run_dir, Path::new("/srv/run"));
    assert_eq!(config.gateway.listen, [Listener::Unix("/srv/a.sock".into()), Listener::Unix("/srv/b.sock".into())]);
    assert_eq!(config.gateway.allow_uids, BTreeSet::from([1000, 1001]));
    let drivers: Vec<_> = listed(&config).0.iter().map(|d| (d.id.as_str(), &*d.kind, d.options.clone())).collect();
    assert_eq!(drivers, [("oci", "oci", json!({})), ("second", "oci", json!({"rootless": true}))]);
    assert_eq!(listed(&config).1, "second");
    assert_eq!((config.compute.missing, config.compute.drain), (Missing::Hold, Duration::from_secs(90)));
    assert_eq!(config.log.level, "info,chiton_gateway::api=debug");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.metrics, Some(MetricsListen::Tcp("[::1]:9464".parse().expect("an address"))));
}

#[test]
fn rules_about_a_listed_extension_go_with_it_and_others_are_kept_apart() {
    let config = good(&file(FULL));
    let [extension] = &config.compute.extensions[..] else { panic!("one extension is listed") };
    assert_eq!(extension.document, json!({"labels": {"fleet": "prod", "region": "us-west"}}));
    assert_eq!(
        extension.policy,
        Policy {
            activation: Activation::OnRequest(Match {
                workspaces: BTreeSet::from(["team-a".to_owned()]),
                principals: BTreeSet::from(["uid:1000".to_owned()]),
                labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
            }),
            failure: FailurePolicy::Optional,
            deadline: Duration::from_secs(5),
            authoritative: true,
            abandon: false,
            concurrency: Some(4),
            overrides: vec![("address-lease".parse().expect("a name"), "/network/address".to_owned())],
        }
    );
    let others: Vec<_> = config.compute.other_policies.iter().map(|(name, p)| (name.as_str(), p.clone())).collect();
    assert_eq!(
        others,
        [
            ("address-lease", Policy { deadline: Duration::from_mins(1), ..Policy::default() }),
            ("gone-for-good", Policy { abandon: true, ..Policy::default() }),
        ]
    );
}

#[test]
fn the_engine_gets_what_the_operator_wrote() {
    let engine = good(&file(FULL)).engine(DriverId::new("second").expect("an id"));
    assert_eq!(engine.extensions.len(), 1);
    assert_eq!(engine.other_policies.len(), 2);
    assert_eq!(engine.default_driver.as_str(), "second");
    assert_eq!((engine.missing, engine.drain), (Missing::Hold, Duration::from_secs(90)));
    assert_eq!(engine.reconcile_every, Duration::from_hours(1));
    assert_eq!((engine.sweep_every, engine.sweep_grace), (Duration::from_mins(10), Duration::from_secs(90)));
}

#[test]
fn a_secret_is_for_those_it_names() {
    let config = good(&file(FULL));
    let workspace = |name: &str| WorkspaceName::new(name).expect("a name");
    let principal = |subject: &str| Principal { subject: subject.to_owned(), claims: BTreeMap::new() };
    let db = &config.secrets["db"];
    assert_eq!(db.source, SecretSource::Env("DB_PASSWORD".to_owned()));
    assert!(db.allows(&principal("anyone"), &workspace("team-a")));
    assert!(!db.allows(&principal("uid:1000"), &workspace("team-b")));
    let token = &config.secrets["registry.token"];
    assert_eq!(token.source, SecretSource::File(PathBuf::from("/etc/token")));
    assert!(token.allows(&principal("uid:1000"), &workspace("any")));
    assert!(!token.allows(&principal("uid:1001"), &workspace("any")));
}

#[test]
fn the_default_text_loads_and_changes_nothing() {
    let (with, without) = (good(&file(default_config_text())), good(&Sources { file: None, ..file("") }));
    assert_eq!(with.origins(), without.origins());
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
}

#[test]
fn the_default_text_with_its_settings_uncommented_loads_to_the_defaults() {
    let lines: Vec<&str> = default_config_text()
        .lines()
        .map(|line| line.strip_prefix('#').filter(|setting| !setting.starts_with(' ')).unwrap_or(line))
        .collect();
    let text = lines.join("\n");
    assert!(text.contains("\ndata_dir = "), "settings are uncommented");
    // The driver is an example there: by default it is looked for.
    let (config, default) = (good(&file(&text)), good(&env(file(""), "CHITON_COMPUTE_DRIVERS", "oci")));
    let but_metrics = |config: &super::Config| {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            config.gateway,
            config.compute,
            config.log,
            config.reconcile_interval,
            config.sweep_interval,
            config.sweep_grace
        )
    };
    assert_eq!(but_metrics(&config), but_metrics(&default));
    for shown in config.origins() {
        let set = shown.origin.to_string();
        assert!(set.starts_with("chiton.toml:"), "{} is not in the default text: {set}", shown.key);
    }
}

#[test]
fn roots_folders_are_the_systems() {
    let config = good(&file(""));
    assert_eq!(config.gateway.data_dir, Path::new("/var/lib/chiton"));
    assert_eq!(config.gateway.run_dir, Path::new("/run/chiton"));
    assert_eq!(config.gateway.listen, [Listener::Unix("/run/chiton/gateway.sock".into())]);
}

#[test]
fn a_users_folders_follow_xdg() {
    let user = env(Sources { uid: 1000, ..file("") }, "HOME", "/home/ann");
    let config = good(&user);
    assert_eq!(config.gateway.run_dir, Path::new("/home/ann/.local/state/chiton/run"));
    let socket = Listener::Unix("/home/ann/.local/state/chiton/run/gateway.sock".into());
    assert_eq!(config.gateway.listen, [socket]);
    let user = env(user, "XDG_RUNTIME_DIR", "/run/user/1000");
    let config = good(&user);
    assert_eq!(config.gateway.data_dir, Path::new("/home/ann/.local/share/chiton"));
    assert_eq!(config.gateway.run_dir, Path::new("/run/user/1000/chiton"));
    assert_eq!(config.gateway.listen, [Listener::Unix("/run/user/1000/chiton/gateway.sock".into())]);
    let config = good(&env(user, "XDG_DATA_HOME", "/data"));
    assert_eq!(config.gateway.data_dir, Path::new("/data/chiton"));
}

#[test]
fn a_data_dir_on_the_command_line_takes_the_socket_with_it_as_clients_expect() {
    let mut sources = file("");
    sources.flags.data_dir = Some("state".into());
    let config = good(&sources);
    assert_eq!(config.gateway.data_dir, Path::new("/home/ann/state"));
    assert_eq!(config.gateway.run_dir, Path::new("/home/ann/state/run"));
    let expected = default_socket(Some(&config.gateway.data_dir), None).expect("a socket");
    assert_eq!(config.gateway.listen, [Listener::Unix(expected)]);
}

#[test]
fn a_data_dir_in_the_file_leaves_the_socket_where_clients_look() {
    let config = good(&file("gateway.data_dir = \"/srv\""));
    assert_eq!(
        config.gateway.listen,
        [Listener::Unix(default_socket(None, Some(Path::new("/run/chiton"))).expect("a socket"))]
    );
}

#[test]
fn a_driver_that_is_not_listed_may_keep_its_table() {
    let config = good(&file("[compute.driver.second]\nkind = \"oci\"\n"));
    let Drivers::Detect(candidates) = config.compute.drivers else { panic!("its table lists no driver") };
    assert_eq!(candidates.iter().map(|candidate| candidate.id.as_str()).collect::<Vec<_>>(), ["oci"]);
}

#[test]
fn an_extension_that_is_not_listed_may_keep_its_table() {
    let config = good(&file("[compute.extension.fleet-labels]\nlabels = { a = \"b\" }\n"));
    assert!(config.compute.extensions.is_empty());
}

#[test]
fn variables_of_clients_are_no_settings() {
    let sources = env(file(""), "CHITON_GATEWAY", "unix:/x");
    assert_eq!(good(&sources).origins(), good(&file("")).origins());
}
