//! Compiles the protocol file with a pure-Rust compiler, so that a fresh machine needs no `protoc`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked for now and not when this script was compiled: checkouts that share a target folder share the script.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let file = "chiton/v1/extension.proto";
    println!("cargo::rerun-if-changed={}", root.join(file).display());
    tonic_prost_build::configure().compile_fds(protox::compile([file], [&root])?)?;
    Ok(())
}
