//! The engine does no I/O, and no crate that could is below it.

use std::process::Command;

/// Runtimes, networks, databases, and what they stand on.
const BANNED: [&str; 20] = [
    "tokio",
    "async-std",
    "smol",
    "async-io",
    "mio",
    "polling",
    "socket2",
    "rustix",
    "nix",
    "hyper",
    "tonic",
    "axum",
    "tower",
    "reqwest",
    "rusqlite",
    "libsqlite3-sys",
    "sqlx",
    "libcontainer",
    "bollard",
    "kube",
];

#[test]
fn no_io_crate_is_among_the_dependencies() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "chiton-lifecycle",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"chiton-model") && names.contains(&"futures"), "not a dependency tree: {tree}");
    let found: Vec<&&str> = names.iter().filter(|name| BANNED.contains(name)).collect();
    assert!(found.is_empty(), "I/O crates below the engine: {found:?}\n{tree}");
}
