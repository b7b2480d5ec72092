//! The real kubectl against a server with TLS.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use cirro_apiserver::pki::Pki;
use cirro_apiserver::{ApiServer, Options};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::fixture::EchoNode;

/// Where kubectl 1.32 may be.
const PLACES: [&str; 2] = ["/usr/lib/google-cloud-sdk/bin/kubectl.1.32", "/usr/bin/kubectl"];

/// A served cluster with an administrator's kubectl.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) home: TempDir,
    kubectl: String,
    shutdown: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    /// Starts it; `None`, said aloud, where there is no kubectl.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_as(false).await
    }

    /// Starts one that has the authority itself, and so signs and publishes.
    pub(crate) async fn start_with_authority() -> Option<Self> {
        Self::start_as(true).await
    }

    async fn start_as(authority: bool) -> Option<Self> {
        let Some(kubectl) = PLACES.into_iter().find(|place| Path::new(place).exists()) else {
            eprintln!("skipped: there is no kubectl");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        let pki = Pki::open(&home.path().join("pki")).unwrap();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        std::fs::write(home.path().join("config"), pki.admin_kubeconfig(&url).unwrap()).unwrap();
        let tls = pki.server_tls(&[], &[Ipv4Addr::LOCALHOST.into()]).unwrap();
        let shutdown = CancellationToken::new();
        let options = Options { keys: authority.then(|| home.path().join("pki")), ..Options::default() };
        let store = Arc::new(cirro_store::MemoryObjectStore::new());
        let server = ApiServer::open(store, options).await.unwrap();
        tokio::spawn({
            let (server, shutdown) = (server.clone(), shutdown.clone());
            async move { server.serve(listener, tls, shutdown).await }
        });
        Some(Self { server, home, kubectl: kubectl.to_owned(), shutdown })
    }

    /// Goes on with another kubectl, where there is one.
    pub(crate) fn with_kubectl(&mut self, version: &str) -> bool {
        let place = format!("/usr/lib/google-cloud-sdk/bin/kubectl.{version}");
        let found = Path::new(&place).exists();
        if found {
            self.kubectl = place;
        } else {
            eprintln!("skipped: there is no kubectl {version}");
        }
        found
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(line.split(' '))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn output(&self, line: &str) -> Output {
        self.command(line).output().await.unwrap()
    }

    /// Runs a command that must succeed; returns what it wrote.
    pub(crate) async fn run(&self, line: &str) -> String {
        let output = self.output(line).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {line}: {err}");
        out.into_owned()
    }

    /// Runs a command that must fail; returns its complaint.
    pub(crate) async fn fail(&self, line: &str) -> String {
        let output = self.output(line).await;
        assert!(!output.status.success(), "kubectl {line} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Feeds text to a command that reads `-f -`.
    pub(crate) async fn feed(&self, line: &str, text: &str) -> Output {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
        child.wait_with_output().await.unwrap()
    }

    /// Makes a pod that has a node.
    pub(crate) async fn bound_pod(&self) {
        self.run("run p --image=busybox").await;
        self.server.client().bind("default", "p", "", "n1").await.unwrap();
    }
}

const BOOK: &str = "apiVersion: apps/v1beta1
kind: Deployment
metadata:
  name: myapp
  namespace: default
  labels: {app: hello}
spec:
  replicas: 2
  template:
    metadata:
      labels: {app: hello}
    spec:
      containers:
      - name: web
        image: helloworld
        ports: [{containerPort: 80, hostPort: 8080}]
        resources: {requests: {cpu: 10m, memory: 10Mi}, limits: {cpu: 50m, memory: 50Mi}}
";

#[tokio::test]
async fn the_books_deployment_is_created_scaled_applied_and_deleted() {
    let Some(cluster) = Cluster::start().await else { return };
    let created = cluster.feed("create -f -", BOOK).await;
    assert_eq!(String::from_utf8_lossy(&created.stdout), "deployment.apps/myapp created\n");
    assert!(String::from_utf8_lossy(&created.stderr).contains("deprecated"));
    let wide = cluster.run("get deployment -o wide").await;
    assert!(wide.contains("CONTAINERS") && wide.contains("0/2") && wide.contains("app=hello"), "{wide}");
    assert!(cluster.run("describe deployment myapp").await.contains("25% max unavailable"));
    cluster.run("scale deployment myapp --replicas=3").await;
    assert_eq!(cluster.run("get deployment myapp -o jsonpath={.spec.replicas}").await, "3");
    let edited = BOOK.replace("replicas: 2", "replicas: 4");
    let applied = cluster.feed("apply -f -", &edited).await;
    assert_eq!(String::from_utf8_lossy(&applied.stdout), "deployment.apps/myapp configured\n");
    assert_eq!(cluster.run("get deployment myapp -o jsonpath={.spec.replicas}").await, "4");
    let diff = cluster.feed("diff -f -", &edited.replace("replicas: 4", "replicas: 5")).await;
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+  replicas: 5"));
    assert!(cluster.run("set image deployment/myapp web=other").await.contains("image updated"));
    cluster.run("delete deployment myapp").await;
    assert!(cluster.fail("get deployment myapp").await.contains("(NotFound)"));
}

#[tokio::test]
async fn kubectl_creates_with_protobuf_bodies() {
    let Some(cluster) = Cluster::start().await else { return };
    for (line, said) in [
        ("create deployment web --image=nginx --replicas=2 --port=80", "deployment.apps/web created\n"),
        ("create configmap c --from-literal=a=b", "configmap/c created\n"),
        ("create secret generic s --from-literal=a=b", "secret/s created\n"),
        ("create namespace n", "namespace/n created\n"),
        ("create serviceaccount sa", "serviceaccount/sa created\n"),
        ("create service clusterip web --tcp=80:8080", "service/web created\n"),
        ("create service nodeport np --tcp=80:8080", "service/np created\n"),
        ("auth can-i create pods", "yes\n"),
    ] {
        assert_eq!(cluster.run(line).await, said);
    }
    assert_eq!(cluster.run("get secret s -o jsonpath={.data.a}").await, "Yg==");
    assert_eq!(cluster.run("get svc web -o jsonpath={.spec.ports[0].targetPort}").await, "8080");
    let ports = cluster.run("get svc np").await;
    assert!(ports.contains("80:3"), "{ports}");
    let names = cluster.run("get deploy,svc,cm,secret -o name").await;
    assert!(names.contains("deployment.apps/web") && names.contains("service/kubernetes"), "{names}");
}

#[tokio::test]
async fn faults_reach_the_person() {
    let Some(cluster) = Cluster::start().await else { return };
    let strict = cluster.feed("apply -f -", &BOOK.replace("replicas: 2", "replicaz: 2")).await;
    let text = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert!(text.contains("strict decoding error: unknown field \"spec.replicaz\""), "{text}");
    let invalid = BOOK.replace("spec:\n  replicas: 2", "spec:\n  selector: {matchLabels: {app: other}}");
    let text = String::from_utf8_lossy(&cluster.feed("create -f -", &invalid).await.stderr).into_owned();
    assert!(text.contains("The Deployment \"myapp\" is invalid:"), "{text}");
    assert!(text.contains("`selector` does not match template `labels`"), "{text}");
    assert!(cluster.fail("get pods/x").await.contains("pods \"x\" not found"));
    assert!(cluster.fail("create -n nowhere configmap c").await.contains("namespaces \"nowhere\" not found"));
}

#[tokio::test]
async fn kubectl_applies_on_the_server() {
    let Some(cluster) = Cluster::start().await else { return };
    let book = BOOK
        .replace("apps/v1beta1", "apps/v1")
        .replace("spec:\n  replicas: 2", "spec:\n  selector: {matchLabels: {app: hello}}\n  replicas: 2");
    let applied = cluster.feed("apply --server-side -f -", &book).await;
    assert_eq!(String::from_utf8_lossy(&applied.stdout), "deployment.apps/myapp serverside-applied\n");
    let fields = cluster.run("get deployment myapp -o yaml --show-managed-fields").await;
    assert!(fields.contains("k:{\"name\":\"web\"}") && fields.contains("operation: Apply"), "{fields}");
    cluster.run("scale deployment myapp --replicas=5").await;
    let refused = cluster.feed("apply --server-side -f -", &book).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("conflict with \"kubectl") && text.contains(".spec.replicas"), "{text}");
    let diff = cluster.feed("diff --server-side --force-conflicts -f -", &book).await;
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+  replicas: 2"));
    let forced = cluster.feed("apply --server-side --force-conflicts -f -", &book).await;
    assert!(forced.status.success());
    assert_eq!(cluster.run("get deployment myapp -o jsonpath={.spec.replicas}").await, "2");
    // What was applied by the client before moves over.
    cluster
        .feed(
            "apply -f -",
            &BOOK
                .replace("myapp", "old")
                .replace("apps/v1beta1", "apps/v1")
                .replace("spec:\n  replicas", "spec:\n  selector: {matchLabels: {app: hello}}\n  replicas"),
        )
        .await;
    let moved = cluster.feed("apply --server-side -f -", &book.replace("myapp", "old")).await;
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
}

#[tokio::test]
async fn a_newer_kubectl_validates_explains_and_applies() {
    let Some(mut cluster) = Cluster::start().await else { return };
    for version in ["1.33"] {
        if !cluster.with_kubectl(version) {
            continue;
        }
        let name = format!("v{}", version.replace('.', "-"));
        let book = BOOK.replace("myapp", &name);
        let applied = cluster.feed("apply -f -", &book).await;
        let complaint = String::from_utf8_lossy(&applied.stderr).into_owned();
        assert!(applied.status.success(), "{version}: {complaint}");
        let strict = cluster.feed("apply -f -", &book.replace("replicas: 2", "replicaz: 2")).await;
        let complaint = String::from_utf8_lossy(&strict.stderr).into_owned();
        assert!(!strict.status.success() && complaint.contains("replicaz"), "{version}: {complaint}");
        let told = cluster.run("explain deployment.spec.replicas").await;
        assert!(told.contains("Number of desired pods"), "{version}: {told}");
        cluster.run(&format!("create configmap {name} --from-literal=a=b")).await;
        let raw = cluster
            .feed("create -f -", &format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}}}"))
            .await;
        assert!(raw.status.success(), "{version}");
    }
}

#[tokio::test]
async fn our_own_kinds_are_like_the_others() {
    let Some(cluster) = Cluster::start().await else { return };
    let manifest = "apiVersion: network.cirro.dev/v1
kind: Vpc
metadata: {name: main}
spec: {cidr: 10.0.0.0/16}
---
apiVersion: compute.cirro.dev/v1
kind: Instance
metadata: {name: vm1}
spec: {image: helloworld, subnet: web, memory: 512Mi}
";
    cluster.feed("apply -f -", manifest).await;
    let again = cluster.feed("apply -f -", manifest).await;
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert_eq!(said, "vpc.network.cirro.dev/main unchanged\ninstance.compute.cirro.dev/vm1 unchanged\n");
    let table = cluster.run("get instances,vpc").await;
    assert!(table.contains("PHASE") && table.contains("Pending") && table.contains("10.0.0.0/16"), "{table}");
    assert!(cluster.run("explain instance.spec.memory").await.contains("256Mi when absent"));
    let wrong = cluster.feed("apply -f -", &manifest.replace("10.0.0.0/16", "10.0.0.1/16")).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean 10.0.0.0/16?"));
    cluster.server.set_node_streams(Arc::new(EchoNode::default()));
    let console =
        "get --raw /apis/compute.cirro.dev/v1/namespaces/default/instances/vm1/console?limitBytes=9";
    assert_eq!(cluster.run(console).await, "at most 9 bytes");
}

#[tokio::test]
async fn logs_and_commands_go_to_the_node() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.bound_pod().await;
    let node = Arc::new(EchoNode::default());
    cluster.server.set_node_streams(node.clone());
    assert_eq!(cluster.run("logs p --tail=5 -f").await, "p tail Some(5) follow true\n");
    let exec = cluster.output("exec p -- 0 sh -c ls").await;
    assert_eq!(String::from_utf8_lossy(&exec.stdout), "hello\n");
    assert_eq!(String::from_utf8_lossy(&exec.stderr), "done\n");
    assert_eq!(node.commands.lock().unwrap()[0], ["0", "sh", "-c", "ls"]);
    let exec = cluster.output("exec p -- 3").await;
    assert_eq!(exec.status.code(), Some(3));
    let piped = cluster.feed("exec -i p -- 0", "some input\n").await;
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "hello\nsome input\n");
    let attached = cluster.feed("attach -i p", "more\n").await;
    assert!(String::from_utf8_lossy(&attached.stdout).contains("hello\nmore\n"));
    assert!(cluster.fail("exec p -c nope -- ls").await.contains("container nope is not valid for pod p"));
}

#[tokio::test]
async fn a_wait_ends_with_the_object() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.bound_pod().await;
    let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let place = cirro_seams::api::ObjectKey {
        resource: cirro_seams::api::Resource::new("", "pods"),
        namespace: "default".into(),
        name: "p".into(),
    };
    let client = cluster.server.client();
    let ready = async {
        let waiting = cluster.run("wait --for=condition=Ready pod/p --timeout=30s");
        let patching = client.merge_patch(&place, true, pod);
        tokio::join!(waiting, patching).0
    };
    assert_eq!(ready.await, "pod/p condition met\n");
    let deletion = cluster.run("delete pod p --grace-period=0 --force");
    assert!(deletion.await.contains("pod \"p\" force deleted"));
}
