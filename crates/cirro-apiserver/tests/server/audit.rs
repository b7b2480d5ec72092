//! The audit log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cirro_apiserver::{ApiServer, AuditOptions, Options, User};
use cirro_store::MemoryObjectStore;
use serde_json::{Value, json};

use crate::fixture::{admin, read, request, send};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps]}]}
- {level: Metadata, verbs: [create, get, watch]}
"#;

async fn server(home: &Path) -> ApiServer {
    std::fs::write(home.join("policy.yaml"), POLICY).unwrap();
    let audit = AuditOptions {
        policy: home.join("policy.yaml"),
        log: home.join("audit.log"),
        max_size_bytes: 1 << 20,
        max_backups: 1,
        max_age_days: 0,
    };
    let options = Options { audit: Some(audit), ..Options::default() };
    ApiServer::open(Arc::new(MemoryObjectStore::new()), options).await.unwrap()
}

/// Waits until so many events are written.
async fn events(home: &Path, count: usize) -> Vec<Value> {
    let look = async {
        loop {
            let text = std::fs::read_to_string(home.join("audit.log")).unwrap_or_default();
            let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found: Vec<_> = whole.collect();
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("the events are written")
}

#[tokio::test]
async fn requests_are_told_as_the_policy_wants() {
    let home = tempfile::tempdir().unwrap();
    let server = server(home.path()).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    send(&server, "POST", "/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).await;
    send(&server, "POST", maps, &json!({"metadata": {"name": "m"}, "data": {"a": "b"}})).await;
    let nobody = User { name: "jane".into(), groups: vec![User::AUTHENTICATED.into()], ..User::default() };
    let mut asked = request("GET", "/api/v1/namespaces/default/pods/x?pretty=1", "application/json", "");
    asked.headers_mut().insert("user-agent", "kubectl/v1.33".parse().unwrap());
    assert_eq!(read(server.respond(&nobody, asked).await).await.code, 403);
    let mut acting = request(
        "POST",
        "/api/v1/namespaces",
        "application/json",
        json!({"metadata": {"name": "n"}}).to_string(),
    );
    acting.headers_mut().insert("impersonate-user", "boss".parse().unwrap());
    acting.headers_mut().insert("impersonate-group", "system:masters".parse().unwrap());
    assert_eq!(read(server.respond(&admin(), acting).await).await.code, 201);
    let watch = request("GET", "/api/v1/pods?watch=1", "application/json", "");
    drop(server.respond(&admin(), watch).await);
    let events = events(home.path(), 5).await;
    let [map, refused, acted, started, complete] = events.as_slice() else { panic!("{events:#?}") };

    assert_eq!((&map["kind"], &map["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!((&map["level"], &map["stage"]), (&json!("RequestResponse"), &json!("ResponseComplete")));
    assert_eq!(
        map["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"})
    );
    assert_eq!((&map["verb"], &map["requestURI"]), (&json!("create"), &json!(maps)));
    assert_eq!(map["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(map["responseObject"]["metadata"]["name"], "m");
    assert_eq!(map["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(
        (&map["user"]["username"], &map["responseStatus"]["code"]),
        (&json!("kubernetes-admin"), &json!(201))
    );
    assert_eq!(map["annotations"]["authorization.k8s.io/decision"], "allow");

    assert_eq!(
        (&refused["user"]["username"], &refused["userAgent"]),
        (&json!("jane"), &json!("kubectl/v1.33"))
    );
    assert_eq!(
        (&refused["responseStatus"]["code"], &refused["responseStatus"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(refused.get("responseObject"), None);

    assert_eq!(
        (&acted["user"]["username"], &acted["impersonatedUser"]["username"]),
        (&json!("kubernetes-admin"), &json!("boss"))
    );
    assert_eq!(
        (&started["stage"], &complete["stage"]),
        (&json!("ResponseStarted"), &json!("ResponseComplete"))
    );
    assert_eq!(started["auditID"], complete["auditID"]);
}

#[tokio::test]
async fn admission_notes_what_it_lets_through() {
    let home = tempfile::tempdir().unwrap();
    let server = server(home.path()).await;
    let path = "/apis/admissionregistration.k8s.io/v1";
    let made = send(&server, "POST", &format!("{path}/validatingadmissionpolicies"), &json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
        "validations": [{"expression": "true"}, {"expression": "object.metadata.name != 'p'", "message": "not p"}],
        "auditAnnotations": [{"key": "image", "valueExpression": "'first is ' + object.spec.containers[0].image"},
            {"key": "none", "valueExpression": "object.spec.containers.size() > 1 ? 'many' : null"}]}})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    send(
        &server,
        "POST",
        &format!("{path}/validatingadmissionpolicybindings"),
        &json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Audit"]}}),
    )
    .await;
    send(
        &server,
        "POST",
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/audit": "baseline"}}}),
    )
    .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "x"}]}});
    let made = send(&server, "POST", "/api/v1/namespaces/n/pods", &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let events = events(home.path(), 4).await;
    let annotations = &events[3]["annotations"];
    assert_eq!(
        annotations["pod-security.kubernetes.io/audit-violations"],
        "would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    assert_eq!(annotations["p/image"], "first is x");
    assert!(annotations.get("p/none").is_none(), "{annotations}");
    let failure = annotations["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap();
    let failure: Value = serde_json::from_str(failure).unwrap();
    assert_eq!(
        failure,
        json!([{"message": "not p", "policy": "p", "binding": "b", "expressionIndex": 1, "validationActions": ["Audit"]}])
    );
}
