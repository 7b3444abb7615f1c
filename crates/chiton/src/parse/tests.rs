use super::*;

#[test]
fn pairs_split_at_the_first_equals_sign() {
    assert_eq!(key_value("A=b=c"), Ok(("A".into(), "b=c".into())));
    assert_eq!(key_value("A="), Ok(("A".into(), String::new())));
    for text in ["", "A", "=b"] {
        assert!(key_value(text).is_err(), "{text:?}");
    }
}

#[test]
fn durations_have_units_and_are_more_than_nothing() {
    for (text, millis) in [("500ms", 500), ("5s", 5_000), ("1m30s", 90_000), ("2h", 7_200_000)] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "5", "0s", "-5s", "5 parsecs", "s", "99999999999999999999s"] {
        assert!(duration(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_moment_is_a_time_or_how_long_ago() {
    let now: Timestamp = "2030-01-01T00:10:00Z".parse().expect("a time");
    assert_eq!(since("10m", now).expect("a moment").to_string(), "2030-01-01T00:00:00Z");
    assert_eq!(since("2029-12-31T23:00:00+01:00", now).expect("a moment").to_string(), "2029-12-31T22:00:00Z");
    for text in ["", "yesterday", "10", "900000h9000000000h"] {
        assert!(since(text, now).is_err(), "{text:?}");
    }
}

#[test]
fn a_side_with_a_name_and_a_colon_is_in_a_sandbox() {
    let remote = |name: &str, path: &str| Ok(Side::Remote { name: name.into(), path: path.into() });
    assert_eq!(remote_or_local("box:/a:b"), remote("box", "/a:b"));
    assert_eq!(remote_or_local("box:/"), remote("box", "/"));
    for text in ["a", "./a:/b", "/a:b", "../x", "dir/a:/b"] {
        assert_eq!(remote_or_local(text), Ok(Side::Local(text.into())), "{text:?}");
    }
    for text in ["", "box:", "box:relative"] {
        assert!(remote_or_local(text).is_err(), "{text:?}");
    }
}
