//! Messages as JSON without what is not given: empty, zero and false are what is meant by nothing
//! (`proto/net.proto`), and what is told each second of thousands is to be short. Maps are told
//! whole: their keys say something without a value, too.

use serde::Serialize;
use serde_json::Value;

/// The fields that are maps. In JSON they look like messages.
const MAPS: &[&str] = &["labels", "details"];

/// Returns it as text.
pub(super) fn text(message: &impl Serialize) -> String {
    let mut value = serde_json::to_value(message).expect("messages have string keys");
    thin(&mut value);
    value.to_string()
}

/// Takes out of messages what is nothing. Lists keep their length, and maps their keys.
fn thin(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|name, field| {
            if MAPS.contains(&&**name) {
                return field.as_object().is_none_or(|map| !map.is_empty());
            }
            thin(field);
            !is_nothing(field)
        }),
        Value::Array(items) => items.iter_mut().for_each(thin),
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_so) => !is_so,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::DESCRIPTORS;
    use prost::Message as _;
    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
    use serde_json::json;

    #[test]
    fn nothing_is_not_said_and_lists_stay_as_long_as_they_are() {
        let said = text(&json!({
            "a": 0, "b": "", "c": null, "d": false, "e": [], "f": {"x": 0}, "g": [0, {"y": ""}],
            "h": 1, "i": "x", "j": true,
        }));
        assert_eq!(said, r#"{"f":{},"g":[0,{}],"h":1,"i":"x","j":true}"#);
    }

    #[test]
    fn keys_of_maps_are_said_without_a_value_too() {
        let said = text(&json!({"nic": {"labels": {"gpu": "", "owner": "me"}, "error": ""}}));
        assert_eq!(said, r#"{"nic":{"labels":{"gpu":"","owner":"me"}}}"#);
        assert_eq!(text(&json!({"nic": {"labels": {}}})), r#"{"nic":{}}"#);
    }

    #[test]
    fn every_map_of_the_api_is_known_by_its_name() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let ours = files.file.iter().find(|file| file.package() == "mvirt.net").unwrap();
        let is_map = |message: &DescriptorProto, field: &FieldDescriptorProto| {
            message.nested_type.iter().any(|entry| {
                let is_entry = entry.options.as_ref().is_some_and(|options| options.map_entry());
                is_entry && field.type_name().ends_with(&format!(".{}", entry.name()))
            })
        };
        // Requests are not told.
        let told = ours.message_type.iter().filter(|it| !it.name().ends_with("Request"));
        for message in told {
            for field in &message.field {
                let (of, name) = (message.name(), field.name());
                assert_eq!(MAPS.contains(&name), is_map(message, field), "{of}.{name}");
            }
        }
    }
}
