//! Claims that are in use, and Endpoints that somebody else writes.

use std::time::Duration;

use cirro_client::labels;
use serde_json::{Value, json};

use crate::world::{World, pod};

fn claim(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
}

#[tokio::test(start_paused = true)]
async fn a_claim_stays_while_a_pod_uses_it() {
    let world = World::start(70).await;
    let data = world.create(claim("data")).await;
    assert_eq!(data["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let idle = world.create(claim("idle")).await;
    world.delete(&idle, None).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.get(&idle).await.is_none(), "nobody uses it");

    let volumes = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]);
    let mut user = pod("user", json!({}));
    user["spec"]["volumes"] = volumes;
    // No volume is ever bound here: it is enough that the pod has a node.
    user["spec"]["nodeName"] = "sim".into();
    let user = world.create(user).await;
    world.delete(&data, None).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let kept = world.get(&data).await.expect("a pod uses it");
    assert!(kept["metadata"]["deletionTimestamp"].is_string());
    world.delete(&user, None).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.get(&data).await.is_none(), "the pod is gone");
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_somebody_else_are_mirrored() {
    let world = World::start(71).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "default"},
        "spec": {"ports": [{"name": "sql", "port": 5432}]}});
    world.create(service).await;
    let resource = cirro_seams::api::Resource::new("", "endpoints");
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "sql", "port": 5432}]}]});
    let made = world.api.create(&resource, endpoints).await.unwrap();
    let addresses = || -> Vec<Value> {
        let slices = world.slices.in_namespace("default");
        let ours = |slice: &&std::sync::Arc<Value>| {
            labels(slice).get("endpointslice.kubernetes.io/managed-by")
                == Some(&"endpointslicemirroring-controller.k8s.io")
        };
        slices.iter().filter(ours).map(|slice| slice["endpoints"][0]["addresses"][0].clone()).collect()
    };
    world.until("it is mirrored", || addresses() == [json!("192.0.2.1")]).await;
    let mut changed = (*made).clone();
    changed["subsets"][0]["addresses"] = json!([{"ip": "192.0.2.9"}]);
    world.api.update(&resource, changed).await.unwrap();
    world.until("it follows", || addresses() == [json!("192.0.2.9")]).await;
    let key = cirro_client::key_of(&resource, &made);
    world.api.delete(&key, cirro_seams::api::DeleteOptions::default()).await.unwrap();
    world.until("it goes", || addresses().is_empty()).await;
}
