//! What the kit writes.

use chiton_driver_conform::{CASES, DeclareError, Declared, run, select};
use chiton_driver_scripted::Fault;
use serde_json::Value;

mod common;

use common::Driver;

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_a_table_for_people_and_json_and_junit_for_machines() {
    let driver = Driver::with(&[Fault::BadVersion, Fault::HangsOnList]);
    let mut options = driver.options();
    // Whatever else is asked has to be answered in this time.
    options.limits.call = std::time::Duration::from_secs(5);
    options.filter = "s_sound".to_owned();
    let mut told = Vec::new();
    let report = run(options, |result| told.push(result.case.clone())).await.unwrap();
    assert_eq!(told, report.named(|_| true));

    let text = report.to_string();
    for part in [
        "capabilities::version_is_sound",
        "FAIL",
        "expected  a version by semver",
        "found     \"the newest\"",
        "rule      compute_driver.proto",
        "status::is_sound: not tried, because",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }

    let json: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    let results = json["results"].as_array().unwrap();
    let of = |name: &str| results.iter().find(|result| result["case"] == name).unwrap();
    assert_eq!(of("capabilities::version_is_sound")["verdict"], "fail");
    assert_eq!(of("capabilities::version_is_sound")["expected"], "a version by semver");
    assert_eq!(of("list::answers")["verdict"], "fail");
    assert_eq!(of("create::is_answered")["verdict"], "blocked");
    assert_eq!(of("create::is_answered")["by"], "list::answers");
    assert_eq!(of("capabilities::name_is_sound")["verdict"], "pass");

    let xml = report.junit().unwrap();
    let back = quick_junit::Report::deserialize_from_str(&xml).unwrap();
    assert_eq!(back.tests, results.len());
    let failures = results.iter().filter(|result| result["verdict"] != "pass").count();
    assert_eq!(back.failures, failures, "{xml}");
}

#[test]
fn declarations_are_read_strictly() {
    let wrong = |text: &str| Declared::parse("d.toml", text).unwrap_err();
    let error = wrong("\"create::is_answerd\" = \"slow\"");
    assert!(matches!(&error, DeclareError::Unknown { .. }), "{error}");
    assert!(error.to_string().contains("did you mean \"create::is_answered\"?"), "{error}");
    assert!(matches!(wrong("\"create::is_answered\" = \" \""), DeclareError::NoReason { .. }));
    assert!(matches!(wrong("\"create::is_answered\" = 3"), DeclareError::Malformed { .. }));
    let path = std::path::Path::new("/no/such/declared.toml");
    let error = Declared::read(path).unwrap_err();
    assert!(error.to_string().contains("/no/such/declared.toml"), "{error}");
    let right = Declared::parse("d.toml", "\"create::is_answered\" = \"slow\"").unwrap();
    assert_eq!((right.why("create::is_answered"), right.why("get::finds_it")), (Some("slow"), None));
}

#[test]
fn every_case_comes_after_what_it_needs_and_has_a_name_of_its_own() {
    for (place, case) in CASES.iter().enumerate() {
        assert!(CASES[..place].iter().all(|other| other.name != case.name), "{} twice", case.name);
        for needed in case.after {
            assert!(CASES[..place].iter().any(|other| other.name == *needed), "{} before {needed}", case.name);
        }
    }
    assert_eq!(select("").len(), CASES.len());
}

#[test]
fn the_page_explains_every_case() {
    let page = include_str!("../../../docs/driver-conformance.md");
    for case in CASES {
        assert!(page.contains(&format!("`{}`", case.name)), "docs/driver-conformance.md does not have {}", case.name);
    }
}
