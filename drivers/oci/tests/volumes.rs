//! Named volumes: what outlives a sandbox, with whose ids, and what nothing but a person's word deletes.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use chiton_driver::{ComputeDriver, PlanRequest, VolumeRequest};
use chiton_model::{ErrorKind, StoreEpoch, VolumeMount, VolumeName, WorkspaceName};
use common::*;
use serde_json::json;

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn workspace() -> WorkspaceName {
    WorkspaceName::default()
}

fn script(text: &str, volumes: &[(&str, &str, bool)]) -> PlanRequest {
    let mut request = request("host", &["bash", "-c", text]);
    let mount = |(volume, target, read_only): &(&str, &str, bool)| VolumeMount {
        name: name(volume),
        target: (*target).to_owned(),
        read_only: *read_only,
    };
    request.volumes = volumes.iter().map(mount).collect();
    request
}

fn asked(volume: &str, size: Option<&str>) -> VolumeRequest {
    VolumeRequest {
        workspace: workspace(),
        name: name(volume),
        size: size.map(|size| size.parse().unwrap()),
        by: "uid:7".to_owned(),
        epoch: StoreEpoch::new("e-1").unwrap(),
    }
}

/// A world whose driver belongs to the gateway that the calls name.
fn world() -> World {
    let mut world = World::new();
    world.options.gateway = chiton_model::GatewayId::new("g-test").unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_outlives_its_sandbox_and_the_next_one_sees_the_same_owners_under_other_ids() {
    if !able("a_volume_outlives_its_sandbox_and_the_next_one_sees_the_same_owners_under_other_ids") {
        return;
    }
    let world = world();
    let driver = world.driver();
    let write = "echo kept > /data/note; chmod 4755 /data/note; mkdir /data/sub; stat -c %u:%g /data /data/note";
    let (exit, text) = run(&driver, &script(write, &[("shared", "/data", false)])).await;
    assert_eq!((exit.code, text.as_str()), (Some(0), "0:0\n0:0\n"));
    // Another sandbox takes the range of ids that is free again; a third is given another one.
    let other = started(&driver, &script("while :; do sleep 0.2; done", &[])).await;
    let read = "cat /srv/x/note; stat -c %u:%g /srv/x/note; echo more >> /srv/x/note; mknod /srv/x/null c 1 3; \
                grep /srv/x /proc/self/mountinfo | grep -c 'nosuid,nodev'";
    let (_, text) = run(&driver, &script(read, &[("shared", "/srv/x", false)])).await;
    assert!(text.contains("kept\n0:0\n") && text.contains("Operation not permitted"), "{text}");
    assert!(text.ends_with("1\n") || text.contains("\n1\n"), "{text}");
    // On disk the files carry the ids that they have in sandboxes; nobody but root can come near.
    let data = world.options.state_dir.join("volumes/default/shared/data");
    let note = fs::metadata(data.join("note")).unwrap();
    if is_root() {
        assert_eq!((note.uid(), note.gid()), (0, 0));
    }
    assert_eq!(fs::metadata(&world.options.state_dir).unwrap().mode() & 0o777, 0o700);
    driver.delete(&other).await.unwrap();
    world.assert_no_traces();
    assert_eq!(fs::read_to_string(data.join("note")).unwrap(), "kept\nmore\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_volume_cannot_be_written_and_two_sandboxes_share_one_at_a_time() {
    if !able("a_read_only_volume_cannot_be_written_and_two_sandboxes_share_one_at_a_time") {
        return;
    }
    let world = world();
    let driver = world.driver();
    let writer = script(
        "echo one > /data/a; echo ready; until [ -e /data/end ]; do sleep 0.05; done; echo ended",
        &[("v", "/data", false)],
    );
    let first = started(&driver, &writer).await;
    said(&driver, &first, "ready").await;
    let reader =
        script("cat /data/a; echo x > /data/b; touch /own/end", &[("v", "/data", true), ("own", "/own", false)]);
    let (_, text) = run(&driver, &reader).await;
    assert!(text.contains("one\n") && text.contains("Read-only file system"), "{text}");
    // The same volume twice in one sandbox, once each way.
    let both = script("touch /w/end && [ -e /r/end ] && ! touch /r/x", &[("v", "/w", false), ("v", "/r", true)]);
    assert_eq!(run(&driver, &both).await.0.code, Some(0));
    said(&driver, &first, "ended").await;
    driver.delete(&first).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_use_is_not_deleted_and_who_uses_it_is_named() {
    if !able("a_volume_in_use_is_not_deleted_and_who_uses_it_is_named") {
        return;
    }
    let world = world();
    let driver = world.driver();
    let id = started(&driver, &script("while :; do sleep 0.2; done", &[("v", "/data", false)])).await;
    let listed = driver.volumes().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].created_by.as_str()), ("v", "uid:0"));
    assert_eq!(listed[0].used_by[0].id, id);
    for stopped in [false, true] {
        if stopped {
            driver.stop(&id).await.unwrap();
        }
        let error = driver.delete_volume(&workspace(), &name("v")).await.unwrap_err().into_error();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert!(error.message.contains(id.as_str()) && error.cure.is_some(), "{error}");
    }
    driver.delete(&id).await.unwrap();
    driver.delete_volume(&workspace(), &name("v")).await.unwrap();
    assert!(driver.volumes().await.unwrap().is_empty());
    let error = driver.delete_volume(&workspace(), &name("v")).await.unwrap_err().into_error();
    assert_eq!(error.kind, ErrorKind::NotFound);
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_a_size_is_full_at_it_and_never_mounted_twice() {
    if !root("a_volume_with_a_size_is_full_at_it_and_never_mounted_twice") {
        return;
    }
    let world = world();
    let driver = world.driver();
    let made = driver.create_volume(&asked("v", Some("16Mi"))).await.unwrap();
    assert_eq!((made.size, made.created_by.as_str()), (Some(16 << 20), "uid:7"));
    let error = driver.create_volume(&asked("v", None)).await.unwrap_err().into_error();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    let fill = "dd if=/dev/zero of=/data/a bs=64k; stat -c '%s %u' /data/a; echo ready; while :; do sleep 0.2; done";
    let first = started(&driver, &script(fill, &[("v", "/data", false)])).await;
    said(&driver, &first, "ready").await;
    let second = sandbox_id();
    let call = call(&driver, &script("true", &[("v", "/data", true)]), &second).await;
    let error = driver.create(&call).await.unwrap_err().into_error();
    assert!(error.message.contains("volume \"v\"") && error.message.contains("another sandbox"), "{error}");
    driver.delete(&second).await.unwrap();
    driver.stop(&first).await.unwrap();
    let text = output(&driver, &first).await;
    assert!(text.contains("No space left on device"), "{text}");
    let size: u64 = text.lines().find_map(|line| line.strip_suffix(" 0")).and_then(|size| size.parse().ok()).unwrap();
    assert!((15 << 20..=17 << 20).contains(&size), "{size}");
    driver.delete(&first).await.unwrap();
    let (exit, _) = run(&driver, &script("[ -s /data/a ] && rm /data/a", &[("v", "/data", false)])).await;
    assert_eq!(exit.code, Some(0));
    driver.delete_volume(&workspace(), &name("v")).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_the_driver_makes_itself_are_refused_and_links_lead_nowhere() {
    if !root("targets_that_the_driver_makes_itself_are_refused_and_links_lead_nowhere") {
        return;
    }
    let world = world();
    let driver = world.driver();
    for target in ["/proc/x", "/sys", "/dev/shm", "/run/chiton", "/run/chiton-agent"] {
        let plan = driver.default_plan(&script("true", &[("v", target, false)])).await.unwrap().plan;
        let error = driver.validate(&plan).await.unwrap_err();
        assert!(error.message.contains("which the driver makes"), "{target}: {error}");
    }
    assert!(driver.volumes().await.unwrap().is_empty(), "a refused plan makes no volume");
    // A first run leaves a link at the target that climbs out as far as it can.
    let id = sandbox_id();
    let mut request = script("rmdir /workspace/v; ln -s ../../../../../../../../../home /workspace/v", &[]);
    let first = call(&driver, &request, &id).await;
    driver.create(&first).await.unwrap();
    driver.start(&first).await.unwrap();
    exit(&driver, &id).await;
    request.command[2] = "echo in > /workspace/v/note; cat /home/note".to_owned();
    request.volumes = script("", &[("v", "/workspace/v", false)]).volumes;
    driver.create_volume(&asked("v", None)).await.unwrap();
    let second = fill(driver.default_plan(&request).await.unwrap().plan, &id);
    driver.start(&second).await.unwrap();
    exit(&driver, &id).await;
    assert!(output(&driver, &id).await.starts_with("in\n"));
    assert!(!std::path::Path::new("/home/note").exists());
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_missing_or_anothers_is_an_error_and_never_an_empty_one() {
    if !able("a_volume_that_is_missing_or_anothers_is_an_error_and_never_an_empty_one") {
        return;
    }
    let world = world();
    let driver = world.driver();
    let id = sandbox_id();
    let call = call(&driver, &script("true", &[("v", "/data", false)]), &id).await;
    driver.create(&call).await.unwrap();
    driver.stop(&id).await.unwrap();
    let folder = world.options.state_dir.join("volumes/default/v");
    let kept = world.folder.path().join("kept");
    fs::rename(&folder, &kept).unwrap();
    let error = driver.start(&call).await.unwrap_err().into_error();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let record = fs::read_to_string(kept.join("record.json")).unwrap();
    fs::write(kept.join("record.json"), record.replace("g-test", "g-other")).unwrap();
    fs::rename(&kept, &folder).unwrap();
    let error = driver.start(&call).await.unwrap_err().into_error();
    assert!(error.message.contains("g-other"), "{error}");
    assert!(driver.volumes().await.unwrap().is_empty(), "only this gateway's are listed");
    driver.delete(&id).await.unwrap();
    let error = driver.delete_volume(&workspace(), &name("v")).await.unwrap_err().into_error();
    assert!(error.message.contains("g-other") && folder.exists(), "{error}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interruption_left_is_no_volume_and_is_removed_and_volumes_are_not() {
    if !able("what_an_interruption_left_is_no_volume_and_is_removed_and_volumes_are_not") {
        return;
    }
    let world = world();
    let driver = world.driver();
    driver.create_volume(&asked("v", None)).await.unwrap();
    let base = world.options.state_dir.join("volumes");
    fs::write(base.join("default/v/data/note"), "kept").unwrap();
    for folder in [".new/1-1-1/data", ".deleted/1-1-1/data"] {
        fs::create_dir_all(base.join(folder)).unwrap();
        fs::write(base.join(folder).join("part"), "x").unwrap();
    }
    drop(driver);
    let driver = world.driver();
    let listed = driver.volumes().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let gone = async {
        while [".new/1-1-1", ".deleted/1-1-1"].iter().any(|folder| base.join(folder).exists()) {
            tokio::task::yield_now().await;
        }
    };
    within("the leftovers' end", gone).await;
    assert_eq!(fs::read_to_string(base.join("default/v/data/note")).unwrap(), "kept");
    let plan = driver.default_plan(&script("true", &[("v", "/data", true)])).await.unwrap();
    assert_eq!(plan.plan["volumes"], json!([{ "name": "v", "target": "/data", "read_only": true }]));
}
