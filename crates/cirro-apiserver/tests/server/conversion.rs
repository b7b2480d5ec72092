//! Custom objects in several versions that a webhook converts, and watches of definitions that change.

use std::time::Duration;

use axum::body::Body;
use cirro_apiserver::ApiServer;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::custom::DEFINITIONS;
use crate::fixture::{Answer, admin, read, request, send, server};
use crate::outside::Hook;

const OLD: &str = "/apis/x.example/v1/namespaces/default/hosts";
const NEW: &str = "/apis/x.example/v2/namespaces/default/hosts";

/// Version 1 has `spec.hostPort`, version 2 `spec.host` and `spec.port`.
fn converted(request: &Value) -> Value {
    let wanted = &request["desiredAPIVersion"];
    let convert = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = wanted.clone();
        object["metadata"]["labels"] = json!({"made-by": "hook"});
        object["metadata"]["generation"] = 99.into();
        let spec = &object["spec"];
        object["spec"] = if wanted == "x.example/v2" {
            let (host, port) = spec["hostPort"].as_str().unwrap().split_once(':').unwrap();
            json!({"host": host, "port": port})
        } else {
            let (host, port) = (spec["host"].as_str().unwrap(), spec["port"].as_str().unwrap());
            json!({"hostPort": format!("{host}:{port}")})
        };
        object
    };
    let objects = request["objects"].as_array().unwrap();
    if objects.iter().any(|one| one["metadata"]["name"] == "poison") {
        return json!({"result": {"status": "Failure", "message": "it is poison"}});
    }
    let objects: Vec<_> = objects.iter().map(convert).collect();
    json!({"result": {"status": "Success"}, "convertedObjects": objects})
}

fn definition(hook: &Hook, storage: &str) -> Value {
    let texts = |names: &[&str]| {
        let members: serde_json::Map<_, _> =
            names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
        json!({"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": names, "properties": members}}}})
    };
    let version = |name: &str, schema: Value| json!({"name": name, "served": true, "storage": name == storage, "schema": schema});
    let mut new = version("v2", texts(&["host", "port"]));
    new["selectableFields"] = json!([{"jsonPath": ".spec.host"}]);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "hosts.x.example"}, "spec": {"group": "x.example", "scope": "Namespaced",
        "names": {"plural": "hosts", "kind": "Host"}, "versions": [version("v1", texts(&["hostPort"])), new],
        "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", hook.port), "caBundle": hook.bundle}}}}})
}

async fn start() -> (ApiServer, Hook) {
    let server = server().await;
    let hook = Hook::start_reviewing("ConversionReview", "apiextensions.k8s.io/v1", converted).await;
    let made = send(&server, "POST", DEFINITIONS, &definition(&hook, "v1")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    (server, hook)
}

fn old(name: &str) -> Value {
    json!({"apiVersion": "x.example/v1", "kind": "Host", "metadata": {"name": name}, "spec": {"hostPort": "a:80"}})
}

async fn get(server: &ApiServer, path: &str) -> Value {
    send(server, "GET", path, &Value::Null).await.body
}

async fn patch(server: &ApiServer, path: &str, kind: &str, body: &Value) -> Answer {
    let asked = request("PATCH", path, &format!("application/{kind}"), body.to_string());
    read(server.respond(&admin(), asked).await).await
}

#[tokio::test]
async fn objects_are_read_and_written_in_every_version() {
    let (server, hook) = start().await;
    send(&server, "POST", OLD, &old("one")).await;
    assert!(hook.asked.lock().unwrap().is_empty(), "nothing was to be converted");
    let found = get(&server, &format!("{NEW}/one")).await;
    assert_eq!(found["apiVersion"], "x.example/v2");
    assert_eq!(found["spec"], json!({"host": "a", "port": "80"}));
    // Labels may change; the rest of the metadata may not.
    assert_eq!(found["metadata"]["labels"], json!({"made-by": "hook"}));
    assert_eq!(found["metadata"]["generation"], 1);
    // Written in the version that is not stored: stored converted.
    let two = json!({"apiVersion": "x.example/v2", "kind": "Host", "metadata": {"name": "two"}, "spec": {"host": "b", "port": "81"}});
    let made = send(&server, "POST", NEW, &two).await;
    assert_eq!((made.code, &made.body["spec"]["host"]), (201, &json!("b")), "{}", made.body);
    assert_eq!(get(&server, &format!("{OLD}/two")).await["spec"]["hostPort"], "b:81");
    let wrong = json!({"apiVersion": "x.example/v2", "kind": "Host", "metadata": {"name": "x"}, "spec": {"hostPort": "a:80"}});
    assert_eq!(send(&server, "POST", NEW, &wrong).await.code, 422);
    // Patches and updates see the version they speak.
    let patched =
        patch(&server, &format!("{NEW}/one"), "merge-patch+json", &json!({"spec": {"port": "90"}})).await;
    assert_eq!(patched.body["spec"], json!({"host": "a", "port": "90"}), "{}", patched.body);
    assert_eq!(patched.body["metadata"]["generation"], 2);
    let mut changed = get(&server, &format!("{NEW}/two")).await;
    changed["spec"]["host"] = "c".into();
    assert_eq!(send(&server, "PUT", &format!("{NEW}/two"), &changed).await.code, 200);
    assert_eq!(get(&server, &format!("{OLD}/two")).await["spec"]["hostPort"], "c:81");
    let config = json!({"apiVersion": "x.example/v2", "kind": "Host", "metadata": {"name": "three"}, "spec": {"host": "d", "port": "1"}});
    for code in [201, 200] {
        let applied =
            patch(&server, &format!("{NEW}/three?fieldManager=me"), "apply-patch+yaml", &config).await;
        assert_eq!(applied.code, code, "{}", applied.body);
    }
    // A list is one question.
    hook.asked.lock().unwrap().clear();
    let list = get(&server, NEW).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert!(list["items"].as_array().unwrap().iter().all(|one| one["apiVersion"] == "x.example/v2"));
    let selected = get(&server, &format!("{NEW}?fieldSelector=spec.host%3Dc")).await;
    assert_eq!(selected["items"][0]["metadata"]["name"], "two");
    assert_eq!(
        hook.asked
            .lock()
            .unwrap()
            .iter()
            .map(|one| one["objects"].as_array().unwrap().len())
            .collect::<Vec<_>>(),
        [3, 3]
    );
    assert_eq!(send(&server, "DELETE", &format!("{NEW}/two"), &Value::Null).await.code, 200);
}

#[tokio::test]
async fn the_stored_version_may_change() {
    let (server, hook) = start().await;
    send(&server, "POST", OLD, &old("one")).await;
    let path = format!("{DEFINITIONS}/hosts.x.example");
    let mut next = definition(&hook, "v2");
    next["metadata"] = get(&server, &path).await["metadata"].clone();
    let changed = send(&server, "PUT", &path, &next).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(get(&server, &format!("{OLD}/one")).await["spec"]["hostPort"], "a:80");
    assert_eq!(get(&server, &format!("{NEW}/one")).await["spec"]["host"], "a");
    let moved =
        patch(&server, &format!("{OLD}/one"), "merge-patch+json", &json!({"spec": {"hostPort": "z:2"}}))
            .await;
    assert_eq!(moved.body["spec"]["hostPort"], "z:2", "{}", moved.body);
    hook.asked.lock().unwrap().clear();
    assert_eq!(get(&server, &format!("{NEW}/one")).await["spec"], json!({"host": "z", "port": "2"}));
    assert!(hook.asked.lock().unwrap().is_empty(), "the new version is the stored one");
}

#[tokio::test]
async fn failures_are_told_in_upstreams_words() {
    let (server, _hook) = start().await;
    send(&server, "POST", OLD, &old("poison")).await;
    let refused = send(&server, "GET", &format!("{NEW}/poison"), &Value::Null).await;
    assert_eq!(refused.code, 500);
    assert_eq!(
        refused.body["message"],
        "conversion webhook for x.example/v1, Kind=Host failed: it is poison"
    );
    assert_eq!(send(&server, "GET", &format!("{OLD}/poison"), &Value::Null).await.code, 200);
}

/// Reads the lines of a watch until it ends.
async fn lines(body: Body) -> Vec<Value> {
    let collected = tokio::time::timeout(Duration::from_secs(60), body.collect());
    let bytes = collected.await.expect("the watch ends").unwrap().to_bytes();
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[tokio::test]
async fn watches_are_converted_and_end_with_their_definition() {
    let (server, hook) = start().await;
    send(&server, "POST", OLD, &old("one")).await;
    let watch = |path: &str| request("GET", &format!("{path}?watch=1"), "application/json", "");
    let first = server.respond(&admin(), watch(NEW)).await.into_body();
    send(&server, "POST", OLD, &old("two")).await;
    // What concerns neither spec nor names leaves watches alone.
    let path = format!("{DEFINITIONS}/hosts.x.example");
    patch(&server, &path, "merge-patch+json", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    send(&server, "DELETE", &format!("{OLD}/two"), &Value::Null).await;
    let mut first = first.into_data_stream();
    let mut told = Vec::new();
    while told.len() < 3 {
        let line = tokio::time::timeout(Duration::from_secs(60), futures_util::StreamExt::next(&mut first));
        let line = line.await.unwrap().unwrap().unwrap();
        told.push(serde_json::from_slice::<Value>(&line).unwrap());
    }
    let types: Vec<_> = told.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ADDED", "ADDED", "DELETED"]);
    assert!(told.iter().all(|one| one["object"]["spec"]["host"] == "a"), "{told:?}");
    let mut next = definition(&hook, "v1");
    next["spec"]["names"]["shortNames"] = json!(["ho"]);
    next["metadata"] = get(&server, &path).await["metadata"].clone();
    assert_eq!(send(&server, "PUT", &path, &next).await.code, 200);
    let rest = tokio::time::timeout(Duration::from_secs(60), futures_util::StreamExt::next(&mut first));
    assert!(rest.await.expect("the watch ends").is_none());
    // So does the deletion of the definition, after the objects.
    let second = server.respond(&admin(), watch(OLD)).await.into_body();
    send(&server, "DELETE", &path, &Value::Null).await;
    let told = lines(second).await;
    let types: Vec<_> = told.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ADDED", "DELETED"]);
}
