//! Properties that several targets ask for.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use chiton_client::{from_status, to_status};
use chiton_model::{Error, ErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::behaviour::{note, note_text};

/// What a peer takes in one header block, with half of it left for other headers. Source: the default of HTTP/2
/// implementations that gRPC uses, 16 KiB.
const HEADERS: usize = 14 << 10;

/// An error says what, why and, for a request that is wrong, where and what to do; it survives the wire, and a terminal
/// survives it.
pub fn explained(error: &Error) {
    note(error.kind.code());
    note_text(&error.message);
    sayable(&error.message);
    if let Some(cure) = &error.cure {
        sayable(cure);
    }
    if let ErrorKind::Invalid { field } = &error.kind {
        assert!(!field.is_empty(), "no field is named: {error:?}");
        assert!(error.cure.is_some(), "nothing says what to do: {error:?}");
    }
    let status = to_status(error);
    // Base64 is a third more; the message is percent-encoded, three times as long at the most.
    let length = status.details().len().div_ceil(3) * 4 + status.message().len() * 3;
    assert!(length <= HEADERS, "a status of {length} bytes fits no header: {}", error.kind.code());
    let back = from_status(&status);
    assert_eq!(back.kind.code(), error.kind.code());
    if error.message.len() < 4096 && error.cure.as_ref().is_none_or(|cure| cure.len() < 512) {
        assert_eq!((&back.message, &back.cure), (&error.message, &error.cure));
    }
}

/// A text for people: not empty, and without characters that do something to a terminal.
pub fn sayable(text: &str) {
    assert!(!text.trim().is_empty(), "an empty message");
    let odd = text.chars().find(|c| c.is_control() && *c != '\n');
    assert!(odd.is_none(), "a message holds {odd:?}: {:?}", text.chars().take(200).collect::<String>());
}

/// What was read can be written, and reads as the same.
pub fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("what was read can be written");
    let again: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in what was written: {text}"));
    assert_eq!(&again, value, "read again it is another");
    let second = serde_json::to_string(&again).expect("what was read can be written");
    assert_eq!(second, text, "written again it is another");
    text
}

/// Every key that was given has left something behind: nothing was silently ignored. Keys whose value is what an absent
/// one means (`null`, nothing, `false`) may be left out by the writer.
pub fn nothing_ignored(given: &Value, kept: &Value, path: &str) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given {
                match kept.get(key) {
                    Some(kept) => nothing_ignored(value, kept, &format!("{path}/{key}")),
                    None => assert!(is_nothing(value), "{path}/{key} was ignored: {value}"),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                nothing_ignored(given, kept, &format!("{path}/{index}"));
            }
        }
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.values().all(is_nothing),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A folder inside another one whose every entry is known: what is unpacked into the first must not change the second.
#[derive(Debug)]
pub struct Cage {
    outer: tempfile::TempDir,
    before: Vec<(PathBuf, u64, u32, Vec<u8>)>,
}

impl Cage {
    /// Makes it, with a file, a folder and a link beside the inner folder.
    pub fn new() -> Self {
        let outer = tempfile::Builder::new().prefix("chiton-fuzz-").tempdir().expect("a temporary folder");
        fs::write(outer.path().join("beside"), "untouched").expect("a file");
        fs::create_dir(outer.path().join("folder")).expect("a folder");
        fs::write(outer.path().join("folder/secret"), "untouched").expect("a file");
        fs::create_dir(outer.path().join("inside")).expect("a folder");
        let before = listing(outer.path());
        Self { outer, before }
    }

    /// The folder to unpack into.
    pub fn inside(&self) -> PathBuf {
        self.outer.path().join("inside")
    }

    /// The folder around it.
    pub fn outer(&self) -> &Path {
        self.outer.path()
    }

    /// Nothing outside was made, removed or changed.
    pub fn closed(&self) {
        assert_eq!(listing(self.outer.path()), self.before, "something outside was changed");
    }

    /// Every entry inside, links not followed; no temporary name is left.
    pub fn found(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.inside(), &mut |path, _| found.push(path.to_owned()));
        for path in &found {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let temporary = name.starts_with(".chiton-") && name.strip_suffix(".tmp").is_some();
            assert!(!temporary, "{} was left", path.display());
        }
        found
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Folders without permissions would stop the removal for whoever is not root.
        walk(self.outer.path(), &mut |path, found| {
            if found.is_dir() {
                drop(fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)));
            }
        });
    }
}

impl Default for Cage {
    fn default() -> Self {
        Self::new()
    }
}

/// All entries but those inside: name, links, mode and content.
fn listing(outer: &Path) -> Vec<(PathBuf, u64, u32, Vec<u8>)> {
    let mut found = Vec::new();
    walk(outer, &mut |path, metadata| {
        if !path.starts_with(outer.join("inside")) {
            let content = if metadata.is_file() { fs::read(path).unwrap_or_default() } else { Vec::new() };
            // A folder's count of links is its count of folders.
            let links = if metadata.is_file() { metadata.nlink() } else { 0 };
            found.push((path.to_owned(), links, metadata.mode(), content));
        }
    });
    found.sort();
    found
}

fn walk(folder: &Path, each: &mut impl FnMut(&Path, &fs::Metadata)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
        each(&entry.path(), &found);
        if found.is_dir() {
            walk(&entry.path(), each);
        }
    }
}
