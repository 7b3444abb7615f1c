//! Segments of the mark log: damage in any place costs trust, never a wrong mark.

use chiton_lifecycle::journal::{DriverCall, Mark, MarkEvent, MarkPosition, StepKey, StepStatus};
use chiton_model::OperationId;
use chiton_store::fuzzing::{record, take_record, trusted_marks};
use serde_json::json;

use super::Target;
use crate::behaviour::note;
use crate::cursor::Cursor;

pub(super) const TARGET: Target = Target {
    name: "marks",
    about: "mark log segments: headers, frames, checksums, sequence numbers, followers",
    run,
    seeds,
    words: &["{\"followed_by\":\"a0\"}", "{\"id\":\"a0\",\"boot\":\"b\",\"epoch\":\"e\"}", "\u{1}\0\0\0"],
    longest: 4096,
    short: 12_000,
    memory: (64, 256 << 10),
};

const BOOT: &str = "b";
const EPOCH: &str = "e";

fn seeds() -> Vec<Vec<u8>> {
    let raw: Vec<u8> = [[0].as_slice(), &log(&[3])[0]].concat();
    // Shape (segments and marks), the position, then damage: kind, segment, place.
    let shapes: [&[u8]; 6] = [
        &[1, 2, 3, 4, 0],
        &[1, 1, 3, 0, 1, 1, 0, 9],
        &[1, 3, 2, 1, 4, 0, 2, 1, 5],
        &[1, 2, 2, 2, 1, 3, 0, 40],
        &[1, 3, 1, 1, 1, 1, 4, 1],
        &[1, 2, 2, 2, 0, 5, 1, 3],
    ];
    std::iter::once(raw).chain(shapes.map(<[u8]>::to_vec)).collect()
}

fn mark(number: usize) -> Mark {
    let event = MarkEvent::Step { step: StepKey::Driver(DriverCall::Create), status: StepStatus::Started };
    Mark { operation: OperationId::new(format!("op-{number}")).expect("an id"), event }
}

/// Segments with so many marks each, as one process writes them that rotates.
fn log(shape: &[usize]) -> Vec<Vec<u8>> {
    let mut sequence = 5;
    let mut written = 0;
    shape
        .iter()
        .enumerate()
        .map(|(index, marks)| {
            let mut bytes = record(sequence, &json!({ "id": format!("a{index}"), "boot": BOOT, "epoch": EPOCH }));
            for _ in 0..*marks {
                bytes.extend(record(sequence, &serde_json::to_value(mark(written)).expect("JSON")));
                written += 1;
                sequence += 1;
            }
            if index + 1 < shape.len() {
                bytes.extend(record(sequence, &json!({ "followed_by": format!("a{}", index + 1) })));
            }
            bytes
        })
        .collect()
}

fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    if cursor.byte() == 0 {
        raw(cursor.rest());
    } else {
        damaged(&mut cursor);
    }
}

/// Any bytes, and bodies of any kind in records that are sound.
fn raw(bytes: &[u8]) {
    let mut rest = bytes;
    let mut records = 0;
    while let Some((sequence, body, after)) = take_record(rest) {
        assert_eq!(rest.len() - after.len(), body.len() + 16, "a record is length, number, body and checksum");
        note((sequence == 0, body.first().copied()));
        rest = after;
        records += 1;
    }
    let position = MarkPosition { log: "a0".to_owned(), sequence: 5, boot: BOOT.to_owned() };
    if let Some(marks) = trusted_marks(&[bytes], &position, BOOT, EPOCH) {
        assert!(rest.is_empty() && marks.len() < records, "what is not a record was trusted");
    }
    let mut framed = record(5, &json!({ "id": "a0", "boot": BOOT, "epoch": EPOCH }));
    let mut sound = Vec::new();
    let mut sequence = u64::from(bytes.first().copied().unwrap_or_default() == 1) * (u64::MAX - 7) + 5;
    for body in bytes.split(|byte| *byte == 0xff) {
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { continue };
        framed.extend(record(sequence, &body));
        sequence = sequence.wrapping_add(1);
        sound.push(body);
    }
    if let Some(marks) = trusted_marks(&[&framed], &position, BOOT, EPOCH) {
        note(marks.len());
        let given: Vec<Mark> = sound.iter().filter_map(|body| serde_json::from_value(body.clone()).ok()).collect();
        assert_eq!(marks, given);
    }
}

/// A sound log after damage gives no mark that is not the true one, and never skips one.
fn damaged(cursor: &mut Cursor<'_>) {
    let shape: Vec<usize> = (0..=cursor.below(3)).map(|_| cursor.below(5)).collect();
    let mut segments = log(&shape);
    let total: usize = shape.iter().sum();
    // A position in the first segment.
    let skip = cursor.below(shape[0] + 1);
    let position = MarkPosition { log: "a0".to_owned(), sequence: 5 + skip as u64, boot: BOOT.to_owned() };
    let truth: Vec<Mark> = (skip..total).map(mark).collect();
    let views: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
    assert_eq!(trusted_marks(&views, &position, BOOT, EPOCH).as_ref(), Some(&truth), "a sound log is trusted");
    let whole = segments.clone();
    let mut cut_between_records = false;
    while !cursor.is_empty() && !segments.is_empty() {
        let (kind, which) = (cursor.below(6), cursor.below(segments.len()));
        let last = which + 1 == segments.len();
        note((kind, last));
        let segment = &mut segments[which];
        if segment.is_empty() {
            break;
        }
        let at = (cursor.below(256) + cursor.below(4) * 256) % segment.len();
        match kind {
            0 => segment[at] ^= 1 << cursor.below(8),
            1 => {
                segment.truncate(at);
                // Also of another: with the segments after it gone it is the last.
                cut_between_records = true;
            }
            2 => drop(segment.remove(at)),
            3 => segment.insert(at, cursor.byte()),
            4 => drop(segments.remove(which)),
            _ => {
                let other = cursor.below(segments.len());
                segments.swap(which, other);
            }
        }
    }
    let views: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
    let Some(marks) = trusted_marks(&views, &position, BOOT, EPOCH) else { return };
    assert!(truth.starts_with(&marks), "damage made marks that nobody wrote: {marks:?}");
    let missing = segments.last() != whole.last() && cut_between_records;
    assert!(marks.len() == truth.len() || missing, "damage hid {} marks", truth.len() - marks.len());
    note(marks.len() == truth.len());
    for (boot, epoch) in [("c", EPOCH), (BOOT, "f")] {
        assert_eq!(trusted_marks(&views, &position, boot, epoch), None, "another boot or life is trusted");
    }
}
