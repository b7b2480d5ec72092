//! Deployments as old books write them: apps/v1beta1, apps/v1beta2 and extensions/v1beta1.
//!
//! They are stored as apps/v1, with the defaults of the version that was spoken.
//! Source: `pkg/apis/{apps,extensions}/v1beta*/defaults.go` of Kubernetes 1.15.

use serde_json::{Value, json};

use crate::json::{self, set_default};
use crate::registry::View;

/// Returns the views of a deployment.
pub(crate) fn deployment_views() -> Vec<View> {
    let view = |group: &str, version: &str, import: fn(&mut Value)| View {
        group: group.into(),
        version: version.into(),
        schema: "io.k8s.api.apps.v1.Deployment".into(),
        import,
        export: |_| {},
        deprecation: Some(format!(
            "{group}/{version} Deployment is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 Deployment"
        )),
    };
    vec![
        view("apps", "v1beta1", import_apps_v1beta1),
        view("apps", "v1beta2", |_| {}),
        view("extensions", "v1beta1", import_extensions_v1beta1),
    ]
}

/// No history limit but 2, a deadline, and the selector from the template's labels.
fn import_apps_v1beta1(object: &mut Value) {
    set_default(&mut object["spec"], "revisionHistoryLimit", 2);
    without_rollback(object);
    selector_from_template(object);
}

/// No history limit and no deadline to speak of, one pod at a time.
fn import_extensions_v1beta1(object: &mut Value) {
    let spec = &mut object["spec"];
    set_default(spec, "progressDeadlineSeconds", i32::MAX);
    set_default(spec, "revisionHistoryLimit", i32::MAX);
    if spec.is_object() {
        set_default(spec, "strategy", json!({}));
        let strategy = &mut spec["strategy"];
        set_default(strategy, "type", "RollingUpdate");
        if json::text(strategy, "type") == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
            set_default(&mut strategy["rollingUpdate"], "maxSurge", 1);
        }
    }
    without_rollback(object);
    selector_from_template(object);
}

/// `rollbackTo` asked the server to roll back; clients have done that themselves since 1.16.
fn without_rollback(object: &mut Value) {
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("rollbackTo");
    }
}

fn selector_from_template(object: &mut Value) {
    let Some(labels) = json::at(object, "spec.template.metadata.labels").cloned() else { return };
    let empty = crate::validate::selector::is_empty(json::at(object, "spec.selector"));
    if empty {
        object["spec"]["selector"] = json!({"matchLabels": labels});
    }
    if json::object(object, "metadata.labels").is_none_or(serde_json::Map::is_empty) {
        json::object_mut(object, "metadata").insert("labels".into(), labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Value {
        json!({"metadata": {"name": "myapp"}, "spec": {"template": {"metadata": {"labels": {"app": "hello"}}}}})
    }

    #[test]
    fn the_selector_comes_from_the_template() {
        let mut object = object();
        import_apps_v1beta1(&mut object);
        assert_eq!(object["spec"]["selector"]["matchLabels"]["app"], "hello");
        assert_eq!(object["spec"]["revisionHistoryLimit"], 2);
        assert_eq!(object["metadata"]["labels"]["app"], "hello");
    }

    #[test]
    fn extensions_roll_one_pod_at_a_time() {
        let mut object = object();
        import_extensions_v1beta1(&mut object);
        let rolling = json!({"maxSurge": 1, "maxUnavailable": 1});
        assert_eq!(object["spec"]["strategy"]["rollingUpdate"], rolling);
    }
}
