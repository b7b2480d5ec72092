//! The walk, part one: an express application is built, run, looked at and removed with the docker CLI.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{page, page_from, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// Directory of one of the sample applications.
pub(crate) fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

#[test]
fn an_express_application_is_built_and_run_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("node");
    let context = sample("express");
    let context = context.to_str().expect("a plain path");

    let built = cloud.docker(&["build", "-t", "my-express-app", context]).ok();
    assert!(
        built.contains("Step 1/") && built.contains("Successfully tagged my-express-app:latest"),
        "{built}"
    );
    let again = cloud.docker(&["build", "-t", "my-express-app", context]).ok();
    assert!(again.contains("Using cache"), "{again}");
    assert!(cloud.docker(&["images"]).ok().contains("my-express-app"));

    let port = free_port();
    let publish = format!("{port}:3000");
    let id = cloud.docker(&["run", "-d", "--name", "web", "-p", &publish, "my-express-app"]).ok();
    let id = id.trim();
    let url = format!("http://127.0.0.1:{port}/");
    let hello = wait_for("the page from localhost", PATIENCE, || page(&url));
    assert_eq!(hello, "Hello World!");
    let (world, host) = cloud.world();
    let world: Vec<&str> = world.iter().map(String::as_str).collect();
    let outside = format!("http://{host}:{port}/");
    assert_eq!(wait_for("the page from outside", PATIENCE, || page_from(&world, &outside)), "Hello World!");

    let ps = cloud.docker(&["ps"]).ok();
    assert!(ps.contains("web") && ps.contains(&format!("0.0.0.0:{port}->3000/tcp")), "{ps}");
    assert!(cloud.docker(&["logs", "web"]).ok().contains("listening on 3000"));
    assert_eq!(cloud.docker(&["exec", "web", "cat", "/etc/hostname"]).ok().trim(), &id[..12]);
    assert_eq!(cloud.docker(&["exec", "web", "sh", "-c", "exit 7"]).code, 7);

    let refused = cloud.docker(&["run", "--rm", "-p", &publish, "my-express-app"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("port is already allocated"), "{}", refused.stderr);

    cloud.docker(&["stop", "-t", "2", "web"]).ok();
    assert!(page(&url).is_none());
    assert!(cloud.docker(&["ps", "-a"]).ok().contains("Exited ("));
    cloud.docker(&["rm", "web"]).ok();
    assert_eq!(cloud.docker(&["ps", "-aq"]).ok(), "");
    cloud.end();
}

#[test]
fn save_and_load_bring_the_same_image_back_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let id = cloud.docker(&["image", "inspect", "-f", "{{.Id}}", "busybox"]).ok();
    let archive = cloud.directory.path().join("busybox.tar");
    let archive = archive.to_str().expect("a plain path");
    cloud.docker(&["save", "-o", archive, "busybox"]).ok();
    cloud.docker(&["rmi", "busybox"]).ok();
    assert!(cloud.docker(&["image", "inspect", "busybox"]).fails().contains("No such image"));
    assert!(cloud.docker(&["load", "-i", archive]).ok().contains("Loaded image: busybox:latest"));
    assert_eq!(cloud.docker(&["image", "inspect", "-f", "{{.Id}}", "busybox"]).ok(), id);
    assert_eq!(cloud.docker(&["run", "--rm", "busybox", "echo", "back"]).ok(), "back\n");
    cloud.end();
}

#[test]
fn streams_terminals_and_exit_codes_are_as_with_dockerd_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    assert_eq!(cloud.docker(&["run", "--rm", "busybox", "sh", "-c", "exit 42"]).code, 42);
    assert_eq!(
        cloud.docker_with_input(&["run", "--rm", "-i", "busybox", "cat"], b"one\ntwo\n").ok(),
        "one\ntwo\n"
    );
    let both = cloud.docker(&["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let missing = cloud.docker(&["run", "--rm", "busybox", "no-such-program"]);
    assert_eq!(missing.code, 127, "{}", missing.stderr);
    assert!(missing.stderr.contains("executable file not found"), "{}", missing.stderr);
    let unknown = cloud.docker(&["run", "--rm", "no-such-image"]);
    assert_eq!(unknown.code, 125);

    // `script` gives the CLI a terminal.
    let host = format!("unix://{}", cloud.run_dir().join("docker.sock").display());
    let line = format!("DOCKER_HOST={host} docker run --rm -it busybox sh -c 'tty; stty size; exit 3'");
    let said = crate::commands::run(std::process::Command::new("script").args(["-qec", &line, "/dev/null"]));
    assert!(said.stdout.contains("/dev/pts/0"), "{}", said.stdout);
    assert_eq!(said.code, 3);

    cloud
        .docker(&[
            "run",
            "-d",
            "--name",
            "loop",
            "busybox",
            "sh",
            "-c",
            "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); sleep 0.2; done",
        ])
        .ok();
    let followed = cloud.docker(&["logs", "-f", "loop"]).ok();
    assert_eq!(followed, "line 0\nline 1\nline 2\nline 3\nline 4\n");
    assert_eq!(cloud.docker(&["wait", "loop"]).ok(), "0\n");
    cloud.end();
}

/// A TCP port that is free now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("0.0.0.0:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}
