//! The protocol cannot drift: every message, field, number and call of the compiled files is in a list that was written
//! down from the public contract.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use chiton_openshell_session::wire::DESCRIPTORS;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

fn type_of(field: &FieldDescriptorProto, within: &DescriptorProto) -> String {
    let name = field.type_name().trim_start_matches('.').trim_start_matches("openshell.");
    if let Some(entry) = within.nested_type.iter().find(|nested| name.ends_with(&format!(".{}", nested.name()))) {
        return format!("map<{}, {}>", type_of(&entry.field[0], entry), type_of(&entry.field[1], entry));
    }
    let plain = match field.r#type() {
        Type::Message | Type::Enum => name.to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    if field.label() == Label::Repeated { format!("repeated {plain}") } else { plain }
}

fn listed() -> String {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
    let mut text = String::new();
    for file in &set.file {
        writeln!(text, "package {}", file.package()).expect("text");
        for service in &file.service {
            for call in &service.method {
                let stream = |yes: bool| if yes { "stream " } else { "" };
                let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
                writeln!(
                    text,
                    "{}.{}({}{}) -> {}{}",
                    service.name(),
                    call.name(),
                    stream(call.client_streaming()),
                    short(call.input_type()),
                    stream(call.server_streaming()),
                    short(call.output_type())
                )
                .expect("text");
            }
        }
        for kind in &file.enum_type {
            let values: Vec<String> =
                kind.value.iter().map(|value| format!("{}={}", value.name(), value.number())).collect();
            writeln!(text, "{}: {}", kind.name(), values.join(" ")).expect("text");
        }
        for message in &file.message_type {
            writeln!(text, "{}", message.name()).expect("text");
            for field in &message.field {
                let oneof = field
                    .oneof_index
                    .map(|at| format!(" of {}", message.oneof_decl[usize::try_from(at).expect("an index")].name()));
                let (kind, oneof) = (type_of(field, message), oneof.unwrap_or_default());
                writeln!(text, "  {} = {} {kind}{oneof}", field.name(), field.number()).expect("text");
            }
        }
    }
    text
}

#[test]
fn the_protocol_is_the_one_that_was_written_down() {
    let golden = include_str!("contract.txt");
    let now = listed();
    let changed: Vec<_> = now.lines().filter(|line| !golden.lines().any(|known| known == *line)).collect();
    assert!(now == golden, "the wire form changed; new or moved: {changed:#?}\nwhole:\n{now}");
}
