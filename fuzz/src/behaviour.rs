//! What a target says of an input. The stable toolchain has no coverage counters in production code; that an input was
//! answered in a way that none before it was is the next best reason to keep it.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

thread_local! {
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// Adds something to the present input's behaviour. To be called with what has few values: a kind, a field, a phase.
pub fn note(what: impl Hash) {
    SEEN.with(|seen| {
        let mut hasher = DefaultHasher::new();
        seen.get().hash(&mut hasher);
        what.hash(&mut hasher);
        seen.set(hasher.finish());
    });
}

/// Adds a message without what varies in it: what is quoted, and digits.
pub fn note_text(text: &str) {
    let mut quoted = false;
    let plain: String = text
        .chars()
        .filter(|c| {
            if matches!(c, '"' | '`') {
                quoted = !quoted;
            }
            !quoted && !c.is_ascii_digit()
        })
        .take(80)
        .collect();
    note(plain);
}

/// The behaviour since the last call.
pub fn take() -> u64 {
    SEEN.with(|seen| seen.replace(0))
}
