//! Bytes as choices. When they run out every choice is the first, so that any input is a whole one.

use serde_json::{Map, Value, json};

/// Reads choices off an input.
#[derive(Clone, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Begins at the front.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was not read.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of so many; 0 of none.
    pub fn below(&mut self, many: usize) -> usize {
        usize::from(self.byte()) % many.max(1)
    }

    /// One of a list, which is not empty.
    pub fn one<'b, T: ?Sized>(&mut self, of: &[&'b T]) -> &'b T {
        of[self.below(of.len())]
    }

    /// A piece of the input, up to a 0xff or its end, at most 255 bytes.
    pub fn bytes(&mut self) -> &'a [u8] {
        let most = self.0.len().min(255);
        let length = self.0[..most].iter().position(|byte| *byte == 0xff).unwrap_or(most);
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest.strip_prefix(&[0xff]).unwrap_or(rest);
        piece
    }

    /// A piece of the input as text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// A JSON document of few keys, so that two of them often meet.
    pub fn json(&mut self, deep: usize) -> Value {
        const KEYS: [&str; 9] = ["env", "mounts", "target", "init", "limits", "a/b", "m~n", "", "0"];
        match self.below(if deep == 0 { 7 } else { 10 }) {
            0 => Value::Null,
            1 => json!(self.byte() & 1 == 1),
            2 => json!(i64::from(self.byte()) - 128),
            3 => json!(f64::from(self.byte()) / 7.0),
            4 => json!(self.one(&["/a", "/b", "x", "", "<known after apply: one.ip>"])),
            5 => json!(self.text()),
            6 => json!(u64::MAX - u64::from(self.byte())),
            7 => (0..self.below(4)).map(|_| self.json(deep - 1)).collect(),
            _ => {
                let mut map = Map::new();
                for _ in 0..self.below(5) {
                    map.insert(self.one(&KEYS).to_owned(), self.json(deep - 1));
                }
                Value::Object(map)
            }
        }
    }
}
