//! Compiles the protocol files with a pure-Rust compiler, so that a fresh machine needs no `protoc`.

use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked for now and not when this script was compiled: checkouts that share a target folder share the script.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = ["chiton/agent/v1/agent.proto", "chiton/v1/gateway.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(files, [&root])?;
    // Server reflection serves this file as it is.
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), descriptors.encode_to_vec())?;
    // The agent's protocol is a crate of its own, which the agent can build without this one; here only its descriptor.
    tonic_prost_build::configure()
        .extern_path(".chiton.agent.v1", "::chiton_agent_proto::v1")
        .compile_fds(descriptors)?;
    Ok(())
}
