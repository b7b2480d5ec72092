//! How answers are written down: compressed, as YAML, indented, or not at all.

use std::io::Read as _;

use axum::body::Body;
use axum::http::{Request, Response};
use cirro_apiserver::ApiServer;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::fixture::{admin, send, server};

async fn get(server: &ApiServer, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.respond(&admin(), request.body(Body::empty()).unwrap()).await
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const YAML: (&str, &str) = ("accept", "application/yaml");
const GZIP: (&str, &str) = ("accept-encoding", "deflate, gzip");

async fn with_map(name: &str, size: usize) -> ApiServer {
    let server = server().await;
    let map = json!({"metadata": {"name": name}, "data": {"text": "x".repeat(size)}});
    assert_eq!(send(&server, "POST", MAPS, &map).await.code, 201);
    server
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_take_it() {
    let server = with_map("large", 200 << 10).await;
    for path in [MAPS.to_owned(), format!("{MAPS}/large")] {
        let plain = get(&server, &path, &[]).await;
        assert_eq!(header(&plain, "content-encoding"), "");
        let small = get(&server, &path, &[GZIP]).await;
        assert_eq!((header(&small, "content-encoding"), header(&small, "vary")), ("gzip", "Accept-Encoding"));
        let (plain, small) = (bytes(plain).await, bytes(small).await);
        assert!(small.len() < plain.len() / 10, "{} of {}", small.len(), plain.len());
        let mut again = Vec::new();
        flate2::read::GzDecoder::new(&*small).read_to_end(&mut again).unwrap();
        assert_eq!(again, plain);
    }
    let little = get(&server, "/api/v1/namespaces/default", &[GZIP]).await;
    assert_eq!(header(&little, "content-encoding"), "");
    let stream = get(&server, &format!("{MAPS}?watch=true&timeoutSeconds=1"), &[GZIP]).await;
    assert_eq!(header(&stream, "content-encoding"), "");
}

#[tokio::test]
async fn answers_may_be_yaml_or_indented() {
    let server = with_map("one", 1).await;
    let path = format!("{MAPS}/one");
    let plain: Value = serde_json::from_slice(&bytes(get(&server, &path, &[]).await).await).unwrap();
    let yaml = get(&server, &path, &[YAML]).await;
    assert_eq!(header(&yaml, "content-type"), "application/yaml");
    let text = String::from_utf8(bytes(yaml).await).unwrap();
    assert!(text.starts_with("apiVersion: v1\ndata:\n  text: x\nkind: ConfigMap\n"), "{text}");
    assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), plain);

    let refused = get(&server, &format!("{MAPS}/none"), &[YAML]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "content-type")), (404, "application/yaml"));
    let stream = get(&server, &format!("{MAPS}?watch=true&timeoutSeconds=1"), &[YAML]).await;
    assert_eq!(stream.status(), 406);
    let json_first = get(&server, &path, &[("accept", "application/json, application/yaml")]).await;
    assert_eq!(header(&json_first, "content-type"), "application/json");

    let asked = format!("{path}?pretty=true");
    for (path, headers) in [(&asked, &[][..]), (&path, &[("user-agent", "curl/7.88.1")][..])] {
        let text = String::from_utf8(bytes(get(&server, path, headers).await).await).unwrap();
        assert!(text.starts_with("{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), plain);
    }
}

#[tokio::test]
async fn protobuf_is_passed_over_and_refused_alone() {
    let server = with_map("one", 1).await;
    let both = ("accept", "application/vnd.kubernetes.protobuf, application/json");
    let answer = get(&server, MAPS, &[both]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, "application/json"));
    let alone = get(&server, MAPS, &[("accept", "application/vnd.kubernetes.protobuf")]).await;
    assert_eq!(alone.status(), 406);
    let status: Value = serde_json::from_slice(&bytes(alone).await).unwrap();
    assert_eq!((&status["reason"], &status["code"]), (&json!("NotAcceptable"), &json!(406)));
}

#[tokio::test]
async fn documents_that_the_client_has_are_not_sent_again() {
    let server = server().await;
    let aggregated = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    for (path, headers) in
        [("/apis", &[aggregated][..]), ("/openapi/v2", &[][..]), ("/openapi/v3/apis/apps/v1", &[][..])]
    {
        let first = get(&server, path, headers).await;
        let tag = header(&first, "etag").to_owned();
        assert!(tag.len() > 2 && first.status() == 200, "{path}: {tag}");
        let known = [headers, &[("if-none-match", &*tag)]].concat();
        let second = get(&server, path, &known).await;
        assert_eq!((second.status().as_u16(), header(&second, "etag")), (304, &*tag), "{path}");
        assert!(bytes(second).await.is_empty());
        let other = [headers, &[("if-none-match", "\"other\"")]].concat();
        assert_eq!(get(&server, path, &other).await.status(), 200);
    }
}

#[tokio::test]
async fn a_document_by_its_tag_never_changes() {
    let server = server().await;
    let index: Value = serde_json::from_slice(&bytes(get(&server, "/openapi/v3", &[]).await).await).unwrap();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let answer = get(&server, url, &[]).await;
    assert_eq!(answer.status(), 200);
    assert!(header(&answer, "cache-control").contains("immutable"));
    let old = get(&server, "/openapi/v3/apis/apps/v1?hash=OLD", &[]).await;
    assert_eq!((old.status().as_u16(), header(&old, "location")), (301, url));
}
