//! Unit tests of diff, rules, ownership, slots and digest.
