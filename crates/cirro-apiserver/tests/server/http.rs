//! Requests as they come over the wire, without TLS.

use axum::body::Body;
use cirro_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::fixture::{admin, read, request, send, server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"a": "b"}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "web", "image": "helloworld"}]}}}})
}

#[tokio::test]
async fn objects_are_created_read_and_deleted() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let created = send(&server, "POST", path, &config_map("a")).await;
    assert_eq!((created.code, &created.body["kind"]), (201, &json!("ConfigMap")));
    assert_eq!(send(&server, "POST", path, &config_map("a")).await.body["reason"], "AlreadyExists");
    let one = format!("{path}/a");
    let got = send(&server, "GET", &one, &Value::Null).await;
    assert_eq!(got.body, created.body);
    let gone = send(&server, "DELETE", &one, &json!({"propagationPolicy": "Background"})).await;
    assert_eq!(gone.body["status"], "Success");
    assert_eq!(gone.body["details"]["uid"], created.body["metadata"]["uid"]);
    assert_eq!(send(&server, "GET", &one, &Value::Null).await.body["message"], "configmaps \"a\" not found");
}

#[tokio::test]
async fn a_list_comes_in_pages_of_one_revision() {
    let server = server().await;
    let path = "/api/v1/namespaces/kube-public/configmaps";
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(send(&server, "POST", path, &config_map(name)).await.code, 201);
    }
    let first = send(&server, "GET", &format!("{path}?limit=2"), &Value::Null).await.body;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    send(&server, "DELETE", &format!("{path}/e"), &Value::Null).await;
    let (mut names, mut page) = (Vec::new(), first.clone());
    loop {
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        let next = format!("{path}?limit=2&continue={token}");
        page = send(&server, "GET", &next, &Value::Null).await.body;
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let selected =
        send(&server, "GET", &format!("{path}?limit=1&labelSelector=n+in+(b,d)"), &Value::Null).await;
    assert_eq!(selected.body["items"][0]["metadata"]["name"], "b");
    assert!(selected.body["metadata"]["continue"].is_string());
    let named = send(&server, "GET", &format!("{path}?fieldSelector=metadata.name%3Dc"), &Value::Null).await;
    assert_eq!(named.body["items"].as_array().unwrap().len(), 1);
    let bad = send(&server, "GET", &format!("{path}?fieldSelector=spec.x%3Dc"), &Value::Null).await;
    assert_eq!((bad.code, &bad.body["message"]), (400, &json!("field label not supported: spec.x")));
}

#[tokio::test]
async fn a_continued_list_that_is_too_old_is_told_how_to_go_on() {
    let store = std::sync::Arc::new(cirro_store::MemoryObjectStore::new());
    let server = ApiServer::open(store.clone(), cirro_apiserver::Options::default()).await.unwrap();
    let path = "/api/v1/namespaces/kube-public/configmaps";
    for name in ["a", "b", "c"] {
        assert_eq!(send(&server, "POST", path, &config_map(name)).await.code, 201);
    }
    let first = send(&server, "GET", &format!("{path}?limit=2"), &Value::Null).await.body;
    assert_eq!(send(&server, "POST", path, &config_map("d")).await.code, 201);
    cirro_store::ObjectStore::compact(&*store, cirro_store::ObjectStore::revision(&*store)).await.unwrap();
    let next = async |page: &Value| {
        let token = page["metadata"]["continue"].as_str().unwrap();
        send(&server, "GET", &format!("{path}?limit=2&continue={token}"), &Value::Null).await
    };
    let refused = next(&first).await;
    assert_eq!((refused.code, &refused.body["reason"]), (410, &json!("Expired")));
    assert!(refused.body["message"].as_str().unwrap().contains("use the continue token in this response"));
    // What was made meanwhile is in the rest.
    let rest = next(&refused.body).await.body;
    let names: Vec<_> =
        rest["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["c", "d"]);
    let revision =
        |page: &Value| page["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(revision(&rest) > revision(&first));
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        send(&server, "POST", path, &config_map(name)).await;
    }
    let deleted = send(&server, "DELETE", &format!("{path}?labelSelector=n!=b"), &Value::Null).await;
    assert_eq!((deleted.code, deleted.body["items"].as_array().unwrap().len()), (200, 2));
    let left = send(&server, "GET", path, &Value::Null).await;
    assert_eq!(left.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn fields_are_validated_as_the_client_asks() {
    let server = server().await;
    let mut object = deployment("web");
    object["spec"]["foo"] = 1.into();
    let strict = send(&server, "POST", &format!("{DEPLOYMENTS}?fieldValidation=Strict"), &object).await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.body["message"],
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.foo\""
    );
    let text = r#"{"metadata": {"name": "d"}, "data": {"a": "1", "a": "2"}}"#;
    let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    let strict = read(server.respond(&admin(), request("POST", path, "application/json", text)).await).await;
    assert!(strict.body["message"].as_str().unwrap().ends_with("duplicate field \"data.a\""));
    let warned = send(&server, "POST", DEPLOYMENTS, &object).await;
    assert_eq!((warned.code, warned.body["spec"].get("foo")), (201, None));
    assert_eq!(warned.warnings, ["299 - \"unknown field \\\"spec.foo\\\"\""]);
    object["metadata"]["name"] = "quiet".into();
    let ignored = send(&server, "POST", &format!("{DEPLOYMENTS}?fieldValidation=Ignore"), &object).await;
    assert_eq!((ignored.code, ignored.warnings.len()), (201, 0));
}

#[tokio::test]
async fn old_versions_are_stored_as_the_new_one_and_answered_as_they_came() {
    let server = server().await;
    let object = json!({"apiVersion": "apps/v1beta1", "kind": "Deployment", "metadata": {"name": "old"}, "spec": {
        "template": {"metadata": {"labels": {"app": "hello"}},
            "spec": {"containers": [{"name": "web", "image": "helloworld"}]}}}});
    let path = "/apis/apps/v1beta1/namespaces/default/deployments";
    let created = send(&server, "POST", path, &object).await;
    assert_eq!((created.code, &created.body["apiVersion"]), (201, &json!("apps/v1beta1")));
    assert!(created.warnings[0].contains("deprecated"));
    let new = send(&server, "GET", &format!("{DEPLOYMENTS}/old"), &Value::Null).await;
    assert_eq!((&new.body["apiVersion"], new.warnings.len()), (&json!("apps/v1"), 0));
    assert_eq!(new.body["spec"]["selector"]["matchLabels"]["app"], "hello");
    let wrong = send(&server, "POST", DEPLOYMENTS, &object).await;
    assert_eq!(
        wrong.body["message"],
        "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
    );
    let list = send(&server, "GET", path, &Value::Null).await;
    assert_eq!(
        (&list.body["kind"], &list.body["items"][0]["apiVersion"]),
        (&json!("DeploymentList"), &json!("apps/v1beta1"))
    );
}

#[tokio::test]
async fn patches_of_every_kind_change_what_they_say() {
    let server = server().await;
    send(&server, "POST", DEPLOYMENTS, &deployment("web")).await;
    let path = format!("{DEPLOYMENTS}/web");
    let patch = |media_type: &'static str, body: Value| {
        let (server, path) = (server.clone(), path.clone());
        async move {
            read(server.respond(&admin(), request("PATCH", &path, media_type, body.to_string())).await).await
        }
    };
    let json_patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    let done = patch("application/json-patch+json", json_patch).await;
    assert_eq!(
        (&done.body["spec"]["replicas"], &done.body["metadata"]["generation"]),
        (&json!(3), &json!(2))
    );
    let done = patch("application/merge-patch+json", json!({"spec": {"paused": true}})).await;
    assert_eq!(done.body["spec"]["paused"], true);
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "two"}]}}}});
    let done = patch("application/strategic-merge-patch+json", strategic).await;
    assert_eq!(done.body["spec"]["template"]["spec"]["containers"][0]["image"], "two");
    let apply = patch("application/apply-patch+yaml", json!({})).await;
    assert_eq!(apply.code, 400);
    let test = json!([{"op": "test", "path": "/spec/replicas", "value": 9}]);
    assert_eq!(patch("application/json-patch+json", test).await.code, 422);
    let immutable = json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}});
    let refused = patch("application/merge-patch+json", immutable).await;
    assert_eq!(refused.code, 422);
    assert!(refused.body["message"].as_str().unwrap().contains("spec.selector: Invalid value"));
    let stale = patch("application/merge-patch+json", json!({"metadata": {"resourceVersion": "1"}})).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
}

#[tokio::test]
async fn the_scale_of_a_workload_is_read_and_set() {
    let server = server().await;
    send(&server, "POST", DEPLOYMENTS, &deployment("web")).await;
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = send(&server, "GET", &path, &Value::Null).await.body;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("app=web")));
    let merge = request("PATCH", &path, "application/merge-patch+json", r#"{"spec": {"replicas": 5}}"#);
    assert_eq!(read(server.respond(&admin(), merge).await).await.body["spec"]["replicas"], 5);
    let mut stale = scale;
    stale["spec"]["replicas"] = 7.into();
    assert_eq!(send(&server, "PUT", &path, &stale).await.code, 409);
    let below = request("PATCH", &path, "application/merge-patch+json", r#"{"spec": {"replicas": -1}}"#);
    assert_eq!(read(server.respond(&admin(), below).await).await.code, 422);
}

#[tokio::test]
async fn dry_runs_keep_nothing() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let dry = send(&server, "POST", &format!("{path}?dryRun=All"), &service).await;
    assert_eq!(dry.code, 201);
    assert!(dry.body["spec"]["clusterIP"].is_string());
    assert_eq!(send(&server, "GET", &format!("{path}/web"), &Value::Null).await.code, 404);
    send(&server, "POST", path, &service).await;
    let dry = send(&server, "DELETE", &format!("{path}/web?dryRun=All"), &Value::Null).await;
    assert_eq!(dry.code, 200);
    assert_eq!(send(&server, "GET", &format!("{path}/web"), &Value::Null).await.code, 200);
}

#[tokio::test]
async fn preconditions_guard_a_deletion() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let created = send(&server, "POST", path, &config_map("a")).await;
    let one = format!("{path}/a");
    let refused = send(&server, "DELETE", &one, &json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(refused.code, 409);
    let uid = &created.body["metadata"]["uid"];
    assert_eq!(send(&server, "DELETE", &one, &json!({"preconditions": {"uid": uid}})).await.code, 200);
}

#[tokio::test]
async fn tables_have_upstreams_columns() {
    let server = server().await;
    send(&server, "POST", DEPLOYMENTS, &deployment("web")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut table = request("GET", DEPLOYMENTS, "", Body::empty());
    table.headers_mut().insert("accept", accept.parse().unwrap());
    let table = read(server.respond(&admin(), table).await).await.body;
    let names: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["Name", "Ready", "Up-to-date", "Available", "Age", "Containers", "Images", "Selector"]
    );
    assert_eq!(table["rows"][0]["cells"][1], "0/1");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn bodies_may_be_yaml() {
    let server = server().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &x {a: b}\n";
    let create = request("POST", "/api/v1/namespaces/default/configmaps", "application/yaml", yaml);
    let created = read(server.respond(&admin(), create).await).await;
    assert_eq!((created.code, &created.body["data"]["a"]), (201, &json!("b")));
}

#[tokio::test]
async fn what_is_too_large_or_too_deep_is_refused() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let body = format!(r#"{{"metadata": {{"name": "a"}}, "data": {{"a": "{}"}}}}"#, "x".repeat(4 << 20));
    assert_eq!(
        read(server.respond(&admin(), request("POST", path, "application/json", body)).await).await.code,
        413
    );
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(
        read(server.respond(&admin(), request("POST", path, "application/json", deep)).await).await.code,
        400
    );
    let mut large = config_map("a");
    large["metadata"]["annotations"] = json!({"a": "x".repeat(300 << 10)});
    assert_eq!(send(&server, "POST", path, &large).await.code, 422);
    assert_eq!(read(server.respond(&admin(), request("POST", path, "text/html", "x")).await).await.code, 415);
}

#[tokio::test]
async fn discovery_lists_what_is_served() {
    let server = server().await;
    let classic = send(&server, "GET", "/api/v1", &Value::Null).await.body;
    let names: Vec<_> =
        classic["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"pods/eviction") && names.contains(&"services"));
    let mut aggregated = request("GET", "/apis", "", Body::empty());
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    aggregated.headers_mut().insert("accept", accept.parse().unwrap());
    let response = server.respond(&admin(), aggregated).await;
    assert!(response.headers()["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    let groups = read(response).await.body;
    assert_eq!(groups["items"][0]["metadata"]["name"], "apps");
    assert_eq!(groups["items"][0]["versions"][0]["version"], "v1");
    for path in ["/apis/nothing", "/apis/apps/v9", "/api/v1/nothings", "/api/v1/nodes/a/b/c", "/nothing"] {
        assert_eq!(send(&server, "GET", path, &Value::Null).await.code, 404, "{path}");
    }
    assert_eq!(send(&server, "PUT", PODS, &Value::Null).await.code, 405);
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let server = server().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "hello", "type": "Normal"});
    let created = send(&server, "POST", "/api/v1/namespaces/default/events", &event).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let other =
        send(&server, "GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", &Value::Null).await;
    assert_eq!((&other.body["note"], &other.body["regarding"]["name"]), (&json!("hello"), &json!("p")));
    let selected =
        "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp%2Creason%3DStarted";
    assert_eq!(send(&server, "GET", selected, &Value::Null).await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn node_ports_are_given_once() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "healthCheckNodePort": 0,
            "ports": [{"port": 80, "nodePort": 30080}]}})
    };
    assert_eq!(send(&server, "POST", path, &service("a")).await.code, 201);
    let refused = send(&server, "POST", path, &service("b")).await;
    assert_eq!(
        refused.body["message"],
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    send(&server, "DELETE", &format!("{path}/a"), &Value::Null).await;
    assert_eq!(send(&server, "POST", path, &service("b")).await.code, 201);
}

#[tokio::test]
async fn one_asks_about_oneself() {
    let server = server().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(send(&server, "POST", path, &review).await.body["status"]["allowed"], true);
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = send(&server, "POST", path, &json!({})).await;
    assert_eq!(who.body["status"]["userInfo"]["username"], "kubernetes-admin");
}
