//! What stays and what goes.

use std::time::Duration;

use chiton_image::{ImageError, Images, Pinned, Policy, Use};
use serde_json::json;

use crate::build::{Layer, Packing, image};
use crate::common::{World, nobody, policy, pull};

fn make(world: &World, images: &Images, name: &str) -> Pinned {
    let base = Layer::default().file("base", b"shared by all");
    let layers = [(base, Packing::Plain), (Layer::default().file(name, &[1; 10_000]), Packing::Plain)];
    let layout = image(&layers, &json!({})).layout(&world.path(name), "1");
    let pinned = pull(images, &format!("oci:{}:1", layout.display())).unwrap();
    // As after a pull by hand.
    images.release(&pinned.digest);
    pinned
}

fn used(pinned: &Pinned) -> Use {
    Use { by: "sandbox s-1".to_owned(), digest: pinned.digest, chains: pinned.chains() }
}

#[test]
fn used_leased_and_pinned_images_stay_and_all_else_goes() {
    let world = World::new();
    let names = ["one", "two", "three", "four"];
    let reference =
        format!("oci:{}:1", world.path("three").canonicalize().unwrap_or_else(|_| world.path("three")).display());
    let images = Images::open(&world.store(), Policy { pinned: [reference].into(), ..policy() }).unwrap();
    let made: Vec<Pinned> = names.iter().map(|name| make(&world, &images, name)).collect();
    assert_eq!(images.list().unwrap().len(), 4);
    // The second is leased again: a sandbox is being made of it.
    images.ensure(&made[1], &chiton_image::Cancel::default(), &|_| ()).unwrap();
    let uses = || Ok(vec![used(&made[0])]);
    let freed = images.prune(Duration::ZERO, u64::MAX, &uses).unwrap();
    assert_eq!(freed.images.iter().map(|image| image.digest).collect::<Vec<_>>(), [made[3].digest]);
    assert_eq!((freed.layers, freed.bytes > 10_000), (1, true));
    images.layers(&made[0].chains()).unwrap();
    images.layers(&made[1].chains()).unwrap();
    images.layers(&made[2].chains()).unwrap();
    images.layers(&made[3].chains()).unwrap_err();
    // The lease becomes a use.
    images.adopt::<ImageError>(&made[1].digest, &made[1].chains(), || Ok(())).unwrap();
    let uses = || Ok(vec![used(&made[0]), used(&made[1])]);
    assert_eq!(images.prune(Duration::ZERO, u64::MAX, &uses).unwrap().images, []);
    let error = images.remove(&made[0].digest.to_string(), &uses).unwrap_err();
    assert!(matches!(&error, ImageError::InUse { by, .. } if by == "sandbox s-1"), "{error:?}");
    let error = images.remove(&made[2].digest.hex()[..12], &nobody).unwrap_err();
    assert!(matches!(&error, ImageError::InUse { by, .. } if by.contains("pins")), "{error:?}");
    // Nobody uses them any more: the layer that all share stays as long as one has it.
    assert_eq!(images.remove(&format!("oci:{}:1", world.path("one").display()), &nobody).unwrap().layers, 1);
    assert_eq!(images.prune(Duration::ZERO, u64::MAX, &nobody).unwrap().layers, 1);
    assert_eq!(world.layers().len(), 2);
    assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
    let again = images.remove("sha256:0123456789ab", &nobody).unwrap_err();
    assert!(matches!(again, ImageError::Missing { .. }), "{again:?}");
}

#[test]
fn age_and_size_decide_what_idle_images_go() {
    let world = World::new();
    let images = world.images();
    let made: Vec<Pinned> = ["one", "two", "three"].iter().map(|name| make(&world, &images, name)).collect();
    let hour = Duration::from_hours(1);
    for (index, pinned) in made.iter().enumerate() {
        let record = world.store().join(format!("images/{}.json", pinned.digest.hex()));
        let file = std::fs::File::options().write(true).open(record).unwrap();
        let age = hour * u32::try_from(index).unwrap() + Duration::from_mins(1);
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
    }
    assert_eq!(images.prune(hour * 3, u64::MAX, &nobody).unwrap().images, []);
    let freed = images.prune(hour * 2, u64::MAX, &nobody).unwrap();
    assert_eq!(freed.images[0].digest, made[2].digest);
    // Room for one: the one that was used last stays.
    let one = images.list().unwrap()[0].bytes;
    let freed = images.prune(hour * 9, one + 1, &nobody).unwrap();
    assert_eq!(freed.images.iter().map(|image| image.digest).collect::<Vec<_>>(), [made[1].digest]);
    assert_eq!(images.list().unwrap()[0].digest, made[0].digest);
}

#[test]
fn who_cannot_tell_what_is_used_removes_nothing() {
    let world = World::new();
    let images = world.images();
    let pinned = make(&world, &images, "one");
    let unknown = || Err(std::io::Error::other("a record cannot be read"));
    assert!(images.prune(Duration::ZERO, 0, &unknown).is_err());
    assert!(images.remove(&pinned.digest.to_string(), &unknown).is_err());
    images.layers(&pinned.chains()).unwrap();
}

#[test]
fn a_use_that_begins_while_others_remove_keeps_its_layers() {
    let world = World::new();
    let images = world.images();
    let pinned = make(&world, &images, "one");
    let used_by = std::sync::Mutex::new(Vec::new());
    let uses = || Ok(used_by.lock().unwrap().clone());
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| {
            let mut removed = 0;
            for _ in 0..200 {
                removed += images.prune(Duration::ZERO, 0, &uses).unwrap().images.len();
            }
            removed
        });
        for _ in 0..50 {
            images.ensure(&pinned, &chiton_image::Cancel::default(), &|_| ()).unwrap();
            images
                .adopt::<ImageError>(&pinned.digest, &pinned.chains(), || {
                    used_by.lock().unwrap().push(used(&pinned));
                    Ok(())
                })
                .unwrap();
            images.layers(&pinned.chains()).unwrap();
            used_by.lock().unwrap().clear();
        }
        remover.join().unwrap();
    });
}

#[test]
fn who_opens_a_store_takes_nothing_from_who_is_filling_it() {
    let world = World::new();
    let images = world.images();
    let (filling, filled) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let (world, filling) = (&world, filling);
        scope.spawn(move || {
            // Each opening sweeps, as another process would that begins.
            while filled.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                drop(world.images());
            }
        });
        (0..30).for_each(|number| drop(make(world, &images, &format!("image-{number}"))));
        drop(filling);
    });
    assert_eq!(images.list().unwrap().len(), 30);
}
