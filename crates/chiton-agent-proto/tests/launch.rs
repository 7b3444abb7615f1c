//! The launch document: what is encoded decodes the same, what is cut or foreign is refused, and nothing of it is quoted.

use std::collections::BTreeMap;

use chiton_agent_proto::launch::{DocumentError, LIMIT, LaunchDocument};
use proptest::prelude::*;

const SECRET: &str = "s3cr3t-of-the-test";

type Document = LaunchDocument<Vec<u32>>;

fn documents() -> impl Strategy<Value = Document> {
    let text = "[^\0]{1,40}";
    let name = "[^\0=]{1,20}".prop_filter("a name of the agent's", |name| !name.starts_with("CHITON_"));
    let env = proptest::collection::btree_map(name, "[^\0]{0,40}", 0..5);
    (text, text, env, any::<Option<Vec<u32>>>()).prop_map(|(token, attempt, env, confinement)| Document {
        token,
        attempt,
        env,
        confinement,
    })
}

proptest! {
    #[test]
    fn what_is_encoded_is_one_line_and_decodes_the_same(document in documents()) {
        let line = document.encode().expect("a line");
        prop_assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        prop_assert_eq!(line.capacity(), line.len(), "no copy was left behind by growing");
        prop_assert_eq!(&Document::decode(&line).expect("a document"), &document);
        prop_assert_eq!(&Document::decode(&line[..line.len() - 1]).expect("a document"), &document);
    }

    #[test]
    fn what_is_cut_is_not_json(document in documents(), cut in any::<prop::sample::Index>()) {
        let line = document.encode().expect("a line");
        // Without its newline it is whole.
        let cut = cut.index(line.len() - 1);
        prop_assert!(matches!(Document::decode(&line[..cut]), Err(DocumentError::NotJson(_))));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Document::decode(&bytes).is_err());
    }
}

#[test]
fn what_is_wrong_is_said_without_a_word_of_the_document() {
    for (text, wanted) in [
        (r#"{"token":"S","attempt":"S""#, "not one JSON object (column"),
        (r#"{"token":"S","attempt":"S"} {"S":"S"}"#, "not one JSON object (column"),
        ("S", "not one JSON object (column"),
        ("{\"token\":\"S\",\"attempt\":\"\u{1}S\"}", "not one JSON object (column"),
        (r#"{"token":"S","attempt":"S","S":"S"}"#, "an unknown key"),
        (r#"{"token":"S","attempt":"S","token":"S"}"#, "or a key twice"),
        (r#"{"token":"S"}"#, "has no \"attempt\""),
        (r#"{"token":"S","attempt":["S"]}"#, "a value of the wrong type"),
        (r#"{"token":"S","attempt":"S","env":"S"}"#, "a value of the wrong type"),
        (r#"{"token":"S","attempt":"S","env":{"S":7}}"#, "a value of the wrong type"),
        (r#"{"token":"S","attempt":"S","confinement":"S"}"#, "a value of the wrong type"),
        (r#"["S","S"]"#, "not one JSON object (column 1)"),
        (r#"{"token":"S","attempt":"S","confinement":[0,"missing field `S`"]}"#, "a value of the wrong type"),
        (r#"{"token":"","attempt":"S"}"#, "\"token\" of the launch document is empty"),
        (r#"{"token":"S","attempt":""}"#, "\"attempt\" of the launch document is empty"),
        (r#"{"token":"S","attempt":"S","env":{"CHITON_X":"S"}}"#, "sets \"CHITON_X\""),
        (r#"{"token":"S","attempt":"S","env":{"CHITON_X=S":"S"}}"#, "no program can be given"),
        (r#"{"token":"S","attempt":"S","env":{"":"S"}}"#, "no program can be given"),
        (r#"{"token":"S","attempt":"S","env":{"A":"S\u0000"}}"#, "no program can be given"),
    ] {
        let error = Document::decode(text.replace('S', SECRET).as_bytes()).expect_err(text);
        let said = format!("{error} {error:?}");
        assert!(said.contains(wanted), "{text}: {said}");
        assert!(!said.contains(SECRET), "{text}: {said}");
    }
    let mut foreign = br#"{"token":"S","attempt":""#.to_vec();
    foreign.extend_from_slice(b"\xff\"}");
    assert!(matches!(Document::decode(&foreign), Err(DocumentError::NotJson(_))), "it is not UTF-8");
}

#[test]
fn what_an_agent_would_refuse_is_not_encoded() {
    let with = |name: &str, value: &str| {
        let env = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Document { env, ..Document::new(SECRET, "a-1") }.encode().map(|_| ())
    };
    assert_eq!(with("CHITON_AGENT_TOKEN", "x"), Err(DocumentError::Reserved("CHITON_AGENT_TOKEN".to_owned())));
    assert_eq!(with("A=B", "x"), Err(DocumentError::Variable));
    assert_eq!(with("A", "x\0"), Err(DocumentError::Variable));
    assert_eq!(Document::new("", "a-1").encode().map(|_| ()), Err(DocumentError::Empty("token")));
    // The longest line there is, and one byte more.
    let rest = Document { env: BTreeMap::from([("A".to_owned(), String::new())]), ..Document::new(SECRET, "a-1") };
    let room = LIMIT - rest.encode().expect("a line").len();
    assert_eq!(with("A", &"x".repeat(room)), Ok(()));
    assert_eq!(with("A", &"x".repeat(room + 1)), Err(DocumentError::TooLong));
    assert!(matches!(Document::decode(&vec![b' '; LIMIT + 1]), Err(DocumentError::TooLong)));
}

#[test]
fn what_is_left_out_is_none_and_debug_output_has_no_secret() {
    let document: LaunchDocument = LaunchDocument::decode(br#"{"token":"t","attempt":"a-1"}"#).expect("a document");
    assert_eq!(document, LaunchDocument::new("t", "a-1"));
    assert_eq!(&document.encode().expect("a line")[..], b"{\"token\":\"t\",\"attempt\":\"a-1\"}\n");
    let env = BTreeMap::from([("NAME".to_owned(), SECRET.to_owned())]);
    let document = Document { env, ..Document::new(SECRET, "a-1") };
    for said in [format!("{document:?}"), format!("{document:#?}")] {
        assert!(said.contains("a-1") && said.contains("NAME") && !said.contains(SECRET), "{said}");
    }
}
