//! Which rule governs a path.

use chiton_driver::{FieldRule, Rule};

/// A driver's rules, looked up by path.
pub(crate) struct Rules<'a>(&'a [FieldRule]);

/// The rule that governs a path and the pointer at which it is anchored.
pub(crate) struct Governed<'a> {
    pub(crate) rule: &'a Rule,
    /// The prefix of the path that the rule's pattern matched.
    pub(crate) anchor: String,
}

impl<'a> Rules<'a> {
    pub(crate) fn new(rules: &'a [FieldRule]) -> Self {
        Self(rules)
    }

    /// The longest pattern that matches the path or an ancestor of it; a longer one wins, and among equals the one with
    /// fewer wildcards. A path that no pattern matches is sealed.
    pub(crate) fn govern(&self, pointer: &str) -> Option<Governed<'a>> {
        let path: Vec<&str> = segments(pointer).collect();
        self.0
            .iter()
            .filter_map(|rule| {
                let pattern: Vec<&str> = segments(&rule.path).collect();
                let matches = pattern.len() <= path.len()
                    && pattern.iter().zip(&path).all(|(pattern, segment)| *pattern == "*" || pattern == segment);
                let literal = pattern.iter().filter(|segment| **segment != "*").count();
                matches.then_some((pattern.len(), literal, rule))
            })
            .max_by_key(|(length, literal, _)| (*length, *literal))
            .map(|(length, _, rule)| Governed { rule: &rule.rule, anchor: join(&path[..length]) })
    }
}

fn segments(pointer: &str) -> impl Iterator<Item = &str> {
    pointer.split('/').skip(1)
}

fn join(segments: &[&str]) -> String {
    segments.iter().fold(String::new(), |path, segment| path + "/" + segment)
}

/// A segment of a JSON pointer, escaped (RFC 6901).
pub(crate) fn escape(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

/// Whether `path` is `ancestor` or below it.
pub(crate) fn below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
