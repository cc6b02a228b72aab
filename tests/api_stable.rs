//! What clients have been built with stays what it is: no field, value or method of the API gets
//! another number or type, or goes. What is new is added to `tests/golden/api.txt`, which a failure
//! prints.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};
use std::collections::BTreeSet;

const GOLDEN: &str = include_str!("golden/api.txt");

/// Returns what there is, a line each.
fn lines() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(mvirt_net::proto::DESCRIPTORS).unwrap();
    let mut lines = BTreeSet::new();
    for file in files.file.iter().filter(|file| file.package() == "mvirt.net") {
        for message in &file.message_type {
            fields(message.name(), message, &mut lines);
        }
        for it in &file.enum_type {
            let values = it.value.iter();
            lines.extend(values.map(|v| format!("{} {} = {}", it.name(), v.name(), v.number())));
        }
        for service in &file.service {
            for it in &service.method {
                let name = |path: &str| path.rsplit('.').next().unwrap().to_owned();
                let (input, output) = (name(it.input_type()), name(it.output_type()));
                let stream = if it.server_streaming() { "stream " } else { "" };
                lines.insert(format!("rpc {}({input}) {stream}{output}", it.name()));
            }
        }
    }
    lines
}

fn fields(name: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    for field in &message.field {
        let kind = match field.type_name() {
            "" => format!("{:?}", field.r#type()),
            path => path.rsplit('.').next().unwrap().into(),
        };
        let many = format!("{:?}", field.label());
        lines.insert(format!("{name}.{} = {} {kind} {many}", field.name(), field.number()));
    }
    for inner in &message.nested_type {
        fields(&format!("{name}.{}", inner.name()), inner, lines);
    }
}

#[test]
fn numbers_and_types_stay_what_they_are() {
    let (now, golden) = (lines(), GOLDEN.lines().map(str::to_owned).collect::<BTreeSet<_>>());
    let gone: Vec<_> = golden.difference(&now).cloned().collect();
    assert!(gone.is_empty(), "clients were built with these:\n{}", gone.join("\n"));
    let new: Vec<_> = now.difference(&golden).cloned().collect();
    assert!(new.is_empty(), "add these to tests/golden/api.txt:\n{}", new.join("\n"));
}
