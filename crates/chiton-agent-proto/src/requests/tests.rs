//! Which ids are taken, and for how long.

use tonic::Code;

use super::*;

fn code(answer: Result<(), Status>) -> Option<Code> {
    answer.err().map(|status| status.code())
}

#[test]
fn an_id_is_taken_once_and_again_when_nothing_ran() {
    let mut ids = RequestIds::default();
    assert_eq!(code(ids.take("a")), None);
    assert_eq!(code(ids.take("a")), Some(Code::Aborted));
    ids.give_back("a");
    ids.give_back("never taken");
    assert_eq!(code(ids.take("a")), None);
}

#[test]
fn no_id_is_not_remembered_and_a_long_one_is_refused() {
    let mut ids = RequestIds::default();
    assert_eq!((code(ids.take("")), code(ids.take(""))), (None, None));
    assert_eq!(code(ids.take(&"x".repeat(LONGEST))), None);
    assert_eq!(code(ids.take(&"x".repeat(LONGEST + 1))), Some(Code::InvalidArgument));
}

#[test]
fn the_newest_are_remembered_and_no_more() {
    let mut ids = RequestIds::default();
    for number in 0..=KEPT {
        assert_eq!(code(ids.take(&number.to_string())), None);
    }
    assert_eq!((ids.order.len(), ids.known.len()), (KEPT, KEPT));
    assert_eq!(code(ids.take("1")), Some(Code::Aborted));
    assert_eq!(code(ids.take("0")), None, "the oldest had to go");
}
