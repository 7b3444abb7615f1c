//! Names, records and progress, without an engine.

use bollard::models::{CreateImageInfo, ProgressDetail};
use chiton_model::ErrorKind;

use super::brought::Brought;
use super::name::{Name, is_part_of_id, shortened};
use super::progress::Progress;

fn read(text: &str) -> Result<Name, chiton_model::Error> {
    Name::read("docker", "main", text)
}

#[test]
fn names_that_an_engine_or_a_registry_may_know_are_taken() {
    let id = format!("sha256:{}", "0a".repeat(32));
    for name in
        ["busybox", "busybox:1.36", "team/app", "localhost/app:root", "ghcr.io/a/b-c_d:v1.2", "127.0.0.1:5000/x"]
    {
        assert_eq!(read(name).unwrap(), Name::Plain, "{name}");
        assert_eq!(read(&format!("{name}@{id}")).unwrap(), Name::Plain, "{name}");
    }
    assert_eq!(read(&id).unwrap(), Name::Id);
    for name in ["oci:/srv/a b", "tar:/srv/app.tar:1"] {
        assert_eq!(read(name).unwrap(), Name::File, "{name}");
    }
}

#[test]
fn hostile_names_are_refused_with_a_cure_and_shown_so_that_they_do_no_harm() {
    let long = "a/".repeat(3_000) + "a";
    let id = "0A".repeat(32);
    let hostile = [
        "../../containers/json",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "a/",
        "UPPER/Case",
        "ghcr.io/Owner/app",
        "a b",
        "a\nb",
        "a\u{1b}[31m",
        "a?all=1",
        "a#b",
        "a%2e%2e",
        "a:b:c/",
        "a:",
        ":1",
        "@",
        "a@sha256:12",
        "http://x/y",
        "-a",
        "a:-x",
        "sha256:12",
        "sha256:zz",
        "oci:relative",
        "tar:",
        "oci:/a\0b",
        "é",
        &long,
        &format!("sha256:{id}"),
    ];
    for name in hostile {
        let error = read(name).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Invalid { .. }), "{name:?}: {error:?}");
        assert!(error.cure.is_some_and(|cure| !cure.is_empty()), "{name:?}");
        assert!(!error.message.contains(['\n', '\u{1b}', '\0']), "{name:?}");
    }
    assert!(shortened(&long).len() < 200);
    for name in ["host", "dir:/srv", "dir:/a\nb"] {
        let error = read(name).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unsupported { .. }), "{name:?}: {error:?}");
        assert!(error.cure.is_some_and(|cure| cure.contains("tar:PATH")));
    }
}

#[test]
fn the_beginning_of_an_id_is_no_name() {
    let id = "sha256:cafe01";
    assert!(is_part_of_id("cafe", id));
    assert!(!is_part_of_id("cafeteria", id));
}

#[test]
fn a_name_leads_to_the_image_that_it_was_used_for_last_and_records_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("brought");
    let brought = Brought::new(place.clone());
    assert_eq!(brought.find("app:1").unwrap(), None);
    brought.used("r/app@sha256:1", "app:1").unwrap();
    assert_eq!(brought.list().unwrap(), Vec::new(), "what somebody else brought is not written down");
    brought.begin("r/app@sha256:1", "app:1").unwrap();
    let first = brought.list().unwrap()[0].used;
    brought.begin("r/app@sha256:2", "app:1").unwrap();
    brought.used("r/app@sha256:1", "app:old").unwrap();

    let again = Brought::new(place.clone());
    assert_eq!(again.find("app:1").unwrap().unwrap().pin, "r/app@sha256:2");
    assert_eq!(again.find("app:old").unwrap().unwrap().pin, "r/app@sha256:1");
    assert_eq!(again.list().unwrap().last().unwrap().record.pin, "r/app@sha256:1", "used last");
    assert!(again.list().unwrap().iter().all(|kept| kept.used >= first));
    again.forget("r/app@sha256:2").unwrap();
    again.forget("r/app@sha256:2").unwrap();
    assert_eq!(again.find("app:1").unwrap(), None);
    // What cannot be read is nobody's, and harms nobody.
    std::fs::write(place.join("damaged.json"), "{").unwrap();
    std::fs::write(place.join("other.json"), r#"{"version":1,"pin":"x@sha256:3","names":["app:1"]}"#).unwrap();
    assert_eq!(again.find("app:1").unwrap(), None);
    assert_eq!(again.list().unwrap().len(), 1);
}

fn line(id: &str, status: &str, bytes: Option<(i64, i64)>) -> CreateImageInfo {
    CreateImageInfo {
        id: Some(id.to_owned()),
        status: Some(status.to_owned()),
        progress_detail: bytes.map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) }),
        ..CreateImageInfo::default()
    }
}

#[test]
fn progress_sums_up_layers_and_does_not_talk_all_the_time() {
    let mut progress = Progress::default();
    // All within one moment, however long this takes.
    let now = std::time::Instant::now();
    let mut told = |piece: CreateImageInfo| progress.told_at(&piece, now);
    let said = told(line("a", "Downloading", Some((1_500_000, 10_000_000)))).unwrap();
    assert_eq!(said, "pulling the image: 1.5 of 10.0 MB");
    assert_eq!(told(line("b", "Downloading", Some((500_000, 2_000_000)))), None, "a moment later");
    assert_eq!(told(line("a", "Pulling fs layer", None)), None);
    assert_eq!(told(line("a", "Download complete", None)), None);
    let last = told(line("b", "Download complete", None)).unwrap();
    assert_eq!(last, "pulling the image: 12.0 of 12.0 MB");
    assert_eq!(told(line("a", "Extracting", None)).unwrap(), "unpacking the image");
    assert_eq!(told(line("b", "Extracting", None)), None, "said once");
    // What an engine says wrongly does no harm.
    assert!(told(line("c", "Downloading", Some((-5, -7)))).is_some_and(|said| said.contains("12.0 of 12.0")));
}
