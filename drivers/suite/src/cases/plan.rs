//! Plans: the same twice, strict, ruled.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{FieldRule, Limit, Point, PortableWrite, Rule};
use chiton_model::ErrorKind;
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::verdict::{Verdict, ensure, equal, refusal, tells, wrong};

pub(crate) async fn same_request_same_plan(stage: Arc<Stage>) -> Verdict {
    let (first, second) = (stage.life().await?, stage.life().await?);
    let mut request = first.sleeper();
    for number in 0..20 {
        request.env.insert(format!("KEY_{number}"), number.to_string());
        request.labels.insert(format!("key-{number}"), number.to_string());
    }
    let one = first.plan(&request).await?;
    // Other plans in between, and the same maps filled in another order.
    first.plan(&first.script("true")).await?;
    let mut again = request.clone();
    again.env = request.env.iter().rev().map(|(key, value)| (key.clone(), value.clone())).collect();
    again.labels = request.labels.iter().rev().map(|(key, value)| (key.clone(), value.clone())).collect();
    let two = second.plan(&again).await?;
    equal("the plan of another driver value", &two, &one)?;
    // What a digest is made of is the text, and that it is the same follows from the value only for sorted maps.
    equal("the plan's text", &two.plan.to_string(), &one.plan.to_string())?;
    for pointer in one.slots.keys().chain(&one.from_request).chain(&one.from_image) {
        ensure(one.plan.pointer(pointer).is_some(), "a pointer of the plan", "a place that is in the plan", pointer)?;
    }
    let mut other = request.clone();
    other.env.insert("KEY_0".to_owned(), "other".to_owned());
    ensure(first.plan(&other).await?.plan != one.plan, "another request's plan", "another plan", "the same")
}

pub(crate) async fn config_is_strict(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let grace = stage.bench().grace(1);
    let Some(known) = grace.as_object().and_then(|object| object.keys().next()).cloned() else {
        return Err(wrong("the bench's grace", "an object with one key", grace));
    };
    let mut misspelt = known.clone();
    misspelt.pop();
    let mut request = life.sleeper();
    request.driver_config = json!({ misspelt.clone(): grace[&known] });
    let error = life.refused("an unknown key of driver_config", &request).await?;
    tells(&error, &[&format!("{misspelt:?}"), &format!("{known:?}")])?;
    let field = |error: &chiton_model::Error| match &error.kind {
        ErrorKind::Invalid { field } => Some(field.clone()),
        _ => None,
    };
    ensure(
        field(&error).is_some_and(|field| field.starts_with("driver_config") && field.contains(&misspelt)),
        "the kind of the error",
        &format!("invalid, field driver_config.{misspelt}"),
        format!("{:?}", error.kind),
    )?;
    let strange = [json!([]), json!({}), json!("1x"), json!(-1), json!(1.5), json!(null), json!(u64::MAX), json!(true)];
    for value in strange {
        request.driver_config = json!({ known.clone(): value });
        let error = life.refused(&format!("driver_config {}", request.driver_config), &request).await?;
        tells(&error, &[&known])?;
    }
    for block in [json!([]), json!("text"), json!(7)] {
        request.driver_config = block;
        let error = life.refused(&format!("driver_config {}", request.driver_config), &request).await?;
        tells(&error, &[])?;
    }
    equal("the list after refusals", &life.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

/// Which rule decides about a path: the longest pattern that matches.
fn ruled<'a>(rules: &'a [FieldRule], path: &str) -> Option<&'a Rule> {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |rule: &&FieldRule| {
        let pattern: Vec<&str> = rule.path.split('/').collect();
        pattern.len() <= parts.len() && pattern.iter().zip(&parts).all(|(want, part)| *want == "*" || want == part)
    };
    rules.iter().filter(fits).max_by_key(|rule| rule.path.split('/').count()).map(|rule| &rule.rule)
}

pub(crate) async fn every_field_has_a_rule(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let plan = life.plan(&life.sleeper()).await?;
    let rules = life.driver.field_rules();
    let mut seen = BTreeMap::new();
    for rule in rules {
        ensure(rule.path.starts_with('/'), "a rule's path", "a JSON pointer", &rule.path)?;
        let twice = seen.insert(rule.path.clone(), rule.rule.clone());
        ensure(twice.is_none(), "the rules of a path", "one", &rule.path)?;
    }
    // A rule about a field that no plan has protects nothing: its author misspelt it.
    let schema = life.driver.plan_schema();
    for rule in rules {
        let first = rule.path.split('/').nth(1).unwrap_or_default();
        let known = plan.plan.get(first).is_some() || schema.pointer(&format!("/properties/{first}")).is_some();
        ensure(known, "a rule's path", "a field of the plan", &rule.path)?;
    }
    // Who the sandbox is: each place of the plan that holds a slot of the engine's.
    for (pointer, slot) in plan.slots.iter().filter(|(_, slot)| slot.starts_with("sandbox.")) {
        let rule = ruled(rules, pointer);
        let sealed = rule.is_none_or(|rule| *rule == Rule::Sealed);
        ensure(sealed, &format!("the rule of {pointer}, which holds {slot}"), "sealed", format!("{rule:?}"))?;
    }
    ensure(
        plan.slots.values().any(|slot| slot == chiton_driver::slots::SANDBOX_ID),
        "the plan's slots",
        "the sandbox's id among them",
        format!("{:?}", plan.slots),
    )?;
    let Value::Object(properties) = schema.get("properties").cloned().unwrap_or_default() else {
        return Err(wrong("the plan's schema", "an object with properties", schema));
    };
    let Some(fields) = plan.plan.as_object() else { return Err(wrong("the plan", "an object", &plan.plan)) };
    for field in fields.keys() {
        ensure(properties.contains_key(field), "the plan's schema", "every field of the plan", field)?;
    }
    let mut unknown = plan.plan.clone();
    unknown["no-such-field"] = json!(1);
    let error = refusal("a plan with an unknown field", life.driver.validate(&unknown).await)?;
    tells(&error, &[])
}

/// One write for each point.
pub(crate) fn writes() -> [(Point, PortableWrite); 7] {
    let text = |text: &str| text.to_owned();
    [
        (Point::Env, PortableWrite::Env { name: text("WRITTEN"), value: text("by an extension") }),
        (Point::Label, PortableWrite::Label { key: text("example.com/written"), value: text("yes") }),
        (Point::Annotation, PortableWrite::Annotation { key: text("example.com/note"), value: text("a note") }),
        (Point::Mount, PortableWrite::Mount { source: text("/usr"), target: text("/shown"), read_only: true }),
        (Point::Device, PortableWrite::Device { path: text("/dev/null") }),
        (Point::Network, PortableWrite::Network { address: text("10.99.0.7") }),
        (Point::Resource, PortableWrite::Resource { name: text("pids"), quantity: text("64") }),
    ]
}

pub(crate) async fn unoffered_points_are_refused(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let capabilities = life.driver.capabilities();
    let plan = life.plan(&life.sleeper()).await?.plan;
    for (point, mut write) in writes() {
        if point == Point::Resource && !capabilities.limits.contains(&Limit::Pids) {
            // A limit that the driver declares, where it declares any.
            write = PortableWrite::Resource { name: "memory".to_owned(), quantity: "64Mi".to_owned() };
        }
        let mut written = plan.clone();
        let result = life.driver.write_portable(&mut written, &write);
        if capabilities.points.contains(&point) {
            let accepted = result.map_err(|error| crate::Failure::Refused { doing: format!("{write:?}"), error });
            accepted?;
            ensure(written != plan, &format!("the plan after {write:?}"), "another plan", "the same")?;
            continue;
        }
        let error = refusal(&format!("{write:?}"), result)?;
        equal(&format!("the plan after a refused {}", point.as_str()), &written, &plan)?;
        let named = matches!(&error.kind, ErrorKind::Unsupported { driver, point: named }
            if driver == capabilities.id.as_str() && named == point.as_str());
        let expected = format!("unsupported, driver {}, point {}", capabilities.id, point.as_str());
        ensure(named, "the kind of the error", &expected, format!("{:?}", error.kind))?;
    }
    Ok(())
}
