//! Watches over HTTP.

use axum::body::{Body, BodyDataStream};
use cirro_apiserver::ApiServer;
use cirro_store::ObjectStore as _;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::fixture::{admin, request, send, server};

const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// The lines of a watch.
struct Events {
    stream: BodyDataStream,
    rest: Vec<u8>,
}

impl Events {
    async fn open(server: &ApiServer, query: &str, accept: &str) -> Self {
        let mut watch = request("GET", &format!("{PATH}?watch=true&{query}"), "", Body::empty());
        if !accept.is_empty() {
            watch.headers_mut().insert("accept", accept.parse().unwrap());
        }
        let response = server.respond(&admin(), watch).await;
        assert_eq!(response.status(), 200);
        Self { stream: response.into_body().into_data_stream(), rest: Vec::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.rest.extend(self.stream.next().await?.unwrap());
        }
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!(name)));
        event["object"].clone()
    }
}

async fn create(server: &ApiServer, name: &str, color: &str) {
    let object = json!({"metadata": {"name": name, "labels": {"color": color}}});
    assert_eq!(send(server, "POST", PATH, &object).await.code, 201);
}

async fn paint(server: &ApiServer, name: &str, color: &str) {
    let object = json!({"metadata": {"name": name, "labels": {"color": color}}});
    assert_eq!(send(server, "PUT", &format!("{PATH}/{name}"), &object).await.code, 200);
}

#[tokio::test]
async fn a_watch_without_a_version_tells_what_is_there_first() {
    let server = server().await;
    create(&server, "a", "red").await;
    let mut events = Events::open(&server, "", "").await;
    events.expect("ADDED", "a").await;
    create(&server, "b", "red").await;
    events.expect("ADDED", "b").await;
    send(&server, "DELETE", &format!("{PATH}/a"), &Value::Null).await;
    events.expect("DELETED", "a").await;
}

#[tokio::test]
async fn a_selector_turns_changes_into_comings_and_goings() {
    let server = server().await;
    let mut events = Events::open(&server, "labelSelector=color%3Dred", "").await;
    create(&server, "a", "blue").await;
    paint(&server, "a", "red").await;
    events.expect("ADDED", "a").await;
    paint(&server, "a", "blue").await;
    let last = events.expect("DELETED", "a").await;
    assert_eq!(last["metadata"]["labels"]["color"], "red");
    paint(&server, "a", "red").await;
    events.expect("ADDED", "a").await;
}

#[tokio::test]
async fn a_watch_list_marks_the_end_of_what_was_there() {
    let server = server().await;
    create(&server, "a", "red").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::open(&server, query, "").await;
    events.expect("ADDED", "a").await;
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_table_watch_sends_rows() {
    let server = server().await;
    create(&server, "a", "red").await;
    let mut events = Events::open(&server, "", "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["object"]["kind"], &event["object"]["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("a"))
    );
}

#[tokio::test]
async fn forgotten_history_ends_the_watch_with_an_error() {
    let store = std::sync::Arc::new(cirro_store::MemoryObjectStore::new());
    let server = ApiServer::open(store.clone(), cirro_apiserver::Options::default()).await.unwrap();
    create(&server, "a", "red").await;
    store.compact(store.revision()).await.unwrap();
    let mut events = Events::open(&server, "resourceVersion=1", "").await;
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn the_time_that_the_client_names_ends_the_watch() {
    let server = server().await;
    let mut events = Events::open(&server, "timeoutSeconds=1&resourceVersion=1", "").await;
    create(&server, "a", "red").await;
    events.expect("ADDED", "a").await;
    assert!(events.next().await.is_none());
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watchers_that_never_read_take_bounded_memory() {
    const WATCHERS: usize = 10_000;
    const WRITES: usize = 100;
    const VALUE: usize = 100_000;
    let server = server().await;
    let before = resident();
    let mut watches = Vec::with_capacity(WATCHERS);
    for _ in 0..WATCHERS {
        watches.push(Events::open(&server, "resourceVersion=", "").await);
    }
    let idle = resident().saturating_sub(before);
    // A copy for each would be 100 GB, even one line for each 1 GB.
    for number in 0..WRITES {
        let object =
            json!({"metadata": {"name": format!("m-{number}")}, "data": {"value": "x".repeat(VALUE)}});
        assert_eq!(send(&server, "POST", PATH, &object).await.code, 201);
    }
    // All of it reaches who does read.
    let mut last = watches.pop().unwrap();
    for number in 0..WRITES {
        last.expect("ADDED", &format!("m-{number}")).await;
    }
    let taken = resident().saturating_sub(before);
    eprintln!("{WATCHERS} watchers: {} kB idle, {} kB after {WRITES} writes", idle / 1000, taken / 1000);
    assert!(idle < WATCHERS * 40_000, "an idle watcher takes {} bytes", idle / WATCHERS);
    assert!(taken < idle + 300_000_000, "{} bytes are held for those who do not read", taken - idle);
}
