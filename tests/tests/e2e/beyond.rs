//! Extensions in processes of their own: a whole life over the socket, and processes that hang, lie, die, come back, or
//! are not there. What becomes of them is their own sandboxes' business and nobody else's.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{Gateway, root};

/// An extension's process and the folder in which it leaves its traces.
pub(crate) struct Beside {
    folder: TempDir,
    command: Vec<PathBuf>,
    stubs: Option<PathBuf>,
    child: Option<Child>,
}

impl Beside {
    /// The program of the tests, with four extensions.
    pub(crate) fn start() -> Self {
        Self::of(vec![env!("CARGO_BIN_EXE_chiton-extension").into()], None)
    }

    fn of(command: Vec<PathBuf>, stubs: Option<PathBuf>) -> Self {
        let folder = tempfile::Builder::new().prefix("chiton-beside-").tempdir().expect("a folder");
        let mut beside = Self { folder, command, stubs, child: None };
        beside.begin();
        beside
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Starts it and waits until it listens.
    fn begin(&mut self) {
        let (program, arguments) = self.command.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(arguments).arg(self.socket()).stdin(Stdio::null()).stderr(Stdio::piped());
        if let Some(stubs) = &self.stubs {
            command.env("PYTHONPATH", stubs);
        }
        let mut child = command.spawn().expect("the extension's process");
        let mut lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
        let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("listening on")));
        assert!(said.is_some(), "the extension's process ended before it listened");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("beside: {line}")));
        self.child = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
        kill_process(id.expect("it runs"), signal).expect("a signal");
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.take().expect("it runs").wait().expect("its end");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the misbehaving extension still holds.
    fn effects(&self) -> Vec<String> {
        entries(&self.file("effects"))
    }

    /// The calls of a phase for sandboxes of this name.
    fn calls(&self, phase: &str, name: &str) -> usize {
        let text = fs::read_to_string(self.file("calls.jsonl")).unwrap_or_default();
        let calls = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        calls.filter(|call| call["phase"] == phase && call["name"] == name).count()
    }

    /// Waits until a phase was called for a sandbox of this name.
    fn until_called(&self, phase: &str, name: &str) {
        let until = Instant::now() + Duration::from_mins(1);
        while self.calls(phase, name) == 0 {
            assert!(Instant::now() < until, "{phase} was not called for {name}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The config of a gateway with the extensions of this process, each only for who asks.
    fn config(&self, names: &[&str], deadline: &str) -> String {
        use std::fmt::Write as _;
        let mut text = format!("[compute]\nextensions = {names:?}\n");
        for name in names {
            let own = match *name {
                "liar" => String::new(),
                "distant" => format!("folder = {:?}\n", self.folder.path()),
                _ => {
                    let leases = self.file("leases");
                    fs::create_dir_all(&leases).expect("a folder of leases");
                    format!("folder = {leases:?}\ncount = 9\nlabel = \"yes\"\n")
                }
            };
            writeln!(
                text,
                "[compute.process.\"{name}\"]\nsocket = {:?}\n[compute.extension.\"{name}\"]\n{own}\
                 [compute.policy.\"{name}\"]\nactivation = \"on-request\"\nallow = {{ workspaces = [\"default\"] }}\n\
                 deadline = {deadline:?}",
                self.socket()
            )
            .expect("a text");
        }
        text
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that is stopped ends by nothing else.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A sandbox that has nothing to do with any extension is made and deleted as ever.
fn others_are_as_ever(gateway: &Gateway, name: &str) {
    let begun = Instant::now();
    gateway.chiton(&["sandbox", "create", name]).ok();
    gateway.chiton(&["sandbox", "delete", name]).ok();
    let took = begun.elapsed();
    // Shorter than what the others may wait.
    assert!(took < Duration::from_secs(40), "another sandbox waited {took:?}");
}

#[test]
fn a_whole_life_with_extensions_in_another_process() {
    if !root() {
        return;
    }
    let beside = Beside::start();
    let gateway = Gateway::start(&beside.config(&["distant", "tickets"], "30s"));
    gateway.chiton(&["sandbox", "create", "box", "--extension", "distant", "--extension", "tickets"]).ok();
    let ticket = gateway.shell("box", "echo $TICKET").ok();
    assert_eq!(ticket, "1\n", "the leased number is in the sandbox");
    let plan = gateway.json(&["explain", "box"]).to_string();
    assert!(plan.contains("/labels/example.com~1tickets") && plan.contains("extension tickets"), "{plan}");
    assert_eq!(entries(&beside.file("leases")), ["1"]);
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    for (phase, times) in [
        ("before_create", 1),
        ("after_create", 1),
        ("before_start", 2),
        ("after_ready", 2),
        ("approve_stop", 1),
        ("before_stop", 2),
        ("after_stop", 2),
        ("before_delete", 1),
        ("after_delete", 1),
    ] {
        assert_eq!(beside.calls(phase, "box"), times, "{phase}");
    }
    assert_eq!(beside.calls("on_create_failed", "box"), 0);
    assert_eq!(entries(&beside.file("leases")), Vec::<String>::new());
    let kept: Vec<String> = beside.effects().into_iter().filter(|name| name.starts_with("s-")).collect();
    assert_eq!(kept, Vec::<String>::new(), "cleaned up with state that was saved over the socket");
    drop(gateway);
    assert_eq!(beside.effects(), Vec::<String>::new());
}

#[test]
fn a_process_that_hangs_fails_its_own_sandboxes_in_time_and_is_taken_up_when_it_goes_on() {
    if !root() {
        return;
    }
    let beside = Beside::start();
    let gateway = Gateway::start(&beside.config(&["distant"], "5s"));
    gateway.chiton(&["sandbox", "create", "before", "--extension", "distant"]).ok();

    // One hook that hangs by itself.
    let failed =
        gateway.chiton(&["sandbox", "create", "hook", "--extension", "distant", "--label", "fault/after_create=hang"]);
    assert!(failed.refused().contains("its deadline of 5s passed"));
    assert_eq!(beside.calls("on_create_failed", "hook"), 1, "cleaned up once the process said that the hook is over");

    // The whole process.
    beside.signal(Signal::STOP);
    let failed = gateway.chiton(&["sandbox", "create", "late", "--extension", "distant"]);
    let said = failed.refused();
    assert!(said.contains("distant"), "{said}");
    others_are_as_ever(&gateway, "other");
    gateway.until_said(1, "its process is not usable");
    let said = gateway.chiton(&["sandbox", "create", "refused", "--extension", "distant"]).refused();
    assert!(said.contains("extension \"distant\" unavailable since"), "{said}");
    assert!(said.contains("did not answer"), "{said}");
    others_are_as_ever(&gateway, "another");

    let before = gateway.times_said("its process answers");
    beside.signal(Signal::CONT);
    gateway.until_said(before + 1, "its process answers");
    gateway.chiton(&["sandbox", "create", "after", "--extension", "distant"]).ok();
    for name in ["before", "after"] {
        gateway.chiton(&["sandbox", "delete", name]).ok();
    }
    drop(gateway);
    assert_eq!(beside.effects(), Vec::<String>::new());
}

#[test]
fn a_process_that_lies_is_refused_by_name_and_leaves_nothing() {
    if !root() {
        return;
    }
    let beside = Beside::start();
    let gateway = Gateway::start(&beside.config(&["liar"], "10s"));
    let create = |lie: &str| {
        let label = format!("lie={lie}");
        gateway.chiton(&["sandbox", "create", lie, "--extension", "liar", "--label", &label])
    };
    for (lie, said) in [
        ("unknown", "may not write /no-such-field: the field is sealed"),
        ("sealed", "may not write /"),
        ("nest", "nested more than 64 levels deep"),
        ("slots", "it declared slot \"declared\" and did not fill it"),
    ] {
        let refused = create(lie).refused();
        assert!(refused.contains("\"liar\"") && refused.contains(said), "{lie}: {refused}");
    }
    create("veto").ok();
    let refused = gateway.chiton(&["sandbox", "stop", "veto"]).refused();
    assert!(refused.contains("no\\u{1b}[2J\\u{7}"), "what would move the cursor is shown as text: {refused:?}");
    others_are_as_ever(&gateway, "other");
}

#[test]
fn a_process_killed_in_the_middle_of_a_hook_is_asked_again_when_it_is_back() {
    if !root() {
        return;
    }
    let mut beside = Beside::start();
    let gateway = Gateway::start(&beside.config(&["distant"], "2m"));
    std::thread::scope(|scope| {
        let gateway = &gateway;
        let create = ["sandbox", "create", "box", "--extension", "distant", "--label", "fault/before_create=hang"];
        let creating = scope.spawn(move || gateway.chiton(&create));
        beside.until_called("before_create", "box");
        beside.end(Signal::KILL);
        others_are_as_ever(gateway, "other");
        let refused = gateway.chiton(&["sandbox", "create", "now", "--extension", "distant"]).refused();
        assert!(refused.contains("unavailable since"), "{refused}");
        fs::write(beside.file("cured"), "").expect("a file");
        beside.begin();
        creating.join().expect("the create").ok();
    });
    assert!(beside.calls("before_create", "box") > 1, "called again by the process that came after");
    assert_eq!(gateway.get("box")["phase"], "Ready");
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    drop(gateway);
    assert_eq!(beside.effects(), Vec::<String>::new());
}

#[test]
fn a_gateway_killed_while_a_hook_runs_elsewhere_cleans_up_only_behind_its_end() {
    if !root() {
        return;
    }
    let beside = Beside::start();
    let mut gateway = Gateway::start(&beside.config(&["distant"], "40s"));
    let label = "fault/after_create=hang";
    gateway.chiton(&["sandbox", "create", "box", "--no-wait", "--extension", "distant", "--label", label]).ok();
    beside.until_called("after_create", "box");
    gateway.kill();
    gateway.begin();
    gateway.until_idle();
    let of = |phase: &str| beside.calls(phase, "box");
    assert_eq!((of("after_create"), of("on_create_failed") > 0), (1, true));
    assert_eq!(gateway.json(&["sandbox", "list", "--all"])[0]["phase"], "Error");
    drop(gateway);
    assert_eq!(beside.effects(), Vec::<String>::new());
}

#[test]
fn a_gateway_starts_without_a_process_that_it_knows_and_says_what_is_wrong_with_others() {
    if !root() {
        return;
    }
    let mut beside = Beside::start();
    let config = beside.config(&["distant"], "5s");
    let mut gateway = Gateway::start(&config);
    gateway.chiton(&["sandbox", "create", "box", "--extension", "distant"]).ok();
    gateway.terminate();
    beside.end(Signal::TERM);
    assert!(!beside.socket().exists(), "it removed its socket");

    gateway.begin();
    let refused = gateway.chiton(&["sandbox", "create", "now", "--extension", "distant"]).refused();
    assert!(refused.contains("extension \"distant\" unavailable since"), "{refused}");
    others_are_as_ever(&gateway, "other");
    let before = gateway.times_said("its process answers");
    beside.begin();
    gateway.until_said(before + 1, "its process answers");
    gateway.chiton(&["sandbox", "create", "again", "--extension", "distant"]).ok();
    gateway.terminate();

    let broken = |gateway: &mut Gateway, change: (&str, &str)| {
        gateway.configure(&config.replace(change.0, change.1));
        gateway.try_begin().expect_err("it must not start")
    };
    let own = format!("folder = {:?}", beside.folder.path());
    let said = broken(&mut gateway, (&own, "folders = \"/\""));
    assert!(said.contains("compute.extension.\"distant\"") && said.contains("folder"), "{said}");
    let nobody =
        format!("[compute.process.\"unknown\"]\nsocket = \"{}\"\n[compute]\n", beside.file("nobody").display());
    let said = broken(&mut gateway, ("[compute]\n", &nobody));
    assert!(said.contains("unknown") && said.contains("nobody") && said.contains("there is no such socket"), "{said}");
    let wrong = config.replace("\"distant\"", "\"stranger\"");
    gateway.configure(&wrong);
    let said = gateway.try_begin().expect_err("it must not start");
    assert!(said.contains("no extension \"stranger\"; it serves"), "{said}");
    gateway.configure(&config);
    gateway.begin();
    for name in ["box", "again"] {
        gateway.chiton(&["sandbox", "delete", name]).ok();
    }
    drop(gateway);
    assert_eq!(beside.effects(), Vec::<String>::new());
}

/// The example in Python, with the libraries of the example driver and generated code of its own.
#[test]
fn the_example_in_python_labels_leases_and_releases() {
    if !root() {
        return;
    }
    let Some(python) = crate::example_drivers::venv::python() else { return };
    let work = tempfile::Builder::new().prefix("chiton-python-").tempdir().expect("a folder");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout");
    let example = base.join("examples/extension-python");
    let needs = |example: &str| fs::read_to_string(base.join(example).join("requirements.txt")).expect("a file");
    let there = needs("examples/driver-python");
    for needed in needs("examples/extension-python").lines() {
        assert!(there.lines().any(|line| line == needed), "{needed} is not among the example driver's libraries");
    }
    let stubs = work.path().join("stubs");
    fs::create_dir(&stubs).expect("a folder");
    let proto = base.join("proto");
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc", "-I"]).arg(&proto);
    generate.arg(format!("--python_out={}", stubs.display())).arg(format!("--grpc_python_out={}", stubs.display()));
    let done = generate.arg("chiton/v1/extension.proto").output().expect("a program");
    assert!(done.status.success(), "{generate:?}: {}", String::from_utf8_lossy(&done.stderr));
    let beside = Beside::of(vec![python, example.join("extension.py")], Some(stubs));
    let config = beside.config(&["python-tickets"], "20s");
    let gateway = Gateway::start(&config.replace(
        "[\"python-tickets\"]\n",
        "[\"python-tickets\", \"fault\"]\n[compute.extension.\"fault\"]\nfolder = \"{folder}\"\n",
    ));
    let create = |name: &str, more: &[&str]| {
        gateway.chiton(&[&["sandbox", "create", name, "--extension", "python-tickets"], more].concat())
    };
    create("one", &[]).ok();
    create("two", &[]).ok();
    let mut tickets = [gateway.shell("one", "echo $TICKET").ok(), gateway.shell("two", "echo $TICKET").ok()];
    tickets.sort();
    assert_eq!(tickets, ["1\n", "2\n"]);
    let plan = gateway.json(&["explain", "one"]).to_string();
    assert!(plan.contains("/labels/example.com~1tickets") && plan.contains("extension python-tickets"), "{plan}");
    // A create that fails behind it is undone, and its number is free again.
    create("never", &["--label", "fault/after_create=fail"]).refused();
    assert_eq!(entries(&beside.file("leases")).len(), 2);
    gateway.chiton(&["sandbox", "delete", "one"]).ok();
    assert_eq!(entries(&beside.file("leases")).len(), 1);
    create("three", &[]).ok();
    gateway.chiton(&["sandbox", "delete", "--all", "--yes"]).ok();
    assert_eq!(entries(&beside.file("leases")), Vec::<String>::new());
}
