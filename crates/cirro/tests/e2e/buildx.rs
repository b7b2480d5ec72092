//! What buildx's driver `docker` asks: `POST /session` and `POST /grpc` on the real socket, made by a client of our own
//! (the one of cirro-buildkit's tests), since no package registry has the program.

// Only a part of it is needed here.
#[allow(dead_code)]
#[path = "../../../cirro-buildkit/tests/protocol/client.rs"]
mod client;

use std::path::Path;
use std::sync::Arc;

use cirro_buildkit::messages::{Empty, Exporter, ListWorkersResponse};
use cirro_grpc::client::{Channel, connect};
use client::{METHODS, Served};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::cloud::Cloud;

/// Leaves HTTP/1.1 behind, as docker's Go client does.
async fn upgrade(socket: &Path, path: &str, headers: &[(&str, &str)]) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: h2c"), "{answer}");
    stream
}

async fn grpc(socket: &Path) -> Channel {
    let (channel, connection) =
        connect(upgrade(socket, "/grpc", &[]).await, cirro_buildkit::LIMITS).await.unwrap();
    tokio::spawn(connection);
    channel
}

#[test]
fn a_client_like_buildx_builds_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(builds(&cloud));
    runtime.shutdown_background();
    cloud.end();
}

/// A directory of the client's in the place of an image; of the context only what changed is sent again.
async fn named_contexts(cloud: &Cloud, served: &Served, channel: &Channel, context: &Path) {
    let text = std::fs::read(context.join("Dockerfile")).unwrap();
    let named = "FROM busybox\nCOPY --from=other f /f\nCOPY a /a\nRUN cat /f && grep gw /etc/hosts\n";
    std::fs::write(context.join("Dockerfile"), named).unwrap();
    served.requested.lock().unwrap().clear();
    let image = Exporter { kind: "moby".into(), ..Exporter::default() };
    let attributes =
        [("context:other", "local:other"), ("add-hosts", "gw=host-gateway"), ("platform", "linux/amd64")];
    let built = client::build(channel, "n1", "one", &attributes, vec![image]).await;
    built.response.as_ref().unwrap();
    let output = built.output();
    assert!(output.contains("of the other\n") && output.contains("\tgw"), "{output}");
    // Twice: by itself, and in the context, where it changed.
    assert_eq!(*served.requested.lock().unwrap(), ["Dockerfile", "Dockerfile", "f"]);
    std::fs::write(context.join("Dockerfile"), text).unwrap();
    // What docker's CLI sends has no end mark.
    let input = b"FROM busybox\nCOPY a /a\nRUN cat /a/b/c\n";
    let arguments = ["build", "--add-host", "gw:host-gateway", "-f", "-", context.to_str().unwrap()];
    assert!(cloud.docker_with_input(&arguments, input).ok().contains("from the client\n"));
}

async fn builds(cloud: &Cloud) {
    let socket = cloud.run_dir().join("docker.sock");
    let context = cloud.directory.path().join("bx");
    let other = cloud.directory.path().join("other");
    std::fs::create_dir_all(context.join("a/b")).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("f"), "of the other\n").unwrap();
    let text = "FROM busybox\nCOPY a /a\nRUN --mount=type=secret,id=token,required wc -c < /run/secrets/token > /count\nRUN cat /a/b/c && echo $WORD > /word\n";
    std::fs::write(context.join("Dockerfile"), text.replace("$WORD", "word")).unwrap();
    std::fs::write(context.join("a/b/c"), "from the client\n").unwrap();
    let served = Arc::new(Served {
        directories: ["context", "dockerfile", "out-0"]
            .map(|name| (name.to_owned(), context.clone()))
            .into_iter()
            .chain([("other".to_owned(), other.clone())])
            .collect(),
        secrets: [("token".to_owned(), "s3cret".to_owned())].into(),
        ..Served::default()
    });
    let mut headers = vec![("X-Docker-Expose-Session-Uuid", "one"), ("X-Docker-Expose-Session-Name", "")];
    headers.push(("X-Docker-Expose-Session-Sharedkey", "bx:key"));
    headers.extend(METHODS.map(|method| ("X-Docker-Expose-Session-Grpc-Method", method)));
    let session = upgrade(&socket, "/session", &headers).await;
    tokio::spawn(client::serve_session(served.clone(), session));
    let channel = grpc(&socket).await;
    let workers: ListWorkersResponse =
        channel.ask("/moby.buildkit.v1.Control/ListWorkers", &[], &Empty::default()).await.unwrap();
    assert_eq!(workers.records.len(), 1);

    let image = |name: &str| Exporter {
        kind: "moby".into(),
        attributes: [("name".to_owned(), name.to_owned())].into(),
    };
    let built =
        client::build(&channel, "b1", "one", &[("image-resolve-mode", "local")], vec![image("bx:v1")]).await;
    let digest = built.response.as_ref().unwrap().exporter_response["containerimage.digest"].clone();
    let names = built.names();
    for expected in ["[1/4] FROM docker.io/library/busybox:latest", "[2/4] COPY a /a", "exporting to image"] {
        assert!(names.iter().any(|name| name == expected), "{expected:?} is missing in {names:?}");
    }
    assert_eq!(built.output(), "from the client\n");
    assert_eq!(cloud.docker(&["inspect", "-f", "{{.Id}}", "bx:v1"]).ok().trim(), digest);
    assert_eq!(
        cloud.docker(&["run", "--rm", "--network", "none", "bx:v1", "cat", "/count", "/word"]).ok(),
        "6\nword\n"
    );

    let again = client::build(&channel, "b2", "one", &[], vec![image("bx:v1")]).await;
    let cached = again.told.iter().flat_map(|part| &part.vertexes).filter(|vertex| vertex.cached);
    assert!(cached.filter(|vertex| vertex.completed.is_some()).count() >= 3);
    assert_eq!(again.response.unwrap().exporter_response["containerimage.digest"], digest);

    named_contexts(cloud, &served, &channel, &context).await;

    let local = Exporter { kind: "local".into(), ..Exporter::default() };
    client::build(&channel, "b3", "one", &[], vec![local]).await.response.unwrap();
    assert_eq!(served.received.lock().unwrap()["0/a/b/c"], b"from the client\n");

    std::fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo no && exit 9\n").unwrap();
    let failed = client::build(&channel, "b4", "one", &[], vec![image("bx:v2")]).await;
    let status = failed.response.unwrap_err();
    assert!(status.message.ends_with("did not complete successfully: exit code: 9"), "{}", status.message);
    let place: serde_json::Value = serde_json::from_slice(&status.details[0].value).unwrap();
    assert_eq!(place["ranges"][0]["start"]["line"], 2);
    assert_ne!(cloud.docker(&["inspect", "bx:v2"]).code, 0);
}
