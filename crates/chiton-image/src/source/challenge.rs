//! What a registry wants to see before it answers: `WWW-Authenticate` (RFC 9110, 11.6.1).

/// A challenge that can be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (name, value) in parameters(rest)? {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// `name=value` with commas between; a value may be quoted, with backslashes before quotes.
fn parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            None => match after.split_once(',') {
                Some((value, after)) => (value.trim().to_owned(), after),
                None => (after.trim().to_owned(), ""),
            },
            Some(quoted) => {
                let mut value = String::new();
                let mut characters = quoted.char_indices();
                loop {
                    match characters.next()? {
                        (end, '"') => break (value, quoted[end + 1..].trim_start().trim_start_matches(',')),
                        (_, '\\') => value.push(characters.next()?.1),
                        (_, other) => value.push(other),
                    }
                }
            }
        };
        found.push((name.trim().to_owned(), value));
        rest = after.trim();
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::Challenge;

    #[test]
    fn challenges_are_read_with_and_without_quotes() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service: text(service), scope: text(scope) })
        };
        let cases = [
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#,
                bearer("https://a/t", Some("s"), Some("repository:x:pull,push")),
            ),
            ("bearer service=s, realm=https://a/t", bearer("https://a/t", Some("s"), None)),
            (r#"Bearer realm="a\"b""#, bearer("a\"b", None, None)),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            (r#"Bearer service="s""#, None),
            (r#"Bearer realm="open"#, None),
            ("Negotiate", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(Challenge::parse(text), wanted, "{text}");
        }
    }
}
