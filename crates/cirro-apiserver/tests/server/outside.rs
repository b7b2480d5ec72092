//! Admission by webhooks and policies.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use cirro_apiserver::ApiServer;
use cirro_apiserver::pki::Pki;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::fixture::{Answer, send, server};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A webhook that answers by a function and remembers what it was asked.
pub(crate) struct Hook {
    pub(crate) port: u16,
    pub(crate) bundle: String,
    pub(crate) asked: Arc<Mutex<Vec<Value>>>,
    _home: tempfile::TempDir,
}

impl Hook {
    /// Starts one whose responses `answer` makes of requests.
    pub(crate) async fn start(answer: fn(&Value) -> Value) -> Self {
        Self::start_reviewing("AdmissionReview", "admission.k8s.io/v1", answer).await
    }

    /// Starts one that answers reviews of another kind.
    pub(crate) async fn start_reviewing(
        kind: &'static str,
        version: &'static str,
        answer: fn(&Value) -> Value,
    ) -> Self {
        let home = tempfile::tempdir().unwrap();
        let pki = Pki::open(&home.path().join("pki")).unwrap();
        let tls = pki.server_tls(&[], &[Ipv4Addr::LOCALHOST.into()]).unwrap();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let seen = asked.clone();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(tls);
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: hyper::Request<Incoming>| {
                        let seen = seen.clone();
                        async move {
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let review: Value = serde_json::from_slice(&body).unwrap();
                            let mut response = answer(&review["request"]);
                            response["uid"] = review["request"]["uid"].clone();
                            seen.lock().unwrap().push(review["request"].clone());
                            let review = json!({"kind": kind, "apiVersion": version, "response": response});
                            Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(
                                bytes::Bytes::from(review.to_string()),
                            )))
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD
            .encode(std::fs::read(home.path().join("pki/ca.crt")).unwrap());
        Self { port, bundle, asked, _home: home }
    }

    pub(crate) fn config(&self, kind: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut hook = json!({"name": "hook.test.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/hook", self.port), "caBundle": self.bundle},
            "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
        change(&mut hook);
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "hook"}, "webhooks": [hook]})
    }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

pub(crate) fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

pub(crate) async fn put(server: &ApiServer, plural: &str, object: &Value) {
    let made = send(server, "POST", &format!("{ADMISSION}/{plural}"), object).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

#[tokio::test]
async fn a_mutating_webhook_changes_what_is_written() {
    let server = server().await;
    let hook = Hook::start(|_| {
        let patch =
            json!([{"op": "add", "path": "/metadata/labels", "value": {"hook": "was-here"}}]).to_string();
        json!({"allowed": true, "patchType": "JSONPatch", "warnings": ["so be it"],
            "patch": base64::engine::general_purpose::STANDARD.encode(patch)})
    })
    .await;
    let condition = json!([{"name": "not-this", "expression": "object.metadata.name != 'free'"}]);
    let config = hook.config("MutatingWebhookConfiguration", |hook| hook["matchConditions"] = condition);
    put(&server, "mutatingwebhookconfigurations", &config).await;
    let made = send(&server, "POST", MAPS, &map("x")).await;
    assert_eq!(made.body["metadata"]["labels"]["hook"], "was-here", "{}", made.body);
    assert!(made.warnings[0].contains("so be it"));
    let free = send(&server, "POST", MAPS, &map("free")).await;
    assert_eq!(free.body["metadata"].get("labels"), None);
    let asked = hook.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["userInfo"]["username"], "kubernetes-admin");
    assert_eq!((&asked[0]["operation"], &asked[0]["object"]["data"]["a"]), (&json!("CREATE"), &json!("b")));
    assert_eq!(asked[0]["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
}

#[tokio::test]
async fn a_validating_webhook_refuses() {
    let server = server().await;
    let hook = Hook::start(|request| match request["operation"].as_str().unwrap() {
        "DELETE" => json!({"allowed": request["oldObject"]["metadata"]["name"] != "kept", "status": {"message": "it stays"}}),
        _ => json!({"allowed": request["object"]["data"]["a"] != "bad", "status": {"message": "bad is bad", "code": 422}}),
    })
    .await;
    put(&server, "validatingwebhookconfigurations", &hook.config("ValidatingWebhookConfiguration", |_| {}))
        .await;
    let mut bad = map("x");
    bad["data"]["a"] = "bad".into();
    let refused = send(&server, "POST", MAPS, &bad).await;
    assert_eq!(refused.code, 422);
    assert_eq!(message(&refused), "admission webhook \"hook.test.example\" denied the request: bad is bad");
    assert_eq!(send(&server, "POST", MAPS, &map("kept")).await.code, 201);
    let mut changed = map("kept");
    changed["data"]["a"] = "bad".into();
    assert_eq!(send(&server, "PUT", &format!("{MAPS}/kept"), &changed).await.code, 422);
    let refused = send(&server, "DELETE", &format!("{MAPS}/kept"), &Value::Null).await;
    assert!(refused.code == 403 && message(&refused).contains("it stays"), "{}", refused.body);
    assert_eq!(send(&server, "POST", &format!("{MAPS}?dryRun=All"), &map("dry")).await.code, 201);
    assert_eq!(hook.asked.lock().unwrap().last().unwrap()["dryRun"], true);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_asked_refuses_unless_it_may_fail() {
    let server = server().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let nowhere = |policy: &'static str| {
        move |hook: &mut Value| {
            hook["failurePolicy"] = policy.into();
            hook["clientConfig"]["url"] = "https://127.0.0.1:1/".into();
        }
    };
    put(
        &server,
        "validatingwebhookconfigurations",
        &hook.config("ValidatingWebhookConfiguration", nowhere("Ignore")),
    )
    .await;
    assert_eq!(send(&server, "POST", MAPS, &map("x")).await.code, 201);
    let path = format!("{ADMISSION}/validatingwebhookconfigurations/hook");
    let strict = hook.config("ValidatingWebhookConfiguration", nowhere("Fail"));
    assert_eq!(send(&server, "PUT", &path, &strict).await.code, 200);
    let refused = send(&server, "POST", MAPS, &map("y")).await;
    assert_eq!(refused.code, 500);
    assert!(message(&refused).contains("failed calling webhook \"hook.test.example\": failed to call webhook: Post \"https://127.0.0.1:1/?timeout=10s\""), "{}", message(&refused));
    // The configuration itself can always be taken away.
    assert_eq!(send(&server, "DELETE", &path, &Value::Null).await.code, 200);
    assert_eq!(send(&server, "POST", MAPS, &map("y")).await.code, 201);
}

#[tokio::test]
async fn policies_are_evaluated_with_their_parameters() {
    let server = server().await;
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]});
    let policy = json!({"metadata": {"name": "replicas"}, "spec": {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": [rule]},
        "variables": [{"name": "most", "expression": "int(params.data.most)"}],
        "validations": [{"expression": "object.spec.replicas <= variables.most",
            "messageExpression": "'at most ' + string(variables.most) + ' in ' + namespaceObject.metadata.name"}]}});
    put(&server, "validatingadmissionpolicies", &policy).await;
    let binding = |action: &str| {
        json!({"metadata": {"name": "here"}, "spec": {"policyName": "replicas", "validationActions": [action],
        "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}}})
    };
    put(&server, "validatingadmissionpolicybindings", &binding("Deny")).await;
    let deployment = |replicas: i64| {
        json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let refused = send(&server, "POST", path, &deployment(1)).await;
    assert!(message(&refused).contains("no params found"), "{}", message(&refused));
    let limits = json!({"metadata": {"name": "limits"}, "data": {"most": "2"}});
    assert_eq!(send(&server, "POST", MAPS, &limits).await.code, 201);
    assert_eq!(send(&server, "POST", path, &deployment(2)).await.code, 201);
    let refused = send(&server, "PUT", &format!("{path}/web"), &deployment(3)).await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        message(&refused),
        "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'replicas' with binding 'here' denied request: at most 2 in default"
    );
    let path_of = format!("{ADMISSION}/validatingadmissionpolicybindings/here");
    assert_eq!(send(&server, "PUT", &path_of, &binding("Warn")).await.code, 200);
    let warned = send(&server, "PUT", &format!("{path}/web"), &deployment(3)).await;
    assert!(
        warned.code == 200
            && warned.warnings[0].contains("Validation failed for ValidatingAdmissionPolicy 'replicas'")
    );
}

#[tokio::test]
async fn the_types_of_a_policys_expressions_are_checked() {
    let server = server().await;
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]});
    let mut policy = json!({"metadata": {"name": "confused"}, "spec": {"matchConstraints": {"resourceRules": [rule]},
        "variables": [{"name": "most", "expression": "5"}],
        "validations": [{"expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
            {"expression": "object.spec.replicas < variables.most"}]}});
    let path = format!("{ADMISSION}/validatingadmissionpolicies");
    let made = send(&server, "POST", &path, &policy).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let status = &made.body["status"];
    assert_eq!(status["observedGeneration"], 1);
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    let told = |index: usize| {
        (warnings[index]["fieldRef"].as_str().unwrap(), warnings[index]["warning"].as_str().unwrap())
    };
    assert_eq!(
        (warnings.len(), told(0).0, told(1).0),
        (2, "spec.validations[0].expression", "spec.validations[0].messageExpression")
    );
    let wanted = "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'";
    assert!(told(0).1.starts_with(wanted), "{}", told(0).1);
    assert!(
        told(1).1.contains("found no matching overload for '_+_' applied to '(string, int)'"),
        "{}",
        told(1).1
    );
    policy["spec"]["validations"] = json!([{"expression": "object.spec.replicas > 1"}]);
    let mended = send(&server, "PUT", &format!("{path}/confused"), &policy).await;
    assert_eq!(
        mended.body["status"],
        json!({"observedGeneration": 2, "typeChecking": {}}),
        "{}",
        mended.body
    );
    // A custom kind's schema is looked at too.
    let definition = json!({"metadata": {"name": "crontabs.stable.example.com"}, "spec": {"group": "stable.example.com",
        "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"}, "versions": [{"name": "v1", "served": true,
        "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"replicas": {"type": "integer"}}}}}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(send(&server, "POST", definitions, &definition).await.code, 201);
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["stable.example.com"], "apiVersions": ["v1"], "resources": ["crontabs"]});
    let policy = json!({"metadata": {"name": "cron"}, "spec": {"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.maxRetries < 10"}]}});
    let made = send(&server, "POST", &path, &policy).await;
    let warnings = &made.body["status"]["typeChecking"]["expressionWarnings"];
    assert!(
        warnings[0]["warning"].as_str().is_some_and(|text| text.contains("'_>_' applied to '(int, string)'")),
        "{}",
        made.body
    );
    assert!(
        warnings[1]["warning"].as_str().is_some_and(|text| text.contains("undefined field 'maxRetries'")),
        "{}",
        made.body
    );
}

#[tokio::test]
async fn pods_have_the_priority_of_their_class() {
    let server = server().await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
    assert_eq!(send(&server, "POST", "/apis/scheduling.k8s.io/v1/priorityclasses", &class).await.code, 201);
    let pod = |class: &str| json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": class, "containers": [{"name": "c", "image": "i"}]}});
    let path = "/api/v1/namespaces/default/pods";
    let refused = send(&server, "POST", path, &pod("none")).await;
    assert!(refused.code == 403 && message(&refused).contains("no PriorityClass with name none was found"));
    let made = send(&server, "POST", path, &pod("high")).await.body;
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]),
        (&json!(1000), &json!("Never")),
        "{made}"
    );
}
