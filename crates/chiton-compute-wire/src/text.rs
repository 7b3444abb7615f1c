//! A driver's words: they are stored and shown, so they are one line, do nothing to a terminal, and have an end.

use chiton_model::printable;

/// Words that name something: a reason, a name, a version.
pub const NAME: usize = 256;
/// Words for people.
pub const MESSAGE: usize = 4 << 10;

/// At most so many characters of it, without what drives a terminal; what is cut off leaves an ellipsis.
pub fn told(said: &str, most: usize) -> String {
    let said = said.trim();
    // Whoever answers with megabytes has none of them copied.
    let end = said.char_indices().nth(most).map_or(said.len(), |(end, _)| end);
    let safe = printable(&said[..end]);
    if end == said.len() && safe.chars().count() <= most {
        return safe;
    }
    safe.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
