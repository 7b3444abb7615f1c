//! `google.protobuf.Struct` as JSON. Its numbers are doubles, as JSON's are in most languages; whole ones come back whole.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as Wire};
use serde_json::{Map, Number, Value};

/// The largest magnitude up to which every whole number is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An object as a structure; anything else is an empty one.
pub fn to_struct(value: &Value) -> Struct {
    let fields = value.as_object().into_iter().flatten();
    Struct { fields: fields.map(|(name, value)| (name.clone(), to_wire(value))).collect() }
}

/// A structure as an object.
pub fn from_struct(wire: &Struct) -> Value {
    Value::Object(wire.fields.iter().map(|(name, value)| (name.clone(), from_wire(value))).collect::<Map<_, _>>())
}

fn to_wire(value: &Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(to_wire).collect() }),
        Value::Object(_) => Kind::StructValue(to_struct(value)),
    };
    Wire { kind: Some(kind) }
}

fn from_wire(wire: &Wire) -> Value {
    match &wire.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(number)) => number_of(*number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(from_wire).collect()),
        Some(Kind::StructValue(inner)) => from_struct(inner),
    }
}

/// JSON has no NaN and no infinity; they become null.
fn number_of(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}
