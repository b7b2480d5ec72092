//! Instances from placement to the end.

use std::time::Duration;

use cirro_client::text;
use cirro_seams::node::NodeError;
use cirro_sim::Operation;
use serde_json::{Value, json};

use crate::world::World;

async fn make(world: &World) -> std::sync::Arc<Value> {
    let network = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "network.cirro.dev/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    };
    world.create(network("Vpc", "net", json!({"cidr": "10.7.0.0/16"}))).await;
    world.create(network("Subnet", "a", json!({"vpc": "net", "cidr": "10.7.0.0/24"}))).await;
    world
        .create(json!({"apiVersion": "compute.cirro.dev/v1", "kind": "Instance",
            "metadata": {"name": "vm", "namespace": "default"},
            "spec": {"image": "web", "cpu": 1, "memory": "128Mi", "subnet": "a"}}))
        .await
}

fn phase(world: &World) -> String {
    world.instances.get("default", "vm").map(|vm| text(&vm, "/status/phase").to_owned()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_bound_runs_with_an_address_and_goes() {
    let world = World::start(60).await;
    world.engine.set_machine_start(Duration::from_secs(5));
    world.engine.fail_next(Operation::EnsureInstance, 2, NodeError::Failed("no memory".into()));
    let vm = make(&world).await;
    world.until("it runs", || phase(&world) == "Running").await;
    let shown = world.instances.get("default", "vm").unwrap();
    assert_eq!(text(&shown, "/status/node"), "sim");
    assert!(text(&shown, "/status/address").starts_with("10.7.0."));
    assert!(shown["status"].get("message").is_none(), "{}", shown["status"]);
    assert_eq!(shown["metadata"]["finalizers"], json!(["compute.cirro.dev/machine"]));
    assert!(world.engine.networks().subnets.contains_key(&("default".into(), "a".into())));
    world.engine.fail_next(Operation::RemoveInstance, 3, NodeError::Failed("disk is busy".into()));
    world.delete(&vm, None).await;
    assert!(world.get(&vm).await.is_some(), "the object stays until its machine is gone");
    world.until("it is gone", || world.instances.list().is_empty()).await;
    assert!(world.engine.machines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_died_is_started_again_even_when_the_event_is_lost() {
    let world = World::start(61).await;
    let vm = make(&world).await;
    world.until("it runs", || phase(&world) == "Running").await;
    let uid = text(&vm, "/metadata/uid").to_owned();
    let runs = || world.engine.machines().iter().any(|machine| machine.running);
    assert!(world.engine.kill_machine(&uid, "killed"));
    world.until("it runs again", runs).await;
    world.rest().await;
    world.engine.lose_events(true);
    assert!(world.engine.kill_machine(&uid, "killed"));
    world.rest().await;
    assert!(!runs());
    world.engine.lose_events(false);
    world.engine.announce_everything();
    world.until("it runs again", runs).await;
}
