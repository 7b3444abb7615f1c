//! Ids, names, labels, environments and quantities: words that callers choose.

use std::collections::BTreeMap;

use chiton_model::label::{check_key, check_request_env, check_request_labels, check_value, is_reserved};
use chiton_model::spec::{check_command, check_env};
use chiton_model::{
    CpuQuantity, DriverId, MemoryQuantity, SandboxId, SandboxName, SandboxSpec, WorkspaceName, nearest,
};

use super::Target;
use crate::behaviour::note;
use crate::check::{explained, round_trip};

pub(super) const TARGET: Target = Target {
    name: "words",
    about: "ids, names, labels, environment, commands and quantities of requests",
    run,
    seeds,
    words: &[
        "500m",
        "1.5",
        "64Mi",
        "Gi",
        "e3",
        "E",
        "n",
        "0.",
        "CHITON_",
        "chiton.dev/",
        "a-b",
        "example.com/",
        "PATH",
        "999999999999999999999999999999",
        "\u{202e}",
        "\u{1b}[2J",
        "\0",
        "ä",
    ],
    longest: 400,
    short: 12_000,
    memory: (64, 64 << 10),
};

fn seeds() -> Vec<Vec<u8>> {
    let texts = ["s-01abc", "build-7", "500m", "1.5", "64Mi", "2G", "3e2", "0.1n", "example.com/tier", "PATH", "gold"];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    names(&text);
    labels(&text);
    quantities(&text);
    if let Err(error) = check_command("command", &[text.clone().into_owned(), text.clone().into_owned()]) {
        explained(&error);
    }
    note(nearest(&text, ["compute", "gateway", "labels"]).is_some());
}

/// RFC 1123 by other means than the parser's.
fn is_dns_label(text: &str) -> bool {
    let middle = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
    !text.is_empty() && text.len() <= 63 && text.chars().all(middle) && text.trim_matches('-') == text
}

fn names(text: &str) {
    let sound = is_dns_label(text);
    note(sound);
    macro_rules! each {
        ($($kind:ty),+) => {
            $(match <$kind>::new(text) {
                Ok(name) => {
                    assert!(sound, "{text:?} was taken");
                    assert_eq!(name.as_str(), text);
                    round_trip(&name);
                }
                Err(error) => {
                    assert!(!sound, "{text:?} was refused: {error}");
                    explained(&error);
                }
            })+
        };
    }
    each!(SandboxName, WorkspaceName, SandboxId, DriverId);
}

fn labels(text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if let Err(error) = check_key("labels", key).and_then(|()| check_value("labels", key, value)) {
        explained(&error);
    }
    let map = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    match check_request_labels("labels", &map) {
        Ok(()) => assert!(!is_reserved(key) && key.len() <= 317 && value.len() <= 63),
        Err(error) => explained(&error),
    }
    let env = check_request_env("env", &map);
    match (&env, check_env("env", &map)) {
        (Ok(()), Ok(())) => assert!(!key.starts_with("CHITON_") && !key.contains('=') && !value.contains('\0')),
        (Err(error), _) => explained(error),
        (Ok(()), Err(error)) => explained(&error),
    }
    let spec = SandboxSpec { labels: map.clone(), env: map, workdir: value.to_owned(), ..SandboxSpec::default() };
    if let Err(error) = spec.check() {
        explained(&error);
    }
}

fn quantities(text: &str) {
    match CpuQuantity::parse("resources.cpu", text) {
        Ok(cpu) => {
            near(text, 1_000.0, cpu.millicores());
            round_trip(&cpu);
        }
        Err(error) => explained(&error),
    }
    match MemoryQuantity::parse("resources.memory", text) {
        Ok(memory) => {
            near(text, 1.0, memory.bytes());
            round_trip(&memory);
        }
        Err(error) => explained(&error),
    }
}

/// The amount is what the text says, rounded up, as far as floating point can tell.
fn near(text: &str, scale: f64, amount: u64) {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let power = |text: &str| text.parse::<i32>().map(|power| 10_f64.powi(power)).expect("it was taken");
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        exponent => power(&exponent[1..]),
    };
    note(suffix.len());
    let number: f64 = if number == "." { f64::NAN } else { format!("0{number}").parse().expect("it was taken") };
    let expected = number * factor * scale;
    #[expect(clippy::cast_precision_loss, reason = "the comparison allows for it")]
    let difference = (amount as f64 - expected).abs();
    assert!(difference <= 1.0 + expected * 1e-9, "{text:?} was taken as {amount}, not {expected}");
}
