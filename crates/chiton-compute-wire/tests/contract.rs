//! The contract cannot drift: every message, field, number and call of the compiled file is in a list that was written down.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

fn type_of(field: &FieldDescriptorProto, within: &DescriptorProto) -> String {
    let name = field.type_name().trim_start_matches('.').replace("openshell.compute.v1.", "");
    if let Some(entry) = within.nested_type.iter().find(|nested| name.ends_with(&format!(".{}", nested.name()))) {
        let part = |index: usize| type_of(&entry.field[index], entry);
        return format!("map<{}, {}>", part(0), part(1));
    }
    let plain = match field.r#type() {
        Type::Message => name,
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => format!("repeated {plain}"),
        (_, true) => format!("optional {plain}"),
        _ => plain,
    }
}

fn listed() -> String {
    let set = FileDescriptorSet::decode(chiton_compute_wire::DESCRIPTORS).unwrap();
    let file = set.file.iter().find(|file| file.package() == "openshell.compute.v1").unwrap();
    let mut text = String::new();
    for service in &file.service {
        for call in &service.method {
            let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
            let stream = if call.server_streaming() { "stream " } else { "" };
            let (input, output) = (short(call.input_type()), short(call.output_type()));
            writeln!(text, "{}.{}({input}) -> {stream}{output}", service.name(), call.name()).unwrap();
        }
    }
    for message in &file.message_type {
        writeln!(text, "{}", message.name()).unwrap();
        for field in &message.field {
            let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
            let oneof = oneof.map(|at| format!(" of {}", message.oneof_decl[usize::try_from(at).unwrap()].name()));
            let kind = type_of(field, message);
            writeln!(text, "  {} = {} {kind}{}", field.name(), field.number(), oneof.unwrap_or_default()).unwrap();
        }
        for range in &message.reserved_range {
            writeln!(text, "  reserved {}", range.start()).unwrap();
        }
    }
    text
}

#[test]
fn the_contract_is_the_one_that_was_written_down() {
    let golden = include_str!("contract.txt");
    let now = listed();
    let changed: Vec<_> = now.lines().filter(|line| !golden.lines().any(|known| known == *line)).collect();
    assert!(now == golden, "the wire form changed; new or moved: {changed:#?}\nwhole:\n{now}");
}

#[test]
fn what_is_ours_is_numbered_from_1000_on() {
    let set = FileDescriptorSet::decode(chiton_compute_wire::DESCRIPTORS).unwrap();
    let file = set.file.iter().find(|file| file.package() == "openshell.compute.v1").unwrap();
    let ours: Vec<&str> = file
        .message_type
        .iter()
        .flat_map(|message| message.field.iter().filter(|field| field.number() >= 100).map(FieldDescriptorProto::name))
        .collect();
    assert_eq!(ours.len(), 13, "{ours:?}");
    let low = file
        .message_type
        .iter()
        .flat_map(|message| &message.field)
        .filter(|field| (14..1000).contains(&field.number()));
    assert_eq!(low.count(), 0);
}
