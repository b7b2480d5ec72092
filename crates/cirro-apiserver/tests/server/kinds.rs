//! Every built-in kind that has no test of its own: created, listed as a Table, found in discovery, deleted.

use serde_json::{Value, json};

use crate::fixture::{admin, read, request, send, server, server_without_protection};

/// Returns path and smallest good object of each kind.
pub(crate) fn objects() -> Vec<(&'static str, Value)> {
    let pods =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let once = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let selector = json!({"matchLabels": {"a": "b"}});
    let workload = json!({"spec": {"selector": selector, "template": pods, "serviceName": "s"}});
    let daemon = json!({"spec": {"selector": selector, "template": pods}});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let rules =
        json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    let hooks = json!([{"name": "a.b.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://x.example/"}, "rules": rules}]);
    vec![
        ("/api/v1/namespaces/default/replicationcontrollers", json!({"spec": {"template": pods}})),
        ("/api/v1/namespaces/default/podtemplates", json!({"template": pods})),
        (
            "/api/v1/persistentvolumes",
            json!({"spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}),
        ),
        ("/api/v1/namespaces/default/persistentvolumeclaims", json!({"spec": claim})),
        ("/apis/apps/v1/namespaces/default/statefulsets", workload),
        ("/apis/apps/v1/namespaces/default/daemonsets", daemon),
        ("/apis/apps/v1/namespaces/default/controllerrevisions", json!({"revision": 1, "data": {"a": 1}})),
        ("/apis/batch/v1/namespaces/default/jobs", json!({"spec": {"template": once}})),
        (
            "/apis/batch/v1/namespaces/default/cronjobs",
            json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": once}}}}),
        ),
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}),
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"spec": {"minAvailable": 1, "selector": selector}}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}}),
        ),
        ("/apis/networking.k8s.io/v1/ingressclasses", json!({"spec": {"controller": "a.example/b"}})),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            json!({"spec": {"podSelector": {}}}),
        ),
        (
            "/apis/networking.k8s.io/v1/ipaddresses",
            json!({"metadata": {"name": "10.0.0.9"},
            "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "x"}}}),
        ),
        ("/apis/networking.k8s.io/v1/servicecidrs", json!({"spec": {"cidrs": ["10.9.0.0/16"]}})),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "fast"})),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"value": 7})),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({"provisioner": "a.example/b"})),
        ("/apis/storage.k8s.io/v1/csidrivers", json!({"spec": {}})),
        ("/apis/storage.k8s.io/v1/csinodes", json!({"spec": {"drivers": [{"name": "d", "nodeID": "n"}]}})),
        ("/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities", json!({"storageClassName": "a"})),
        (
            "/apis/storage.k8s.io/v1/volumeattachments",
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}}),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
        ),
        (
            "/apis/apiregistration.k8s.io/v1/apiservices",
            json!({"metadata": {"name": "v1.g.example"},
            "spec": {"group": "g.example", "version": "v1", "groupPriorityMinimum": 10, "versionPriority": 10,
                "service": {"namespace": "n", "name": "s"}}}),
        ),
        ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", json!({"webhooks": hooks})),
        ("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", json!({"webhooks": hooks})),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            json!({"spec": {
            "matchConstraints": {"resourceRules": rules}, "validations": [{"expression": "true"}]}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        ),
    ]
}

#[tokio::test]
async fn every_kind_is_created_shown_and_deleted() {
    let server = server_without_protection().await;
    for (path, mut object) in objects() {
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = "x".into();
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let created = send(&server, "POST", &format!("{path}?fieldValidation=Strict"), &object).await;
        assert_eq!(created.code, 201, "{path}: {}", created.body);
        let one = format!("{path}/{name}");
        let again = send(&server, "PUT", &one, &created.body).await;
        assert_eq!(again.code, 200, "{path}: {}", again.body);
        let version = |body: &Value| body["metadata"]["resourceVersion"].clone();
        assert_eq!(version(&again.body), version(&created.body), "{path} changes by being written back");
        let mut asking = request("GET", path, "", axum::body::Body::empty());
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap();
        asking.headers_mut().insert("accept", table);
        let table = read(server.respond(&admin(), asking).await).await.body;
        let (columns, rows) = (table["columnDefinitions"].as_array(), table["rows"].as_array().unwrap());
        assert!(columns.unwrap().len() > 1, "{path}");
        assert!(
            rows.iter().any(|row| row["cells"][0].as_str().unwrap().starts_with(&name)),
            "{path}: {table}"
        );
        assert_eq!(send(&server, "DELETE", &one, &Value::Null).await.code, 200, "{path}");
        assert_eq!(send(&server, "GET", &one, &Value::Null).await.code, 404, "{path}");
    }
}

#[tokio::test]
async fn an_autoscaler_is_the_same_in_both_versions() {
    let server = server().await;
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let object = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    let created = send(&server, "POST", old, &object).await;
    assert_eq!((created.code, &created.body["apiVersion"]), (201, &json!("autoscaling/v1")));
    let new = send(&server, "GET", &format!("{}/h", old.replace("v1", "v2")), &Value::Null).await.body;
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let back = send(&server, "GET", &format!("{old}/h"), &Value::Null).await.body;
    assert_eq!(back["spec"]["targetCPUUtilizationPercentage"], 50);
    assert_eq!(back["metadata"].get("annotations"), None);
}

#[tokio::test]
async fn a_generated_jobs_labels_carry_its_name() {
    let server = server().await;
    let path = "/apis/batch/v1/namespaces/default/jobs";
    let object = json!({"metadata": {"generateName": "j-"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let job = send(&server, "POST", path, &object).await.body;
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["job-name"], job["metadata"]["name"]);
    let invalid = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {
        "restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}}}});
    let refused = send(&server, "POST", path, &invalid).await;
    assert_eq!(
        refused.body["message"],
        "Job.batch \"j\" is invalid: spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
    );
}

#[tokio::test]
async fn a_controllers_scale_selects_by_its_plain_map() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    let (_, mut object) = objects().remove(0);
    object["metadata"]["name"] = "rc".into();
    send(&server, "POST", path, &object).await;
    let scale = send(&server, "GET", &format!("{path}/rc/scale"), &Value::Null).await.body;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("a=b")));
}
