//! The document of OpenAPI v2 as a protobuf message.
//!
//! Source: google/gnostic `openapiv2/OpenAPIv2.proto` (the numbers of the fields).

use serde_json::Value;

/// A message in writing.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f | 0x80) as u8);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u64, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, number: u64, message: &Self) {
        self.bytes(number, &message.0);
    }

    /// Writes the extensions of an object.
    fn extensions(&mut self, number: u64, object: &Value) {
        for (name, value) in
            object.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"))
        {
            self.message(number, &named(name, &any(value)));
        }
    }
}

/// A pair of a map.
fn named(name: &str, value: &Message) -> Message {
    let mut pair = Message::default();
    pair.bytes(1, name.as_bytes());
    pair.message(2, value);
    pair
}

/// Any value, as YAML.
fn any(value: &Value) -> Message {
    let mut any = Message::default();
    any.bytes(2, format!("{value}\n").as_bytes());
    any
}

/// Encodes the document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document["info"].get("title"));
    info.text(2, document["info"].get("version"));
    out.message(2, &info);
    let mut paths = Message::default();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let mut methods = Message::default();
        if let Some(patch) = item.get("patch") {
            methods.message(8, &operation(patch));
        }
        paths.message(2, &named(path, &methods));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, one) in document["definitions"].as_object().into_iter().flatten() {
        definitions.message(1, &named(name, &schema(one)));
    }
    out.message(9, &definitions);
    out.0
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let mut query = Message::default();
        query.text(2, parameter.get("in"));
        query.text(4, parameter.get("name"));
        query.text(6, parameter.get("type"));
        query.flag(20, parameter.get("uniqueItems"));
        // item ▷ parameter ▷ not of the body ▷ of the query
        let wrapped = [3, 2, 1].into_iter().fold(query, |inner, number| {
            let mut outer = Message::default();
            outer.message(number, &inner);
            outer
        });
        out.message(8, &wrapped);
    }
    let mut responses = Message::default();
    for (code, response) in operation["responses"].as_object().into_iter().flatten() {
        let (mut value, mut choice) = (Message::default(), Message::default());
        value.text(1, response.get("description"));
        choice.message(1, &value);
        responses.message(1, &named(code, &choice));
    }
    out.message(9, &responses);
    out.extensions(13, operation);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("$ref"));
    out.text(2, value.get("format"));
    out.text(4, value.get("description"));
    if let Some(default) = value.get("default") {
        out.message(5, &any(default));
    }
    out.texts(19, value.get("required"));
    for one in value.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.message(20, &any(one));
    }
    if let Some(others) = value.get("additionalProperties") {
        let mut item = Message::default();
        match others {
            Value::Bool(_) => item.flag(2, Some(others)),
            others => item.message(1, &schema(others)),
        }
        out.message(21, &item);
    }
    if value.get("type").is_some() {
        let mut kind = Message::default();
        kind.text(1, value.get("type"));
        out.message(22, &kind);
    }
    if let Some(items) = value.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(items));
        out.message(23, &item);
    }
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        let mut members = Message::default();
        for (name, one) in properties {
            members.message(1, &named(name, &schema(one)));
        }
        out.message(25, &members);
    }
    out.extensions(31, value);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_has_the_fields_of_gnostics_message() {
        let bytes = schema(&json!({"type": "array", "items": {"$ref": "#/x"}, "x-a": 1})).0;
        let mut wanted = vec![22 << 3 & 0x7f | 0x80 | 2, 1, 7, 0x0a, 5];
        wanted.extend_from_slice(b"array");
        wanted.extend_from_slice(&[23 << 3 & 0x7f | 0x80 | 2, 1, 7, 0x0a, 5, 0x0a, 3]);
        wanted.extend_from_slice(b"#/x");
        wanted.extend_from_slice(&[31u8.wrapping_shl(3) & 0x7f | 0x80 | 2, 1, 11, 0x0a, 3]);
        wanted.extend_from_slice(b"x-a");
        wanted.extend_from_slice(&[0x12, 4, 0x12, 2]);
        wanted.extend_from_slice(b"1\n");
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn long_lengths_take_more_bytes() {
        let mut out = Message::default();
        out.bytes(1, &[0; 300]);
        assert_eq!(&out.0[..3], &[0x0a, 0xac, 0x02]);
    }
}
