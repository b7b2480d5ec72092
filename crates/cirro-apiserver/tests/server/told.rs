//! What webhooks are told of beside writes of whole objects, and what they are never told of.

use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::fixture::{EchoNode, admin, read, request, send, server};
use crate::kubectl::Cluster;
use crate::outside::{Hook, message, put};
use crate::streams::running_pod;

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn rule(operations: &[&str], resources: &[&str]) -> Value {
    json!([{"operations": operations, "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}])
}

async fn pod(server: &cirro_apiserver::ApiServer, name: &str, node: Option<&str>) {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    let made = send(server, "POST", PODS, &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

/// What a webhook was asked: operation, subresource and kind.
fn asked(hook: &Hook) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let asked = hook.asked.lock().unwrap();
    let line = |one: &Value| {
        let (operation, part) = (text(&one["operation"]), text(&one["subResource"]));
        format!("{operation} {}/{part} {}", text(&one["resource"]["resource"]), text(&one["kind"]["kind"]))
    };
    asked.iter().map(line).collect()
}

fn patch_of(patch: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

#[tokio::test]
async fn attaching_can_be_denied() {
    let server = server().await;
    server.set_node_streams(Arc::new(EchoNode::default()));
    let hook = Hook::start(|request| {
        let options = &request["object"];
        let denied = options["kind"] == "PodAttachOptions" && options["stdin"] == true && options["container"] == "c";
        json!({"allowed": !denied, "status": {"message": "attaching to pod 'to-be-attached-pod' is not allowed"}})
    })
    .await;
    let rules = rule(&["CONNECT"], &["pods/*", "services/proxy"]);
    let config = hook.config("ValidatingWebhookConfiguration", |hook| hook["rules"] = rules);
    put(&server, "validatingwebhookconfigurations", &config).await;
    pod(&server, "p", Some("n1")).await;
    let denied = send(&server, "GET", &format!("{PODS}/p/attach?container=c&stdin=true"), &Value::Null).await;
    assert_eq!(denied.code, 403);
    let expected = "admission webhook \"hook.test.example\" denied the request: attaching to pod 'to-be-attached-pod' is not allowed";
    assert_eq!(message(&denied), expected);
    let told = hook.asked.lock().unwrap()[0].clone();
    assert_eq!(told["resource"], json!({"group": "", "version": "v1", "resource": "pods"}));
    assert_eq!((&told["subResource"], &told["name"]), (&json!("attach"), &json!("p")));
    assert_eq!((&told["options"], &told["oldObject"]), (&Value::Null, &Value::Null));
    // What is let through comes to its own refusal.
    for path in ["attach?container=c", "exec?container=c&command=ls&command=-l", "portforward?ports=80,81"] {
        let answer = send(&server, "POST", &format!("{PODS}/p/{path}"), &Value::Null).await;
        assert_eq!(message(&answer), "Upgrade request required", "{path}");
    }
    send(&server, "GET", &format!("{PODS}/p/proxy/a/b"), &Value::Null).await;
    send(&server, "GET", &format!("{PODS}/p/log"), &Value::Null).await;
    let expected = [
        "attach PodAttachOptions",
        "attach PodAttachOptions",
        "exec PodExecOptions",
        "portforward PodPortForwardOptions",
        "proxy PodProxyOptions",
    ];
    assert_eq!(asked(&hook), expected.map(|one| format!("CONNECT pods/{one}")));
    let options = |index: usize| hook.asked.lock().unwrap()[index]["object"].clone();
    assert_eq!(options(2)["command"], json!(["ls", "-l"]));
    assert_eq!(options(3)["ports"], json!([80, 81]));
    assert_eq!(options(4)["path"], "a/b");
}

#[tokio::test]
async fn what_a_webhook_makes_of_a_command_is_run() {
    let Some(cluster) = Cluster::start().await else { return };
    running_pod(&cluster).await;
    let hook =
        Hook::start(|_| patch_of(&json!([{"op": "replace", "path": "/command/0", "value": "3"}]))).await;
    let rules = rule(&["CONNECT"], &["pods/exec"]);
    let config = hook.config("MutatingWebhookConfiguration", |hook| hook["rules"] = rules);
    put(&cluster.server, "mutatingwebhookconfigurations", &config).await;
    assert_eq!(cluster.output("exec p -- 0").await.status.code(), Some(3));
}

#[tokio::test]
async fn parts_are_told_as_what_was_sent() {
    let server = server().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let parts = [
        "pods/binding",
        "pods/eviction",
        "pods",
        "deployments",
        "deployments/scale",
        "serviceaccounts/token",
        "certificatesigningrequests/approval",
        "namespaces/finalize",
    ];
    let rules = rule(&["*"], &parts);
    pod(&server, "p", None).await;
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(send(&server, "POST", deployments, &deployment).await.code, 201);
    let config = hook.config("ValidatingWebhookConfiguration", |hook| hook["rules"] = rules);
    put(&server, "validatingwebhookconfigurations", &config).await;
    let post = async |path: &str, object: Value| {
        let answer = send(&server, "POST", path, &object).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
    };
    post(&format!("{PODS}/p/binding"), json!({"target": {"kind": "Node", "name": "n1"}})).await;
    post("/api/v1/namespaces/default/serviceaccounts/default/token", json!({})).await;
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let scaled = send(&server, "PUT", &format!("{deployments}/web/scale"), &scale).await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (200, &json!(3)));
    let patch = request(
        "PATCH",
        &format!("{deployments}/web/scale"),
        "application/merge-patch+json",
        r#"{"spec":{"replicas":4}}"#,
    );
    assert_eq!(read(server.respond(&admin(), patch).await).await.body["spec"]["replicas"], 4);
    post(&format!("{PODS}/p/eviction"), json!({"metadata": {"name": "p"}})).await;
    let expected = [
        "CREATE pods/binding Binding",
        "CREATE serviceaccounts/token TokenRequest",
        "UPDATE deployments/scale Scale",
        "UPDATE deployments/scale Scale",
        "CREATE pods/eviction Eviction",
    ];
    assert_eq!(asked(&hook), expected);
    let told = hook.asked.lock().unwrap()[3].clone();
    assert_eq!(
        (&told["oldObject"]["spec"]["replicas"], &told["object"]["spec"]["replicas"]),
        (&json!(3), &json!(4))
    );
    assert_eq!(told["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(told["resource"]["group"], "apps");
}

#[tokio::test]
async fn a_webhook_changes_and_refuses_scales() {
    let server = server().await;
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(send(&server, "POST", deployments, &deployment).await.code, 201);
    let hook = Hook::start(|request| match request["object"]["spec"]["replicas"].as_i64() {
        Some(100) => json!({"allowed": false, "status": {"message": "too many"}}),
        _ => patch_of(&json!([{"op": "replace", "path": "/spec/replicas", "value": 2}])),
    })
    .await;
    let rules = rule(&["UPDATE"], &["*/scale"]);
    put(
        &server,
        "mutatingwebhookconfigurations",
        &hook.config("MutatingWebhookConfiguration", |hook| hook["rules"] = rules),
    )
    .await;
    let scale = async |replicas: i64| {
        let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": replicas}});
        send(&server, "PUT", &format!("{deployments}/web/scale"), &scale).await
    };
    assert_eq!(scale(5).await.body["spec"]["replicas"], 2);
    assert_eq!(
        send(&server, "GET", &format!("{deployments}/web"), &Value::Null).await.body["spec"]["replicas"],
        2
    );
    assert!(message(&scale(100).await).ends_with("denied the request: too many"));
}

#[tokio::test]
async fn nobody_is_asked_about_what_configures_webhooks_and_policies() {
    let server = server().await;
    let hook = Hook::start(|_| json!({"allowed": false, "status": {"message": "never"}})).await;
    let everything = rule(&["*"], &["*/*"]);
    for (plural, kind) in [
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    ] {
        let mut config = hook.config(kind, |hook| hook["rules"] = everything.clone());
        put(&server, plural, &config).await;
        config["metadata"]["name"] = "other".into();
        put(&server, plural, &config).await;
    }
    let spec =
        json!({"matchConstraints": {"resourceRules": everything}, "validations": [{"expression": "false"}]});
    put(&server, "validatingadmissionpolicies", &json!({"metadata": {"name": "no"}, "spec": spec})).await;
    let binding =
        json!({"metadata": {"name": "no"}, "spec": {"policyName": "no", "validationActions": ["Deny"]}});
    put(&server, "validatingadmissionpolicybindings", &binding).await;
    // All else is refused, these are not.
    let map = json!({"metadata": {"name": "x"}});
    assert_eq!(send(&server, "POST", "/api/v1/namespaces/default/configmaps", &map).await.code, 403);
    let before = hook.asked.lock().unwrap().len();
    for one in [
        "validatingwebhookconfigurations/other",
        "mutatingwebhookconfigurations/other",
        "validatingwebhookconfigurations/hook",
        "mutatingwebhookconfigurations/hook",
        "validatingadmissionpolicybindings/no",
        "validatingadmissionpolicies/no",
    ] {
        let path = format!("{ADMISSION}/{one}");
        let label =
            request("PATCH", &path, "application/merge-patch+json", r#"{"metadata":{"labels":{"a":"b"}}}"#);
        assert_eq!(read(server.respond(&admin(), label).await).await.code, 200, "{one}");
        let gone = send(&server, "DELETE", &path, &Value::Null).await;
        assert_eq!(gone.code, 200, "{one}: {}", gone.body);
    }
    assert_eq!(hook.asked.lock().unwrap().len(), before);
    assert_eq!(send(&server, "POST", "/api/v1/namespaces/default/configmaps", &map).await.code, 201);
}

/// Adds one stage after the other, as upstream's test image does.
fn stages(request: &Value) -> Value {
    let data = &request["object"]["data"];
    let add = |name: &str| patch_of(&json!([{"op": "add", "path": format!("/data/{name}"), "value": "yes"}]));
    match (&data["mutation-start"], &data["mutation-stage-1"], &data["mutation-stage-2"]) {
        (start, Value::Null, _) if start == "yes" => add("mutation-stage-1"),
        (_, first, Value::Null) if first == "yes" => add("mutation-stage-2"),
        _ => json!({"allowed": true}),
    }
}

fn definition(data: Value) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"data": data}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    json!({"metadata": {"name": "tabs.stable.example"}, "spec": {"group": "stable.example", "scope": "Namespaced",
        "names": {"plural": "tabs", "kind": "Tab"}, "versions": [version("v1", true), version("v2", false)]}})
}

async fn define(server: &cirro_apiserver::ApiServer, definition: &Value) {
    let made =
        send(server, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

/// Registers a webhook for custom objects, to be asked twice.
async fn on_tabs(server: &cirro_apiserver::ApiServer, hook: &Hook, kind: &str, plural: &str) {
    let rules = json!([{"operations": ["*"], "apiGroups": ["stable.example"], "apiVersions": ["v1"], "resources": ["tabs"]}]);
    let mut config = hook.config(kind, |hook| hook["rules"] = rules);
    let mut second = config["webhooks"][0].clone();
    second["name"] = "second.test.example".into();
    config["webhooks"].as_array_mut().unwrap().push(second);
    put(server, plural, &config).await;
}

const TABS: &str = "/apis/stable.example/v1/namespaces/default/tabs";

fn tab(data: Value) -> Value {
    json!({"apiVersion": "stable.example/v1", "kind": "Tab", "metadata": {"name": "t"}, "data": data})
}

#[tokio::test]
async fn custom_objects_are_changed_and_the_stored_version_may_be_another() {
    let server = server().await;
    define(&server, &definition(json!({"type": "object", "additionalProperties": {"type": "string"}}))).await;
    let hook = Hook::start(stages).await;
    on_tabs(&server, &hook, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations").await;
    let made = send(&server, "POST", TABS, &tab(json!({"mutation-start": "yes"}))).await.body;
    assert_eq!(
        made["data"],
        json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"})
    );
    let swap = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tabs.stable.example";
    let swap = request("PATCH", path, "application/json-patch+json", swap.to_string());
    assert_eq!(read(server.respond(&admin(), swap).await).await.code, 200);
    let change = json!({"data": {"mutation-stage-1": null, "mutation-stage-2": null, "dummy": "test"}});
    for version in ["v1", "v2"] {
        let path = format!("/apis/stable.example/{version}/namespaces/default/tabs/t");
        let change = request("PATCH", &path, "application/merge-patch+json", change.to_string());
        let changed = read(server.respond(&admin(), change).await).await.body;
        let expected = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes", "dummy": "test"});
        assert_eq!(
            (&changed["data"], &changed["apiVersion"]),
            (&expected, &json!(format!("stable.example/{version}")))
        );
    }
    // It is told in the version that its rules know.
    assert!(hook.asked.lock().unwrap().iter().all(|one| one["object"]["apiVersion"] == "stable.example/v1"));
}

#[tokio::test]
async fn what_a_webhook_adds_to_a_custom_object_is_pruned_too() {
    let server = server().await;
    let text = json!({"type": "string"});
    let properties = json!({"mutation-start": text, "mutation-stage-1": text});
    define(&server, &definition(json!({"type": "object", "properties": properties}))).await;
    let hook = Hook::start(stages).await;
    on_tabs(&server, &hook, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations").await;
    let made = send(&server, "POST", TABS, &tab(json!({"mutation-start": "yes"}))).await.body;
    assert_eq!(made["data"], json!({"mutation-start": "yes", "mutation-stage-1": "yes"}));
    let kept = send(&server, "GET", &format!("{TABS}/t"), &Value::Null).await.body;
    assert_eq!(kept["data"], made["data"]);
}

#[tokio::test]
async fn custom_objects_and_definitions_are_denied() {
    let server = server().await;
    let any = json!({"type": "object", "additionalProperties": {"type": "string"}});
    define(&server, &definition(any.clone())).await;
    let hook = Hook::start(|request| {
        let object =
            if request["operation"] == "DELETE" { &request["oldObject"] } else { &request["object"] };
        let denied = object["data"]["webhook-e2e-test"] == "webhook-disallow";
        json!({"allowed": !denied, "status": {"message": "the custom resource contains unwanted data"}})
    })
    .await;
    on_tabs(&server, &hook, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations").await;
    let denied = send(&server, "POST", TABS, &tab(json!({"webhook-e2e-test": "webhook-disallow"}))).await;
    assert!(denied.code == 403 && message(&denied).ends_with("the custom resource contains unwanted data"));
    assert_eq!(send(&server, "POST", TABS, &tab(json!({"a": "b"}))).await.code, 201);
    let change = request(
        "PATCH",
        &format!("{TABS}/t"),
        "application/merge-patch+json",
        r#"{"data":{"webhook-e2e-test":"webhook-disallow"}}"#,
    );
    assert_eq!(read(server.respond(&admin(), change).await).await.code, 403);

    let mut definitions = hook.config("ValidatingWebhookConfiguration", |hook| {
        hook["rules"] = rule(&["CREATE"], &["customresourcedefinitions"]);
        hook["matchConditions"] =
            json!([{"name": "marked", "expression": "object.metadata.?labels.deny.orValue('') == 'yes'"}]);
    });
    definitions["metadata"]["name"] = "definitions".into();
    let strict =
        Hook::start(|_| json!({"allowed": false, "status": {"message": "the crd contains unwanted label"}}))
            .await;
    let config = &mut definitions["webhooks"][0]["clientConfig"];
    *config = json!({"url": format!("https://127.0.0.1:{}/", strict.port), "caBundle": strict.bundle});
    put(&server, "validatingwebhookconfigurations", &definitions).await;
    let mut other = definition(any);
    other["metadata"] = json!({"name": "tabs.other.example", "labels": {"deny": "yes"}});
    other["spec"]["group"] = "other.example".into();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let denied = send(&server, "POST", path, &other).await;
    assert!(
        denied.code == 403 && message(&denied).ends_with("the crd contains unwanted label"),
        "{}",
        denied.body
    );
    other["metadata"]["labels"] = json!({});
    assert_eq!(send(&server, "POST", path, &other).await.code, 201);
}
