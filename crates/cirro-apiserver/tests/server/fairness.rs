//! Priority and fairness: upstream's objects, and who is told what.

use cirro_apiserver::User;
use serde_json::{Value, json};

use crate::fixture::{admin, request, send, server};

const PATH: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[tokio::test]
async fn upstreams_objects_are_there_and_act() {
    let server = server().await;
    let schemas = send(&server, "GET", &format!("{PATH}/flowschemas"), &Value::Null).await.body;
    assert_eq!(schemas["items"].as_array().unwrap().len(), 13);
    let dangling = &schemas["items"][0]["status"]["conditions"][0];
    assert_eq!((&dangling["type"], &dangling["status"]), (&json!("Dangling"), &json!("False")), "{dangling}");
    let levels =
        send(&server, "GET", &format!("{PATH}/prioritylevelconfigurations"), &Value::Null).await.body;
    assert_eq!(levels["items"].as_array().unwrap().len(), 8);
    let uid = |list: &Value, name: &str| {
        let found =
            list["items"].as_array().unwrap().iter().find(|one| one["metadata"]["name"] == name).unwrap();
        found["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let jane = User { name: "jane".into(), groups: vec![User::AUTHENTICATED.into()], ..User::default() };
    for (user, schema, level) in
        [(admin(), "exempt", "exempt"), (jane.clone(), "global-default", "global-default")]
    {
        let answer = server.respond(&user, request("GET", "/api/v1/pods", "application/json", "")).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-kubernetes-pf-flowschema-uid"), uid(&schemas, schema));
        assert_eq!(header("x-kubernetes-pf-prioritylevel-uid"), uid(&levels, level));
    }
    // One that is made acts at once; one whose level has no seats to give refuses.
    let level = json!({"metadata": {"name": "closed"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let made = send(&server, "POST", &format!("{PATH}/prioritylevelconfigurations"), &level).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let schema = json!({"metadata": {"name": "jane"}, "spec": {"matchingPrecedence": 5,
        "priorityLevelConfiguration": {"name": "closed"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version"]}]}]}});
    let made = send(&server, "POST", &format!("{PATH}/flowschemas"), &schema).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let refused = server.respond(&jane, request("GET", "/version", "application/json", "")).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(
        refused.headers()["x-kubernetes-pf-flowschema-uid"].to_str().unwrap(),
        made.body["metadata"]["uid"].as_str().unwrap()
    );
    let other = server.respond(&jane, request("GET", "/apis", "application/json", "")).await;
    assert_eq!(other.status().as_u16(), 200);
}
