//! The walk, part two: the Flask application as books deploy it, then behind Services, with the real kubectl.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{page, page_from, program, wait_for};
use crate::walk_container::{free_port, sample};

const PATIENCE: Duration = Duration::from_secs(90);

/// Builds the sample application under the name that the manifest uses.
pub(crate) fn build_helloworld(cloud: &Cloud) {
    cloud.load("python");
    let context = sample("flask");
    cloud.docker(&["build", "-t", "helloworld", context.to_str().expect("a plain path")]).ok();
}

/// Writes a manifest into the test's directory.
pub(crate) fn manifest(cloud: &Cloud, name: &str, text: &str) -> String {
    let path = cloud.directory.path().join(name);
    fs::write(&path, text).expect("write a manifest");
    path.to_str().expect("a plain path").to_owned()
}

/// The manifest of the sample, with a host port that is free here.
fn books_manifest(host_port: u16) -> String {
    let text = fs::read_to_string(sample("flask").join("deployment.yaml")).expect("the sample's manifest");
    assert!(text.contains("apiVersion: apps/v1beta1") && text.contains("hostPort: 8080"));
    text.replace("hostPort: 8080", &format!("hostPort: {host_port}"))
}

#[test]
fn the_flask_application_is_deployed_as_books_do_as_root() {
    let mut cloud = Cloud::up();
    build_helloworld(&cloud);
    let image = cloud.docker(&["image", "inspect", "-f", "{{.Id}}", "helloworld"]).ok();
    let port = free_port();
    let file = manifest(&cloud, "deployment.yaml", &books_manifest(port));
    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());

    assert!(kubectl(&format!("create -f {file}")).ok().contains("deployment.apps/myapp created"));
    let url = format!("http://127.0.0.1:{port}/?name=you");
    let said = wait_for("the page at the host port", PATIENCE, || page(&url));
    assert!(said.starts_with("Hello you! I am myapp-"), "{said}");
    let (world, host) = cloud.world();
    let world: Vec<&str> = world.iter().map(String::as_str).collect();
    let outside = format!("http://{host}:{port}/?name=you");
    let said = wait_for("the page from outside", PATIENCE, || page_from(&world, &outside));
    assert!(said.starts_with("Hello you!"), "{said}");

    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    let deployment = wait_for("one available replica", PATIENCE, || {
        let said = kubectl("get deployment myapp").ok();
        said.contains("1/2").then_some(said)
    });
    assert!(deployment.contains("UP-TO-DATE"), "{deployment}");
    let pods = kubectl("get pods -o wide").ok();
    assert_eq!(pods.matches("Running").count(), 1, "{pods}");
    assert_eq!(pods.matches("Pending").count(), 1, "{pods}");
    assert!(pods.contains("node-1"), "{pods}");
    let pending = kubectl("get pods --field-selector=status.phase=Pending -o name").ok();
    let why = kubectl(&format!("describe {}", pending.trim())).ok();
    assert!(why.contains("didn't have free ports for the requested pod ports"), "{why}");

    let running = kubectl("get pods --field-selector=status.phase=Running -o name").ok();
    let running = running.trim();
    assert!(kubectl(&format!("logs {running}")).ok().contains("serving on port 80"));
    let hostname = kubectl(&format!("exec {running} -- hostname")).ok();
    assert_eq!(hostname.trim(), running.trim_start_matches("pod/"));
    assert_eq!(kubectl(&format!("exec {running} -- false")).code, 1);
    let used = kubectl(&format!("get {running} -o jsonpath={{.status.containerStatuses[0].imageID}}")).ok();
    assert!(used.contains(image.trim().trim_start_matches("sha256:")), "{used} is not {image}");

    assert!(kubectl("scale --replicas=3 deployment/myapp").ok().contains("scaled"));
    wait_for("three pods", PATIENCE, || {
        (kubectl("get pods -o name").ok().lines().count() == 3).then_some(())
    });
    let edited = books_manifest(port).replace("replicas: 2", "replicas: 1");
    let file = manifest(&cloud, "edited.yaml", &edited);
    kubectl(&format!("apply -f {file}")).ok();
    wait_for("one pod", PATIENCE, || (kubectl("get pods -o name").ok().lines().count() == 1).then_some(()));
    assert!(page(&url).is_some());

    assert!(kubectl("delete deployment myapp").ok().contains("deleted"));
    wait_for("no pods", PATIENCE, || kubectl("get pods -o name").ok().is_empty().then_some(()));
    assert!(page(&url).is_none());
    cloud.end();
}

pub(crate) const SERVED: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: served
spec:
  replicas: 3
  selector:
    matchLabels:
      app: served
  template:
    metadata:
      labels:
        app: served
    spec:
      containers:
      - name: web
        image: helloworld
        env:
        - name: GREETING
          value: First
        ports:
        - containerPort: 80
        readinessProbe:
          httpGet:
            path: /healthz
            port: 80
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata:
  name: served
spec:
  type: NodePort
  selector:
    app: served
  ports:
  - port: 80
"#;

/// A loop of requests that remembers every failure.
struct Load {
    child: Child,
    log: PathBuf,
}

impl Load {
    fn start(cloud: &Cloud, url: &str) -> Self {
        let log = cloud.directory.path().join("load.log");
        let script = format!("while :; do curl -fsS -m 5 -o /dev/null {url} && echo ok || echo failed; done");
        let child = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log).expect("a log"))
            .stderr(Stdio::null())
            .spawn()
            .expect("start the load");
        Self { child, log }
    }

    /// Ends the loop; returns the numbers of requests answered and failed.
    fn end(mut self) -> (usize, usize) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = BufReader::new(fs::File::open(&self.log).expect("the log")).lines();
        let lines: Vec<String> = lines.map_while(Result::ok).collect();
        let count = |word: &str| lines.iter().filter(|line| *line == word).count();
        (count("ok"), count("failed"))
    }
}

#[test]
fn services_balance_and_a_rollout_loses_no_request_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    build_helloworld(&cloud);
    let file = manifest(&cloud, "served.yaml", SERVED);
    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    kubectl(&format!("apply -f {file}")).ok();
    kubectl("rollout status deployment/served --timeout=90s").ok();

    let cluster_ip = kubectl("get service served -o jsonpath={.spec.clusterIP}").ok();
    let node_port = kubectl("get service served -o jsonpath={.spec.ports[0].nodePort}").ok();
    let by_service = format!("http://{cluster_ip}/");
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..60 {
        answered.insert(wait_for("an answer of the service", PATIENCE, || page(&by_service)));
    }
    assert_eq!(answered.len(), 3, "{answered:?}");
    let by_node = format!("http://127.0.0.1:{node_port}/");
    wait_for("the node port from localhost", PATIENCE, || page(&by_node));
    let (world, host) = cloud.world();
    let world: Vec<&str> = world.iter().map(String::as_str).collect();
    let outside = format!("http://{host}:{node_port}/");
    wait_for("the node port from outside", PATIENCE, || page_from(&world, &outside));

    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    kubectl("run asker --image=busybox --image-pull-policy=IfNotPresent --restart=Never -- sleep 3600").ok();
    kubectl("wait --for=condition=Ready pod/asker --timeout=60s").ok();
    let fetched = kubectl("exec asker -- wget -qO- http://served/").ok();
    assert!(fetched.starts_with("First World!"), "{fetched}");
    let resolved = kubectl("exec asker -- nslookup served.default.svc.cluster.local").ok();
    assert!(resolved.contains(&cluster_ip), "{resolved}");

    let load = Load::start(&cloud, &by_node);
    let edited = manifest(&cloud, "edited.yaml", &SERVED.replace("First", "Second"));
    kubectl(&format!("apply -f {edited}")).ok();
    kubectl("rollout status deployment/served --timeout=90s").ok();
    wait_for("only the new pods", PATIENCE, || {
        (kubectl("get pods -l app=served -o name").ok().lines().count() == 3).then_some(())
    });
    assert!(page(&by_node).is_some_and(|said| said.starts_with("Second World!")));
    kubectl("rollout undo deployment/served").ok();
    kubectl("rollout status deployment/served --timeout=90s").ok();
    wait_for("only the old pods", PATIENCE, || {
        (kubectl("get pods -l app=served -o name").ok().lines().count() == 3).then_some(())
    });
    let (answered, failed) = load.end();
    assert!(answered > 20, "only {answered} requests");
    assert_eq!(failed, 0, "of {}", answered + failed);
    assert!(page(&by_node).is_some_and(|said| said.starts_with("First World!")));
    let history = kubectl("rollout history deployment/served").ok();
    assert!(history.contains('3'), "{history}");
    cloud.end();
}

#[test]
fn kubectl_finds_its_way_as_root() {
    let mut cloud = Cloud::up();
    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    assert!(kubectl("get nodes").ok().contains("Ready"));
    assert!(kubectl("api-resources").ok().contains("instances"));
    assert!(kubectl("explain deployment.spec.replicas").ok().contains("replicas"));
    // These send protobuf bodies.
    kubectl("create namespace other").ok();
    kubectl("create configmap settings --from-literal=a=b -n other").ok();
    kubectl("create deployment web --image=busybox -n other").ok();
    assert_eq!(kubectl("get configmap settings -n other -o jsonpath={.data.a}").ok(), "b");
    assert!(kubectl("get deployment web -n other").ok().contains("0/1"));
    kubectl("delete namespace other --timeout=60s").ok();
    assert!(kubectl("get namespace other").fails().contains("NotFound"));
    let wrong = manifest(&cloud, "wrong.yaml", &SERVED.replace("replicas: 3", "replicsa: 3"));
    let refused = kubectl(&format!("apply -f {wrong}")).fails();
    assert!(refused.contains("unknown field \"spec.replicsa\""), "{refused}");
    let version = program("kubectl", ["version", "--client"]).ok();
    assert!(version.contains("Client Version"), "{version}");
    cloud.end();
}
