//! What can be shown without engines; `tests/engines.rs` has the rest.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::Archive;

use super::filter::{self, Gone};
use super::image::{self, Busybox};
use super::layout::{Engine, Layout};
use super::{api, user};

fn busybox() -> Busybox {
    let applets = ["bin/sh", "bin/sleep", "usr/bin/env"].map(ToOwned::to_owned).into();
    Busybox { program: b"a program".to_vec(), applets }
}

/// Every entry of an archive: kind and mode, owner, link, content.
fn entries(bytes: &[u8]) -> BTreeMap<String, (String, u64, Option<String>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(header.mtime().unwrap(), 0);
        let mode = format!("{:?} {:o}", header.entry_type(), header.mode().unwrap());
        let owner = header.uid().unwrap();
        let link = entry.link_name().unwrap().map(|link| link.display().to_string());
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert!(found.insert(path, (mode, owner, link, content)).is_none(), "a path twice");
    }
    found
}

#[test]
fn the_image_is_read_back_as_it_was_meant() {
    let image = image::archive(&busybox(), image::APP, Some("app")).unwrap();
    let outer = entries(&image.bytes);
    let manifest: Value = serde_json::from_slice(&outer["manifest.json"].3).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!([image::APP]));
    let config = &outer[manifest[0]["Config"].as_str().unwrap()].3;
    assert_eq!(image.id, format!("sha256:{}", hex::encode(Sha256::digest(config))));
    let layer = &outer[manifest[0]["Layers"][0].as_str().unwrap()].3;
    let config: Value = serde_json::from_slice(config).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", hex::encode(Sha256::digest(layer)))]));
    let says = &config["config"];
    assert_eq!(says["User"], "app");
    assert_eq!(says["WorkingDir"], "/work");
    assert_eq!(says["Volumes"], json!({ "/cache": {} }));
    assert_eq!(says["Cmd"], json!(["sleep", "infinity"]));
    assert!(says["Env"].as_array().unwrap().contains(&json!("IMAGE_SAYS=from the image")));

    let layer = entries(layer);
    let kind = |path: &str| (layer[path].0.as_str(), layer[path].1);
    assert_eq!(kind("tmp/"), ("Directory 1777", 0));
    assert_eq!(kind("work/"), ("Directory 755", 1000));
    assert_eq!(kind("cache/"), ("Directory 777", 0));
    assert_eq!(kind("bin/busybox"), ("Regular 755", 0));
    assert_eq!(layer["bin/busybox"].3, b"a program");
    assert_eq!(layer["usr/bin/env"].2.as_deref(), Some("/bin/busybox"));
    let passwd = String::from_utf8(layer["etc/passwd"].3.clone()).unwrap();
    assert!(passwd.contains("root:x:0:0:") && passwd.contains("app:x:1000:1000:"), "{passwd}");
}

#[test]
fn the_image_for_root_names_no_user_and_has_the_same_files() {
    let [root, app] = [(image::ROOT, None), (image::APP, Some("app"))]
        .map(|(reference, user)| entries(&image::archive(&busybox(), reference, user).unwrap().bytes));
    let manifest: Value = serde_json::from_slice(&root["manifest.json"].3).unwrap();
    let config: Value = serde_json::from_slice(&root[manifest[0]["Config"].as_str().unwrap()].3).unwrap();
    assert!(config["config"].get("User").is_none(), "{config}");
    let layer = manifest[0]["Layers"][0].as_str().unwrap();
    assert!(root[layer].3 == app[layer].3);
}

#[test]
fn the_image_has_the_same_bytes_each_time() {
    let digest = || {
        let image = image::archive(&Busybox::of_this_machine().unwrap(), image::ROOT, None).unwrap();
        (hex::encode(Sha256::digest(image.bytes)), image.id)
    };
    assert_eq!(digest(), digest());
}

#[test]
fn answers_are_read_whole_and_in_pieces() {
    let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
    assert_eq!(api::parse(plain), Some((200, b"OK".to_vec())));
    let pieces =
        b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
    assert_eq!(api::parse(pieces), Some((404, b"abc0123456789".to_vec())));
    for broken in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort"] {
        assert_eq!(api::parse(broken.as_bytes()), None, "{broken:?}");
    }
}

/// Rules as they are when both engines have made theirs beside somebody else's.
const RULES: &str = "*filter
:FORWARD DROP [1:2]
:DOCKER - [0:0]
:NETAVARK_FORWARD - [0:0]
:MINE - [0:0]
-A FORWARD -m comment --comment \"netavark firewall plugin rules\" -j NETAVARK_FORWARD
-A FORWARD -i cedabc ! -o cedabc -j ACCEPT
-A FORWARD -i eth0 -j MINE
-A MINE -s 10.9.0.0/24 -j DROP
-A MINE -s 10.99.0.0/24 -j DROP
-A DOCKER -d 10.9.0.2/32 -j ACCEPT
COMMIT
";

fn gone(docker: bool, podman: bool) -> String {
    let lines = filter::parse("iptables", RULES);
    Gone { docker, podman, ours: vec!["cedabc".to_owned()], network: "10.9.".to_owned() }
        .orders(&lines.iter().collect::<Vec<_>>())
}

#[test]
fn what_engines_added_to_the_packet_filter_is_taken_away_and_nothing_else() {
    assert_eq!(
        gone(true, true),
        "*filter
-P FORWARD ACCEPT
-D FORWARD -m comment --comment \"netavark firewall plugin rules\" -j NETAVARK_FORWARD
-D FORWARD -i cedabc ! -o cedabc -j ACCEPT
-D MINE -s 10.9.0.0/24 -j DROP
-F DOCKER
-F NETAVARK_FORWARD
-X DOCKER
-X NETAVARK_FORWARD
COMMIT
"
    );
}

#[test]
fn chains_that_another_engine_uses_stay_without_this_sets_rules() {
    assert_eq!(
        gone(false, false),
        "*filter
-D FORWARD -i cedabc ! -o cedabc -j ACCEPT
-D MINE -s 10.9.0.0/24 -j DROP
-D DOCKER -d 10.9.0.2/32 -j ACCEPT
COMMIT
"
    );
}

#[test]
fn folders_that_cannot_hold_engines_are_refused() {
    let refusal = |home: &str| Layout::new(Some(home.into())).unwrap_err();
    assert!(refusal(&format!("/{}", "x".repeat(100))).contains("107 is the most"));
    assert!(refusal("/run/engines").contains("choose another --dir"));
    assert!(refusal("/var/lib/engines").contains("choose another --dir"));
    assert!(refusal("/srv/two words").contains("without blanks"));
}

#[test]
fn sets_share_no_name() {
    let [one, other] = ["/srv/one", "/srv/other"].map(|home| Layout::new(Some(home.into())).unwrap());
    for engine in Engine::ALL {
        assert_ne!(one.socket(engine), other.socket(engine));
        assert_ne!(one.bridge(engine), other.bridge(engine));
        assert!(one.bridge(engine).len() <= 15);
    }
    assert_ne!(one.user(), other.user());
    assert_ne!(one.cgroup(), other.cgroup());
    assert!(one.is_named_in("podman --root /srv/one/podman/root"));
    assert!(!other.is_named_in("podman --root /srv/other-than/podman/root"));
}

#[test]
fn ids_are_granted_that_nobody_has() {
    assert_eq!(user::free(""), Some(3_100_000_000));
    let taken = "a:100000:65536\nb:3100000000:65536\nbroken\nc:3100100000:1\n";
    assert_eq!(user::free(taken), Some(3_100_131_072));
    assert_eq!(user::granted(taken, "b"), Some(3_100_000_000..=3_100_065_535));
    assert_eq!(user::granted(taken, "broken"), None);
    assert_eq!(user::free("all:0:4294967295\n"), None);
}
