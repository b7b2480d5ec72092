//! Ends: of pods, owners and namespaces.

use std::time::Duration;

use cirro_sim::Script;
use serde_json::json;

use crate::world::{World, deployment, pod};

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_grace_and_no_more() {
    for (script, seconds) in
        [(Script::stops_after(Duration::from_secs(4), 0), 4), (Script::ignores_stop(), 10)]
    {
        let world = World::start(20).await;
        world.engine.script_container("main", script);
        let web = world.create(pod("web", json!({"terminationGracePeriodSeconds": 10}))).await;
        world.until("it runs", || world.ready_pods("web") == 1).await;
        let begun = tokio::time::Instant::now();
        world.delete(&web, None).await;
        world.rest().await;
        let ending = world.pods.get("default", "web").expect("the object stays while its container runs");
        assert!(ending.pointer("/metadata/deletionTimestamp").is_some());
        assert_eq!(world.engine.running().len(), 1);
        world.until("the object goes", || world.pods_of("web").is_empty()).await;
        let took = begun.elapsed().as_secs();
        assert!((seconds..=seconds + 1).contains(&took), "took {took} of {seconds} seconds");
        assert!(world.engine.containers().is_empty() && world.engine.sandboxes().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_deletion_can_shorten_the_grace() {
    for grace in [0, 4] {
        let world = World::start(21).await;
        world.engine.script_container("main", Script::ignores_stop());
        let web = world.create(pod("web", json!({"terminationGracePeriodSeconds": 600}))).await;
        world.until("it runs", || world.ready_pods("web") == 1).await;
        let begun = tokio::time::Instant::now();
        world.delete(&web, None).await;
        world.rest().await;
        let options =
            cirro_seams::api::DeleteOptions { grace_period_seconds: Some(grace), ..Default::default() };
        let key = cirro_client::key_of(&crate::world::resource_of(&web), &web);
        world.api.delete(&key, options).await.unwrap();
        world
            .until("all is gone", || world.pods_of("web").is_empty() && world.engine.containers().is_empty())
            .await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_emptied_and_goes() {
    let world = World::start(22).await;
    world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).await;
    let mut web = deployment("web", 3, json!({}));
    web["metadata"]["namespace"] = "team".into();
    world.create(web).await;
    world
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "team"}, "data": {}}))
        .await;
    world.until("its pods run", || world.ready_pods("web-") == 3).await;
    world.delete_namespace("team").await;
    world.until("it is gone", || world.namespaces.get("", "team").is_none()).await;
    assert!(world.pods.in_namespace("team").is_empty() && world.replica_sets.in_namespace("team").is_empty());
    world.rest().await;
    assert!(world.engine.containers().is_empty() && world.engine.sandboxes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_a_namespace_go_first() {
    let world = World::start(27).await;
    world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).await;
    let mut kept = pod("kept", json!({}));
    kept["metadata"]["namespace"] = "team".into();
    kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let kept = world.create(kept).await;
    let map = world
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "team"}, "data": {}}))
        .await;
    world.delete_namespace("team").await;
    tokio::time::sleep(std::time::Duration::from_secs(90)).await;
    let there = world.get(&map).await.expect("a pod is still there");
    assert!(there["metadata"]["deletionTimestamp"].is_null(), "{there}");
    world.patch(&kept, json!({"metadata": {"finalizers": null}})).await;
    world.until("it is gone", || world.namespaces.get("", "team").is_none()).await;
    assert!(world.get(&map).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn deleting_a_deployment_collects_its_sets_and_pods() {
    for (seed, policy) in [(23, None), (24, Some("Background")), (25, Some("Foreground"))] {
        let world = World::start(seed).await;
        let web = world.create(deployment("web", 2, json!({}))).await;
        world.until_complete("web", 2).await;
        world.delete(&web, policy).await;
        if policy == Some("Foreground") {
            assert!(world.get(&web).await.is_some(), "the owner goes last");
        }
        world
            .until("all is gone", || {
                world.deployments.list().is_empty()
                    && world.replica_sets.list().is_empty()
                    && world.pods.list().is_empty()
            })
            .await;
        world.rest().await;
        assert!(world.engine.containers().is_empty() && world.engine.sandboxes().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_orphaning_deletion_keeps_sets_and_pods() {
    let world = World::start(26).await;
    let web = world.create(deployment("web", 2, json!({}))).await;
    world.until_complete("web", 2).await;
    let names = |world: &World| -> Vec<String> {
        world.pods_of("web-").iter().map(|pod| cirro_client::name(pod).to_owned()).collect()
    };
    let before = names(&world);
    world.delete(&web, Some("Orphan")).await;
    world.until("the deployment is gone", || world.deployments.list().is_empty()).await;
    world.rest().await;
    assert_eq!(names(&world), before);
    let sets = world.replica_sets.list();
    assert_eq!(sets.len(), 1);
    assert!(sets[0].pointer("/metadata/ownerReferences/0").is_none());
    // A deployment with the same selector adopts the set, and its pods with it.
    world.create(deployment("web", 2, json!({}))).await;
    world.until_complete("web", 2).await;
    assert_eq!(names(&world), before);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_going_adopts_nothing_even_when_its_end_is_heard_late() {
    let world = World::start_late(27, "replicasets").await;
    let mut set = deployment("web", 2, json!({}));
    set["kind"] = "ReplicaSet".into();
    let set = world.create(set).await;
    world.until("both pods run", || world.ready_pods("web-") == 2).await;
    // The late watch comes to rest.
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.delete(&set, Some("Orphan")).await;
    // As the garbage collector does, only sooner than the late watch allows.
    let pods = world.pods_of("web-");
    for pod in &pods {
        world.patch(pod, json!({"metadata": {"ownerReferences": []}})).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for pod in pods {
        let newest = world.get(&pod).await.expect("an orphan stays");
        let owner = newest.pointer("/metadata/ownerReferences/0");
        assert!(owner.is_none(), "taken back by an owner that is going");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_be_found_by_its_name_keeps_what_it_owns() {
    let world = World::start(27).await;
    let group = "rbac.authorization.k8s.io/v1";
    let role = |name: &str, kind: &str, version: &str| {
        let owner = json!({"apiVersion": version, "kind": kind, "name": "gone", "uid": "1"});
        json!({"apiVersion": group, "kind": "ClusterRole", "metadata": {"name": name, "ownerReferences": [owner]}})
    };
    // In a namespace that nobody names, of a kind that is not served, and gone indeed.
    let kept = [role("a", "ConfigMap", "v1"), role("b", "Thing", "example.com/v1")];
    let mut living = Vec::new();
    for one in kept {
        living.push(world.create(one).await);
    }
    let orphan = world.create(role("c", "ClusterRole", group)).await;
    let gone = async {
        while world.get(&orphan).await.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(900), gone).await.expect("it is collected");
    world.rest().await;
    for one in living {
        assert!(world.get(&one).await.is_some(), "{one}");
    }
}
