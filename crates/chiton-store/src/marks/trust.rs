//! Which marks can be trusted after a crash.

use std::collections::HashMap;
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
    /// Where each operation's marks are among them: a crash may have interrupted thousands.
    of: HashMap<String, Vec<usize>>,
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
        self.of = HashMap::new();
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
        return Segment {
            index,
            header: None,
            first: 0,
            next: 0,
            marks: Vec::new(),
            of: HashMap::new(),
            follower: None,
            sound: false,
        };
    };
    let (mut next, mut marks, mut sound) = (first, Vec::<Mark>::new(), synced);
    let mut of: HashMap<String, Vec<usize>> = HashMap::new();
    let mut follower: Option<String> = None;
    while !rest.is_empty() {
        let record = take(&mut rest).filter(|(sequence, _)| *sequence == next);
        let Some(mark) = record.and_then(|(_, body)| serde_json::from_slice::<Mark>(body).ok()) else {
            let trailer = record.and_then(|(_, body)| serde_json::from_slice::<Trailer>(body).ok());
            sound &= trailer.is_some() && rest.is_empty();
            follower = trailer.map(|trailer| trailer.followed_by);
            break;
        };
        let Some(following) = next.checked_add(1) else {
            sound = false;
            break;
        };
        of.entry(mark.operation.to_string()).or_default().push(marks.len());
        marks.push(mark);
        next = following;
    }
    Segment { index, header: Some(header), first, next, marks, of, follower, sound }
}

/// How many segments there are, and the names of those in which something is not as it was written.
pub(crate) fn damaged_segments(folder: &Path) -> io::Result<(usize, Vec<String>)> {
    let files = list(folder)?;
    let damaged = files.iter().filter(|(index, path)| !read_segment(*index, path).sound);
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((files.len(), damaged.map(|(_, path)| name(path)).collect()))
}

/// The log from a position to its end.
#[derive(Debug)]
pub(crate) struct Trusted<'a> {
    segments: &'a [Segment],
    /// The first mark's sequence number.
    from: u64,
}

/// The log from a position to the end, if every rule of trust holds.
pub(crate) fn trusted<'a>(
    segments: &'a [Segment],
    position: &MarkPosition,
    boot: &str,
    epoch: &str,
) -> Option<Trusted<'a>> {
    let begin = segments.iter().position(|segment| segment.is(position))?;
    if position.boot != boot || position.sequence < segments[begin].first || position.sequence > segments[begin].next {
        return None;
    }
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
    }
    if follower.is_some() {
        return None;
    }
    Some(Trusted { segments: &segments[begin..], from: position.sequence })
}

impl Trusted<'_> {
    /// An operation's marks in order.
    pub(crate) fn of(&self, operation: &str) -> Vec<Mark> {
        let mut found = Vec::new();
        for segment in self.segments {
            let places = segment.of.get(operation).into_iter().flatten();
            found.extend(
                places.filter(|place| self.covers(segment, **place)).map(|place| segment.marks[*place].clone()),
            );
        }
        found
    }

    fn covers(&self, segment: &Segment, place: usize) -> bool {
        u64::try_from(place).is_ok_and(|place| segment.first.saturating_add(place) >= self.from)
    }

    /// Everybody's marks in order.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn all(&self) -> Vec<Mark> {
        let every = |segment: &Segment| segment.marks.iter().cloned().enumerate().collect::<Vec<_>>();
        let covered = self.segments.iter().flat_map(|segment| {
            every(segment).into_iter().filter(|(place, _)| self.covers(segment, *place)).map(|(_, mark)| mark)
        });
        covered.collect()
    }
}
