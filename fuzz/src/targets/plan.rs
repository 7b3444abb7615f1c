//! Plans: what changed, whose it is, which rule governs it, where slots stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{DefaultPlan, FieldRule, Rule, marker};
use chiton_lifecycle::plan::fuzzing::{Writing, differences, govern, is_below};
use chiton_lifecycle::plan::{Writer, explain};
use chiton_model::ExtensionName;
use serde_json::{Value, json};

use super::Target;
use super::paper::Paper;
use crate::behaviour::note;
use crate::check::{explained, round_trip};
use crate::cursor::Cursor;

pub(super) const TARGET: Target = Target {
    name: "plan",
    about: "plan differences, ownership, field rules, slots, digests",
    run,
    seeds,
    words: &["\u{0}", "\u{1}\u{2}", "\u{ff}", "\u{8}\u{3}"],
    longest: 400,
    short: 6_000,
    memory: (4096, 2 << 20),
};

fn seeds() -> Vec<Vec<u8>> {
    (0..24_u8)
        .map(|seed| (0..60_u8).map(|at| at.wrapping_mul(seed.wrapping_mul(37).wrapping_add(11)) ^ seed).collect())
        .collect()
}

fn rules() -> Vec<FieldRule> {
    let keyed = Rule::Append { key: Some("target".to_owned()) };
    vec![
        FieldRule::new("/env", Rule::MergeMap),
        FieldRule::new("/mounts", keyed),
        FieldRule::new("/init", Rule::Append { key: None }),
        FieldRule::new("/limits/*", Rule::SetOnce),
        FieldRule::new("/limits/0", Rule::Sealed),
        FieldRule::new("/a~1b", Rule::SetOnce),
        FieldRule::new("/m~0n/*/env", Rule::MergeMap),
        FieldRule::new("/", Rule::SetOnce),
    ]
}

fn base() -> Value {
    json!({
        "id": marker("sandbox.id"), "env": { "HOME": "/root" }, "mounts": [{ "target": "/a", "source": "/x" }],
        "init": ["first"], "limits": { "env": null, "0": null }, "a/b": "", "m~n": { "0": { "env": {} } }, "": "", "image": "one",
    })
}

fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    if cursor.below(8) == 0 {
        let (one, two) = (cursor.json(4), cursor.json(4));
        compared(&one, &two);
        compared(&two, &one);
    } else {
        written(&mut cursor);
    }
}

/// Whether a value is as good as absent.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(entries) => entries.values().all(empty),
        _ => false,
    }
}

fn compared(one: &Value, two: &Value) {
    let rules = rules();
    let found = differences(one, two, &rules);
    note(found.len().min(4));
    assert!(differences(one, one, &rules).is_empty());
    assert!(!found.is_empty() || one == two || (empty(one) && empty(two)), "{one} and {two} are told to be the same");
    for (index, change) in found.iter().enumerate() {
        assert!(change.path.is_empty() || change.path.starts_with('/'));
        if change.broken.is_none() {
            assert_eq!(two.pointer(&change.place), change.after.as_ref(), "{}", change.place);
            if change.path == change.place {
                assert_eq!(one.pointer(&change.place), change.before.as_ref(), "{}", change.place);
            }
        }
        if let Some((_, anchor)) = govern(&rules, &change.path) {
            assert!(is_below(&change.path, &anchor), "{} is governed at {anchor}", change.path);
        }
        let inside =
            found.iter().enumerate().find(|(other, inner)| *other != index && is_below(&inner.path, &change.path));
        assert!(inside.is_none(), "{inside:?} lies in {change:?}");
    }
}

/// What one extension does to a plan.
fn edit(cursor: &mut Cursor<'_>, plan: &mut Value, slot: Option<&str>) {
    const PLACES: [&str; 13] = [
        "/env",
        "/mounts",
        "/init",
        "/limits",
        "/limits/env",
        "/a~1b",
        "/m~0n/0/env",
        "/",
        "/image",
        "/id",
        "/mounts/0",
        "/mounts/1",
        "/env/HOME",
    ];
    let place = cursor.one(&PLACES);
    let mut value = match slot {
        Some(text) if cursor.byte() & 1 == 0 => json!(text),
        _ => cursor.json(2),
    };
    let key = cursor.one(&["A", "B", "HOME", "target", "a/b", "env"]).to_owned();
    let Some(place) = plan.pointer_mut(place) else { return };
    match place {
        Value::Object(fields) => match cursor.below(4) {
            0 => drop(fields.remove(&key)),
            1 => *place = value,
            _ => drop(fields.insert(key, value)),
        },
        Value::Array(items) => {
            if cursor.byte() & 3 != 0 {
                value = json!({ "target": cursor.one(&["/a", "/b", "/c", "/d"]), "source": value });
            }
            match cursor.below(6) {
                0 if !items.is_empty() => drop(items.remove(cursor.below(items.len()))),
                1 if !items.is_empty() => {
                    let at = cursor.below(items.len());
                    items[at] = value;
                }
                2 => items.insert(0, value),
                3 => items.reverse(),
                _ => items.push(value),
            }
        }
        other => *other = value,
    }
}

fn written(cursor: &mut Cursor<'_>) {
    let rules = rules();
    let default = DefaultPlan {
        plan: base(),
        slots: BTreeMap::from([("/id".to_owned(), "sandbox.id".to_owned())]),
        from_request: vec!["/image".to_owned()],
        from_image: Vec::new(),
    };
    let mut writing = Writing::new(Arc::new(Paper::new(rules.clone())), default);
    let names = ["one", "two", "three"].map(|name| ExtensionName::new(name).expect("a name"));
    for _ in 0..6 {
        if cursor.is_empty() {
            break;
        }
        let who = &names[cursor.below(3)];
        let before = writing.view();
        let mut after = before.plan.clone();
        let slot = (cursor.below(4) == 0).then(|| marker(&format!("{who}.ip")));
        for _ in 0..=cursor.below(3) {
            edit(cursor, &mut after, slot.as_deref());
        }
        let overrides = cursor.below(8) == 0;
        let slots: Vec<_> = slot.iter().map(|_| ("ip".to_owned(), Some("none".to_owned()))).collect();
        let result = writing.write(who, after.clone(), &slots, overrides);
        #[expect(clippy::single_match_else, reason = "both answers have properties")]
        match result {
            Err(error) => {
                explained(&error);
                assert!(error.cure.is_some() || error.message.contains("fills it later"), "no cure: {error}");
                let view = writing.view();
                assert_eq!(
                    (&view.plan, &view.owners),
                    (&before.plan, &before.owners),
                    "a refused write left something"
                );
            }
            Ok(()) => {
                let view = writing.view();
                assert_eq!(view.plan, after);
                taken(&rules, who, overrides, &before.plan, &before.owners, &view.plan);
            }
        }
    }
    sealed(writing);
}

/// What an accepted write may have done.
fn taken(
    rules: &[FieldRule],
    who: &ExtensionName,
    overrides: bool,
    before: &Value,
    owners: &BTreeMap<String, Writer>,
    after: &Value,
) {
    note(("taken", overrides));
    for sealed in ["/image", "/id", "/limits/0"] {
        assert_eq!(before.pointer(sealed), after.pointer(sealed), "{sealed} was written");
    }
    for change in differences(before, after, rules) {
        let rule = govern(rules, &change.path).map(|(rule, _)| rule);
        assert!(rule.is_some_and(|rule| rule != Rule::Sealed), "{} was written", change.path);
        for (path, owner) in owners {
            let others = matches!(owner, Writer::Extension(owner) if owner != who);
            let meet = is_below(path, &change.path) || is_below(&change.path, path);
            assert!(overrides || !others || !meet, "{who} wrote {}, which is {owner}'s", change.path);
        }
    }
}

fn sealed(writing: Writing) {
    let plan = writing.seal(&Vec::new()).expect("a plan has a digest");
    note((plan.slots.len(), plan.owners.len().min(5), plan.writes.len().min(5)));
    round_trip(&plan);
    for (pointer, slot) in &plan.slots {
        let stands = plan.plan.pointer(pointer);
        assert_eq!(stands, Some(&json!(marker(&slot.name))), "slot {:?} does not stand at {pointer}", slot.name);
    }
    let filled = plan.filled(|slot| Some(format!("value of {}", slot.name)));
    let fills = differences(&plan.plan, &filled, &[]);
    let changed: usize = plan.slots.len();
    assert!(fills.len() <= changed, "filling {changed} slots changed {} places", fills.len());
    let leaves = explain(&plan, &plan.plan);
    for leaf in &leaves {
        assert_eq!(plan.plan.pointer(&leaf.path), Some(&leaf.value), "{} is not explained by its value", leaf.path);
    }
}
