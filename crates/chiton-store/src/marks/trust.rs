//! Which marks can be trusted after a crash.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::{Mark, MarkPosition};

use super::record::{Header, Trailer, take};

/// A segment as it was found.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) index: u64,
    /// None when its begin is damaged.
    header: Option<Header>,
    first: u64,
    /// The sequence number after its last sound mark.
    pub(crate) next: u64,
    marks: Vec<Mark>,
    /// The segment that the same process wrote after it.
    follower: Option<String>,
    /// Every byte belongs to a sound record in order, and the disk has it.
    sound: bool,
}

impl Segment {
    /// Whether an operation that recorded this position began in it.
    pub(crate) fn is(&self, position: &MarkPosition) -> bool {
        self.header.as_ref().is_some_and(|header| header.id == position.log)
    }

    /// Frees the memory of its marks.
    pub(crate) fn forget(&mut self) {
        self.marks = Vec::new();
        self.sound = false;
    }
}

/// The segment files in order.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let index = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".log"))
            .filter(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|name| name.parse().ok());
        if let Some(index) = index {
            files.push((index, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Reads every segment.
pub(crate) fn read_segments(folder: &Path) -> io::Result<Vec<Segment>> {
    Ok(list(folder)?.into_iter().map(|(index, path)| read_segment(index, &path)).collect())
}

/// One that cannot be read is as one that is damaged: recovery works without.
fn read_segment(index: u64, path: &Path) -> Segment {
    let bytes = fs::read(path).unwrap_or_default();
    // Marks that only the page cache has would be trusted now and gone after the next power loss.
    let synced = File::open(path).and_then(|file| file.sync_data()).is_ok();
    parse(index, &bytes, synced)
}

/// A segment's bytes; `synced` says that the disk has them.
pub(super) fn parse(index: u64, bytes: &[u8], synced: bool) -> Segment {
    let mut rest = bytes;
    let header = take(&mut rest).and_then(|(first, body)| Some((first, serde_json::from_slice::<Header>(body).ok()?)));
    let Some((first, header)) = header else {
        return Segment { index, header: None, first: 0, next: 0, marks: Vec::new(), follower: None, sound: false };
    };
    let (mut next, mut marks, mut sound) = (first, Vec::new(), synced);
    let mut follower: Option<String> = None;
    while !rest.is_empty() {
        let record = take(&mut rest).filter(|(sequence, _)| *sequence == next);
        let Some(mark) = record.and_then(|(_, body)| serde_json::from_slice(body).ok()) else {
            let trailer = record.and_then(|(_, body)| serde_json::from_slice::<Trailer>(body).ok());
            sound &= trailer.is_some() && rest.is_empty();
            follower = trailer.map(|trailer| trailer.followed_by);
            break;
        };
        let Some(following) = next.checked_add(1) else {
            sound = false;
            break;
        };
        marks.push(mark);
        next = following;
    }
    Segment { index, header: Some(header), first, next, marks, follower, sound }
}

/// How many segments there are, and the names of those in which something is not as it was written.
pub(crate) fn damaged_segments(folder: &Path) -> io::Result<(usize, Vec<String>)> {
    let files = list(folder)?;
    let damaged = files.iter().filter(|(index, path)| !read_segment(*index, path).sound);
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((files.len(), damaged.map(|(_, path)| name(path)).collect()))
}

/// The marks from a position to the end, if every rule of trust holds.
pub(crate) fn trusted(segments: &[Segment], position: &MarkPosition, boot: &str, epoch: &str) -> Option<Vec<Mark>> {
    let begin = segments.iter().position(|segment| segment.is(position))?;
    if position.boot != boot || position.sequence < segments[begin].first || position.sequence > segments[begin].next {
        return None;
    }
    let mut marks = Vec::new();
    let mut next = segments[begin].first;
    let mut follower: Option<&String> = None;
    for segment in &segments[begin..] {
        let header = segment.header.as_ref()?;
        if !segment.sound
            || segment.first != next
            || header.boot != boot
            || header.epoch != epoch
            || follower.is_some_and(|id| *id != header.id)
        {
            return None;
        }
        next = segment.next;
        follower = segment.follower.as_ref();
        marks.extend(segment.marks.iter().cloned());
    }
    if follower.is_some() {
        return None;
    }
    let skip = usize::try_from(position.sequence - segments[begin].first).ok()?;
    Some(marks.split_off(skip.min(marks.len())))
}
