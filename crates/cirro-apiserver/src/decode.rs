//! Request bodies: JSON, YAML or protobuf in, JSON values out.

use std::cell::RefCell;
use std::fmt;

use cirro_seams::api::ApiError;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error;

/// Largest request body.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;
/// Deepest nesting in YAML; JSON's is serde_json's 128.
const MAX_DEPTH: usize = 128;

/// A decoded body.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// Paths of members that were given more than once; the last one holds.
    pub(crate) duplicates: Vec<String>,
}

/// Decodes a body by its media type.
///
/// # Errors
/// 400 for what is malformed, 415 for another media type.
pub(crate) fn decode(media_type: &str, body: &[u8]) -> Result<Decoded, ApiError> {
    match media_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "*/*" | "application/octet-stream" => json(body),
        "application/yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => {
            Ok(Decoded { value: crate::protobuf::decode(body)?, duplicates: Vec::new() })
        }
        other => Err(error::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        ))),
    }
}

/// Decodes JSON and notes duplicate members.
pub(crate) fn json(body: &[u8]) -> Result<Decoded, ApiError> {
    let duplicates = RefCell::new(Vec::new());
    let mut decoder = serde_json::Deserializer::from_slice(body);
    let seed = Seed { path: String::new(), duplicates: &duplicates };
    let value = seed.deserialize(&mut decoder).and_then(|value| decoder.end().map(|()| value));
    let value = value.map_err(|why| error::bad_request(format!("error decoding the body: {why}")))?;
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

fn yaml(body: &[u8]) -> Result<Decoded, ApiError> {
    let text = std::str::from_utf8(body).map_err(|why| error::bad_request(why.to_string()))?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_aliases: 1_000,
            max_nodes: 200_000,
            max_total_scalar_bytes: MAX_BODY,
            max_documents: 1,
        },
    };
    let value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|why| error::bad_request(format!("error converting YAML to JSON: {why}")))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}

/// Builds a value and remembers where it is.
struct Seed<'a> {
    path: String,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            let seed = Seed { path, duplicates: self.duplicates };
            match items.next_element_seed(seed)? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let seed = Seed { path: path.clone(), duplicates: self.duplicates };
            let value = members.next_value_seed(seed)?;
            if object.insert(key, value).is_some() {
                self.duplicates.borrow_mut().push(path);
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_named_and_the_last_one_holds() {
        let decoded = json(br#"{"spec": {"replicas": 1, "replicas": 2, "l": [{"a": 1, "a": 2}]}}"#).unwrap();
        assert_eq!(decoded.duplicates, ["spec.replicas", "spec.l[0].a"]);
        assert_eq!(decoded.value["spec"]["replicas"], 2);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
        assert_eq!(json(&deep).unwrap_err().code, 400);
        assert_eq!(decode("application/yaml", &deep).unwrap_err().code, 400);
    }

    #[test]
    fn yaml_is_read_and_bombs_are_refused() {
        let decoded = decode("application/yaml", b"a: &x [1, 2]\nb: *x\nc: yes\n").unwrap();
        assert_eq!(decoded.value["b"], json!([1, 2]));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = level - 1;
            let list = vec![format!("*a{below}"); 9].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert_eq!(decode("application/yaml", bomb.as_bytes()).unwrap_err().code, 400);
    }

    #[test]
    fn other_media_types_are_told_what_would_be_right() {
        let refusal = decode("text/plain", b"").unwrap_err();
        assert!(refusal.code == 415 && refusal.message.contains("application/json"));
    }
}
