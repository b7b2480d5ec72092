//! The client that the server's own components use.

use std::sync::Arc;

use cirro_apiserver::{ApiServer, Options};
use cirro_seams::api::{Api, DeleteOptions, ObjectEvent, ObjectKey, Resource};
use cirro_store::MemoryObjectStore;
use serde_json::{Value, json};

async fn client() -> Arc<dyn Api> {
    let server = ApiServer::open(Arc::new(MemoryObjectStore::new()), Options::default()).await.unwrap();
    server.client()
}

fn key(group: &str, plural: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { resource: Resource::new(group, plural), namespace: namespace.into(), name: name.into() }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "web", "image": "helloworld"}]}})
}

fn pods() -> Resource {
    Resource::new("", "pods")
}

#[tokio::test]
async fn a_new_cluster_has_its_namespaces_and_its_service() {
    let api = client().await;
    let namespaces = api.list(&Resource::new("", "namespaces"), None).await.unwrap();
    assert_eq!(namespaces.items.len(), 4);
    let service = api.get(&key("", "services", "default", "kubernetes")).await.unwrap();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    assert!(service["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().is_ok());
}

#[tokio::test]
async fn the_way_to_the_api_follows_the_configuration() {
    let store = Arc::new(MemoryObjectStore::new());
    for address in ["10.42.0.1:6443", "10.42.0.1:6443", "10.43.0.1:7443"] {
        let options = Options { advertise: Some(address.parse().unwrap()), ..Options::default() };
        let api = ApiServer::open(store.clone(), options).await.unwrap().client();
        let endpoints = api.get(&key("", "endpoints", "default", "kubernetes")).await.unwrap();
        let slice =
            api.get(&key("discovery.k8s.io", "endpointslices", "default", "kubernetes")).await.unwrap();
        let (ip, port) = address.split_once(':').unwrap();
        assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], ip);
        assert_eq!(endpoints["subsets"][0]["ports"][0]["port"].to_string(), port);
        assert_eq!(slice["endpoints"][0]["addresses"][0], ip);
    }
}

#[tokio::test]
async fn an_update_at_an_old_revision_is_a_conflict() {
    let api = client().await;
    let first = api.create(&pods(), pod("a")).await.unwrap();
    assert_eq!(first["status"]["phase"], "Pending");
    let mut next = (*first).clone();
    next["metadata"]["labels"] = json!({"x": "y"});
    let second = api.update(&pods(), next.clone()).await.unwrap();
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    next["metadata"]["labels"] = json!({"x": "z"});
    assert!(api.update(&pods(), next).await.unwrap_err().is_conflict());
    assert!(api.create(&pods(), pod("a")).await.unwrap_err().is_already_exists());
}

#[tokio::test]
async fn status_and_object_are_written_apart() {
    let api = client().await;
    let created = api.create(&pods(), pod("a")).await.unwrap();
    let mut changed = (*created).clone();
    changed["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"});
    let after = api.update(&pods(), changed.clone()).await.unwrap();
    assert_eq!(after["status"]["phase"], "Pending");
    changed["metadata"]["resourceVersion"] = after["metadata"]["resourceVersion"].clone();
    changed["spec"]["containers"][0]["image"] = "other".into();
    let after = api.update_status(&pods(), changed).await.unwrap();
    assert_eq!(after["status"]["podIP"], "10.0.0.1");
    assert_eq!(after["spec"]["containers"][0]["image"], "helloworld");
    let place = key("", "pods", "default", "a");
    let after = api.merge_patch(&place, true, json!({"status": {"phase": "Failed"}})).await.unwrap();
    assert_eq!(
        (&after["status"]["phase"], &after["status"]["podIP"]),
        (&json!("Failed"), &json!("10.0.0.1"))
    );
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = client().await;
    let created = api.create(&pods(), pod("a")).await.unwrap();
    let uid = created["metadata"]["uid"].as_str().unwrap();
    assert!(api.bind("default", "a", "another", "n1").await.unwrap_err().is_conflict());
    api.bind("default", "a", uid, "n1").await.unwrap();
    assert!(api.bind("default", "a", uid, "n2").await.unwrap_err().is_conflict());
    let bound = api.get(&key("", "pods", "default", "a")).await.unwrap();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
}

#[tokio::test]
async fn a_bound_pod_goes_when_its_node_says_so() {
    let api = client().await;
    let created = api.create(&pods(), pod("a")).await.unwrap();
    let place = key("", "pods", "default", "a");
    api.bind("default", "a", created["metadata"]["uid"].as_str().unwrap(), "n1").await.unwrap();
    api.delete(&place, DeleteOptions::default()).await.unwrap();
    let going = api.get(&place).await.unwrap();
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    api.delete(&place, now).await.unwrap();
    assert!(api.get(&place).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_taken_out() {
    let api = client().await;
    let resource = Resource::new("network.cirro.dev", "vpcs");
    let vpc = json!({"metadata": {"name": "main", "namespace": "default", "finalizers": ["cirro.dev/net"]},
        "spec": {"cidr": "10.0.0.0/16"}});
    api.create(&resource, vpc).await.unwrap();
    let place = key("network.cirro.dev", "vpcs", "default", "main");
    api.delete(&place, DeleteOptions::default()).await.unwrap();
    assert!(api.get(&place).await.is_ok());
    api.merge_patch(&place, false, json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert!(api.get(&place).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_watch_begins_after_its_revision_and_keeps_the_order() {
    let api = client().await;
    api.create(&pods(), pod("before")).await.unwrap();
    let revision = api.list(&pods(), None).await.unwrap().revision;
    let mut events = api.watch(&pods(), revision).await.unwrap();
    api.create(&pods(), pod("a")).await.unwrap();
    api.delete(&key("", "pods", "default", "a"), DeleteOptions::default()).await.unwrap();
    let Some(ObjectEvent::Applied(one)) = events.recv().await else { panic!("want an event") };
    assert_eq!(&*one.head().name, "a");
    let Some(ObjectEvent::Deleted(gone)) = events.recv().await else { panic!("want a deletion") };
    let number =
        |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&gone.decode()) > number(&one.decode()));
    assert_eq!(gone.head().revision, number(&gone.decode()));
    assert_eq!(one.text("/spec/restartPolicy"), "Always");
    assert_eq!(one.text("/spec/none"), "");
}

#[tokio::test]
async fn a_watch_of_forgotten_history_expires() {
    let store = Arc::new(MemoryObjectStore::new());
    let server = ApiServer::open(store.clone(), Options::default()).await.unwrap();
    let api = server.client();
    cirro_store::ObjectStore::compact(&*store, 5).await.unwrap();
    let mut events = api.watch(&pods(), 1).await.unwrap();
    assert!(matches!(events.recv().await, Some(ObjectEvent::Expired)));
}

#[tokio::test]
async fn a_namespace_ends_when_its_content_is_gone() {
    let api = client().await;
    let namespaces = Resource::new("", "namespaces");
    api.create(&namespaces, json!({"metadata": {"name": "x"}})).await.unwrap();
    let place = key("", "namespaces", "", "x");
    api.delete(&place, DeleteOptions::default()).await.unwrap();
    let going = api.get(&place).await.unwrap();
    assert_eq!(going["status"]["phase"], "Terminating");
    let config = json!({"metadata": {"name": "c", "namespace": "x"}});
    let refusal = api.create(&Resource::new("", "configmaps"), config).await.unwrap_err();
    assert_eq!(refusal.code, 403);
    let mut last = (*going).clone();
    last["spec"]["finalizers"] = json!([]);
    api.update(&namespaces, last).await.unwrap();
    assert!(api.get(&place).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn faults_are_told_with_upstreams_words() {
    let api = client().await;
    let deployments = Resource::new("apps", "deployments");
    let object = json!({"metadata": {"name": "x", "namespace": "default"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let refusal = api.create(&deployments, object.clone()).await.unwrap_err();
    assert_eq!(
        refusal.message,
        "Deployment.apps \"x\" is invalid: spec.template.metadata.labels: Invalid value: \
         map[string]string{\"a\":\"c\"}: `selector` does not match template `labels`"
    );
    let mut elsewhere = pod("a");
    elsewhere["metadata"]["namespace"] = "nowhere".into();
    let refusal = api.create(&pods(), elsewhere).await.unwrap_err();
    assert_eq!((refusal.code, refusal.message.as_str()), (404, "namespaces \"nowhere\" not found"));
}

#[tokio::test]
async fn addresses_are_freed_with_their_service() {
    let store = Arc::new(MemoryObjectStore::new());
    let options = Options { service_cidr: "10.96.0.0/29".parse().unwrap(), ..Options::default() };
    let api = ApiServer::open(store, options).await.unwrap().client();
    let services = Resource::new("", "services");
    let service = |index: usize| json!({"metadata": {"name": format!("s{index}"), "namespace": "default"}, "spec": {"ports": [{"port": 80}]}});
    for index in 0..5 {
        api.create(&services, service(index)).await.unwrap();
    }
    let refusal = api.create(&services, service(5)).await.unwrap_err();
    assert!(refusal.message.contains("range is full"), "{refusal}");
    api.delete(&key("", "services", "default", "s0"), DeleteOptions::default()).await.unwrap();
    api.create(&services, service(5)).await.unwrap();
}

#[tokio::test]
async fn generated_names_and_generations_count() {
    let api = client().await;
    let resource = Resource::new("network.cirro.dev", "securitygroups");
    let group =
        json!({"metadata": {"generateName": "web-", "namespace": "default"}, "spec": {"vpc": "main"}});
    let one = api.create(&resource, group).await.unwrap();
    let name = one["metadata"]["name"].as_str().unwrap();
    assert_eq!((name.len(), &name[..4], &one["metadata"]["generation"]), (9, "web-", &json!(1)));
    let place = key("network.cirro.dev", "securitygroups", "default", name);
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let same = api.merge_patch(&place, false, labels).await.unwrap();
    assert_eq!(same["metadata"]["generation"], 1);
    let rule = json!({"spec": {"ingress": [{"protocol": "tcp", "ports": 80}]}});
    let changed = api.merge_patch(&place, false, rule).await.unwrap();
    assert_eq!(changed["metadata"]["generation"], 2);
    let nonsense = json!({"spec": {"ingress": [{"protocol": "tcp", "ports": "9-2"}]}});
    assert_eq!(api.merge_patch(&place, false, nonsense).await.unwrap_err().code, 422);
}
