//! Services: who is ready, what the proxy and the DNS are told.

use std::time::Duration;

use cirro_client::text;
use cirro_seams::network::NameTarget;
use cirro_seams::node::NodeError;
use cirro_sim::{Answer, Operation, Script};
use serde_json::{Value, json};

use crate::world::{World, deployment, pod};

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn backends(world: &World) -> Vec<String> {
    let services = world.engine.services();
    let web = services.iter().filter(|one| one.port == 80);
    let mut found: Vec<String> =
        web.flat_map(|one| &one.backends).map(|(ip, port)| format!("{ip}:{port}")).collect();
    found.sort();
    found
}

#[tokio::test(start_paused = true)]
async fn a_pod_serves_only_while_its_readiness_probe_says_so() {
    let world = World::start(30).await;
    world.engine.answer("check", Answer { code: 1, ..Answer::default() });
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.create(service()).await;
    let container = json!({"name": "main", "image": "web", "readinessProbe": probe});
    world.create(pod("web", json!({"containers": [container]}))).await;
    let ready = || -> Option<bool> {
        let slices = world.slices.in_namespace("default");
        let slice =
            slices.iter().find(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web")?;
        slice["endpoints"][0]["conditions"]["ready"].as_bool()
    };
    world.until("the slice has the address", || ready() == Some(false)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((ready(), world.ready_pods("web")), (Some(false), 0));
    assert!(backends(&world).is_empty());
    world.engine.answer("check", Answer::default());
    world.until("it is ready", || ready() == Some(true)).await;
    let address = text(&world.pods.get("default", "web").unwrap(), "/status/podIP").to_owned();
    world.until("the proxy sends there", || backends(&world) == [format!("{address}:8080")]).await;
    world.engine.answer("check", Answer { code: 1, ..Answer::default() });
    world.until("it is out again", || ready() == Some(false) && backends(&world).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn the_proxy_forgets_a_pod_before_it_is_signalled() {
    let world = World::start(31).await;
    world.engine.script_image("web", Script::stops_after(Duration::from_secs(1), 0));
    let web = world.create(deployment("web", 3, json!({}))).await;
    world.create(service()).await;
    world.until("three backends", || backends(&world).len() == 3).await;
    world.patch(&web, json!({"spec": {"replicas": 1}})).await;
    world.until("one backend", || backends(&world).len() == 1).await;
    assert_eq!(world.engine.running().len(), 3, "both still serve what they have begun");
    world.until("one runs", || world.engine.running().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn names_and_services_reach_the_engine_even_when_it_fails_at_first() {
    let world = World::start(32).await;
    world.rest().await;
    let failed = || NodeError::Failed("nftables is busy".into());
    world.engine.fail_next(Operation::SetNames, 3, failed());
    world.engine.fail_next(Operation::SetServices, 3, failed());
    let made = world.create(service()).await;
    let address: std::net::Ipv4Addr = text(&made, "/spec/clusterIP").parse().unwrap();
    let known = |name: &str| {
        world.engine.names().into_iter().find(|record| record.name == name).map(|record| record.target)
    };
    world
        .until("the name is known", || {
            known("web.default.svc.cluster.local") == Some(NameTarget::Addresses(vec![address]))
        })
        .await;
    world
        .until("the service is known", || {
            world.engine.services().iter().any(|one| one.cluster_ip == Some(address))
        })
        .await;
    assert!(matches!(
        known("_http._tcp.web.default.svc.cluster.local"),
        Some(NameTarget::Service { port: 80, .. })
    ));
    world.delete(&made, None).await;
    world
        .until("both are gone", || {
            known("web.default.svc.cluster.local").is_none()
                && !world.engine.services().iter().any(|one| one.cluster_ip == Some(address))
        })
        .await;
}
