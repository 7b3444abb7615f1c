//! Drivers: those of a gateway as lists and blocks, what is said when one of several could not be asked, and the commands
//! that serve and judge one.

use chiton_model::Error;
use chiton_proto::v1 as wire;
use insta::assert_snapshot;
use prost_types::Timestamp;

use crate::scripted::{Ran, Server, program};

fn ago(seconds: i64) -> Timestamp {
    Timestamp { seconds: jiff::Timestamp::now().as_second() - seconds, nanos: 0 }
}

/// One that is built in and reachable, one that is behind a socket and reachable, one that is not.
fn three() -> wire::ListDriversResponse {
    let oci = wire::Driver {
        id: "oci".into(),
        kind: "oci".into(),
        version: "0.1.0".into(),
        default_image: "host".into(),
        is_default: true,
        points: vec!["env".into(), "label".into(), "mount".into()],
        features: vec!["two_phase_start".into(), "logs".into()],
        field_rules: vec![wire::FieldRule { path: "/env".into(), rule: "merge_map".into() }],
        plan_schema: "{\"type\":\"object\"}".into(),
        backend: "machine:ab".into(),
        limits: vec!["cpu".into(), "memory".into()],
        networks: vec!["bridge".into()],
        agent: "chiton".into(),
        sandboxes: 12,
        since: Some(ago(7260)),
        ..wire::Driver::default()
    };
    let kyma = wire::Driver {
        id: "kyma".into(),
        kind: "kyma".into(),
        version: "2.3.4".into(),
        agent: "openshell".into(),
        sandboxes: 1,
        since: Some(ago(125)),
        socket: "/run/kyma.sock".into(),
        gateway_manages_lifecycle: true,
        ..wire::Driver::default()
    };
    let lab = wire::Driver {
        id: "lab".into(),
        kind: "external".into(),
        version: "0".into(),
        agent: "none".into(),
        since: Some(ago(3 * 86_400 + 60)),
        socket: "/run/lab.sock".into(),
        unavailable: "the socket \"/run/lab.sock\" of driver \"lab\" is not there\u{1b}[2J".into(),
        cure: "start the driver".into(),
        ..wire::Driver::default()
    };
    wire::ListDriversResponse { drivers: vec![oci, kyma, lab] }
}

fn served() -> Server {
    let server = Server::start();
    server.answers("list_drivers", three());
    server
}

#[test]
fn the_list_says_what_each_is_and_whether_it_can_be_reached() {
    let server = served();
    let listed = server.run(&["drivers", "list"]);
    assert_snapshot!(listed.out, @r#"
    ID    KIND             VERSION  DEFAULT  AGENT      SANDBOXES  STATE
    oci   oci              0.1.0    yes      chiton     12         reachable for 2h
    kyma  kyma (external)  2.3.4             openshell  1          reachable for 2m
    lab   external         0                 none       0          unreachable for 3d: the socket "/run/lab.sock" of driver "lab" is not there\u{1b}[2J; start the driver
    "#);
    assert_eq!((listed.code, listed.err.as_str()), (Some(0), ""));
    assert_eq!(server.run(&["drivers"]).out, listed.out, "the word may be left out");
    assert_snapshot!(server.run(&["drivers", "list", "--wide"]).out, @r#"
    ID    KIND             VERSION  DEFAULT  AGENT      SANDBOXES  POINTS           LIMITS      NETWORKS  FEATURES              STATE
    oci   oci              0.1.0    yes      chiton     12         env,label,mount  cpu,memory  bridge    two_phase_start,logs  reachable for 2h
    kyma  kyma (external)  2.3.4             openshell  1                                                                       reachable for 2m
    lab   external         0                 none       0                                                                       unreachable for 3d: the socket "/run/lab.sock" of driver "lab" is not there\u{1b}[2J; start the driver
    "#);
}

#[test]
fn one_driver_is_a_block_with_the_reason_and_the_cure() {
    let server = served();
    assert_snapshot!(server.run(&["drivers", "get", "lab"]).out, @r#"
    id            lab
    kind          external
    socket        /run/lab.sock
    version       0
    default       no
    agent         none
    sandboxes     0
    state         unreachable for 3d
    why           the socket "/run/lab.sock" of driver "lab" is not there\u{1b}[2J
    cure          start the driver
    "#);
    assert_snapshot!(server.run(&["drivers", "get", "oci"]).out, @"
    id            oci
    kind          oci
    version       0.1.0
    default       yes
    agent         chiton
    sandboxes     12
    state         reachable for 2h
    backend       machine:ab
    image         host
    points        env, label, mount
    limits        cpu, memory
    networks      bridge
    features      two_phase_start, logs
    field         /env merge_map
    ");
    let unknown = server.run(&["drivers", "get", "kima"]);
    assert_eq!(unknown.code, Some(1));
    assert_snapshot!(unknown.err, @r#"
    error: driver "kima" is not configured on this gateway [not_found]
      cure: did you mean "kyma"? configured: oci, kyma, lab
    "#);
}

#[test]
fn drivers_in_json_are_one_stable_document() {
    let server = Server::start();
    let mut drivers = three();
    for driver in &mut drivers.drivers {
        driver.since = Some(Timestamp { seconds: 1_767_323_045, nanos: 0 });
    }
    server.answers("list_drivers", drivers);
    let listed: serde_json::Value =
        serde_json::from_str(&server.run(&["drivers", "list", "--json"]).out).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
    let one: serde_json::Value =
        serde_json::from_str(&server.run(&["--json", "drivers", "get", "lab"]).out).expect("JSON");
    assert_eq!(one, listed[2]);
    assert_snapshot!(format!("{:#}", listed[1]), @r#"
    {
      "agent": "openshell",
      "backend": null,
      "cure": null,
      "default": false,
      "default_image": "",
      "features": [],
      "field_rules": [],
      "gateway_manages_lifecycle": true,
      "id": "kyma",
      "kind": "kyma",
      "limits": [],
      "networks": [],
      "plan_schema": "",
      "points": [],
      "sandboxes": 1,
      "since": "2026-01-02T03:04:05Z",
      "socket": "/run/kyma.sock",
      "unavailable": null,
      "version": "2.3.4"
    }
    "#);
}

#[test]
fn a_list_without_one_drivers_part_is_printed_and_fails_by_naming_it() {
    let server = Server::start();
    let error = Error::unavailable("kyma", "nobody listens on \"/run/kyma.sock\"").cure("start it");
    let failed = vec![wire::DriverFailure { driver: "kyma".into(), error: Some(chiton_client::to_detail(&error)) }];
    let orphan = wire::Orphan { driver: "oci".into(), id: "s-1".into(), ..wire::Orphan::default() };
    server.answers("list_orphans", wire::ListOrphansResponse { orphans: vec![orphan], failed: failed.clone() });
    let volume = wire::Volume { name: "data".into(), driver: "oci".into(), ..wire::Volume::default() };
    server.answers("list_volumes", wire::ListVolumesResponse { volumes: vec![volume], failed: failed.clone() });
    let image = wire::Image { references: vec!["app:1".into()], driver: "oci".into(), ..wire::Image::default() };
    server.answers("list_images", wire::ListImagesResponse { images: vec![image], failed: failed.clone() });
    server.answers("prune_images", wire::RemoveImagesResponse { failed, ..Default::default() });
    for (words, known) in [
        (&["orphans", "list"][..], "s-1"),
        (&["volume", "list"], "data"),
        (&["image", "list"], "app:1"),
        (&["image", "prune"], ""),
    ] {
        let listed = server.run(words);
        assert_eq!(listed.code, Some(1), "{words:?}: {}", listed.err);
        assert!(listed.out.contains(known), "{words:?}: {}", listed.out);
        let said = "error: driver \"kyma\" could not be asked, what it has is missing: nobody listens on \
                    \"/run/kyma.sock\" [unavailable]\n  cure: start it\n";
        assert!(listed.err.ends_with(said), "{words:?}: {}", listed.err);
        let json = server.run(&[&["--json"], words].concat());
        let document: serde_json::Value = serde_json::from_str(&json.out).expect("a document");
        assert!(document.to_string().contains(known));
        let error: serde_json::Value = serde_json::from_str(&json.err).expect("an error");
        assert_eq!((json.code, &error["error"]["code"]), (Some(1), &"unavailable".into()));
    }
}

fn refused(words: &[&str]) -> Ran {
    program(words).output().expect("runs").into()
}

#[test]
fn a_kind_that_cannot_be_served_is_refused_with_those_that_can() {
    let socket = ["--listen", "unix:///tmp/none/x.sock", "--agent", "none"];
    let serve = |kind: &str| refused(&[&["driver", "serve", "--driver", kind][..], &socket].concat());
    let ran = serve("dokcer");
    assert_eq!(ran.code, Some(1));
    assert_snapshot!(ran.err, @r#"
    error: unknown driver kind "dokcer" [invalid]
      cure: did you mean "docker"?
    "#);
    let mut named = program(&["driver", "serve", "--driver", "oci", "--agent", "none"]);
    let ran: Ran = named.env("CHITON_COMPUTE_DRIVER_SOCKET", "/run/kyma.sock").output().expect("runs").into();
    assert_eq!((ran.code, ran.err), (Some(1), serve("external").err), "a gateway's variable makes it an external one");
    assert_snapshot!(serve("external").err, @"
    error: an external driver is behind a socket already [invalid]
      cure: give the gateway that socket itself
    ");
}

#[test]
fn lines_about_drivers_that_make_no_sense_exit_with_2_and_say_how_to_write_them() {
    for (words, said) in [
        (&["driver", "serve", "--driver", "docker"][..], "--supervisor-bin PATH or --supervisor-image REF"),
        (
            &["driver", "serve", "--driver", "oci", "--agent", "none", "--endpoint", "http://h:1"],
            "--endpoint goes with",
        ),
        (&["driver", "serve", "--driver", "oci", "--agent", "mine"], "possible values: chiton, openshell, none"),
        (&["driver", "serve", "--driver", "oci", "--listen", "tcp://x"], "unix:///run/NAME.sock"),
        (&["conform", "driver"], "--socket <PATH>"),
        (&["conform", "driver", "--socket", "x.sock"], "is not an absolute path"),
        (&["conform", "driver", "--socket", "/x", "--report", "xml"], "possible values: junit, json"),
        (&["gateway", "--compute-driver-socket"], "a value is required"),
        (&["drivers", "--wide", "get", "x"], "cannot be used with"),
    ] {
        let ran = refused(words);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{words:?}: {}", ran.err);
    }
}

#[test]
fn helps_have_examples() {
    for words in [&["driver", "serve", "--help"][..], &["conform", "driver", "--help"], &["drivers", "--help"]] {
        let ran = refused(words);
        assert_eq!(ran.code, Some(0), "{words:?}");
        assert!(
            ran.out.contains("Examples:") && ran.out.contains(&words[..2].join(" ").replace(" --help", "")),
            "{}",
            ran.out
        );
    }
}

#[test]
fn sockets_of_drivers_are_checked_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("a path");
    let gateway = |words: &[&str]| refused(&[&["gateway", "--data-dir", data][..], words].concat());
    let check = |words: &[&str]| refused(&[&["config", "check", "--data-dir", data][..], words].concat());
    let ran = gateway(&["--driver", "external"]);
    assert_eq!(ran.code, Some(1));
    assert_snapshot!(ran.err, @"
    error: flag --driver: compute.drivers[0]: an external driver needs the path of its socket, and none is given [invalid]
      cure: write external:/run/NAME.sock, or a table [compute.driver.NAME] with socket and list NAME
    ");
    assert_snapshot!(gateway(&["--compute-driver-socket", "/run/kyma.sock"]).err, @"
    error: flag --compute-driver-socket: compute.drivers: the socket of an external driver is given, and no name for the driver [invalid]
      cure: write --driver NAME --compute-driver-socket /run/NAME.sock, or set CHITON_COMPUTE_DRIVERS to the name
    ");
    assert_snapshot!(gateway(&["--driver", "external:run/kyma.sock"]).err, @r#"
    error: flag --driver: compute.drivers[0]: the path "run/kyma.sock" of the driver's socket is not absolute [invalid]
      cure: write external:/run/NAME.sock
    "#);
    let ran = check(&["--driver", "kyma", "--compute-driver-socket", "/run/kyma.sock"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "no look at the socket is taken");
    let words = ["config", "show", "--origin", "--data-dir", data, "--driver", "External:/run/Kyma.sock"];
    let shown = refused(&words).out;
    let about: Vec<&str> = shown.lines().filter(|line| line.starts_with("compute.d")).collect();
    assert_snapshot!(about.join("\n"), @r#"
    compute.default_driver      "kyma"                                 default
    compute.drain               "1m"                                   default
    compute.driver.kyma.kind    "external"                             flag --driver
    compute.driver.kyma.socket  "/run/Kyma.sock"                       flag --driver
    compute.drivers             ["kyma"]                               flag --driver
    "#);
}
