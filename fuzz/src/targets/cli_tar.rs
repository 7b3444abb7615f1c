//! A download of a folder: a tar stream from a sandbox, which is hostile, unpacked on the caller's machine.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use chiton::fuzzing::unpack;

use super::{Target, tars};
use crate::behaviour::{note, note_text};
use crate::check::Cage;

pub(super) const TARGET: Target = Target {
    name: "cli_tar",
    about: "tar downloads as the command line unpacks them",
    run,
    seeds,
    words: tars::WORDS,
    longest: 32 << 10,
    short: 700,
    memory: (6, 1 << 20),
};

fn seeds() -> Vec<Vec<u8>> {
    tars::archives()
        .into_iter()
        .zip([1_u8, 3].into_iter().cycle())
        .map(|(archive, flag)| [vec![flag], archive].concat())
        .collect()
}

fn run(data: &[u8]) {
    let Some((flags, archive)) = data.split_first() else { return };
    let mut archive = archive.to_vec();
    if flags & 1 != 0 {
        tars::repair(&mut archive);
    }
    let cage = Cage::new();
    let top = (flags & 2 != 0).then(|| OsStr::new("top"));
    let result = unpack(&mut archive.as_slice(), &cage.inside(), top);
    cage.closed();
    let inside = fs::canonicalize(cage.inside()).expect("it is there");
    let found = cage.found();
    for path in &found {
        let found = fs::symlink_metadata(path).expect("it is there");
        if found.is_symlink() {
            let leads = fs::canonicalize(path);
            assert!(
                leads.as_ref().map_or(true, |leads| leads.starts_with(&inside)),
                "{} leads to {leads:?}",
                path.display()
            );
            continue;
        }
        assert!(found.is_file() || found.is_dir(), "{} is something else", path.display());
        assert_eq!(found.mode() & 0o6000, 0, "{} has a mode that changes who runs it", path.display());
        assert!(top.is_none() || path.starts_with(cage.inside().join("top")), "{} is beside the top", path.display());
    }
    match result {
        Ok(modes) => {
            note(("unpacked", modes.len().min(8), found.len().min(8)));
            for (path, mode) in modes {
                assert!(cage.inside().join(&path).is_dir() && mode & !0o777 == 0, "{} {mode:o}", path.display());
            }
        }
        Err(error) => {
            note(error.kind.code());
            note_text(error.message.split(':').next().unwrap_or_default());
            assert!(!error.message.is_empty());
        }
    }
}
