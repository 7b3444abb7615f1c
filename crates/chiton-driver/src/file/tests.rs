use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn a_file_is_replaced_whole_and_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deeper").join("said.json");
    // What a crash left half-written is in nobody's way.
    fs::create_dir(folder.path().join("deeper")).unwrap();
    fs::write(folder.path().join("deeper/said.json.new"), "half of a longer o").unwrap();
    replace_file(&path, b"one").unwrap();
    replace_file(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
}

#[test]
fn what_cannot_be_replaced_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("said.json");
    replace_file(&path, b"one").unwrap();
    fs::create_dir(folder.path().join("said.json.new")).unwrap();
    replace_file(&path, b"two").unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"one");
}
