//! From one input to the next.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// Numbers at which programs change their mind.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 127, 128, 255, 4096, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 53, i64::MAX as u64, u64::MAX];

/// Changes an input in one to four places. `others` is what it may be crossed with; `words` mean something to the target.
pub fn mutate(data: &mut Vec<u8>, others: &[Vec<u8>], words: &[&str], longest: usize, rng: &mut StdRng) {
    if rng.random_ratio(1, 3) && json_step(data, others, words, rng) {
        data.truncate(longest);
        return;
    }
    for _ in 0..rng.random_range(1..=4) {
        step(data, others, words, rng);
    }
    data.truncate(longest);
}

fn place(data: &[u8], rng: &mut StdRng) -> usize {
    rng.random_range(0..=data.len())
}

/// A stretch of the input, mostly short.
fn stretch(data: &[u8], rng: &mut StdRng) -> std::ops::Range<usize> {
    let begin = place(data, rng);
    let most = if rng.random_ratio(1, 4) { data.len() } else { 16 };
    begin..(begin + rng.random_range(0..=most)).min(data.len())
}

fn step(data: &mut Vec<u8>, others: &[Vec<u8>], words: &[&str], rng: &mut StdRng) {
    match rng.random_range(0..12) {
        0 | 1 if !data.is_empty() => {
            let at = rng.random_range(0..data.len());
            data[at] ^= 1 << rng.random_range(0..8);
        }
        2 if !data.is_empty() => {
            let at = rng.random_range(0..data.len());
            data[at] = *[0, 1, b'/', b'.', b' ', b'"', 0x7f, 0x80, 0xff, rng.random()].choose(rng).unwrap_or(&0);
        }
        3 => drop(data.drain(stretch(data, rng))),
        4 => {
            let copy = data[stretch(data, rng)].to_vec();
            let at = place(data, rng);
            data.splice(at..at, copy);
        }
        5 => {
            let copy = data[stretch(data, rng)].to_vec();
            let at = place(data, rng);
            let many = 1 << rng.random_range(0..7);
            data.splice(at..at, copy.repeat(many));
        }
        6 | 7 if !words.is_empty() => {
            let word = words.choose(rng).copied().unwrap_or_default();
            let over = if rng.random() { stretch(data, rng) } else { (0..0).len()..0 };
            let at = if over.is_empty() {
                let at = place(data, rng);
                at..at
            } else {
                over
            };
            data.splice(at, word.bytes());
        }
        8 => digits(data, rng),
        9 => {
            // A whole number in the machine's form, as lengths and sequence numbers are.
            let number = number(rng);
            let width = *[1, 2, 4, 8].choose(rng).unwrap_or(&4);
            let mut bytes = number.to_le_bytes()[..width].to_vec();
            if rng.random() {
                bytes.reverse();
            }
            let at = place(data, rng);
            let end = (at + width).min(data.len());
            data.splice(at..end, bytes);
        }
        10 => {
            let Some(other) = others.choose(rng) else { return };
            let part = other[stretch(other, rng)].to_vec();
            let at = stretch(data, rng);
            data.splice(at, part);
        }
        _ => {
            let at = place(data, rng);
            let many = rng.random_range(1..8);
            let random: Vec<u8> = (0..many).map(|_| rng.random()).collect();
            data.splice(at..at, random);
        }
    }
}

fn number(rng: &mut StdRng) -> u64 {
    let base = NUMBERS.choose(rng).copied().unwrap_or_default();
    base.wrapping_add(rng.random_range(0..3)).wrapping_sub(1)
}

/// Replaces a run of digits.
fn digits(data: &mut Vec<u8>, rng: &mut StdRng) {
    let starts: Vec<usize> = (0..data.len())
        .filter(|at| data[*at].is_ascii_digit() && (*at == 0 || !data[*at - 1].is_ascii_digit()))
        .collect();
    let Some(start) = starts.choose(rng).copied() else { return };
    let length = data[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let sign = if rng.random_ratio(1, 8) { "-" } else { "" };
    let point = if rng.random_ratio(1, 8) { ".5e3" } else { "" };
    data.splice(start..start + length, format!("{sign}{}{point}", number(rng)).bytes());
}

/// Changes a JSON document in one place; whether the input was one.
fn json_step(data: &mut Vec<u8>, others: &[Vec<u8>], words: &[&str], rng: &mut StdRng) -> bool {
    let begins = |data: &[u8]| matches!(data.first(), Some(b'{' | b'['));
    if !begins(data) {
        return false;
    }
    let Ok(mut document) = serde_json::from_slice::<Value>(data) else { return false };
    let other = others.choose(rng).filter(|other| begins(other)).and_then(|other| serde_json::from_slice(other).ok());
    for _ in 0..rng.random_range(1..=2) {
        let mut nth = rng.random_range(0..count(&document).max(1));
        let mut new = scalar(words, rng);
        if let Some(other) = &other
            && rng.random_ratio(1, 4)
        {
            let mut nth = rng.random_range(0..count(other).max(1));
            new = pick(other, &mut nth).cloned().unwrap_or(new);
        }
        change(&mut document, &mut nth, &new, rng);
    }
    *data = document.to_string().into_bytes();
    true
}

fn scalar(words: &[&str], rng: &mut StdRng) -> Value {
    match rng.random_range(0..10) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(number(rng)),
        3 => json!(-1 - i64::try_from(number(rng) >> 1).unwrap_or(0)),
        4 => json!(f64::from_bits(rng.random())),
        5 => json!({}),
        6 => json!([]),
        7 => {
            let deep = rng.random_range(1..130);
            (0..deep).fold(json!(1), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({ "a": inner }) })
        }
        _ => json!(words.choose(rng).copied().unwrap_or("x")),
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

fn pick<'a>(value: &'a Value, nth: &mut usize) -> Option<&'a Value> {
    if *nth == 0 {
        return Some(value);
    }
    *nth -= 1;
    match value {
        Value::Array(items) => items.iter().find_map(|item| pick(item, nth)),
        Value::Object(entries) => entries.values().find_map(|entry| pick(entry, nth)),
        _ => None,
    }
}

/// Changes the nth value: replaces it, adds to it or takes from it.
fn change(value: &mut Value, nth: &mut usize, new: &Value, rng: &mut StdRng) -> bool {
    if *nth == 0 {
        match value {
            Value::Object(entries) if rng.random() => {
                let key = match new {
                    Value::String(text) => text.clone(),
                    _ => "unknown".to_owned(),
                };
                let taken = entries.keys().nth(rng.random_range(0..entries.len().max(1))).cloned();
                match taken.filter(|_| rng.random()) {
                    Some(taken) => drop(entries.remove(&taken)),
                    None => drop(entries.insert(key, new.clone())),
                }
            }
            Value::Array(items) if rng.random() => {
                let again = items.first().cloned().unwrap_or_else(|| new.clone());
                items.push(if rng.random() { again } else { new.clone() });
            }
            _ => *value = new.clone(),
        }
        return true;
    }
    *nth -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| change(item, nth, new, rng)),
        Value::Object(entries) => entries.values_mut().any(|entry| change(entry, nth, new, rng)),
        _ => false,
    }
}
