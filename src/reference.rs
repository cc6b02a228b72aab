//! The reference of the API as a page of the book: what `proto/net.proto` says, in Markdown. Takes
//! its descriptors, which have its comments, and returns text; so the page is true of what is
//! built.

use crate::proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use std::collections::HashMap;

const HEAD: &str = "# API reference

This page is generated from `proto/net.proto`. The daemon serves it by reflection, too.
[Programs that use the API](docs/clients.md) has clients, and what to do about errors.
";

/// Where the parts of a file are, as descriptors number them: the fields of `FileDescriptorProto`,
/// `DescriptorProto`, `EnumDescriptorProto` and `ServiceDescriptorProto`.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const SYNTAX: i32 = 12;
const FIELDS: i32 = 2;
const VALUES: i32 = 2;
const METHODS: i32 = 2;

/// Returns the page.
///
/// # Panics
///
/// The descriptors of this build are none.
pub fn page() -> String {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the build script encodes them");
    let file = files.file.iter().find(|file| file.package() == "mvirt.net");
    Page::of(file.expect("it is the one that is compiled")).text()
}

struct Page<'a> {
    file: &'a FileDescriptorProto,
    comments: HashMap<&'a [i32], &'a str>,
}

impl<'a> Page<'a> {
    fn of(file: &'a FileDescriptorProto) -> Self {
        let places = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments = places.filter_map(|it| Some((&*it.path, it.leading_comments.as_deref()?)));
        Self { file, comments: comments.collect() }
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}\n{}\n", escaped(&self.comment(&[SYNTAX])));
        for (number, service) in (0..).zip(&self.file.service) {
            text += &format!("\n## {}\n", service.name());
            for (at, method) in (0..).zip(&service.method) {
                text += &self.method(method, &[SERVICES, number, METHODS, at]);
            }
        }
        text += "\n## Messages\n";
        for (at, message) in (0..).zip(&self.file.message_type) {
            text += &self.message(message, &[MESSAGES, at]);
        }
        text += "\n## Enums\n";
        for (at, it) in (0..).zip(&self.file.enum_type) {
            text += &self.values(it, &[ENUMS, at]);
        }
        text
    }

    /// What is said above a part, without the indentation that all lines have.
    fn comment(&self, path: &[i32]) -> String {
        let comment = self.comments.get(path).copied().unwrap_or_default();
        let lines = comment.trim_end().lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The same in a row of a table.
    fn cell(&self, path: &[i32]) -> String {
        escaped(&self.comment(path).replace('\n', " ")).replace('|', "\\|")
    }

    fn method(&self, method: &MethodDescriptorProto, path: &[i32]) -> String {
        let (input, output) = (link(method.input_type()), link(method.output_type()));
        let stream = if method.server_streaming() { "a stream of " } else { "" };
        let comment = escaped(&self.comment(path));
        format!("\n### {}\n{input} → {stream}{output}\n\n{comment}\n", method.name())
    }

    fn message(&self, message: &DescriptorProto, path: &[i32]) -> String {
        let comment = escaped(&self.comment(path));
        let mut text = format!("\n### {}\n{comment}\n", message.name());
        if !message.field.is_empty() {
            text += "\n| field | type | number | |\n|---|---|---|---|\n";
        }
        for (at, field) in (0..).zip(&message.field) {
            let what = self.cell(&[path, &[FIELDS, at]].concat());
            let kind = kind(field, message);
            text += &format!("| `{}` | {kind} | {} | {what} |\n", field.name(), field.number());
        }
        text
    }

    fn values(&self, it: &EnumDescriptorProto, path: &[i32]) -> String {
        let comment = escaped(&self.comment(path));
        let mut text = format!("\n### {}\n{comment}\n", it.name());
        text += "\n| value | number | |\n|---|---|---|\n";
        for (at, value) in (0..).zip(&it.value) {
            let what = self.cell(&[path, &[VALUES, at]].concat());
            text += &format!("| `{}` | {} | {what} |\n", value.name(), value.number());
        }
        text
    }
}

/// What a field holds.
fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let name = field.type_name().rsplit('.').next().unwrap_or_default();
    // A map is a list of pairs, each a message within this one.
    if let Some(pair) = message.nested_type.iter().find(|inner| inner.name() == name) {
        let sides = pair.field.iter().map(|side| kind(side, pair)).collect::<Vec<_>>();
        return format!("map of {}", sides.join(" to "));
    }
    let one = match field.r#type() {
        Type::Message | Type::Enum => link(field.type_name()),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    if field.label() == Label::Repeated {
        return format!("list of {one}");
    }
    match field.oneof_index {
        // One that is marked as optional is alone in one, too.
        Some(_) if field.proto3_optional() => format!("{one}, may be absent"),
        Some(at) => {
            let group = usize::try_from(at).ok().and_then(|at| message.oneof_decl.get(at));
            format!("{one}, one of `{}`", group.map_or("", |group| group.name()))
        }
        None => one,
    }
}

/// A link to what is on this page; the name of what others define.
fn link(path: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or_default();
    if path.starts_with(".mvirt.net.") {
        format!("[{name}](#{})", name.to_lowercase())
    } else {
        format!("`{}`", path.trim_start_matches('.'))
    }
}

/// A comment as Markdown: only what is between backticks is code, and nothing else has a meaning.
fn escaped(comment: &str) -> String {
    let mut text = String::new();
    for (at, part) in comment.split('`').enumerate() {
        if at > 0 {
            text.push('`');
        }
        if at % 2 == 0 {
            text += &part.replace('<', "&lt;").replace('*', "\\*").replace('[', "\\[");
        } else {
            text += part;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_there_with_what_is_said_of_it() {
        let page = page();
        assert!(page.contains("\n  - Ids are UUIDs in text form"), "the conventions");
        let create = "\n### CreateNetwork\n[CreateNetworkRequest](#createnetworkrequest) → \
                      [Network](#network)\n\nCreates a network. Repeating a request";
        assert!(page.contains(create));
        assert!(page.contains("→ a stream of [NicEvent](#nicevent)\n"));
        assert!(page.contains("| `ipv4_subnet` | string | 3 | Required with ipv4_enabled. |"));
        assert!(page.contains("| `labels` | map of string to string | 120 |"));
        assert!(page.contains("| `nic` | [Nic](#nic), may be absent | 3 |"));
        assert!(page.contains("| `frame` | bytes, one of `what` | 2 |"));
        assert!(page.contains("| `NIC_STATE_ACTIVE` | 2 |"));
        let anchors: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        for link in page.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            assert!(anchors.iter().any(|anchor| anchor.to_lowercase() == link), "{link}");
        }
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            assert!(!row.ends_with("|  |"), "nothing is said of {row}");
        }
    }

    #[test]
    fn a_comment_means_nothing_to_markdown() {
        assert_eq!(escaped("\"*\" names `a*b|<c>` <all>"), "\"\\*\" names `a*b|<c>` &lt;all>");
    }
}
