//! What is refused elsewhere: listeners, callers, secrets, logging, metrics, the file itself, environment and flags.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;

use super::super::{Origin, Sources, load};
use super::{bad, compiled, env, file};

#[test]
fn a_tcp_listener() {
    let text = r#"[gateway]
listen = ["127.0.0.1:8080"]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: gateway.listen[0]: listening on "127.0.0.1:8080" is not supported in this version; use a Unix socket: "unix:/run/chiton/gateway.sock""#);
}

#[test]
fn listeners_that_cannot_be() {
    let long = "x".repeat(107);
    let text = format!(
        r#"[gateway]
listen = [
  "unix:gateway.sock",
  "unix:/run/a.sock",
  "unix:/run/a.sock",
  "unix:",
  "unix:/{long}",
]
"#
    );
    assert_snapshot!(bad(&file(&text)), @r#"
    chiton.toml:3: gateway.listen[0]: the path is relative; write an absolute path, beginning with "/"
    chiton.toml:5: gateway.listen[2]: "unix:/run/a.sock" is listed twice; remove one of them
    chiton.toml:6: gateway.listen[3]: the path is empty; write an absolute path, beginning with "/"
    chiton.toml:7: gateway.listen[4]: the socket's path has 108 bytes, the kernel takes 107; choose a shorter path with gateway.listen
    "#);
}

#[test]
fn no_listener() {
    let text = r"[gateway]
listen = []
";
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:2: gateway.listen: the list is empty; name a socket, or remove the key for the default");
}

#[test]
fn relative_folders() {
    let text = r#"[gateway]
data_dir = "data"
run_dir = ""
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: gateway.data_dir: the path is relative; write an absolute path, beginning with "/"
    chiton.toml:3: gateway.run_dir: the path is empty; write an absolute path, beginning with "/"
    "#);
}

#[test]
fn user_ids_that_are_none() {
    let text = r#"[gateway]
allow_uids = [1000, -1, 4294967295, 1000, "root"]
"#;
    assert_snapshot!(bad(&file(text)), @r"
    chiton.toml:2: gateway.allow_uids[4]: is a string; write a whole number
    chiton.toml:2: gateway.allow_uids[1]: -1 is not a user id; write a number from 0 to 4294967294
    chiton.toml:2: gateway.allow_uids[2]: 4294967295 is not a user id; write a number from 0 to 4294967294
    chiton.toml:2: gateway.allow_uids[3]: user id 1000 is listed twice; remove one of them
    ");
}

#[test]
fn a_secret_without_source_or_owner() {
    let text = r"[secrets.token]
";
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:1: secrets.token: the secret has no source; write either env = "NAME" or file = "/path"
    chiton.toml:1: secrets.token: the secret says nothing about who may use it; add for example allow = { workspaces = ["default"] }
    "#);
}

#[test]
fn a_secret_with_two_sources() {
    let text = r#"[secrets.token]
env = "TOKEN"
file = "/etc/token"
allow = { workspaces = ["a"] }
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:3: secrets.token.file: the secret has two sources; write either env = "NAME" or file = "/path""#);
}

#[test]
fn a_secret_for_everybody() {
    let text = r#"[secrets.token]
env = "TOKEN"
allow = {}
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:3: secrets.token.allow: an empty table would mean everybody; say who: workspaces or principals, for example { workspaces = ["default"] }"#);
}

#[test]
fn a_secret_by_value_is_not_repeated() {
    let text = r#"[secrets.token]
env = "hunter2!"
allow = { workspaces = ["a"] }
[secrets.other]
value = "hunter2!"
file = ["hunter2!"]
allow = { workspaces = ["a"], labels = { a = "b" } }
"#;
    assert_snapshot!(bad(&file(text)), @r"
    chiton.toml:2: secrets.token.env: this is not the name of an environment variable; write the variable's name, not its value: letters, digits and '_', not beginning with a digit
    chiton.toml:5: secrets.other.value: unknown key; remove it; known here: env, file, allow
    chiton.toml:6: secrets.other.file: is a list; write a string in quotes
    chiton.toml:7: secrets.other.allow.labels: unknown key; remove it; known here: workspaces, principals
    ");
}

#[test]
fn secrets_at_odd_places() {
    let text = r#"[secrets.token]
file = "token"
allow = { principals = ["uid:7"] }
[secrets.own]
env = "CHITON_TOKEN"
allow = { principals = ["uid:7"] }
[secrets."a b"]
env = "A"
allow = { principals = ["uid:7"] }
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: secrets.token.file: the path is relative; write an absolute path, beginning with "/"
    chiton.toml:5: secrets.own.env: variables that begin with CHITON_ are the gateway's own settings; use a variable with another name
    chiton.toml:7: secrets."a b": "a b" is not a secret's reference; use 1 to 63 letters, digits, '-', '_' and '.'
    "#);
}

#[test]
fn log_levels_that_are_none() {
    let text = r#"[log]
level = "inof"
format = "jsno"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: log.level: "inof" is not a log level; did you mean "info"?
    chiton.toml:3: log.format: unknown value "jsno"; did you mean "json"?
    "#);
}

#[test]
fn a_log_filter_with_spaces() {
    let text = r#"[log]
level = "info, chiton=debug,=warn"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: log.level: " chiton=debug" is not a log level; write one of off, error, warn, info, debug, trace, or target=level, separated by commas without spaces
    chiton.toml:2: log.level: "=warn" is not a log level; write one of off, error, warn, info, debug, trace, or target=level, separated by commas without spaces
    "#);
}

#[test]
fn metrics_for_the_world() {
    let text = r#"[metrics]
listen = "0.0.0.0:9464"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: metrics.listen: "0.0.0.0:9464" is not a loopback address; metrics have no authentication: use 127.0.0.1, [::1] or a Unix socket, and a proxy in front of it"#);
}

#[test]
fn metrics_without_a_port() {
    let text = r#"[metrics]
listen = "localhost"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: metrics.listen: "localhost" is no address; write a loopback address with a port, for example "127.0.0.1:9464", or "unix:/path""#);
}

#[test]
fn metrics_on_the_apis_socket() {
    let text = r#"[metrics]
listen = "unix:/run/chiton/gateway.sock"
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:2: metrics.listen: this socket serves the API already; choose another path, or remove the key: the API's listeners serve /metrics too");
}

#[test]
fn text_that_is_no_toml() {
    let text = r#"[gateway]
data_dir = "/srv"
listen = [
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:3: not valid TOML: unclosed array, expected `]`");
}

#[test]
fn a_key_set_twice() {
    let text = r#"[gateway]
data_dir = "/srv"
data_dir = "/var"
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:3: not valid TOML: duplicate key");
}

#[test]
fn a_syntax_error_does_not_repeat_the_line() {
    let text = r"[secrets.token]
env = hunter2!
";
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:2: not valid TOML: string values must be quoted, expected literal string");
}

#[test]
fn variables_that_are_unknown_or_wrong() {
    let mut sources = file("");
    for (name, value) in [
        ("CHITON_COMPUTE_EXTENSION", "fleet-labels"),
        ("CHITON_COMPUTE_DRIVER_SOCKET", "/run/kyma.sock"),
        ("CHITON_WHATEVER", "hunter2"),
        ("CHITON_ALLOW_UIDS", "1000,ann"),
        ("CHITON_COMPUTE_EXTENSIONS", "fleet-lables,"),
        ("CHITON_DATA_DIR", "data"),
    ] {
        sources = env(sources, name, value);
    }
    assert_snapshot!(bad(&sources), @r#"
    env CHITON_ALLOW_UIDS: gateway.allow_uids: "ann" is not a whole number; write whole numbers separated by commas
    env CHITON_COMPUTE_DRIVER_SOCKET: compute.drivers: the socket of an external driver is given, and no name for the driver; write --driver NAME --compute-driver-socket /run/NAME.sock, or set CHITON_COMPUTE_DRIVERS to the name
    env CHITON_COMPUTE_EXTENSION: unknown configuration variable; did you mean CHITON_COMPUTE_EXTENSIONS?
    env CHITON_COMPUTE_EXTENSIONS: compute.extensions[0]: unknown extension "fleet-lables"; did you mean "fleet-labels"?
    env CHITON_COMPUTE_EXTENSIONS: compute.extensions[1]: unknown extension ""; known: address-lease, fleet-labels
    env CHITON_DATA_DIR: gateway.data_dir: the path is relative; write an absolute path, beginning with "/"
    env CHITON_WHATEVER: unknown configuration variable; unset it; names under CHITON_ are reserved
    "#);
}

#[test]
fn flags_that_are_wrong() {
    let mut sources = file("");
    sources.flags.listen = vec!["127.0.0.1:8080".to_owned()];
    sources.flags.drivers = vec!["docker".to_owned(), "docker".to_owned()];
    sources.flags.data_dir = Some(PathBuf::from(OsStr::from_bytes(b"/srv/\xff")));
    assert_snapshot!(bad(&sources), @r#"
    flag --data-dir: gateway.data_dir: the path is not valid UTF-8; choose a folder whose path is UTF-8
    flag --driver: compute.drivers[1]: driver "docker" is listed twice; remove one of them
    flag --driver: compute.drivers: unknown driver "docker"; known: oci; a name of your own needs a table [compute.driver.docker] with its kind or socket
    flag --listen: gateway.listen[0]: listening on "127.0.0.1:8080" is not supported in this version; use a Unix socket: "unix:/run/chiton/gateway.sock"
    "#);
}

#[test]
fn a_user_without_folders() {
    let sources = Sources { uid: 1000, ..file("") };
    assert_snapshot!(bad(&sources), @r"
    default: gateway.data_dir: this user has no default folder; set HOME, or name a folder with --data-dir
    default: gateway.listen: this user has no default socket: neither XDG_RUNTIME_DIR nor HOME is set to an absolute path; set one, or name a socket with --listen unix:PATH, or a folder with --data-dir
    ");
}

#[test]
fn several_errors_at_once_come_in_the_order_of_lines_then_environment_then_flags() {
    let mut sources = env(
        file(
            r#"[metrics]
listen = "1.2.3.4:1"

[compute]
polcy = {}
extensions = [
  "fleet-labels",
  "nope",
]

[compute.extension.fleet-labels]
labels = {}

[compute.policy.fleet-labels]
deadline = "0s"
activation = "match"
"#,
        ),
        "CHITON_LOG",
        "loud",
    );
    sources.flags.listen = vec!["tcp:1".to_owned()];
    let errors = load(&sources, &compiled()).expect_err("much is wrong");
    let places: Vec<_> = errors.iter().map(|error| (error.line(), error.key.as_str())).collect();
    assert_eq!(
        places,
        [
            (Some(2), "metrics.listen"),
            (Some(5), "compute.polcy"),
            (Some(8), "compute.extensions[1]"),
            (Some(12), "compute.extension.fleet-labels.labels"),
            (Some(15), "compute.policy.fleet-labels.deadline"),
            (Some(16), "compute.policy.fleet-labels.match"),
            (None, "log.level"),
            (None, "gateway.listen[0]"),
        ]
    );
    assert!(errors[..6].iter().all(|error| error.file() == Some(Path::new("chiton.toml"))));
    assert_eq!(errors[6].origin, Origin::Env("CHITON_LOG".to_owned()));
    assert_eq!(errors[7].origin, Origin::Flag("--listen"));
}
