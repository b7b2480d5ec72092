//! What aggregated servers say of themselves: discovery and OpenAPI, asked when somebody asks us, kept for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Aggregator, Remote};
use crate::json;
use crate::storage::Storage;

/// How long a server may take to tell one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one is told again without asking, and how long a failure counts.
const FRESH: Duration = Duration::from_secs(60);
const FAILED: Duration = Duration::from_secs(5);
/// Largest document.
const MAX_DOCUMENT: usize = 8 * 1024 * 1024;
const DEFINITION: &str = "#/definitions/";

/// The documents of one server.
#[derive(Default)]
pub(super) struct Documents {
    discovery: Mutex<Kept>,
    openapi: Mutex<Kept>,
    swagger: Mutex<Kept>,
}

/// One document.
#[derive(Default)]
struct Kept {
    document: Option<Arc<Value>>,
    /// Whether the last question was answered.
    current: bool,
    asked: Option<Instant>,
}

/// Which documents somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Wanted {
    /// None: only who there is.
    Nothing,
    Discovery,
    /// The list of documents of OpenAPI v3.
    OpenApi,
    /// The document of OpenAPI v2.
    Swagger,
}

/// A remote one as it is told to clients.
pub(in crate::http) struct Foreign {
    pub(in crate::http) remote: Arc<Remote>,
    /// What was wanted, when the server ever told it.
    pub(in crate::http) document: Option<Arc<Value>>,
    /// Whether that is what it says now.
    pub(in crate::http) current: bool,
}

impl Foreign {
    pub(in crate::http) fn group(&self) -> &str {
        &self.remote.group
    }

    pub(in crate::http) fn version(&self) -> &str {
        &self.remote.version
    }
}

impl Aggregator {
    /// Returns the remote ones with a document of each; all are asked at once.
    pub(in crate::http) async fn foreign(&self, storage: &Storage, wanted: Wanted) -> Vec<Foreign> {
        let table = self.table();
        let each = table.iter().map(|remote| async {
            let (document, current) = self.document(storage, remote, wanted).await;
            Foreign { remote: remote.clone(), document, current }
        });
        futures_util::future::join_all(each).await
    }

    async fn document(
        &self,
        storage: &Storage,
        remote: &Remote,
        wanted: Wanted,
    ) -> (Option<Arc<Value>>, bool) {
        let kept = match wanted {
            Wanted::Nothing => return (None, true),
            Wanted::Discovery => &remote.documents.discovery,
            Wanted::OpenApi => &remote.documents.openapi,
            Wanted::Swagger => &remote.documents.swagger,
        };
        let mut kept = kept.lock().await;
        let age = if kept.current { FRESH } else { FAILED };
        if !remote.available {
            kept.asked = None;
            return (kept.document.clone(), false);
        }
        if kept.asked.is_none_or(|asked| asked.elapsed() > age) {
            let asked = tokio::time::timeout(PATIENCE, self.ask(storage, remote, wanted)).await;
            match asked.unwrap_or_else(|_| Err("timed out".into())) {
                Ok(document) => (kept.document, kept.current) = (Some(Arc::new(document)), true),
                Err(why) => {
                    tracing::debug!(
                        service = remote.name,
                        why,
                        ?wanted,
                        "an aggregated server does not tell"
                    );
                    kept.current = false;
                }
            }
            kept.asked = Some(Instant::now());
        }
        (kept.document.clone(), kept.current)
    }

    async fn ask(&self, storage: &Storage, remote: &Remote, wanted: Wanted) -> Result<Value, String> {
        let path = remote.path();
        let path = match wanted {
            Wanted::OpenApi => "/openapi/v3",
            Wanted::Swagger => "/openapi/v2",
            Wanted::Discovery | Wanted::Nothing => path.as_str(),
        };
        let (status, body) = self.shared.get(storage, remote, path, MAX_DOCUMENT).await?;
        if !status.is_success() {
            return Err(format!("bad status: {}", status.as_u16()));
        }
        let document: Value = serde_json::from_slice(&body).map_err(|why| why.to_string())?;
        Ok(match wanted {
            Wanted::Discovery | Wanted::Nothing => version_of(remote, &document),
            Wanted::OpenApi => index_of(remote, &document),
            Wanted::Swagger => swagger_of(remote, &document),
        })
    }
}

/// Writes the classic list of a version's resources as the aggregated document has it.
///
/// Source: apiserver `pkg/endpoints/discovery/aggregated`, `pkg/endpoints/installer.go`.
fn version_of(remote: &Remote, list: &Value) -> Value {
    let kind_of = |resource: &Value| {
        let or = |member: &str, other: &str| match json::text(resource, member) {
            "" => other.to_owned(),
            text => text.to_owned(),
        };
        json!({"group": or("group", &remote.group), "version": or("version", &remote.version),
            "kind": json::text(resource, "kind")})
    };
    let mut resources: Vec<Value> = Vec::new();
    for resource in json::array(list, "resources") {
        let name = json::text(resource, "name");
        let (name, subresource) = name.split_once('/').map_or((name, None), |(name, sub)| (name, Some(sub)));
        let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let at = resources.iter().position(|one| one["resource"] == name);
        let at = at.unwrap_or_else(|| {
            resources.push(json!({"resource": name, "scope": scope, "singularResource": "", "verbs": []}));
            resources.len() - 1
        });
        let entry = &mut resources[at];
        match subresource {
            None => {
                entry["responseKind"] = kind_of(resource);
                entry["singularResource"] = json::text(resource, "singularName").into();
                entry["verbs"] = json::array(resource, "verbs").into();
                for member in ["shortNames", "categories"] {
                    if let Some(names) = resource.get(member) {
                        entry[member] = names.clone();
                    }
                }
            }
            Some(subresource) => {
                let part = json!({"subresource": subresource, "responseKind": kind_of(resource),
                    "verbs": json::array(resource, "verbs")});
                let mut parts = json::array(entry, "subresources").to_vec();
                parts.push(part);
                entry["subresources"] = parts.into();
            }
        }
    }
    json!({"version": remote.version, "resources": resources})
}

/// Takes out of a list of documents the one of this version.
fn index_of(remote: &Remote, index: &Value) -> Value {
    let key = remote.path().trim_start_matches('/').to_owned();
    let entry = &index["paths"][&key];
    let url = json::text(entry, "serverRelativeURL");
    // It must lead back here: anything else is not ours to announce.
    match url.starts_with(&format!("/openapi/v3/{key}")) {
        true => json!({(key): {"serverRelativeURL": url}}),
        false => json!({}),
    }
}

/// Takes out of a document of OpenAPI v2 what is of this version: how objects are patched, and the definitions.
fn swagger_of(remote: &Remote, document: &Value) -> Value {
    let below = format!("{}/", remote.path());
    let all = document["paths"].as_object().into_iter().flatten();
    let of_version = all.filter(|(path, _)| path.starts_with(&below));
    let (mut paths, mut wanted) = (Map::new(), BTreeSet::new());
    for (path, item) in of_version {
        wanted.extend(references(item));
        let Some(patch) = item.get("patch").filter(|patch| patch.is_object()) else { continue };
        let in_query = |one: &&Value| one["in"] == "query";
        let all = json::array(patch, "parameters").iter().chain(json::array(item, "parameters"));
        let parameters: Vec<&Value> = all.filter(in_query).collect();
        let mut kept = json!({"parameters": parameters, "responses": {"200": {"description": "OK"}}});
        for member in ["consumes", "produces", "x-kubernetes-action", "x-kubernetes-group-version-kind"] {
            if let Some(value) = patch.get(member) {
                kept[member] = value.clone();
            }
        }
        paths.insert(path.clone(), json!({"patch": kept}));
    }
    let mut definitions = BTreeMap::new();
    while let Some(name) = wanted.pop_first() {
        if let Some(definition) = document["definitions"].get(&name)
            && !definitions.contains_key(&name)
        {
            wanted.extend(references(definition));
            definitions.insert(name, definition.clone());
        }
    }
    let tag = hex::encode_upper(Sha256::digest(json!([paths, definitions]).to_string()));
    json!({"paths": paths, "definitions": definitions, "tag": tag})
}

/// Returns the names of the definitions that a value refers to.
fn references(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(members) => {
                let reference = members.get("$ref").and_then(Value::as_str);
                found.extend(reference.and_then(|one| one.strip_prefix(DEFINITION)).map(str::to_owned));
                left.extend(members.values());
            }
            Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
    found
}
