use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::prelude::*;
use rustix::pipe::pipe;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

/// What arrives when the pieces are written one after the other and the writing side is then closed.
fn read_of(pieces: Vec<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, LaunchError> {
    let (ours, theirs) = pipe().expect("a pipe");
    let writer = thread::spawn(move || {
        let mut to = File::from(theirs);
        // The reader may have enough, or too much, before the end.
        pieces.iter().try_for_each(|piece| to.write_all(piece))
    });
    let line = line(&ours, soon());
    drop(ours);
    // Its result says only whether all of it was taken.
    let _ = writer.join().expect("no panic");
    line
}

fn document(token: String, value: String) -> Document {
    let mut document = Document::new(token, "a-1");
    document.env = BTreeMap::from([("NAME".to_owned(), value)]);
    document
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_line_arrives_whole_however_it_is_cut_into_pieces_and_whatever_is_behind_it(
        token in "[^\0]{1,40}",
        value in proptest::collection::vec("[^\0]{0,300}", 0..40),
        pieces in 1..9_usize,
        behind in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let document = document(token, value.concat());
        let mut bytes = document.encode().expect("a line").to_vec();
        let size = bytes.len().div_ceil(pieces);
        bytes.extend_from_slice(&behind);
        let line = read_of(bytes.chunks(size).map(<[u8]>::to_vec).collect()).expect("a line");
        prop_assert_eq!(Document::decode(&line).expect("a document"), document);
    }

    #[test]
    fn any_cut_of_a_line_is_an_early_end(
        token in "[^\0]{1,40}",
        value in proptest::collection::vec("[^\0]{0,300}", 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = document(token, value.concat()).encode().expect("a line");
        let cut = cut.index(bytes.len());
        let result = read_of(vec![bytes[..cut].to_vec()]);
        prop_assert!(matches!(result, Err(LaunchError::Ended(length)) if length == cut), "{result:?}");
    }
}

#[test]
fn the_longest_line_is_taken_and_a_longer_one_is_refused() {
    let mut longest = vec![b'x'; LIMIT - 1];
    longest.push(b'\n');
    assert_eq!(read_of(vec![longest.clone()]).expect("a line").len(), LIMIT - 1);
    longest[LIMIT - 1] = b'x';
    longest.push(b'\n');
    assert!(matches!(read_of(vec![longest]), Err(LaunchError::TooLong)));
}

#[test]
fn the_end_is_not_waited_for_and_a_line_that_does_not_end_is_late() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(b"{}\n{").expect("written");
    assert_eq!(&line(&ours, soon()).expect("a line")[..], b"{}");
    theirs.write_all(b"half").expect("written");
    let result = line(&ours, Instant::now() + Duration::from_millis(30));
    assert!(matches!(result, Err(LaunchError::Late(4))), "{result:?}");
    // The deadline is of the whole line: one that has passed takes nothing more than what is there.
    let result = line(&ours, Instant::now());
    assert!(matches!(result, Err(LaunchError::Late(0))), "{result:?}");
}

#[test]
fn a_descriptor_that_does_not_wait_is_waited_for() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("set");
    let (reading, begun) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        reading.send(()).expect("heard");
        line(&ours, soon()).map(|line| line.to_vec())
    });
    begun.recv().expect("it reads");
    theirs.write_all(b"{}\n").expect("written");
    assert_eq!(reader.join().expect("no panic").expect("a line"), b"{}");
}
