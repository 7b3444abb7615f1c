//! The folder that cargo-fuzz reads.

use std::collections::BTreeSet;
use std::path::Path;

use chiton_fuzz::TARGETS;

#[test]
fn cargo_fuzz_has_every_target_and_no_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cargo-fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    let listed: BTreeSet<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    assert_eq!(listed, names);
    for name in names {
        let file = folder.join("fuzz_targets").join(format!("{name}.rs"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text.contains(&format!("run_named({name:?}, data)")), "{} runs another", file.display());
    }
}
