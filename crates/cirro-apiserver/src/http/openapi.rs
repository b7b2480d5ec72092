//! OpenAPI documents: schemas from the generated file, paths from the registry.
//!
//! A document is written at the first request for it and kept compressed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read as _, Write as _};
use std::sync::{Mutex, OnceLock};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, ETAG, HeaderValue, LOCATION};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use cirro_seams::api::ApiError;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::aggregate::Foreign;
use super::answer;
use super::discovery::served;
use crate::custom::{METADATA, published, tag_of};
use crate::registry::{Registry, Served, Subresource};

static DEFINITIONS: &[u8] = include_bytes!("../../data/definitions.json.gz");
const REFERENCE: &str = "\"#/components/schemas/";

/// Returns the list of documents.
pub(super) fn index(registry: &Registry, foreign: &[Foreign]) -> Value {
    let mut paths = BTreeMap::new();
    for group in registry.groups() {
        for (version, kinds) in &group.versions {
            let path = path_of(group.name, version);
            let url = format!("/openapi/v3/{path}?hash={}{}", hash(), tag_of(kinds));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    for one in foreign {
        paths.remove(&path_of(one.group(), one.version()));
        let document = one.document.as_ref().and_then(|document| document.as_object());
        paths.extend(document.into_iter().flatten().map(|(path, entry)| (path.clone(), entry.clone())));
    }
    json!({"paths": paths})
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Returns what changes when any document does: the schemas and this program's version.
pub(super) fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let mut hash = Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update(DEFINITIONS);
        hex::encode_upper(hash.finalize())
    })
}

/// Answers with the document of a group and version.
///
/// A request that names a tag gets the document of that tag, which it may keep for ever, or is sent to the one there is.
pub(super) fn document(
    registry: &Registry,
    group: &str,
    version: &str,
    query: Option<&str>,
) -> Result<Response<Body>, ApiError> {
    static KEPT: Mutex<BTreeMap<String, Bytes>> = Mutex::new(BTreeMap::new());
    let path = path_of(group, version);
    let kinds = served(registry, group, version)?;
    let kept = KEPT.lock().expect("no panic while it is held").get(&path).cloned();
    let tag = tag_of(&kinds);
    let whole = format!("{}{tag}", hash());
    let asked = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("hash=")));
    if asked.is_some_and(|asked| asked != whole) {
        return Ok(moved(&format!("/openapi/v3/{path}?hash={whole}")));
    }
    let text = match kept {
        _ if !tag.is_empty() => write_document(&kinds).into_bytes(),
        Some(kept) => inflate(&kept),
        None => {
            let text = write_document(&kinds).into_bytes();
            KEPT.lock().expect("no panic while it is held").insert(path, deflate(&text));
            text
        }
    };
    let mut response = answer::bytes(text.into());
    tagged(&mut response, &whole);
    if asked.is_some() {
        let for_ever = HeaderValue::from_static("public, immutable, max-age=31536000");
        response.headers_mut().insert(CACHE_CONTROL, for_ever);
    }
    Ok(response)
}

fn moved(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let to = HeaderValue::from_str(to).expect("groups, versions and tags are plain ASCII");
    response.headers_mut().insert(LOCATION, to);
    response
}

/// Lets clients keep a document until its tag changes.
pub(super) fn tagged(response: &mut Response<Body>, tag: &str) {
    let tag = HeaderValue::from_str(&format!("\"{tag}\"")).expect("it is hexadecimal");
    response.headers_mut().insert(ETAG, tag);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
}

pub(super) fn inflate(bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut content).expect("it was written by this program");
    content
}

pub(super) fn deflate(content: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("memory takes it");
    encoder.finish().expect("memory takes it").into()
}

fn write_document(kinds: &[&Served]) -> String {
    let mut roots: Vec<&str> = kinds.iter().map(|served| served.schema()).collect();
    roots.extend([
        "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    ]);
    if kinds.iter().any(|served| served.kind.has(Subresource::Scale)) {
        roots.push("io.k8s.api.autoscaling.v1.Scale");
    }
    let customs = published(kinds);
    if !customs.is_empty() {
        roots.push(METADATA);
    }
    let customs: BTreeMap<_, _> = customs.iter().map(|(name, schema)| (name.as_str(), raw(schema))).collect();
    let schemas = with_schemas(&roots, |schemas| {
        let mut all = schemas.clone();
        all.extend(customs.iter().map(|(name, schema)| (*name, &**schema)));
        serde_json::to_string(&all).expect("definitions are JSON")
    });
    let paths: BTreeMap<_, _> = kinds.iter().flat_map(|served| paths(served)).collect();
    let info = json!({"title": "Kubernetes", "version": crate::VERSION});
    format!(
        r#"{{"openapi":"3.0.0","info":{info},"paths":{},"components":{{"schemas":{schemas}}}}}"#,
        json!(paths)
    )
}

fn raw(schema: &Value) -> Box<RawValue> {
    RawValue::from_string(schema.to_string()).expect("it is JSON")
}

/// Calls `use_them` with the definitions that `roots` need.
pub(super) fn with_schemas<T>(roots: &[&str], use_them: impl FnOnce(&BTreeMap<&str, &RawValue>) -> T) -> T {
    let text = inflate(DEFINITIONS);
    let all: HashMap<&str, &RawValue> = serde_json::from_slice(&text).expect("the file is built in");
    let mut found = BTreeMap::new();
    let mut wanted: BTreeSet<&str> = roots.iter().copied().collect();
    while let Some(name) = wanted.pop_first() {
        let Some((name, schema)) = all.get_key_value(name) else { continue };
        found.insert(*name, *schema);
        let names = schema.get().split(REFERENCE).skip(1).filter_map(|rest| rest.split('"').next());
        wanted.extend(names.filter(|name| !found.contains_key(name)));
    }
    use_them(&found)
}

/// Returns the path of the objects of a kind, of one namespace when it has them.
pub(super) fn collection_path(served: &Served) -> String {
    let root = path_of(served.group(), served.version());
    let place = if served.kind.namespaced { "namespaces/{namespace}/" } else { "" };
    format!("/{root}/{place}{}", served.kind.plural)
}

/// Returns the paths of a kind.
fn paths(served: &Served) -> Vec<(String, Value)> {
    let kind = &served.kind;
    let root = format!("/{}", path_of(served.group(), served.version()));
    let all = format!("{root}/{}", kind.plural);
    let collection = collection_path(served);
    let one = format!("{collection}/{{name}}");
    if kind.strategy.is_computed() {
        let list = operations(served, &[("get", "list")]);
        return vec![(collection, list), (one, operations(served, &[("get", "get")]))];
    }
    if !kind.stored {
        return vec![(collection, operations(served, &[("post", "post")]))];
    }
    let mut paths = vec![
        (
            collection,
            operations(served, &[("get", "list"), ("post", "post"), ("delete", "deletecollection")]),
        ),
        (
            one.clone(),
            operations(served, &[("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")]),
        ),
    ];
    if kind.namespaced {
        paths.push((all, operations(served, &[("get", "list")])));
    }
    if kind.has(Subresource::Status) {
        let status = operations(served, &[("get", "get"), ("put", "put"), ("patch", "patch")]);
        paths.push((format!("{one}/status"), status));
    }
    paths
}

fn operations(served: &Served, methods: &[(&str, &str)]) -> Value {
    let mut item = json!({});
    for (method, action) in methods {
        item[*method] = operation(served, method, action);
    }
    item
}

fn operation(served: &Served, method: &str, action: &str) -> Value {
    let kind = &served.kind;
    let schema = json!({"$ref": format!("#/components/schemas/{}", served.schema())});
    let content = json!({"application/json": {"schema": schema}});
    let mut parameters = Vec::new();
    if matches!(action, "post" | "put" | "patch") {
        let force = (action == "patch").then_some("force");
        for name in ["dryRun", "fieldManager", "fieldValidation"].into_iter().chain(force) {
            parameters.push(
                json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}),
            );
        }
    }
    let mut operation = json!({
        "operationId": format!("{action}{}{}{}", capital(served.group()), capital(served.version()), kind.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": served.group(), "version": served.version(), "kind": kind.kind},
    });
    if matches!(method, "post" | "put") {
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": schema}}});
    } else if method == "patch" {
        let any = json!({"schema": {"type": "object"}});
        operation["requestBody"] = json!({"required": true, "content": {
            "application/json-patch+json": any, "application/merge-patch+json": any,
            "application/apply-patch+yaml": any}});
        // kubectl chooses its patch by this; kinds that came at run time have no patch rules.
        if kind.custom.is_none() {
            operation["requestBody"]["content"]["application/strategic-merge-patch+json"] = any;
        }
    }
    operation
}

fn capital(text: &str) -> String {
    let mut letters = text.split('.').next().unwrap_or_default().chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::join_version;

    #[test]
    fn every_document_is_json_and_whole() {
        let registry = crate::kinds::registry();
        for group in registry.groups() {
            for (version, kinds) in &group.versions {
                let document: Value = serde_json::from_str(&write_document(kinds)).unwrap();
                let schemas = document["components"]["schemas"].as_object().unwrap();
                let text = document.to_string();
                for rest in text.split(REFERENCE).skip(1) {
                    let name = rest.split('"').next().unwrap();
                    assert!(schemas.contains_key(name), "{}: {name}", join_version(group.name, version));
                }
            }
        }
    }

    #[test]
    fn writing_operations_name_the_field_validation() {
        let registry = crate::kinds::registry();
        let kinds = served(&registry, "apps", "v1").unwrap();
        let document: Value = serde_json::from_str(&write_document(&kinds)).unwrap();
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert!(patch["parameters"].to_string().contains("fieldValidation"));
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    }
}
