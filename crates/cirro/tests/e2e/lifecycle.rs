//! `up`, `down`, `status`, `env`, `doctor`; two clouds side by side.

use crate::cloud::Cloud;
use crate::commands::{Said, run};

#[test]
fn two_clouds_live_side_by_side_as_root() {
    let (mut one, mut two) = (Cloud::up(), Cloud::up());
    for cloud in [&one, &two] {
        cloud.load("busybox");
        cloud.docker(&["run", "-d", "--name", "same", "busybox", "sleep", "1000"]).ok();
    }
    assert_eq!(one.docker(&["ps", "-q"]).ok().lines().count(), 1);
    one.end();
    assert_eq!(two.docker(&["inspect", "-f", "{{.State.Running}}", "same"]).ok(), "true\n");
    two.end();
}

#[test]
fn status_env_and_doctor_tell_the_truth_as_root() {
    let mut cloud = Cloud::up();
    let say = |cloud: &Cloud, words: &[&str]| -> Said { run(&mut cloud.cirro(words)) };
    let status = say(&cloud, &["status"]).ok();
    assert!(status.contains(&format!("cloud        {}", cloud.name)), "{status}");
    assert!(status.contains("0 running, 0 in all"), "{status}");
    let env = say(&cloud, &["env"]).ok();
    assert!(
        env.contains(&format!("DOCKER_HOST='unix://{}/docker.sock'", cloud.run_dir().display())),
        "{env}"
    );
    assert!(env.contains("KUBECONFIG="), "{env}");
    assert_eq!(say(&cloud, &["doctor"]).ok(), "no leaks, no faults\n");
    let second = say(&cloud, &["up"]).fails();
    assert!(second.contains("in use by process"), "{second}");

    cloud.load("busybox");
    cloud.docker(&["run", "-d", "--name", "on", "busybox", "sleep", "1000"]).ok();
    say(&cloud, &["down"]).ok();
    assert_ne!(say(&cloud, &["status"]).code, 0);
    cloud.start();
    assert_eq!(cloud.docker(&["inspect", "-f", "{{.State.Running}}", "on"]).ok(), "true\n");
    cloud.end();
}
