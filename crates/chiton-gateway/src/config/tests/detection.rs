//! Which drivers a start uses: what is named is never looked for, else the first kind that can run is used.

use std::cell::RefCell;
use std::collections::BTreeMap;

use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::Error;
use serde_json::{Value, json};

use super::super::{Catalog, Chosen, Config, DriverConfig, Sources, load};
use super::{env, file, lines};

/// Kinds that answer as told and note what they were asked.
#[derive(Default)]
struct Machine {
    kinds: Vec<&'static str>,
    answers: BTreeMap<&'static str, &'static str>,
    asked: RefCell<Vec<(String, Value)>>,
}

impl Machine {
    /// These kinds in this order, of which those with an answer can run.
    fn of(kinds: &[&'static str], answers: &[(&'static str, &'static str)]) -> Self {
        Self { kinds: kinds.to_vec(), answers: answers.iter().copied().collect(), asked: RefCell::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow().iter().map(|(kind, _)| kind.clone()).collect()
    }

    fn config(&self, sources: &Sources) -> Config {
        let config = load(sources, self).unwrap_or_else(|errors| panic!("{}", lines(&errors)));
        assert_eq!(self.asked(), [""; 0], "loading looked at the machine");
        config
    }

    #[track_caller]
    fn chosen(&self, sources: &Sources) -> Chosen {
        self.config(sources).choose(self).unwrap_or_else(|none| panic!("{}", Error::from(none)))
    }
}

impl Catalog for Machine {
    fn extensions(&self) -> Vec<String> {
        Vec::new()
    }

    fn check_extension(&self, _: &str, _: &Value) -> Vec<ConfigIssue> {
        Vec::new()
    }

    fn driver_kinds(&self) -> Vec<String> {
        self.kinds.iter().map(ToString::to_string).collect()
    }

    fn check_driver(&self, kind: &str, _: &str, options: &Value) -> Vec<ConfigIssue> {
        // The kind "needy" cannot be without a setting.
        let lacks = kind == "needy" && options.get("address").is_none();
        let issue = ConfigIssue { pointer: String::new(), message: "missing field `address`".to_owned(), cure: None };
        lacks.then_some(issue).into_iter().collect()
    }

    fn probe_driver(&self, kind: &str, options: &Value) -> Result<String, Error> {
        self.asked.borrow_mut().push((kind.to_owned(), options.clone()));
        match self.answers.get(kind) {
            Some(found) => Ok((*found).to_owned()),
            None => Err(Error::unavailable(kind, format!("there is no {kind} here")).cure(format!("install {kind}"))),
        }
    }
}

fn ids(chosen: &Chosen) -> Vec<&str> {
    chosen.drivers.iter().map(|driver| driver.id.as_str()).collect()
}

fn row(chosen: &Chosen, config: &Config, key: &str) -> (String, String) {
    let rows = chosen.origins(config);
    let found: Vec<_> = rows.iter().filter(|row| row.key == key).collect();
    assert_eq!(found.len(), 1, "{key} is to be shown once");
    (found[0].value.clone(), found[0].origin.to_string())
}

#[test]
fn what_is_named_wins_and_nothing_is_looked_for() {
    let machine = Machine::of(&["first", "second"], &[("first", "it runs"), ("second", "it runs")]);
    let mut flag = file("");
    flag.flags.drivers = vec!["second".to_owned()];
    let named = "[compute]\ndrivers = [\"second\"]\n";
    for sources in [
        flag,
        env(file(""), "CHITON_COMPUTE_DRIVERS", "second"),
        file(named),
        // A default alone names a driver, too.
        file("[compute]\ndefault_driver = \"second\"\n"),
        env(file(""), "CHITON_COMPUTE_DEFAULT_DRIVER", "second"),
    ] {
        let config = machine.config(&sources);
        let chosen = config.choose(&machine).expect("it is named");
        assert_eq!((ids(&chosen), chosen.default_driver.as_str()), (vec!["second"], "second"));
        assert_eq!(chosen.detected, None);
        assert_eq!(chosen.origins(&config), config.origins());
        assert_ne!(row(&chosen, &config, "compute.drivers").1, "default");
        assert_eq!(machine.asked(), [""; 0], "{sources:?}");
    }
}

#[test]
fn what_is_named_and_cannot_run_is_used_all_the_same() {
    let machine = Machine::of(&["first", "second"], &[("first", "it runs")]);
    assert_eq!(ids(&machine.chosen(&file("[compute]\ndrivers = [\"second\"]\n"))), ["second"]);
    assert_eq!(machine.asked(), [""; 0]);
}

#[test]
fn the_first_in_the_order_of_registration_is_used_and_no_later_one_is_asked() {
    let answers = [("b", "b 1.2 at /run/b.sock"), ("a", "a 3")];
    let machine = Machine::of(&["z", "b", "a"], &answers);
    let config = machine.config(&file(""));
    let chosen = config.choose(&machine).expect("two can run");
    assert_eq!((ids(&chosen), chosen.default_driver.as_str()), (vec!["b"], "b"));
    assert_eq!(machine.asked(), ["z", "b"]);
    let detected = "detected (b 1.2 at /run/b.sock)".to_owned();
    assert_eq!(row(&chosen, &config, "compute.drivers"), ("[\"b\"]".to_owned(), detected.clone()));
    assert_eq!(row(&chosen, &config, "compute.default_driver"), ("\"b\"".to_owned(), detected));
}

#[test]
fn each_kind_is_asked_with_its_own_table_and_used_with_it() {
    let text = "[compute.driver.a]\nsocket = \"/a\"\n[compute.driver.b]\nsocket = \"/b\"\n[compute.driver.mine]\nkind = \"b\"\nsocket = \"/mine\"\n";
    let machine = Machine::of(&["a", "b", "c"], &[("b", "b runs")]);
    let chosen = machine.chosen(&file(text));
    let b = json!({ "socket": "/b" });
    assert_eq!(*machine.asked.borrow(), [("a".to_owned(), json!({ "socket": "/a" })), ("b".to_owned(), b.clone())]);
    let id = chiton_model::DriverId::new("b").expect("an id");
    assert_eq!(chosen.drivers, [DriverConfig { id, kind: "b".to_owned(), required: false, options: b }]);
}

#[test]
fn a_kind_whose_table_says_another_kind_is_asked_as_that() {
    let machine = Machine::of(&["a", "b"], &[("b", "b runs")]);
    let chosen = machine.chosen(&file("[compute.driver.a]\nkind = \"b\"\n"));
    assert_eq!((ids(&chosen), chosen.drivers[0].kind.as_str()), (vec!["a"], "b"));
}

#[test]
fn a_kind_that_needs_settings_is_passed_over_until_it_has_them() {
    let machine = Machine::of(&["needy", "b"], &[("needy", "it runs"), ("b", "b runs")]);
    assert_eq!(ids(&machine.chosen(&file(""))), ["b"]);
    assert_eq!(machine.asked(), ["b"]);
    let machine = Machine::of(&["needy", "b"], &[("needy", "it runs"), ("b", "b runs")]);
    assert_eq!(ids(&machine.chosen(&file("[compute.driver.needy]\naddress = \"here\"\n"))), ["needy"]);
}

#[test]
fn when_none_can_run_one_error_names_each_with_its_reason_and_cure() {
    let machine = Machine::of(&["oci", "needy", "docker"], &[("needy", "it would run")]);
    let none = machine.config(&file("")).choose(&machine).expect_err("none can run");
    assert_eq!(machine.asked(), ["oci", "docker"]);
    let error = Error::from(none);
    assert_eq!(error.kind.code(), "unavailable");
    insta::assert_snapshot!(error.message, @r"
    no driver is configured, and none that is built in can run here:
      oci: there is no oci here; install oci
      needy: missing field `address`; add a table [compute.driver.needy]
      docker: there is no docker here; install docker
    ");
    insta::assert_snapshot!(error.cure.expect("a cure"), @"put one of them right; one that is named is used without this look: --driver oci");
}

#[test]
fn a_build_without_drivers_says_so() {
    let machine = Machine::of(&[], &[]);
    let error = Error::from(machine.config(&file("")).choose(&machine).expect_err("there is none"));
    assert_eq!(error.message, "no kind of driver is built in");
}

#[test]
fn a_wrong_table_is_refused_also_when_no_driver_is_named() {
    let machine = Machine::of(&["needy"], &[("needy", "it runs")]);
    let errors = load(&file("[compute.driver.needy]\n"), &machine).expect_err("its table lacks a setting");
    assert_eq!(lines(&errors), "chiton.toml:1: compute.driver.needy: missing field `address`");
}

#[test]
fn a_default_that_stands_alone_and_is_unknown_is_refused_where_it_stands() {
    let machine = Machine::of(&["oci"], &[("oci", "it runs")]);
    let errors = load(&file("[compute]\ndefault_driver = \"ocy\"\n"), &machine).expect_err("there is no such driver");
    assert_eq!(lines(&errors), "chiton.toml:2: compute.default_driver: unknown driver \"ocy\"; did you mean \"oci\"?");
    let errors = load(&file("[compute]\ndefault_driver = \"O C\"\n"), &machine).expect_err("it is no id");
    assert!(lines(&errors).starts_with("chiton.toml:2: compute.default_driver: \"O C\" is not a driver id"));
}
