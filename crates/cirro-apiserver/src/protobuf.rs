//! Protobuf request bodies: a generic wire decoder that makes the JSON form by the table of types.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown`: type meta, the object's own bytes, and
//! how those are encoded. Answers are JSON always.
//!
//! Source: apimachinery `runtime/serializer/protobuf`; protobuf's encoding guide.

use base64::Engine as _;
use cirro_seams::api::ApiError;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::error;
use crate::schema::{Shape, types};

mod omitted;

const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages.
const MAX_DEPTH: usize = 100;

/// Decodes a body.
///
/// # Errors
/// 400 for what is malformed or of a kind that is not known.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let refuse = |why: String| error::bad_request(format!("error decoding the protobuf body: {why}"));
    let unknown = body.strip_prefix(MAGIC).ok_or_else(|| refuse("it does not begin with `k8s\\0`".into()))?;
    read_unknown(unknown).map_err(refuse)
}

fn read_unknown(bytes: &[u8]) -> Result<Value, String> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    let (mut raw, mut content_type) = (None, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = Some(bytes),
            (4, Wire::Bytes(text)) => content_type = string(text)?,
            _ => {}
        }
    }
    let raw = raw.unwrap_or_default();
    if content_type == "application/json" {
        return serde_json::from_slice(raw).map_err(|why| why.to_string());
    }
    let definition = definition(&api_version, &kind);
    let index =
        definition.ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?}"))?;
    let mut object = message(index, raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// Finds the type of an object: of the group's own package, or of the common ones.
fn definition(api_version: &str, kind: &str) -> Option<usize> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let short = group.split('.').next().unwrap_or(group);
    // Retired groups had the same messages as those that replaced them.
    let (short, version) = match (short, version) {
        ("apps" | "extensions", "v1beta1" | "v1beta2") => ("apps", "v1"),
        other => other,
    };
    if short == "apiregistration" {
        return types().find(&format!("io.k8s.kube-aggregator.pkg.apis.{short}.{version}.{kind}"));
    }
    let meta = || types().find(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"));
    types().find(&format!("io.k8s.api.{short}.{version}.{kind}")).or_else(meta)
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("varint is too long".into())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(count).ok_or("message is cut off")?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>), String> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| "field number is too large")?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes"))),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "length is too large")?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes"))),
            other => return Err(format!("wire type {other} is not used")),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn string(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "text is not UTF-8".into())
}

/// Decodes a message of a type.
fn message(index: usize, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    if depth > MAX_DEPTH {
        return Err("messages are nested too deeply".into());
    }
    let kind = types().get(index);
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        if let Some((member, field)) = kind.numbered(number) {
            put(&mut object, member, &field.shape, wire, depth)?;
        } else if kind.inlines(number) {
            let Wire::Bytes(bytes) = wire else { return Err("want a message".into()) };
            for inner in Fields(bytes) {
                let (inner, wire) = inner?;
                if let Some((member, field)) = kind.inlined(number, inner) {
                    put(&mut object, member, &field.shape, wire, depth)?;
                }
            }
        }
        // Fields of later versions are skipped, as protobuf wants it.
    }
    object.retain(|member, value| !omitted::is_omitted(&kind.name, member, value));
    Ok(object)
}

fn put(
    object: &mut Map<String, Value>,
    member: &str,
    shape: &Shape,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), String> {
    match shape {
        Shape::List(items) => {
            let list = object.entry(member).or_insert_with(|| Value::Array(Vec::new()));
            let list = list.as_array_mut().expect("this member is a list");
            match (&**items, wire) {
                (Shape::Int32 | Shape::Int64, Wire::Bytes(packed)) => {
                    let mut packed = Fields(packed);
                    while !packed.0.is_empty() {
                        list.push((packed.varint()? as i64).into());
                    }
                }
                (items, wire) => list.push(value(items, wire, depth)?),
            }
        }
        Shape::Map(values) => {
            let Wire::Bytes(entry) = wire else { return Err("want a map entry".into()) };
            let (mut key, mut item) = (String::new(), None);
            for field in Fields(entry) {
                match field? {
                    (1, Wire::Bytes(text)) => key = string(text)?,
                    (2, wire) => item = Some(map_value(values, wire, depth)?),
                    _ => {}
                }
            }
            let map = object.entry(member).or_insert_with(|| Value::Object(Map::new()));
            let map = map.as_object_mut().expect("this member is a map");
            map.insert(key, item.unwrap_or_else(|| "".into()));
        }
        shape => {
            let value = value(shape, wire, depth)?;
            // A message that comes in parts is merged.
            match (object.get_mut(member), value) {
                (Some(Value::Object(present)), Value::Object(more)) => present.extend(more),
                (_, value) => drop(object.insert(member.to_owned(), value)),
            }
        }
    }
    Ok(())
}

/// Values of maps; a list is wrapped in a message with one repeated field.
fn map_value(shape: &Shape, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
    let Shape::List(items) = shape else { return value(shape, wire, depth) };
    let Wire::Bytes(bytes) = wire else { return Err("want a list".into()) };
    let mut list = Vec::new();
    for field in Fields(bytes) {
        if let (1, wire) = field? {
            list.push(value(items, wire, depth)?);
        }
    }
    Ok(Value::Array(list))
}

fn value(shape: &Shape, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
    match (shape, wire) {
        (Shape::Boolean, Wire::Varint(number)) => Ok((number != 0).into()),
        // Negative numbers are ten bytes long, in two's complement.
        (Shape::Int32 | Shape::Int64, Wire::Varint(number)) => Ok((number as i64).into()),
        (Shape::Number, Wire::Fixed64(bits)) => Ok(f64::from_bits(bits).into()),
        (Shape::Number, Wire::Fixed32(bits)) => Ok(f32::from_bits(bits).into()),
        (Shape::Text, Wire::Bytes(bytes)) => string(bytes).map(Value::String),
        (Shape::Bytes, Wire::Bytes(bytes)) => {
            Ok(base64::engine::general_purpose::STANDARD.encode(bytes).into())
        }
        (Shape::Quantity, Wire::Bytes(bytes)) => quantity(bytes),
        (Shape::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes),
        (Shape::Time, Wire::Bytes(bytes)) => time(bytes, false),
        (Shape::MicroTime, Wire::Bytes(bytes)) => time(bytes, true),
        (Shape::Raw | Shape::Fields | Shape::Any | Shape::Object, Wire::Bytes(bytes)) => embedded(bytes),
        (Shape::Type(index), Wire::Bytes(bytes)) => message(*index, bytes, depth + 1).map(Value::Object),
        _ => Err("a field has another wire type than its kind".into()),
    }
}

fn quantity(bytes: &[u8]) -> Result<Value, String> {
    let mut text = "0".to_owned();
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(bytes)) = field? {
            text = string(bytes)?;
        }
    }
    Ok(text.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number = value as i64,
            (3, Wire::Bytes(bytes)) => text = string(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// The zero time of Go, which JSON writes as null, is an empty message.
fn time(bytes: &[u8], micro: bool) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (None, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(value)) => seconds = Some(value as i64),
            (2, Wire::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let time = Timestamp::new(seconds, nanos).map_err(|why| why.to_string())?;
    Ok(if micro { crate::identity::micros(time) } else { crate::identity::seconds(time) }.into())
}

/// A message whose first field is JSON.
fn embedded(bytes: &[u8]) -> Result<Value, String> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(raw)) = field? {
            return serde_json::from_slice(raw).map_err(|why| why.to_string());
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            out.push((length & 0x7f | 0x80) as u8);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(content);
        out
    }

    fn join(parts: &[Vec<u8>]) -> Vec<u8> {
        parts.concat()
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = join(&[bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())]);
        join(&[MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)])
    }

    #[test]
    fn a_deployment_reads_as_kubectl_sends_it() {
        let metadata = join(&[
            bytes(1, b"web"),
            bytes(2, b""),
            bytes(8, b""),
            bytes(11, &join(&[bytes(1, b"app"), bytes(2, b"web")])),
        ]);
        let port = join(&[vec![3 << 3, 80], vec![2 << 3, 0]]);
        let cpu = join(&[bytes(1, b"cpu"), bytes(2, &bytes(1, b"50m"))]);
        let container =
            join(&[bytes(1, b"web"), bytes(2, b"nginx"), bytes(6, &port), bytes(8, &bytes(1, &cpu))]);
        let template = bytes(2, &bytes(2, &container));
        let spec = join(&[vec![1 << 3, 2], bytes(3, &template)]);
        let raw = join(&[bytes(1, &metadata), bytes(2, &spec)]);
        let object = decode(&body("apps/v1", "Deployment", &raw)).unwrap();
        assert_eq!(object["metadata"]["name"], "web");
        assert_eq!(object["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(object["metadata"].get("generateName"), None);
        assert_eq!(object["spec"]["replicas"], 2);
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["containerPort"], 80);
        assert_eq!(container["resources"]["limits"]["cpu"], "50m");
    }

    #[test]
    fn special_values_have_their_json_form() {
        let target = join(&[vec![1 << 3, 1], bytes(3, b"http")]);
        let port = join(&[vec![3 << 3, 80], bytes(4, &target)]);
        let object = decode(&body("v1", "Service", &bytes(2, &bytes(1, &port)))).unwrap();
        assert_eq!(object["spec"]["ports"][0]["targetPort"], "http");
        let data = join(&[bytes(1, b"k"), bytes(2, b"\x00\xff")]);
        let object = decode(&body("v1", "Secret", &bytes(2, &data))).unwrap();
        assert_eq!(object["data"]["k"], "AP8=");
        // The handler of a probe is a message of its own in protobuf and inlined in JSON.
        let get = bytes(2, &join(&[bytes(1, b"/x"), bytes(2, &[2 << 3, 80])]));
        let probe = join(&[bytes(1, &get), vec![2 << 3, 5]]);
        let pod = bytes(2, &bytes(2, &join(&[bytes(1, b"c"), bytes(11, &probe)])));
        let object = decode(&body("v1", "Pod", &pod)).unwrap();
        let probe = &object["spec"]["containers"][0]["readinessProbe"];
        assert_eq!(probe, &json!({"httpGet": {"path": "/x", "port": 80}, "initialDelaySeconds": 5}));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b"{}"[..], b"k8s\0\x0a", b"k8s\0\x12\x05ab", b"k8s\0\x0f"] {
            assert_eq!(decode(bad).unwrap_err().code, 400);
        }
        assert!(decode(&body("v1", "Nothing", b"")).unwrap_err().message.contains("no kind"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body("v1", "Pod", &raw));
            let _ = decode(&raw);
        }
    }
}
