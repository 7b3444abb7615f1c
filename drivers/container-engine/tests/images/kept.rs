//! What operators see of an engine's images, and what goes when they remove some.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{ComputeDriver, ImageEvent, ImageInfo};
use chiton_image::Digest;
use chiton_model::ErrorKind;
use futures::StreamExt;

use super::bench::{LOADING, PATIENCE, There, World, error, reference};
use crate::build::Image;
use crate::served::Registry;

fn id(image: &Image) -> String {
    Digest::of(&image.config).to_string()
}

impl World {
    async fn listed(&self, digest: &str) -> Option<ImageInfo> {
        self.images().list().await.unwrap().into_iter().find(|image| image.digest == digest)
    }

    async fn pull(&self, name: &str) -> (Vec<String>, ImageInfo) {
        let mut said = Vec::new();
        let mut news = self.images().pull(name);
        let pulled = async {
            loop {
                match news.next().await.expect("the pull says how it ended").unwrap() {
                    ImageEvent::Progress(text) => said.push(text),
                    ImageEvent::Pulled(info) => return info,
                }
            }
        };
        let info = tokio::time::timeout(PATIENCE, pulled).await.unwrap();
        (said, info)
    }
}

pub(crate) async fn images_are_listed_pulled_and_removed(engine: There) {
    let _loads = LOADING.read().await;
    let (registry, world) = (Registry::start(), World::new(engine));
    world.mark(&registry.address);
    let theirs = world.id_of(&world.engine.image).await.unwrap();
    let listed = world.listed(&theirs).await.unwrap();
    assert!(listed.references.contains(&world.engine.image), "{listed:?}");
    assert!(listed.bytes > 100_000 && listed.layers >= 1 && !listed.pinned, "{listed:?}");

    let (first, second) = (world.shell_for_all("first"), world.shell_for_all("second"));
    registry.put("app", "1", &first);
    let name = format!("{}/app:1", registry.address);
    let (said, info) = world.pull(&name).await;
    // Of words that follow each other at once the last may be told alone.
    let is_told = |text: &String| text.starts_with("pulling the image") || text == "unpacking the image";
    assert!(said.iter().any(is_told), "{said:?}");
    assert_eq!((info.digest.clone(), info.layers), (id(&first), 3));
    assert!(info.references.contains(&name), "{info:?}");
    assert_eq!(info.used_by, []);
    // Who pulls gets what the tag means now, whatever is there already.
    registry.put("app", "1", &second);
    assert_eq!(world.pull(&name).await.1.digest, id(&second));
    assert!(!world.listed(&id(&first)).await.unwrap().references.contains(&name), "the name leads to the other now");

    let planned = world.plan(&name, &["x"]).await.unwrap();
    world.create(&planned).await.unwrap();
    assert_eq!(world.listed(&id(&second)).await.unwrap().used_by, std::slice::from_ref(&planned.id));
    world.driver.delete(&planned.id).await.unwrap();

    let removed = world.images().remove(&name).await.unwrap();
    assert_eq!(removed.images.len(), 1);
    assert_eq!(removed.images[0].digest, id(&second));
    assert_eq!(world.listed(&id(&second)).await, None);
    // By its digest, too.
    world.images().remove(&id(&first)).await.unwrap();
    assert_eq!(world.listed(&id(&first)).await, None);
    for gone in [&name, &id(&first)] {
        let told = error(world.images().remove(gone).await);
        assert!(matches!(told.kind, ErrorKind::NotFound), "{told:?}");
    }
    // A file's image as well.
    let file = world.path("saved.tar");
    let saved = world.small("of a file");
    saved.saved(&file, "x:1");
    world.mark(Digest::of(&saved.config).hex());
    let (said, info) = world.pull(&reference("tar", &file)).await;
    assert!(said[0].starts_with("loading the image"), "{said:?}");
    assert!(info.references.contains(&reference("tar", &file)), "{info:?}");
    let removed = world.images().remove(&reference("tar", &file)).await.unwrap();
    assert!(removed.bytes > 0, "no other image has its layers: {removed:?}");
    assert_eq!(world.listed(&id(&saved)).await, None);
}

pub(crate) async fn an_image_in_use_stays_whoever_uses_it(engine: There) {
    let world = World::new(engine);
    let made = world.small("in use");
    let name = made.saved_into(&world).await;
    let theirs = world.somebodys(&name).await;
    let told = error(world.images().remove(&name).await);
    assert!(matches!(told.kind, ErrorKind::Conflict), "{told:?}");
    assert!(told.message.contains(&theirs) && told.cure.is_some(), "{told:?}");
    world.remove_container(&theirs).await;

    // A sandbox in the making, one that is made, and none any more.
    let planned = world.plan(&name, &["x"]).await.unwrap();
    world.prepare(&planned).await.unwrap();
    let told = error(world.images().remove(&name).await);
    assert!(told.message.contains(planned.id.as_str()) && told.message.contains("being made"), "{told:?}");
    world.create(&planned).await.unwrap();
    let told = error(world.images().remove(&name).await);
    assert!(told.message.contains(planned.id.as_str()) && !told.message.contains("being made"), "{told:?}");
    // It is another gateway's, too, who knows of no sandbox of that name.
    let other = world.another();
    let told = error(other.images().remove(&name).await);
    assert!(told.message.contains(&format!("chiton-{}", planned.id)), "{told:?}");
    world.driver.delete(&planned.id).await.unwrap();
    world.images().remove(&name).await.unwrap();
    assert_eq!(world.id_of(&name).await, None);

    // The operator's default stays.
    let name = made.saved_into(&world).await;
    let keeping = World::with(Arc::clone(&world.engine), |options| options.default_image.clone_from(&name));
    assert!(keeping.listed(&id(&made)).await.unwrap().pinned);
    let told = error(keeping.images().remove(&name).await);
    assert!(told.message.contains("config"), "{told:?}");
}

pub(crate) async fn a_prune_removes_only_what_the_driver_brought(engine: There) {
    let _alone = LOADING.write().await;
    let (registry, world) = (Registry::start(), World::new(engine));
    world.mark(&registry.address);
    // What tests that were broken off left under the name of files' images is anybody's, and goes too.
    let all = world.images().list().await.unwrap().into_iter();
    let left: Vec<String> = all
        .filter(|image| image.references.iter().any(|name| name.starts_with("chiton.local/image:")))
        .map(|image| image.digest)
        .collect();
    let gone = |removed: &[ImageInfo]| {
        let own = removed.iter().map(|image| image.digest.clone()).filter(|digest| !left.contains(digest));
        let mut own: Vec<String> = own.collect();
        own.sort();
        own
    };
    let theirs = world.small("theirs").saved_into(&world).await;
    let other = world.another();
    let put = |made: &Image, tag: &str| {
        registry.put("app", tag, made);
        format!("{}/app:{tag}", registry.address)
    };
    let (idle, used, also, of_file, others) =
        (world.small("idle"), world.small("used"), world.small("also"), world.small("of a file"), world.small("other"));
    for (made, tag) in [(&idle, "idle"), (&also, "also")] {
        world.pull(&put(made, tag)).await;
    }
    other.pull(&put(&others, "other")).await;
    let planned = world.plan(&put(&used, "used"), &["x"]).await.unwrap();
    world.create(&planned).await.unwrap();
    let file = world.path("saved.tar");
    of_file.saved(&file, "x:1");
    world.mark(Digest::of(&of_file.config).hex());
    world.pull(&reference("tar", &file)).await;
    // Somebody gives one of them a name of his own.
    let pin = format!("{}/app@{}", registry.address, also.digest());
    world.tag(&pin, &format!("{}/kept", registry.address), "1").await;

    let removed = world.images().prune(Some(Duration::from_hours(1))).await.unwrap();
    assert_eq!(removed.images, [], "nothing is old");
    // The operator's limits keep what is young and little.
    assert_eq!(world.images().prune(None).await.unwrap().images, []);
    let removed = world.images().prune(Some(Duration::ZERO)).await.unwrap();
    let mut wanted = [id(&idle), id(&of_file)];
    wanted.sort();
    assert_eq!(gone(&removed.images), wanted);
    assert!(removed.bytes > 0);
    for name in [&theirs, &world.engine.image, &format!("{}/kept:1", registry.address), &id(&used), &id(&others)] {
        assert!(world.id_of(name).await.is_some(), "{name} is gone");
    }
    world.driver.delete(&planned.id).await.unwrap();
    let removed = world.images().prune(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(gone(&removed.images), [id(&used)]);
    let removed = other.images().prune(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(gone(&removed.images), [id(&others)]);
}

pub(crate) async fn names_that_no_engine_should_see_are_refused(engine: There) {
    let world = World::new(engine);
    let before = world.proxy.log().len();
    let long = "a/".repeat(3_000);
    for name in ["../../containers/json", "UPPER/case", "a\nb", "a?all=1", "sha256:12", &long] {
        let told = world.plan(name, &["x"]).await.map(|_| ()).unwrap_err();
        assert!(matches!(told.kind, ErrorKind::Invalid { .. }), "{name:?}: {told:?}");
        let told = error(world.images().remove(name).await);
        assert!(matches!(told.kind, ErrorKind::Invalid { .. }), "{name:?}: {told:?}");
        let told = world.images().pull(name).next().await.unwrap();
        assert!(matches!(error(told).kind, ErrorKind::Invalid { .. }), "{name:?}");
    }
    for name in ["host", "dir:/srv"] {
        let told = world.plan(name, &["x"]).await.map(|_| ()).unwrap_err();
        assert!(matches!(told.kind, ErrorKind::Unsupported { .. }), "{told:?}");
        assert!(told.cure.unwrap().contains("oci driver"));
    }
    let told = world.plan("", &["x"]).await.map(|_| ()).unwrap_err();
    assert!(told.cure.unwrap().contains("default_image"));
    assert_eq!(world.proxy.log().len(), before, "the engine was not asked");
    // The beginning of an id is no name, though engines take it for one.
    let whole = world.id_of(&world.engine.image).await.unwrap();
    let told = world.plan(&whole["sha256:".len()..][..12], &["x"]).await.map(|_| ()).unwrap_err();
    assert!(matches!(told.kind, ErrorKind::Invalid { .. }), "{told:?}");
    let told = world.plan(&format!("sha256:{}", "0".repeat(64)), &["x"]).await.map(|_| ()).unwrap_err();
    assert!(matches!(told.kind, ErrorKind::NotFound), "{told:?}");
    // The default is one like any other.
    let with_default = World::with(Arc::clone(&world.engine), |options| {
        options.default_image.clone_from(&whole);
    });
    let planned = with_default.plan("", &["x"]).await.unwrap();
    assert_eq!(with_default.create(&planned).await.unwrap(), whole);
}
