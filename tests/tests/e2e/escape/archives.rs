//! Hostile archives, as a lying agent sends them to whoever copies out of its sandbox.

use std::fs;
use std::path::{Path, PathBuf};

use super::Scene;
use super::liar::Liar;
use crate::harness::user::By;

/// Everything below a folder, links not followed.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if entry.file_type().expect("a kind").is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn no_archive_of_a_lying_agent_writes_outside_of_its_target(by: By) {
    let scene = Scene::new(by);
    let liar = Liar::new(&scene);
    let place = scene.gateway.path("place");
    fs::create_dir_all(place.join("inner")).expect("a folder");
    fs::write(place.join("victim"), "untouched").expect("a file");
    let hostname = fs::metadata("/etc/hostname").expect("a file");
    for kind in [
        "parent",
        "below-parent",
        "far-parent",
        "absolute",
        "beside",
        "link-parent",
        "link-absolute",
        "link-chain",
        "link-itself",
        "link-file",
        "hard-absolute",
        "hard-parent",
        "hard-of-link",
        "device",
        "block",
        "pipe",
        "other-top",
        "empty-name",
    ] {
        liar.order(&format!("answer tar-{kind}"), "accepted");
        let target = place.join("inner/tree");
        let output = scene.gateway.chiton(&["sandbox", "cp", "box:/workspace/tree", target.to_str().expect("a path")]);
        assert_eq!(output.code, 1, "{kind}: {output:?}");
        assert!(output.stderr.contains("error") && !output.stderr.contains("panicked"), "{kind}: {output:?}");
        // Nothing half done either.
        let wanted = [place.join("inner"), place.join("victim")];
        assert_eq!(below(&place), wanted, "{kind}: {output:?}");
        assert_eq!(fs::read_to_string(place.join("victim")).expect("a file"), "untouched", "{kind}");
        assert!(!Path::new("/tmp/victim").exists(), "{kind}");
        liar.end();
    }
    let after = fs::metadata("/etc/hostname").expect("a file");
    assert_eq!(after.modified().expect("a time"), hostname.modified().expect("a time"));
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&after), std::os::unix::fs::MetadataExt::nlink(&hostname));
    scene.unharmed();
}

by_both!(no_archive_of_a_lying_agent_writes_outside_of_its_target,);
