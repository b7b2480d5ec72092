//! What OpenAPI tells of custom kinds.
//!
//! Source: apiextensions-apiserver `pkg/controller/openapi/builder`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::types::METADATA;
use crate::json;
use crate::registry::Served;
use crate::structural;

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA_ABOUT: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Returns the name of a schema: `com.example.stable.v1.CronTab` for the group `stable.example.com`.
pub(super) fn name_of(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// Returns the schemas of those of the kinds that came at run time, by name.
pub(crate) fn published(kinds: &[&Served]) -> BTreeMap<String, Value> {
    let customs = kinds.iter().filter_map(|served| Some((served, served.kind.custom.as_ref()?)));
    customs.map(|(served, custom)| (served.schema().to_owned(), document(served, &custom.schema))).collect()
}

/// Returns what changes when the definition of one of the kinds does; empty when all are built in.
pub(crate) fn tag_of(kinds: &[&Served]) -> String {
    let mut hash = Sha256::new();
    let mut any = false;
    for custom in kinds.iter().filter_map(|served| served.kind.custom.as_ref()) {
        any = true;
        hash.update(&custom.tag);
    }
    if any { hex::encode_upper(hash.finalize()) } else { String::new() }
}

fn document(served: &Served, schema: &Value) -> Value {
    let mut schema = schema.clone();
    complete(&mut schema, true);
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": served.group(), "version": served.version(), "kind": served.kind.kind}]);
    schema
}

/// Adds the members that every object has, at the root and in embedded objects.
fn complete(schema: &mut Value, is_resource: bool) {
    for member in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(member).filter(|inner| inner.is_object()) {
            let is_resource = structural::is_embedded(inner);
            complete(inner, is_resource);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for inner in properties.values_mut() {
            let is_resource = structural::is_embedded(inner);
            complete(inner, is_resource);
        }
    }
    if is_resource {
        let properties = json::object_mut(schema, "properties");
        properties.insert("apiVersion".into(), json!({"type": "string", "description": API_VERSION}));
        properties.insert("kind".into(), json!({"type": "string", "description": KIND}));
        let reference = json!([{"$ref": format!("#/components/schemas/{METADATA}")}]);
        let metadata = json!({"description": METADATA_ABOUT, "allOf": reference});
        properties.insert("metadata".into(), metadata);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_the_reversed_group() {
        assert_eq!(name_of("stable.example.com", "v1", "CronTab"), "com.example.stable.v1.CronTab");
    }

    #[test]
    fn embedded_objects_have_what_every_object_has() {
        let mut schema = json!({"type": "object", "properties": {"list": {"type": "array",
            "items": {"type": "object", "x-kubernetes-embedded-resource": true}}}});
        complete(&mut schema, true);
        assert!(
            schema["properties"]["metadata"]["allOf"][0]["$ref"].as_str().unwrap().ends_with("ObjectMeta")
        );
        assert!(schema["properties"]["list"]["items"]["properties"]["apiVersion"].is_object());
    }
}
