//! Images of files: how they get to an engine that no network reaches.

use std::fs;

use chiton_driver_suite::proxy::{Fault, Rule};
use chiton_image::Digest;
use chiton_model::ErrorKind;
use http::Method;
use tokio::time::timeout;

use super::bench::{LOADING, PATIENCE, There, World, error, reference, unique};

pub(crate) async fn files_are_loaded_and_run(engine: There) {
    let _loads = LOADING.read().await;
    let world = World::new(engine);
    let (layout, saved) = (world.shell("from a layout"), world.shell("from an archive"));
    let file = world.path("saved.tar");
    saved.saved(&file, "somebody.example/app:1");
    let cases = [
        ("from a layout", &layout, reference("oci", &layout.layout(&world.path("layout"), "1"))),
        ("from an archive", &saved, reference("tar", &file)),
    ];
    for (says, made, name) in cases {
        let planned = world.plan(&name, &["cat", "/says"]).await.unwrap();
        let pin = planned.plan["image"]["pin"].as_str().unwrap().to_owned();
        assert!(pin.starts_with("chiton.local/image:"), "{pin}");
        assert_eq!(planned.plan["env"]["A"], "b", "the image's own variables");
        let mut told = world.progress(&planned.id).await;
        let image = world.create(&planned).await.unwrap();
        assert_eq!(image, Digest::of(&made.config).to_string(), "the config went over byte for byte");
        let first = timeout(PATIENCE, told.recv()).await.expect("it is told").unwrap();
        assert!(first.starts_with("loading the image"), "{first}");
        assert!(world.run(&planned).await.contains(&format!("{says} {}", world.gateway)));
        // From now on the file is not needed, and nothing is loaded.
        let before = world.asked("/images/load");
        let again = world.plan(&name, &["cat", "/says"]).await.unwrap();
        fs::rename(world.path("layout"), world.path("elsewhere")).ok();
        assert_eq!(world.create(&again).await.unwrap(), image);
        assert_eq!(world.asked("/images/load"), before);
    }
    assert_eq!(world.asked("/images/load"), 2);
    assert_eq!(world.id_of("somebody.example/app:1").await, None, "names of the file go nowhere");
}

pub(crate) async fn loading_moves_nobodys_tag(engine: There) {
    let _loads = LOADING.read().await;
    let world = World::new(engine);
    let repository = format!("localhost/elses-{}", unique());
    let theirs = format!("{repository}:1");
    world.tag(&world.engine.image.clone(), &repository, "1").await;
    let before = world.id_of(&theirs).await.unwrap();
    let file = world.path("saved.tar");
    world.small("takes a name").saved(&file, &theirs);
    let planned = world.plan(&reference("tar", &file), &["x"]).await.unwrap();
    let image = world.create(&planned).await.unwrap();
    assert_ne!(image, before);
    assert_eq!(world.id_of(&theirs).await.unwrap(), before);
}

pub(crate) async fn many_who_want_one_file_load_it_once(engine: There) {
    let _loads = LOADING.read().await;
    let world = World::new(engine);
    let name = reference("oci", &world.shell("once").layout(&world.path("layout"), "1"));
    let plans = futures::future::join_all((0..6).map(|_| world.plan(&name, &["cat", "/says"]))).await;
    let plans: Vec<_> = plans.into_iter().map(Result::unwrap).collect();
    let mut told = Vec::new();
    for planned in &plans {
        told.push(world.progress(&planned.id).await);
    }
    // It is not over before all have asked.
    let held = world.proxy.inject(Rule::new(Method::POST, "*/images/load*", Fault::LateAnswer));
    let asked = async {
        for told in &mut told {
            let said = timeout(PATIENCE, told.recv()).await.expect("each is told").unwrap();
            assert!(said.contains("the image"), "each is told: {said}");
        }
        held.release();
    };
    let creates = futures::future::join_all(plans.iter().map(|planned| world.create(planned)));
    let (made, ()) = futures::future::join(creates, asked).await;
    let images: std::collections::BTreeSet<String> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(images.len(), 1);
    assert_eq!(world.asked("/images/load"), 1);
}

pub(crate) async fn a_file_that_was_changed_since_the_plan_leaves_nothing(engine: There) {
    let _loads = LOADING.read().await;
    let world = World::new(engine);
    let file = world.path("saved.tar");
    world.small("one").saved(&file, "a:1");
    let planned = world.plan(&reference("tar", &file), &["x"]).await.unwrap();
    world.small("another").saved(&file, "a:1");
    let told = error(world.prepare(&planned).await);
    assert!(matches!(told.kind, ErrorKind::Refused { .. }), "{told:?}");
    assert!(told.message.contains("changed since the plan"), "{told:?}");
    assert_eq!(world.id_of(planned.plan["image"]["pin"].as_str().unwrap()).await, None);

    // Of the same name and length, with a layer that is not what its digest says.
    let made = world.shell("whole");
    let layout = made.layout(&world.path("layout"), "1");
    let planned = world.plan(&reference("oci", &layout), &["x"]).await.unwrap();
    let blob = layout.join("blobs/sha256").join(Digest::of(&made.blobs[2]).hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let told = error(world.prepare(&planned).await);
    assert!(matches!(told.kind, ErrorKind::Refused { .. }), "{told:?}");
    assert_eq!(world.id_of(planned.plan["image"]["pin"].as_str().unwrap()).await, None);

    // It is mended, and works.
    fs::write(&blob, &made.blobs[2]).unwrap();
    assert_eq!(world.create(&planned).await.unwrap(), Digest::of(&made.config).to_string());
}
