//! Images of registries: a real one on this machine, and a front before it that can be slow or break off.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chiton_container_engine::{EngineOptions, PullPolicy};
use chiton_driver::ComputeDriver;
use chiton_image::{Credential, Digest};
use chiton_model::ErrorKind;
use serde_json::json;

use super::bench::{PATIENCE, Planned, There, World, error, pulls};
use crate::build::{Image, Layer, Packing, architecture, image};
use crate::served::{Front, Manner, Registry};

/// Bytes that no compression makes small.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

/// One that takes a moment, and is no other test's.
fn large(world: &World, megabytes: usize) -> Image {
    let seed = u64::from_str_radix(&world.gateway.as_str()[4..], 16).unwrap();
    let layer = Layer::default().file("noise", &noise(megabytes << 20, seed));
    image(&[(layer, Packing::Gzip)], &json!({ "Cmd": ["/x"] }))
}

fn id(image: &Image) -> String {
    Digest::of(&image.config).to_string()
}

fn pin(planned: &Planned) -> String {
    planned.plan["image"]["pin"].as_str().unwrap().to_owned()
}

pub(crate) async fn a_tag_that_moves_between_plan_and_create_does_not_matter(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    world.mark(&registry.address);
    let (first, second) = (world.shell_for_all("first"), world.shell_for_all("second"));
    registry.put("team/app", "1", &first);
    let name = format!("{}/team/app:1", registry.address);
    let planned = world.plan(&name, &["cat", "/says"]).await.unwrap();
    assert_eq!(pin(&planned), format!("{}/team/app@{}", registry.address, first.digest()));
    registry.put("team/app", "1", &second);
    assert_eq!(world.create(&planned).await.unwrap(), id(&first));
    assert!(world.run(&planned).await.contains("first"));
    // Who asks anew gets the new one, where the policy asks.
    let asking = World::with(Arc::clone(&world.engine), pulls(PullPolicy::Always));
    asking.mark(&registry.address);
    let planned = asking.plan(&name, &["cat", "/says"]).await.unwrap();
    assert_eq!(asking.create(&planned).await.unwrap(), id(&second));
}

pub(crate) async fn a_slow_pull_tells_of_itself(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    registry.put("app", "1", &large(&world, 24));
    let front = Front::start(&registry.address, Manner { slow: Some(6 << 20), ..Manner::default() });
    world.mark(&front.address);
    let planned = world.plan(&format!("{}/app:1", front.address), &["x"]).await.unwrap();
    let mut told = world.progress(&planned.id).await;
    world.create(&planned).await.unwrap();
    let mut said = std::collections::BTreeSet::new();
    // What was told may still be on its way.
    while said.len() < 2 {
        let text = tokio::time::timeout(PATIENCE, told.recv()).await;
        let text = text.unwrap_or_else(|_| panic!("only this was told: {said:?}")).expect("the watch goes on");
        let part = text.strip_prefix("pulling the image: ").and_then(|rest| rest.split_once(" of "));
        if let Some((bytes, of)) = part {
            assert!(of.starts_with("25."), "{text}");
            said.insert(bytes.to_owned());
        }
    }
}

pub(crate) async fn many_who_want_one_image_pull_it_once(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    let made = large(&world, 3);
    registry.put("app", "1", &made);
    let front = Front::start(&registry.address, Manner::default());
    world.mark(&front.address);
    let name = format!("{}/app:1", front.address);
    let plans = futures::future::join_all((0..5).map(|_| world.plan(&name, &["x"]))).await;
    let plans: Vec<Planned> = plans.into_iter().map(Result::unwrap).collect();
    let made_of = futures::future::join_all(plans.iter().map(|planned| world.create(planned))).await;
    assert!(made_of.into_iter().all(|image| image.unwrap() == id(&made)));
    assert_eq!(world.asked("/images/create"), 1);
    assert_eq!(front.count(&format!("GET /v2/app/blobs/{}", Digest::of(&made.blobs[0]))), 1);
}

pub(crate) async fn a_pull_that_nobody_waits_for_is_given_up(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    let made = large(&world, 16);
    registry.put("app", "1", &made);
    let front = Front::start(&registry.address, Manner { slow: Some(2 << 20), ..Manner::default() });
    world.mark(&front.address);
    let name = format!("{}/app:1", front.address);
    let (one, two) = (world.plan(&name, &["x"]).await.unwrap(), world.plan(&name, &["x"]).await.unwrap());
    let start = |planned: &Planned| {
        let (driver, planned) = (world.driver.clone(), planned.clone());
        tokio::spawn(async move { driver.prepare(&planned.id, &planned.plan).await })
    };
    let (mut told, mut also) = (world.progress(&one.id).await, world.progress(&two.id).await);
    let (first, second) = (start(&one), start(&two));
    tokio::time::timeout(PATIENCE, async { (told.recv().await, also.recv().await) }).await.unwrap();
    // One goes away, the other still waits.
    let left = format!("LEFT GET /v2/app/blobs/{}", Digest::of(&made.blobs[0]));
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!((world.asked("/images/create"), front.count(&left)), (1, 0));
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    // With the last the engine gives it up, too: dockerd when it is sent the next bytes.
    let leaves = async {
        while front.count(&left) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, leaves).await.expect("the engine leaves the registry");
    assert_eq!(world.id_of(&pin(&one)).await, None);
    // Whoever comes later begins it anew.
    assert_eq!(world.create(&one).await.unwrap(), id(&made));
}

fn login(world: &std::path::Path, host: &str, password: &str) -> impl FnOnce(&mut EngineOptions) {
    let file = world.join("password");
    fs::write(&file, format!("{password}\n")).unwrap();
    let credential = Credential { username: "me".to_owned(), password_file: file };
    let host = host.to_owned();
    move |options| drop(options.images.credentials.insert(host, credential))
}

pub(crate) async fn a_login_is_used_and_told_to_nobody(engine: There) {
    let (registry, engine) = (Registry::closed(), Arc::new(engine));
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{}/app:1", registry.address);
    for (change, what) in [(None, "none"), (Some("open barley"), "wrong")] {
        let world = World::with(Arc::clone(&engine), |options| {
            if let Some(password) = change {
                login(folder.path(), &registry.address, password)(options);
            }
        });
        let told = world.plan(&name, &["x"]).await.map(|planned| planned.plan).unwrap_err();
        assert!(matches!(&told.kind, ErrorKind::Refused { by } if by == "registry"), "{what}: {told:?}");
        assert!(told.cure.unwrap().contains("password_file"), "{what}");
        assert!(!told.message.contains("barley"), "{what}");
    }
    let world = World::with(engine, login(folder.path(), &registry.address, "open sesame"));
    world.mark(&registry.address);
    let made = world.small("behind a door");
    registry.put("app", "1", &made);
    let planned = world.plan(&name, &["x"]).await.unwrap();
    // It changes between plan and pull: the engine is told what holds now, and says what the registry says.
    fs::write(folder.path().join("password"), "open barley").unwrap();
    let told = error(world.prepare(&planned).await);
    assert!(matches!(told.kind, ErrorKind::Unavailable { .. }), "{told:?}");
    assert!(!told.to_string().contains("barley"), "{told:?}");
    fs::remove_file(folder.path().join("password")).unwrap();
    let told = error(world.prepare(&planned).await);
    assert!(told.message.contains("password file"), "{told:?}");
    fs::write(folder.path().join("password"), "open sesame\n").unwrap();
    assert_eq!(world.create(&planned).await.unwrap(), id(&made));
    let shown =
        serde_json::to_string(&world.api.inspect_container(&format!("chiton-{}", planned.id), None).await.unwrap());
    for text in [planned.plan.to_string(), shown.unwrap(), format!("{:?}", world.proxy.log())] {
        assert!(!text.contains("sesame") && !text.contains("b3BlbiBzZXNhbWU"), "{text}");
    }
    assert!(find(&world.path("state"), b"sesame").is_none(), "nothing of it is kept");
}

/// A file below a folder with these bytes in it.
fn find(folder: &std::path::Path, bytes: &[u8]) -> Option<std::path::PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        if path.is_dir() {
            return find(&path, bytes);
        }
        fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes).then_some(path)
    })
}

pub(crate) async fn what_is_not_there_is_said_so(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    world.mark(&registry.address);
    let made = world.small("gone");
    registry.put("app", "1", &made);
    for name in ["app:2", "no/such:1"] {
        let told = world.plan(&format!("{}/{name}", registry.address), &["x"]).await.map(|_| ()).unwrap_err();
        assert!(matches!(told.kind, ErrorKind::NotFound), "{name}: {told:?}");
    }
    // It goes between plan and pull.
    let name = format!("{}/app:1", registry.address);
    let (gone, down) = (world.plan(&name, &["x"]).await.unwrap(), world.plan(&name, &["x"]).await.unwrap());
    registry.forget("app", &made);
    let told = error(world.prepare(&gone).await);
    assert!(matches!(told.kind, ErrorKind::NotFound | ErrorKind::Unavailable { .. }), "{told:?}");
    assert!(told.message.contains("/app") && told.message.contains("manifest unknown"), "{told:?}");
    drop(registry);
    let told = error(world.prepare(&down).await);
    assert!(matches!(told.kind, ErrorKind::Unavailable { .. }), "{told:?}");
    assert!(told.message.contains("refused") && told.cure.is_some(), "{told:?}");
    let told = world.plan(&name.replace("app", "other"), &["x"]).await.map(|_| ()).unwrap_err();
    assert!(matches!(told.kind, ErrorKind::Unavailable { .. }), "{told:?}");
    // One that takes connections and says nothing does not hold a plan up for ever.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let told = world.plan(&format!("{}/app:1", silent.local_addr().unwrap()), &["x"]).await.map(|_| ()).unwrap_err();
    assert!(matches!(told.kind, ErrorKind::Unavailable { .. }), "{told:?}");
}

pub(crate) async fn a_pull_that_breaks_off_is_begun_anew(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    let made = large(&world, 2);
    registry.put("app", "1", &made);
    let cuts = Arc::new(AtomicU64::new(0));
    let front =
        Front::start(&registry.address, Manner { cut: Some((300_000, Arc::clone(&cuts))), ..Manner::default() });
    world.mark(&front.address);
    let planned = world.plan(&format!("{}/app:1", front.address), &["x"]).await.unwrap();
    cuts.store(1_000, Ordering::SeqCst);
    let told = error(world.prepare(&planned).await);
    assert!(matches!(told.kind, ErrorKind::Unavailable { .. }), "{told:?}");
    assert_eq!(world.id_of(&pin(&planned)).await, None, "nothing of it has its name");
    cuts.store(0, Ordering::SeqCst);
    assert_eq!(world.create(&planned).await.unwrap(), id(&made));
}

pub(crate) async fn an_index_gives_the_image_for_this_machine(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    world.mark(&registry.address);
    let made = world.small("for this machine");
    registry.put("app", "plain", &made);
    let entry = |architecture: &str, digest: String, size: usize| {
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": { "architecture": architecture, "os": "linux" } })
    };
    let other = format!("sha256:{}", "0".repeat(64));
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        entry("riscv64", other, 1), entry(architecture(), made.digest().to_string(), made.manifest.len()) ] });
    // What `put` calls a manifest may be an index.
    let of_all = Image { manifest: index.to_string().into_bytes(), config: made.config.clone(), blobs: Vec::new() };
    registry.put("app", "all", &of_all);
    let planned = world.plan(&format!("{}/app:all", registry.address), &["x"]).await.unwrap();
    assert_eq!(pin(&planned), format!("{}/app@{}", registry.address, made.digest()));
    assert_eq!(world.create(&planned).await.unwrap(), id(&made));
    let by_digest = format!("{}/app@{}", registry.address, of_all.digest());
    let asking = World::with(Arc::clone(&world.engine), pulls(PullPolicy::Always));
    let planned = asking.plan(&by_digest, &["x"]).await.unwrap();
    assert_eq!(asking.create(&planned).await.unwrap(), id(&made));
}

pub(crate) async fn policies_say_when_a_registry_is_asked(engine: There) {
    let (registry, engine) = (Registry::start(), Arc::new(engine));
    let front = Front::start(&registry.address, Manner::default());
    let asked = || front.count("/v2/");
    let never = World::with(Arc::clone(&engine), pulls(PullPolicy::Never));
    let missing = World::with(Arc::clone(&engine), pulls(PullPolicy::Missing));
    let always = World::with(Arc::clone(&engine), pulls(PullPolicy::Always));
    missing.mark(&front.address);
    let made = missing.small("first");
    registry.put("app", "1", &made);
    let name = format!("{}/app:1", front.address);

    let told = never.plan(&name, &["x"]).await.map(|_| ()).unwrap_err();
    assert!(matches!(told.kind, ErrorKind::NotFound), "{told:?}");
    assert_eq!(asked(), 0, "never asks nobody");
    // What the engine has is used under its own name, and nobody is asked.
    for world in [&never, &missing] {
        let planned = world.plan(&engine.image, &["x"]).await.unwrap();
        assert_eq!(world.create(&planned).await.unwrap(), world.id_of(&engine.image).await.unwrap());
    }
    assert_eq!(asked(), 0);

    let planned = missing.plan(&name, &["x"]).await.unwrap();
    assert_eq!(missing.create(&planned).await.unwrap(), id(&made));
    let before = asked();
    assert!(before > 0);
    registry.put("app", "1", &missing.small("second"));
    // What was brought under a name is there: nobody is asked again, whatever the tag means by now.
    let planned = missing.plan(&name, &["x"]).await.unwrap();
    assert_eq!(missing.create(&planned).await.unwrap(), id(&made));
    assert_eq!(asked(), before);
    // By its id it is there for everybody.
    for world in [&never, &always] {
        let planned = world.plan(&id(&made), &["x"]).await.unwrap();
        assert_eq!(world.create(&planned).await.unwrap(), id(&made));
    }
    assert_eq!(asked(), before);
    let planned = always.plan(&name, &["x"]).await.unwrap();
    assert_ne!(always.create(&planned).await.unwrap(), id(&made));
    assert!(asked() > before, "always asks");
    // An engine's image that goes before it is used cannot be pulled.
    let tagged = World::with(engine, |_| ());
    let local = tagged.small("local").saved_into(&tagged).await;
    let planned = tagged.plan(&local, &["x"]).await.unwrap();
    tagged.remove_image(&local).await;
    let told = error(tagged.prepare(&planned).await);
    assert!(matches!(told.kind, ErrorKind::NotFound), "{told:?}");
    assert!(told.message.contains("no longer on the engine"), "{told:?}");
}

/// On an engine with room for less than 24 MiB.
pub(crate) async fn an_engine_without_room_says_so(engine: There) {
    let (registry, world) = (Registry::start(), World::new(engine));
    registry.put("app", "1", &large(&world, 24));
    let planned = world.plan(&format!("{}/app:1", registry.address), &["x"]).await.unwrap();
    let told = error(world.prepare(&planned).await);
    assert!(told.message.contains("no space left on device"), "{told:?}");
    assert!(told.cure.unwrap().contains("room"));
    assert_eq!(world.id_of(&pin(&planned)).await, None);
    // A file's image as well.
    let layout = large(&world, 20).layout(&world.path("layout"), "1");
    let planned = world.plan(&super::bench::reference("oci", &layout), &["x"]).await.unwrap();
    let told = error(world.prepare(&planned).await);
    assert!(told.message.contains("no space left on device"), "{told:?}");
    assert_eq!(world.id_of(&pin(&planned)).await, None);
}
