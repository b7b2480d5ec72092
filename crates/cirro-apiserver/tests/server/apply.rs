//! Server-side apply over HTTP, and managed fields of the other writes.

use serde_json::{Value, json};

use crate::fixture::{Answer, admin, read, request, send, server};

const PATH: &str = "/apis/apps/v1/namespaces/default/deployments/web";

fn config(replicas: Option<i64>, image: &str) -> Value {
    let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}}});
    if let Some(replicas) = replicas {
        config["spec"]["replicas"] = replicas.into();
    }
    config
}

async fn apply(server: &cirro_apiserver::ApiServer, query: &str, config: &Value) -> Answer {
    let path = format!("{PATH}?{query}");
    let asked = request("PATCH", &path, "application/apply-patch+yaml", config.to_string());
    read(server.respond(&admin(), asked).await).await
}

#[tokio::test]
async fn an_apply_creates_changes_conflicts_and_forces() {
    let server = server().await;
    let created = apply(&server, "fieldManager=me", &config(Some(2), "a")).await;
    assert_eq!(created.code, 201, "{}", created.body);
    assert_eq!(created.body["spec"]["strategy"]["type"], "RollingUpdate");
    let entry = &created.body["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["manager"]), (&json!("Apply"), &json!("me")));
    assert_eq!(entry["fieldsV1"]["f:spec"].get("f:strategy"), None);
    let again = apply(&server, "fieldManager=me", &config(Some(2), "a")).await;
    assert_eq!((again.code, &again.body), (200, &created.body));
    let scale = json!({"spec": {"replicas": 5}});
    let asked = request(
        "PATCH",
        &format!("{PATH}?fieldManager=hand"),
        "application/merge-patch+json",
        scale.to_string(),
    );
    let scaled = read(server.respond(&admin(), asked).await).await;
    assert_eq!(scaled.body["metadata"]["managedFields"].as_array().unwrap().len(), 2);
    let refused = apply(&server, "fieldManager=me", &config(Some(2), "a")).await;
    assert_eq!(refused.code, 409);
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"hand\" using apps/v1: .spec.replicas"
    );
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = apply(&server, "fieldManager=me&force=true", &config(Some(2), "b")).await;
    assert_eq!((forced.code, &forced.body["spec"]["replicas"]), (200, &json!(2)));
    // Left out, a member that nobody else owns gets its default again.
    let without = apply(&server, "fieldManager=me", &config(None, "b")).await;
    assert_eq!(without.body["spec"]["replicas"], 1);
}

#[tokio::test]
async fn an_apply_is_checked_before_it_is_done() {
    let server = server().await;
    let nameless = apply(&server, "", &config(None, "a")).await;
    assert_eq!(nameless.code, 422);
    assert!(nameless.body["message"].as_str().unwrap().contains("is required for apply patch"));
    let mut strange = config(None, "a");
    strange["spec"]["replicaz"] = 1.into();
    let refused = apply(&server, "fieldManager=me&fieldValidation=Strict", &strange).await;
    assert_eq!(refused.code, 400);
    let dry = apply(&server, "fieldManager=me&dryRun=All", &config(None, "a")).await;
    assert_eq!(dry.code, 201);
    assert_eq!(send(&server, "GET", PATH, &Value::Null).await.code, 404);
}

#[tokio::test]
async fn status_and_object_have_managers_of_their_own() {
    let server = server().await;
    apply(&server, "fieldManager=me", &config(Some(1), "a")).await;
    let status = json!({"status": {"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]}});
    let path = format!("{PATH}/status?fieldManager=controller");
    let asked = request("PATCH", &path, "application/merge-patch+json", status.to_string());
    let changed = read(server.respond(&admin(), asked).await).await;
    let entries = changed.body["metadata"]["managedFields"].as_array().unwrap();
    let own = entries.iter().find(|entry| entry["manager"] == "controller").unwrap();
    assert_eq!(own["subresource"], "status");
    assert!(own["fieldsV1"]["f:status"]["f:conditions"]["k:{\"type\":\"Available\"}"].is_object());
    let reset = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let asked = request("PATCH", PATH, "application/json-patch+json", reset.to_string());
    let bare = read(server.respond(&admin(), asked).await).await;
    assert_eq!(bare.body["metadata"].get("managedFields"), None);
}

#[tokio::test]
async fn whoever_may_only_patch_creates_nothing() {
    let server = server().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}]);
    let role = json!({"metadata": {"name": "patcher"}, "rules": rules});
    assert_eq!(send(&server, "POST", &format!("{rbac}/roles"), &role).await.code, 201);
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": "patcher"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "patcher"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "jane"}]});
    assert_eq!(send(&server, "POST", &format!("{rbac}/rolebindings"), &binding).await.code, 201);
    let groups = vec!["system:authenticated".to_owned()];
    let jane = cirro_apiserver::User { name: "jane".into(), groups, ..admin() };
    let path = format!("{PATH}?fieldManager=jane");
    let asked = || request("PATCH", &path, "application/apply-patch+yaml", config(Some(1), "a").to_string());
    let refused = read(server.respond(&jane, asked()).await).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    apply(&server, "fieldManager=me", &config(Some(1), "a")).await;
    assert_eq!(read(server.respond(&jane, asked()).await).await.code, 200);
}

#[tokio::test]
async fn a_scale_is_applied_to_its_object() {
    let server = server().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x",
            "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}}}]}}}});
    let made = send(&server, "POST", &format!("{path}?fieldManager=maker"), &made).await;
    assert_eq!(made.code, 201, "{}", made.body);
    // Quantities are kept as upstream keeps them.
    let requests = &made.body["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!(requests, &json!({"cpu": "500m", "memory": "1Gi"}));
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let apply = async |query: &str| {
        let asked = request(
            "PATCH",
            &format!("{path}/web/scale?{query}"),
            "application/apply-patch+yaml",
            scale.to_string(),
        );
        read(server.respond(&admin(), asked).await).await
    };
    assert_eq!(apply("").await.code, 422);
    let conflict = apply("fieldManager=scaler").await;
    assert_eq!(conflict.code, 409, "{}", conflict.body);
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".spec.replicas");
    let applied = apply("fieldManager=scaler&force=true").await;
    assert_eq!((applied.code, &applied.body["kind"]), (200, &json!("Scale")), "{}", applied.body);
    assert_eq!(applied.body["spec"]["replicas"], 3);
    let found = send(&server, "GET", &format!("{path}/web"), &Value::Null).await.body;
    let entries = found["metadata"]["managedFields"].as_array().unwrap();
    let own = entries.iter().find(|entry| entry["manager"] == "scaler").unwrap();
    assert_eq!((&own["operation"], &own["subresource"]), (&json!("Apply"), &json!("scale")));
    assert_eq!(own["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
}
