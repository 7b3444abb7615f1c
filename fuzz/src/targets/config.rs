//! The gateway's configuration: a TOML file, environment and flags.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chiton_gateway::Plugins;
use chiton_gateway::config::{Config, ConfigError, Drivers, Flags, Sources, default_config_text, load};

use super::Target;
use crate::behaviour::{note, note_text};

pub(super) const TARGET: Target = Target {
    name: "config",
    about: "gateway configuration: TOML file, environment, flags",
    run,
    seeds,
    words: &[
        "[gateway]",
        "[compute]",
        "[compute.driver.oci]",
        "[compute.policy.\"fleet-labels\"]",
        "[secrets.db]",
        "[log]",
        "[metrics]",
        "listen = ",
        "\"unix:/a.sock\"",
        "drivers = [\"oci\"]",
        "deadline = \"5s\"",
        "365d",
        "1m30s",
        "true",
        "[]",
        "{}",
        "nan",
        "inf",
        "1979-05-27",
        "\0CHITON_LISTEN=",
        "\0CHITON_DATA_DIR=",
        "\0--listen=",
        "\0--driver=",
        "\0--data-dir=",
        "\0--compute-driver-socket=",
        "\0CHITON_COMPUTE_DRIVER_SOCKET=",
        "external:/run/k.sock",
        "kind = \"external\"",
        "socket = \"/k\"",
        "\\u0000",
        "\"\"\"",
        "\u{1b}[2J",
        "0x7fffffffffffffff",
        "host_image",
        "first_id",
        "log_bytes",
    ],
    longest: 4096,
    short: 1_500,
    memory: (2048, 4 << 20),
};

const FULL: &str = include_str!("../../corpus/config/full.toml");

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        String::new(),
        default_config_text().to_owned(),
        FULL.to_owned(),
        format!("{FULL}\0CHITON_LISTEN=unix:/srv/c.sock\0CHITON_LOG_LEVEL=debug\0--listen=unix:/x.sock\0--driver=oci"),
        "\0CHITON_DATA_DIR=/srv/x\0--data-dir=relative".to_owned(),
        "[compute.driver.oci]\nhost_image = false\ndir_roots = [\"/srv\"]\nfirst_id = 65536\nlog_bytes = 1048576\n"
            .to_owned(),
        "[compute]\ndrivers = [\"oci\", \"External:/run/Far.sock\", \"kyma\"]\ndefault_driver = \"far\"\n\
         [compute.driver.kyma]\nsocket = \"/run/k.sock\"\nagent = \"openshell\"\nrequired = true\n"
            .to_owned(),
        "[compute.driver.kyma]\nsocket = \"/a\"\n\0--driver=kyma\0--compute-driver-socket=/run/kyma.sock".to_owned(),
        "\0CHITON_COMPUTE_DRIVERS=oci\0CHITON_COMPUTE_DRIVER_SOCKET=/run/oci.sock".to_owned(),
    ];
    texts.map(String::into_bytes).into()
}

fn plugins() -> Plugins {
    let mut plugins = Plugins::default();
    for kind in [chiton_fleet_labels::extension(), chiton_address_lease::extension()] {
        plugins.extension(kind.expect("its name is sound")).expect("names differ");
    }
    plugins.driver(chiton::oci()).expect("names differ");
    plugins.driver(chiton::external()).expect("names differ");
    plugins
}

/// The file's text; then, each after a zero byte, variables and flags.
fn sources(data: &[u8]) -> Sources {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default().to_owned();
    let (mut env, mut flags) = (BTreeMap::new(), Flags::default());
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name {
            "--listen" => flags.listen.push(value.to_owned()),
            "--driver" => flags.drivers.push(value.to_owned()),
            "--data-dir" => flags.data_dir = Some(PathBuf::from(value)),
            "--compute-driver-socket" => flags.driver_socket = Some(PathBuf::from(value)),
            _ => drop(env.insert(name.to_owned(), value.to_owned())),
        }
    }
    Sources { file: Some((PathBuf::from("chiton.toml"), file)), env, flags, uid: 0, cwd: PathBuf::from("/home/ann") }
}

fn run(data: &[u8]) {
    thread_local! {
        static PLUGINS: Plugins = plugins();
    }
    PLUGINS.with(|plugins| {
        let sources = sources(data);
        let first = load(&sources, plugins);
        match &first {
            Ok(config) => taken(config),
            Err(errors) => refused(&sources, errors),
        }
        match (first, load(&sources, plugins)) {
            (Ok(one), Ok(two)) => assert_eq!(one.origins(), two.origins()),
            (Err(one), Err(two)) => assert_eq!(one, two),
            _ => panic!("the same sources were taken once and refused once"),
        }
    });
}

fn taken(config: &Config) {
    // Listed ones, or those among which a start would look for one: that look is not taken here.
    let (drivers, default) = match &config.compute.drivers {
        Drivers::Listed { drivers, default } => (drivers, default),
        Drivers::Detect(candidates) => (candidates, &candidates.first().expect("a kind is built in").id),
    };
    note(("taken", drivers.len().min(3), config.compute.extensions.len(), config.secrets.len().min(3)));
    assert!(!drivers.is_empty() && !config.gateway.listen.is_empty());
    assert!(drivers.iter().any(|driver| driver.id == *default));
    assert!(config.gateway.data_dir.is_absolute() && config.gateway.run_dir.is_absolute());
    let origins = config.origins();
    assert!(origins.is_sorted_by(|a, b| a.key < b.key), "a setting is shown twice or out of order");
    let engine = config.engine(default.clone());
    assert!(!engine.sweep_every.is_zero() && !engine.reconcile_every.is_zero());
}

fn refused(sources: &Sources, errors: &[ConfigError]) {
    assert!(!errors.is_empty(), "it is refused without a reason");
    let lines = sources.file.as_ref().map_or(0, |(_, text)| text.split('\n').count());
    for error in errors {
        note(error.key.split('.').next().unwrap_or_default());
        note_text(&error.message);
        assert!(!error.message.is_empty(), "{error:?}");
        assert!(error.line().is_none_or(|line| (1..=lines).contains(&line)), "{error} is in no line of {lines}");
        let text = error.to_string();
        assert!(!text.chars().any(char::is_control), "a message holds control characters: {text:?}");
        let syntax = error.message.starts_with("not valid TOML");
        assert!(syntax || error.cure.is_some(), "nothing says what to do: {text}");
    }
}
