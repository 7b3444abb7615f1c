//! A process that is killed while it unpacks leaves nothing that anybody sees.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use chiton_image::{Cancel, Images, Progress};
use serde_json::json;

use crate::build::{Layer, Packing, image};
use crate::common::{PATIENCE, World, policy, pull};

/// Set in the process that is to be killed.
const STORE: &str = "IMAGE_TEST_STORE";

#[test]
fn a_kill_during_the_unpacking_leaves_nothing_visible_and_the_next_pull_succeeds() {
    let world = World::new();
    let many = (0..3000).fold(Layer::default(), |layer, index| layer.file(&format!("d/f{index}"), &[1; 2000]));
    let layers = [(Layer::default().file("first", b"1"), Packing::Plain), (many, Packing::Plain)];
    let layout = image(&layers, &json!({})).layout(&world.path("layout"), "1");
    let mut seen = 0;
    for _ in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::unpacks_until_it_is_killed", "--exact", "--nocapture", "--include-ignored"])
            .env(STORE, world.store())
            .env("IMAGE_TEST_LAYOUT", &layout)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let began = output.lines().map_while(Result::ok).any(|line| line.ends_with("FIRST"));
        assert!(began, "the process did not begin");
        // Now it unpacks the second layer.
        let tmp = world.store().join("tmp");
        while crate::common::entries(&tmp).is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let left = crate::common::entries(&tmp).len();
        seen += left;
        let whole = world.layers().len();
        let images = world.images();
        assert_eq!(
            images.list().unwrap().len(),
            usize::from(whole == 2 && left == 0 && !images.list().unwrap().is_empty())
        );
        assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new(), "the next to open the store sweeps");
        for layer in world.layers() {
            assert!(layer.join("layer.json").exists(), "a half layer has a name");
            std::fs::remove_dir_all(layer).unwrap();
        }
    }
    assert!(seen > 0, "no kill came while something was unpacked");
    let images = world.images();
    let pinned = pull(&images, &format!("oci:{}", layout.display())).unwrap();
    let folders = images.layers(&pinned.chains()).unwrap();
    assert_eq!(std::fs::read_dir(folders[1].join("d")).unwrap().count(), 3000);
}

#[test]
fn unpacks_until_it_is_killed() {
    // By itself it has nothing to do: the test above runs it in a process of its own.
    let (Some(store), Some(layout)) = (std::env::var_os(STORE), std::env::var_os("IMAGE_TEST_LAYOUT")) else { return };
    let images = Images::open(store.as_ref(), policy()).unwrap();
    let (pinned, _) = images.resolve(&format!("oci:{}", layout.to_str().unwrap()), PATIENCE).unwrap();
    images
        .ensure(&pinned, &Cancel::default(), &|progress| {
            if matches!(progress, Progress::Unpacked { layers: 1, .. }) {
                println!("FIRST");
            }
        })
        .unwrap();
}
