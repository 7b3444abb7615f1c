//! A secret and the agent's token are where they are needed and nowhere else.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use chiton_tests::engines::Engine;
use sha2::{Digest as _, Sha256};

use super::{Scene, id, on_each};

on_each!(a_secret_and_the_agents_token_reach_programs_and_nobody_who_looks);

const REST: &str = r#"
[secrets.api]
file = "{folder}/secret"
allow = { workspaces = ["default"] }
[log]
level = "trace"
"#;
const VALUE: &str = "a-value-that-stands-nowhere-else-on-the-machine";

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Files below a folder that hold a text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(holding(&entry.path(), text));
        } else if kind.is_file() && fs::read(entry.path()).is_ok_and(|bytes| has(&bytes, text)) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

/// The agent's token, from the only place that has it besides the gateway: the agent's own memory. It is 64 hexadecimal
/// digits, and the store has its hash.
fn token(gateway: &Scene<'_>, pid: i32) -> Option<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (begin, end) = line.split(' ').next()?.split_once('-')?;
        let (begin, end) = (u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let mut bytes = vec![0; usize::try_from(end - begin).ok()?];
        let Ok(length) = memory.read_at(&mut bytes, begin) else { continue };
        let text = String::from_utf8_lossy(&bytes[..length]);
        let words = text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() >= 64);
        // Other digits may stand beside it.
        for word in words.flat_map(|word| (0..=word.len() - 64).map(move |at| &word[at..at + 64])) {
            let hash = hex::encode(Sha256::digest(word.as_bytes()));
            if !holding(&gateway.path("data/store"), &hash).is_empty() {
                return Some(word.to_owned());
            }
        }
    }
    None
}

fn a_secret_and_the_agents_token_reach_programs_and_nobody_who_looks(engine: &Engine) {
    let gateway = Scene::new(engine, "", REST);
    fs::write(gateway.path("secret"), format!("{VALUE}\n")).expect("a secret");
    let request = ["box", "--secret", "TOKEN=api", "--", "sh", "-c", "echo main has ${#TOKEN}; exec sleep 600"];
    let plan = gateway.chiton(&[&["plan"], &request[..]].concat()).ok();
    gateway.chiton(&[&["sandbox", "create"], &request[..]].concat()).ok();
    assert_eq!(gateway.shell("box", "echo $TOKEN").ok(), format!("{VALUE}\n"));
    let sandbox = gateway.get("box");
    let id = id(&sandbox).to_owned();
    let look = || {
        let name = format!("chiton-{id}");
        let output = engine.tool().args(["inspect", &name]).output().expect("the engine's program");
        assert!(output.status.success(), "{output:?}");
        let raw = engine.container(&id).expect("a container").to_string();
        let pid = engine.pid(&id);
        let inside = gateway.shell("box", "cat /proc/1/environ /proc/1/cmdline /run/chiton/* 2>/dev/null; true").ok();
        let outside = ["environ", "cmdline"].map(|name| {
            String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{name}")).expect("a process")).into_owned()
        });
        [String::from_utf8_lossy(&output.stdout).into_owned(), raw, inside, outside.concat()].join("\n")
    };
    // The first life and a second one, each with a token of its own.
    let mut seen = vec![plan, look()];
    let first = token(&gateway, engine.pid(&id)).expect("the agent has a token");
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    assert_eq!(gateway.shell("box", "echo $TOKEN").ok(), format!("{VALUE}\n"), "a later start has it too");
    seen.push(look());
    let second = token(&gateway, engine.pid(&id)).expect("the agent has a token");
    for arguments in [&["explain", "box"][..], &["sandbox", "get", "box", "--json"], &["sandbox", "logs", "box"]] {
        let output = gateway.chiton(arguments);
        seen.push(output.stdout + &output.stderr);
    }
    assert!(seen.last().is_some_and(|logs| logs.contains(&format!("main has {}", VALUE.len()))), "{seen:?}");
    seen.push(gateway.said());
    let home = std::env::var("ENGINES_DIR").map(|home| Path::new(&home).join(engine.kind.name()));
    let tokens = [first, second];
    for text in [VALUE].into_iter().chain(tokens.iter().map(String::as_str)) {
        for seen in &seen {
            assert!(!has(seen.as_bytes(), text), "{text} is in {seen}");
        }
        // The store, the mark log, the driver's records are all below the gateway's folder.
        let allowed: Vec<String> =
            if text == VALUE { vec![gateway.path("secret").display().to_string()] } else { Vec::new() };
        assert_eq!(holding(gateway.folder(), text), allowed);
        // And what the engine wrote: its log, its records of the container, the container's log and own files.
        if let Ok(home) = &home {
            for part in ["log", "data/containers", "exec", "root/overlay-containers", "root/libpod", "run"] {
                let path = home.join(part);
                let found = holding(&path, text);
                let in_file = path.is_file() && fs::read(&path).is_ok_and(|bytes| has(&bytes, text));
                assert!(found.is_empty() && !in_file, "{text} below {}: {found:?}", path.display());
            }
        }
    }
}
