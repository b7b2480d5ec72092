//! ResourceQuota: what a namespace uses, counted in the very transaction that uses it.
//!
//! Upstream reserves by a write of its own before the object's and repairs the difference later. Here the
//! quota's new usage is part of the object's transaction, at creation, change and end alike: usage is exact
//! and two at once never exceed it. What the quota itself says is counted when it is made or its
//! `spec` changes; nothing else may commit meanwhile.
//!
//! Source: `plugin/pkg/admission/resourcequota/controller.go`, `pkg/quota/v1/evaluator/core`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};

use cirro_seams::api::ApiError;
use cirro_store::{Condition, Operation, Record};
use serde_json::{Value, json};
use tokio::sync::{OwnedMutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Admitted;
use super::limits::of_pod;
use crate::error;
use crate::json;
use crate::record;
use crate::registry::Kind;
use crate::storage::{ListOptions, Storage};
use crate::validate::quantity::Quantity;

/// Who may commit when.
#[derive(Default)]
pub(crate) struct Gate {
    /// Held to read by every write of objects, to write while a quota is counted.
    counting: RwLock<()>,
    /// Writers that use one namespace's quotas take turns: they change the same record.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// The right to commit one write.
pub(crate) enum Pass<'a> {
    /// Beside others.
    Shared { _gate: RwLockReadGuard<'a, ()>, turn: Option<OwnedMutexGuard<()>> },
    /// Alone.
    Alone { _gate: RwLockWriteGuard<'a, ()> },
}

impl Pass<'_> {
    /// Whether no quota concerns the write.
    fn is_free(&self) -> bool {
        matches!(self, Self::Shared { turn: None, .. })
    }
}

impl Gate {
    async fn turn(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().expect("no panic while it is held");
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(namespace).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(namespace.to_owned(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}

/// Amounts by resource; `true` for those that were written in binary units.
type Usage = BTreeMap<String, (Quantity, bool)>;

impl Storage {
    /// Waits until an object of `kind` may be written in a namespace.
    pub(crate) async fn pass(&self, kind: &Kind, namespace: &str) -> Result<Pass<'_>, ApiError> {
        if is_quota(kind) {
            return Ok(Pass::Alone { _gate: self.quotas.counting.write().await });
        }
        let gate = self.quotas.counting.read().await;
        let limited = kind.namespaced && !self.quotas_of(namespace).await?.is_empty();
        let turn = if limited { Some(self.quotas.turn(namespace).await) } else { None };
        Ok(Pass::Shared { _gate: gate, turn })
    }

    async fn quotas_of(&self, namespace: &str) -> Result<Vec<Record>, ApiError> {
        let kind = self.registry.kind("", "resourcequotas").expect("it is built in");
        Ok(self.list(kind, Some(namespace), &ListOptions::default()).await?.records)
    }

    /// Returns what a write adds to its transaction for the quotas of its namespace.
    ///
    /// # Errors
    /// 403 when it would exceed one.
    pub(crate) async fn charge(
        &self,
        pass: &Pass<'_>,
        kind: &Kind,
        namespace: &str,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<Admitted, ApiError> {
        let mut admitted = Admitted::default();
        if !kind.namespaced || pass.is_free() {
            return Ok(admitted);
        }
        for stored in self.quotas_of(namespace).await? {
            let quota = self.decoded.decode(&stored)?;
            // A quota's own write is not one that changes its record twice.
            if is_quota(kind) && new.or(old).is_some_and(|own| json::name(own) == json::name(&quota)) {
                continue;
            }
            let [before, after] = [old, new]
                .map(|object| object.map(|object| counted(kind, object, &quota)).unwrap_or_default());
            if old.is_none()
                && let Some(new) = new
            {
                require(kind, new, &quota)?;
            }
            let Some(used) = next_usage(kind, new.or(old), &quota, &before, &after)? else { continue };
            let mut next = (*quota).clone();
            next["status"]["used"] = used;
            admitted.conditions.push(Condition::Revision(stored.key.to_string(), stored.revision));
            let of = self.registry.kind("", "resourcequotas").expect("it is built in");
            admitted.operations.push(Operation::Put(stored.key.to_string(), record::encode(of, &next)?));
        }
        Ok(admitted)
    }

    /// Counts what a namespace uses of a quota that is being written, into its status.
    pub(super) async fn count(&self, namespace: &str, quota: &mut Value) -> Result<(), ApiError> {
        let mut sum = Usage::new();
        for kind in self.definitions.registry().kinds().iter().filter(|kind| kind.stored && kind.namespaced) {
            let hard = quota["spec"]["hard"].as_object().into_iter().flatten();
            if !hard.map(|(name, _)| name).any(|name| concerns(kind, name)) {
                continue;
            }
            let page = self.list(kind, Some(namespace), &ListOptions::default()).await?;
            for stored in page.records {
                let object = self.decoded.decode(&stored)?;
                for (name, (amount, binary)) in counted(kind, &object, quota) {
                    let entry = sum.entry(name).or_insert((Quantity::ZERO, binary));
                    *entry = (entry.0.plus(amount), entry.1 || binary);
                }
            }
        }
        // One that is being made counts itself.
        if let Some(own) = quota["spec"]["hard"].get("resourcequotas").map(|_| "resourcequotas") {
            let present = self.quotas_of(namespace).await?;
            let own_key = format!("/{}", json::name(quota));
            if !present.iter().any(|stored| stored.key.ends_with(&own_key)) {
                let entry = sum.entry(own.to_owned()).or_insert((Quantity::ZERO, false));
                entry.0 = entry.0.plus(Quantity::from_units(1));
            }
        }
        let hard = quota["spec"]["hard"].clone();
        let names = hard.as_object().into_iter().flatten().map(|(name, _)| name);
        let used: serde_json::Map<_, _> = names
            .map(|name| {
                let (amount, binary) = sum.get(name).copied().unwrap_or((Quantity::ZERO, false));
                (name.clone(), amount.written(binary).into())
            })
            .collect();
        quota["status"] = json!({"hard": hard, "used": used});
        Ok(())
    }
}

/// Whether a kind is that of quotas.
pub(crate) fn is_quota(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "resourcequotas"
}

fn hard(quota: &Value) -> impl Iterator<Item = (&String, Quantity)> {
    let entries = quota["spec"]["hard"].as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((name, Quantity::parse(&text).ok()?))
    })
}

/// Returns the usage after a change, when the change matters to the quota.
fn next_usage(
    kind: &Kind,
    object: Option<&Value>,
    quota: &Value,
    before: &Usage,
    after: &Usage,
) -> Result<Option<Value>, ApiError> {
    let mut used = quota["status"]["used"].as_object().cloned().unwrap_or_default();
    let (mut requested, mut present, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    let mut changed = false;
    for (name, hard) in hard(quota) {
        let amount = |usage: &Usage| usage.get(name).copied().unwrap_or((Quantity::ZERO, false));
        let ((gone, _), (come, binary)) = (amount(before), amount(after));
        if gone == come {
            continue;
        }
        changed = true;
        let text = used.get(name).and_then(Value::as_str).unwrap_or("0").to_owned();
        let now = Quantity::parse(&text).unwrap_or(Quantity::ZERO);
        let next = now.plus(come).minus(gone);
        let binary = binary || text.ends_with('i');
        if come > gone && next > hard {
            requested.push(format!("{name}={}", come.minus(gone).written(binary)));
            present.push(format!("{name}={text}"));
            let hard_text =
                quota["spec"]["hard"][name].as_str().map_or_else(|| hard.written(binary), str::to_owned);
            limited.push(format!("{name}={hard_text}"));
        }
        let next = if next.is_negative() { Quantity::ZERO } else { next };
        used.insert(name.clone(), next.written(binary).into());
    }
    if !requested.is_empty() {
        let what = format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            json::name(quota),
            requested.join(","),
            present.join(","),
            limited.join(",")
        );
        return Err(error::forbidden(kind, object.map(json::name).unwrap_or_default(), &what));
    }
    Ok(changed.then(|| used.into()))
}

/// Refuses a pod that does not say what a quota wants to count.
fn require(kind: &Kind, pod: &Value, quota: &Value) -> Result<(), ApiError> {
    if kind.plural != "pods" || !kind.group.is_empty() || !in_scope(pod, quota) {
        return Ok(());
    }
    let mut missing = Vec::new();
    for (name, _) in hard(quota) {
        let (member, resource) = match name.as_str() {
            "cpu" | "requests.cpu" => ("requests", "cpu"),
            "memory" | "requests.memory" => ("requests", "memory"),
            "limits.cpu" => ("limits", "cpu"),
            "limits.memory" => ("limits", "memory"),
            _ => continue,
        };
        let containers =
            ["initContainers", "containers"].into_iter().flat_map(|list| json::array(&pod["spec"], list));
        let without = containers.filter(|one| one["resources"][member].get(resource).is_none());
        let names: Vec<_> = without.map(|one| json::text(one, "name")).collect();
        if !names.is_empty() {
            missing.push(format!("{name} for: {}", names.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("failed quota: {}: must specify {}", json::name(quota), missing.join("; "));
    Err(error::forbidden(kind, json::name(pod), &what))
}

/// Returns what an object uses of a quota.
fn counted(kind: &Kind, object: &Value, quota: &Value) -> Usage {
    let is_pod = kind.group.is_empty() && kind.plural == "pods";
    let scoped =
        !json::array(quota, "spec.scopes").is_empty() || json::at(quota, "spec.scopeSelector").is_some();
    if scoped && !(is_pod && in_scope(object, quota)) {
        return Usage::new();
    }
    let one = (Quantity::from_units(1), false);
    let mut usage = Usage::from([(format!("count/{}", kind.resource()), one)]);
    if !kind.group.is_empty() {
        return usage;
    }
    match kind.plural.as_str() {
        "pods" if !matches!(json::text(object, "status.phase"), "Succeeded" | "Failed") => {
            usage.insert("pods".into(), one);
            for (member, short) in [("requests", true), ("limits", false)] {
                for (resource, amount) in of_pod(object, member) {
                    let binary = resource != "cpu";
                    if short && matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                        usage.insert(resource.clone(), (amount, binary));
                    }
                    usage.insert(format!("{member}.{resource}"), (amount, binary));
                }
            }
        }
        "services" => {
            usage.insert("services".into(), one);
            let kind = json::text(object, "spec.type");
            let ports = json::array(object, "spec.ports").iter();
            let ports = ports.filter(|port| json::number(port, "nodePort").unwrap_or(0) > 0).count();
            if kind == "LoadBalancer" {
                usage.insert("services.loadbalancers".into(), one);
            }
            if kind == "NodePort" || kind == "LoadBalancer" {
                usage.insert("services.nodeports".into(), (Quantity::from_units(ports as i64), false));
            }
        }
        "persistentvolumeclaims" => {
            usage.insert("persistentvolumeclaims".into(), one);
            let asked = json::text(&object["spec"]["resources"]["requests"], "storage");
            let class = json::text(object, "spec.storageClassName");
            let prefix = format!("{class}.storageclass.storage.k8s.io/");
            if !class.is_empty() {
                usage.insert(format!("{prefix}persistentvolumeclaims"), one);
            }
            if let Ok(asked) = Quantity::parse(asked) {
                usage.insert("requests.storage".into(), (asked, true));
                if !class.is_empty() {
                    usage.insert(format!("{prefix}requests.storage"), (asked, true));
                }
            }
        }
        name @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            usage.insert(name.into(), one);
        }
        _ => {}
    }
    usage
}

/// Whether objects of a kind may count for a resource of a quota.
fn concerns(kind: &Kind, name: &str) -> bool {
    if let Some(counted) = name.strip_prefix("count/") {
        return counted == kind.resource();
    }
    let of = match name {
        "configmaps"
        | "secrets"
        | "replicationcontrollers"
        | "resourcequotas"
        | "services"
        | "pods"
        | "persistentvolumeclaims" => name,
        "services.loadbalancers" | "services.nodeports" => "services",
        "requests.storage" => "persistentvolumeclaims",
        other if other.contains(".storageclass.storage.k8s.io/") => "persistentvolumeclaims",
        _ => "pods",
    };
    kind.group.is_empty() && kind.plural == of
}

fn in_scope(pod: &Value, quota: &Value) -> bool {
    let scopes = json::array(quota, "spec.scopes").iter().filter_map(Value::as_str);
    let terms = json::array(quota, "spec.scopeSelector.matchExpressions");
    scopes.into_iter().all(|scope| has_scope(pod, scope))
        && terms.iter().all(|term| match json::text(term, "scopeName") {
            "PriorityClass" => fits_class(json::text(pod, "spec.priorityClassName"), term),
            scope => has_scope(pod, scope),
        })
}

fn fits_class(class: &str, term: &Value) -> bool {
    let named = json::array(term, "values").iter().any(|value| value == class);
    match json::text(term, "operator") {
        "In" => named,
        "NotIn" => !named,
        "Exists" => !class.is_empty(),
        _ => class.is_empty(),
    }
}

fn has_scope(pod: &Value, scope: &str) -> bool {
    let ends = json::number(pod, "spec.activeDeadlineSeconds").is_some();
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => !json::text(pod, "spec.priorityClassName").is_empty(),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    let lists = ["containers", "initContainers"].into_iter().flat_map(|list| json::array(&pod["spec"], list));
    let mut amounts = lists.flat_map(|one| ["requests", "limits"].map(|member| &one["resources"][member]));
    !amounts.any(|map| ["cpu", "memory"].iter().any(|resource| map.get(resource).is_some()))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let kinds = ["podAffinity", "podAntiAffinity"].map(|kind| &pod["spec"]["affinity"][kind]);
    let crosses = |term: &Value| {
        !json::array(term, "namespaces").is_empty() || json::at(term, "namespaceSelector").is_some()
    };
    kinds.into_iter().any(|affinity| {
        let required = json::array(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = json::array(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        required.chain(preferred.map(|one| &one["podAffinityTerm"])).any(crosses)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Kind {
        Kind::namespaced("", "v1", "Pod", "pods")
    }

    fn quota(hard: Value, scopes: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard, "scopes": scopes}})
    }

    #[test]
    fn a_pod_uses_what_it_asks_for_until_it_ends() {
        let resources = json!({"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}});
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let quota = quota(json!({}), json!([]));
        let usage = counted(&pods(), &pod, &quota);
        assert_eq!(usage["cpu"].0, Quantity::parse("100m").unwrap());
        assert_eq!(usage["limits.memory"].0.written(true), "64Mi");
        assert_eq!(usage["pods"].0, usage["count/pods"].0);
        pod["status"] = json!({"phase": "Succeeded"});
        let usage = counted(&pods(), &pod, &quota);
        assert_eq!(usage.keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn scopes_choose_pods() {
        let pod = json!({"spec": {"containers": [{"name": "c"}], "activeDeadlineSeconds": 5}});
        for (scopes, fits) in [
            (json!(["BestEffort"]), true),
            (json!(["NotBestEffort"]), false),
            (json!(["Terminating", "BestEffort"]), true),
            (json!(["NotTerminating"]), false),
            (json!(["PriorityClass"]), false),
        ] {
            let quota = quota(json!({"pods": "1"}), scopes.clone());
            assert_eq!(!counted(&pods(), &pod, &quota).is_empty(), fits, "{scopes}");
        }
        let maps = Kind::namespaced("", "v1", "ConfigMap", "configmaps");
        assert!(counted(&maps, &json!({}), &quota(json!({}), json!(["BestEffort"]))).is_empty());
    }

    #[test]
    fn refusals_name_what_was_asked_used_and_allowed() {
        let mut quota = quota(json!({"pods": "2", "cpu": "1"}), json!([]));
        quota["status"] = json!({"used": {"pods": "2", "cpu": "500m"}});
        let after = Usage::from([
            ("pods".to_owned(), (Quantity::from_units(1), false)),
            ("cpu".to_owned(), (Quantity::parse("200m").unwrap(), false)),
        ]);
        let refused = next_usage(&pods(), None, &quota, &Usage::new(), &after).unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
        );
        // What shrinks is never refused.
        let used = next_usage(&pods(), None, &quota, &after, &Usage::new()).unwrap().unwrap();
        assert_eq!(used, json!({"pods": "1", "cpu": "300m"}));
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let refused = require(&pods(), &pod, &quota).unwrap_err().message;
        assert_eq!(refused, "pods \"p\" is forbidden: failed quota: q: must specify cpu for: c");
    }
}
