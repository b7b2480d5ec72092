//! A schema as a type of server-side apply: which parts of an object have owners of their own.
//!
//! Source: kube-openapi `pkg/schemaconv`.

use std::sync::Arc;

use serde_json::Value;

use crate::json;
use crate::schema::{Field, ListKind, Patch, Shape, Type, types};
use crate::structural;

/// Members that every object has.
pub(crate) const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Returns the type of a kind's objects.
pub(super) fn of(schema: &Value, kind: &str) -> Arc<Type> {
    object(schema, kind, true)
}

fn object(schema: &Value, name: &str, is_resource: bool) -> Arc<Type> {
    let mut fields: Vec<(Box<str>, Field)> = Vec::new();
    for (member, inner) in json::object(schema, "properties").into_iter().flatten() {
        if !(is_resource && matches!(member.as_str(), "apiVersion" | "kind" | "metadata")) {
            fields.push((member.as_str().into(), field(inner)));
        }
    }
    if is_resource {
        let metadata = types().find(METADATA).map_or(Shape::Object, Shape::Type);
        fields.push(("metadata".into(), plain(metadata)));
        fields.push(("apiVersion".into(), plain(Shape::Text)));
        fields.push(("kind".into(), plain(Shape::Text)));
    }
    let others = match schema.get("additionalProperties") {
        Some(inner) if inner.is_object() => Some(field(inner)),
        Some(Value::Bool(true)) => Some(plain(Shape::Any)),
        _ => structural::keeps_unknown(schema).then(|| plain(Shape::Any)),
    };
    Arc::new(Type::own(name, fields, others))
}

fn plain(shape: Shape) -> Field {
    Field { shape, number: 0, patch: Patch::default(), list: ListKind::Atomic, atomic: false }
}

fn field(schema: &Value) -> Field {
    let keys =
        || json::array(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).map(Into::into);
    let list = match json::text(schema, "x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => ListKind::Map(keys().collect()),
        _ => ListKind::Atomic,
    };
    let atomic = json::text(schema, "x-kubernetes-map-type") == "atomic";
    Field { list, atomic, ..plain(shape(schema)) }
}

fn shape(schema: &Value) -> Shape {
    let named = ["properties", "additionalProperties"].iter().any(|member| schema.get(*member).is_some());
    let is_resource = structural::is_embedded(schema);
    match json::text(schema, "type") {
        "array" => Shape::List(Box::new(schema.get("items").map_or(Shape::Any, shape))),
        "object" if named || is_resource => Shape::Own(object(schema, "", is_resource)),
        _ if schema["nullable"] == true => Shape::Any,
        "integer" => Shape::Int64,
        "number" => Shape::Number,
        "boolean" => Shape::Boolean,
        "string" => match json::text(schema, "format") {
            "" => Shape::Text,
            "date-time" => Shape::Time,
            "byte" => Shape::Bytes,
            _ => Shape::Any,
        },
        _ => Shape::Any,
    }
}
