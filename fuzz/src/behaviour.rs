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

/// Adds a message without what varies in it: from the first quotation to the last, and digits.
pub fn note_text(text: &str) {
    let quote = |c: char| matches!(c, '"' | '`' | '\'' | '/');
    let before = text.split(quote).next().unwrap_or_default();
    let after = text.rsplit(quote).next().filter(|after| after.len() < text.len()).unwrap_or_default();
    let plain: String = before.chars().take(60).chain(after.chars().take(40)).filter(|c| !c.is_ascii_digit()).collect();
    note(plain);
}

/// The behaviour since the last call.
pub fn take() -> u64 {
    SEEN.with(|seen| seen.replace(0))
}
