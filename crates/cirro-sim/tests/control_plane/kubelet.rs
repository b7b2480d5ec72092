//! The kubelet's own troubles: restarts, lost events, an engine that fails.

use std::time::Duration;

use cirro_client::text;
use cirro_seams::node::{NodeError, NodeStreams as _};
use cirro_sim::{Operation, Script};
use serde_json::json;

use crate::world::{World, deployment, pod, shown};

#[tokio::test(start_paused = true)]
async fn a_new_kubelet_finds_what_runs_and_starts_nothing_twice() {
    let mut world = World::start(40).await;
    let web = world.create(deployment("web", 3, json!({}))).await;
    world.until_complete("web", 3).await;
    let ids =
        |world: &World| -> Vec<String> { world.engine.containers().into_iter().map(|one| one.id).collect() };
    let before = ids(&world);
    world.stop_kubelet().await;
    world.start_kubelet().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(ids(&world), before);
    world.until_complete("web", 3).await;

    // What happens while no kubelet runs is made up for.
    world.stop_kubelet().await;
    world.engine.kill_container(&before[0], 1);
    world.patch(&web, json!({"spec": {"replicas": 2}})).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.start_kubelet().await;
    world.until_complete("web", 2).await;
    world.until("two pods are left", || world.pods_of("web-").len() == 2).await;
    world.rest().await;
    assert_eq!(world.engine.running().len(), 2);
    world.assert_nothing_left_over();
}

#[tokio::test(start_paused = true)]
async fn a_new_kubelet_removes_what_lost_its_pod() {
    let mut world = World::start(41).await;
    let web = world.create(pod("web", json!({}))).await;
    world.until("it runs", || world.ready_pods("web") == 1).await;
    world.stop_kubelet().await;
    let options = cirro_seams::api::DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
    let key = cirro_client::key_of(&crate::world::resource_of(&web), &web);
    world.api.delete(&key, options).await.unwrap();
    world.rest().await;
    assert_eq!(world.engine.running().len(), 1);
    world.start_kubelet().await;
    world
        .until("it is gone", || world.engine.containers().is_empty() && world.engine.sandboxes().is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_engine_are_survived() {
    let operations = [
        Operation::EnsureSandbox,
        Operation::RemoveSandbox,
        Operation::RunContainer,
        Operation::ListContainers,
        Operation::StopContainer,
        Operation::RemoveContainer,
        Operation::FindImage,
    ];
    for (seed, operation) in (42..).zip(operations) {
        let world = World::start(seed).await;
        world.engine.fail_next(operation, 3, NodeError::Failed("the host is ill".into()));
        let web = world.create(deployment("web", 2, json!({}))).await;
        world.until_complete("web", 2).await;
        assert_eq!(world.engine.running().len(), 2, "{operation:?}");
        world.delete(&web, None).await;
        world
            .until("all is gone", || {
                world.pods.list().is_empty()
                    && world.engine.containers().is_empty()
                    && world.engine.sandboxes().is_empty()
            })
            .await;
        assert!(world.engine.calls(operation) > 3, "{operation:?} was never reached");
    }
}

#[tokio::test(start_paused = true)]
async fn use_is_measured_only_when_somebody_asks() {
    let world = World::start(49).await;
    let web = world.create(pod("web", json!({}))).await;
    world.until("it runs", || world.ready_pods("web") == 1).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.engine.calls(Operation::Usage), 0);
    let first = world.kubelet().usage().await.unwrap();
    assert_eq!(world.engine.calls(Operation::Usage), 2);
    assert_eq!((first.node.as_str(), first.pods.len()), ("sim", 1));
    let (uid, containers) = &first.pods[0];
    assert_eq!(*uid, text(&web, "/metadata/uid"));
    let used = containers[0].1;
    assert!((95_000_000..105_000_000).contains(&used.nanocores), "{used:?}");
    assert!(used.window >= Duration::from_secs(1) && used.working_set_bytes > 0, "{used:?}");
    assert!((950_000_000..1_050_000_000).contains(&first.host.nanocores), "{first:?}");

    // Who asks next need not wait; the span begins with what was seen before.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let second = world.kubelet().usage().await.unwrap();
    assert_eq!(world.engine.calls(Operation::Usage), 3);
    assert!(second.host.window >= Duration::from_secs(20), "{second:?}");
    // What was seen long ago says nothing about now.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let third = world.kubelet().usage().await.unwrap();
    assert!(third.host.window < Duration::from_secs(2), "{third:?}");
}

#[tokio::test(start_paused = true)]
async fn lost_events_are_made_up_for() {
    let world = World::start(50).await;
    world.create(pod("web", json!({}))).await;
    world.until("it runs", || world.ready_pods("web") == 1).await;
    world.rest().await;
    world.engine.lose_events(true);
    let id = world.engine.running()[0].id.clone();
    assert!(world.engine.kill_container(&id, 9));
    world.rest().await;
    assert!(world.engine.running().is_empty(), "nobody told the kubelet");
    world.engine.lose_events(false);
    world.engine.announce_everything();
    world.until("it runs again", || world.engine.running().len() == 1).await;
    world
        .until("it is told", || {
            world.pods.get("default", "web").is_some_and(|pod| shown(&pod, "/restartCount") == 1)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_liveness_probe_restarts_the_container() {
    let world = World::start(51).await;
    world.engine.script_container("main", Script::forever());
    world.engine.answer("alive", cirro_sim::Answer::default());
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 2});
    let container = json!({"name": "main", "image": "web", "livenessProbe": probe});
    world.create(pod("web", json!({"containers": [container]}))).await;
    world.until("it runs", || world.ready_pods("web") == 1).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let restarts = || world.pods.get("default", "web").map(|pod| shown(&pod, "/restartCount").clone());
    assert_eq!(restarts(), Some(json!(0)));
    world.engine.answer("alive", cirro_sim::Answer { code: 1, ..Default::default() });
    world.until("it is restarted", || restarts() == Some(json!(1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_change_is_left_alone() {
    let world = World::start(52).await;
    world.create(deployment("web", 5, json!({}))).await;
    world.until_complete("web", 5).await;
    world.rest().await;
    let looks = world.engine.calls(Operation::ListContainers);
    assert!(looks < 60, "{looks} looks for five pods");
    let versions = |world: &World| -> Vec<String> {
        world.pods_of("web-").iter().map(|pod| text(pod, "/metadata/resourceVersion").to_owned()).collect()
    };
    let before = versions(&world);
    // Another look at everything finds nothing to write.
    world.engine.announce_everything();
    world.rest().await;
    assert_eq!(versions(&world), before);
    let more = world.engine.calls(Operation::ListContainers) - looks;
    assert!(more <= 10, "{more} more looks, two are made in a step");
}
