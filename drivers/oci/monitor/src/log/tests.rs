use std::fs;

use super::{CURRENT, FOLDER, OLDER, Parsed, Writer, parse};

fn records(bytes: &[u8]) -> Vec<(bool, bool, Vec<u8>)> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Parsed::Record(record, taken) = parse(rest) {
        found.push((record.stderr, record.full, record.data.to_vec()));
        rest = &rest[taken..];
    }
    assert!(rest.is_empty(), "left over: {:?}", String::from_utf8_lossy(rest));
    found
}

#[test]
fn what_is_written_is_read_back_whatever_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), 1 << 20).unwrap();
    writer.write(false, b"one\ntwo \xff\x00\nprompt> ").unwrap();
    writer.write(true, b"\n").unwrap();
    let bytes = fs::read(dir.path().join(FOLDER).join(CURRENT)).unwrap();
    assert_eq!(
        records(&bytes),
        [
            (false, true, b"one".to_vec()),
            (false, true, b"two \xff\x00".to_vec()),
            (false, false, b"prompt> ".to_vec()),
            (true, true, Vec::new()),
        ]
    );
}

#[test]
fn a_full_file_becomes_the_older_one_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), 100).unwrap();
    for letter in [b'a', b'b', b'c'] {
        writer.write(false, &[letter; 70]).unwrap();
    }
    let folder = dir.path().join(FOLDER);
    assert_eq!(records(&fs::read(folder.join(CURRENT)).unwrap()), [(false, false, vec![b'c'; 70])]);
    assert_eq!(records(&fs::read(folder.join(OLDER)).unwrap()), [(false, false, vec![b'b'; 70])]);
}

#[test]
fn a_half_written_record_is_incomplete_and_garbage_is_corrupt() {
    assert_eq!(parse(b"123 o F 5 hel"), Parsed::Incomplete);
    assert_eq!(parse(b"123 o F 5 hello"), Parsed::Incomplete);
    assert_eq!(parse(b"123 x F 5 hello\n"), Parsed::Corrupt);
    assert_eq!(parse(b"123 o F 4 hello\n"), Parsed::Corrupt);
}

#[test]
fn a_damaged_length_does_not_hold_back_what_follows() {
    assert_eq!(parse(b"1 o F 99999999999 lost\n2 o F 5 found\n"), Parsed::Corrupt);
    assert_eq!(parse(b"1 o F 16385 "), Parsed::Corrupt);
    assert_eq!(parse(b"1 o F 16384 "), Parsed::Incomplete);
}

#[test]
fn numbers_are_read_only_as_they_are_written() {
    for line in [&b"+1 o F 1 x\n"[..], b"01 o F 1 x\n", b"1 o F 01 x\n", b"1 o F +1 x\n"] {
        assert_eq!(parse(line), Parsed::Corrupt, "{}", String::from_utf8_lossy(line));
    }
}
