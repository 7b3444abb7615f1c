use proptest::prelude::*;

use super::super::{Catalog, Drivers, load};
use super::good::FULL;
use super::{compiled, file};

/// Loading ends with a config or with at least one error whose line is in the text.
fn answered(text: &str) -> Result<(), TestCaseError> {
    let sources = file(text);
    match load(&sources, &compiled()) {
        Ok(config) => {
            let drivers = match &config.compute.drivers {
                Drivers::Listed { drivers, .. } | Drivers::Detect(drivers) => drivers,
            };
            prop_assert!(!drivers.is_empty() && !config.gateway.listen.is_empty());
            let known = Catalog::extensions(&compiled());
            prop_assert!(config.compute.extensions.iter().all(|extension| known.contains(&extension.name.to_string())));
        }
        Err(errors) => {
            prop_assert!(!errors.is_empty());
            let lines = text.split('\n').count();
            for error in errors {
                prop_assert!(error.line().is_none_or(|line| (1..=lines).contains(&line)), "{error}");
                prop_assert!(!error.to_string().chars().any(char::is_control), "{:?}", error.to_string());
            }
        }
    }
    Ok(())
}

/// A line that resembles a config's.
fn line() -> impl Strategy<Value = String> {
    let sections: Vec<&str> = FULL.lines().filter(|line| line.starts_with('[')).collect();
    let settings: Vec<&str> = FULL.lines().filter(|line| line.contains(" = ")).collect();
    let keys: Vec<&str> = settings.iter().filter_map(|line| line.split(" = ").next()).collect();
    let values = prop_oneof![
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        Just("[[], {}]".to_owned()),
        Just("nan".to_owned()),
        Just("1979-05-27".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        "[a-z:/~.=,0-9-]{0,12}".prop_map(|text| format!("{text:?}")),
        "\\PC{0,6}".prop_map(|text| format!("{text:?}")),
    ];
    prop_oneof![
        prop::sample::select(sections).prop_map(str::to_owned),
        prop::sample::select(settings).prop_map(str::to_owned),
        (prop::sample::select(keys), values).prop_map(|(key, value)| format!("{key} = {value}")),
    ]
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(?s).{0,200}") {
        answered(&text)?;
    }

    #[test]
    fn any_mixture_of_sound_and_odd_lines_is_answered(lines in prop::collection::vec(line(), 0..20)) {
        answered(&lines.join("\n"))?;
    }

    #[test]
    fn a_full_config_with_a_replaced_stretch_is_answered(
        at in 0..FULL.len(),
        length in 0_usize..12,
        text in "[\\[\\]{}\"'=.,#a-z0-9 \n-]{0,8}",
    ) {
        let end = (at + length).min(FULL.len());
        answered(&format!("{}{text}{}", &FULL[..at], &FULL[end..]))?;
    }

    #[test]
    fn a_full_config_with_lines_removed_and_swapped_is_answered(
        kept in prop::collection::vec(any::<bool>(), FULL.lines().count()),
        swap in (0..FULL.lines().count(), 0..FULL.lines().count()),
    ) {
        let mut lines: Vec<&str> = FULL.lines().collect();
        lines.swap(swap.0, swap.1);
        let text: Vec<&str> = lines.iter().zip(kept).filter_map(|(line, keep)| keep.then_some(*line)).collect();
        answered(&text.join("\n"))?;
    }

    #[test]
    fn any_environment_and_flags_are_answered(
        values in prop::collection::vec("[a-z:/,0-9 -]{0,10}|\\PC{0,6}", 15),
        listen in prop::collection::vec("(unix:)?\\PC{0,10}", 0..3),
        drivers in prop::collection::vec("oci|[a-z-]{0,4}|\\PC{0,3}", 0..3),
    ) {
        let mut sources = file(FULL);
        let names = super::super::keys::KEYS.iter().filter_map(|key| key.env);
        sources.env = names.zip(values).map(|(name, value)| (name.to_owned(), value)).collect();
        sources.flags.listen = listen;
        sources.flags.drivers = drivers;
        if let Err(errors) = load(&sources, &compiled()) {
            prop_assert!(!errors.is_empty());
        }
    }
}

#[test]
fn deep_nesting_is_answered_and_does_not_exhaust_the_stack() {
    let text = format!("[compute.driver.oci]\nx = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    answered(&text).expect("answered");
    let dotted = format!("compute.driver.oci.{}x = 1", "a.".repeat(100_000));
    answered(&dotted).expect("answered");
    let header = format!("[compute.driver.oci.{}x]\ny = 1", "a.".repeat(100_000));
    answered(&header).expect("answered");
}

#[test]
fn a_file_full_of_errors_is_answered() {
    let tables: Vec<_> = (0..20_000).map(|number| format!("[compute.policy.x{number}]\nactivation = 1\n")).collect();
    let errors = load(&file(&tables.concat()), &compiled()).expect_err("all of it is wrong");
    assert_eq!(errors.len(), 40_000);
}
