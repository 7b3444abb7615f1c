//! `conform driver` against the scripted driver: what it prints, writes and exits with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver_scripted::{Fault, Faults, Platform, Script, Server};
use serde_json::Value;

use crate::scripted::{Ran, program};

struct Driver {
    folder: tempfile::TempDir,
    _platform: Arc<Platform>,
    _server: Server,
}

impl Driver {
    fn with(faults: &[Fault]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let faults: Faults = faults.iter().copied().collect();
        let platform = Platform::new(faults.clone(), Duration::ZERO, None).expect("an empty platform");
        let script = Script { faults, ..Script::default() };
        let server = Server::start(&folder.path().join("driver.sock"), &platform, script).expect("it listens");
        Self { folder, _platform: platform, _server: server }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Ran {
        let socket = self.file("driver.sock").display().to_string();
        let line = [&["conform", "driver", "--socket", &socket], words].concat();
        program(&line).output().expect("runs").into()
    }
}

#[test]
fn a_driver_that_keeps_the_rules_passes_and_what_needs_more_is_declared() {
    let driver = Driver::with(&[]);
    let ran = driver.run(&["--group", "wire"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(
        ran.out.lines().any(|line| line.starts_with("create::is_answered ") && line.contains(" pass ")),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("declared by the options: no way to restart the driver is given"), "{}", ran.out);
    assert!(ran.out.contains("0 failed"), "{}", ran.out);
}

#[test]
fn a_fault_is_told_with_what_was_expected_and_exits_with_1() {
    let driver = Driver::with(&[Fault::BadVersion]);
    let ran = driver.run(&["--only", "capabilities::"]);
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("expected  a version by semver\n    found     \"the newest\""), "{}", ran.out);
    let report = driver.file("report.xml");
    let ran = driver.run(&["--only", "capabilities::", "--report", "junit", "--output", &report.display().to_string()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    let xml = std::fs::read_to_string(report).expect("a report");
    assert!(xml.contains("failures=\"1\"") && xml.contains("name=\"version_is_sound\""), "{xml}");
    let ran = driver.run(&["--only", "capabilities::", "--report", "json"]);
    let document: Value = serde_json::from_str(&ran.out).expect("a JSON document");
    let failed = |case: &&Value| case["verdict"] == "fail";
    let failed: Vec<&Value> = document["results"].as_array().expect("results").iter().filter(failed).collect();
    assert_eq!((ran.code, failed.len()), (Some(1), 1), "{}", ran.out);
    assert_eq!(failed[0]["case"], "capabilities::version_is_sound");
}

#[test]
fn a_declared_failure_is_no_error_and_a_declaration_that_is_not_needed_is_one_when_strict() {
    let driver = Driver::with(&[Fault::BadVersion]);
    let declared = driver.file("declared.toml");
    let file = declared.display().to_string();
    let words = ["--only", "capabilities::", "--declare", &file];
    std::fs::write(&declared, "\"capabilities::version_is_sound\" = \"names, here\"\n").expect("written");
    let ran = driver.run(&words);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("declared in the file: names, here"), "{}", ran.out);
    std::fs::write(
        &declared,
        "\"capabilities::name_is_sound\" = \"old\"\n\"capabilities::version_is_sound\" = \"x\"\n",
    )
    .expect("written");
    assert_eq!(driver.run(&words).code, Some(0));
    let ran = driver.run(&[&words[..], &["--strict"]].concat());
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("capabilities::name_is_sound: passes, but is declared to fail (old)"), "{}", ran.out);
    std::fs::write(&declared, "\"capabilities::name_is_sond\" = \"a slip\"\n").expect("written");
    let ran = driver.run(&words);
    assert_eq!(ran.code, Some(2), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("did you mean \"capabilities::name_is_sound\""), "{}", ran.err);
}

#[test]
fn where_nobody_listens_it_names_the_socket_and_exits_with_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("nobody.sock").display().to_string();
    let ran: Ran = program(&["conform", "driver", "--socket", &socket]).output().expect("runs").into();
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("nobody.sock") && ran.err.contains("start it"), "{}", ran.err);
}
