//! The example drivers of `examples/` as what they are there for: drivers of a gateway, behind sockets.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Gateway;

#[path = "../../../examples/driver-python/tests/venv.rs"]
pub(crate) mod venv;

/// An example driver beside the gateway.
struct Driver {
    folder: TempDir,
    words: Vec<PathBuf>,
    process: Child,
}

impl Driver {
    fn rust() -> Self {
        Self::of(vec![env!("CARGO_BIN_EXE_chiton-process-driver").into()])
    }

    fn python() -> Option<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/driver-python/driver.py");
        Some(Self::of(vec![venv::python()?, file]))
    }

    fn of(words: Vec<PathBuf>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = Self::begin(&words, folder.path());
        Self { folder, words, process }
    }

    fn begin(words: &[PathBuf], folder: &Path) -> Child {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--socket").arg(folder.join("run/driver.sock"));
        command.arg("--state").arg(folder.join("state")).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the driver");
        let mut lines =
            BufReader::new(process.stderr.take().expect("its standard error")).lines().map_while(Result::ok);
        // Its libraries may say something before.
        let said: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("driver: listening")).collect();
        assert!(process.try_wait().expect("a child").is_none(), "the driver did not begin: {said:#?}");
        std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        process
    }

    fn config(&self, name: &str) -> String {
        let socket = self.folder.path().join("run/driver.sock");
        format!("[compute]\ndrivers = [{name:?}]\n[compute.driver.{name}]\nsocket = {socket:?}\n")
    }

    fn kill(&mut self) {
        self.process.kill().expect("a process");
        self.process.wait().expect("its end");
    }

    fn back(&mut self) {
        self.process = Self::begin(&self.words, self.folder.path());
    }

    fn sandboxes(&self) -> usize {
        fs::read_dir(self.folder.path().join("state/sandboxes")).expect("a folder").count()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn id(sandbox: &Value) -> String {
    sandbox["id"].as_str().expect("an id").to_owned()
}

fn is(phase: &'static str) -> impl Fn(Option<&chiton_proto::v1::Sandbox>) -> bool {
    move |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == phase)
}

/// What a user does with a sandbox of such a driver; the gateway and the driver die in between.
fn a_whole_life(mut driver: Driver) {
    let mut gateway = Gateway::start(&driver.config("kyma"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let listed = gateway.json(&["drivers"]);
    // Its kind is what it calls itself.
    assert!(text(&listed[0]["id"]) == "kyma" && text(&listed[0]["kind"]).starts_with("example-"), "{listed:#}");

    let script = "[ -n \"$GREETING\" ] || exit 9; read code < go; exit $code";
    let made = ["sandbox", "create", "box", "--env", "GREETING=hello", "--memory", "128Mi", "--label", "team=red"];
    let config = ["--driver", "kyma", "--driver-config", "{\"niceness\": 5}"];
    let command = ["--", "sh", "-c", &format!("mkfifo go 2> no-matter; {script}")];
    let sandbox = gateway.json(&[&made[..], &config, &command].concat());
    assert_eq!((text(&sandbox["phase"]), text(&sandbox["driver"])), ("Ready".to_owned(), "kyma".to_owned()));
    let own = id(&sandbox);
    let files = driver.folder.path().join("state/sandboxes").join(&own).join("files");

    // Both die, one after the other and at once; the sandbox does not.
    driver.kill();
    driver.back();
    gateway.kill();
    gateway.begin();
    gateway.until(&own, is("Ready"));
    gateway.kill();
    driver.kill();
    driver.back();
    gateway.begin();
    gateway.until(&own, is("Ready"));
    fs::write(files.join("go"), "7\n").expect("somebody who reads");
    gateway.until(&own, is("Completed"));
    let after = gateway.get("box");
    assert_eq!((&after["exit"]["code"], &after["exit"]["reason"]), (&json!(7), &json!("Exited")));

    gateway.chiton(&["sandbox", "start", "box"]).ok();
    gateway.until(&own, is("Ready"));
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    gateway.until(&own, is("Stopped"));

    // What it cannot do is refused before anything is stored, in the driver's own words.
    let refused = |more: &[&str]| {
        let all = [&["sandbox", "create", "other", "--driver", "kyma"], more, &["--", "sleep", "1000"]].concat();
        gateway.chiton(&all).refused()
    };
    let said = refused(&["--cpu", "1"]);
    assert!(said.contains("cpu cannot be limited here") && said.contains("kyma"), "{said}");
    let said = refused(&["--driver-config", "{\"nicenes\": 5}"]);
    assert!(said.contains("nicenes") && said.contains("did you mean"), "{said}");
    let said = refused(&["--image", "debian"]);
    assert!(said.contains("only the host's programs are here"), "{said}");
    assert_eq!(gateway.json(&["sandbox", "list"]).as_array().map(Vec::len), Some(1));

    // Without its driver a create is refused with the socket's path, and nothing else is disturbed.
    driver.kill();
    let said = refused(&[]);
    assert!(said.contains("driver.sock"), "{said}");
    assert_eq!(text(&gateway.get("box")["phase"]), "Stopped");
    driver.back();
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    gateway.until(&own, |sandbox| sandbox.is_none());
    assert_eq!(driver.sandboxes(), 0);
    drop(gateway);
}

#[test]
fn a_gateway_runs_sandboxes_on_the_example_driver_in_rust() {
    a_whole_life(Driver::rust());
}

#[test]
fn a_gateway_runs_sandboxes_on_the_example_driver_in_python() {
    if let Some(driver) = Driver::python() {
        a_whole_life(driver);
    }
}
