//! Deployments from the first pod to the last.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cirro_client::{name, text};
use cirro_sim::Script;
use serde_json::{Value, json};

use crate::world::{World, condition, deployment, is_ready};

#[tokio::test(start_paused = true)]
async fn a_deployment_becomes_available_and_its_pods_run() {
    let world = World::start(1).await;
    world.create(deployment("web", 3, json!({}))).await;
    world.until_complete("web", 3).await;
    let deployment = world.deployments.get("default", "web").unwrap();
    assert_eq!(condition(&deployment, "Available").unwrap()["status"], "True");
    assert_eq!(condition(&deployment, "Progressing").unwrap()["reason"], "NewReplicaSetAvailable");
    let pods = world.pods_of("web-");
    let mut addresses: Vec<&str> = pods.iter().map(|pod| text(pod, "/status/podIP")).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "every pod has an address of its own");
    assert!(pods.iter().all(|pod| pod["status"]["phase"] == "Running"));
    assert_eq!(world.engine.running().len(), 3);
    world.assert_nothing_left_over();
}

#[tokio::test(start_paused = true)]
async fn a_deployment_is_scaled_up_and_down() {
    let world = World::start(2).await;
    let web = world.create(deployment("web", 1, json!({}))).await;
    for replicas in [1, 5, 2, 0, 3] {
        world.patch(&web, json!({"spec": {"replicas": replicas}})).await;
        world.until_complete("web", replicas).await;
        world.until("as many pods", || world.pods_of("web-").len() == replicas as usize).await;
        world.rest().await;
        assert_eq!(world.engine.running().len(), replicas as usize);
        world.assert_nothing_left_over();
    }
    assert_eq!(world.replica_sets.list().len(), 1, "scaling makes no new set");
}

#[tokio::test(start_paused = true)]
async fn a_taken_host_port_keeps_the_second_replica_pending_until_the_first_goes() {
    let world = World::start(3).await;
    let ports = json!({"ports": [{"containerPort": 80, "hostPort": 8080}]});
    world.create(deployment("web", 2, ports)).await;
    world.until("one runs", || world.ready_pods("web-") == 1).await;
    world.rest().await;
    let pods = world.pods_of("web-");
    let (first, second) =
        (pods.iter().find(|pod| is_ready(pod)).unwrap(), pods.iter().find(|pod| !is_ready(pod)).unwrap());
    assert_eq!(second["status"]["phase"], "Pending");
    let scheduled = condition(second, "PodScheduled").unwrap();
    assert_eq!(scheduled["reason"], "Unschedulable");
    assert_eq!(
        scheduled["message"],
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    world.delete(first, None).await;
    let waiting = name(second).to_owned();
    let begun = tokio::time::Instant::now();
    world
        .until("the second runs", || world.pods.get("default", &waiting).is_some_and(|pod| is_ready(&pod)))
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "not by the scheduler's slow look: {:?}",
        begun.elapsed()
    );
    world.assert_nothing_left_over();
}

/// Follows how many pods were available at every change of a pod.
fn follow(world: &World) -> Arc<Mutex<(usize, usize)>> {
    let seen = Arc::new(Mutex::new((usize::MAX, 0)));
    let (notes, pods) = (seen.clone(), world.pods.clone());
    world.pods.on_change(move |_, _| {
        let pods = pods.list();
        let counted = |pod: &&Arc<Value>| pod.pointer("/metadata/deletionTimestamp").is_none();
        let available = pods.iter().filter(|pod| is_ready(pod)).count();
        let mut seen = notes.lock().unwrap();
        *seen = (seen.0.min(available), seen.1.max(pods.iter().filter(counted).count()));
    });
    seen
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_never_goes_below_its_limits_and_can_be_undone() {
    for (seed, surge, unavailable) in [(4, 1, 0), (5, 0, 1), (6, 2, 1), (7, 3, 0)] {
        let world = World::start(seed).await;
        let slow = Script {
            on_stop: Some((Duration::from_secs(3), 0)),
            ..Script::starts_after(Duration::from_millis(700))
        };
        world.engine.script_image("web", slow);
        let mut wanted = deployment("web", 4, json!({}));
        wanted["spec"]["strategy"] = json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let web = world.create(wanted).await;
        world.until_complete("web", 4).await;
        let first = text(&world.replica_sets.list()[0], "/metadata/name").to_owned();
        let seen = follow(&world);
        for (round, value) in ["two", "one", "two"].into_iter().enumerate() {
            let env = if value == "one" { json!([]) } else { json!([{"name": "V", "value": value}]) };
            let container = json!([{"name": "main", "image": "web", "env": env}]);
            let container = if value == "one" {
                web["spec"]["template"]["spec"]["containers"].clone()
            } else {
                container
            };
            world.patch(&web, json!({"spec": {"template": {"spec": {"containers": container}}}})).await;
            world.until_complete("web", 4).await;
            world.rest().await;
            let (least, most) = *seen.lock().unwrap();
            assert!(
                least >= 4 - unavailable,
                "round {round}: only {least} with maxUnavailable {unavailable}"
            );
            assert!(most <= 4 + surge, "round {round}: {most} pods with maxSurge {surge}");
            let sets = world.replica_sets.list();
            assert_eq!(sets.len(), 2, "an undo finds its set again");
            let full = sets.iter().find(|set| set["spec"]["replicas"] == 4).unwrap();
            assert_eq!(name(full) == first, value == "one");
            assert_eq!(
                text(full, "/metadata/annotations/deployment.kubernetes.io~1revision"),
                (round + 2).to_string()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn recreate_ends_every_old_pod_before_the_first_new_one() {
    let world = World::start(8).await;
    world.engine.script_image("web", Script::stops_after(Duration::from_secs(3), 0));
    let mut wanted = deployment("web", 3, json!({}));
    wanted["spec"]["strategy"] = json!({"type": "Recreate"});
    let web = world.create(wanted).await;
    world.until_complete("web", 3).await;
    let mixed = Arc::new(Mutex::new(false));
    let (note, pods) = (mixed.clone(), world.pods.clone());
    world.pods.on_change(move |_, _| {
        let pods = pods.list();
        let hashes: std::collections::BTreeSet<_> =
            pods.iter().map(|pod| text(pod, "/metadata/labels/pod-template-hash").to_owned()).collect();
        *note.lock().unwrap() |= hashes.len() > 1;
    });
    let first = web["spec"]["template"]["spec"]["containers"].clone();
    let second = json!([{"name": "main", "image": "web", "env": [{"name": "V", "value": "2"}]}]);
    for containers in [second, first] {
        world.patch(&web, json!({"spec": {"template": {"spec": {"containers": containers}}}})).await;
        world.until_complete("web", 3).await;
        assert!(!*mixed.lock().unwrap(), "old and new pods at the same time");
    }
    world.assert_nothing_left_over();
}
