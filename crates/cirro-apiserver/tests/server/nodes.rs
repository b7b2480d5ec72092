//! Nodes as users: the node authorizer and the restriction of what they write.

use cirro_apiserver::{ApiServer, User};
use serde_json::{Value, json};

use crate::fixture::{Answer, read, request, send, server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

async fn ask(server: &ApiServer, node: &str, method: &str, path: &str, body: Value) -> Answer {
    let groups = vec!["system:nodes".to_owned(), User::AUTHENTICATED.to_owned()];
    let user = User { name: format!("system:node:{node}"), groups, ..User::default() };
    let media_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    read(server.respond(&user, request(method, path, media_type, body)).await).await
}

async fn make(server: &ApiServer, path: &str, object: Value) -> Value {
    let made = send(server, "POST", path, &object).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": node,
        "containers": [{"name": "c", "image": "x", "envFrom": [{"secretRef": {"name": format!("of-{name}")}}]}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": format!("claim-{name}")}}]}})
}

async fn start() -> ApiServer {
    let server = server().await;
    for node in ["a", "b"] {
        make(&server, "/api/v1/nodes", json!({"metadata": {"name": node}})).await;
        make(&server, PODS, pod(node, node)).await;
        make(&server, SECRETS, json!({"metadata": {"name": format!("of-{node}")}})).await;
    }
    server
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn nodes_read_what_their_pods_refer_to() {
    let server = start().await;
    let get = async |path: &str| ask(&server, "a", "GET", path, Value::Null).await;
    assert_eq!(get(&format!("{SECRETS}/of-a")).await.code, 200);
    let refused = get(&format!("{SECRETS}/of-b")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        message(&refused),
        "secrets \"of-b\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in API group \"\" in the namespace \"default\": no relationship found between node 'a' and this object"
    );
    assert!(message(&get(SECRETS).await).ends_with("No Object name found"));
    assert_eq!(get(&format!("{SECRETS}?fieldSelector=metadata.name%3Dof-a")).await.code, 200);
    // Volumes by their claims.
    for name in ["a", "b"] {
        make(
            &server,
            "/api/v1/persistentvolumes",
            json!({"metadata": {"name": name}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"},
            "claimRef": {"namespace": "default", "name": format!("claim-{name}")}}}),
        )
        .await;
    }
    assert_eq!(get("/api/v1/persistentvolumes/a").await.code, 200);
    assert_eq!(get("/api/v1/persistentvolumes/b").await.code, 403);
    // Pods by selector or by name, nodes by name.
    assert_eq!(get("/api/v1/pods?fieldSelector=spec.nodeName%3Da").await.code, 200);
    assert!(
        message(&get("/api/v1/pods").await)
            .ends_with("can only list/watch pods with spec.nodeName field selector")
    );
    assert_eq!((get(&format!("{PODS}/a")).await.code, get(&format!("{PODS}/b")).await.code), (200, 403));
    assert_eq!(get("/api/v1/nodes/a").await.code, 200);
    assert!(
        message(&get("/api/v1/nodes/b").await)
            .ends_with("node 'a' cannot read 'b', only its own Node object")
    );
    // The rest by the rules of the default role.
    assert_eq!(get("/api/v1/services").await.code, 200);
    assert_eq!(get("/apis/apps/v1/deployments").await.code, 403);
    // One whose name is not a node's is none.
    let user =
        User { name: "system:node:a".into(), groups: vec![User::AUTHENTICATED.into()], ..User::default() };
    let asked = request("GET", &format!("{SECRETS}/of-a"), "application/json", "");
    assert_eq!(read(server.respond(&user, asked).await).await.code, 403);
}

#[tokio::test]
async fn nodes_write_what_is_their_own() {
    let server = start().await;
    let a = async |method: &str, path: &str, body: Value| ask(&server, "a", method, path, body).await;
    let labels = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    assert_eq!(a("PATCH", "/api/v1/nodes/a", labels("rack")).await.code, 200);
    let refused = a("PATCH", "/api/v1/nodes/a", labels("node-restriction.kubernetes.io/x")).await;
    assert_eq!(
        message(&refused),
        "nodes \"a\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/x"
    );
    let other = a("PATCH", "/api/v1/nodes/b/status", json!({"status": {"phase": "x"}})).await;
    assert_eq!(message(&other), "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"");
    let taints = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    assert!(
        message(&a("PATCH", "/api/v1/nodes/a", taints).await).ends_with("is not allowed to modify taints")
    );
    // Pods.
    let phase = json!({"status": {"phase": "Running"}});
    assert_eq!(a("PATCH", &format!("{PODS}/a/status"), phase.clone()).await.code, 200);
    assert!(
        message(&a("PATCH", &format!("{PODS}/b/status"), phase).await)
            .ends_with("node \"a\" can only update pod status for pods with spec.nodeName set to itself")
    );
    assert!(
        message(&a("DELETE", &format!("{PODS}/b"), Value::Null).await)
            .ends_with("node \"a\" can only delete pods with spec.nodeName set to itself")
    );
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}});
    assert!(
        message(&a("POST", &format!("{PODS}/b/eviction"), eviction).await)
            .ends_with("node a can only evict pods with spec.nodeName set to itself")
    );
    let mut mirror = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": {"nodeName": "a",
        "containers": [{"name": "c", "image": "x"}]}});
    assert!(message(&a("POST", PODS, mirror.clone()).await).contains("can only create mirror pods"));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "1"});
    assert!(
        message(&a("POST", PODS, mirror.clone()).await).ends_with("with an owner reference set to itself")
    );
    let uid = send(&server, "GET", "/api/v1/nodes/a", &Value::Null).await.body["metadata"]["uid"].clone();
    mirror["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid, "controller": true}]);
    let made = a("POST", PODS, mirror).await;
    assert_eq!(made.code, 201, "{}", made.body);
    // Leases.
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(a("POST", leases, lease("a")).await.code, 201);
    assert!(
        message(&a("POST", leases, lease("b")).await)
            .ends_with("can only access node lease with the same name as the requesting node")
    );
    // Tokens are bound to pods of the node.
    let token = |name: &str, uid: &Value| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let uid_of = async |name: &str| {
        send(&server, "GET", &format!("{PODS}/{name}"), &Value::Null).await.body["metadata"]["uid"].clone()
    };
    assert_eq!(a("POST", path, token("a", &uid_of("a").await)).await.code, 201);
    assert!(
        message(&a("POST", path, token("b", &uid_of("b").await)).await)
            .ends_with("node requested token bound to a pod scheduled on a different node")
    );
    assert!(
        message(&a("POST", path, json!({"spec": {}})).await)
            .ends_with("node requested token not bound to a pod")
    );
}
