//! The walk through the registry: what is in the library is there to pull, what is pushed is there to run.

use std::process::Command;

use crate::cloud::Cloud;
use crate::commands::{Said, run};

fn skopeo(arguments: &[&str]) -> Said {
    run(Command::new("skopeo").args(arguments))
}

#[test]
fn images_go_out_of_the_registry_and_into_it_and_run_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let env = run(&mut cloud.cirro(&["env"])).ok();
    let host = env
        .lines()
        .find_map(|line| line.strip_prefix("export CIRRO_REGISTRY='"))
        .expect("the registry's address");
    let host = host.trim_end_matches('\'').to_owned();
    assert!(run(&mut cloud.cirro(&["status"])).ok().contains(&format!("registry     http://{host}")));

    // Loaded, it is there to pull; pushed under another name, it is there to run.
    let busybox = format!("docker://{host}/busybox:latest");
    assert!(skopeo(&["inspect", "--tls-verify=false", &busybox]).ok().contains("\"Layers\""));
    let pushed = format!("docker://{host}/team/app:v1");
    let copy = [
        "copy",
        "-q",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &busybox,
        &pushed,
    ];
    skopeo(&copy).ok();
    let name = format!("{host}/team/app:v1");
    assert!(cloud.docker(&["pull", &name]).ok().contains("Digest: sha256:"));
    assert_eq!(cloud.docker(&["run", "--rm", "--network", "none", &name, "echo", "hello"]).ok(), "hello\n");

    // Out of the library it is still in the registry, after a restart too.
    cloud.docker(&["rmi", &name]).ok();
    cloud.docker(&["rmi", "busybox"]).ok();
    run(&mut cloud.cirro(&["down"])).ok();
    cloud.start();
    let env = run(&mut cloud.cirro(&["env"])).ok();
    let host = env
        .lines()
        .find_map(|line| line.strip_prefix("export CIRRO_REGISTRY='"))
        .expect("the registry's address");
    let name = format!("{}/team/app:v1", host.trim_end_matches('\''));
    assert_eq!(cloud.docker(&["run", "--rm", "--network", "none", &name, "echo", "again"]).ok(), "again\n");
    let missing = cloud.docker(&["pull", &format!("{}/team/app:v2", host.trim_end_matches('\''))]);
    assert_ne!(missing.code, 0);
    assert!(missing.stderr.contains("manifest"), "{}", missing.stderr);

    let login = run_hash(&cloud);
    assert!(login.starts_with("pbkdf2-sha256:"), "{login}");
    cloud.end();
}

fn run_hash(cloud: &Cloud) -> String {
    crate::commands::run_with_input(&mut cloud.cirro(&["registry", "hash-password"]), b"secret\n").ok()
}
