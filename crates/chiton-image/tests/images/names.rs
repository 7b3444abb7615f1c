//! What names mean.

use chiton_image::{Policy, Reference};

fn parsed(text: &str, default: Option<&str>) -> Result<String, String> {
    let policy = Policy { default_registry: default.map(str::to_owned), ..Policy::default() };
    Reference::parse(text, &policy).map(|reference| reference.to_string()).map_err(|error| error.to_string())
}

#[test]
fn names_are_read_as_all_tools_read_them() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let cases = [
        ("registry.example/app", "registry.example/app:latest".to_owned()),
        ("registry.example/app:1", "registry.example/app:1".to_owned()),
        ("registry.example:5000/team/app:1.2-x", "registry.example:5000/team/app:1.2-x".to_owned()),
        ("localhost/app", "localhost/app:latest".to_owned()),
        ("[::1]:5000/app:1", "[::1]:5000/app:1".to_owned()),
        ("docker.io/debian:12", "docker.io/library/debian:12".to_owned()),
        ("oci:/a/b:1", "oci:/a/b:1".to_owned()),
        ("oci:/a/b", "oci:/a/b".to_owned()),
        ("oci:/a:b/c", "oci:/a:b/c".to_owned()),
        ("tar:/a/b.tar:x", "tar:/a/b.tar:x".to_owned()),
        (&format!("registry.example/app@{digest}"), format!("registry.example/app@{digest}")),
        (&format!("registry.example/app:1@{digest}"), format!("registry.example/app:1@{digest}")),
    ];
    for (text, wanted) in cases {
        assert_eq!(parsed(text, None), Ok(wanted), "{text}");
    }
}

#[test]
fn a_name_without_a_registry_goes_nowhere_unless_the_operator_said_where() {
    for text in ["debian", "debian:12", "team/app", "team/app:1"] {
        let error = parsed(text, None).unwrap_err();
        assert!(error.contains("names no registry"), "{text}: {error}");
    }
    assert_eq!(parsed("debian", Some("docker.io")), Ok("docker.io/library/debian:latest".to_owned()));
    assert_eq!(parsed("team/app:1", Some("registry.example")), Ok("registry.example/team/app:1".to_owned()));
}

#[test]
fn names_that_mean_nothing_are_refused() {
    let long = format!("registry.example/{}", "a".repeat(300));
    for text in [
        "",
        "Registry.example/App",
        "registry.example/",
        "registry.example//a",
        "registry.example/a..b",
        "registry.example/../a",
        "registry.example/a:",
        "registry.example/a:b/c",
        "registry.example/a@sha256:12",
        "registry.example/a@md5:12",
        "registry.example:0/a",
        "registry.example:99999/a",
        "user@registry.example/a",
        "registry.example?x/a",
        "-x.example/a",
        "https://registry.example/a",
        "oci:relative",
        "tar:",
        "a\0b",
        &long,
    ] {
        assert!(
            parsed(text, Some("registry.example")).is_err(),
            "{text:?} is taken as {:?}",
            parsed(text, Some("registry.example"))
        );
    }
}
