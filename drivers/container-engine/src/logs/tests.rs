use super::*;

const FIRST: &str = "2026-11-21T16:59:40.100000001Z";
const SECOND: &str = "2026-11-21T16:59:40.100000002Z";

fn piece(at: &str, stderr: bool, text: &str) -> Option<LogChunk> {
    let message = Bytes::from(format!("{at} {text}"));
    piece_of(if stderr { LogOutput::StdErr { message } } else { LogOutput::StdOut { message } })
}

/// All of one stream that is told of the pieces.
fn told(pieces: impl IntoIterator<Item = Option<LogChunk>>) -> String {
    let mut ends = LineEnds::default();
    let chunks = pieces.into_iter().flat_map(|piece| ends.mend(piece));
    chunks.map(|chunk| String::from_utf8(chunk.data.to_vec()).unwrap()).collect()
}

#[test]
fn a_time_goes_and_what_has_none_is_kept() {
    let with = piece(FIRST, true, "a b\n").unwrap();
    assert_eq!((with.at, with.stderr, &with.data[..]), (FIRST.parse().unwrap(), true, &b"a b\n"[..]));
    let without = piece_of(LogOutput::Console { message: Bytes::from_static(b"no time\n") }).unwrap();
    assert_eq!((without.at, &without.data[..]), (Timestamp::UNIX_EPOCH, &b"no time\n"[..]));
    let empty = piece_of(LogOutput::StdOut { message: Bytes::new() }).unwrap();
    assert!(empty.data.is_empty());
    assert!(piece_of(LogOutput::StdIn { message: Bytes::from_static(b"x") }).is_none());
}

#[test]
fn the_end_of_a_long_line_is_given_back_when_something_follows() {
    let long = "x".repeat(PIECE);
    let pieces = [
        piece(FIRST, false, &long),
        piece(FIRST, false, &long),
        piece(FIRST, false, "rest"),
        piece(SECOND, false, "end\n"),
    ];
    assert_eq!(told(pieces), format!("{long}{long}rest\nend\n"));
    // As long as a piece: its end is a piece of nothing.
    let pieces = [piece(FIRST, false, &long), piece(FIRST, false, ""), piece(SECOND, false, "end\n")];
    assert_eq!(told(pieces), format!("{long}\nend\n"));
}

#[test]
fn what_ends_without_the_end_of_a_line_is_left_alone() {
    let long = "x".repeat(PIECE);
    assert_eq!(told([piece(FIRST, false, &long), piece(FIRST, false, "rest")]), format!("{long}rest"));
    assert_eq!(told([piece(FIRST, false, "no end")]), "no end");
    assert_eq!(told([piece(FIRST, false, "no"), piece(FIRST, false, " end")]), "no end");
}

#[test]
fn an_end_that_is_there_is_not_doubled() {
    let long = "x".repeat(PIECE);
    let pieces = [piece(FIRST, false, &long), piece(FIRST, false, "rest\n"), piece(FIRST, false, "more\n")];
    assert_eq!(told(pieces), format!("{long}rest\nmore\n"));
}

#[test]
fn the_streams_do_not_mend_each_other() {
    let long = "x".repeat(PIECE);
    let pieces = [piece(FIRST, false, &long), piece(FIRST, true, "err"), piece(FIRST, false, "rest\n")];
    assert_eq!(told(pieces), format!("{long}errrest\n"));
}

#[test]
fn since_keeps_lines_of_engines_that_tell_whole_seconds() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let since = Some(at("2026-11-21T16:59:40.5Z"));
    assert!(within(at("2026-11-21T16:59:40Z"), since), "it may have been written at 40.9");
    assert!(!within(at("2026-11-21T16:59:39Z"), since));
    assert!(!within(at("2026-11-21T16:59:40.4Z"), since));
    assert!(within(at("2026-11-21T16:59:40.5Z"), since));
    assert!(within(at("2026-11-21T16:59:39Z"), None));
}
