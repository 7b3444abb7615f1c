//! An upload of a file: a path and pieces.

use std::fs;

use bytes::Bytes;
use chiton_agent::fuzzing::write_file;
use tonic::Code;

use super::Target;
use crate::behaviour::{note, note_text};
use crate::check::Cage;

pub(super) const TARGET: Target = Target {
    name: "agent_file",
    about: "file uploads: the path, the mode and the pieces",
    run,
    seeds,
    words: &["/", "..", "../", "./", "//", "file", "new", "\0", "\n", "link", "folder"],
    longest: 5000,
    short: 300,
    memory: (64, 256 << 10),
};

fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 8] = [
        b"\x00\x01new\xffsome text",
        b"\x05\x01file\xfftext",
        b"\x02\x01folder/file\xff",
        b"\x00\x01../beside\xfftext",
        b"\x01\x01folder\xfftext",
        b"\x01\x01link\xfftext",
        b"\x01\x01link/x\xfftext",
        b"\x03\x00new\xfftext",
    ];
    seeds.map(<[u8]>::to_vec).into()
}

fn run(data: &[u8]) {
    let [mode, flags, rest @ ..] = data else { return };
    let (name, content) = rest.split_at(rest.iter().position(|byte| *byte == 0xff).unwrap_or(rest.len()));
    let content = Bytes::copy_from_slice(content.get(1..).unwrap_or_default());
    let (mode, finished) = (u32::from(*mode) * 7, flags & 1 != 0);
    let cage = Cage::new();
    let inside = cage.inside();
    fs::write(inside.join("file"), "old").expect("a file");
    fs::create_dir(inside.join("folder")).expect("a folder");
    std::os::unix::fs::symlink("folder", inside.join("link")).expect("a link");
    let name = String::from_utf8_lossy(name);
    // Only inside: an absolute path may be anywhere, and that is the caller's to choose.
    let path = format!("{}/{name}", inside.display());
    let piece = usize::from(flags >> 4).max(1) * 100;
    let pieces =
        (0..content.len()).step_by(piece).map(|at| content.slice(at..(at + piece).min(content.len()))).collect();
    let result = write_file(&path, mode, pieces, finished);
    cage.closed();
    let found = cage.found();
    match result {
        Ok(size) => {
            note("written");
            assert!(finished, "an upload without its end was taken");
            assert_eq!(size, content.len() as u64);
            assert!(!path.split('/').any(|part| part == ".."), "{path:?} was taken");
            assert_eq!(fs::read(&path).expect("it is there"), content);
        }
        Err(status) => {
            note_text(status.message().split(':').next().unwrap_or_default());
            note(status.code() as i32);
            assert!(!status.message().is_empty() && status.code() != Code::Internal, "{status:?}");
            assert_eq!(found.len(), 3, "something new is there: {found:?}");
            assert_eq!(fs::read(inside.join("file")).expect("it is there"), b"old");
        }
    }
}
