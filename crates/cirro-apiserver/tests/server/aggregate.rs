//! Another API server behind ours: a group `wardle.example.com` with one kind, as upstream's sample server has it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use cirro_apiserver::{ApiServer, Options, User};
use cirro_seams::Pending;
use cirro_seams::node::{Connection, ExecRequest, LogOptions, NodeError, NodeStreams, Session};
use cirro_seams::usage::NodeUsage;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::fixture::{Answer, EchoNode, admin, read, request, send};
use crate::kubectl::Cluster;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";
const VERSION: &str = "/apis/wardle.example.com/v1alpha1";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";

/// A node behind whose addresses the other server listens.
struct Behind {
    echo: EchoNode,
    acceptor: TlsAcceptor,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    down: AtomicBool,
    /// Requests with what their heads said of who asks.
    asked: Mutex<Vec<(String, Value)>>,
    addresses: Mutex<Vec<SocketAddr>>,
}

impl NodeStreams for Behind {
    fn logs(
        &self,
        pod_uid: &str,
        container: &str,
        options: LogOptions,
    ) -> Pending<'_, Result<mpsc::Receiver<bytes::Bytes>, NodeError>> {
        self.echo.logs(pod_uid, container, options)
    }

    fn exec(
        &self,
        pod_uid: &str,
        container: &str,
        request: ExecRequest,
    ) -> Pending<'_, Result<Session, NodeError>> {
        self.echo.exec(pod_uid, container, request)
    }

    fn attach(&self, pod_uid: &str, container: &str, stdin: bool) -> Pending<'_, Result<Session, NodeError>> {
        self.echo.attach(pod_uid, container, stdin)
    }

    fn usage(&self) -> Pending<'_, Result<NodeUsage, NodeError>> {
        self.echo.usage()
    }

    fn instance_console(&self, uid: &str, limit: usize) -> Pending<'_, Result<bytes::Bytes, NodeError>> {
        self.echo.instance_console(uid, limit)
    }

    fn connect_pod(&self, pod_uid: &str, port: u16) -> Pending<'_, Result<Connection, NodeError>> {
        self.echo.connect_pod(pod_uid, port)
    }

    fn connect(&self, address: SocketAddr) -> Pending<'_, Result<Connection, NodeError>> {
        Box::pin(async move {
            self.state.addresses.lock().unwrap().push(address);
            if self.state.down.load(Ordering::SeqCst) {
                return Err(NodeError::Failed(format!("dial tcp {address}: connect: connection refused")));
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let (acceptor, state) = (self.acceptor.clone(), self.state.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(theirs).await else { return };
                // Without a certificate of the front proxy nobody is believed.
                let is_known = stream.get_ref().1.peer_certificates().is_some();
                let service = service_fn(move |request| {
                    let state = state.clone();
                    async move { Ok::<_, Infallible>(serve(&state, is_known, request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            });
            Ok(Box::new(ours) as Connection)
        })
    }
}

fn flunder(name: &str) -> Value {
    json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}})
}

fn document(path: &str) -> Option<Value> {
    let verbs = ["create", "delete", "get", "list", "watch"];
    let patch = json!({"consumes": ["application/merge-patch+json"], "responses": {},
        "parameters": [{"name": "body", "in": "body", "schema": {"$ref": "#/definitions/wardle.Flunder"}}]});
    Some(match path {
        VERSION => {
            json!({"kind": "APIResourceList", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                "shortNames": ["fl"], "verbs": verbs},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]})
        }
        "/openapi/v3" => json!({"paths": {"apis/wardle.example.com/v1alpha1":
            {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1"},
            "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=evil"}}}),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => json!({"openapi": "3.0.0", "paths": {},
            "components": {"schemas": {"wardle.Flunder": {"type": "object"}}}}),
        "/openapi/v2" => json!({"swagger": "2.0",
            "paths": {(format!("{VERSION}/namespaces/{{namespace}}/flunders/{{name}}")): {"patch": patch},
                "/api/v1/other": {"patch": {}}},
            "definitions": {"wardle.Flunder": {"type": "object", "description": "A fish.",
                "x-kubernetes-group-version-kind": [{"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"}]},
                "unused": {}}}),
        _ => return None,
    })
}

async fn serve(state: &State, is_known: bool, mut request: Request<Incoming>) -> Response<Body> {
    let header = |name: &str| {
        let all = request.headers().get_all(name).iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let told = json!({"user": header("x-remote-user"), "groups": header("x-remote-group"),
        "scopes": header("x-remote-extra-scopes"), "secret": header("authorization"), "host": header("host")});
    let path = request.uri().path().to_owned();
    state.asked.lock().unwrap().push((format!("{} {}", request.method(), request.uri()), told));
    let answer = |value: &Value| {
        Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(value.to_string()))
            .unwrap()
    };
    if !is_known {
        return Response::builder().status(401).body(Body::empty()).unwrap();
    }
    if let Some(document) = document(&path) {
        return answer(&document);
    }
    if path.ends_with("/echo") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let switching = Response::builder().status(101).header("connection", "upgrade");
        return switching.header("upgrade", "echo").body(Body::empty()).unwrap();
    }
    if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
        let (sender, receiver) = mpsc::channel::<Result<String, Infallible>>(1);
        tokio::spawn(async move {
            for name in ["one", "two"] {
                let event = json!({"type": "ADDED", "object": flunder(name)});
                let _ = sender.send(Ok(format!("{event}\n"))).await;
            }
            // Nothing more, but it does not end.
            sender.closed().await;
        });
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|item| (item, receiver))
        });
        return Response::new(Body::from_stream(stream));
    }
    match request.method().as_str() {
        "POST" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            answer(&serde_json::from_slice(&body).unwrap())
        }
        _ if path.ends_with("/flunders") => answer(&json!({"kind": "FlunderList",
            "apiVersion": "wardle.example.com/v1alpha1", "metadata": {"resourceVersion": "1"},
            "items": [flunder("one")]})),
        _ => answer(&flunder("one")),
    }
}

/// Starts the other server before ours and registers it.
async fn register(server: &ApiServer) -> Arc<State> {
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = send(server, "GET", map, &Value::Null).await.body["data"].clone();
    assert_eq!(map["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    let own = rcgen::generate_simple_self_signed(["api.wardle.svc".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let authority = map["requestheader-client-ca-file"].as_str().unwrap();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let verifier = verifier.allow_unauthenticated().build().unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let state = Arc::new(State::default());
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    server.set_node_streams(Arc::new(Behind { echo: EchoNode::default(), acceptor, state: state.clone() }));
    let bundle = base64::engine::general_purpose::STANDARD.encode(own.cert.pem());
    let service = json!({"metadata": {"name": NAME}, "spec": {"group": "wardle.example.com", "version": "v1alpha1",
        "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": bundle,
        "service": {"namespace": "wardle", "name": "api"}}});
    let made = send(server, "POST", SERVICES, &service).await;
    assert_eq!(made.code, 201, "{}", made.body);
    state
}

async fn create(server: &ApiServer, path: &str, object: &Value) {
    let made = send(server, "POST", path, object).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

/// Makes the service of the other server, and its endpoints.
async fn expose(server: &ApiServer, ip: &str) {
    create(server, "/api/v1/namespaces", &json!({"metadata": {"name": "wardle"}})).await;
    let service =
        json!({"metadata": {"name": "api"}, "spec": {"ports": [{"port": 443, "targetPort": 8443}]}});
    create(server, "/api/v1/namespaces/wardle/services", &service).await;
    wait_for(server, "EndpointsNotFound", "cannot find endpointslices for service/api in \"wardle\"").await;
    let slice = json!({"metadata": {"name": "api-1", "labels": {"kubernetes.io/service-name": "api"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 8443}]});
    create(server, "/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices", &slice).await;
}

/// Waits until the condition says so.
async fn wait_for(server: &ApiServer, reason: &str, message: &str) {
    let mut seen = Value::Null;
    for _ in 0..600 {
        seen = send(server, "GET", &format!("{SERVICES}/{NAME}"), &Value::Null).await.body["status"].take();
        let condition = &seen["conditions"][0];
        if condition["reason"] == reason && condition["message"].as_str().unwrap().contains(message) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not become {reason}: {seen}");
}

async fn with_authority() -> (ApiServer, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let options = Options { keys: Some(home.path().join("pki")), ..Options::default() };
    let store = Arc::new(cirro_store::MemoryObjectStore::new());
    (ApiServer::open(store, options).await.unwrap(), home)
}

async fn get(server: &ApiServer, path: &str) -> Answer {
    send(server, "GET", path, &Value::Null).await
}

#[tokio::test]
async fn a_version_is_answered_by_the_server_behind_its_service() {
    let (server, _home) = with_authority().await;
    let state = register(&server).await;
    wait_for(&server, "ServiceNotFound", "service/api in \"wardle\" is not present").await;
    let refused = get(&server, FLUNDERS).await;
    assert_eq!((refused.code, refused.body), (503, json!("service unavailable\n")));
    expose(&server, "10.1.2.3").await;
    wait_for(&server, "Passed", "all checks passed").await;
    assert_eq!(state.addresses.lock().unwrap()[0].to_string(), "10.1.2.3:8443");

    // Who asks is said by us alone.
    let jane = User {
        name: "jane".into(),
        groups: vec!["system:masters".into(), "fishers".into()],
        extra: [("scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into(),
        ..User::default()
    };
    let mut asking = request("GET", &format!("{FLUNDERS}/one?pretty=false"), "application/json", "");
    let forged = [
        ("x-remote-user", "root"),
        ("x-remote-group", "forged"),
        ("connection", "x-remote-user, x-remote-group"),
    ];
    for (name, value) in forged {
        asking.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = read(server.respond(&jane, asking).await).await;
    assert_eq!((answer.code, &answer.body["kind"]), (200, &json!("Flunder")));
    let (asked, told) = state.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(asked, format!("GET {FLUNDERS}/one?pretty=false"));
    assert_eq!((&told["user"], &told["secret"]), (&json!(["jane"]), &json!([])));
    assert_eq!(told["groups"], json!(["system:masters", "fishers"]));
    assert_eq!((&told["scopes"], &told["host"]), (&json!(["a", "b"]), &json!(["api.wardle.svc"])));

    // Authorization is ours: nobody else's request gets there.
    let before = state.asked.lock().unwrap().len();
    let nobody = User { name: "bob".into(), groups: vec!["system:authenticated".into()], ..User::default() };
    for path in [FLUNDERS, "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/a/b/c/d"] {
        let refused = read(server.respond(&nobody, request("GET", path, "", "")).await).await;
        assert_eq!(refused.code, 403, "{}", refused.body);
    }
    let forbidden = read(server.respond(&nobody, request("GET", FLUNDERS, "", "")).await).await;
    let message = "flunders.wardle.example.com is forbidden: User \"bob\" cannot list resource \"flunders\" in API group \"wardle.example.com\" in the namespace \"default\"";
    assert_eq!(forbidden.body["message"], message);
    assert_eq!(state.asked.lock().unwrap().len(), before);
    for unclear in ["/a%2Fb", "/../secrets"] {
        assert_eq!(get(&server, &format!("{FLUNDERS}{unclear}")).await.code, 404, "{unclear}");
    }
    let large = send(&server, "POST", FLUNDERS, &json!({"a": "x".repeat(3 << 20)})).await;
    assert_eq!(large.code, 413);
    let made = send(&server, "POST", FLUNDERS, &flunder("three")).await;
    assert_eq!(made.body["metadata"]["name"], "three");
}

#[tokio::test]
async fn discovery_and_openapi_are_of_both_servers() {
    let (server, _home) = with_authority().await;
    register(&server).await;
    wait_for(&server, "ServiceNotFound", "").await;
    expose(&server, "10.1.2.3").await;
    wait_for(&server, "Passed", "").await;
    let groups = get(&server, "/apis").await.body["groups"].take();
    let names: Vec<&str> =
        groups.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names.last(), Some(&"wardle.example.com"));
    let group = get(&server, "/apis/wardle.example.com").await.body;
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    assert_eq!(get(&server, VERSION).await.body["resources"][0]["name"], "flunders");
    let mut asking = request("GET", "/apis", "", "");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    asking.headers_mut().insert("accept", accept.parse().unwrap());
    let found = read(server.respond(&admin(), asking).await).await.body;
    let ours = found["items"].as_array().unwrap().last().unwrap().clone();
    let version = &ours["versions"][0];
    assert_eq!(
        (&ours["metadata"]["name"], &version["freshness"]),
        (&json!("wardle.example.com"), &json!("Current"))
    );
    let resource = &version["resources"][0];
    let kind = json!({"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"});
    assert_eq!((&resource["responseKind"], &resource["shortNames"]), (&kind, &json!(["fl"])));
    assert_eq!(
        (&resource["scope"], &resource["subresources"][0]["subresource"]),
        (&json!("Namespaced"), &json!("status"))
    );

    let index = get(&server, "/openapi/v3").await.body;
    let url = &index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"];
    assert_eq!(url, "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1");
    assert!(!index.to_string().contains("evil"));
    let document = get(&server, url.as_str().unwrap()).await.body;
    assert!(document["components"]["schemas"]["wardle.Flunder"].is_object(), "{document}");
    let swagger = get(&server, "/openapi/v2").await.body;
    assert_eq!(swagger["definitions"]["wardle.Flunder"]["description"], "A fish.");
    let mut ours = swagger["paths"].as_object().unwrap().keys().filter(|path| path.contains("wardle"));
    assert!(ours.next().is_some() && swagger["definitions"].get("unused").is_none());
    assert!(swagger["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
}

#[tokio::test]
async fn watches_stream_and_upgrades_pass() {
    let Some(cluster) = Cluster::start_with_authority().await else { return };
    register(&cluster.server).await;
    wait_for(&cluster.server, "ServiceNotFound", "").await;
    expose(&cluster.server, "10.1.2.3").await;
    wait_for(&cluster.server, "Passed", "").await;
    let watching = request("GET", &format!("{FLUNDERS}?watch=true"), "", "");
    let mut events = cluster.server.respond(&admin(), watching).await.into_body();
    let first = events.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"object\"") || first.starts_with(b"{\"type\""), "{first:?}");
    drop(events);

    let table = cluster.run("get flunders").await;
    assert!(table.contains("one"), "{table}");
    assert!(cluster.run("get fl one -o name").await.contains("flunder.wardle.example.com/one"));
    assert!(cluster.run("api-resources --api-group=wardle.example.com").await.contains("flunders"));
    let services = cluster.run("get apiservices").await;
    let line = services.lines().find(|line| line.starts_with(NAME)).unwrap();
    assert!(line.contains("wardle/api") && line.contains("True"), "{line}");
    let local = services.lines().find(|line| line.starts_with("v1.apps")).unwrap();
    assert!(local.contains("Local") && local.contains("True"), "{local}");
    assert!(
        cluster
            .run("explain flunders --api-version=wardle.example.com/v1alpha1 --output=plaintext-openapiv2")
            .await
            .contains("A fish.")
    );

    let mut proxy = cluster.command("proxy --port=0").stdout(std::process::Stdio::piped()).spawn().unwrap();
    crate::proxy::echo_through(&mut proxy, &format!("{FLUNDERS}/one/echo")).await;
    proxy.kill().await.unwrap();
}

#[tokio::test]
async fn a_server_that_fails_is_unavailable_until_it_is_well_again() {
    let (server, _home) = with_authority().await;
    let state = register(&server).await;
    wait_for(&server, "ServiceNotFound", "").await;
    expose(&server, "10.1.2.3").await;
    wait_for(&server, "Passed", "").await;
    state.down.store(true, Ordering::SeqCst);
    let refused = get(&server, FLUNDERS).await;
    let why = "error trying to reach service: dial tcp 10.1.2.3:8443: connect: connection refused\n";
    assert_eq!((refused.code, refused.body), (503, json!(why)));
    // The request that failed had it looked at.
    let expected =
        "failing or missing response from https://api.wardle.svc:443/apis/wardle.example.com/v1alpha1: Get";
    wait_for(&server, "FailedDiscoveryCheck", expected).await;
    assert_eq!(get(&server, FLUNDERS).await.body, json!("service unavailable\n"));
    // The group stays in discovery.
    assert_eq!(get(&server, "/apis/wardle.example.com").await.code, 200);
    state.down.store(false, Ordering::SeqCst);
    wait_for(&server, "Passed", "").await;
    assert_eq!(get(&server, FLUNDERS).await.code, 200);
    let slice = "/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices/api-1";
    let gone = json!([{"op": "replace", "path": "/endpoints", "value": []}]);
    let patched = request("PATCH", slice, "application/json-patch+json", gone.to_string());
    assert_eq!(read(server.respond(&admin(), patched).await).await.code, 200);
    wait_for(&server, "MissingEndpoints", "have no addresses with port name \"\"").await;
    assert_eq!(send(&server, "DELETE", &format!("{SERVICES}/{NAME}"), &Value::Null).await.code, 200);
    for _ in 0..600 {
        if get(&server, FLUNDERS).await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the version is still there");
}

#[tokio::test]
async fn a_service_that_leads_to_this_host_is_not_followed() {
    let (server, _home) = with_authority().await;
    let state = register(&server).await;
    wait_for(&server, "ServiceNotFound", "").await;
    create(&server, "/api/v1/namespaces", &json!({"metadata": {"name": "wardle"}})).await;
    let service = json!({"metadata": {"name": "api"}, "spec": {"ports": [{"port": 443}]}});
    create(&server, "/api/v1/namespaces/wardle/services", &service).await;
    let slice = |ip: &str| {
        json!({"metadata": {"name": "api-1", "labels": {"kubernetes.io/service-name": "api"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [ip]}], "ports": [{"name": "", "port": 443}]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices";
    for ip in ["127.0.0.1", "169.254.169.254"] {
        let made = send(&server, "POST", slices, &slice(ip)).await;
        if made.code == 201 {
            wait_for(&server, "FailedDiscoveryCheck", "address not allowed").await;
            send(&server, "DELETE", &format!("{slices}/api-1"), &Value::Null).await;
            wait_for(&server, "EndpointsNotFound", "").await;
        } else {
            assert_eq!(made.code, 422, "{}", made.body);
        }
    }
    assert!(state.addresses.lock().unwrap().is_empty());
}

#[tokio::test]
async fn custom_kinds_have_local_services_that_give_way_to_others() {
    let (server, _home) = with_authority().await;
    let definition = |group: &str| {
        json!({"metadata": {"name": format!("tabs.{group}")}, "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "tabs", "kind": "Tab"}, "versions": [{"name": "v1alpha1", "served": true,
            "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    };
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    create(&server, definitions, &definition("local.example")).await;
    let path = format!("{SERVICES}/v1alpha1.local.example");
    let appears = async |code: u16| {
        for _ in 0..600 {
            let answer = get(&server, &path).await;
            if answer.code == code {
                return answer.body;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} does not become {code}");
    };
    let local = appears(200).await;
    assert_eq!(local["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(
        (&local["spec"]["groupPriorityMinimum"], &local["spec"]["versionPriority"]),
        (&json!(1000), &json!(100))
    );
    assert_eq!(local["status"]["conditions"][0]["reason"], "Local");
    // What somebody takes away comes back.
    let uid = local["metadata"]["uid"].clone();
    assert_eq!(send(&server, "DELETE", &path, &Value::Null).await.code, 200);
    assert_ne!(appears(200).await["metadata"]["uid"], uid);
    assert_eq!(
        send(&server, "DELETE", &format!("{definitions}/tabs.local.example"), &Value::Null).await.code,
        200
    );
    appears(404).await;

    // The other server has the group first: the definition does not take it over.
    register(&server).await;
    wait_for(&server, "ServiceNotFound", "").await;
    create(&server, definitions, &definition("wardle.example.com")).await;
    assert_eq!(get(&server, &format!("{VERSION}/namespaces/default/tabs")).await.code, 503);
    let kept = get(&server, &format!("{SERVICES}/{NAME}")).await.body;
    assert_eq!(kept["spec"]["service"]["name"], "api");
}
