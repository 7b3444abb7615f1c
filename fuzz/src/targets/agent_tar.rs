//! An upload of a folder: a tar stream that the agent unpacks inside a sandbox.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;
use chiton_agent::fuzzing::unpack;
use tonic::Code;

use super::{Target, tars};
use crate::behaviour::{note, note_text};
use crate::check::Cage;

pub(super) const TARGET: Target = Target {
    name: "agent_tar",
    about: "tar uploads as the agent unpacks them",
    run,
    seeds,
    words: tars::WORDS,
    longest: 32 << 10,
    short: 700,
    // The bound on headers, twice while a buffer grows, and the copy buffer.
    memory: (6, 1 << 20),
};

/// What a sparse file may expand to here.
const SPARSE: u64 = 1 << 20;

fn seeds() -> Vec<Vec<u8>> {
    let flags = [0b0000_0101, 0b0000_0111, 0b0001_0101];
    tars::archives()
        .into_iter()
        .zip(flags.into_iter().cycle())
        .map(|(archive, flag)| [vec![flag], archive].concat())
        .collect()
}

fn run(data: &[u8]) {
    let Some((flags, archive)) = data.split_first() else { return };
    let mut archive = archive.to_vec();
    if flags & 1 != 0 {
        tars::repair(&mut archive);
    }
    let (outside_links, finished) = (flags & 2 != 0, flags & 4 != 0);
    let piece = [usize::MAX, 700, 512, 13][usize::from(flags >> 3 & 3)].min(archive.len().max(1));
    let archive = Bytes::from(archive);
    let pieces =
        (0..archive.len()).step_by(piece).map(|at| archive.slice(at..(at + piece).min(archive.len()))).collect();
    let cage = Cage::new();
    let result = unpack(&cage.inside(), outside_links, pieces, finished, SPARSE);
    cage.closed();
    let inside = fs::canonicalize(cage.inside()).expect("it is there");
    let mut written = 0;
    for path in cage.found() {
        let found = fs::symlink_metadata(&path).expect("it is there");
        written += 1;
        if found.is_symlink() {
            let leads = fs::canonicalize(&path);
            let outside = leads.as_ref().is_ok_and(|leads| !leads.starts_with(&inside));
            assert!(!outside || outside_links, "{} leads to {leads:?}", path.display());
            continue;
        }
        assert!(found.is_file() || found.is_dir(), "{} is something else", path.display());
        assert_eq!(found.mode() & 0o6000, 0, "{} has a mode that changes who runs it", path.display());
        assert!(found.len() <= SPARSE.max(archive.len() as u64) || found.is_dir(), "{} grew", path.display());
    }
    match result {
        Ok(entries) => {
            note(("unpacked", entries.min(8), written.min(8)));
            assert!(finished, "an upload without its end was taken");
            assert!(entries <= archive.len() as u64 / 512);
        }
        Err(status) => {
            note_text(status.message().split(':').next().unwrap_or_default());
            note(status.code() as i32);
            assert!(!status.message().is_empty());
            let text = status.message();
            assert!(status.code() != Code::Internal, "the archive made a fault of ours: {text}");
        }
    }
}
