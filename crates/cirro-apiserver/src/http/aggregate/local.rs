//! APIServices of what this server has itself: one for each group's version.
//!
//! Those of built-in groups are made at the start and then left alone; those of custom kinds are kept like the
//! definitions. An APIService that somebody made himself, without our label, is not touched: it wins.
//!
//! Source: kube-aggregator `pkg/controllers/autoregister`, `pkg/controlplane/apiserver/{aggregator,apis}.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_seams::api::{ApiError, DeleteOptions};
use serde_json::{Value, json};

use super::available::{says, write};
use super::service_kind;
use crate::json;
use crate::registry::{Group, Registry, Served};
use crate::storage::{ListOptions, Place, Storage, Target};

/// Says that we keep an APIService, and how.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";
/// What local ones say of themselves.
const MESSAGE: &str = "Local APIServices are always available";
/// Priorities of custom kinds: the group's, and each version's.
const CUSTOM: (i64, i64) = (1000, 100);

/// Groups' priorities; what is not here has no APIService of its own.
const GROUPS: [(&str, i64); 22] = [
    ("", 18000),
    ("extensions", 17900),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    // Our own, after all of upstream's.
    ("compute.cirro.dev", 15700),
    ("network.cirro.dev", 15600),
];

/// Returns the priorities of what is served here: the group's and the version's.
pub(in crate::http) fn priority(group: &str, version: &str, custom: bool) -> (i64, i64) {
    if custom {
        return CUSTOM;
    }
    let of_group = GROUPS.iter().find(|(name, _)| *name == group).map_or(GROUPS[0].1, |(_, one)| *one);
    let of_version = match (group, version) {
        ("", _) | ("apps", "v1beta1") | ("extensions", _) => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, "v1") => 15,
        _ => 9,
    };
    (of_group, of_version)
}

fn is_custom(served: &[&Served]) -> bool {
    served.iter().any(|one| one.kind.custom.is_some())
}

/// Returns the local APIServices that there should be, by name.
fn wanted(groups: &[Group<'_>], custom: bool) -> BTreeMap<String, Value> {
    let mut wanted = BTreeMap::new();
    for group in groups {
        for (version, served) in &group.versions {
            let known = custom || GROUPS.iter().any(|(name, _)| *name == group.name);
            if is_custom(served) != custom || !known {
                continue;
            }
            let (of_group, of_version) = priority(group.name, version, custom);
            let mut spec =
                json!({"version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version});
            if !group.name.is_empty() {
                spec["group"] = group.name.into();
            }
            let name = format!("{version}.{}", group.name);
            let labels = json!({(LABEL): if custom { ALWAYS } else { ON_START }});
            wanted.insert(name.clone(), json!({"metadata": {"name": name, "labels": labels}, "spec": spec}));
        }
    }
    wanted
}

fn managed(object: &Value) -> &str {
    object["metadata"]["labels"][LABEL].as_str().unwrap_or_default()
}

/// Brings the APIServices of built-in groups up to this program's, once.
///
/// # Errors
/// When the store fails.
pub(super) async fn reconcile(storage: &Storage) -> Result<(), ApiError> {
    let kind = service_kind(storage);
    let page = storage.list(kind, None, &ListOptions::default()).await?;
    let mut wanted = wanted(&storage.registry.groups(), false);
    for record in &page.records {
        let present = storage.decoded.decode(record)?;
        let name = json::name(&present);
        match wanted.remove(name) {
            _ if managed(&present) != ON_START => {}
            Some(object) => complete(storage, &present, &object).await?,
            None => remove(storage, &present).await?,
        }
    }
    let absent = wanted.into_values().map(|object| (kind.clone(), String::new(), object));
    storage.create_many(absent.collect()).await
}

/// Keeps the APIServices of custom kinds, and what all local ones say of themselves. What fails is tried with the next
/// change.
pub(super) async fn keep(storage: &Storage, known: &BTreeMap<String, Arc<Value>>) {
    if let Err(refusal) = try_keep(storage, &storage.definitions.registry(), known).await {
        tracing::warn!(%refusal, "an APIService cannot be kept");
    }
}

async fn try_keep(
    storage: &Storage,
    registry: &Registry,
    known: &BTreeMap<String, Arc<Value>>,
) -> Result<(), ApiError> {
    let wanted = wanted(&registry.groups(), true);
    for (name, present) in known {
        match wanted.get(name) {
            Some(object) if managed(present) == ALWAYS => complete(storage, present, object).await?,
            None if managed(present) == ALWAYS => remove(storage, present).await?,
            _ => {}
        }
        if json::at(present, "spec.service").is_none() && !says(present, "True", "Local", MESSAGE) {
            write(storage, name, "True", "Local", MESSAGE).await?;
        }
    }
    for (_, object) in wanted.into_iter().filter(|(name, _)| !known.contains_key(name)) {
        match storage.create(service_kind(storage), "", object, false).await {
            Err(refusal) if !refusal.is_already_exists() => return Err(refusal),
            _ => {}
        }
    }
    Ok(())
}

async fn complete(storage: &Storage, present: &Value, wanted: &Value) -> Result<(), ApiError> {
    if present["spec"] == wanted["spec"] {
        return Ok(());
    }
    let change = |present: &Value| {
        let mut next = present.clone();
        next["spec"] = wanted["spec"].clone();
        Ok(next)
    };
    let place = Place { kind: service_kind(storage), namespace: "", name: json::name(present) };
    ignoring_absence(storage.modify(place, Target::Object, false, change).await)
}

async fn remove(storage: &Storage, present: &Value) -> Result<(), ApiError> {
    let options = DeleteOptions {
        uid: Some(json::text(present, "metadata.uid").to_owned()),
        ..DeleteOptions::default()
    };
    let place = Place { kind: service_kind(storage), namespace: "", name: json::name(present) };
    ignoring_absence(storage.delete(place, &options, false).await)
}

fn ignoring_absence<T>(done: Result<T, ApiError>) -> Result<(), ApiError> {
    match done {
        Err(refusal) if !refusal.is_not_found() => Err(refusal),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_group_has_its_priorities() {
        let registry = crate::kinds::registry();
        let services = wanted(&registry.groups(), false);
        let spec = |name: &str| services[name]["spec"].clone();
        let expected = |group: i64, version: &str, number: i64| json!({"version": version, "groupPriorityMinimum": group, "versionPriority": number});
        assert_eq!(spec("v1."), expected(18000, "v1", 1));
        assert_eq!(spec("v1.apps")["versionPriority"], 15);
        assert_eq!(spec("v2.autoscaling")["versionPriority"], 30);
        assert_eq!(services["v1.batch"]["metadata"]["labels"][LABEL], "onstart");
        // These two are not announced: one is the aggregator's own, the other is left to a metrics server.
        let left_out = ["apiregistration.k8s.io", "metrics.k8s.io"];
        for group in registry.groups() {
            let announced = services.keys().any(|name| name.ends_with(&format!(".{}", group.name)));
            assert_eq!(announced, !left_out.contains(&group.name), "{}", group.name);
        }
    }
}
