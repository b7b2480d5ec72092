//! Evictions and the budgets that put them off.

use serde_json::{Value, json};

use crate::fixture::{Answer, send, server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

#[tokio::test]
async fn a_budget_puts_evictions_off() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
        assert_eq!(send(&server, "POST", PODS, &pod).await.code, 201);
        let mut running = send(&server, "GET", &format!("{PODS}/{name}"), &Value::Null).await.body;
        running["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(send(&server, "PUT", &format!("{PODS}/{name}/status"), &running).await.code, 200);
    }
    let selector = json!({"matchLabels": {"app": "x"}});
    let budget = json!({"metadata": {"name": "keep"}, "spec": {"minAvailable": 2, "selector": selector}});
    assert_eq!(send(&server, "POST", BUDGETS, &budget).await.code, 201);
    let evict = async |name: &str| -> Answer {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        send(&server, "POST", &format!("{PODS}/{name}/eviction"), &eviction).await
    };
    let early = evict("a").await;
    assert_eq!(early.code, 429, "{}", early.body);
    assert_eq!(early.body["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(
        early.body["details"],
        json!({"retryAfterSeconds": 10, "causes": [{"reason": "DisruptionBudget",
            "message": "The disruption budget keep is still being processed by the server."}]})
    );
    let mut seen = send(&server, "GET", &format!("{BUDGETS}/keep"), &Value::Null).await.body;
    seen["status"] = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2,
        "expectedPods": 3});
    assert_eq!(send(&server, "PUT", &format!("{BUDGETS}/keep/status"), &seen).await.code, 200);
    assert_eq!(evict("a").await.code, 201);
    let spent = send(&server, "GET", &format!("{BUDGETS}/keep"), &Value::Null).await.body;
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["a"].is_string(), "{spent}");
    let refused = evict("b").await;
    assert_eq!(
        refused.body["details"]["causes"][0]["message"],
        "The disruption budget keep needs 2 healthy pods and has 3 currently"
    );
    // A second budget over the same pods.
    let other = json!({"metadata": {"name": "also"}, "spec": {"maxUnavailable": 1, "selector": selector}});
    assert_eq!(send(&server, "POST", BUDGETS, &other).await.code, 201);
    assert_eq!(evict("b").await.code, 500);
    // One that serves nobody goes in any case.
    let mut done = send(&server, "GET", &format!("{PODS}/c"), &Value::Null).await.body;
    done["status"]["phase"] = "Succeeded".into();
    send(&server, "PUT", &format!("{PODS}/c/status"), &done).await;
    assert_eq!(evict("c").await.code, 201);
}
