//! Several drivers in one gateway: two of one kind, docker where it is present, and one behind a socket that is not there or
//! hangs.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chiton_tests::engines::Kind;
use serde_json::{Value, json};

use crate::engines::find;
use crate::harness::{Gateway, PROGRAM, Share, root};

/// Two drivers of one kind. Each has host ids of its own.
const TWO: &str = r#"
[compute.driver.east]
kind = "oci"
[compute.driver.west]
kind = "oci"
first_id = 536870912
"#;

fn config(drivers: &str, default: &str, more: &str) -> String {
    format!("[compute]\ndrivers = {drivers}\ndefault_driver = \"{default}\"\n{TWO}{more}")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn driver(gateway: &Gateway, id: &str) -> Value {
    gateway.json(&["drivers", "get", id])
}

#[test]
fn two_drivers_of_one_kind_have_sandboxes_of_their_own_whatever_the_default_becomes() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(&config("[\"east\", \"west\"]", "east", ""));
    gateway.chiton(&["sandbox", "create", "one"]).ok();
    gateway.chiton(&["sandbox", "create", "two", "--driver", "west"]).ok();
    let ids = ["one", "two"].map(|name| text(&gateway.get(name), "id").to_owned());
    let where_they_are = |gateway: &Gateway| {
        assert_eq!(["one", "two"].map(|name| text(&gateway.get(name), "driver").to_owned()), ["east", "west"]);
        assert_eq!(["east", "west"].map(|id| driver(gateway, id)["sandboxes"].clone()), [json!(1), json!(1)]);
        for (driver, sandbox) in [("east", &ids[0]), ("west", &ids[1])] {
            let kept = std::fs::read_dir(gateway.path("data").join("drivers").join(driver).join("sandboxes"));
            let kept: Vec<_> = kept.expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
            assert!(kept.iter().any(|name| name.to_string_lossy().contains(sandbox.as_str())), "{driver}: {kept:?}");
            assert_eq!(kept.len(), 1, "{driver}: {kept:?}");
        }
    };
    where_they_are(&gateway);
    let listed = gateway.json(&["drivers", "list"]);
    let listed: Vec<_> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (text(one, "id"), text(one, "kind"), &one["default"]))
        .collect();
    assert_eq!(listed, [("east", "oci", &json!(true)), ("west", "oci", &json!(false))]);

    // Another default, after a death: who has which sandbox is on record.
    gateway.kill();
    gateway.configure(&config("[\"east\", \"west\"]", "west", ""));
    gateway.begin();
    where_they_are(&gateway);
    for name in ["one", "two"] {
        gateway.chiton(&["sandbox", "stop", name]).ok();
        gateway.chiton(&["sandbox", "start", name]).ok();
    }
    where_they_are(&gateway);
    gateway.chiton(&["sandbox", "create", "three"]).ok();
    assert_eq!(text(&gateway.get("three"), "driver"), "west");
    let refused = gateway.chiton(&["sandbox", "create", "four", "--driver", "wset"]).refused();
    assert!(refused.contains("did you mean \"west\"? configured: east, west"), "{refused}");
    for name in ["one", "two", "three"] {
        assert_eq!(gateway.shell(name, "echo here").ok(), "here\n");
        gateway.chiton(&["sandbox", "delete", name]).ok();
    }
}

/// The median of so many creates on a driver. Each is deleted again.
fn creates(gateway: &Gateway, driver: &str, count: usize) -> Duration {
    let mut took: Vec<Duration> = (0..count)
        .map(|number| {
            let name = format!("timed-{number}");
            let begun = Instant::now();
            gateway.chiton(&["sandbox", "create", &name, "--driver", driver]).ok();
            let took = begun.elapsed();
            gateway.chiton(&["sandbox", "delete", &name]).ok();
            took
        })
        .collect();
    took.sort();
    took[count / 2]
}

/// The median create on a driver beside one that is away, which takes about as long as before in one of a few rounds:
/// something else on this machine may be the reason of a slow one, and who waits for what is away waits in each.
#[track_caller]
fn undisturbed(gateway: &Gateway, driver: &str, before: Duration) -> Duration {
    let bound = before * 3 + Duration::from_millis(300);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let median = creates(gateway, driver, 7);
        if median < bound {
            return median;
        }
        seen.push(median);
    }
    panic!("{driver}: a create took {before:?}, then {seen:?}");
}

/// What a gateway says of a driver that is away, and of one that comes back.
const MISSED: &str = "the driver cannot be reached; asking again until it can";
const FOUND: &str = "the driver can be reached again";

const FAR: &str = "[compute.driver.far]\nsocket = \"{folder}/far.sock\"\n";

#[test]
fn a_driver_behind_a_socket_that_is_not_there_or_hangs_is_missed_by_its_own_alone() {
    if !root() {
        return;
    }
    let docker = find(Kind::Docker);
    let (listed, more) = match &docker {
        Some(engine) => ("\"east\", \"west\", \"docker\"", format!("{FAR}{}", engine.block(&engine.socket))),
        None => ("\"east\", \"west\"", FAR.to_owned()),
    };
    let mut gateway = Gateway::sharing(&config(&format!("[{listed}]"), "east", &more), Share::Whole);
    let alone = creates(&gateway, "east", 7);
    gateway.terminate();

    gateway.configure(&config(&format!("[{listed}, \"far\"]"), "east", &more));
    gateway.begin();
    let socket = gateway.path("far.sock");
    let away = |gateway: &Gateway| {
        let far = driver(gateway, "far");
        assert_eq!((text(&far, "kind"), text(&far, "agent"), &far["default"]), ("external", "none", &json!(false)));
        assert_eq!(text(&far, "socket"), socket.to_str().expect("a path"));
        assert!(text(&far, "unavailable").contains(socket.to_str().expect("a path")), "{far:#}");
        assert!(far["cure"].is_string(), "{far:#}");
        for near in ["east", "west"] {
            let near = driver(gateway, near);
            assert_eq!((&near["unavailable"], near["since"].is_string()), (&Value::Null, true), "{near:#}");
        }
        if docker.is_some() {
            gateway.chiton(&["sandbox", "create", "in-docker", "--driver", "docker"]).ok();
            assert_eq!(gateway.shell("in-docker", "echo here").ok(), "here\n");
            assert_eq!(driver(gateway, "docker")["sandboxes"], json!(1));
            gateway.chiton(&["sandbox", "delete", "in-docker"]).ok();
        }
        let refused = gateway.chiton(&["sandbox", "create", "box", "--driver", "far"]).refused();
        assert!(refused.contains("far.sock"), "{refused}");
        assert!(gateway.json(&["sandbox", "list"]).as_array().expect("a list").is_empty(), "nothing of it is stored");
        let orphans = gateway.chiton(&["orphans", "list"]);
        assert!(orphans.stdout.starts_with("DRIVER"), "what the others have is listed: {orphans:?}");
        assert!(orphans.refused().contains("driver \"far\" could not be asked"));
    };
    away(&gateway);
    let without = undisturbed(&gateway, "east", alone);
    gateway.terminate();

    // Somebody takes connections there and never says a word.
    let silent = UnixListener::bind(&socket).expect("a socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept() {
            kept.push(stream);
        }
    });
    let begun = Instant::now();
    gateway.begin();
    let start = begun.elapsed();
    away(&gateway);
    let hanging = undisturbed(&gateway, "east", alone);
    println!(
        "median create: {alone:?} alone, {without:?} beside one that is not there, {hanging:?} beside one that hangs"
    );
    println!("start beside one that hangs: {start:?}");
    let begun = Instant::now();
    gateway.terminate();
    assert!(begun.elapsed() < Duration::from_secs(30), "an end does not wait for it: {:?}", begun.elapsed());
    gateway.configure(&config(&format!("[{listed}]"), "east", &more));
    gateway.begin();
}

/// A driver in a process of its own, at the socket that [`FAR`] names.
struct Served(Child);

impl Served {
    #[track_caller]
    fn begin(gateway: &Gateway) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["driver", "serve", "--driver", "oci", "--agent", "none", "--listen"])
            .arg(format!("unix://{}", gateway.path("far.sock").display()))
            .arg("--data-dir")
            .arg(gateway.path("served"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut lines = BufReader::new(child.stderr.take().expect("its standard error")).lines().map_while(Result::ok);
        let said: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("serving on ")).collect();
        assert!(child.try_wait().expect("a child").is_none(), "it does not serve: {said:#?}");
        // It goes on saying things, and is not to wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("a child");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_driver_in_another_process_may_die_and_come_back_under_its_sandboxes() {
    if !root() {
        return;
    }
    let docker = find(Kind::Docker);
    let (listed, more, near) = match &docker {
        Some(engine) => {
            (r#"["east", "docker", "far"]"#, format!("{FAR}{}", engine.block(&engine.socket)), &["east", "docker"][..])
        }
        None => (r#"["east", "far"]"#, FAR.to_owned(), &["east"][..]),
    };
    let gateway = Gateway::sharing(&config(listed, "east", &more), Share::Whole);
    // It was missed before it comes, or nothing would be said of its coming.
    gateway.until_said(1, MISSED);
    let mut served = Served::begin(&gateway);
    gateway.until_said(1, FOUND);
    let far = driver(&gateway, "far");
    assert_eq!((&far["unavailable"], text(&far, "agent")), (&Value::Null, "none"), "{far:#}");
    let words = ["sandbox", "create", "far-box", "--driver", "far", "--", "sleep", "1000"];
    gateway.chiton(&words).ok();
    let id = text(&gateway.get("far-box"), "id").to_owned();
    assert_eq!((text(&gateway.get("far-box"), "phase"), &driver(&gateway, "far")["sandboxes"]), ("Ready", &json!(1)));
    let beside: Vec<Duration> = near.iter().map(|driver| creates(&gateway, driver, 7)).collect();

    let missed = gateway.times_said(MISSED);
    served.kill();
    for (driver, beside) in near.iter().zip(beside) {
        let killed = undisturbed(&gateway, driver, beside);
        println!(
            "median create on {driver}: {beside:?} beside a driver in another process, {killed:?} when it was killed"
        );
    }
    gateway.until_said(missed + 1, MISSED);
    let shown = gateway.get("far-box");
    let unreachable = |condition: &Value| text(condition, "type") == "DriverUnreachable";
    assert_eq!(text(&shown, "phase"), "Ready", "nobody said otherwise");
    assert!(shown["conditions"].as_array().expect("a list").iter().any(unreachable), "{shown:#}");
    gateway.chiton(&["sandbox", "create", "other", "--driver", "far"]).refused();

    drop(served);
    let found = gateway.times_said(FOUND);
    let served = Served::begin(&gateway);
    gateway.until_said(found + 1, FOUND);
    let shown = gateway.get("far-box");
    assert_eq!((text(&shown, "phase"), text(&shown, "id")), ("Ready", id.as_str()), "{shown:#}");
    gateway.chiton(&["sandbox", "stop", "far-box"]).ok();
    gateway.chiton(&["sandbox", "start", "far-box"]).ok();
    gateway.chiton(&["sandbox", "delete", "far-box"]).ok();
    assert_eq!(driver(&gateway, "far")["sandboxes"], json!(0));
    // A workspace is released on every driver, so while this one is there; and no process of the test's outlives it.
    gateway.chiton(&["workspaces", "delete", "default"]).ok();
    drop(served);
}

#[test]
fn a_socket_on_the_command_line_is_the_only_driver_of_that_start() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(&config("[\"east\", \"west\"]", "east", ""));
    gateway.terminate();
    let socket = gateway.path("far.sock");
    let path = socket.to_str().expect("a path");
    gateway.begin_with(&["--driver", "docker", "--compute-driver-socket", path]);
    let listed = gateway.json(&["drivers"]);
    let ids: Vec<_> =
        listed.as_array().expect("a list").iter().map(|one| (text(one, "id"), text(one, "socket"))).collect();
    assert_eq!(ids, [("docker", path)]);
    let shown = gateway.json(&["config", "show"]);
    let rows = shown.as_array().expect("a list").iter();
    let of = rows.filter(|row| text(row, "key").starts_with("compute.driver.docker."));
    let of: Vec<_> = of.map(|row| (text(row, "key"), text(row, "value"), text(row, "origin"))).collect();
    let quoted = format!("{path:?}");
    assert_eq!(
        of,
        [
            ("compute.driver.docker.kind", "\"external\"", "flag --compute-driver-socket"),
            ("compute.driver.docker.socket", quoted.as_str(), "flag --compute-driver-socket"),
        ]
    );
    gateway.terminate();
    gateway.begin();
}
