//! Clients that are not the docker CLI and kubectl: docker-py (and what is built on it), Debian's docker-compose, the
//! official Kubernetes client of Python, kr8s, kopf, Helm.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{Said, page, run, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients").join(name)
}

fn docker_host(cloud: &Cloud) -> String {
    format!("unix://{}", cloud.run_dir().join("docker.sock").display())
}

/// A Python with docker-py of PyPI; made when it is not in the cache.
fn python() -> PathBuf {
    PathBuf::from(said_by("python-clients"))
}

/// What one of the repository's scripts prints.
fn said_by(script: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(script);
    run(Command::new("bash").arg(script)).ok().trim().to_owned()
}

#[test]
fn docker_py_and_what_is_built_on_it_work_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let said = run(Command::new(python()).arg(file("docker_py.py")).env("DOCKER_HOST", docker_host(&cloud)));
    let text = said.ok();
    assert_eq!(text.matches(" ok\n").count(), 6, "{text}");
    cloud.end();
}

#[test]
fn the_kubernetes_client_of_python_and_kr8s_and_helm_work_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let kubeconfig = cloud.data_dir().join("admin.kubeconfig");
    let said = run(Command::new(python()).arg(file("kubernetes_py.py")).env("KUBECONFIG", &kubeconfig));
    let text = said.ok();
    assert_eq!(text.matches(" ok\n").count(), 7, "{text}");
    match &*said_by("python-helm") {
        "" => eprintln!("skipped: Helm's library needs a Python 3.12"),
        python => {
            let mut command = Command::new(python);
            command.arg(file("helm.py")).arg(file("chart")).env("KUBECONFIG", &kubeconfig);
            let text = run(command.env("HOME", cloud.data_dir())).ok();
            assert_eq!(text.matches(" ok\n").count(), 4, "{text}");
        }
    }
    cloud.end();
}

#[test]
fn an_operator_made_with_kopf_works_as_root() {
    let mut cloud = Cloud::up();
    let kubeconfig = cloud.data_dir().join("admin.kubeconfig");
    let said = run(Command::new(python()).arg(file("kopf_py.py")).env("KUBECONFIG", &kubeconfig));
    let text = said.ok();
    assert_eq!(text.matches(" ok\n").count(), 7, "{text}");
    cloud.end();
}

fn compose(cloud: &Cloud, arguments: &[&str]) -> Said {
    let mut command = Command::new("/usr/bin/docker-compose");
    command
        .args(["--ansi", "never", "--project-name", "shop", "--file"])
        .arg(file("compose.yaml"))
        .args(arguments)
        .env("DOCKER_HOST", docker_host(cloud))
        .env("COMPOSE_HTTP_TIMEOUT", "120");
    run(&mut command)
}

#[test]
fn a_compose_file_comes_up_and_goes_with_debians_docker_compose_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    compose(&cloud, &["up", "-d"]).ok();
    let address = compose(&cloud, &["port", "web", "80"]).ok();
    let port = address.trim().rsplit(':').next().expect("a port").to_owned();
    let served = wait_for("the page", PATIENCE, || page(&format!("http://127.0.0.1:{port}/")));
    assert_eq!(served, "from the store\n");
    let listed = compose(&cloud, &["ps"]).ok();
    assert!(listed.contains("Up (healthy)"), "{listed}");
    assert_eq!(compose(&cloud, &["exec", "-T", "web", "sh", "-c", "echo $MODE"]).ok(), "test\n");
    assert_eq!(compose(&cloud, &["run", "--rm", "--no-deps", "-T", "web", "echo", "once"]).ok(), "once\n");
    compose(&cloud, &["up", "-d", "--scale", "store=2"]).ok();
    let ids = cloud.docker(&["ps", "-q", "--filter", "label=com.docker.compose.service=store"]).ok();
    assert_eq!(ids.lines().count(), 2, "{ids}");
    compose(&cloud, &["restart", "-t", "1", "web"]).ok();
    compose(&cloud, &["top"]).ok();
    compose(&cloud, &["stop", "-t", "1"]).ok();
    compose(&cloud, &["down", "-v", "-t", "1"]).ok();
    assert_eq!(cloud.docker(&["ps", "-aq"]).ok(), "");
    assert_eq!(cloud.docker(&["volume", "ls", "-q"]).ok(), "");
    cloud.end();
}
