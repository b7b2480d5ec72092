//! Two servers on one etcd.

use std::sync::Arc;
use std::time::Duration;

use cirro_apiserver::{ApiServer, Options};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::fixture::{admin, request, send};

#[path = "../../../cirro-store/tests/etcd_server/mod.rs"]
mod etcd_server;

use etcd_server::EtcdServer;

const PATIENCE: Duration = Duration::from_secs(60);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn server(etcd: &EtcdServer, keys: &std::path::Path) -> ApiServer {
    let store = etcd_server::shared(etcd.options("/cloud")).await;
    let options = Options { keys: Some(keys.to_owned()), ..Options::default() };
    ApiServer::open(store, options).await.unwrap()
}

/// Reads the next line of a watch.
async fn event(body: &mut axum::body::Body, rest: &mut Vec<u8>) -> Value {
    loop {
        if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = rest.drain(..=at).collect();
            return serde_json::from_slice(&line).unwrap();
        }
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("an event comes");
        rest.extend_from_slice(&frame.expect("the watch goes on").unwrap().into_data().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_one_etcd_serve_each_others_watches() {
    let (etcd, keys) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let (one, other) = (server(&etcd, keys.path()).await, server(&etcd, keys.path()).await);
    for path in [MAPS, "/api/v1/namespaces/default/secrets"] {
        let begin = send(&other, "GET", path, &Value::Null).await.body["metadata"]["resourceVersion"].clone();
        let watch = format!("{path}?watch=true&resourceVersion={}", begin.as_str().unwrap());
        let mut watch =
            other.respond(&admin(), request("GET", &watch, "application/json", "")).await.into_body();
        let mut rest = Vec::new();
        for number in 0..10 {
            let name = format!("map-{number}");
            let object = json!({"metadata": {"name": name}, "data": {"a": "MQ=="}});
            let created = send(&one, "POST", path, &object).await;
            assert_eq!(created.code, 201, "{}", created.body);
            let seen = event(&mut watch, &mut rest).await;
            assert_eq!((&seen["type"], &seen["object"]["data"]["a"]), (&json!("ADDED"), &json!("MQ==")));
            assert_eq!(seen["object"]["metadata"], created.body["metadata"]);
            // What one server answered, the other one knows.
            let read = send(&other, "GET", &format!("{path}/{name}"), &Value::Null).await;
            assert_eq!(read.body["metadata"], created.body["metadata"]);
            let version = created.body["metadata"]["resourceVersion"].as_str().unwrap();
            let listed =
                send(&other, "GET", &format!("{path}?resourceVersion={version}"), &Value::Null).await;
            assert_eq!(listed.code, 200, "{}", listed.body);
        }
    }
    // Two writers of one object: one is told that it was late.
    let mut late = send(&other, "GET", &format!("{MAPS}/map-0"), &Value::Null).await.body;
    let patch = json!({"data": {"a": "one"}}).to_string();
    let patched = one
        .respond(&admin(), request("PATCH", &format!("{MAPS}/map-0"), "application/merge-patch+json", patch))
        .await;
    assert_eq!(patched.status(), 200);
    late["data"]["a"] = "other".into();
    assert_eq!(send(&other, "PUT", &format!("{MAPS}/map-0"), &late).await.code, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_one_etcd_give_no_address_twice() {
    let (etcd, keys) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let servers = [Arc::new(server(&etcd, keys.path()).await), Arc::new(server(&etcd, keys.path()).await)];
    let creations: Vec<_> = (0..40)
        .map(|number| {
            let server = servers[number % 2].clone();
            let service = json!({"metadata": {"name": format!("s-{number}")},
                "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
            tokio::spawn(async move {
                loop {
                    let created =
                        send(&server, "POST", "/api/v1/namespaces/default/services", &service).await;
                    // Too many at once for one address: clients try again.
                    if created.code != 409 {
                        assert_eq!(created.code, 201, "{}", created.body);
                        return created.body["spec"].clone();
                    }
                }
            })
        })
        .collect();
    let mut given = std::collections::HashSet::new();
    for creation in creations {
        let spec = creation.await.unwrap();
        assert!(given.insert(spec["clusterIP"].to_string()), "{spec}");
        assert!(given.insert(spec["ports"][0]["nodePort"].to_string()), "{spec}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_is_away_the_answer_is_503() {
    let (mut etcd, keys) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let server = server(&etcd, keys.path()).await;
    etcd.kill();
    for (method, body) in [("GET", Value::Null), ("POST", json!({"metadata": {"name": "x"}}))] {
        let answer = send(&server, method, MAPS, &body).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (503, &json!("ServiceUnavailable")),
            "{}",
            answer.body
        );
    }
    assert!(etcd.run());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while send(&server, "GET", MAPS, &Value::Null).await.code != 200 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
