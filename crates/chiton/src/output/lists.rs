//! Long lists of words, such as a profile's system calls, in few lines.

use serde_json::Value;

/// Where lines are broken.
const WIDTH: usize = 100;

/// A JSON document for people: as the pretty form has it, with lists of plain values written side by side.
pub(crate) fn compact(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    let inner = "  ".repeat(depth + 1);
    match value {
        Value::Array(list) if !list.is_empty() && list.iter().all(plain) => {
            let words: Vec<String> = list.iter().map(Value::to_string).collect();
            let lines = wrap(&words, ", ", WIDTH.saturating_sub(inner.len()));
            if let [line] = lines.as_slice() {
                text.extend(["[", line, "]"]);
            } else {
                let line_end = format!(
                    ",
{inner}"
                );
                text.extend([
                    "[
",
                    &inner,
                    &lines.join(&line_end),
                    "
",
                    &"  ".repeat(depth),
                    "]",
                ]);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            members(list.iter().map(|value| (String::new(), value)), ('[', ']'), depth, text);
        }
        Value::Object(fields) if !fields.is_empty() => {
            let named = fields.iter().map(|(key, value)| (format!("{}: ", Value::from(key.as_str())), value));
            members(named, ('{', '}'), depth, text);
        }
        leaf => text.push_str(&leaf.to_string()),
    }
}

fn members<'a>(all: impl Iterator<Item = (String, &'a Value)>, ends: (char, char), depth: usize, text: &mut String) {
    text.push(ends.0);
    for (index, (name, value)) in all.enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        text.push_str(&name);
        write(value, depth + 1, text);
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(ends.1);
}

fn plain(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}

/// Joins words to lines of at most a width; a longer word has a line of its own.
pub(crate) fn wrap(words: &[String], joint: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + joint.len() + word.chars().count() <= width => {
                line.push_str(joint);
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests;
