//! The driver as a program: killed at any moment, it comes back with all that it had.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use chiton_driver_conform::{Group, Options, Restart, run};
use chiton_driver_scripted::Fault;
use tokio::sync::Mutex;

const PROGRAM: &str = env!("CARGO_BIN_EXE_scripted-driver");

fn spawned(folder: &Path) -> Child {
    Command::new(PROGRAM)
        .arg("--socket")
        .arg(folder.join("driver.sock"))
        .arg("--state")
        .arg(folder.join("state.json"))
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs")
}

fn killed(child: &mut Child) {
    child.kill().expect("it was there");
    child.wait().expect("it ends");
}

/// The processes that have this in their environment.
fn with_variable(text: &str) -> BTreeSet<String> {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let has = |path: &Path| {
        let read = std::fs::read(path.join("environ")).unwrap_or_default();
        read.windows(text.len()).any(|window| window == text.as_bytes())
    };
    processes.map(|entry| entry.path()).filter(|path| has(path)).map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_killed_under_load_has_everything_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = Arc::new(Mutex::new(spawned(folder.path())));
    let (held, path) = (Arc::clone(&child), folder.path().to_owned());
    let restart = Restart::With(Arc::new(move || {
        let (held, path) = (Arc::clone(&held), path.clone());
        Box::pin(async move {
            let mut child = held.lock().await;
            killed(&mut child);
            *child = spawned(&path);
            Ok(())
        })
    }));
    let mut options = Options::new(folder.path().join("driver.sock"));
    options.groups = [Group::Wire].into();
    options.restart = Some(restart);
    // All comes; a machine that is busy is waited for.
    let minute = std::time::Duration::from_mins(1);
    (options.limits.dial, options.limits.call, options.limits.event) = (minute, minute, minute);
    // It may not listen yet.
    let report = loop {
        match run(options.clone(), |_| {}).await {
            Ok(report) => break report,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    killed(&mut *child.lock().await);
    assert!(report.passed(), "{report}");
    assert!(report.named(|_| true).contains(&"restart::under_load"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_driver_ran_is_ended_by_the_next_and_run_again() {
    use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
    use chiton_compute_wire::v1::{
        CreateSandboxRequest, DeleteSandboxRequest, DriverSandbox, DriverSandboxSpec, GetSandboxRequest,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mark = format!("SCRIPTED_MARK={}", folder.path().display());
    let (name, value) = mark.split_once('=').expect("a variable");
    let connected = || async {
        let dial = chiton_socket::Dial {
            what: "driver".to_owned(),
            path: folder.path().join("driver.sock"),
            peers: chiton_socket::own_and_root(),
            limit: std::time::Duration::from_secs(10),
        };
        loop {
            match dial.channel(tonic::transport::Endpoint::from_static("http://driver.invalid")).await {
                Ok((channel, _)) => return ComputeDriverClient::new(channel),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let until = |count: usize| async move {
        while with_variable(&format!("SCRIPTED_MARK={value}")).len() != count {
            tokio::task::yield_now().await;
        }
    };
    let mut child = spawned(folder.path());
    let spec = DriverSandboxSpec {
        command: ["/bin/sleep", "1000"].map(str::to_owned).to_vec(),
        environment: [(name.to_owned(), value.to_owned())].into(),
        ..DriverSandboxSpec::default()
    };
    let sandbox =
        DriverSandbox { id: "one".to_owned(), name: "one".to_owned(), spec: Some(spec), ..DriverSandbox::default() };
    let mut client = connected().await;
    client.create_sandbox(CreateSandboxRequest { sandbox: Some(sandbox) }).await.expect("it is made");
    until(1).await;
    // What is told to run is written down: before that a driver that is killed leaves its process to nobody.
    let look = GetSandboxRequest { sandbox_id: "one".to_owned(), sandbox_name: "one".to_owned() };
    loop {
        let found = client.get_sandbox(look.clone()).await.expect("it is there").into_inner().sandbox;
        if found.and_then(|found| found.status).is_some_and(|status| status.state == "running") {
            break;
        }
    }
    let first = with_variable(&mark);
    killed(&mut child);
    assert_eq!(with_variable(&mark), first, "a kill of the driver ends nothing else");
    let mut child = spawned(folder.path());
    let mut client = connected().await;
    until(1).await;
    while with_variable(&mark) == first {
        tokio::task::yield_now().await;
    }
    let request = DeleteSandboxRequest { sandbox_id: "one".to_owned(), sandbox_name: "one".to_owned() };
    let deleted = client.delete_sandbox(request).await.expect("it is deleted").into_inner().deleted;
    assert!(deleted);
    until(0).await;
    killed(&mut child);
}

#[test]
fn faults_are_named_and_a_slip_is_corrected() {
    let listed = Command::new(PROGRAM).arg("--list-faults").output().expect("it runs");
    let text = String::from_utf8(listed.stdout).expect("text");
    for fault in Fault::ALL {
        assert!(text.lines().any(|line| line.split_whitespace().next() == Some(fault.name())), "{fault} in\n{text}");
    }
    let wrong = Command::new(PROGRAM).args(["--socket", "/nowhere", "--fault", "leeks"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("did you mean \"leaks\"?"), "{said}");
}
