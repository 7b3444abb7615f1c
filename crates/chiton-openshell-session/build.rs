//! Compiles the protocol files with a pure-Rust compiler, so that a fresh machine needs no `protoc`.

use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked for now and not when this script was compiled: checkouts that share a target folder share the script.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    for file in ["openshell/v1/supervisor.proto", "openshell/sandbox/v1/config.proto"] {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(["openshell/v1/supervisor.proto"], [&root])?;
    let out = std::env::var("OUT_DIR")?;
    // A test compares them with what is known of the public contract.
    std::fs::write(Path::new(&out).join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".openshell.v1.RelayFrame").compile_fds(descriptors)?;
    Ok(())
}
