//! Where a program's output begins.
//!
//! The supervisor runs a login shell, and profiles write what they like. What comes before the line with the mark is
//! theirs and is dropped.

use bytes::{Bytes, BytesMut};

/// The most that profiles may write, in bytes, before a program counts as not started.
const LONGEST: usize = 1024 * 1024;

/// What a piece of a stream turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Nothing yet.
    Early,
    /// The mark's line, without the mark, and what follows it.
    Begun(String, Bytes),
    /// The program's output.
    Output(Bytes),
    /// The mark did not come.
    Lost,
}

/// One stream, before and after its mark.
pub(super) struct Mark {
    mark: String,
    early: Option<BytesMut>,
}

impl Mark {
    pub(super) fn new(mark: &str) -> Self {
        Self { mark: mark.to_owned(), early: Some(BytesMut::new()) }
    }

    /// A stream that has no mark: all of it is the program's.
    pub(super) fn none() -> Self {
        Self { mark: String::new(), early: None }
    }

    pub(super) fn take(&mut self, bytes: Bytes) -> Piece {
        let Some(early) = &mut self.early else { return Piece::Output(bytes) };
        early.extend_from_slice(&bytes);
        let mark = self.mark.as_bytes();
        let found = early.windows(mark.len()).position(|window| window == mark);
        let line = found.and_then(|begin| {
            let end = early[begin..].iter().position(|byte| *byte == b'\n')?;
            Some((begin, begin + end))
        });
        let Some((begin, end)) = line else {
            if early.len() > LONGEST {
                return Piece::Lost;
            }
            if found.is_none() {
                // The mark may be cut in two.
                let keep = early.len().saturating_sub(mark.len());
                drop(early.split_to(keep));
            }
            return Piece::Early;
        };
        let text = String::from_utf8_lossy(&early[begin + mark.len()..end]).trim().to_owned();
        drop(early.split_to(end + 1));
        let rest = std::mem::take(early).freeze();
        self.early = None;
        Piece::Begun(text, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_however_the_stream_is_cut() {
        let whole = b"Welcome!\r\nmark 12 12\r\nout";
        for cut in 0..=whole.len() {
            let mut stream = Mark::new("mark");
            let mut told = None;
            let mut output = Vec::new();
            for piece in [&whole[..cut], &whole[cut..]] {
                match stream.take(Bytes::copy_from_slice(piece)) {
                    Piece::Early => {}
                    Piece::Begun(text, rest) => {
                        told = Some(text);
                        output.extend_from_slice(&rest);
                    }
                    Piece::Output(bytes) => output.extend_from_slice(&bytes),
                    Piece::Lost => panic!("lost at {cut}"),
                }
            }
            assert_eq!((told.as_deref(), &output[..]), (Some("12 12"), &b"out"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn a_profile_that_writes_for_ever_does_not_fill_the_memory() {
        let mut stream = Mark::new("mark");
        let piece = Bytes::from(vec![b'x'; LONGEST]);
        for _ in 0..4 {
            assert_eq!(stream.take(piece.slice(..LONGEST / 2)), Piece::Early);
            assert!(stream.early.as_ref().is_some_and(|early| early.len() <= 4));
        }
        assert_eq!(stream.take(Bytes::from_static(b"mark")), Piece::Early);
        assert_eq!(stream.take(piece), Piece::Lost, "a mark whose line has no end");
    }
}
