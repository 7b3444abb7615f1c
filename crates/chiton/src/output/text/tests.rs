use super::*;

#[test]
fn what_drives_a_terminal_or_turns_text_around_is_escaped() {
    let hostile = "a\u{1b}[2J\u{7}\r\u{0}\u{7f}\u{9b}\u{202e}\u{2066}\u{200f}\u{2028}z";
    let shown = r"a\u{1b}[2J\u{7}\u{d}\u{0}\u{7f}\u{9b}\u{202e}\u{2066}\u{200f}\u{2028}z";
    assert_eq!(escape(hostile), shown);
    assert_eq!(escape("two\nlines\tü → 日本"), "two\nlines\tü → 日本");
    assert_eq!(one_line("two\nlines\tx"), r"two\nlines\tx");
}

#[test]
fn escaped_json_means_the_same() {
    let value = serde_json::json!({ "k\u{9b}": "\u{1b}\u{7f}\u{202e}\u{2029}\t\n\"\\ü" });
    for document in [value.to_string(), format!("{value:#}")] {
        let escaped = escape_json(&document);
        assert!(!escaped.chars().any(harmful), "{escaped:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), value);
    }
}

#[test]
fn bytes_are_text_where_they_are() {
    assert_eq!(data("ü".as_bytes()), ("text", "ü".to_owned()));
    assert_eq!(data(b"\xff\x00"), ("base64", "/wA=".to_owned()));
}

#[test]
fn an_age_has_its_largest_unit() {
    let now: Timestamp = "2030-01-10T00:00:00Z".parse().expect("a time");
    for (since, shown) in [
        ("2030-01-10T00:00:05Z", "0s"),
        ("2030-01-09T23:59:01Z", "59s"),
        ("2030-01-09T23:00:01Z", "59m"),
        ("2030-01-09T00:00:01Z", "23h"),
        ("2030-01-01T00:00:00Z", "9d"),
    ] {
        assert_eq!(age(since.parse().expect("a time"), now), shown);
    }
}
