//! CustomResourceDefinitions and their objects over HTTP.

use cirro_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::fixture::{Answer, admin, read, request, send, server};

pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

/// A definition with most of what one can say.
pub(crate) fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
            "cronSpec": {"type": "string", "pattern": "^(\\S+ ){4}\\S+$", "description": "When it runs."},
            "image": {"type": "string", "default": "busybox"},
            "replicas": {"type": "integer", "minimum": 0, "maximum": 10, "default": 1},
            "port": {"x-kubernetes-int-or-string": true},
            "note": {"type": "string", "nullable": true},
            "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "steps": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "run": {"type": "string"}}}}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"},
            "selector": {"type": "string"}, "phase": {"type": "string", "enum": ["Waiting", "Running"]}}}}});
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"}, "spec": {"group": "stable.example.com", "scope": "Namespaced",
        "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.image"}],
                "additionalPrinterColumns": [column("Spec", "string", ".spec.cronSpec"),
                    column("Replicas", "integer", ".spec.replicas"), column("Age", "date", ".metadata.creationTimestamp")]},
            {"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

async fn define(server: &ApiServer) {
    let made = send(server, "POST", DEFINITIONS, &definition()).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

async fn patch(server: &ApiServer, path: &str, kind: &str, body: &Value) -> Answer {
    let asked = request("PATCH", path, &format!("application/{kind}"), body.to_string());
    read(server.respond(&admin(), asked).await).await
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_definition_is_served_at_once() {
    let server = server().await;
    define(&server).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let found = send(&server, "GET", &path, &Value::Null).await.body;
    let holds = |name: &str| {
        let conditions = found["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|one| one["type"] == name && one["status"] == "True")
    };
    assert!(holds("NamesAccepted") && holds("Established"), "{found}");
    assert_eq!(found["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(found["status"]["acceptedNames"]["listKind"], "CronTabList");
    let made = send(&server, "POST", TABS, &tab("one", json!({"cronSpec": "* * * * *"}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["spec"]["image"], "busybox");
    assert_eq!(made.body["metadata"]["generation"], 1);
    let list = send(&server, "GET", TABS, &Value::Null).await.body;
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("CronTabList"), 1));
    let selected =
        send(&server, "GET", &format!("{TABS}?fieldSelector=spec.image%3Dother"), &Value::Null).await.body;
    assert!(selected["items"].as_array().unwrap().is_empty());
    let resources = send(&server, "GET", "/apis/stable.example.com/v1", &Value::Null).await.body;
    let names: Vec<_> =
        resources["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));
    let group = send(&server, "GET", "/apis/stable.example.com", &Value::Null).await.body;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let document = send(&server, "GET", "/openapi/v3/apis/stable.example.com/v1", &Value::Null).await.body;
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["cronSpec"]["description"], "When it runs.");
    let old = send(&server, "GET", "/openapi/v2", &Value::Null).await.body;
    assert!(old["definitions"]["com.example.stable.v1.CronTab"].is_object());
}

#[tokio::test]
async fn objects_are_pruned_and_checked_by_their_schema() {
    let server = server().await;
    define(&server).await;
    for (spec, wanted) in [
        (json!({}), "spec.cronSpec: Required value"),
        (json!({"cronSpec": "* *"}), "spec.cronSpec in body should match"),
        (
            json!({"cronSpec": "* * * * *", "replicas": 11}),
            "spec.replicas in body should be less than or equal to 10",
        ),
        (json!({"cronSpec": 5}), "spec.cronSpec in body must be of type string: \"integer\""),
        (json!({"cronSpec": "* * * * *", "steps": [{"name": "a"}, {"name": "a"}]}), "Duplicate value"),
    ] {
        let refused = send(&server, "POST", TABS, &tab("bad", spec)).await;
        assert_eq!(refused.code, 422, "{}", refused.body);
        assert!(message(&refused).contains(wanted), "{wanted}: {}", message(&refused));
    }
    let spec = json!({"cronSpec": "* * * * *", "typo": 1, "note": null, "extra": {"a": {"b": null}}});
    let refused =
        send(&server, "POST", &format!("{TABS}?fieldValidation=Strict"), &tab("x", spec.clone())).await;
    assert_eq!(refused.code, 400);
    assert!(message(&refused).contains("unknown field \"spec.typo\""), "{}", message(&refused));
    let made = send(&server, "POST", TABS, &tab("x", spec)).await;
    assert!(made.warnings[0].contains("spec.typo"), "{:?}", made.warnings);
    assert_eq!(made.body["spec"].get("typo"), None);
    assert_eq!(made.body["spec"]["extra"], json!({"a": {"b": null}}));
    assert_eq!(made.body["spec"].get("note"), Some(&Value::Null));
}

#[tokio::test]
async fn status_and_scale_are_written_apart() {
    let server = server().await;
    define(&server).await;
    send(&server, "POST", TABS, &tab("x", json!({"cronSpec": "* * * * *"}))).await;
    let path = format!("{TABS}/x");
    let status =
        json!({"spec": {"replicas": 9}, "status": {"replicas": 1, "selector": "a=b", "phase": "Running"}});
    let changed = patch(&server, &format!("{path}/status"), "merge-patch+json", &status).await;
    assert_eq!((changed.code, &changed.body["spec"]["replicas"]), (200, &json!(1)), "{}", changed.body);
    assert_eq!(changed.body["metadata"]["generation"], 1);
    let bad = json!({"status": {"phase": "Nowhere"}});
    let refused = patch(&server, &format!("{path}/status"), "merge-patch+json", &bad).await;
    assert!(
        refused.code == 422 && message(&refused).contains("status.phase: Unsupported value"),
        "{}",
        refused.body
    );
    let scaled =
        patch(&server, &format!("{path}/scale"), "merge-patch+json", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(scaled.body["spec"]["replicas"], 3);
    assert_eq!(scaled.body["status"], json!({"replicas": 1, "selector": "a=b"}));
    let found = send(&server, "GET", &path, &Value::Null).await.body;
    assert_eq!((&found["spec"]["replicas"], &found["metadata"]["generation"]), (&json!(3), &json!(2)));
    let refused =
        patch(&server, &path, "strategic-merge-patch+json", &json!({"spec": {"replicas": 2}})).await;
    assert_eq!(refused.code, 415);
}

#[tokio::test]
async fn applies_merge_lists_by_the_keys_of_the_schema() {
    let server = server().await;
    define(&server).await;
    let config =
        |name: &str| tab("x", json!({"cronSpec": "* * * * *", "steps": [{"name": name, "run": "a"}]}));
    let path = |manager: &str| format!("{TABS}/x?fieldManager={manager}");
    let made = patch(&server, &path("one"), "apply-patch+yaml", &config("first")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let both = patch(&server, &path("two"), "apply-patch+yaml", &config("second")).await;
    assert_eq!(both.body["spec"]["steps"].as_array().unwrap().len(), 2, "{}", both.body);
    let entries = both.body["metadata"]["managedFields"].as_array().unwrap();
    assert!(entries[0]["fieldsV1"]["f:spec"]["f:steps"]["k:{\"name\":\"first\"}"]["f:run"].is_object());
    let mut other = config("first");
    other["spec"]["steps"][0]["run"] = "b".into();
    let conflict = patch(&server, &path("two"), "apply-patch+yaml", &other).await;
    assert!(conflict.code == 409 && message(&conflict).contains(".spec.steps[name=\"first\"].run"));
}

#[tokio::test]
async fn every_version_is_the_same_object() {
    let server = server().await;
    define(&server).await;
    send(&server, "POST", TABS, &tab("x", json!({"cronSpec": "* * * * *"}))).await;
    let old = TABS.replace("/v1/", "/v1beta1/");
    let found = send(&server, "GET", &format!("{old}/x"), &Value::Null).await;
    assert_eq!(found.body["apiVersion"], "stable.example.com/v1beta1");
    assert!(
        found.warnings[0].contains("stable.example.com/v1beta1 CronTab is deprecated"),
        "{:?}",
        found.warnings
    );
    // The other version becomes the one that is stored; what is there stays readable in both.
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let mut changed = send(&server, "GET", &path, &Value::Null).await.body;
    changed["spec"]["versions"][0]["storage"] = false.into();
    changed["spec"]["versions"][1]["storage"] = true.into();
    let changed = send(&server, "PUT", &path, &changed).await;
    assert_eq!(changed.body["status"]["storedVersions"], json!(["v1", "v1beta1"]), "{}", changed.body);
    for (path, version) in [(TABS, "v1"), (old.as_str(), "v1beta1")] {
        let found = send(&server, "GET", &format!("{path}/x"), &Value::Null).await.body;
        assert_eq!(found["apiVersion"], format!("stable.example.com/{version}"));
        let list = send(&server, "GET", path, &Value::Null).await.body;
        assert_eq!(list["items"][0]["apiVersion"], format!("stable.example.com/{version}"));
    }
    // A version that is served no more is not there.
    let mut changed = changed.body;
    changed["spec"]["versions"][0]["served"] = false.into();
    changed["metadata"]["resourceVersion"] = Value::Null;
    let changed = send(&server, "PUT", &path, &changed).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(send(&server, "GET", TABS, &Value::Null).await.code, 404);
    assert_eq!(send(&server, "GET", &old, &Value::Null).await.code, 200);
}

#[tokio::test]
async fn metadata_is_checked_in_embedded_objects_too() {
    let server = server().await;
    let template = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}});
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"template": template}}}});
    let definition = json!({"metadata": {"name": "shells.x.example"}, "spec": {"group": "x.example", "scope": "Namespaced",
        "names": {"plural": "shells", "kind": "Shell"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    assert_eq!(send(&server, "POST", DEFINITIONS, &definition).await.code, 201);
    let shell = json!({"apiVersion": "x.example/v1", "kind": "Shell", "metadata": {"name": "s", "unknownMeta": 1},
        "spec": {"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "unknownSubMeta": 2}}}});
    let path = "/apis/x.example/v1/namespaces/default/shells";
    let refused = send(&server, "POST", &format!("{path}?fieldValidation=Strict"), &shell).await;
    assert_eq!(refused.code, 400, "{}", refused.body);
    assert!(message(&refused).contains("unknown field \"metadata.unknownMeta\""), "{}", message(&refused));
    assert!(
        message(&refused).contains("unknown field \"spec.template.metadata.unknownSubMeta\""),
        "{}",
        message(&refused)
    );
    let made = send(&server, "POST", path, &shell).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["spec"]["template"]["metadata"], json!({"name": "p"}));
}

#[tokio::test]
async fn members_are_owned_in_the_version_that_was_spoken() {
    let server = server().await;
    define(&server).await;
    let old = TABS.replace("/v1/", "/v1beta1/");
    let mut config = tab("x", json!({"cronSpec": "* * * * *"}));
    config["apiVersion"] = "stable.example.com/v1beta1".into();
    let applied = patch(&server, &format!("{old}/x?fieldManager=me"), "apply-patch+yaml", &config).await;
    assert_eq!(applied.code, 201, "{}", applied.body);
    let owner = |answer: &Answer| answer.body["metadata"]["managedFields"][0].clone();
    assert_eq!(owner(&applied)["apiVersion"], "stable.example.com/v1beta1");
    // The same manager in another version is the same manager.
    config["apiVersion"] = "stable.example.com/v1".into();
    let applied = patch(&server, &format!("{TABS}/x?fieldManager=me"), "apply-patch+yaml", &config).await;
    assert_eq!(owner(&applied)["apiVersion"], "stable.example.com/v1", "{}", applied.body);
    assert_eq!(applied.body["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn tables_have_the_columns_of_the_definition() {
    let server = server().await;
    define(&server).await;
    send(&server, "POST", TABS, &tab("x", json!({"cronSpec": "* * * * *"}))).await;
    let mut asked = request("GET", TABS, "application/json", String::new());
    asked.headers_mut().insert("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap());
    let table = read(server.respond(&admin(), asked).await).await.body;
    let names: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Spec", "Replicas", "Age"]);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [json!("x"), json!("* * * * *"), json!(1)]);
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_with_it() {
    let server = server().await;
    define(&server).await;
    let mut kept = tab("kept", json!({"cronSpec": "* * * * *"}));
    kept["metadata"]["finalizers"] = json!(["example.com/mine"]);
    send(&server, "POST", TABS, &kept).await;
    send(&server, "POST", TABS, &tab("x", json!({"cronSpec": "* * * * *"}))).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let ending = send(&server, "DELETE", &path, &Value::Null).await;
    assert_eq!(ending.body["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let refused = send(&server, "POST", TABS, &tab("late", json!({"cronSpec": "* * * * *"}))).await;
    assert_eq!(refused.code, 405, "{}", refused.body);
    wait_until(&server, &format!("{TABS}/x"), 404).await;
    assert_eq!(send(&server, "GET", &path, &Value::Null).await.code, 200);
    let freed = patch(
        &server,
        &format!("{TABS}/kept"),
        "merge-patch+json",
        &json!({"metadata": {"finalizers": null}}),
    )
    .await;
    assert_eq!(freed.code, 200, "{}", freed.body);
    wait_until(&server, &path, 404).await;
    wait_until(&server, "/apis/stable.example.com/v1", 404).await;
    // Made again, it begins empty.
    define(&server).await;
    let list = send(&server, "GET", TABS, &Value::Null).await.body;
    assert_eq!(list["items"], json!([]));
}

async fn wait_until(server: &ApiServer, path: &str, code: u16) {
    let reached = async {
        while send(server, "GET", path, &Value::Null).await.code != code {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), reached).await.expect(path);
}

#[tokio::test]
async fn names_are_taken_once() {
    let server = server().await;
    define(&server).await;
    let mut second = definition();
    second["metadata"]["name"] = "crons.stable.example.com".into();
    second["spec"]["names"] = json!({"plural": "crons", "singular": "cron", "kind": "CronTab"});
    assert_eq!(send(&server, "POST", DEFINITIONS, &second).await.code, 201);
    let found =
        send(&server, "GET", &format!("{DEFINITIONS}/crons.stable.example.com"), &Value::Null).await.body;
    assert_eq!(found["status"]["conditions"][0]["reason"], "KindConflict", "{found}");
    assert_eq!(send(&server, "GET", "/apis/stable.example.com/v1/crons", &Value::Null).await.code, 404);
    let again = send(&server, "POST", DEFINITIONS, &definition()).await;
    assert_eq!(again.code, 409);
    // Its name becomes free, and it is served.
    send(&server, "DELETE", &format!("{DEFINITIONS}/crontabs.stable.example.com"), &Value::Null).await;
    wait_until(&server, "/apis/stable.example.com/v1/crons", 200).await;
}

#[tokio::test]
async fn definitions_that_are_no_good_are_refused() {
    let server = server().await;
    let mut bad = definition();
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["replicas"]
        ["default"] = 11.into();
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["extra"] = json!({});
    let refused = send(&server, "POST", DEFINITIONS, &bad).await;
    assert_eq!(refused.code, 422);
    assert!(message(&refused).contains("properties[replicas].default"), "{}", message(&refused));
    assert!(message(&refused).contains("properties[extra].type: Required value"), "{}", message(&refused));
}

#[tokio::test]
async fn definitions_are_served_again_after_a_restart() {
    let store = std::sync::Arc::new(cirro_store::MemoryObjectStore::new());
    let open = || cirro_apiserver::ApiServer::open(store.clone(), Default::default());
    let first = open().await.unwrap();
    define(&first).await;
    let second = open().await.unwrap();
    assert_eq!(send(&second, "GET", TABS, &Value::Null).await.code, 200);
}
