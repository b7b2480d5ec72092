//! Who may do what, over HTTP: challenges, passwords, tokens.

use axum::Router;
use base64::Engine as _;

use crate::fixture::{Answer, Fixture, send, sha256};

fn users() -> String {
    // Of `secret`, with one iteration: the real number takes its time in a debug build.
    let hash = "pbkdf2-sha256:1:BwcHBwcHBwcHBwcHBwcHBw:cxxer4Iqi9zTqJVHRecZxAoVB12ZzXwJ813RD6ATZS0";
    format!(
        "[[user]]\nname = \"ci\"\npassword-hash = \"{hash}\"\n[[user]]\nname = \"eve\"\npassword-hash = \"{hash}\"\n\
         [[access]]\nrepositories = \"team/*\"\nusers = [\"ci\"]\nactions = [\"pull\", \"push\"]\n\
         [[access]]\nrepositories = \"public/*\"\nusers = [\"anonymous\"]\nactions = [\"pull\"]\n"
    )
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}

async fn get(router: &Router, path: &str, authorization: &str) -> Answer {
    let headers = [("authorization", authorization)];
    send(router, "GET", path, if authorization.is_empty() { &[] } else { &headers }, "").await
}

async fn post(router: &Router, path: &str, authorization: &str) -> Answer {
    let headers = [("authorization", authorization)];
    send(router, "POST", path, if authorization.is_empty() { &[] } else { &headers }, "x").await
}

#[tokio::test]
async fn without_configuration_only_the_loopback_is_served() {
    let registry = Fixture::new();
    registry.push("a", "v1", b"x").await;
    let outside = registry.router_from("192.0.2.1:1");
    for path in ["/v2/", "/v2/_catalog", "/v2/a/manifests/v1", "/v2/a/tags/list"] {
        let answer = get(&outside, path, "").await.expect(401);
        assert!(
            answer.header("www-authenticate").starts_with("Bearer realm=\"http://localhost:5000/token\"")
        );
        assert_eq!(answer.code(), "UNAUTHORIZED");
    }
    let mapped = registry.router_from("[::ffff:127.0.0.1]:1");
    get(&mapped, "/v2/a/manifests/v1", "").await.expect(200);
}

#[tokio::test]
async fn a_password_gives_what_is_granted() {
    let registry = Fixture::with(&users());
    let outside = registry.router_from("192.0.2.1:1");
    let path = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(b"x"));
    let refused = post(&outside, &path, "").await.expect(401);
    assert!(refused.header("www-authenticate").contains("scope=\"repository:team/a:pull,push\""));
    post(&outside, &path, &basic("ci", "wrong")).await.expect(401);
    post(&outside, &path, &basic("nobody", "secret")).await.expect(401);
    post(&outside, &path, &basic("eve", "secret")).await.refused(403, "DENIED");
    post(&outside, &path, &basic("ci", "secret")).await.expect(201);
    get(&outside, "/v2/", &basic("ci", "secret")).await.expect(200);
    // The loopback reads without saying who it is, and writes not.
    let inside = registry.router_from("127.0.0.1:1");
    get(&inside, &format!("/v2/team/a/blobs/{}", sha256(b"x")), "").await.expect(200);
    post(&inside, &path, "").await.expect(401);
    // A client that can log in must learn so from the base.
    get(&inside, "/v2/", "").await.expect(401);
}

async fn token(router: &Router, scope: &str, authorization: &str) -> String {
    let answer =
        get(router, &format!("/token?service=cirro-registry&scope={scope}"), authorization).await.expect(200);
    let json = answer.json();
    assert_eq!((&json["token"], json["expires_in"].as_u64()), (&json["access_token"], Some(300)));
    format!("Bearer {}", json["token"].as_str().unwrap())
}

#[tokio::test]
async fn a_token_gives_what_it_was_asked_for_and_no_more() {
    let registry = Fixture::with(&users());
    let outside = registry.router_from("192.0.2.1:1");
    let path = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(b"x"));
    get(&outside, "/token?scope=repository:team/a:push", &basic("ci", "wrong")).await.expect(401);
    let push = token(&outside, "repository:team/a:pull,push", &basic("ci", "secret")).await;
    post(&outside, &path, &push).await.expect(201);
    get(&outside, "/v2/", &push).await.expect(200);
    let pull = token(&outside, "repository:team/a:pull", &basic("ci", "secret")).await;
    let refused = post(&outside, &path, &pull).await.expect(401);
    assert!(refused.header("www-authenticate").contains("error=\"insufficient_scope\""));
    // Asking for more than is granted does not give it.
    let eve = token(&outside, "repository:team/a:push", &basic("eve", "secret")).await;
    post(&outside, &path, &eve).await.refused(403, "DENIED");
    let other = path.replace("team/a", "team/b");
    post(&outside, &other, &push).await.expect(401);
    // Nobody in particular may read what is public.
    let anonymous = token(&outside, "repository:public/x:pull,push", "").await;
    get(&outside, "/v2/public/x/tags/list", &anonymous).await.refused(404, "NAME_UNKNOWN");
    get(&outside, "/v2/team/a/tags/list", &anonymous).await.expect(401);
    get(&outside, "/v2/", "Bearer forged.token").await.expect(401);
    // A token of the loopback is not trusted elsewhere.
    let inside = registry.router_from("127.0.0.1:1");
    let local = token(&inside, "repository:team/a:pull", "").await;
    get(&inside, &format!("/v2/team/a/blobs/{}", sha256(b"x")), &local).await.expect(200);
    get(&outside, &format!("/v2/team/a/blobs/{}", sha256(b"x")), &local).await.expect(401);
}

#[tokio::test]
async fn a_mount_needs_the_right_to_read_its_source() {
    let registry = Fixture::with(&users());
    registry.distribution.put_blob(&"private/a".parse().unwrap(), b"x").unwrap();
    let outside = registry.router_from("192.0.2.1:1");
    for from in ["&from=private/a", ""] {
        let path = format!("/v2/team/a/blobs/uploads/?mount={}{from}", sha256(b"x"));
        post(&outside, &path, &basic("ci", "secret")).await.expect(202);
    }
    let catalog = get(&outside, "/v2/_catalog", &basic("ci", "secret")).await.expect(200);
    assert!(!catalog.json().to_string().contains("private"));
}
