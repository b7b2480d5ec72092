//! Parts of a pod that are written apart: ephemeral containers and resources; and its log over a websocket.

use std::sync::Arc;

use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::fixture::{Answer, EchoNode, admin, read, request, send, server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

async fn pod(server: &cirro_apiserver::ApiServer, container: Value) {
    let mut container = container;
    container["name"] = "web".into();
    container["image"] = "x".into();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [container]}});
    let made = send(server, "POST", PODS, &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

async fn patch(server: &cirro_apiserver::ApiServer, kind: &str, path: &str, patch: &Value) -> Answer {
    let request = request("PATCH", &format!("{PODS}/p/{path}"), kind, patch.to_string());
    read(server.respond(&admin(), request).await).await
}

fn looks(list: Value) -> Value {
    json!({"spec": {"ephemeralContainers": list}})
}

#[tokio::test]
async fn ephemeral_containers_are_added_to_a_pod_and_stay() {
    let server = server().await;
    pod(&server, json!({})).await;
    let look = json!({"name": "look", "image": "busybox", "targetContainerName": "web", "stdin": true});
    let patched = patch(&server, STRATEGIC, "ephemeralcontainers", &looks(json!([look]))).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let made = &patched.body["spec"]["ephemeralContainers"][0];
    assert_eq!((&made["imagePullPolicy"], &made["resources"]), (&json!("Always"), &json!({})));
    let entry = &patched.body["metadata"]["managedFields"];
    let entry = entry.as_array().unwrap().iter().find(|entry| entry["subresource"] == "ephemeralcontainers");
    assert!(entry.is_some_and(|entry| entry["fieldsV1"]["f:spec"]["f:ephemeralContainers"].is_object()));

    // A second one; the rest of what is sent is not this subresource's.
    let mut whole = send(&server, "GET", &format!("{PODS}/p/ephemeralcontainers"), &Value::Null).await.body;
    whole["spec"]["ephemeralContainers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "two", "image": "busybox"}));
    whole["metadata"]["labels"] = json!({"a": "b"});
    let put = send(&server, "PUT", &format!("{PODS}/p/ephemeralcontainers"), &whole).await;
    assert_eq!(put.code, 200, "{}", put.body);
    assert_eq!(put.body["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    assert!(put.body["metadata"].get("labels").is_none(), "{}", put.body);

    let applied = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"ephemeralContainers": [{"name": "three", "image": "busybox"}]}});
    let applied = patch(&server, APPLY, "ephemeralcontainers?fieldManager=me", &applied).await;
    assert_eq!(applied.code, 200, "{}", applied.body);
    assert_eq!(applied.body["spec"]["ephemeralContainers"].as_array().unwrap().len(), 3);

    let mut less = applied.body;
    less["spec"]["ephemeralContainers"].as_array_mut().unwrap().remove(0);
    let refused = send(&server, "PUT", &format!("{PODS}/p/ephemeralcontainers"), &less).await;
    assert_eq!(refused.code, 422);
    let said = refused.body["message"].as_str().unwrap();
    assert!(said.contains("existing ephemeral containers \"look\" may not be removed"), "{said}");
    for (bad, why) in [
        (json!({"name": "web", "image": "x"}), "Duplicate value: \"web\""),
        (json!({"name": "l", "image": "x", "targetContainerName": "no"}), "Not found: \"no\""),
        (
            json!({"name": "l", "image": "x", "ports": [{"containerPort": 1}]}),
            "cannot be set for an Ephemeral Container",
        ),
    ] {
        let refused = patch(&server, STRATEGIC, "ephemeralcontainers", &looks(json!([bad]))).await;
        assert_eq!(refused.code, 422, "{}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains(why), "{}", refused.body);
    }
    // They come by this way alone.
    let early = json!({"metadata": {"name": "q"}, "spec": {"containers": [{"name": "c", "image": "x"}],
        "ephemeralContainers": [{"name": "look", "image": "x"}]}});
    let refused = send(&server, "POST", PODS, &early).await;
    assert!(
        refused.body["message"].as_str().unwrap().contains("cannot be set on create"),
        "{}",
        refused.body
    );
    let sneaked = request(
        "PATCH",
        &format!("{PODS}/p"),
        STRATEGIC,
        looks(json!([{"name": "s", "image": "x"}])).to_string(),
    );
    assert_eq!(read(server.respond(&admin(), sneaked).await).await.code, 422);
    // What else is patched leaves them alone.
    let labelled = request(
        "PATCH",
        &format!("{PODS}/p"),
        STRATEGIC,
        json!({"metadata": {"labels": {"a": "b"}}}).to_string(),
    );
    assert_eq!(read(server.respond(&admin(), labelled).await).await.code, 200);
}

#[tokio::test]
async fn resources_of_a_pod_are_changed_by_resize_alone() {
    let server = server().await;
    let resources =
        json!({"requests": {"cpu": "100m", "memory": "20Mi"}, "limits": {"cpu": "200m", "memory": "30Mi"}});
    pod(&server, json!({"resources": resources})).await;
    let change =
        |resources: Value| json!({"spec": {"containers": [{"name": "web", "resources": resources}]}});
    let more = change(json!({"requests": {"cpu": "150m"}, "limits": {"cpu": "300m", "memory": "40Mi"}}));
    let plain = request("PATCH", &format!("{PODS}/p"), STRATEGIC, more.to_string());
    assert_eq!(read(server.respond(&admin(), plain).await).await.code, 422);
    let resized = patch(&server, STRATEGIC, "resize", &more).await;
    assert_eq!(resized.code, 200, "{}", resized.body);
    let now = &resized.body["spec"]["containers"][0]["resources"];
    assert_eq!(
        now,
        &json!({"requests": {"cpu": "150m", "memory": "20Mi"}, "limits": {"cpu": "300m", "memory": "40Mi"}})
    );
    let entries = resized.body["metadata"]["managedFields"].as_array().unwrap();
    assert!(entries.iter().any(|entry| entry["subresource"] == "resize"), "{entries:?}");
    for (bad, why) in [
        (
            json!({"limits": {"memory": "30Mi"}}),
            "memory limits cannot be decreased unless resizePolicy is RestartContainer",
        ),
        (json!({"limits": {"memory": null}}), "resource limits cannot be removed"),
        (
            json!({"requests": {"cpu": "300m", "memory": "40Mi"}}),
            "Pod QOS Class may not change as a result of resizing",
        ),
        (json!({"limits": {"example.com/card": "1"}}), "only cpu and memory resources are mutable"),
    ] {
        let refused = patch(&server, STRATEGIC, "resize", &change(bad)).await;
        assert_eq!(refused.code, 422, "{why}: {}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains(why), "{}", refused.body);
    }
    // The rest of what is sent is not this subresource's.
    let other = json!({"spec": {"containers": [{"name": "web", "image": "y"}]}});
    let kept = patch(&server, STRATEGIC, "resize", &other).await;
    assert_eq!((kept.code, &kept.body["spec"]["containers"][0]["image"]), (200, &json!("x")));
    // Limits of the namespace hold.
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "400m"}}]}});
    assert_eq!(send(&server, "POST", "/api/v1/namespaces/default/limitranges", &range).await.code, 201);
    let refused = patch(&server, STRATEGIC, "resize", &change(json!({"limits": {"cpu": "500m"}}))).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    let names = send(&server, "GET", "/api/v1", &Value::Null).await.body;
    let names: Vec<_> =
        names["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"pods/resize") && names.contains(&"pods/ephemeralcontainers"));
}

/// Asks for a log over a websocket with a subprotocol, and returns the answer's head and its first frames.
async fn log_over(server: &cirro_apiserver::ApiServer, protocol: &str) -> (String, Vec<(u8, Vec<u8>)>) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let server = server.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(server.respond(&admin(), request.map(Body::new)).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
    tokio::spawn(connection.with_upgrades());
    let mut stream = BufReader::new(ours);
    let mut head = format!(
        "GET {PODS}/p/log?container=web HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    if !protocol.is_empty() {
        head += &format!("sec-websocket-protocol: {protocol}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut answer).await.unwrap() > 0, "{answer}");
    }
    let mut frames = Vec::new();
    while answer.starts_with("HTTP/1.1 101") && frames.last().is_none_or(|(opcode, _)| *opcode != 8) {
        let mut start = [0; 2];
        stream.read_exact(&mut start).await.unwrap();
        assert!(start[1] < 126, "short and without a mask");
        let mut payload = vec![0; start[1].into()];
        stream.read_exact(&mut payload).await.unwrap();
        frames.push((start[0] & 0xf, payload));
    }
    (answer, frames)
}

#[tokio::test]
async fn logs_come_over_websockets() {
    let server = server().await;
    pod(&server, json!({})).await;
    server.set_node_streams(Arc::new(EchoNode::default()));
    let text = b"web tail None follow false\n".to_vec();
    for protocol in ["", "binary.k8s.io"] {
        let (head, frames) = log_over(&server, protocol).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert_eq!(head.contains("sec-websocket-protocol: binary.k8s.io"), !protocol.is_empty(), "{head}");
        assert_eq!(frames[0], (2, text.clone()), "{protocol:?}");
        assert_eq!(frames[1].0, 8);
    }
    let (_, frames) = log_over(&server, "base64.binary.k8s.io").await;
    assert_eq!(frames[0], (1, b"d2ViIHRhaWwgTm9uZSBmb2xsb3cgZmFsc2UK".to_vec()));
    let (head, _) = log_over(&server, "channel.k8s.io").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test]
async fn the_runtime_class_of_a_pod_is_looked_up() {
    let server = server().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"runtimeClassName": "light", "containers": [{"name": "c", "image": "x"}]}});
    let refused = send(&server, "POST", PODS, &pod).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert_eq!(
        refused.body["message"],
        "pods \"p\" is forbidden: pod rejected: RuntimeClass \"light\" not found"
    );
    let class =
        json!({"metadata": {"name": "light"}, "handler": "light", "overhead": {"podFixed": {"cpu": "10m"}}});
    assert_eq!(send(&server, "POST", "/apis/node.k8s.io/v1/runtimeclasses", &class).await.code, 201);
    let made = send(&server, "POST", PODS, &pod).await;
    assert_eq!((made.code, &made.body["spec"]["overhead"]), (201, &json!({"cpu": "10m"})), "{}", made.body);
    assert_eq!(
        send(&server, "DELETE", "/apis/node.k8s.io/v1/runtimeclasses/light", &Value::Null).await.code,
        200
    );
    let mut next = pod;
    next["metadata"]["name"] = "q".into();
    assert_eq!(send(&server, "POST", PODS, &next).await.code, 403);
}
