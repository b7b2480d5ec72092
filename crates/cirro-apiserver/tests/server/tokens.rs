//! Tokens of service accounts: made, reviewed, used, and void when what they name is gone.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cirro_apiserver::{ApiServer, Options, User};
use cirro_store::MemoryObjectStore;
use serde_json::{Value, json};

use crate::fixture::{Answer, read, request, send, server};
use crate::kubectl::Cluster;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

async fn token(server: &ApiServer, account: &str, spec: Value) -> String {
    let path = format!("{ACCOUNTS}/{account}/token");
    let made = send(server, "POST", &path, &json!({"spec": spec})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body["status"]["token"].as_str().unwrap().to_owned()
}

async fn with_token(server: &ApiServer, token: &str, path: &str) -> Answer {
    let mut asked = request("GET", path, "", Body::empty());
    let value = format!("Bearer {token}").parse().unwrap();
    asked.headers_mut().extend(HeaderMap::from_iter([(HeaderName::from_static("authorization"), value)]));
    read(server.respond(&User::anonymous(), asked).await).await
}

async fn review(server: &ApiServer, token: &str, audiences: Value) -> Value {
    let asked = json!({"spec": {"token": token, "audiences": audiences}});
    send(server, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", &asked).await.body["status"].clone()
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_opens_what_its_accounts_roles_allow() {
    let server = server().await;
    let robot = json!({"metadata": {"name": "robot"}});
    assert_eq!(send(&server, "POST", ACCOUNTS, &robot).await.code, 201);
    let token = token(&server, "robot", json!({"expirationSeconds": 900})).await;
    let pods = "/api/v1/namespaces/default/pods";
    let refused = with_token(&server, &token, pods).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.body["message"].as_str().unwrap().contains("User \"system:serviceaccount:default:robot\"")
    );
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "system:aggregate-to-view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot"}]});
    assert_eq!(send(&server, "POST", bindings, &binding).await.code, 201);
    assert_eq!(with_token(&server, &token, pods).await.code, 200);
    assert_eq!(with_token(&server, &token, "/api/v1/namespaces/default/secrets").await.code, 403);
    assert_eq!(with_token(&server, &format!("{token}x"), pods).await.code, 401);
    assert_eq!(with_token(&server, "nonsense", pods).await.code, 401);
    // An account of the same name is another account.
    send(&server, "DELETE", &format!("{ACCOUNTS}/robot"), &Value::Null).await;
    assert_eq!(with_token(&server, &token, pods).await.code, 401);
    assert_eq!(send(&server, "POST", ACCOUNTS, &robot).await.code, 201);
    assert_eq!(with_token(&server, &token, pods).await.code, 401);
}

#[tokio::test]
async fn a_bound_token_ends_with_its_pod() {
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = send(&server, "POST", pods, &pod).await.body;
    let bound =
        |uid: &Value| json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}});
    let good = token(&server, "default", bound(&pod["metadata"]["uid"])).await;
    let status = review(&server, &good, json!([])).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    let path = format!("{ACCOUNTS}/default/token");
    let wrong = send(&server, "POST", &path, &json!({"spec": bound(&"other".into())})).await;
    assert_eq!(wrong.code, 409);
    let other = json!({"metadata": {"name": "other"}});
    send(&server, "POST", ACCOUNTS, &other).await;
    let wrong = json!({"spec": bound(&pod["metadata"]["uid"])});
    assert_eq!(send(&server, "POST", &format!("{ACCOUNTS}/other/token"), &wrong).await.code, 400);
    send(&server, "DELETE", &format!("{pods}/p"), &Value::Null).await;
    let status = review(&server, &good, json!([])).await;
    assert_eq!((&status["authenticated"], &status["error"]), (&Value::Null, &json!("invalid bearer token")));
}

#[tokio::test]
async fn tokens_say_whom_they_are_for() {
    let server = server().await;
    let vault = token(&server, "default", json!({"audiences": ["vault"], "expirationSeconds": 600})).await;
    assert_eq!(with_token(&server, &vault, "/version").await.code, 401);
    assert_eq!(review(&server, &vault, json!(["vault", "x"])).await["audiences"], json!(["vault"]));
    assert!(review(&server, &vault, json!(["x"])).await.get("authenticated").is_none());
    let claims = claims(&vault);
    let seconds = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!((seconds, &claims["kubernetes.io"]["serviceaccount"]["name"]), (600, &json!("default")));
    let path = format!("{ACCOUNTS}/default/token");
    for (seconds, said) in [(599, "less than 10 minutes"), (1_i64 << 33, "larger than 2^32 seconds")] {
        let refused = send(&server, "POST", &path, &json!({"spec": {"expirationSeconds": seconds}})).await;
        assert_eq!(refused.code, 422);
        assert!(refused.body["message"].as_str().unwrap().contains(said), "{}", refused.body);
    }
    assert_eq!(send(&server, "POST", &format!("{ACCOUNTS}/nobody/token"), &json!({})).await.code, 404);
    let keys = send(&server, "GET", "/openid/v1/jwks", &Value::Null).await;
    assert_eq!(keys.body["keys"][0]["alg"], "ES256");
    let about = send(&server, "GET", "/.well-known/openid-configuration", &Value::Null).await;
    assert_eq!(about.body["issuer"], claims["iss"]);
    let plain = token(&server, "default", json!({})).await;
    assert_eq!(with_token(&server, &plain, "/openid/v1/jwks").await.code, 200);
}

#[tokio::test]
async fn secrets_carry_tokens_of_their_account() {
    let server = server().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let kind = "kubernetes.io/service-account-token";
    let annotations = json!({"kubernetes.io/service-account.name": "default"});
    let secret = json!({"metadata": {"name": "t", "annotations": annotations}, "type": kind});
    let made = send(&server, "POST", secrets, &secret).await.body;
    let token = String::from_utf8(STANDARD.decode(made["data"]["token"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(made["data"]["namespace"], STANDARD.encode("default"));
    assert_eq!(with_token(&server, &token, "/version").await.code, 200);
    send(&server, "DELETE", &format!("{secrets}/t"), &Value::Null).await;
    assert_eq!(with_token(&server, &token, "/version").await.code, 401);
    let nameless = json!({"metadata": {"name": "t"}, "type": kind});
    assert_eq!(send(&server, "POST", secrets, &nameless).await.code, 422);
}

#[tokio::test]
async fn bootstrap_tokens_are_secrets_of_kube_system() {
    let server = server().await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:workers,system:masters"});
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": data});
    assert_eq!(send(&server, "POST", secrets, &secret).await.code, 201);
    let status = review(&server, "abcdef.0123456789abcdef", json!([])).await;
    assert_eq!(status["user"]["username"], "system:bootstrap:abcdef");
    let groups = json!(["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]);
    assert_eq!(status["user"]["groups"], groups);
    for wrong in ["abcdef.0123456789abcdee", "abcdeg.0123456789abcdef"] {
        assert_eq!(review(&server, wrong, json!([])).await["error"], "invalid bearer token", "{wrong}");
    }
    let path = format!("{secrets}/bootstrap-token-abcdef");
    let past = json!({"stringData": {"expiration": "2020-01-01T00:00:00Z"}});
    let patch = request("PATCH", &path, "application/merge-patch+json", past.to_string());
    assert_eq!(server.respond(&crate::fixture::admin(), patch).await.status(), 200);
    assert!(review(&server, "abcdef.0123456789abcdef", json!([])).await.get("authenticated").is_none());
}

#[tokio::test]
async fn pods_get_their_account_and_its_token() {
    let keys = tempfile::tempdir().unwrap();
    let options = Options { keys: Some(keys.path().join("pki")), ..Options::default() };
    let server = ApiServer::open(std::sync::Arc::new(MemoryObjectStore::new()), options).await.unwrap();
    let namespace = json!({"metadata": {"name": "new"}});
    assert_eq!(send(&server, "POST", "/api/v1/namespaces", &namespace).await.code, 201);
    let pods = "/api/v1/namespaces/new/pods";
    let pod = |name: &str, rest: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let spec = send(&server, "POST", pods, &pod("a", json!({}))).await.body["spec"].clone();
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let volume = &spec["volumes"][0];
    assert_eq!(volume["projected"]["sources"][1]["configMap"]["name"], "kube-root-ca.crt");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume["name"]);
    let published =
        send(&server, "GET", "/api/v1/namespaces/new/configmaps/kube-root-ca.crt", &Value::Null).await;
    assert!(published.body["data"]["ca.crt"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    let none = send(&server, "POST", pods, &pod("b", json!({"automountServiceAccountToken": false}))).await;
    assert!(none.body["spec"].get("volumes").is_none(), "{}", none.body);
    let refused = send(&server, "POST", pods, &pod("c", json!({"serviceAccountName": "nobody"}))).await;
    assert_eq!(
        refused.body["message"],
        "pods \"c\" is forbidden: error looking up service account new/nobody: serviceaccount \"nobody\" not found"
    );
}

#[tokio::test]
async fn kubectl_makes_tokens_and_uses_them() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.run("create serviceaccount robot").await;
    cluster
        .run("create rolebinding robot --clusterrole=system:aggregate-to-view --serviceaccount=default:robot")
        .await;
    let token = cluster.run("create token robot --duration=20m").await;
    let config = cluster.home.path().join("token-config");
    std::fs::write(&config, std::fs::read_to_string(cluster.home.path().join("config")).unwrap()).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let kept: Vec<_> = text.lines().filter(|line| !line.contains("client-key-data")).collect();
    let replaced = kept.iter().map(|line| match line.contains("client-certificate-data") {
        true => format!("    token: {}", token.trim()),
        false => (*line).to_owned(),
    });
    std::fs::write(&config, replaced.collect::<Vec<_>>().join("\n")).unwrap();
    let line = |rest: &str| format!("--kubeconfig {} {rest}", config.display());
    let who = cluster.run(&line("auth whoami")).await;
    assert!(who.contains("system:serviceaccount:default:robot") && who.contains("JTI="), "{who}");
    assert!(cluster.run(&line("get pods -o name")).await.is_empty());
    assert!(cluster.fail(&line("get secrets")).await.contains("(Forbidden)"));
}
