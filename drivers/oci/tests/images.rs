//! Sandboxes of images with layers: what they see, who they are, what they share, and what keeps their layers.

#[path = "../../../crates/chiton-image/tests/images/build.rs"]
#[allow(dead_code)]
mod build;
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use build::{Layer, Meta, Packing, image};
use chiton_driver::{CallError, ComputeDriver, DriverEvent};
use common::*;
use futures::StreamExt;
use serde_json::{Value, json};
use tar::EntryType;

/// The layer with a shell; the others of a test go on top of it.
fn shell() -> Layer {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = fs::read(busybox.expect("busybox is missing; install the Debian package busybox-static")).unwrap();
    let program = Meta { mode: 0o755, ..Meta::default() };
    let mut layer = Layer::default().folder("bin", 0o755).owned("bin/busybox", &busybox, &program);
    for name in ["sh", "cat", "id", "ls", "stat", "touch", "rm", "pwd", "printenv", "sleep", "test"] {
        layer = layer.link(&format!("bin/{name}"), "busybox");
    }
    layer
        .folder("etc", 0o755)
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1234:2345::/home/app:/bin/sh\n")
        .file("etc/group", b"app:x:2345:\nextra:x:777:other,app\n")
        .entry(EntryType::Directory, b"home/app", b"", b"", &Meta { mode: 0o700, uid: 1234, gid: 2345, mtime: 9 })
}

fn layout(world: &World, name: &str, layers: &[Layer], run: &Value) -> String {
    let packings = [Packing::Plain, Packing::Gzip, Packing::Zstd];
    let layers: Vec<(Layer, Packing)> =
        layers.iter().zip(packings.into_iter().cycle()).map(|(layer, packing)| (layer.clone(), packing)).collect();
    let folder = image(&layers, run).layout(&world.folder.path().join(name), "1");
    format!("oci:{}:1", folder.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_runs_as_its_user_with_its_environment_folder_and_command() {
    if !root("an_image_runs_as_its_user_with_its_environment_folder_and_command") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let run_as = json!({
        "User": "app", "Env": ["PATH=/bin", "FROM=image", "BOTH=image"], "WorkingDir": "/srv/app",
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["id; pwd; echo $FROM; echo $BOTH; echo $HOME; touch made /workspace/made /home/app/made && echo written; cat /proc/self/status"],
        "Labels": { "chiton.dev/managed-by": "somebody else" },
    });
    let reference = layout(&world, "app", &[shell()], &run_as);
    let mut request = request(&reference, &[]);
    request.env.insert("BOTH".to_owned(), "request".to_owned());
    let default = driver.default_plan(&request).await.unwrap();
    assert_eq!(default.plan["image"]["user"], "app");
    assert_eq!(default.plan["labels"], json!({}), "an image's labels are not ours");
    let digest = default.plan["image"]["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:"), "{digest}");
    let from: BTreeSet<&str> = default.from_image.iter().map(String::as_str).collect();
    for pointer in ["/env/FROM", "/env/PATH", "/workdir", "/command", "/image/user", "/image/digest"] {
        assert!(from.contains(pointer), "{pointer} is not from the image: {from:?}");
    }
    let (exit, text) = run(&driver, &request).await;
    assert_eq!(exit.code, Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..6],
        ["uid=1234(app) gid=2345(app) groups=777(extra)", "/srv/app", "image", "request", "/home/app", "written"],
        "{text}"
    );
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    // A command of the request replaces entrypoint and command.
    let (exit, text) = run(&driver, &common::request(&reference, &["/bin/sh", "-c", "echo mine; exit 3"])).await;
    assert_eq!((exit.code, text.as_str()), (Some(3), "mine\n"));
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_layers_with_whiteouts_hard_links_and_attributes_show_as_one_root() {
    if !root("three_layers_with_whiteouts_hard_links_and_attributes_show_as_one_root") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let bottom = shell()
        .folder("data", 0o755)
        .file("data/removed", b"1")
        .file("data/replaced", b"old")
        .file("data/kept", b"kept")
        .folder("hidden", 0o755)
        .file("hidden/below", b"1")
        .folder("folder-to-file", 0o755)
        .file("folder-to-file/x", b"1")
        .file("data/original", b"linked")
        .hard("data/second-name", "data/original")
        .owned("data/owned", b"", &Meta { mode: 0o640, uid: 1234, gid: 777, mtime: 86_400 });
    let middle = Layer::default()
        .file("data/.wh.removed", b"")
        .file("data/replaced", b"new")
        .file("hidden/.wh..wh..opq", b"")
        .file("hidden/above", b"1")
        .file(".wh.folder-to-file", b"")
        .file("folder-to-file", b"now a file");
    let top = Layer::default().file("data/removed", b"back again").file("hidden/.wh.above", b"");
    let reference = layout(&world, "three", &[bottom, middle, top], &json!({ "Env": ["PATH=/bin"] }));
    let script = "cd /data; cat removed replaced kept /folder-to-file; echo; ls -A /hidden; echo end; \
                  stat -c '%h' original second-name; stat -c '%u %g %a %Y' owned; ls -A / /data; \
                  echo more >> kept && rm replaced && ls -A";
    let (exit, text) = run(&driver, &request(&reference, &["/bin/sh", "-c", script])).await;
    assert_eq!(exit.code, Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..6], ["back againnewkeptnow a file", "end", "2", "2", "1234 777 640 86400", "/:"], "{text}");
    assert!(!text.contains(".wh."), "{text}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sandboxes_share_a_layer_and_not_what_they_write() {
    if !root("two_sandboxes_share_a_layer_and_not_what_they_write") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let reference = layout(&world, "shared", &[shell(), Layer::default().file("note", b"image")], &json!({}));
    let script = "stat -c %i /note; cat /note; echo mine > /note";
    let request = request(&reference, &["/bin/sh", "-c", script]);
    let (one, two) = tokio::join!(run(&driver, &request), run(&driver, &request));
    assert_eq!((one.0.code, two.0.code), (Some(0), Some(0)), "{} {}", one.1, two.1);
    // The same inode of one unpacked file: the overlay shows the lower layer's number.
    assert_eq!(one.1, two.1);
    let layers: Vec<_> = fs::read_dir(world.options.state_dir.join("images/layers")).unwrap().flatten().collect();
    assert_eq!(layers.len(), 2);
    let note = layers.iter().map(|layer| layer.path().join("fs/note")).find(|note| note.exists()).unwrap();
    assert_eq!(fs::read(&note).unwrap(), b"image", "what a sandbox writes stays out of the layer");
    assert!(one.1.starts_with(&format!("{}\n", fs::metadata(&note).unwrap().ino())), "{}", one.1);
    assert_eq!(fs::metadata(world.options.state_dir.join("images")).unwrap().permissions().mode() & 0o777, 0o700);
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_sandbox_stay_until_it_is_deleted() {
    if !root("layers_of_a_sandbox_stay_until_it_is_deleted") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let reference = layout(&world, "kept", &[shell()], &json!({}));
    let id = sandbox_id();
    let call = call(&driver, &request(&reference, &["/bin/sh", "-c", "echo alive"]), &id).await;
    let images = driver.images().unwrap();
    // Between the pull and the create nothing else says that the layers are needed.
    let freed = images.prune(Some(std::time::Duration::ZERO)).await.unwrap();
    assert_eq!(freed.images, []);
    driver.create(&call).await.unwrap();
    let freed = images.prune(Some(std::time::Duration::ZERO)).await.unwrap();
    assert_eq!(freed.images, []);
    let digest = call.plan["image"]["digest"].as_str().unwrap();
    match images.remove(digest).await {
        Err(CallError::Failed(error)) => assert!(error.message.contains(id.as_str()), "{error}"),
        other => panic!("removed the layers of a sandbox: {other:?}"),
    }
    let listed = images.list().await.unwrap();
    assert_eq!(listed[0].used_by, std::slice::from_ref(&id));
    driver.start(&call).await.unwrap();
    assert_eq!(output(&driver, &id).await, "alive\n");
    // A gateway that came after the one that pulled knows it too.
    let later = world.driver();
    assert_eq!(later.images().unwrap().prune(Some(std::time::Duration::ZERO)).await.unwrap().images, []);
    driver.delete(&id).await.unwrap();
    let freed = images.prune(Some(std::time::Duration::ZERO)).await.unwrap();
    assert_eq!(freed.images.len(), 1);
    assert!(images.list().await.unwrap().is_empty());
    assert_eq!(fs::read_dir(world.options.state_dir.join("images/layers")).unwrap().count(), 0);
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_removed_before_its_sandbox_is_made_refuses_the_create() {
    if !root("an_image_that_was_removed_before_its_sandbox_is_made_refuses_the_create") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let reference = layout(&world, "gone", &[shell()], &json!({}));
    let id = sandbox_id();
    let call = call(&driver, &request(&reference, &["/bin/sh"]), &id).await;
    fs::remove_dir_all(world.options.state_dir.join("images/layers")).unwrap();
    match driver.create(&call).await {
        Err(CallError::NotRun(error)) => assert!(error.message.contains("pull the image again"), "{error}"),
        other => panic!("made a sandbox of nothing: {other:?}"),
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_tells_of_its_progress_under_the_sandboxs_id() {
    if !root("a_pull_tells_of_its_progress_under_the_sandboxs_id") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let mut events = driver.watch();
    assert_eq!(within("the snapshot", events.next()).await, Some(DriverEvent::SnapshotEnd));
    let reference = layout(&world, "told", &[shell(), Layer::default().file("x", b"")], &json!({}));
    let id = sandbox_id();
    call(&driver, &request(&reference, &["/bin/sh"]), &id).await;
    for wanted in ["unpacked 1 of 2 layers of the image", "unpacked 2 of 2 layers of the image"] {
        let event = within("progress", events.next()).await;
        assert_eq!(event, Some(DriverEvent::Progress { id: id.clone(), message: wanted.to_owned() }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_an_image_does_not_have_are_refused() {
    if !root("users_that_an_image_does_not_have_are_refused") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    for (index, (user, wanted)) in [
        ("nobody-here", "does not have this name"),
        ("app:nobody", "does not have this group"),
        ("70000", "ids 0 to 65535"),
    ]
    .into_iter()
    .enumerate()
    {
        let reference = layout(&world, &format!("user-{index}"), &[shell()], &json!({ "User": user }));
        let id = sandbox_id();
        let call = call(&driver, &request(&reference, &["/bin/id"]), &id).await;
        // Its folder is there by then: the engine deletes what failed.
        match driver.create(&call).await {
            Err(CallError::Failed(error)) => assert!(error.message.contains(wanted), "{user}: {error}"),
            other => panic!("{user}: {other:?}"),
        }
        driver.delete(&id).await.unwrap();
    }
    for (index, (user, wanted)) in [
        ("", "uid=0(root) gid=0"),
        ("1234", "uid=1234(app) gid=2345(app) groups=777(extra)"),
        ("4321", "uid=4321 gid=0"),
        ("app:777", "uid=1234(app) gid=777(extra)"),
        ("4321:extra", "uid=4321 gid=777(extra)"),
    ]
    .into_iter()
    .enumerate()
    {
        let reference = layout(&world, &format!("good-{index}"), &[shell()], &json!({ "User": user }));
        let (exit, text) = run(&driver, &request(&reference, &["/bin/id"])).await;
        assert_eq!(exit.code, Some(0), "{user}: {text}");
        assert!(text.starts_with(wanted), "{user}: {text}");
    }
    world.assert_no_traces();
}
