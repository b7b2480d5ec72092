//! HorizontalPodAutoscaler: autoscaling/v2, and v1 as a view of it.
//!
//! v1 has one field for the share of the CPU; what else v2 says is kept in annotations there.
//!
//! Source: `pkg/apis/autoscaling/v1/conversion.go`, `v2/defaults.go`, `validation/validation.go`.

use serde_json::{Map, Value, json};

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource, View};
use crate::table::batch as columns;
use crate::validate::fields::{one_of, required, required_one_of};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let view = View {
        group: "autoscaling".into(),
        version: "v1".into(),
        schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler".into(),
        import,
        export,
        deprecation: None,
    };
    vec![
        Kind::namespaced("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short(&["hpa"])
            .category("all")
            .schema("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler")
            .subresources(&[Subresource::Status])
            .columns(columns::autoscaler())
            .strategy(&HorizontalPodAutoscaler)
            .view(view),
    ]
}

fn is_cpu_share(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

/// v1 to v2.
fn import(object: &mut Value) {
    let mut metrics = Vec::new();
    if let Some(share) =
        json::remove(&mut object["spec"], "targetCPUUtilizationPercentage").filter(Value::is_number)
    {
        let target = json!({"type": "Utilization", "averageUtilization": share});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    let others: Vec<Value> = take_annotation(object, METRICS);
    metrics.extend(others.iter().map(|metric| reshape(metric, "target", modern)));
    if !metrics.is_empty() {
        object["spec"]["metrics"] = metrics.into();
    }
    if let Some(behavior) = take_annotation::<Option<Value>>(object, BEHAVIOR) {
        object["spec"]["behavior"] = behavior;
    }
    let mut current = Vec::new();
    if object["status"].is_object() {
        if let Some(share) = json::remove(&mut object["status"], "currentCPUUtilizationPercentage") {
            let now = json!({"averageUtilization": share});
            current.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": now}}));
        }
        let others: Vec<Value> = take_annotation(object, CURRENT);
        current.extend(others.iter().map(|metric| reshape(metric, "current", modern)));
        if !current.is_empty() {
            object["status"]["currentMetrics"] = current.into();
        }
        let conditions: Vec<Value> = take_annotation(object, CONDITIONS);
        if !conditions.is_empty() {
            object["status"]["conditions"] = conditions.into();
        }
    }
}

/// v2 to v1.
fn export(object: &mut Value) {
    let metrics = json::remove(&mut object["spec"], "metrics");
    let mut others = Vec::new();
    for metric in metrics.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let share =
            json::number(metric, "resource.target.averageUtilization").filter(|_| is_cpu_share(metric));
        match share {
            Some(share) if object["spec"].get("targetCPUUtilizationPercentage").is_none() => {
                object["spec"]["targetCPUUtilizationPercentage"] = share.into();
            }
            _ => others.push(reshape(metric, "target", old)),
        }
    }
    put_annotation(object, METRICS, others.into());
    let behavior = json::remove(&mut object["spec"], "behavior");
    put_annotation(object, BEHAVIOR, behavior.unwrap_or_default());
    if !object["status"].is_object() {
        return;
    }
    let current = json::remove(&mut object["status"], "currentMetrics");
    let mut others = Vec::new();
    for metric in current.as_ref().and_then(Value::as_array).into_iter().flatten() {
        match json::number(metric, "resource.current.averageUtilization").filter(|_| is_cpu_share(metric)) {
            Some(share) => object["status"]["currentCPUUtilizationPercentage"] = share.into(),
            None => others.push(reshape(metric, "current", old)),
        }
    }
    put_annotation(object, CURRENT, others.into());
    let conditions = json::remove(&mut object["status"], "conditions");
    put_annotation(object, CONDITIONS, conditions.unwrap_or_default());
    // v1 requires the counts.
    set_default(&mut object["status"], "currentReplicas", 0);
    set_default(&mut object["status"], "desiredReplicas", 0);
}

fn take_annotation<T: serde::de::DeserializeOwned + Default>(object: &mut Value, name: &str) -> T {
    let annotations = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut);
    let Some(annotations) = annotations else { return T::default() };
    let text = annotations.remove(name);
    let value = text.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    value.unwrap_or_default()
}

fn put_annotation(object: &mut Value, name: &str, value: Value) {
    let empty = match &value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if !empty {
        let annotations = json::object_mut(&mut object["metadata"], "annotations");
        annotations.insert(name.into(), value.to_string().into());
    }
}

/// Changes the source of a metric between its two forms; `goal` is `target` or `current`.
fn reshape(metric: &Value, goal: &str, change: fn(&str, &str, &mut Map<String, Value>)) -> Value {
    let mut metric = metric.clone();
    let kind = json::text(&metric, "type").to_owned();
    let mut letters = kind.chars();
    let source: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    if let Some(source) = metric.get_mut(&source).and_then(Value::as_object_mut) {
        change(&kind, goal, source);
    }
    metric
}

/// The names that v1's form has for an average share, an average and a value.
fn old_names(kind: &str, goal: &str) -> [String; 3] {
    let value = match (kind, goal) {
        ("Object" | "External", "current") => "currentValue",
        _ => "targetValue",
    };
    let average = match (kind, goal) {
        ("Object", _) => "averageValue",
        (_, "current") => "currentAverageValue",
        _ => "targetAverageValue",
    };
    [format!("{goal}AverageUtilization"), average.into(), value.into()]
}

fn old(kind: &str, goal: &str, source: &mut Map<String, Value>) {
    let described = match kind {
        "Object" => source.remove("describedObject"),
        _ => None,
    };
    let values = source.remove(goal).unwrap_or_default();
    for (new, old) in ["averageUtilization", "averageValue", "value"].iter().zip(old_names(kind, goal)) {
        if let Some(value) = values.get(*new) {
            source.insert(old, value.clone());
        }
    }
    if let Some(metric) = source.remove("metric") {
        source.insert("metricName".into(), metric["name"].clone());
        if let Some(selector) = metric.get("selector") {
            let name = if kind == "External" { "metricSelector" } else { "selector" };
            source.insert(name.into(), selector.clone());
        }
    }
    if let Some(described) = described {
        source.insert("target".into(), described);
    }
}

fn modern(kind: &str, goal: &str, source: &mut Map<String, Value>) {
    if kind == "Object"
        && let Some(described) = source.remove("target")
    {
        source.insert("describedObject".into(), described);
    }
    let mut values = Map::new();
    for (new, old) in ["averageUtilization", "averageValue", "value"].iter().zip(old_names(kind, goal)) {
        if let Some(value) = source.remove(&old) {
            values.insert((*new).into(), value);
        }
    }
    if goal == "target" {
        let kind =
            [("averageUtilization", "Utilization"), ("averageValue", "AverageValue"), ("value", "Value")];
        let found = kind.iter().find(|(member, _)| values.contains_key(*member));
        values.extend(found.map(|(_, kind)| ("type".to_owned(), (*kind).into())));
    }
    source.insert(goal.into(), values.into());
    if let Some(name) = source.remove("metricName") {
        let mut metric = json!({"name": name});
        let selector = source.remove("selector").or_else(|| source.remove("metricSelector"));
        if let Some(selector) = selector {
            metric["selector"] = selector;
        }
        source.insert("metric".into(), metric);
    }
}

struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        set_default(spec, "minReplicas", 1);
        if json::array(spec, "metrics").is_empty() {
            let target = json!({"type": "Utilization", "averageUtilization": 80});
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) {
            rules_defaults(
                behavior,
                "scaleUp",
                Some(0),
                json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
            rules_defaults(
                behavior,
                "scaleDown",
                None,
                json!([
                {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"currentMetrics": null, "desiredReplicas": 0});
        json::drop_nulls(&mut object["status"]);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let (low, high) =
            (json::number(object, "spec.minReplicas"), json::number(object, "spec.maxReplicas"));
        if let Some(low) = low.filter(|low| *low < 1) {
            causes.invalid("spec.minReplicas", &low.into(), "must be greater than or equal to 1");
        }
        let high = high.unwrap_or(0);
        if high < 1 {
            causes.invalid("spec.maxReplicas", &high.into(), "must be greater than 0");
        }
        if low.is_some_and(|low| high < low) {
            let detail = "must be greater than or equal to `minReplicas`";
            causes.invalid("spec.maxReplicas", &high.into(), detail);
        }
        for member in ["kind", "name"] {
            required(&format!("spec.scaleTargetRef.{member}"), object, "", causes);
        }
        for (index, metric) in json::array(object, "spec.metrics").iter().enumerate() {
            metric_faults(&format!("spec.metrics[{index}]"), metric, causes);
        }
        for rules in ["scaleUp", "scaleDown"] {
            behavior_faults(&format!("spec.behavior.{rules}"), object, causes);
        }
    }
}

fn rules_defaults(behavior: &mut Value, rules: &str, window: Option<i64>, policies: Value) {
    set_default(behavior, rules, json!({}));
    let rules = &mut behavior[rules];
    set_default(rules, "selectPolicy", "Max");
    if json::array(rules, "policies").is_empty() {
        rules["policies"] = policies;
    }
    if let Some(window) = window {
        set_default(rules, "stabilizationWindowSeconds", window);
    }
}

fn metric_faults(field: &str, metric: &Value, causes: &mut Causes) {
    let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = json::text(metric, "type");
    if kind.is_empty() {
        causes.required(&format!("{field}.type"), "must specify a metric source type");
        return;
    }
    if !kinds.contains(&kind) {
        causes.unsupported(&format!("{field}.type"), &kind.into(), &kinds);
        return;
    }
    let source = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
    let Some(values) = metric.get(&source) else {
        let detail = format!("must populate information for the given metric source type ({source})");
        causes.required(&format!("{field}.{source}"), &detail);
        return;
    };
    let at = |member: &str| format!("{field}.{source}.{member}");
    if kind.ends_with("Resource") {
        if json::text(values, "name").is_empty() {
            causes.required(&at("name"), "must specify a resource name");
        }
    } else if json::text(values, "metric.name").is_empty() {
        causes.required(&at("metric.name"), "must specify a metric name");
    }
    let target = &values["target"];
    match json::text(target, "type") {
        "" => causes.required(&at("target.type"), "must specify a metric target type"),
        "Utilization" | "Value" | "AverageValue" => {}
        _ => {
            let detail = "must be either Utilization, Value, or AverageValue";
            causes.invalid(&at("target.type"), &target["type"], detail);
        }
    }
    if let Some(share) = json::number(target, "averageUtilization").filter(|share| *share < 1) {
        causes.invalid(&at("target.averageUtilization"), &share.into(), "must be greater than 0");
    }
    let set = ["averageUtilization", "averageValue", "value"].iter().any(|one| target.get(*one).is_some());
    if !set {
        let detail = if kind.ends_with("Resource") {
            "must set either a target raw value or a target utilization"
        } else if kind == "Pods" {
            "must specify a positive target averageValue"
        } else {
            "must set either a target value or averageValue"
        };
        causes.required(&at("target"), detail);
    }
}

fn behavior_faults(field: &str, object: &Value, causes: &mut Causes) {
    let Some(rules) = json::at(object, field) else { return };
    crate::validate::fields::between(&format!("{field}.stabilizationWindowSeconds"), object, 0, 3600, causes);
    one_of(&format!("{field}.selectPolicy"), object, &["Disabled", "Max", "Min"], causes);
    for (index, policy) in json::array(rules, "policies").iter().enumerate() {
        let at = |member: &str| format!("{field}.policies[{index}].{member}");
        let mut wrapped = Causes::default();
        required_one_of("type", policy, &["Percent", "Pods"], &mut wrapped);
        causes.extend_at(&format!("{field}.policies[{index}]."), wrapped);
        for member in ["value", "periodSeconds"] {
            let value = json::number(policy, member).unwrap_or(0);
            if value <= 0 {
                causes.invalid(&at(member), &value.into(), "must be greater than zero");
            } else if member == "periodSeconds" && value > 1800 {
                causes.invalid(&at(member), &value.into(), "must be less than or equal to 1800");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_and_v2_are_the_same_object() {
        let mut object = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
        let before = object.clone();
        import(&mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        export(&mut object);
        assert_eq!(object, before);
    }

    #[test]
    fn what_v1_cannot_say_is_kept_in_annotations() {
        let metrics = json!([
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 5}}},
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                "metric": {"name": "hits"}, "target": {"type": "Value", "value": "2k"}}}]);
        let mut object = json!({"metadata": {"name": "h", "annotations": {}}, "spec": {"metrics": metrics,
            "behavior": {"scaleDown": {"selectPolicy": "Min"}}}});
        let before = object.clone();
        export(&mut object);
        assert_eq!(object["spec"], json!({"targetCPUUtilizationPercentage": 5}));
        assert!(
            json::object(&object, "metadata.annotations").unwrap()[METRICS]
                .as_str()
                .unwrap()
                .contains("targetAverageValue")
        );
        import(&mut object);
        assert_eq!(object, before);
    }

    #[test]
    fn faults_are_told() {
        let mut object = json!({"spec": {"maxReplicas": 0, "metrics": [{"type": "Pods"}]}});
        let mut causes = Causes::default();
        HorizontalPodAutoscaler.defaults(&mut object);
        HorizontalPodAutoscaler.validate(&object, &mut causes);
        let text = format!("{causes:?}");
        for part in ["must be greater than 0", "spec.scaleTargetRef.name", "spec.metrics[0].pods"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
