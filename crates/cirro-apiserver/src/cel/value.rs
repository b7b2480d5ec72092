//! Values of expressions.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

use crate::json;
use crate::validate::quantity::Quantity;

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Cel {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Cel>>),
    Map(Arc<BTreeMap<Key, Cel>>),
    /// In nanoseconds.
    Duration(i128),
    Timestamp(Timestamp),
    Type(&'static str),
    Optional(Option<Box<Cel>>),
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(IpNet),
    Url(Arc<super::kubernetes::Url>),
    Semver([u64; 3], Arc<str>),
    Format(&'static str),
    Authz(Arc<super::authorizer::Authz>),
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Bool(bool),
    Int(i128),
    Text(Arc<str>),
}

impl From<&str> for Cel {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cel {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<Cel>> for Cel {
    fn from(items: Vec<Cel>) -> Self {
        Self::List(Arc::new(items))
    }
}

impl Key {
    pub(super) fn of(value: &Cel) -> Option<Self> {
        Some(match value {
            Cel::Bool(value) => Self::Bool(*value),
            Cel::Int(number) => Self::Int((*number).into()),
            Cel::Uint(number) => Self::Int((*number).into()),
            Cel::Double(number) if number.fract() == 0.0 => Self::Int(*number as i128),
            Cel::Text(text) => Self::Text(text.clone()),
            _ => return None,
        })
    }

    pub(super) fn value(&self) -> Cel {
        match self {
            Self::Bool(value) => Cel::Bool(*value),
            Self::Int(number) => i64::try_from(*number).map_or(Cel::Uint(*number as u64), Cel::Int),
            Self::Text(text) => Cel::Text(text.clone()),
        }
    }
}

impl Cel {
    /// Takes a value as it is written.
    pub(crate) fn of(value: &Value) -> Self {
        Self::with_schema(value, &Value::Null)
    }

    /// Takes a value as its schema means it: times and durations are such, names are escaped, numbers have their type.
    pub(crate) fn with_schema(value: &Value, schema: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (number.as_i64(), json::text(schema, "type")) {
                (Some(number), "number") => Self::Double(number as f64),
                (Some(number), _) => Self::Int(number),
                (None, _) => number.as_u64().map_or(Self::Double(number.as_f64().unwrap_or(0.0)), Self::Uint),
            },
            Value::String(text) => Self::text(text, json::text(schema, "format")),
            Value::Array(items) => {
                let inner = &schema["items"];
                items.iter().map(|item| Self::with_schema(item, inner)).collect::<Vec<_>>().into()
            }
            Value::Object(members) => {
                let properties = json::object(schema, "properties");
                let others = &schema["additionalProperties"];
                let member = |(name, value): (&String, &Value)| {
                    let inner = properties.and_then(|all| all.get(name));
                    let key = if inner.is_some() { escaped(name) } else { name.as_str().into() };
                    (Key::Text(key), Self::with_schema(value, inner.unwrap_or(others)))
                };
                Self::Map(Arc::new(members.iter().map(member).collect()))
            }
        }
    }

    /// Takes values by name.
    pub(crate) fn members(members: &BTreeMap<String, Self>) -> Self {
        let entry = |(name, value): (&String, &Self)| (Key::Text(name.as_str().into()), value.clone());
        Self::Map(Arc::new(members.iter().map(entry).collect()))
    }

    fn text(text: &str, format: &str) -> Self {
        let parsed = match format {
            "date-time" | "datetime" => text.parse().ok().map(Self::Timestamp),
            "date" => format!("{text}T00:00:00Z").parse().ok().map(Self::Timestamp),
            "duration" => super::time::duration(text).map(Self::Duration),
            "byte" => {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .ok()
                    .map(|bytes| Self::Bytes(bytes.into()))
            }
            _ => None,
        };
        parsed.unwrap_or_else(|| text.into())
    }

    /// Returns the name of its type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(..) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authz(authz) => authz.type_name(),
        }
    }

    /// Returns roughly how large it is, for what it costs to look at all of it.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Text(text) => 1 + text.len() as u64 / 10,
            Self::Bytes(bytes) => 1 + bytes.len() as u64 / 10,
            Self::List(items) => 1 + items.iter().map(Self::size).sum::<u64>(),
            Self::Map(entries) => 1 + entries.values().map(|value| 1 + value.size()).sum::<u64>(),
            _ => 1,
        }
    }

    /// Whether two values are equal; numbers of different types are when they are the same number.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::List(one), Self::List(other)) => {
                one.len() == other.len() && one.iter().zip(other.iter()).all(|(one, other)| one.equals(other))
            }
            (Self::Map(one), Self::Map(other)) => {
                let same =
                    |(key, value): (&Key, &Cel)| other.get(key).is_some_and(|found| found.equals(value));
                one.len() == other.len() && one.iter().all(same)
            }
            (Self::Type(one), Self::Type(other)) => one == other,
            (Self::Optional(one), Self::Optional(other)) => match (one, other) {
                (Some(one), Some(other)) => one.equals(other),
                (one, other) => one.is_none() && other.is_none(),
            },
            (Self::Ip(one), Self::Ip(other)) => one == other,
            (Self::Cidr(one), Self::Cidr(other)) => one == other,
            (Self::Url(one), Self::Url(other)) => one == other,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// Compares two values; `None` when they cannot be.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Bytes(one), Self::Bytes(other)) => one.cmp(other),
            (Self::Duration(one), Self::Duration(other)) => one.cmp(other),
            (Self::Timestamp(one), Self::Timestamp(other)) => one.cmp(other),
            (Self::Quantity(one), Self::Quantity(other)) => one.cmp(other),
            (Self::Semver(one, left), Self::Semver(other, right)) => {
                // A version before the release is less than the release.
                one.cmp(other)
                    .then_with(|| left.is_empty().cmp(&right.is_empty()))
                    .then_with(|| left.cmp(right))
            }
            _ => {
                let (one, other) = (self.number()?, other.number()?);
                match (one, other) {
                    (Number::Whole(one), Number::Whole(other)) => one.cmp(&other),
                    (one, other) => return one.real().partial_cmp(&other.real()),
                }
            }
        })
    }

    fn number(&self) -> Option<Number> {
        Some(match self {
            Self::Int(number) => Number::Whole((*number).into()),
            Self::Uint(number) => Number::Whole((*number).into()),
            Self::Double(number) => Number::Real(*number),
            _ => return None,
        })
    }
}

enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn real(&self) -> f64 {
        match self {
            Self::Whole(number) => *number as f64,
            Self::Real(number) => *number,
        }
    }
}

const RESERVED: [&str; 20] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

/// Writes the name of a member as expressions name it.
///
/// Source: apiserver `pkg/cel/escaping.go`.
pub(crate) fn escaped(name: &str) -> Arc<str> {
    if RESERVED.contains(&name) || name == "while" {
        return format!("__{name}__").into();
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
        .into()
}
