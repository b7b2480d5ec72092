//! Requests to what pods, services and nodes serve.

use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

use crate::fixture::{Answer, EchoNode, send, server};
use crate::kubectl::Cluster;

const POD: &str = "/api/v1/namespaces/default/pods/p";
const SERVICE: &str = "/api/v1/namespaces/default/services";

/// Makes a pod with an address, a service with two ports before it, and a node.
async fn populate(server: &cirro_apiserver::ApiServer) {
    server.set_node_streams(Arc::new(EchoNode::default()));
    let create = |path: &'static str, object: Value| async move {
        let answer = send(server, "POST", path, &object).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
    };
    let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 8080}]});
    let spec = json!({"nodeName": "n1", "containers": [container]});
    create("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let status = json!({"status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}});
    assert_eq!(patch(server, &format!("{POD}/status"), &status).await.code, 200);
    let ports = json!([{"name": "web", "port": 80, "targetPort": 8080}, {"name": "tls", "port": 443}]);
    create(SERVICE, json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})).await;
    let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": true}}],
        "ports": [{"name": "web", "port": 8080}]});
    create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}});
    assert_eq!(patch(server, "/api/v1/nodes/n1/status", &status).await.code, 200);
}

async fn patch(server: &cirro_apiserver::ApiServer, path: &str, change: &Value) -> Answer {
    let request = crate::fixture::request("PATCH", path, "application/merge-patch+json", change.to_string());
    crate::fixture::read(server.respond(&crate::fixture::admin(), request).await).await
}

#[tokio::test]
async fn requests_reach_what_the_objects_serve() {
    let server = server().await;
    populate(&server).await;
    let behind = &server;
    let get = |path: String| async move { send(behind, "GET", &path, &Value::Null).await };
    let text = |answer: Answer| answer.body.as_str().unwrap_or_default().to_owned();
    let answer = text(get(format!("{POD}/proxy/a/b?c=d")).await);
    assert_eq!(answer, format!("GET /a/b?c=d at 10.1.2.3:8080, Some(\"{POD}/proxy/a/b\"), None\n"));
    let post = send(&server, "POST", &format!("{POD}:90/proxy/x"), &json!({})).await;
    assert!(text(post).starts_with("POST /x at 10.1.2.3:90"));
    assert!(text(get(format!("{SERVICE}/s:web/proxy/")).await).starts_with("GET / at 10.1.2.3:8080"));
    assert!(text(get(format!("{SERVICE}/s:80/proxy/")).await).starts_with("GET / at 10.1.2.3:8080"));
    assert!(
        text(get("/api/v1/nodes/n1:9100/proxy/metrics".into()).await)
            .starts_with("GET /metrics at 10.0.0.9:9100")
    );
    let pods = get("/api/v1/nodes/n1/proxy/pods".into()).await;
    assert_eq!(pods.body["items"][0]["metadata"]["name"], "p");
    assert_eq!(get("/api/v1/nodes/n1/proxy/healthz".into()).await.body, "ok");
    assert_eq!(get(format!("{POD}/proxy")).await.code, 301);
    let refusal =
        |answer: Answer| (answer.code, answer.body["message"].as_str().unwrap_or_default().to_owned());
    let unreachable = "error trying to reach service: dial tcp 10.1.2.3:81: connection refused";
    assert_eq!(refusal(get(format!("{POD}:81/proxy/")).await), (503, unreachable.into()));
    let nobody = "no endpoints available for service \"s\"";
    assert_eq!(refusal(get(format!("{SERVICE}/s:tls/proxy/")).await), (503, nobody.into()));
    let no_port = "no service port 81 found for service \"s\"";
    assert_eq!(refusal(get(format!("{SERVICE}/s:81/proxy/")).await), (503, no_port.into()));
    assert_eq!(
        refusal(get(format!("{SERVICE}/x:y:z:1/proxy/")).await).1,
        "invalid service request \"x:y:z:1\""
    );
    assert_eq!(get("/api/v1/namespaces/default/pods/q/proxy/".into()).await.code, 404);
    let loopback = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    assert_eq!(patch(&server, &format!("{POD}/status"), &loopback).await.code, 200);
    assert_eq!(refusal(get(format!("{POD}/proxy/")).await), (400, "address not allowed".into()));
}

#[tokio::test]
async fn kubectl_reads_through_us_and_upgrades_pass() {
    let Some(mut cluster) = Cluster::start().await else { return };
    populate(&cluster.server).await;
    for version in ["1.27", "1.33"] {
        if cluster.with_kubectl(version) {
            let raw = cluster.run(&format!("get --raw {SERVICE}/s:web/proxy/a?b=c")).await;
            assert!(raw.starts_with("GET /a?b=c at 10.1.2.3:8080"), "{raw}");
        }
    }
    let mut proxy = cluster.command("proxy --port=0").stdout(Stdio::piped()).spawn().unwrap();
    let address = address_of(&mut proxy).await;
    let ask = |path: &'static str, headers: &'static str| {
        let address = address.clone();
        async move {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            let head = format!("GET {POD}/proxy{path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream
        }
    };
    let mut answer = String::new();
    ask("/away", "Connection: close\r\n").await.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(&format!("Location: {POD}/proxy/here/")), "{answer}");
    let stream = ask("/echo", "Connection: Upgrade\r\nUpgrade: echo\r\n").await;
    is_echo(stream).await;
    proxy.kill().await.unwrap();
}

/// Checks that what was asked for became a connection that sends its bytes back.
async fn is_echo(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"back and forth").await.unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"back and forth");
}

/// Upgrades a request for a path through kubectl's proxy.
pub(crate) async fn echo_through(proxy: &mut Child, path: &str) {
    let address = address_of(proxy).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    is_echo(stream).await;
}

async fn address_of(proxy: &mut Child) -> String {
    let line = BufReader::new(proxy.stdout.take().unwrap()).lines().next_line().await.unwrap().unwrap();
    line.strip_prefix("Starting to serve on ").unwrap().to_owned()
}
