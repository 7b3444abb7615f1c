//! Archives to begin with, and their checksums.

use tar::{Builder, EntryType, Header};

/// One entry; names and links may be what no archiver would write.
pub(super) fn entry(kind: EntryType, name: &[u8], link: &[u8], mode: u32, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    let put = |field: &mut [u8], text: &[u8]| {
        let length = text.len().min(field.len());
        field[..length].copy_from_slice(&text[..length]);
    };
    let old = header.as_old_mut();
    put(&mut old.name, name);
    put(&mut old.linkname, link);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..rest + 8).find(|length| length.to_string().len() + rest == *length).unwrap_or(rest);
        data.extend(format!("{length} {key}={value}\n").bytes());
    }
    entry(EntryType::XHeader, b"pax", b"", 0o644, &data)
}

fn sparse(size: u64, at: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = entry(EntryType::GNUSparse, b"sparse", b"", 0o644, data);
    let mut header = Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&bytes[..512]);
    if let Some(gnu) = header.as_gnu_mut() {
        let octal =
            |field: &mut [u8; 12], number: u64| field[..11].copy_from_slice(format!("{number:011o}").as_bytes());
        octal(&mut gnu.sparse[0].offset, at);
        octal(&mut gnu.sparse[0].numbytes, data.len() as u64);
        octal(&mut gnu.realsize, size);
    }
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    bytes
}

/// Archives with entries of each kind, sound ones and such as try to get out.
pub(super) fn archives() -> Vec<Vec<u8>> {
    use EntryType as T;
    let file = |name: &str| entry(T::Regular, name.as_bytes(), b"", 0o644, b"text");
    let folder = |name: &str| entry(T::Directory, name.as_bytes(), b"", 0o755, b"");
    let link = |name: &str, to: &str| entry(T::Symlink, name.as_bytes(), to.as_bytes(), 0o777, b"");
    let hard = |name: &str, to: &str| entry(T::Link, name.as_bytes(), to.as_bytes(), 0o644, b"");
    let long = "n".repeat(180);
    let mut built = Builder::new(Vec::new());
    for name in ["top/a".to_owned(), format!("top/{long}/{long}")] {
        let mut header = Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o600);
        // Writing to memory does not fail.
        drop(built.append_data(&mut header, name, &b"text"[..]));
    }
    let built = built.into_inner().unwrap_or_default();
    vec![
        [folder("top"), file("top/a"), folder("top/b"), file("top/b/c"), link("top/l", "b/c"), hard("top/h", "top/a")]
            .concat(),
        [folder("top"), link("top/up", ".."), file("top/up/../x"), file("top/up/y")].concat(),
        [folder("d"), folder("d/e"), link("d/e/up", "../.."), link("x", "d/e/up/.."), file("x/beside")].concat(),
        [
            folder("top"),
            folder("top/a"),
            folder("top/a/b"),
            link("top/a/b/s", "../.."),
            link("top/a/b/s/l", "../../.."),
        ]
        .concat(),
        [link("top", "/etc"), file("top/passwd")].concat(),
        [link("top", "../folder"), file("top/secret")].concat(),
        [hard("top", "../beside"), file("top")].concat(),
        [link("a", "../beside"), hard("b", "a"), file("b")].concat(),
        [file("../beside"), file("/beside"), file("a/../../beside")].concat(),
        [entry(T::Regular, b"top", b"", 0o6755, b"x"), entry(T::Directory, b"top", b"", 0o7777, b"")].concat(),
        [entry(T::Char, b"top/null", b"", 0o666, b""), entry(T::Fifo, b"top/pipe", b"", 0o666, b"")].concat(),
        [entry(T::Directory, b"top", b"", 0o000, b"contents of a folder"), file("top/in")].concat(),
        [pax(&[("path", "top/from-pax"), ("linkpath", "x"), ("size", "3"), ("mtime", "1.5")]), file("top")].concat(),
        [entry(T::XGlobalHeader, b"g", b"", 0o644, b"12 path=top\n"), file("top/g")].concat(),
        [entry(T::GNULongName, b"././@LongLink", b"", 0o644, &[b'x'; 6000]), file("top")].concat(),
        [entry(T::GNULongLink, b"././@LongLink", b"", 0o644, b"../beside\0"), link("top", "x")].concat(),
        [sparse(4096, 1024, b"some data in a sparse file"), file("top")].concat(),
        sparse(1 << 32, 1 << 31, b"x"),
        [entry(T::new(b'V'), b"label", b"", 0o644, b""), file("top")].concat(),
        built,
        Vec::new(),
    ]
}

/// Makes the checksums of all headers that can be found right, as whoever writes a hostile archive would.
pub(super) fn repair(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + 512) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if block.iter().any(|byte| *byte != 0) {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        let Some(next) = size.checked_next_multiple_of(512).and_then(|size| at.checked_add(512)?.checked_add(size))
        else {
            return;
        };
        at = next;
    }
}

/// Names that lead somewhere.
pub(super) const WORDS: &[&str] = &[
    "..",
    "../",
    "/",
    "./",
    "top/",
    "top",
    "../beside",
    "../folder",
    "d/e",
    "ustar",
    "00000000777\0",
    "path=",
    "size=",
    "L",
    "K",
    "x",
    "1",
    "2",
    "5",
    "S",
    "\0",
];
