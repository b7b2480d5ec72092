//! metrics.k8s.io: what kubectl's top shows.

use std::sync::Arc;

use cirro_apiserver::User;
use serde_json::{Value, json};

use crate::fixture::{EchoNode, read, request, send};
use crate::kubectl::Cluster;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

async fn pod(cluster: &Cluster, name: &str, app: &str) -> String {
    let container = |name: &str| json!({"name": name, "image": "i"});
    let pod = json!({"metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": "n1", "containers": [container("a"), container("b")]}});
    let made = send(&cluster.server, "POST", "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn top_shows_what_nodes_and_pods_use() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let node = EchoNode::default();
    for (name, app) in [("one", "x"), ("two", "y")] {
        let uid = pod(&cluster, name, app).await;
        node.busy.lock().unwrap().push(uid);
    }
    pod(&cluster, "idle", "x").await;
    cluster.server.set_node_streams(Arc::new(node));
    let made = send(&cluster.server, "POST", "/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(made.code, 201);
    let capacity = json!({"cpu": "2", "memory": "24Mi"});
    let status = json!({"status": {"capacity": capacity, "allocatable": capacity}}).to_string();
    let patch = request("PATCH", "/api/v1/nodes/n1/status", "application/merge-patch+json", status);
    assert_eq!(read(cluster.server.respond(&crate::fixture::admin(), patch).await).await.code, 200);

    let server = &cluster.server;
    let get = async |path: &str| send(server, "GET", &format!("{METRICS}{path}"), &Value::Null).await;
    let one = get("/namespaces/default/pods/one").await.body;
    assert_eq!((&one["kind"], &one["window"]), (&json!("PodMetrics"), &json!("15s")));
    assert_eq!(one["containers"][0], json!({"name": "a", "usage": {"cpu": "200m", "memory": "12Mi"}}));
    let names = |list: &Value| {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&get("/pods").await.body), ["one", "two"]);
    assert_eq!(names(&get("/namespaces/default/pods?labelSelector=app%3Dx").await.body), ["one"]);
    assert_eq!(names(&get("/namespaces/default/pods?fieldSelector=metadata.name%3Dtwo").await.body), ["two"]);
    assert!(names(&get("/namespaces/other/pods").await.body).is_empty());
    let absent = get("/namespaces/default/pods/idle").await;
    assert_eq!(absent.code, 404);
    assert_eq!(absent.body["message"], "podmetrics.metrics.k8s.io \"default/idle\" not found");
    assert_eq!(get("/nodes/n1").await.body["usage"], json!({"cpu": "1500m", "memory": "12Mi"}));
    let made = send(&cluster.server, "POST", &format!("{METRICS}/nodes"), &json!({})).await;
    assert_eq!(made.code, 405);
    assert_eq!(get("/pods?watch=true").await.code, 405);
    let nobody = User { name: "bob".into(), groups: vec!["system:authenticated".into()], ..User::default() };
    let refused = server.respond(&nobody, request("GET", &format!("{METRICS}/nodes"), "", "")).await;
    assert_eq!(read(refused).await.code, 403);

    for version in ["1.27", "1.33"] {
        if !cluster.with_kubectl(version) {
            continue;
        }
        let pods = cluster.run("top pods --containers --no-headers").await;
        let lines: Vec<Vec<&str>> = pods.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["one", "a", "200m", "12Mi"]), "{version}: {pods}");
        assert_eq!(lines.len(), 4, "{version}: {pods}");
        let pods = cluster.run("top pods -A -l app=y --no-headers").await;
        assert_eq!(pods.split_whitespace().collect::<Vec<_>>(), ["default", "two", "500m", "24Mi"]);
        let nodes = cluster.run("top nodes --no-headers").await;
        assert_eq!(nodes.split_whitespace().collect::<Vec<_>>(), ["n1", "1500m", "75%", "12Mi", "50%"]);
    }
    let table = cluster.run("get pods.metrics.k8s.io").await;
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..8], ["NAME", "CPU", "MEMORY", "WINDOW", "one", "500m", "24Mi", "15s"], "{table}");
    assert!(cluster.run("explain podmetrics.containers.usage").await.contains("working set"));
    // `pods` alone are those of the core.
    assert!(cluster.run("get pods -o name").await.contains("pod/idle"));
}
