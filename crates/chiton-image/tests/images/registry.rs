//! Pulls from a real registry, also from one that lies, breaks off, is slow, or wants to know who asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use chiton_image::{Cancel, Credential, ImageError, Images, Policy, Progress};
use serde_json::json;

use crate::build::{Image, Layer, Packing, image};
use crate::common::{PATIENCE, World, policy, pull};
use crate::served::{Front, Manner, Registry, gate, present};

/// Bytes that no compression makes small.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

fn app() -> Image {
    let layers = [
        (Layer::default().folder("etc", 0o755).file("etc/one", &noise(300_000)), Packing::Gzip),
        (Layer::default().file("etc/two", b"2"), Packing::Zstd),
        (Layer::default().file("three", b"3"), Packing::Plain),
    ];
    image(&layers, &json!({ "User": "7:8", "Env": ["A=b"] }))
}

/// A runtime for the store's calls, which run on the test's own thread.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn an_image_is_pulled_by_tag_and_by_digest_and_a_moved_tag_is_another_image() {
    if !present("an_image_is_pulled_by_tag_and_by_digest_and_a_moved_tag_is_another_image") {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let (registry, world, made) = (Registry::start(), World::new(), app());
    registry.put("team/app", "1", &made);
    let images = world.images();
    let reference = format!("{}/team/app:1", registry.address);
    let (pinned, config) = images.resolve(&reference, PATIENCE).unwrap();
    assert_eq!(pinned.digest, made.digest());
    assert_eq!((config.user.as_str(), config.env[0].0.as_str()), ("7:8", "A"));
    assert!(images.ensure(&pinned, &Cancel::default(), &|_| ()).unwrap());
    let folders = images.layers(&pinned.chains()).unwrap();
    assert_eq!(fs::read(folders[0].join("etc/one")).unwrap(), noise(300_000));
    assert_eq!(fs::read(folders[2].join("three")).unwrap(), b"3");
    assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
    // The tag moves: what was pinned stays what it is, the name means something else.
    let other = image(&[(Layer::default().file("other", b""), Packing::Gzip)], &json!({}));
    registry.put("team/app", "1", &other);
    assert_eq!(images.resolve(&reference, PATIENCE).unwrap().0.digest, other.digest());
    let by_digest = format!("{}/team/app@{}", registry.address, made.digest());
    assert_eq!(pull(&images, &by_digest).unwrap().layers, pinned.layers);
    // By digest, what is here needs no registry.
    drop(registry);
    assert_eq!(images.resolve(&by_digest, PATIENCE).unwrap().0.digest, made.digest());
    assert!(!images.ensure(&pinned, &Cancel::default(), &|_| ()).unwrap());
}

#[test]
fn what_is_not_there_is_said_so() {
    if !present("what_is_not_there_is_said_so") {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let (registry, world) = (Registry::start(), World::new());
    let images = world.images();
    let error = images.resolve(&format!("{}/no/such:1", registry.address), PATIENCE).unwrap_err();
    assert!(matches!(error, ImageError::Missing { .. }), "{error:?}");
    let made = app();
    registry.put("app", "1", &made);
    registry.forget("app", &made);
    let error = images.resolve(&format!("{}/app@{}", registry.address, made.digest()), PATIENCE).unwrap_err();
    assert!(matches!(error, ImageError::Missing { .. }), "{error:?}");
    let address = registry.address.clone();
    drop(registry);
    let error = images.resolve(&format!("{address}/no/such:1"), PATIENCE).unwrap_err();
    assert!(matches!(error, ImageError::Registry { transient: true, .. }), "{error:?}");
}

#[test]
fn other_bytes_than_the_digest_names_are_refused_wherever_they_come_from() {
    if !present("other_bytes_than_the_digest_names_are_refused_wherever_they_come_from") {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let made = app();
    let swapped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    for (what, blob) in [("manifest", &made.manifest), ("config", &made.config), ("layer", &made.blobs[0])] {
        let (registry, world) = (Registry::start(), World::new());
        registry.put("app", "1", &made);
        let wrong = swapped(blob);
        fs::write(registry.blob(&chiton_image::Digest::of(blob)), wrong).unwrap();
        let reference = format!("{}/app@{}", registry.address, made.digest());
        let error = pull(&world.images(), &reference).unwrap_err();
        // The server itself notices a manifest that is not what it stored.
        let refused = matches!(error, ImageError::Digest { .. })
            || (what == "manifest" && matches!(error, ImageError::Registry { .. } | ImageError::Missing { .. }));
        assert!(refused, "{what}: {error:?}");
        assert_eq!(world.layers(), Vec::<std::path::PathBuf>::new(), "{what}");
        // What came of other layers may stay, to be taken up; the wrong bytes do not.
        for folder in ["blobs", "partial"] {
            let kept = world.store().join(folder).join(chiton_image::Digest::of(blob).hex());
            assert!(!kept.exists(), "{what}: a wrong blob is kept");
        }
    }
}

#[test]
fn a_layer_that_breaks_off_is_taken_up_where_it_broke_and_a_short_one_is_refused() {
    if !present("a_layer_that_breaks_off_is_taken_up_where_it_broke_and_a_short_one_is_refused") {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let (registry, world) = (Registry::start(), World::new());
    let made = image(&[(Layer::default().file("one", &noise(300_000)), Packing::Plain)], &json!({}));
    registry.put("app", "1", &made);
    let cuts = Arc::new(AtomicU64::new(0));
    let manner = Manner { cut: Some((100_000, Arc::clone(&cuts))), ..Manner::default() };
    let front = Front::start(&registry.address, manner);
    let images = world.images();
    let (pinned, _) = images.resolve(&format!("{}/app:1", front.address), PATIENCE).unwrap();
    cuts.store(2, std::sync::atomic::Ordering::SeqCst);
    images.ensure(&pinned, &Cancel::default(), &|_| ()).unwrap();
    assert_eq!(front.count(&format!("/blobs/{}", pinned.layers[0].digest)), 3);
    let folders = images.layers(&pinned.chains()).unwrap();
    assert_eq!(fs::read(folders[0].join("one")).unwrap(), noise(300_000));
    // The server has less than the manifest says, for good.
    let other = image(&[(Layer::default().file("two", &noise(10_000)), Packing::Plain)], &json!({}));
    registry.put("app", "2", &other);
    let stored = registry.blob(&other.blobs[0..1].iter().map(|blob| chiton_image::Digest::of(blob)).next().unwrap());
    fs::write(stored, &other.blobs[0][..5000]).unwrap();
    let error = pull(&images, &format!("{}/app:2", registry.address)).unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. } | ImageError::Digest { .. }), "{error:?}");
    assert_eq!(world.layers().len(), 1);
}

#[test]
fn a_slow_pull_tells_of_its_progress_is_joined_and_ends_with_who_waits() {
    if !present("a_slow_pull_tells_of_its_progress_is_joined_and_ends_with_who_waits") {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let (registry, world) = (Registry::start(), World::new());
    let made = image(&[(Layer::default().file("one", &noise(6 << 20)), Packing::Plain)], &json!({}));
    registry.put("app", "1", &made);
    let images = world.images();
    let (pinned, _) = images.resolve(&format!("{}/app:1", registry.address), PATIENCE).unwrap();
    let (open, held) = gate();
    let front = Front::start(&registry.address, Manner { hold: Some((5 << 20, held)), ..Manner::default() });
    let slow = pinned_at(&pinned, &front.address);
    let handle = runtime.handle().clone();
    std::thread::scope(|scope| {
        let spawn = |cancel: Cancel, tell: Box<dyn Fn(Progress) + Send + Sync>| {
            let (images, slow, handle) = (images.clone(), slow.clone(), handle.clone());
            scope.spawn(move || {
                let _entered = handle.enter();
                images.ensure(&slow, &cancel, &*tell)
            })
        };
        let (told, news) = channel();
        let told = std::sync::Mutex::new(told);
        let first_cancel = Cancel::default();
        let first = spawn(first_cancel.clone(), Box::new(move |progress| drop(told.lock().unwrap().send(progress))));
        // The server holds the rest back; progress came all the same.
        let said = news.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(said, Progress::Fetched { bytes, of } if bytes >= 4 << 20 && bytes < of), "{said:?}");
        let second = spawn(Cancel::default(), Box::new(|_| ()));
        // A third that nobody waits for ends while the first still holds the blob.
        let third_cancel = Cancel::default();
        let third = spawn(third_cancel.clone(), Box::new(|_| ()));
        third_cancel.cancel();
        assert!(matches!(third.join().unwrap(), Err(ImageError::Cancelled)));
        open.send(()).unwrap();
        assert!(first.join().unwrap().unwrap());
        second.join().unwrap().unwrap();
    });
    assert_eq!(front.count("/blobs/"), 1, "both were served by one download");
    let error = world.images().resolve(&format!("{}/app:1", unanswered().1), Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, ImageError::Registry { transient: true, .. }), "{error:?}");
}

/// The same image by way of another address.
fn pinned_at(pinned: &chiton_image::Pinned, address: &str) -> chiton_image::Pinned {
    let text = format!("{address}/app@{}", pinned.digest);
    let reference = chiton_image::Reference::parse(&text, &Policy::default()).unwrap();
    chiton_image::Pinned { reference, ..pinned.clone() }
}

/// An address where connections are taken and nothing is said.
fn unanswered() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn a_pull_that_was_ended_is_taken_up_by_the_next_one() {
    if !present("a_pull_that_was_ended_is_taken_up_by_the_next_one") {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let (registry, world) = (Registry::start(), World::new());
    let made = image(&[(Layer::default().file("one", &noise(6 << 20)), Packing::Plain)], &json!({}));
    registry.put("app", "1", &made);
    let images = world.images();
    let (pinned, _) = images.resolve(&format!("{}/app:1", registry.address), PATIENCE).unwrap();
    let (open, held) = gate();
    let front = Front::start(&registry.address, Manner { hold: Some((5 << 20, held)), ..Manner::default() });
    let cancel = Cancel::default();
    let ended = cancel.clone();
    // The front lets go only when the pull was told to end.
    let error = images
        .ensure(&pinned_at(&pinned, &front.address), &cancel, &move |progress| {
            if matches!(progress, Progress::Fetched { .. }) {
                ended.cancel();
                let _ = open.send(());
            }
        })
        .unwrap_err();
    assert!(matches!(error, ImageError::Cancelled), "{error:?}");
    let partial = crate::common::entries(&world.store().join("partial"));
    let kept = fs::metadata(&partial[0]).unwrap().len();
    assert!(kept >= 4 << 20, "{kept}");
    let (told, news) = channel();
    let told = std::sync::Mutex::new(told);
    images.ensure(&pinned, &Cancel::default(), &|progress| drop(told.lock().unwrap().send(progress))).unwrap();
    assert!(matches!(news.recv().unwrap(), Progress::Fetched { bytes, .. } if bytes >= kept));
    assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
}

fn with_login(world: &World, registry: &str, password: &str) -> Images {
    let file = world.path("password");
    fs::write(&file, format!("{password}\n")).unwrap();
    let credential = Credential { username: "me".to_owned(), password_file: file };
    Images::open(
        &world.store(),
        Policy { credentials: BTreeMap::from([(registry.to_owned(), credential)]), ..policy() },
    )
    .unwrap()
}

#[test]
fn a_closed_registry_opens_to_the_operators_password_and_to_no_other() {
    if !present("a_closed_registry_opens_to_the_operators_password_and_to_no_other") {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let (closed, open) = (Registry::closed(), Registry::start());
    let front = Front::start(&open.address, Manner { token: true, ..Manner::default() });
    for (registry, address) in [(&closed, closed.address.clone()), (&open, front.address.clone())] {
        registry.put("app", "1", &app());
        let reference = format!("{address}/app:1");
        let world = World::new();
        let error = world.images().resolve(&reference, PATIENCE).unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error:?}");
        let error = with_login(&world, &address, "wrong").resolve(&reference, PATIENCE).unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("wrong"), "an error tells the password");
        pull(&with_login(&world, &address, "open sesame"), &reference).unwrap();
    }
    // A token is asked for once and used for the rest.
    assert_eq!(front.count("/token"), 3);
}

#[test]
fn registries_that_the_operator_does_not_name_are_not_asked() {
    let world = World::new();
    let allowed = Policy { registries: Some(BTreeSet::from(["registry.example".to_owned()])), ..policy() };
    let images = Images::open(&world.store(), allowed).unwrap();
    let (listener, address) = unanswered();
    listener.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    let error = images.resolve(&format!("{address}/app:1"), PATIENCE).unwrap_err();
    assert!(matches!(error, ImageError::Refused { .. }), "{error:?}");
    assert!(begin.elapsed() < PATIENCE);
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was asked");
}
