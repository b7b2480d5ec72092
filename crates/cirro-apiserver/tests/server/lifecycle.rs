//! The life that upstream's conformance tests lead with every kind: made, found in each list, watched, patched, updated,
//! its status written, deleted, and deleted as a collection.

use std::time::Duration;

use cirro_apiserver::ApiServer;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::fixture::{Answer, admin, read, request, send, server_without_protection};
use crate::kinds;

const SELECTED: &str = "labelSelector=life%3Dlong";

/// Returns path and smallest good object of every kind that is written by clients.
fn objects() -> Vec<(&'static str, Value)> {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    let selector = json!({"matchLabels": {"a": "b"}});
    let workload = json!({"spec": {"selector": selector, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}});
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let mut objects = kinds::objects();
    objects.extend([
        ("/api/v1/namespaces/default/configmaps", json!({"data": {"a": "1"}})),
        ("/api/v1/namespaces/default/secrets", json!({"stringData": {"a": "1"}})),
        ("/api/v1/namespaces/default/serviceaccounts", json!({})),
        ("/api/v1/namespaces/default/services", json!({"spec": {"ports": [{"port": 80}]}})),
        ("/api/v1/namespaces/default/endpoints", json!({})),
        ("/api/v1/namespaces/default/limitranges", json!({"spec": {"limits": []}})),
        ("/api/v1/namespaces/default/resourcequotas", json!({"spec": {"hard": {"pods": "50"}}})),
        ("/api/v1/namespaces/default/events", json!({"involvedObject": {"namespace": "default"}})),
        ("/api/v1/namespaces/default/pods", json!({"spec": pod})),
        ("/apis/apps/v1/namespaces/default/deployments", workload.clone()),
        ("/apis/apps/v1/namespaces/default/replicasets", workload),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"addressType": "IPv4", "endpoints": []}),
        ),
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases", json!({"spec": {}})),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", json!({"rules": rules})),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"rules": rules})),
    ]);
    objects
}

async fn patch(server: &ApiServer, path: &str, change: &Value) -> Answer {
    let request = request("PATCH", path, "application/merge-patch+json", change.to_string());
    read(server.respond(&admin(), request).await).await
}

/// Returns the types of the events since a version, to the deletion.
async fn events(server: &ApiServer, path: &str, version: &str) -> Vec<String> {
    let path = format!("{path}?watch=true&{SELECTED}&resourceVersion={version}");
    let answer = server.respond(&admin(), request("GET", &path, "", "")).await;
    let (mut body, mut text, mut seen) = (answer.into_body(), Vec::new(), Vec::new());
    while seen.last().is_none_or(|last| last != "DELETED") {
        let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await;
        let frame = frame.unwrap_or_else(|_| panic!("{path} said {seen:?} only"));
        text.extend_from_slice(&frame.expect("the watch goes on").unwrap().into_data().unwrap());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            seen.push(event["type"].as_str().unwrap().to_owned());
        }
    }
    seen
}

async fn has_status(server: &ApiServer, path: &str) -> bool {
    let (root, plural) = (path.split("/namespaces/").next().unwrap(), path.rsplit('/').next().unwrap());
    let root = if path.contains("/namespaces/") { root } else { path.rsplit_once('/').unwrap().0 };
    let list = send(server, "GET", root, &Value::Null).await.body;
    let wanted = format!("{plural}/status");
    list["resources"].as_array().unwrap().iter().any(|one| one["name"] == wanted)
}

async fn found(server: &ApiServer, path: &str) -> usize {
    let list = send(server, "GET", &format!("{path}?{SELECTED}"), &Value::Null).await;
    assert_eq!(list.code, 200, "{path}: {}", list.body);
    list.body["items"].as_array().unwrap().len()
}

async fn live(server: &ApiServer, path: &str, mut object: Value) {
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = "long".into();
    }
    object["metadata"]["labels"] = json!({"life": "long"});
    let one = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
    let made = send(server, "POST", path, &object).await;
    assert_eq!(made.code, 201, "{path}: {}", made.body);
    let read = send(server, "GET", &one, &Value::Null).await;
    assert_eq!((read.code, &read.body["metadata"]["uid"]), (200, &made.body["metadata"]["uid"]), "{path}");
    assert_eq!(found(server, path).await, 1, "{path}");
    assert_eq!(found(server, &path.replace("/namespaces/default", "")).await, 1, "{path} of all namespaces");

    let patched = patch(server, &one, &json!({"metadata": {"labels": {"patched": "yes"}}})).await;
    assert_eq!(patched.body["metadata"]["labels"]["patched"], "yes", "{path}: {}", patched.body);
    let mut updated = patched.body;
    updated["metadata"]["annotations"]["updated"] = "yes".into();
    let updated = send(server, "PUT", &one, &updated).await;
    assert_eq!(updated.body["metadata"]["annotations"]["updated"], "yes", "{path}: {}", updated.body);
    if has_status(server, path).await {
        let status = format!("{one}/status");
        let read = send(server, "GET", &status, &Value::Null).await;
        assert_eq!(send(server, "PUT", &status, &read.body).await.code, 200, "{status}");
        assert_eq!(patch(server, &status, &json!({"status": {}})).await.code, 200, "{status}");
    }
    let deleted = send(server, "DELETE", &one, &Value::Null).await;
    assert_eq!(deleted.code, 200, "{path}: {}", deleted.body);
    let begin = made.body["metadata"]["resourceVersion"].as_str().unwrap();
    let seen = events(server, path, begin).await;
    assert!(
        seen.len() >= 3 && seen[..seen.len() - 1].iter().all(|event| event == "MODIFIED"),
        "{path}: {seen:?}"
    );

    assert_eq!(send(server, "POST", path, &object).await.code, 201, "{path}");
    assert_eq!(send(server, "DELETE", &format!("{path}?{SELECTED}"), &Value::Null).await.code, 200, "{path}");
    assert_eq!(found(server, path).await, 0, "{path}");
}

#[tokio::test]
async fn every_kind_lives_a_whole_life() {
    let server = server_without_protection().await;
    for (path, object) in objects() {
        live(&server, path, object).await;
    }
}
