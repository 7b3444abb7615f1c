use std::time::Duration;

use proptest::prelude::*;

use super::super::duration::{DurationError, format, parse};

#[test]
fn numbers_with_units_are_durations() {
    for (text, millis) in [
        ("250ms", 250),
        ("5s", 5_000),
        ("1m30s", 90_000),
        ("1h0m1s", 3_601_000),
        ("7d", 604_800_000),
        ("1s5ms", 1_005),
        ("0s", 0),
        ("365d", 31_536_000_000),
    ] {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn everything_else_is_refused_with_its_reason() {
    for (text, why) in [
        ("", DurationError::Empty),
        ("-1s", DurationError::Negative),
        ("5 s", DurationError::Space),
        (" 5s", DurationError::Space),
        ("60", DurationError::NoUnit),
        ("s", DurationError::Form),
        ("5sec", DurationError::Form),
        ("1.5s", DurationError::Form),
        ("1s1m", DurationError::Form),
        ("1s1s", DurationError::Form),
        ("1m30", DurationError::Form),
        ("+1s", DurationError::Form),
        ("5S", DurationError::Form),
        ("٣s", DurationError::Form),
        ("366d", DurationError::Long),
        ("18446744073709551615d", DurationError::Long),
        ("99999999999999999999s", DurationError::Long),
    ] {
        assert_eq!(parse(text), Err(why), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(millis in 0_u64..=31_536_000_000) {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(parse(&format(duration)), Ok(duration));
    }

    #[test]
    fn any_text_is_answered(text in ".*") {
        let _ = parse(&text);
    }
}
