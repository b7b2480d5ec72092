//! Seeded runs of whatever may happen: at the end everything fits together.

use std::time::Duration;

use cirro_sim::Script;
use serde_json::json;

use crate::world::{World, deployment};

/// Numbers from a seed (a linear congruential generator's upper bits).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_pods_fit_their_deployments_in_the_end() {
    for seed in 100..106 {
        let mut world = World::start(seed).await;
        let mut dice = Dice(seed);
        let slow = Script {
            on_stop: Some((Duration::from_millis(900), 0)),
            ..Script::starts_after(Duration::from_millis(300))
        };
        world.engine.script_image("web", slow);
        world.engine.fail_randomly(15);
        for _ in 0..40 {
            step(&mut world, &mut dice).await;
            tokio::time::sleep(Duration::from_millis(dice.roll(3000))).await;
        }
        world.engine.fail_randomly(0);
        world.engine.lose_events(false);
        world.engine.announce_everything();
        let fits = || {
            let deployments = world.deployments.list();
            let wanted: i64 = deployments.iter().map(|one| one["spec"]["replicas"].as_i64().unwrap()).sum();
            let complete = deployments
                .iter()
                .all(|one| crate::world::is_complete(one, one["spec"]["replicas"].as_i64().unwrap()));
            complete
                && world.pods.list().len() == wanted as usize
                && world.engine.running().len() == wanted as usize
        };
        world.until(&format!("seed {seed}: pods fit their deployments"), fits).await;
        world.rest().await;
        world.assert_nothing_left_over();
        assert_eq!(world.engine.sandboxes().len(), world.pods.list().len(), "seed {seed}");
    }
}

async fn step(world: &mut World, dice: &mut Dice) {
    let name = ["red", "green", "blue"][dice.roll(3) as usize];
    let existing = world.deployments.get("default", name);
    match (dice.roll(10), existing) {
        (0..3, None) | (3..5, None) => {
            world.create(deployment(name, dice.roll(4) as i64, json!({}))).await;
        }
        (0..3, Some(one)) => {
            world.patch(&one, json!({"spec": {"replicas": dice.roll(5)}})).await;
        }
        (3..5, Some(one)) => {
            let env = json!([{"name": "V", "value": dice.roll(3).to_string()}]);
            let containers = json!([{"name": "main", "image": "web", "env": env}]);
            world.patch(&one, json!({"spec": {"template": {"spec": {"containers": containers}}}})).await;
        }
        (5, Some(one)) => world.delete(&one, None).await,
        (6, _) => {
            let pods = world.pods_of("");
            if !pods.is_empty() {
                let pod = &pods[dice.roll(pods.len() as u64) as usize];
                world.delete(pod, None).await;
            }
        }
        (7, _) => {
            let running = world.engine.running();
            if !running.is_empty() {
                world.engine.kill_container(&running[dice.roll(running.len() as u64) as usize].id, 1);
            }
        }
        (8, _) => {
            world.stop_kubelet().await;
            world.start_kubelet().await;
        }
        _ => world.engine.lose_events(dice.roll(2) == 0),
    }
}
