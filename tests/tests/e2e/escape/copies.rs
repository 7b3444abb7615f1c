//! Races with whoever copies files in and out.

use std::fs;
use std::os::unix::fs::symlink;

use super::liar::secrets;
use super::scene::CANARY;
use super::{PROGRAM, Scene};
use crate::harness::user::By;

/// What the sandbox has at the path of the host's file.
const DECOY: &str = "the sandbox's own words\n";

fn a_folder_that_becomes_a_link_while_it_is_copied_leads_to_nothing_of_the_hosts(by: By) {
    let scene = Scene::new(by);
    let gateway = &scene.gateway;
    let outside = scene.outside().display().to_string();
    // The same path exists in the sandbox, with other words: whoever follows a link resolves it there.
    gateway.shell("box", &format!("mkdir -p {outside} && printf %s {DECOY:?} > {outside}/canary")).ok();
    let swap = format!(
        "mkdir -p /workspace/tree/inner && echo plain > /workspace/tree/inner/canary && \
         (setsid {PROGRAM} swap=/workspace/tree/inner,{outside} </dev/null >/dev/null 2>&1 &)"
    );
    gateway.shell("box", &swap).ok();
    fs::create_dir_all(gateway.path("in/inner")).expect("a folder");
    fs::write(gateway.path("in/inner/canary"), "from the host\n").expect("a file");
    let (mut decoys, mut plain) = (0, 0);
    for turn in 0..24 {
        let out = gateway.path(&format!("out-{turn}"));
        let to = out.to_str().expect("a path");
        // May be refused: what was looked at is something else when it is read.
        let copied = gateway.chiton(&["sandbox", "cp", "box:/workspace/tree/inner/canary", to]);
        if copied.code == 0 {
            match fs::read_to_string(&out).expect("a file").as_str() {
                "plain\n" | "from the host\n" => plain += 1,
                text => {
                    assert_ne!(text, CANARY, "the host's file was read");
                    decoys += 1;
                }
            }
        }
        let folder = gateway.path(&format!("tree-{turn}"));
        gateway.chiton(&["sandbox", "cp", "box:/workspace/tree", folder.to_str().expect("a path")]);
        let inner = fs::read_to_string(folder.join("inner/canary")).unwrap_or_default();
        assert!(inner != CANARY || folder.join("inner").is_symlink(), "the host's file was read");
        gateway.chiton(&["sandbox", "cp", "in/inner/canary", "box:/workspace/tree/inner/canary"]);
        gateway.chiton(&["sandbox", "cp", "in/inner", "box:/workspace/tree"]);
        scene.unharmed();
    }
    assert!(decoys + plain > 0, "no copy was made, so nothing was tried");
    // The same link on the host leads to the host's file: by it alone it could have been read.
    symlink(scene.outside(), gateway.path("link")).expect("a link");
    assert_eq!(fs::read_to_string(gateway.path("link/canary")).expect("a file"), CANARY);
}

fn a_link_in_a_sandbox_is_followed_there_and_gives_away_no_token(by: By) {
    let scene = Scene::new(by);
    let gateway = &scene.gateway;
    let (token, _) = secrets(&scene, "box");
    let canary = scene.canary().display().to_string();
    gateway.shell("box", &format!("cd /workspace && ln -s {canary} host && ln -s /proc/self/environ self && ln -s /proc/1/environ init && ln -s /proc/1/root{canary} root && ln -s /proc/1/mem memory && ln -s /run/chiton/agent.sock socket")).ok();
    for name in ["host", "self", "init", "root", "memory", "socket"] {
        let copied = gateway.chiton(&["sandbox", "cp", &format!("box:/workspace/{name}"), &format!("copy-{name}")]);
        let bytes = fs::read(gateway.path(&format!("copy-{name}"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(&token), "{name} gave the token away");
        assert!(!text.contains(CANARY.trim()), "{name} led to the host: {copied:?}");
    }
    // Into the sandbox through the same links: nothing of the host is written, and the agent goes on.
    fs::write(gateway.path("words"), "written").expect("a file");
    for name in ["host", "root", "memory", "socket", "init"] {
        gateway.chiton(&["sandbox", "cp", "words", &format!("box:/workspace/{name}")]);
    }
    assert_eq!(gateway.shell("box", "echo here").ok(), "here\n");
    scene.unharmed();
}

by_both!(
    a_folder_that_becomes_a_link_while_it_is_copied_leads_to_nothing_of_the_hosts,
    a_link_in_a_sandbox_is_followed_there_and_gives_away_no_token,
);
