//! Configuration files that make no sense.

use std::fmt::Write as _;

use super::filters;
use crate::harness::{Gateway, Output, root};

#[test]
fn configs_that_make_no_sense_are_refused_with_every_error_at_its_line() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let mut told = String::new();
    for (what, config) in [
        ("no TOML", "[compute\n"),
        ("unknown table", "[computer]\n"),
        ("unknown key", "[compute]\nextension = []\nextenssions = []\n"),
        ("wrong type", "[compute]\nextensions = \"noop\"\n"),
        ("unknown extension", "[compute]\nextensions = [\"flet-labels\"]\n"),
        ("extension listed twice", "[compute]\nextensions = [\"noop\", \"noop\"]\n"),
        ("extension without its config", "[compute]\nextensions = [\"address-lease\"]\n"),
        (
            "unknown key of an extension",
            "[compute]\nextensions = [\"fault\"]\n[compute.extension.\"fault\"]\nfolder = \"/tmp\"\nfalts = {}\n",
        ),
        (
            "a range that makes no sense",
            "[compute.extension.\"address-lease\"]\nrange = \"10.0.0.9-10.0.0.1\"\nfolder = \"leases\"\n",
        ),
        ("reserved label", "[compute.extension.\"fleet-labels\"]\nlabels = { \"chiton.dev/x\" = \"1\" }\n"),
        ("unknown driver", "[compute]\ndrivers = [\"firecracker\"]\n"),
        ("unknown key of a driver", "[compute.driver.oci]\nhost_imgae = true\n"),
        ("too long a grace", "[compute.driver.oci]\nstop_grace_seconds = 400\n"),
        ("zero deadline", "[compute.policy.\"noop\"]\ndeadline = \"0s\"\n"),
        ("deadline without unit", "[compute.policy.\"noop\"]\ndeadline = \"5\"\n"),
        ("policy of nobody", "[compute.policy.\"nop\"]\nfailure = \"optional\"\n"),
        ("activation without a rule", "[compute.policy.\"noop\"]\nactivation = \"match\"\n"),
        ("a secret in the file", "[secrets.key]\nvalue = \"hunter2\"\n"),
        ("a listener on the network", "[gateway]\nlisten = [\"0.0.0.0:80\"]\n"),
        ("metrics for everybody", "[metrics]\nlisten = \"0.0.0.0:9464\"\n"),
        ("several at once", "[log]\nlevel = \"loud\"\nformat = \"xml\"\n[sweep]\ninterval = -1\n"),
    ] {
        std::fs::write(gateway.path("bad.toml"), config).expect("a file");
        let Output { code, stdout, stderr } = gateway.chiton(&["config", "check", "--config", "bad.toml"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{what}: {stderr}");
        writeln!(told, "# {what}\n{}", stderr.trim_end()).expect("a string");
    }
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(told, @r#"
        # no TOML
        error: bad.toml:1: not valid TOML: unclosed table, expected `]` [invalid]
        # unknown table
        error: bad.toml:1: computer: unknown key [invalid]
          cure: did you mean "compute"?
        # unknown key
        error: bad.toml:2: compute.extension: is a list [invalid]
          cure: write a table
        error: bad.toml:3: compute.extenssions: unknown key [invalid]
          cure: did you mean "extensions"?
        # wrong type
        error: bad.toml:2: compute.extensions: is a string [invalid]
          cure: write a list of strings, for example ["a", "b"]
        # unknown extension
        error: bad.toml:2: compute.extensions[0]: unknown extension "flet-labels" [invalid]
          cure: did you mean "fleet-labels"?
        # extension listed twice
        error: bad.toml:2: compute.extensions[1]: extension "noop" is listed twice [invalid]
          cure: remove one of them
        # extension without its config
        error: bad.toml:2: compute.extension.address-lease: missing field `range` [invalid]
          cure: add a table [compute.extension.address-lease]
        # unknown key of an extension
        error: bad.toml:5: compute.extension.fault.falts: unknown field `falts`, expected one of `folder`, `faults`, `labels` [invalid]
          cure: did you mean "faults"?
        # a range that makes no sense
        error: bad.toml:2: compute.extension.address-lease.range: "10.0.0.9-10.0.0.1" ends before it begins [invalid]
          cure: write first and last address, for example "10.88.0.2-10.88.0.254"
        error: bad.toml:3: compute.extension.address-lease.folder: "leases" is not an absolute path [invalid]
          cure: begin it with "/"
        # reserved label
        error: bad.toml:2: compute.extension.fleet-labels.labels."chiton.dev/x": label "chiton.dev/x" is reserved: keys under "chiton.dev/" are set by the gateway [invalid]
          cure: choose a key without a reserved prefix; to ask for an extension use --extension
        # unknown driver
        error: bad.toml:2: compute.drivers: unknown driver "firecracker" [invalid]
          cure: known: oci, docker, podman, external, links; a name of your own needs a table [compute.driver.firecracker] with its kind or socket
        # unknown key of a driver
        error: bad.toml:2: compute.driver.oci.host_imgae: unknown field `host_imgae`, expected one of `agent`, `host_image`, `dir_roots`, `images`, `first_id`, `stop_grace_seconds`, `log_bytes`, `pids`, `memory`, `disk`, `volume_size`, `host_network`, `bridge` [invalid]
          cure: did you mean "host_image"?
        # too long a grace
        error: bad.toml:2: compute.driver.oci.stop_grace_seconds: more than 45 seconds do not fit into the deadline of a stop [invalid]
          cure: use at most 45
        # zero deadline
        error: bad.toml:2: compute.policy.noop.deadline: duration "0s" is too short [invalid]
          cure: write at least "1ms"
        # deadline without unit
        error: bad.toml:2: compute.policy.noop.deadline: duration "5" is not valid: it has no unit [invalid]
          cure: write a number and a unit, for example "30s"
        # policy of nobody
        error: bad.toml:1: compute.policy.nop: unknown extension "nop" [invalid]
          cure: did you mean "noop"?; if it was removed for good, set abandon = true
        # activation without a rule
        error: bad.toml:2: compute.policy.noop.match: activation needs a table "match" [invalid]
          cure: say for whom, for example match = { workspaces = ["default"] }
        # a secret in the file
        error: bad.toml:1: secrets.key: the secret has no source [invalid]
          cure: write either env = "NAME" or file = "/path"
        error: bad.toml:1: secrets.key: the secret says nothing about who may use it [invalid]
          cure: add for example allow = { workspaces = ["default"] }
        error: bad.toml:2: secrets.key.value: unknown key [invalid]
          cure: remove it; known here: env, file, allow
        # a listener on the network
        error: bad.toml:2: gateway.listen[0]: listening on "0.0.0.0:80" is not supported in this version [invalid]
          cure: use a Unix socket: "unix:/run/chiton/gateway.sock"
        # metrics for everybody
        error: bad.toml:2: metrics.listen: "0.0.0.0:9464" is not a loopback address [invalid]
          cure: metrics have no authentication: use 127.0.0.1, [::1] or a Unix socket, and a proxy in front of it
        # several at once
        error: bad.toml:2: log.level: "loud" is not a log level [invalid]
          cure: write one of off, error, warn, info, debug, trace, or target=level, separated by commas without spaces
        error: bad.toml:3: log.format: unknown value "xml" [invalid]
          cure: write one of "text", "json"
        error: bad.toml:5: sweep.interval: is an integer [invalid]
          cure: write a duration in quotes, for example "30s"
        "#);
    });
}
