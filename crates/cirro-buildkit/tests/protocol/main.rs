//! The protocol whole: a client with a session, over a backend that shows what it was asked for.

mod backend;
mod client;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backend::{Shown, image};
use cirro_buildkit::messages::{
    BuildHistoryEvent, BuildHistoryRequest, DiskUsageResponse, Empty, Exporter, InfoResponse,
    ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, UpdateBuildHistoryRequest, UsageRecord,
};
use cirro_buildkit::{BuildKit, Introduction, Order, Told};
use cirro_grpc::Code;
use cirro_grpc::client::{Channel, connect};
use client::{METHODS, Served};
use http::{HeaderMap, HeaderValue};
use tokio::task::JoinHandle;

/// Time that nothing takes that works.
const LONG: Duration = Duration::from_secs(30);

/// A builder with a client that has a session and a connection.
struct Connected {
    backend: Arc<Shown>,
    buildkit: BuildKit,
    served: Arc<Served>,
    channel: Channel,
    connection: JoinHandle<()>,
    _context: tempfile::TempDir,
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

impl Connected {
    async fn new(dockerfile: &str) -> Self {
        let context = tempfile::tempdir().unwrap();
        write(context.path(), "Dockerfile", dockerfile);
        write(context.path(), ".dockerignore", "# no\nsecret\n");
        write(context.path(), "secret", "not sent");
        write(context.path(), "a/b/file", &"x".repeat(100_000));
        write(context.path(), "empty", "");
        std::os::unix::fs::symlink("a/b", context.path().join("link")).unwrap();
        let layers = vec![context.path().to_owned()];
        let backend = Arc::new(Shown { layers, ..Shown::default() });
        let buildkit = BuildKit::new(backend.clone());
        let out = context.path().to_owned();
        let served = Arc::new(Served {
            directories: ["context", "dockerfile", "out-0"].map(|name| (name.to_owned(), out.clone())).into(),
            secrets: [("token".to_owned(), "s3cret".to_owned())].into(),
            ..Served::default()
        });
        let mut headers = HeaderMap::new();
        headers.insert("X-Docker-Expose-Session-Uuid", HeaderValue::from_static("session"));
        headers.insert("X-Docker-Expose-Session-Sharedkey", HeaderValue::from_static("app:me"));
        for method in METHODS {
            headers.append("X-Docker-Expose-Session-Grpc-Method", HeaderValue::from_static(method));
        }
        let place = buildkit.open_session(Introduction::read(&headers).unwrap()).unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(place.run(near));
        tokio::spawn(client::serve_session(served.clone(), far));
        let (near, far) = tokio::io::duplex(1 << 20);
        let serving = buildkit.clone();
        tokio::spawn(async move { serving.serve(near).await });
        let (channel, connection) = connect(far, cirro_buildkit::LIMITS).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self { backend, buildkit, served, channel, connection, _context: context }
    }

    async fn build(&self, attributes: &[(&str, &str)], exporter: Exporter) -> client::Built {
        let exporters = vec![exporter];
        let building = client::build(&self.channel, "build", "session", attributes, exporters);
        tokio::time::timeout(LONG, building).await.expect("the build ended")
    }
}

fn exporter(kind: &str, name: &str) -> Exporter {
    Exporter { kind: kind.into(), attributes: [("name".to_owned(), name.to_owned())].into() }
}

#[tokio::test]
async fn buildx_builds_an_image() {
    let connected = Connected::new("FROM x\nRUN x\n").await;
    let built = connected.build(&[("filename", "Dockerfile")], exporter("moby", "a,b:1")).await;
    let response = built.response.as_ref().unwrap();
    assert_eq!(response.exporter_response["containerimage.digest"], image().to_string());
    assert_eq!(response.exporter_response["image.name"], "docker.io/library/a:latest,docker.io/library/b:1");
    assert_eq!(
        built.names(),
        [
            "[internal] load build definition from Dockerfile",
            "[internal] load .dockerignore",
            "[internal] load build context",
            "[2/2] RUN x",
            "exporting to image",
        ]
    );
    assert_eq!(built.output(), "output\n");
    let seen = connected.backend.seen.lock().unwrap();
    let names: Vec<&str> = seen.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [".dockerignore", "Dockerfile", "a/b/file", "empty", "link"]);
    assert_eq!((seen.files[2].1.len(), seen.files[4].1.as_str()), (100_000, "a/b"));
    assert_eq!(seen.dockerfile, "FROM x\nRUN x\n");
    assert_eq!(seen.tags, ["docker.io/library/a:latest", "docker.io/library/b:1"]);
    assert_eq!(seen.secret.as_deref(), Some("s3cret"));
    let hub = "password of https://index.docker.io/v1/".to_owned();
    assert_eq!(seen.credentials, Some(("me".to_owned(), hub)));
    assert_eq!((seen.forgotten, connected.served.asked.lock().unwrap().len()), (0, 3));
}

#[tokio::test]
async fn a_failure_arrives_with_its_place() {
    let connected = Connected::new("FROM x\nRUN false\n").await;
    let built = connected.build(&[], exporter("moby", "")).await;
    let status = built.response.unwrap_err();
    assert_eq!(status.message, "process \"/bin/sh -c x\" did not complete successfully: exit code: 3");
    assert!(status.details[0].type_url.ends_with("errdefs.Source+json"));
    let failed = built.told.iter().flat_map(|part| &part.vertexes).find(|vertex| !vertex.error.is_empty());
    assert_eq!(failed.unwrap().name, "[2/2] RUN x");
}

#[tokio::test]
async fn outputs_are_files_of_the_client() {
    let connected = Connected::new("FROM x\n").await;
    let built = connected.build(&[], exporter("local", "")).await;
    assert!(built.response.unwrap().exporter_response.is_empty());
    let tree = connected.served.received.lock().unwrap().clone();
    assert_eq!(tree["0/Dockerfile"], b"FROM x\n");
    assert_eq!(tree["0/a/b/file"].len(), 100_000);
    assert_eq!(connected.backend.seen.lock().unwrap().forgotten, 1);

    // The second of two outputs, as its number says.
    let exporters = vec![exporter("cacheonly", ""), exporter("docker", "a"), exporter("tar", "")];
    let built = client::build(&connected.channel, "two", "session", &[], exporters).await;
    built.response.unwrap();
    let received = connected.served.received.lock().unwrap();
    assert!(String::from_utf8_lossy(&received["1"]).contains("docker.io/library/a:latest"));
    assert!(String::from_utf8_lossy(&received["2"]).contains("a/b/file"));
}

#[tokio::test]
async fn an_image_is_pushed_with_the_clients_password() {
    let connected = Connected::new("FROM x\n").await;
    let mut wanted = exporter("image", "registry.example/a:1");
    wanted.attributes.insert("push".into(), "true".into());
    connected.build(&[], wanted).await.response.unwrap();
    let seen = connected.backend.seen.lock().unwrap();
    let password = ("me".to_owned(), "password of registry.example".to_owned());
    assert_eq!(seen.pushed, [("registry.example/a:1".to_owned(), Some(password))]);
}

#[tokio::test]
async fn a_context_is_sent_once_and_then_what_changed_of_it() {
    let connected = Connected::new("FROM x\n").await;
    let requested = async |reference: &str| {
        let exporters = vec![exporter("moby", "")];
        let built = client::build(&connected.channel, reference, "session", &[], exporters).await;
        built.response.unwrap();
        let mut requested = std::mem::take(&mut *connected.served.requested.lock().unwrap());
        requested.sort();
        requested
    };
    // Dockerfile and rules are sent by themselves, each time.
    let own = [".dockerignore", "Dockerfile"];
    assert_eq!(
        requested("1").await,
        [".dockerignore", ".dockerignore", "Dockerfile", "Dockerfile", "a/b/file", "empty"]
    );
    assert_eq!(requested("2").await, own);
    write(connected._context.path(), "empty", "no more");
    write(connected._context.path(), "a/new", "n");
    assert_eq!(requested("3").await, [".dockerignore", "Dockerfile", "a/new", "empty"]);
    let files = connected.backend.seen.lock().unwrap().files.clone();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [".dockerignore", "Dockerfile", "a/b/file", "a/new", "empty", "link"]);
    assert_eq!((files[2].1.len(), files[4].1.as_str()), (100_000, "no more"));
    connected.buildkit.forget_contexts();
    assert_eq!(requested("4").await.len(), 7);
}

#[tokio::test]
async fn a_directory_of_the_client_is_lent_as_a_named_context() {
    let connected = Connected::new("FROM x\n").await;
    let attributes = [("context:other", "local:out-0"), ("add-hosts", "h=host-gateway")];
    let built = connected.build(&attributes, exporter("moby", "")).await;
    built.response.as_ref().unwrap();
    for name in ["[context other] load .dockerignore", "[context other] load from client"] {
        assert!(built.names().iter().any(|shown| shown == name), "{name}: {:?}", built.names());
    }
    let seen = connected.backend.seen.lock().unwrap();
    assert_eq!((seen.lent.len(), seen.lent == seen.files), (5, true));
    assert_eq!(seen.hosts, ["h:host-gateway"]);
}

#[tokio::test]
async fn builds_are_in_the_history() {
    let connected = Connected::new("FROM x\nRUN x\n").await;
    connected.build(&[("target", "")], exporter("moby", "a")).await.response.unwrap();
    let listed = async |request: BuildHistoryRequest| {
        let path = "/moby.buildkit.v1.Control/ListenBuildHistory";
        let mut exchange = connected.channel.start(path, &[]).await.unwrap();
        exchange.questions.send(&request).await.unwrap();
        exchange.questions.end();
        let mut records = Vec::new();
        while let Some(event) = exchange.answers.next::<BuildHistoryEvent>().await.unwrap() {
            records.push(event.record.unwrap());
        }
        records
    };
    let present = BuildHistoryRequest { early_exit: true, ..BuildHistoryRequest::default() };
    let records = listed(present.clone()).await;
    assert_eq!((records.len(), records[0].reference.as_str()), (1, "build"));
    assert!(records[0].completed_at.is_some() && records[0].error.is_none() && records[0].total_steps >= 4);
    assert_eq!(records[0].exporter_response["image.name"], "docker.io/library/a:latest");
    // What buildx asks to learn whether there is a history.
    let none = BuildHistoryRequest { active_only: true, reference: "buildx-test".into(), ..present.clone() };
    assert!(listed(none).await.is_empty());
    let update = "/moby.buildkit.v1.Control/UpdateBuildHistory";
    let remove = UpdateBuildHistoryRequest { reference: "build".into(), delete: true, ..Default::default() };
    connected.channel.ask::<_, Empty>(update, &[], &remove).await.unwrap();
    assert!(connected.channel.ask::<_, Empty>(update, &[], &remove).await.unwrap_err().is(Code::NotFound));
    assert!(listed(present).await.is_empty());
}

#[tokio::test]
async fn a_context_may_be_elsewhere() {
    let connected = Connected::new("FROM local\n").await;
    let remote = [("context", "https://git.example/a.git#main"), ("dockerfilekey", "dockerfile")];
    connected.build(&remote, exporter("moby", "")).await.response.unwrap();
    {
        let seen = connected.backend.seen.lock().unwrap();
        assert_eq!(
            (seen.remote.as_str(), seen.dockerfile.as_str()),
            ("https://git.example/a.git#main", "FROM local\n")
        );
    }
    let upload = [("context", "http://buildkit-session/xyz")];
    let built = client::build(&connected.channel, "up", "session", &upload, vec![exporter("moby", "")]).await;
    built.response.unwrap();
    assert_eq!(connected.backend.seen.lock().unwrap().remote, "upload of /xyz");
}

#[tokio::test]
async fn a_build_ends_with_its_connection() {
    let connected = Connected::new("FROM x\nRUN hang\n").await;
    let channel = connected.channel.clone();
    let building = tokio::spawn(async move {
        let request = SolveRequest {
            reference: "hang".into(),
            session: "session".into(),
            frontend: "dockerfile.v0".into(),
            ..SolveRequest::default()
        };
        channel.ask::<_, SolveResponse>("/moby.buildkit.v1.Control/Solve", &[], &request).await
    });
    let mut running = connected.backend.running.subscribe();
    tokio::time::timeout(LONG, running.wait_for(|running| *running == 1)).await.unwrap().unwrap();
    connected.connection.abort();
    tokio::time::timeout(LONG, running.wait_for(|running| *running == 0)).await.unwrap().unwrap();
    assert!(building.await.unwrap().is_err());
}

#[tokio::test]
async fn the_classic_way_tells_the_same() {
    let connected = Connected::new("FROM x\nRUN x\n").await;
    let order = |session: &str| Order {
        outputs: vec![("moby".into(), [("name".to_owned(), "a".to_owned())].into())],
        session: session.into(),
        ..Order::default()
    };
    let mut told = connected.buildkit.start("one".into(), order("session"), None);
    let mut parts = 0;
    let image_told = loop {
        match tokio::time::timeout(LONG, told.recv()).await.unwrap().unwrap() {
            Told::Status(_) => parts += 1,
            Told::Image(image) => break image,
            Told::Failed(message) => panic!("{message}"),
        }
    };
    assert!(parts > 8 && image_told == image(), "{parts}");
    assert_eq!(told.recv().await, None);
    // A build that nobody listens to ends.
    std::fs::write(connected._context.path().join("Dockerfile"), "FROM x\nRUN hang\n").unwrap();
    let told = connected.buildkit.start("two".into(), order("session"), None);
    let mut running = connected.backend.running.subscribe();
    tokio::time::timeout(LONG, running.wait_for(|running| *running == 1)).await.unwrap().unwrap();
    drop(told);
    tokio::time::timeout(LONG, running.wait_for(|running| *running == 0)).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_other_calls_answer() {
    let connected = Connected::new("FROM x\n").await;
    let (channel, empty) = (&connected.channel, Empty::default());
    let info: InfoResponse = channel.ask("/moby.buildkit.v1.Control/Info", &[], &empty).await.unwrap();
    assert!(info.version.unwrap().version.starts_with('v'));
    let workers: ListWorkersResponse =
        channel.ask("/moby.buildkit.v1.Control/ListWorkers", &[], &empty).await.unwrap();
    assert_eq!(workers.records[0].platforms[0].os, "linux");
    let gateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
    assert_eq!(workers.records[0].labels[gateway], "172.17.0.1");
    let usage: DiskUsageResponse =
        channel.ask("/moby.buildkit.v1.Control/DiskUsage", &[], &empty).await.unwrap();
    assert_eq!((usage.records.len(), usage.records[0].size), (1, 7));
    let all = PruneRequest { all: true, ..PruneRequest::default() };
    let pruned: UsageRecord = channel.ask("/moby.buildkit.v1.Control/Prune", &[], &all).await.unwrap();
    assert_eq!(pruned.id, "a");
    for unknown in ["/moby.buildkit.v1.Control/Session", "/x.Y/Z", "/nothing"] {
        let status = channel.ask::<_, Empty>(unknown, &[], &empty).await.unwrap_err();
        assert!(status.is(Code::Unimplemented), "{unknown}: {status:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let connected = Connected::new("FROM x\n").await;
    let ask = async |request: SolveRequest| {
        let solve = "/moby.buildkit.v1.Control/Solve";
        connected.channel.ask::<_, SolveResponse>(solve, &[], &request).await.unwrap_err()
    };
    let request = |reference: &str, frontend: &str| SolveRequest {
        reference: reference.into(),
        session: "session".into(),
        frontend: frontend.into(),
        ..SolveRequest::default()
    };
    assert!(ask(request("1", "other.v1")).await.is(Code::Unimplemented));
    let mut llb = request("2", "");
    llb.definition = Some(cirro_buildkit::messages::Definition { operations: vec![vec![1].into()] });
    assert!(ask(llb).await.is(Code::Unimplemented));
    let mut cache = request("3", "dockerfile.v0");
    let export = cirro_buildkit::messages::CacheEntry { kind: "gha".into(), ..Default::default() };
    cache.cache = Some(cirro_buildkit::messages::CacheOptions { exports: vec![export], imports: Vec::new() });
    assert!(ask(cache).await.message.contains("unknown cache exporter: \"gha\""));
    let mut missing = request("4", "dockerfile.v0");
    missing.frontend_attributes.insert("filename".into(), "None".into());
    assert!(ask(missing).await.message.contains("failed to read dockerfile"));
}
