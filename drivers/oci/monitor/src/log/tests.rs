use std::fs;

use super::{CURRENT, FOLDER, OLDER, Parsed, Writer, parse};

fn records(bytes: &[u8]) -> Vec<(bool, bool, Vec<u8>)> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Parsed::Record(record, taken) = parse(rest) {
        if record.position.is_none() {
            found.push((record.stderr, record.full, record.data.to_vec()));
        }
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
    assert_eq!(parse(b"123 p F 5 hello\n"), Parsed::Corrupt);
    assert_eq!(parse(b"123 p P 1 5\n"), Parsed::Corrupt);
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

/// All positions in a file, with what the records before each would make of it.
fn positions(bytes: &[u8]) -> Vec<(u64, u64)> {
    let (mut rest, mut position, mut found) = (bytes, 0, Vec::new());
    while let Parsed::Record(record, taken) = parse(rest) {
        if let Some(told) = record.position {
            found.push((told, position));
        }
        position = record.after(position);
        rest = &rest[taken..];
    }
    found
}

#[test]
fn every_file_says_how_much_output_came_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), 300).unwrap();
    for _ in 0..20 {
        writer.write(false, b"a line of output\nand a part").unwrap();
    }
    let folder = dir.path().join(FOLDER);
    let [older, current] = [OLDER, CURRENT].map(|name| fs::read(folder.join(name)).unwrap());
    let (older_begin, _) = positions(&older)[0];
    let (begin, _) = positions(&current)[0];
    let bytes = |file: &[u8]| {
        let bytes: usize = records(file).iter().map(|(_, full, data)| data.len() + usize::from(*full)).sum();
        u64::try_from(bytes).unwrap()
    };
    assert_eq!(begin, older_begin + bytes(&older));
    assert_eq!(begin + bytes(&current), 20 * 27, "all that was written was counted");
    drop(writer);
    let mut again = Writer::open(dir.path(), 300).unwrap();
    again.write(true, b"more").unwrap();
    let current = fs::read(folder.join(CURRENT)).unwrap();
    let (told, found) = *positions(&current).last().unwrap();
    assert_eq!((told, found), (20 * 27, 20 * 27), "the next writer goes on counting");
}

#[test]
fn output_of_nothing_but_newlines_stays_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), 4096).unwrap();
    for _ in 0..10 {
        writer.write(false, &[b'\n'; 16 * 1024]).unwrap();
    }
    for name in [CURRENT, OLDER] {
        let size = fs::metadata(dir.path().join(FOLDER).join(name)).unwrap().len();
        assert!(size <= 4096, "{name} has {size} bytes");
    }
}

#[test]
fn a_record_that_was_not_finished_does_not_swallow_the_next() {
    let dir = tempfile::tempdir().unwrap();
    Writer::open(dir.path(), 4096).unwrap().write(false, b"whole\n").unwrap();
    let path = dir.path().join(FOLDER).join(CURRENT);
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(b"17 o F 20 tor");
    fs::write(&path, torn).unwrap();
    Writer::open(dir.path(), 4096).unwrap().write(false, b"next\n").unwrap();
    let found = records(&fs::read(&path).unwrap());
    assert_eq!(found, [(false, true, b"whole".to_vec()), (false, true, b"next".to_vec())]);
}
