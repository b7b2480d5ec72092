//! Rows of upstream's conformance suite that no other test shows.

use serde_json::{Value, json};

use crate::fixture::{admin, read, request, send, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn empty_keys_are_refused() {
    let server = server().await;
    for (path, field) in [(MAPS, "data"), (SECRETS, "data")] {
        let refused =
            send(&server, "POST", path, &json!({"metadata": {"name": "x"}, "data": {"": "eA=="}})).await;
        assert_eq!(refused.code, 422, "{path}: {}", refused.body);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(&format!("{field}[]: Invalid value: \"\"")), "{message}");
    }
}

#[tokio::test]
async fn what_is_immutable_stays() {
    let server = server().await;
    for path in [MAPS, SECRETS] {
        let object = json!({"metadata": {"name": "x"}, "data": {"a": "eA=="}, "immutable": true});
        assert_eq!(send(&server, "POST", path, &object).await.code, 201);
        for change in
            [json!({"data": {"a": "eQ=="}}), json!({"immutable": false}), json!({"immutable": null})]
        {
            let request =
                request("PATCH", &format!("{path}/x"), "application/merge-patch+json", change.to_string());
            let refused = read(server.respond(&admin(), request).await).await;
            assert_eq!(refused.code, 422, "{path} {change}: {}", refused.body);
            assert!(refused.body["message"].as_str().unwrap().contains("immutable"), "{}", refused.body);
        }
        let labelled = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
        let request = request("PATCH", &format!("{path}/x"), "application/merge-patch+json", labelled);
        assert_eq!(read(server.respond(&admin(), request).await).await.code, 200);
    }
}

#[tokio::test]
async fn a_namespace_is_patched_updated_finalized_and_has_a_status() {
    let server = server().await;
    let path = "/api/v1/namespaces/whole";
    let made = send(&server, "POST", "/api/v1/namespaces", &json!({"metadata": {"name": "whole"}})).await;
    assert_eq!(made.code, 201);
    let label = json!({"metadata": {"labels": {"testLabel": "testValue"}}}).to_string();
    let patched = request("PATCH", path, "application/strategic-merge-patch+json", label);
    let mut object = read(server.respond(&admin(), patched).await).await.body;
    assert_eq!(object["metadata"]["labels"]["testLabel"], "testValue");
    object["metadata"]["labels"]["updated"] = "yes".into();
    let mut object = send(&server, "PUT", path, &object).await.body;
    assert_eq!(object["metadata"]["labels"]["updated"], "yes");

    object["spec"]["finalizers"] = json!(["kubernetes", "e2e.example.com/fake"]);
    let finalized = send(&server, "PUT", &format!("{path}/finalize"), &object).await;
    assert_eq!(finalized.code, 200, "{}", finalized.body);
    assert_eq!(finalized.body["spec"]["finalizers"], json!(["kubernetes", "e2e.example.com/fake"]));

    let condition = json!({"type": "Patched", "status": "True", "reason": "E2E", "message": "by a test"});
    let status = json!({"status": {"conditions": [condition]}}).to_string();
    let patched = request("PATCH", &format!("{path}/status"), "application/merge-patch+json", status);
    let patched = read(server.respond(&admin(), patched).await).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(patched.body["status"]["conditions"][0]["type"], "Patched");
    assert_eq!(send(&server, "GET", path, &Value::Null).await.body["status"]["phase"], "Active");
}

#[tokio::test]
async fn every_group_prefers_one_of_its_versions_and_lists_its_kinds() {
    let server = server().await;
    let groups = send(&server, "GET", "/apis", &Value::Null).await.body;
    for group in groups["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        let alone = send(&server, "GET", &format!("/apis/{name}"), &Value::Null).await.body;
        assert_eq!(alone["preferredVersion"], group["preferredVersion"], "{name}");
        let versions = group["versions"].as_array().unwrap();
        assert!(versions.contains(&group["preferredVersion"]), "{name}");
        for version in versions {
            let version = version["groupVersion"].as_str().unwrap();
            let list = send(&server, "GET", &format!("/apis/{version}"), &Value::Null).await.body;
            assert_eq!(list["groupVersion"], version);
            assert!(!list["resources"].as_array().unwrap().is_empty(), "{version}");
        }
    }
}

#[tokio::test]
async fn a_review_has_no_table() {
    let server = server().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    let mut asked = request("POST", path, "application/json", review);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap();
    asked.headers_mut().insert("accept", table);
    assert_eq!(read(server.respond(&admin(), asked).await).await.code, 406);
}

#[tokio::test]
async fn conditions_of_webhooks_must_be_expressions() {
    let server = server().await;
    let rules =
        json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    for plural in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        let hooks = json!([{"name": "a.b.example", "sideEffects": "None", "admissionReviewVersions": ["v1"], "rules": rules,
            "clientConfig": {"url": "https://x.example/"},
            "matchConditions": [{"name": "bad", "expression": "... [] bad expression"}]}]);
        let object = json!({"metadata": {"name": "x"}, "webhooks": hooks});
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
        let refused = send(&server, "POST", &path, &object).await;
        assert_eq!(refused.code, 422, "{plural}: {}", refused.body);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{message}");
    }
}
