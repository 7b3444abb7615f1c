use super::*;

#[test]
fn tokens_are_kept_within_bounds_and_the_newest_is_among_them() {
    let registries = Registries::new(Policy::default()).unwrap();
    let key = |number: usize| ("registry.example".to_owned(), format!("repository-{number:04}"));
    for number in 0..2 * MOST_TOKENS {
        registries.keep(key(number), HeaderValue::from_static("Bearer t"));
    }
    let long = HeaderValue::from_str(&"t".repeat(LONGEST_TOKEN + 1)).unwrap();
    registries.keep(key(9999), long);
    let tokens = registries.tokens.lock();
    assert_eq!(tokens.len(), MOST_TOKENS);
    assert!(tokens.contains_key(&key(2 * MOST_TOKENS - 1)) && !tokens.contains_key(&key(9999)));
    drop(tokens);
    // One that is there is only replaced.
    registries.keep(key(2 * MOST_TOKENS - 1), HeaderValue::from_static("Bearer u"));
    let tokens = registries.tokens.lock();
    assert_eq!(
        (tokens.len(), &tokens[&key(2 * MOST_TOKENS - 1)]),
        (MOST_TOKENS, &HeaderValue::from_static("Bearer u"))
    );
}
