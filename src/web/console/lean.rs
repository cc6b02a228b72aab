//! Messages as JSON without what is not given: empty, zero and false are what is meant by nothing
//! (`proto/net.proto`), and what is told each second of thousands is to be short.

use serde::Serialize;
use serde_json::Value;

/// Returns it as text.
pub(super) fn text(message: &impl Serialize) -> String {
    let mut value = serde_json::to_value(message).expect("messages have string keys");
    thin(&mut value);
    value.to_string()
}

/// Takes out of objects what is nothing. Lists keep their length.
fn thin(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|_, field| {
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
    use serde_json::json;

    #[test]
    fn nothing_is_not_said_and_lists_stay_as_long_as_they_are() {
        let said = text(&json!({
            "a": 0, "b": "", "c": null, "d": false, "e": [], "f": {"x": 0}, "g": [0, {"y": ""}],
            "h": 1, "i": "x", "j": true,
        }));
        assert_eq!(said, r#"{"f":{},"g":[0,{}],"h":1,"i":"x","j":true}"#);
    }
}
