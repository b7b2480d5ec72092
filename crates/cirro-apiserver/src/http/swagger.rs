//! `/openapi/v2`: all kinds in one document, as JSON or as gnostic's protobuf, which kubectl up to 1.28 asks for.
//!
//! Clients read the definitions (validation, explain) and the parameters of the patch operations (what the server
//! understands), so those are what the document has. It is written at the first request for it and kept compressed.

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use cirro_seams::api::ApiError;
use serde_json::{Map, Value, json};

use super::aggregate::Foreign;
use super::answer;
use super::openapi::{collection_path, deflate, hash, inflate, tagged, with_schemas};
use crate::custom::{METADATA, published, tag_of};
use crate::error;
use crate::json;
use crate::registry::Registry;

mod proto;

/// What old clients ask for; it is no media type by the rules, so answers carry the other name.
const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const REFERENCE: &str = "#/components/schemas/";

/// A form of the document.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Protobuf,
}

/// Answers with the document.
pub(super) fn answer(
    headers: &HeaderMap,
    registry: &Registry,
    foreign: &[Foreign],
) -> Result<Response<Body>, ApiError> {
    let form = wanted(headers).ok_or_else(error::not_acceptable)?;
    let (kept, media_type) = match form {
        Form::Json => (&registry.swagger[0], "application/json"),
        Form::Protobuf => (&registry.swagger[1], PROTOBUF),
    };
    let write = |document: &Value| match form {
        Form::Json => document.to_string().into_bytes(),
        Form::Protobuf => proto::document(document),
    };
    let others: Vec<&Value> = foreign.iter().filter_map(|one| one.document.as_deref()).collect();
    let text = match others.is_empty() {
        true => inflate(kept.get_or_init(|| deflate(&write(&document(registry))))),
        // Nobody asks for it often: clients of today ask for v3, and those that do not send the tag.
        false => write(&merged(document(registry), &others)),
    };
    let mut response = answer::bytes(text.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    let groups = registry.groups();
    let all: Vec<_> = groups
        .iter()
        .flat_map(|group| &group.versions)
        .flat_map(|(_, kinds)| kinds.iter().copied())
        .collect();
    let of_others: String = others.iter().filter_map(|one| one["tag"].as_str()).collect();
    tagged(&mut response, &format!("{}{}{of_others}", hash(), tag_of(&all)));
    Ok(response)
}

/// Adds what other servers have. A definition that is here too stays as it is here.
fn merged(mut document: Value, others: &[&Value]) -> Value {
    for other in others {
        for member in ["paths", "definitions"] {
            let ours = json::object_mut(&mut document, member);
            for (name, value) in other[member].as_object().into_iter().flatten() {
                ours.entry(name).or_insert_with(|| value.clone());
            }
        }
    }
    document
}

/// Returns the first form in `Accept` that there is.
fn wanted(headers: &HeaderMap) -> Option<Form> {
    let accepts: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accepts.is_empty() {
        return Some(Form::Json);
    }
    let media = accepts.iter().flat_map(|one| one.split(','));
    let media = media.map(|one| one.split(';').next().unwrap_or_default().trim());
    media.into_iter().find_map(|media| match media {
        "application/json" | "*/*" | "application/*" => Some(Form::Json),
        ASKED | PROTOBUF => Some(Form::Protobuf),
        _ => None,
    })
}

fn document(registry: &Registry) -> Value {
    let mut roots: Vec<String> = vec![METADATA.into()];
    let mut paths = Map::new();
    let mut customs = Map::new();
    for group in registry.groups() {
        for served in group.versions.iter().flat_map(|(_, kinds)| kinds) {
            roots.push(served.schema().to_owned());
            customs
                .extend(published(&[served]).into_iter().map(|(name, schema)| (name, custom_of_v2(schema))));
            let kind = &served.kind;
            if !kind.stored {
                continue;
            }
            let identity = json!({"group": served.group(), "version": served.version(), "kind": kind.kind});
            let names = ["dryRun", "fieldManager", "fieldValidation", "force"];
            let parameters = names.map(|name| {
                json!({"name": name, "in": "query", "type": if name == "force" { "boolean" } else { "string" },
                    "uniqueItems": true})
            });
            let mut consumes = vec!["application/json-patch+json", "application/merge-patch+json"];
            if kind.custom.is_none() {
                consumes.push("application/strategic-merge-patch+json");
            }
            consumes.push("application/apply-patch+yaml");
            let operation = json!({"consumes": consumes,
                "produces": ["application/json"], "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": identity});
            paths.insert(format!("{}/{{name}}", collection_path(served)), json!({"patch": operation}));
        }
    }
    roots.push("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".into());
    let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
    let definitions = with_schemas(&roots, |schemas| {
        let converted = schemas.iter().map(|(name, schema)| {
            let schema = serde_json::from_str(schema.get()).expect("definitions are JSON");
            ((*name).to_owned(), schema_of_v2(schema))
        });
        converted.chain(std::mem::take(&mut customs)).collect::<Map<_, _>>()
    });
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": crate::VERSION},
        "paths": paths, "definitions": definitions})
}

/// Writes the schema of a custom kind as v2 has it: what v2 cannot say is left open.
///
/// Source: apiextensions-apiserver `pkg/controller/openapi/v2/conversion.go`.
fn custom_of_v2(mut schema: Value) -> Value {
    relax(&mut schema);
    schema_of_v2(schema)
}

fn relax(schema: &mut Value) {
    let set = |schema: &Value, extension: &str| schema.get(extension) == Some(&Value::Bool(true));
    let open = set(schema, "x-kubernetes-preserve-unknown-fields") || set(schema, "nullable");
    let either = set(schema, "x-kubernetes-int-or-string");
    let Some(members) = schema.as_object_mut() else { return };
    members.remove("nullable");
    if !members.get("allOf").is_some_and(|all| all.to_string().contains("$ref")) {
        members.remove("allOf");
    }
    if open {
        for member in ["type", "items", "properties", "additionalProperties"] {
            members.remove(member);
        }
    }
    if either {
        members.remove("type");
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(relax);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = members.get_mut(inner) {
            relax(schema);
        }
    }
}

/// Writes a schema of OpenAPI v3 as v2 has it: a reference stands alone, what may be a number or text is text of a format of its
/// own, and other alternatives are left open (`JSONSchemaPropsOrArray`).
fn schema_of_v2(schema: Value) -> Value {
    let Value::Object(mut members) = schema else { return schema };
    for member in ["anyOf", "oneOf", "not"] {
        members.remove(member);
    }
    if let Some(Value::Array(all)) = members.remove("allOf") {
        members.extend(all.into_iter().filter_map(|one| one.as_object().cloned()).flatten());
    }
    if let Some(Value::String(reference)) = members.get_mut("$ref") {
        *reference = reference.replace(REFERENCE, "#/definitions/");
    }
    if members.remove("x-kubernetes-int-or-string").is_some() {
        members.insert("type".into(), "string".into());
        members.insert("format".into(), "int-or-string".into());
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(|property| *property = schema_of_v2(property.take()));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = members.get_mut(inner) {
            *schema = schema_of_v2(schema.take());
        }
    }
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_stand_alone_and_lead_somewhere() {
        let document = document(&crate::kinds::registry());
        let definitions = document["definitions"].as_object().unwrap();
        let text = document.to_string();
        let left = text.find("\"allOf\":[").or(text.find(REFERENCE));
        assert_eq!(left.map(|at| &text[at.saturating_sub(200)..at + 100]), None);
        for rest in text.split("\"#/definitions/").skip(1) {
            assert!(definitions.contains_key(rest.split('"').next().unwrap()));
        }
        let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!((&port["type"], &port["format"]), (&json!("string"), &json!("int-or-string")));
    }

    #[test]
    fn patches_name_their_parameters() {
        let document = document(&crate::kinds::registry());
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["parameters"][2]["name"], "fieldValidation");
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    }

    #[test]
    fn clients_choose_the_form() {
        let headers =
            |accept: &'static str| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        assert!(matches!(wanted(&HeaderMap::new()), Some(Form::Json)));
        assert!(matches!(wanted(&headers(ASKED)), Some(Form::Protobuf)));
        assert!(wanted(&headers("text/html")).is_none());
    }
}
