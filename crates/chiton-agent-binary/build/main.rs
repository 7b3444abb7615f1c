//! Builds the agent statically with a cargo of its own and hands it to the crate.
//!
//! A nested cargo, because flags for a static binary (`+crt-static`) must reach only the agent, and only for a target that
//! is named: else they would break the procedural macros of the same build. Its target folder is its own, inside `OUT_DIR`,
//! because it would wait for ever on the lock of the outer one.
#![forbid(unsafe_code)]

mod explain;

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest as _, Sha256};

/// The profile of the root manifest.
const PROFILE: &str = "agent";
/// A position-dependent binary is a few pages smaller in memory for each sandbox: there is nothing to relocate at start.
const FLAGS: &str = "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static";
/// What cargo tells this script about this script's own build, or an operator about the outer one.
const FOREIGN: [&str; 15] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
    "CLIPPY_",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; run this by cargo")?);
    // Asked for now and not when this script was compiled: checkouts that share a target folder share the script.
    let own =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set; run this by cargo")?);
    let root = own.join("../..").canonicalize()?;
    let triple = env::var("TARGET")?;
    let target = out.join("agent-target");

    // Without the network first: the outer build has fetched nearly everything, and a machine may have none.
    let mut built = cargo(&root, &triple, &target, true)?;
    if !built.status.success() && explain::needs_network(&String::from_utf8_lossy(&built.stderr)) {
        built = cargo(&root, &triple, &target, false)?;
    }
    if !built.status.success() {
        return Err(explain::failure(&triple, &String::from_utf8_lossy(&built.stderr)).into());
    }

    let folder = target.join(&triple).join(PROFILE);
    let bytes = std::fs::read(folder.join("chiton-agent"))?;
    std::fs::write(out.join("chiton-agent"), &bytes)?;
    println!("cargo::rustc-env=CHITON_AGENT_SHA256={}", hex::encode(Sha256::digest(&bytes)));
    for source in sources(&root, &own, &folder.join("chiton-agent.d"))? {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    Ok(())
}

fn cargo(root: &Path, triple: &str, target: &Path, offline: bool) -> Result<Output, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        // An operator's choice of linker for this target holds for the agent, too.
        let linker = text.starts_with("CARGO_TARGET_") && text.ends_with("_LINKER");
        if !linker && FOREIGN.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(root)
        .args(["build", "--package", "chiton-agent", "--bin", "chiton-agent", "--locked", "--profile", PROFILE])
        .args(["--target", triple, "--target-dir"])
        .arg(target)
        .args(offline.then_some("--offline"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS);
    Ok(command.output()?)
}

/// All files that made the agent, as the compiler noted them, and the manifests beside them.
fn sources(root: &Path, own: &Path, notes: &Path) -> Result<BTreeSet<PathBuf>, Box<dyn Error>> {
    let notes = std::fs::read_to_string(notes)?;
    let (_, files) = notes.split_once(": ").ok_or("the compiler's list of sources is empty")?;
    let mut sources = BTreeSet::from([root.join("Cargo.toml"), root.join("Cargo.lock")]);
    // Spaces inside a name are escaped.
    for file in files.trim().replace("\\ ", "\0").split(' ') {
        let file = PathBuf::from(file.replace('\0', " "));
        let manifest = file.ancestors().skip(1).map(|folder| folder.join("Cargo.toml")).find(|path| path.is_file());
        sources.extend(manifest);
        sources.insert(file);
    }
    sources.insert(own.join("build"));
    Ok(sources)
}
