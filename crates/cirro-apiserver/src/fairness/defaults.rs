//! Upstream's own FlowSchemas and PriorityLevelConfigurations: made at the first start, kept at every later one.
//!
//! The mandatory ones get their spec back in any case; the suggested ones unless somebody annotated them with
//! `apf.kubernetes.io/autoupdate-spec: "false"`.
//!
//! Source: apiserver `pkg/apis/flowcontrol/bootstrap/default.go`, `pkg/registry/flowcontrol/ensurer`.

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use super::GROUP;
use crate::json;
use crate::storage::{Place, Storage, Target};

const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// Levels and schemas without which nothing could be decided.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Writes the objects into a store, or brings what is there up to date.
///
/// # Errors
/// When the store fails.
pub(crate) async fn reconcile(storage: &Storage) -> Result<(), ApiError> {
    let mut absent = Vec::new();
    for (plural, wanted) in all() {
        let kind = storage.registry.kind(GROUP, plural).expect("flow control is built in");
        let place = Place { kind, namespace: "", name: json::name(&wanted) };
        match storage.get(place).await {
            Ok(present) => restore(storage, place, &present, &wanted).await?,
            Err(refusal) if refusal.is_not_found() => absent.push((kind.clone(), String::new(), wanted)),
            Err(refusal) => return Err(refusal),
        }
    }
    storage.create_many(absent).await
}

async fn restore(
    storage: &Storage,
    place: Place<'_>,
    present: &Value,
    wanted: &Value,
) -> Result<(), ApiError> {
    let kept = present["metadata"]["annotations"][AUTO_UPDATE] != "false" || MANDATORY.contains(&place.name);
    let mut complete = wanted.clone();
    place.kind.strategy.defaults(&mut complete);
    if !kept || present["spec"] == complete["spec"] {
        return Ok(());
    }
    let change = |old: &Value| {
        let mut new = old.clone();
        new["spec"] = complete["spec"].clone();
        Ok(new)
    };
    storage.modify(place, Target::Object, false, change).await.map(drop)
}

/// Returns the mandatory objects with the plurals of their kinds.
pub(super) fn mandatory() -> impl Iterator<Item = (&'static str, Value)> {
    all().into_iter().filter(|(_, object)| MANDATORY.contains(&json::name(object)))
}

/// Returns all objects with the plurals of their kinds.
pub(super) fn all() -> Vec<(&'static str, Value)> {
    let mut all: Vec<_> = levels().into_iter().map(|level| (LEVELS, level)).collect();
    all.extend(schemas().into_iter().map(|schema| (SCHEMAS, schema)));
    all
}

fn levels() -> Vec<Value> {
    let queued = |name: &str, shares: u32, lendable: u32, queues: u32, hand: u32| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        object(
            name,
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares,
            "lendablePercent": lendable, "limitResponse": {"type": "Queue", "queuing": queuing}}}),
        )
    };
    vec![
        object(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        object(
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
            "lendablePercent": 0, "limitResponse": {"type": "Reject"}}}),
        ),
        queued("system", 30, 33, 64, 6),
        queued("node-high", 40, 25, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]
}

fn schemas() -> Vec<Value> {
    let everybody = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let system_accounts = || account("*");
    let manager = || by_name("system:kube-controller-manager");
    let leases = || resources(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false);
    let node_rules = json!([
        resources(&["*"], "", &["nodes", "nodes/status"], true),
        resources(&["*"], "coordination.k8s.io", &["leases"], false)
    ]);
    let endpoints = json!([resources(&["get", "create", "update"], "", &["endpoints"], false)]);
    let probes = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let leaders = vec![manager(), by_name("system:kube-scheduler"), system_accounts()];
    let endpoint_writers =
        vec![manager(), account("endpoint-controller"), account("endpointslicemirroring-controller")];
    vec![
        everything("exempt", "exempt", 1, "", vec![group("system:masters")]),
        schema("probes", "exempt", 2, "", json!({"subjects": everybody(), "nonResourceRules": probes})),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!({"subjects": leaders, "resourceRules": [leases()]}),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            json!({"subjects": endpoint_writers, "resourceRules": endpoints}),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            json!({"subjects": [system_accounts()], "resourceRules": [leases()]}),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            json!({"subjects": [group("system:nodes")], "resourceRules": node_rules}),
        ),
        everything("system-nodes", "system", 500, "ByUser", vec![group("system:nodes")]),
        everything("kube-controller-manager", "workload-high", 800, "ByNamespace", vec![manager()]),
        everything(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            vec![by_name("system:kube-scheduler")],
        ),
        everything(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            vec![system_accounts()],
        ),
        everything("service-accounts", "workload-low", 9000, "ByUser", vec![group("system:serviceaccounts")]),
        everything("global-default", "global-default", 9900, "ByUser", everybody()),
        everything("catch-all", "catch-all", 10_000, "ByUser", everybody()),
    ]
}

fn object(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec})
}

fn schema(name: &str, level: &str, precedence: u32, distinguisher: &str, rule: Value) -> Value {
    let mut spec = json!({"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}, "rules": [rule]});
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    object(name, spec)
}

fn everything(name: &str, level: &str, precedence: u32, distinguisher: &str, subjects: Vec<Value>) -> Value {
    let rule = json!({"subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]});
    schema(name, level, precedence, distinguisher, rule)
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn by_name(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}})
}

impl Storage {
    /// Says in a FlowSchema whether its level is there.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn note_level(&self, schema: &mut Value) -> Result<(), ApiError> {
        let level = json::text(schema, "spec.priorityLevelConfiguration.name").to_owned();
        let kind = self.registry.kind(GROUP, LEVELS).expect("flow control is built in");
        let found = match self.record(Place { kind, namespace: "", name: &level }).await {
            Ok(_) => true,
            Err(refusal) if refusal.is_not_found() => false,
            Err(refusal) => return Err(refusal),
        };
        schema["status"] = status(&level, found);
        Ok(())
    }
}

/// Returns the status of a FlowSchema.
pub(crate) fn status(level: &str, found: bool) -> Value {
    let (status, reason, end) = match found {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}");
    json!({"conditions": [{"type": "Dangling", "status": status, "lastTransitionTime": crate::identity::now(),
        "reason": reason, "message": message}]})
}
