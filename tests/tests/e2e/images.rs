//! Images: from a name on the command line to a process that is the image's user, and what keeps and removes them.

#[allow(dead_code)] // The image store's own tests use the rest.
#[path = "../../../crates/chiton-image/tests/images/build.rs"]
mod build;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use self::build::{Layer, Meta, Packing, image};
use crate::harness::{Gateway, root};

/// An image with a shell and a `note`, in which `user` runs `sleep`.
pub(crate) fn made(note: &str, user: &str) -> build::Image {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox =
        fs::read(busybox.expect("busybox is missing; install the Debian package busybox-static")).expect("a program");
    let program = Meta { mode: 0o755, ..Meta::default() };
    let mut base = Layer::default().folder("bin", 0o755).owned("bin/busybox", &busybox, &program);
    for name in ["sh", "cat", "id", "sleep", "touch", "stat"] {
        base = base.link(&format!("bin/{name}"), "busybox");
    }
    base = base
        .folder("etc", 0o755)
        .file("etc/passwd", b"app:x:1234:2345::/home/app:/bin/sh\n")
        .file("etc/group", b"app:x:2345:\n");
    let top = Layer::default().file("note", note.as_bytes());
    let run = json!({ "User": user, "Env": ["FROM=image", "PATH=/bin"], "WorkingDir": "/srv/app", "Entrypoint": ["sleep"], "Cmd": ["600"] });
    image(&[(base, Packing::Gzip), (top, Packing::Zstd)], &run)
}

/// A layout of an image whose user is `app`.
fn layout(gateway: &Gateway, name: &str) -> String {
    format!("oci:{}:1", made(name, "app").layout(&gateway.path(name), "1").display())
}

fn images(gateway: &Gateway) -> Value {
    serde_json::from_str(&gateway.chiton(&["--json", "image", "list"]).ok()).expect("JSON")
}

#[test]
fn an_image_is_run_as_its_user_and_stays_as_long_as_its_sandbox() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    let reference = layout(&gateway, "app");
    gateway.chiton(&["sandbox", "create", "box", "--image", &reference, "--env", "MINE=1"]).ok();
    let said =
        gateway.shell("box", "id; pwd; echo $FROM $MINE $HOME; cat /note; echo; touch here && stat -c %u here").ok();
    assert_eq!(said, "uid=1234(app) gid=2345(app)\n/srv/app\nimage 1 /home/app\napp\n1234\n");
    let explained: Value = serde_json::from_str(&gateway.chiton(&["--json", "explain", "box"]).ok()).expect("JSON");
    let explained = explained.to_string();
    assert!(explained.contains("/image/digest") && explained.contains("\"image\""), "{explained}");

    let listed = images(&gateway);
    assert_eq!(listed[0]["references"], json!([reference]));
    assert_eq!(listed[0]["used_by"].as_array().map(Vec::len), Some(1));
    let digest = listed[0]["digest"].as_str().expect("a digest").to_owned();
    let refused = gateway.chiton(&["image", "rm", &digest]).refused();
    assert!(refused.contains("is used by sandbox") && refused.contains("[conflict]"), "{refused}");
    gateway.chiton(&["image", "prune", "--older-than", "1ms"]).ok();
    gateway.kill();
    gateway.begin();
    gateway.until_reached("box");
    assert_eq!(gateway.shell("box", "cat /note").ok(), "app", "a sandbox outlives its gateway with its layers");
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    gateway.chiton(&["image", "prune", "--older-than", "1ms"]).ok();
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    assert_eq!(gateway.shell("box", "cat /note; stat -c %u /srv/app/here").ok(), "app1234\n");
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    gateway.chiton(&["image", "rm", &digest]).ok();
    assert_eq!(images(&gateway), json!([]));
}

#[test]
fn images_are_pulled_beforehand_pinned_and_refused_with_a_cure() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(
        "[compute.driver.oci.images]\npinned = [\"oci:{folder}/kept:1\"]\nregistries = [\"registry.example\"]\n",
    );
    let (kept, other) = (layout(&gateway, "kept"), layout(&gateway, "other"));
    for reference in [&kept, &other] {
        assert!(gateway.chiton(&["image", "pull", reference]).ok().starts_with("sha256:"));
    }
    let pruned: Value =
        serde_json::from_str(&gateway.chiton(&["--json", "image", "prune", "--older-than", "1ms"]).ok()).expect("JSON");
    assert_eq!(pruned["removed"][0]["references"], json!([other]));
    assert_eq!(images(&gateway)[0]["pinned"], true);
    let refused = gateway.chiton(&["image", "rm", &kept]).refused();
    assert!(refused.contains("the operator's pins"), "{refused}");
    for (name, wanted) in [
        ("debian:12", "names no registry"),
        ("127.0.0.1:1/app:1", "not among those that may be asked"),
        ("oci:/no/such/folder", "is not there"),
        ("https://registry.example/a", "has a scheme"),
    ] {
        let refused = gateway.chiton(&["sandbox", "create", "--image", name]).refused();
        assert!(refused.contains(wanted), "{name}: {refused}");
    }
    assert_eq!(gateway.chiton(&["sandbox", "list", "--json"]).ok().trim(), "[]");
}
