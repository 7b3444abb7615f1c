//! Drivers behind a socket: every form in which one can be named, and what is said of those that make no sense. The kind
//! itself is a stand-in with the keys `socket` (required) and `agent`.

use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::{DriverId, Error};
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::external::derived_id;
use super::super::{Config, ConfigError, Drivers, EXTERNAL_KIND, Sources, load};
use super::{compiled, env, file, lines, listed};
use crate::plugin::{DriverKind, Plugins};

fn check(options: &Value) -> Vec<ConfigIssue> {
    let issue = |pointer: &str, message: &str| ConfigIssue {
        pointer: pointer.to_owned(),
        message: message.to_owned(),
        cure: None,
    };
    let table = options.as_object().expect("options are a table");
    let mut found: Vec<_> = table
        .keys()
        .filter(|key| !["socket", "agent"].contains(&key.as_str()))
        .map(|key| issue(&format!("/{}", key.replace('~', "~0").replace('/', "~1")), "unknown option"))
        .collect();
    if !table.get("socket").is_some_and(Value::is_string) {
        found.push(issue("", "missing field `socket`"));
    }
    found
}

fn kind(name: &'static str, check: fn(&Value) -> Vec<ConfigIssue>) -> DriverKind {
    DriverKind {
        kind: name,
        early: |_| None,
        check,
        build: |_| Err(Error::internal("loading a config must not build a driver")),
        doctor: |_| Vec::new(),
        probe: |_| Ok("it is there".to_owned()),
    }
}

/// `oci`, `docker` (any table) and `external`.
fn catalog() -> Plugins {
    let mut plugins = compiled();
    plugins.driver(kind("docker", |_| Vec::new())).expect("names differ");
    plugins.driver(kind(EXTERNAL_KIND, check)).expect("names differ");
    plugins
}

fn good(sources: &Sources) -> Config {
    load(sources, &catalog()).unwrap_or_else(|errors| panic!("{}", lines(&errors)))
}

fn bad(sources: &Sources) -> String {
    lines(&errors(sources))
}

fn errors(sources: &Sources) -> Vec<ConfigError> {
    load(sources, &catalog()).expect_err("this config was taken")
}

fn flags(mut sources: Sources, drivers: &[&str], socket: Option<&str>) -> Sources {
    sources.flags.drivers = drivers.iter().map(|&driver| driver.to_owned()).collect();
    sources.flags.driver_socket = socket.map(Into::into);
    sources
}

/// Each listed driver: id, kind, options.
fn drivers(config: &Config) -> Vec<(&str, &str, Value)> {
    listed(config).0.iter().map(|driver| (driver.id.as_str(), &*driver.kind, driver.options.clone())).collect()
}

/// What is shown of drivers.
fn shown(config: &Config) -> String {
    let about = |key: &str| ["compute.driver", "compute.default_driver"].iter().any(|about| key.starts_with(about));
    let rows = config.origins().iter().filter(|row| about(&row.key));
    rows.map(|row| format!("{} = {}  # {}", row.key, row.value, row.origin)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_table_with_a_socket_and_a_name_of_the_operators_is_an_external_driver() {
    let text = r#"[compute]
drivers = ["oci", "kyma"]
default_driver = "oci"
[compute.driver.kyma]
socket = "/run/kyma.sock"
agent = "openshell"
"#;
    let config = good(&file(text));
    let kyma = ("kyma", "external", json!({"socket": "/run/kyma.sock", "agent": "openshell"}));
    assert_eq!(drivers(&config), [("oci", "oci", json!({})), kyma]);
    assert_snapshot!(shown(&config), @r#"
    compute.default_driver = "oci"  # chiton.toml:3
    compute.driver.kyma.agent = "openshell"  # chiton.toml:6
    compute.driver.kyma.kind = "external"  # default
    compute.driver.kyma.socket = "/run/kyma.sock"  # chiton.toml:5
    compute.drivers = ["oci", "kyma"]  # chiton.toml:2
    "#);
}

#[test]
fn a_kind_that_is_written_says_the_same_for_any_name() {
    let text = "[compute]\ndrivers = [\"docker\"]\n[compute.driver.docker]\nkind = \"external\"\nsocket = \"/run/d\"\n";
    assert_eq!(drivers(&good(&file(text))), [("docker", "external", json!({"socket": "/run/d"}))]);
}

#[test]
fn a_socket_of_a_built_in_kind_is_that_kinds_own_setting() {
    let text = "[compute]\ndrivers = [\"docker\"]\n[compute.driver.docker]\nsocket = \"/var/run/docker.sock\"\n";
    assert_eq!(drivers(&good(&file(text))), [("docker", "docker", json!({"socket": "/var/run/docker.sock"}))]);
}

#[test]
fn a_socket_on_the_command_line_makes_the_named_driver_external_and_replaces_the_list() {
    let text = "[compute]\ndrivers = [\"oci\", \"docker\"]\ndefault_driver = \"oci\"\n";
    let config = good(&flags(file(text), &["kyma"], Some("/run/kyma.sock")));
    assert_eq!(drivers(&config), [("kyma", "external", json!({"socket": "/run/kyma.sock"}))]);
    assert_eq!(listed(&config).1, "kyma");
    assert_snapshot!(shown(&config), @r#"
    compute.default_driver = "kyma"  # default
    compute.driver.kyma.kind = "external"  # flag --compute-driver-socket
    compute.driver.kyma.socket = "/run/kyma.sock"  # flag --compute-driver-socket
    compute.drivers = ["kyma"]  # flag --driver
    "#);
}

#[test]
fn a_socket_in_the_environment_does_the_same() {
    let sources = env(env(file(""), "CHITON_COMPUTE_DRIVERS", "kyma"), "CHITON_COMPUTE_DRIVER_SOCKET", "/run/k.sock");
    assert_snapshot!(shown(&good(&sources)), @r#"
    compute.default_driver = "kyma"  # default
    compute.driver.kyma.kind = "external"  # env CHITON_COMPUTE_DRIVER_SOCKET
    compute.driver.kyma.socket = "/run/k.sock"  # env CHITON_COMPUTE_DRIVER_SOCKET
    compute.drivers = ["kyma"]  # env CHITON_COMPUTE_DRIVERS
    "#);
    let config = good(&flags(sources, &[], Some("/run/flag.sock")));
    assert_eq!(drivers(&config), [("kyma", "external", json!({"socket": "/run/flag.sock"}))], "a flag wins");
}

#[test]
fn the_name_beside_a_socket_may_be_that_of_a_built_in_kind() {
    let text = "[compute.driver.docker]\nhost = \"tcp://x\"\n";
    let config = good(&flags(file(text), &["docker"], Some("/run/d.sock")));
    assert_eq!(drivers(&config), [("docker", "external", json!({"socket": "/run/d.sock"}))]);
    assert!(!shown(&config).contains("tcp://x"), "the table of the built-in kind is not used");
}

#[test]
fn what_a_file_says_of_an_external_driver_stays_where_a_socket_is_given() {
    let text = "[compute.driver.kyma]\nsocket = \"/run/old.sock\"\nagent = \"openshell\"\n";
    let config = good(&flags(file(text), &["kyma"], Some("/run/new.sock")));
    let options = json!({"socket": "/run/new.sock", "agent": "openshell"});
    assert_eq!(drivers(&config), [("kyma", "external", options)]);
}

#[test]
fn a_short_form_names_the_driver_by_its_socket() {
    let text = "[compute]\ndrivers = [\"oci\", \"external:/run/kyma.sock\"]\ndefault_driver = \"kyma\"\n";
    let config = good(&file(text));
    let kyma = ("kyma", "external", json!({"socket": "/run/kyma.sock"}));
    assert_eq!(drivers(&config), [("oci", "oci", json!({})), kyma.clone()]);
    assert_snapshot!(shown(&config), @r#"
    compute.default_driver = "kyma"  # chiton.toml:3
    compute.driver.kyma.kind = "external"  # chiton.toml:2
    compute.driver.kyma.socket = "/run/kyma.sock"  # chiton.toml:2
    compute.drivers = ["oci", "kyma"]  # chiton.toml:2
    "#);
    for form in ["EXTERNAL:/run/kyma.sock", "External:/run/kyma.sock"] {
        assert_eq!(drivers(&good(&flags(file(""), &[form], None))), std::slice::from_ref(&kyma));
        assert_eq!(drivers(&good(&env(file(""), "CHITON_COMPUTE_DRIVERS", form))), std::slice::from_ref(&kyma));
    }
    let shown = shown(&good(&flags(file(""), &["external:/run/kyma.sock"], None)));
    assert!(shown.contains("compute.driver.kyma.socket = \"/run/kyma.sock\"  # flag --driver"), "{shown}");
}

#[test]
fn an_id_is_derived_from_the_sockets_name() {
    for (path, id) in [
        ("/run/kyma.sock", "kyma"),
        ("/run/Kyma_Lab.2.socket", "kyma-lab-2"),
        ("/run/--a--b--.sock", "a-b"),
        ("/run/.sock", "external"),
        ("/run/日本.sock", "external"),
        ("/run/plain", "plain"),
    ] {
        assert_eq!(derived_id(path), id, "{path}");
    }
    assert_eq!(derived_id(&format!("/run/{}-x.sock", "a".repeat(62))), "a".repeat(62));
}

#[test]
fn whether_a_driver_is_required_is_the_gateways_and_not_the_drivers() {
    let text = "[compute]\ndrivers = [\"kyma\"]\n[compute.driver.kyma]\nsocket = \"/k\"\nrequired = true\n";
    let config = good(&file(text));
    let (drivers, _) = listed(&config);
    assert!(drivers[0].required);
    assert_eq!(drivers[0].options, json!({"socket": "/k"}));
    let text = "[compute.driver.kyma]\nsocket = \"/k\"\nrequired = \"yes\"\n";
    assert_snapshot!(bad(&file(text)), @"chiton.toml:3: compute.driver.kyma.required: is neither true nor false; write true or false");
}

#[test]
fn an_external_driver_is_never_detected() {
    let mut plugins = Plugins::default();
    plugins.driver(kind("docker", |_| Vec::new())).expect("names differ");
    plugins.driver(kind(EXTERNAL_KIND, check)).expect("names differ");
    let chosen = |text: &str| load(&file(text), &plugins).expect("it is sound").choose(&plugins);
    let docker = chosen("").expect("it can run");
    assert_eq!(docker.default_driver.as_str(), "docker");
    let external = "[compute.driver.external]\nsocket = \"/k\"\n";
    assert_eq!(chosen(external).expect("it can run").default_driver.as_str(), "docker");
    let both = format!("{external}[compute.driver.docker]\nkind = \"external\"\nsocket = \"/d\"\n");
    let none = Error::from(chosen(&both).expect_err("both are behind sockets"));
    assert_snapshot!(none.message, @r"
    no driver is configured, and none that is built in can run here:
      docker: it is an external driver, which is used by name only; name it: --driver docker
      external: it is an external driver, which is used by name only; name it: --driver external
    ");
}

#[test]
fn the_bare_word_is_refused_unless_a_table_says_where() {
    for word in ["external", "External"] {
        let said = bad(&flags(file(""), &[word], None));
        assert_eq!(
            said,
            "flag --driver: compute.drivers[0]: an external driver needs the path of its socket, and none is given; \
             write external:/run/NAME.sock, or a table [compute.driver.NAME] with socket and list NAME"
        );
    }
    let text = "compute.default_driver = \"external\"\n";
    assert!(bad(&file(text)).contains("compute.default_driver: an external driver needs the path"));
    let text = "[compute]\ndrivers = [\"external\"]\n[compute.driver.external]\nsocket = \"/k\"\n";
    assert_eq!(drivers(&good(&file(text))), [("external", "external", json!({"socket": "/k"}))]);
    let config = good(&flags(file(""), &["external"], Some("/k")));
    assert_eq!(drivers(&config), [("external", "external", json!({"socket": "/k"}))]);
}

#[test]
fn short_forms_without_a_usable_path() {
    let text = r#"[compute]
drivers = [
  "external:",
  "EXTERNAL:run/k.sock",
  "external:/run/k/",
  "external:/run/a/d.sock",
  "external:/run/b/d.sock",
]
default_driver = "d"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:3: compute.drivers[0]: an external driver needs the path of its socket, and this one is empty; write external:/run/NAME.sock
    chiton.toml:4: compute.drivers[1]: the path "run/k.sock" of the driver's socket is not absolute; write external:/run/NAME.sock
    chiton.toml:5: compute.drivers[2]: "/run/k/" is no path of a socket; write external:/run/NAME.sock
    chiton.toml:7: compute.drivers[4]: another socket in this list has the id "d", too; write the socket into a table of its own, [compute.driver.NAME], and list NAME
    "#);
}

#[test]
fn a_short_form_beside_a_table_that_says_something_else() {
    let text = r#"[compute]
drivers = ["external:/run/kyma.sock", "external:/run/docker.sock"]
default_driver = "kyma"
[compute.driver.kyma]
socket = "/run/other.sock"
[compute.driver.docker]
host = "tcp://x"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: compute.drivers: the driver of this socket would be "kyma", and [compute.driver.kyma] says something else; write the socket into a table of its own, [compute.driver.NAME], and list NAME
    chiton.toml:2: compute.drivers: the driver of this socket would be "docker", and [compute.driver.docker] says something else; write the socket into a table of its own, [compute.driver.NAME], and list NAME
    "#);
    let text = text.replace("other", "kyma").replace(", \"external:/run/docker.sock\"", "");
    assert_eq!(drivers(&good(&file(&text)))[0].2, json!({"socket": "/run/kyma.sock"}), "the same twice is no clash");
}

#[test]
fn a_default_is_named_by_its_id() {
    let text = "[compute]\ndrivers = [\"oci\"]\ndefault_driver = \"external:/run/kyma.sock\"\n";
    assert!(bad(&file(text)).contains("is not in compute.drivers"));
    let text = "compute.default_driver = \"external:/run/kyma.sock\"\n";
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:1: compute.default_driver: an external driver is named by its id here; list it in compute.drivers and write its id, "kyma""#);
}

#[test]
fn a_socket_needs_exactly_one_driver_that_is_named_beside_it() {
    let two = "[compute]\ndrivers = [\"oci\", \"docker\"]\ndefault_driver = \"oci\"\n";
    assert_snapshot!(bad(&flags(file(two), &[], Some("/k"))), @"flag --compute-driver-socket: compute.drivers: the socket of an external driver is given, and no name for the driver; write --driver NAME --compute-driver-socket /run/NAME.sock, or set CHITON_COMPUTE_DRIVERS to the name");
    assert_snapshot!(bad(&flags(file(""), &["a", "b"], Some("/k"))), @r#"flag --compute-driver-socket: compute.drivers: one socket is given for 2 drivers ("a", "b"); name one driver beside it; for several, give each external one a table: [compute.driver.NAME] socket = "/run/NAME.sock""#);
    assert_snapshot!(bad(&env(file(two), "CHITON_COMPUTE_DRIVER_SOCKET", "/k")), @"env CHITON_COMPUTE_DRIVER_SOCKET: compute.drivers: the socket of an external driver is given, and no name for the driver; write --driver NAME --compute-driver-socket /run/NAME.sock, or set CHITON_COMPUTE_DRIVERS to the name");
}

#[test]
fn sockets_that_are_none() {
    assert_snapshot!(bad(&flags(file(""), &["kyma"], Some("run/k.sock"))), @r#"flag --compute-driver-socket: the path "run/k.sock" of the driver's socket is not absolute; write --driver NAME --compute-driver-socket /run/NAME.sock"#);
    assert_snapshot!(bad(&env(file(""), "CHITON_COMPUTE_DRIVER_SOCKET", "")), @"env CHITON_COMPUTE_DRIVER_SOCKET: an external driver needs the path of its socket, and this one is empty; write --driver NAME --compute-driver-socket /run/NAME.sock");
    let twice = bad(&flags(file(""), &["external:/run/kyma.sock"], Some("/run/other.sock")));
    assert!(twice.contains("the driver of this socket would be \"kyma\""), "{twice}");
}

#[test]
fn tables_of_external_drivers_that_make_no_sense() {
    let text = r#"[compute]
drivers = ["kyma", "lab", "oci"]
default_driver = "oci"
[compute.driver.kyma]
socket = "/k"
agnet = "chiton"
[compute.driver.lab]
agent = "chiton"
[compute.driver.far]
kind = "external"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:6: compute.driver.kyma.agnet: unknown option
    chiton.toml:7: compute.driver.lab: unknown driver kind "lab"; known: oci, docker, external; a name of your own needs its kind, or the socket of an external driver
    chiton.toml:9: compute.driver.far: missing field `socket`
    "#);
}

#[test]
fn a_build_without_the_kind_says_so() {
    let text = "[compute]\ndrivers = [\"kyma\"]\n[compute.driver.kyma]\nsocket = \"/k\"\n";
    let errors = load(&file(text), &compiled()).expect_err("there is no such kind");
    assert_snapshot!(lines(&errors), @"chiton.toml:3: compute.driver.kyma: this is the table of an external driver, and this build has no such kind; remove it, or run a build that has the kind external");
}

proptest! {
    #[test]
    fn a_derived_id_is_always_an_id(path in "/\\PC{0,90}") {
        prop_assert!(DriverId::new(derived_id(&path)).is_ok(), "{path:?} → {:?}", derived_id(&path));
    }

    #[test]
    fn any_short_form_is_answered(
        listed in prop::collection::vec("(external|EXTERNAL|oci|docker|kyma)?:?(/[a-z./-]{0,8})?|\\PC{0,8}", 0..4),
        socket in prop::option::of("/?[a-z./]{0,8}|\\PC{0,4}"),
        variable in prop::option::of("/?[a-z./]{0,8}"),
        table in "(kind = \"(external|oci|x)\"\n)?(socket = (\"/[a-z]{0,3}\"|1))?",
    ) {
        let text = format!("[compute.driver.kyma]\n{table}\n[compute.driver.docker]\n{table}\n");
        let mut sources = file(&text);
        sources.flags.drivers = listed;
        sources.flags.driver_socket = socket.map(Into::into);
        if let Some(variable) = variable {
            sources.env.insert("CHITON_COMPUTE_DRIVER_SOCKET".to_owned(), variable);
        }
        match load(&sources, &catalog()) {
            Ok(config) => {
                if let Drivers::Listed { drivers, .. } = &config.compute.drivers {
                    for driver in drivers.iter().filter(|driver| driver.kind == EXTERNAL_KIND) {
                        prop_assert!(driver.options["socket"].as_str().is_some());
                    }
                }
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(!error.to_string().chars().any(char::is_control), "{:?}", error.to_string());
                }
            }
        }
    }
}
