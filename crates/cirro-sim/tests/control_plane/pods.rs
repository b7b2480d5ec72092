//! Single pods that do not simply run.

use std::time::Duration;

use cirro_client::text;
use cirro_seams::node::NodeError;
use cirro_sim::{Operation, Script};
use serde_json::json;

use crate::world::{World, is_ready, pod, shown};

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_ever_longer() {
    let world = World::start(10).await;
    world.engine.script_container("main", Script::exits(Duration::from_secs(1), 3));
    world.create(pod("crash", json!({}))).await;
    let look = || world.pods.get("default", "crash");
    for restarts in 2..6 {
        world
            .until("it waits", || {
                look().is_some_and(|pod| {
                    shown(&pod, "/restartCount") == restarts - 1
                        && shown(&pod, "/state/waiting/reason") == "CrashLoopBackOff"
                })
            })
            .await;
        let pod = look().unwrap();
        assert_eq!(pod["status"]["phase"], "Running");
        assert_eq!(shown(&pod, "/lastState/terminated/exitCode"), 3);
        let seconds = 10 << (restarts - 2);
        let message = text(shown(&pod, "/state/waiting"), "/message");
        assert!(message.starts_with(&format!("back-off {seconds}s restarting")), "{message}");
        let begun = tokio::time::Instant::now();
        world
            .until("it is tried again", || look().is_some_and(|pod| shown(&pod, "/restartCount") == restarts))
            .await;
        let waited = begun.elapsed().as_secs();
        assert!((seconds - 1..=seconds + 1).contains(&waited), "waited {waited} of {seconds} seconds");
    }
    assert!(world.engine.containers().len() <= 2, "only the last two runs are kept");
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_waited_for() {
    let world = World::start(11).await;
    world.create(pod("late", json!({"containers": [{"name": "main", "image": "late"}]}))).await;
    let reason = |wanted: &'static str| {
        let world = &world;
        move || {
            world
                .pods
                .get("default", "late")
                .is_some_and(|pod| shown(&pod, "/state/waiting/reason") == wanted)
        }
    };
    world.until("the image is missed", reason("ErrImagePull")).await;
    let begun = tokio::time::Instant::now();
    world.until("it backs off", reason("ImagePullBackOff")).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "the first answer is to be seen before the next try");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tries = world.engine.calls(Operation::FindImage);
    assert!((5..40).contains(&tries), "{tries} looks in five minutes");
    world.engine.add_image("late");
    world.until("it runs", || world.pods.get("default", "late").is_some_and(|pod| is_ready(&pod))).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_start_is_tried_with_back_off() {
    let world = World::start(12).await;
    world.engine.script_container("main", Script::fails_to_start(NodeError::Failed("no such file".into())));
    world.create(pod("broken", json!({}))).await;
    let look = || world.pods.get("default", "broken");
    world
        .until("it is told", || {
            look().is_some_and(|pod| shown(&pod, "/state/waiting/reason") == "RunContainerError")
        })
        .await;
    assert_eq!(shown(&look().unwrap(), "/state/waiting/message"), "no such file");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tries = world.engine.calls(Operation::RunContainer);
    assert!((3..40).contains(&tries), "{tries} tries in five minutes");
    world.engine.script_container("main", Script::forever());
    world.until("it runs", || look().is_some_and(|pod| is_ready(&pod))).await;
}

#[tokio::test(start_paused = true)]
async fn what_ends_by_itself_succeeds_and_keeps_its_log() {
    let world = World::start(13).await;
    let script = Script { log: vec!["done".into()], ..Script::exits(Duration::from_secs(2), 0) };
    world.engine.script_container("main", script);
    let task = world.create(pod("task", json!({"restartPolicy": "Never"}))).await;
    world
        .until("it succeeds", || {
            world.pods.get("default", "task").is_some_and(|pod| pod["status"]["phase"] == "Succeeded")
        })
        .await;
    world.until("the address is free again", || world.engine.sandboxes().is_empty()).await;
    world.rest().await;
    let containers = world.engine.containers();
    assert_eq!(containers.len(), 1, "its log can still be read");
    let mut log = world.engine.node().logs(&containers[0].id, Default::default()).await.unwrap();
    assert_eq!(log.recv().await.unwrap(), "done\n");
    world.delete(&task, None).await;
    world
        .until("all is gone", || world.engine.containers().is_empty() && world.pods_of("task").is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_the_other_before_the_others() {
    let world = World::start(14).await;
    world.engine.script_container("one", Script::exits(Duration::from_secs(1), 0));
    world.engine.script_container("two", Script::exits(Duration::from_secs(1), 0));
    let container = |name: &str| json!({"name": name, "image": "web"});
    let spec =
        json!({"initContainers": [container("one"), container("two")], "containers": [container("main")]});
    world.create(pod("steps", spec)).await;
    world.until("it is ready", || world.ready_pods("steps") == 1).await;
    let containers = world.engine.containers();
    let mut order: Vec<_> = containers
        .iter()
        .map(|one| (one.started_at.clone().unwrap(), one.name.split('_').nth(1).unwrap().to_owned()))
        .collect();
    order.sort();
    let names: Vec<&str> = order.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["one", "two", "main"]);
}
