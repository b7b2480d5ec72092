//! What namespaces allow: limits, quotas, pod security.

use std::sync::Arc;

use cirro_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::fixture::{Answer, admin, read, request, send, server};
use crate::kubectl::Cluster;

const DEFAULT: &str = "/api/v1/namespaces/default";

async fn must(server: &ApiServer, path: &str, object: &Value) -> Value {
    let created = send(server, "POST", &format!("{DEFAULT}/{path}"), object).await;
    assert_eq!(created.code, 201, "{}", created.body);
    created.body
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

async fn create(server: &ApiServer, pod: &Value) -> Answer {
    send(server, "POST", &format!("{DEFAULT}/pods"), pod).await
}

async fn used(server: &ApiServer, quota: &str) -> Value {
    send(server, "GET", &format!("{DEFAULT}/resourcequotas/{quota}"), &Value::Null).await.body["status"]["used"].clone()
}

fn quota(name: &str, hard: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}})
}

#[tokio::test]
async fn limits_fill_in_and_hold() {
    let server = server().await;
    let limits = json!([{"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]);
    must(&server, "limitranges", &json!({"metadata": {"name": "l"}, "spec": {"limits": limits}})).await;
    let made = create(&server, &pod("a", json!({}))).await.body;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let refused = create(&server, &pod("b", json!({"limits": {"cpu": "2"}}))).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "pods \"b\" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per Container is 1, but request is 2]"
    );
}

#[tokio::test]
async fn a_quota_counts_what_is_there_what_comes_and_what_goes() {
    let server = server().await;
    create(&server, &pod("a", json!({"requests": {"cpu": "100m"}}))).await;
    must(
        &server,
        "resourcequotas",
        &quota("q", json!({"pods": "2", "requests.cpu": "1", "count/configmaps": "1"})),
    )
    .await;
    assert_eq!(
        used(&server, "q").await,
        json!({"pods": "1", "requests.cpu": "100m", "count/configmaps": "0"})
    );
    let silent = create(&server, &pod("b", json!({}))).await;
    assert_eq!(
        silent.body["message"],
        "pods \"b\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    assert_eq!(create(&server, &pod("b", json!({"requests": {"cpu": "0.4"}}))).await.code, 201);
    assert_eq!(used(&server, "q").await["requests.cpu"], "500m");
    let refused = create(&server, &pod("c", json!({"requests": {"cpu": "600m"}}))).await;
    assert_eq!(
        refused.body["message"],
        "pods \"c\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=600m, used: pods=2,requests.cpu=500m, limited: pods=2,requests.cpu=1"
    );
    // One that ended uses nothing; one that is gone neither.
    let ended = json!({"status": {"phase": "Succeeded"}});
    let path = format!("{DEFAULT}/pods/a/status");
    let patch = request("PATCH", &path, "application/merge-patch+json", ended.to_string());
    assert_eq!(server.respond(&admin(), patch).await.status(), 200);
    assert_eq!(used(&server, "q").await["pods"], "1");
    send(&server, "DELETE", &format!("{DEFAULT}/pods/b"), &Value::Null).await;
    assert_eq!(used(&server, "q").await, json!({"pods": "0", "requests.cpu": "0", "count/configmaps": "0"}));
    // A dry run is checked and not counted.
    let dry = send(
        &server,
        "POST",
        &format!("{DEFAULT}/configmaps?dryRun=All"),
        &json!({"metadata": {"name": "m"}}),
    )
    .await;
    assert_eq!((dry.code, &used(&server, "q").await["count/configmaps"]), (201, &json!("0")));
    // A new limit counts anew.
    let wider = quota("q", json!({"secrets": "5", "pods": "3"}));
    let path = format!("{DEFAULT}/resourcequotas/q");
    let changed = send(&server, "PUT", &path, &wider).await.body;
    assert_eq!(
        changed["status"],
        json!({"hard": {"secrets": "5", "pods": "3"}, "used": {"secrets": "0", "pods": "0"}})
    );
}

#[tokio::test]
async fn many_at_once_never_exceed_a_quota() {
    let server = Arc::new(server().await);
    must(&server, "resourcequotas", &quota("q", json!({"count/configmaps": "7"}))).await;
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let server = server.clone();
            let object = json!({"metadata": {"name": format!("m{number}")}});
            tokio::spawn(async move {
                send(&server, "POST", &format!("{DEFAULT}/configmaps"), &object).await.code
            })
        })
        .collect();
    let mut codes = Vec::new();
    for task in tasks {
        codes.push(task.await.unwrap());
    }
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 7, "{codes:?}");
    assert!(codes.iter().all(|code| [201, 403].contains(code)), "{codes:?}");
    assert_eq!(used(&server, "q").await["count/configmaps"], "7");
    let gone = send(&server, "DELETE", &format!("{DEFAULT}/configmaps"), &Value::Null).await;
    assert_eq!((gone.code, &used(&server, "q").await["count/configmaps"]), (200, &json!("0")));
}

#[tokio::test]
async fn labels_of_a_namespace_say_what_pods_may_do() {
    let server = server().await;
    let labels = |labels: Value| {
        let patch = json!({"metadata": {"labels": labels}}).to_string();
        request("PATCH", DEFAULT, "application/merge-patch+json", patch)
    };
    let wrong =
        read(server.respond(&admin(), labels(json!({"pod-security.kubernetes.io/enforce": "strict"}))).await)
            .await;
    assert_eq!(wrong.code, 422);
    let set = labels(
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}),
    );
    assert_eq!(server.respond(&admin(), set).await.status(), 200);
    let mut privileged = pod("a", json!({}));
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let refused = create(&server, &privileged).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)"
    );
    let plain = create(&server, &pod("b", json!({}))).await;
    assert_eq!(plain.code, 201);
    assert!(
        plain.warnings[0].contains("would violate PodSecurity \\\"restricted:latest\\\""),
        "{:?}",
        plain.warnings
    );
    let tolerations = plain.body["spec"]["tolerations"].as_array().unwrap();
    assert_eq!((tolerations.len(), &tolerations[0]["tolerationSeconds"]), (2, &json!(300)));
    // A workload is warned about; its pods are what is refused.
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": privileged["spec"]});
    let workload = json!({"metadata": {"name": "w"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made = send(&server, "POST", "/apis/apps/v1/namespaces/default/deployments", &workload).await;
    assert_eq!((made.code, made.warnings.len()), (201, 1), "{:?}", made.warnings);
}

#[tokio::test]
async fn kubectl_makes_and_describes_quotas() {
    let Some(cluster) = Cluster::start().await else { return };
    assert_eq!(cluster.run("create quota q --hard=pods=1,secrets=2").await, "resourcequota/q created\n");
    cluster.run("create secret generic s --from-literal=a=b").await;
    let table = cluster.run("get quota").await;
    assert!(table.contains("pods: 0/1, secrets: 1/2"), "{table}");
    let described = cluster.run("describe quota q").await;
    let row = |line: &str| line.split_whitespace().eq(["secrets", "1", "2"]);
    assert!(described.lines().any(row), "{described}");
    cluster.run("run p --image=busybox").await;
    assert!(cluster.fail("run p2 --image=busybox").await.contains("exceeded quota: q"));
    assert!(cluster.run("describe namespace default").await.contains("secrets"));
}
