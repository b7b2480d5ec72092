//! metrics.k8s.io/v1beta1: what nodes and pods use now. Nothing of it is stored: it is asked of the node.
//!
//! Upstream has no server of these in itself; this one stands in until an APIService `v1beta1.metrics.k8s.io` names another.
//! Source: kubernetes-sigs/metrics-server `pkg/api`.

use std::sync::Arc;
use std::time::Duration;

use cirro_seams::Pending;
use cirro_seams::api::ApiError;
use cirro_seams::node::NodeError;
use cirro_seams::usage::{NodeUsage, Usage};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error;
use crate::identity;
use crate::json;
use crate::registry::{Asker, Kind, Strategy};
use crate::storage::ListOptions;
use crate::table::Column;

pub(crate) const GROUP: &str = "metrics.k8s.io";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let columns = || {
        let column =
            |name: &str, format, cell: fn(&Value) -> Value| Column { format, ..Column::text(name, cell) };
        vec![
            Column::name(),
            column("cpu", "quantity", |object| cpu(total(object, "cpu")).into()),
            column("memory", "quantity", |object| memory(total(object, "memory")).into()),
            column("window", "duration", |object| object["window"].clone()),
        ]
    };
    vec![
        Kind { singular: String::new(), ..Kind::cluster(GROUP, "v1beta1", "NodeMetrics", "nodes") }
            .schema("io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics")
            .columns(columns())
            .not_stored()
            .strategy(&Nodes),
        Kind { singular: String::new(), ..Kind::namespaced(GROUP, "v1beta1", "PodMetrics", "pods") }
            .schema("io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics")
            .columns(columns())
            .not_stored()
            .strategy(&Pods),
    ]
}

struct Nodes;

impl Strategy for Nodes {
    fn is_computed(&self) -> bool {
        true
    }

    fn compute<'a>(&'a self, asker: Asker<'a>) -> Pending<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            let usage = usage(&asker).await?;
            let nodes = objects(&asker, "nodes", None).await?;
            let own = nodes.iter().filter(|node| json::name(node) == usage.node);
            Ok(own
                .map(|node| metrics("NodeMetrics", node, &usage.host, json!({"usage": amounts(&usage.host)})))
                .collect())
        })
    }

    fn not_found(&self, _namespace: &str, name: &str) -> Option<ApiError> {
        Some(absent("nodemetrics", name))
    }
}

struct Pods;

impl Strategy for Pods {
    fn is_computed(&self) -> bool {
        true
    }

    fn compute<'a>(&'a self, asker: Asker<'a>) -> Pending<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            let usage = usage(&asker).await?;
            let namespace = Some(asker.namespace).filter(|namespace| !namespace.is_empty());
            let pods = objects(&asker, "pods", namespace).await?;
            Ok(pods.iter().filter_map(|pod| pod_metrics(pod, &usage)).collect())
        })
    }

    fn not_found(&self, namespace: &str, name: &str) -> Option<ApiError> {
        Some(absent("podmetrics", &format!("{namespace}/{name}")))
    }
}

fn absent(resource: &str, name: &str) -> ApiError {
    let details = json!({"name": name, "group": GROUP, "kind": resource});
    let message = format!("{resource}.{GROUP} {name:?} not found");
    ApiError { code: 404, reason: "NotFound".into(), message, details: Some(details) }
}

/// Asks the node.
async fn usage(asker: &Asker<'_>) -> Result<NodeUsage, ApiError> {
    let asked = asker.server.node_streams()?.usage().await;
    asked.map_err(|why| match why {
        NodeError::Invalid(why) => error::unavailable(why),
        why => error::internal(why.to_string()),
    })
}

async fn objects(
    asker: &Asker<'_>,
    plural: &str,
    namespace: Option<&str>,
) -> Result<Vec<Arc<Value>>, ApiError> {
    let storage = &asker.server.storage;
    let kind = storage.registry.kind("", plural).expect("core kinds are built in");
    let page = storage.list(kind, namespace, &ListOptions::default()).await?;
    page.records.iter().map(|record| storage.decoded.decode(record)).collect()
}

fn pod_metrics(pod: &Value, usage: &NodeUsage) -> Option<Value> {
    let uid = json::text(pod, "metadata.uid");
    let (_, containers) = usage.pods.iter().find(|(known, _)| known == uid)?;
    // One span is told for all: the shortest is of the container that began last.
    let (_, shortest) = containers.iter().min_by_key(|(_, usage)| usage.window)?;
    let each: Vec<Value> =
        containers.iter().map(|(name, usage)| json!({"name": name, "usage": amounts(usage)})).collect();
    Some(metrics("PodMetrics", pod, shortest, json!({"containers": each})))
}

fn metrics(kind: &str, of: &Value, usage: &Usage, mut rest: Value) -> Value {
    let mut metadata = json!({"name": json::name(of), "creationTimestamp": identity::now()});
    if !json::namespace(of).is_empty() {
        metadata["namespace"] = json::namespace(of).into();
    }
    if let Some(labels) = of["metadata"].get("labels") {
        metadata["labels"] = labels.clone();
    }
    let at = Timestamp::try_from(usage.at).unwrap_or_else(|_| Timestamp::now());
    rest["kind"] = kind.into();
    rest["apiVersion"] = format!("{GROUP}/v1beta1").into();
    rest["metadata"] = metadata;
    rest["timestamp"] = identity::seconds(at).into();
    rest["window"] = duration(usage.window).into();
    rest
}

fn amounts(usage: &Usage) -> Value {
    json!({"cpu": cpu(usage.nanocores), "memory": memory(usage.working_set_bytes)})
}

/// Writes processors as a quantity in its shortest form.
fn cpu(nanocores: u64) -> String {
    match nanocores {
        0 => "0".into(),
        cores if cores.is_multiple_of(1_000_000_000) => (cores / 1_000_000_000).to_string(),
        cores if cores.is_multiple_of(1_000_000) => format!("{}m", cores / 1_000_000),
        cores if cores.is_multiple_of(1_000) => format!("{}u", cores / 1_000),
        cores => format!("{cores}n"),
    }
}

/// Writes bytes as a quantity in its shortest form.
fn memory(bytes: u64) -> String {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let fitting = units.iter().find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    fitting.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// Adds up what the containers of an object use, or returns what it uses itself.
fn total(object: &Value, resource: &str) -> u64 {
    let amount = |usage: &Value| {
        let text = json::text(usage, resource);
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let scale = match (&text[digits.len()..], resource) {
            ("m", _) => 1_000_000,
            ("u", _) => 1_000,
            ("n", _) => 1,
            ("", "cpu") => 1_000_000_000,
            ("Ki", _) => 1 << 10,
            ("Mi", _) => 1 << 20,
            ("Gi", _) => 1 << 30,
            ("Ti", _) => 1 << 40,
            _ => 1,
        };
        digits.parse::<u64>().unwrap_or(0).saturating_mul(scale)
    };
    let containers = json::array(object, "containers");
    let each = containers.iter().map(|one| amount(&one["usage"]));
    each.fold(amount(&object["usage"]), u64::saturating_add)
}

/// Writes a duration as Go does: `1m2.5s`.
fn duration(span: Duration) -> String {
    let (hours, minutes) = (span.as_secs() / 3600, span.as_secs() / 60 % 60);
    let (seconds, milliseconds) = (span.as_secs() % 60, span.subsec_millis());
    let fraction = match milliseconds {
        0 => String::new(),
        _ => format!(".{milliseconds:03}").trim_end_matches('0').to_owned(),
    };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn amounts_and_spans_have_upstreams_form() {
        for (nanocores, text) in
            [(0, "0"), (1_225_142, "1225142n"), (5_000_000, "5m"), (7_000, "7u"), (2_000_000_000, "2")]
        {
            assert_eq!(cpu(nanocores), text);
            assert_eq!(total(&json!({"usage": {"cpu": text}}), "cpu"), nanocores);
        }
        for (bytes, text) in [(0, "0"), (5, "5"), (12 << 10, "12Ki"), (3 << 20, "3Mi"), (1 << 30, "1Gi")] {
            assert_eq!(memory(bytes), text);
            assert_eq!(total(&json!({"containers": [{"usage": {"memory": text}}]}), "memory"), bytes);
        }
        for (span, text) in [(1_020, "1.02s"), (15_000, "15s"), (62_500, "1m2.5s"), (3_600_000, "1h0m0s")] {
            assert_eq!(duration(Duration::from_millis(span)), text);
        }
    }

    #[test]
    fn a_pods_span_is_that_of_its_youngest_container() {
        let usage = |seconds| Usage {
            at: SystemTime::UNIX_EPOCH,
            window: Duration::from_secs(seconds),
            nanocores: 1_000_000,
            working_set_bytes: 1 << 20,
        };
        let all = NodeUsage {
            node: "n".into(),
            host: usage(9),
            pods: vec![("7".into(), vec![("a".into(), usage(9)), ("b".into(), usage(2))])],
        };
        let pod = |uid: &str| json!({"metadata": {"name": "p", "namespace": "x", "uid": uid, "labels": {"a": "b"}}});
        let found = pod_metrics(&pod("7"), &all).unwrap();
        assert_eq!((&found["window"], &found["timestamp"]), (&json!("2s"), &json!("1970-01-01T00:00:00Z")));
        assert_eq!(found["containers"][1], json!({"name": "b", "usage": {"cpu": "1m", "memory": "1Mi"}}));
        assert_eq!(found["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(total(&found, "cpu"), 2_000_000);
        assert_eq!(pod_metrics(&pod("8"), &all), None);
    }
}
