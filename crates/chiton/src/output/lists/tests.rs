use serde_json::{Value, json};

use super::{compact, wrap};

#[test]
fn a_compact_document_is_the_same_document_in_fewer_lines() {
    let names: Vec<String> = (0..100).map(|number| format!("name{number}")).collect();
    let value = json!({ "a": names, "b": { "c": [], "d": [1, true, null, "x\n"], "e": {} }, "f": [{ "g": [1] }, [2]] });
    let text = compact(&value);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    assert!(text.lines().count() < 40 && text.lines().all(|line| line.len() <= 101), "{text}");
    assert!(text.contains("    \"d\": [1, true, null, \"x\\n\"],\n"), "{text}");
}

#[test]
fn words_are_never_lost_and_lines_never_longer_than_their_longest_word() {
    let words: Vec<String> = ["a", "bb", "ccccccccc", "d"].map(str::to_owned).to_vec();
    assert_eq!(wrap(&words, " ", 4), ["a bb", "ccccccccc", "d"]);
    assert!(wrap(&[], " ", 4).is_empty());
}
