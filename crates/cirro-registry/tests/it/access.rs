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

/// oras for Python keeps the first token that it gets, and begins a push by asking whether a blob is there.
#[tokio::test]
async fn whoever_asks_whether_a_blob_is_there_is_offered_a_token_to_push_it() {
    let registry = Fixture::with(&users());
    let outside = registry.router_from("192.0.2.1:1");
    let blob = format!("/v2/team/a/blobs/{}", sha256(b"x"));
    let scope = |answer: crate::fixture::Answer| {
        let challenge = answer.expect(401).header("www-authenticate").to_owned();
        challenge.split("scope=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let probe = || crate::fixture::send(&outside, "HEAD", &blob, &[], "");
    assert_eq!(scope(probe().await), "repository:team/a:pull,push");
    assert_eq!(scope(get(&outside, &blob, "").await), "repository:team/a:pull");
    let token = token(&outside, &scope(probe().await), &basic("ci", "secret")).await;
    post(&outside, &format!("/v2/team/a/blobs/uploads/?digest={}", sha256(b"x")), &token).await.expect(201);
    get(&outside, &blob, &token).await.expect(200);
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

async fn trade(router: &Router, form: &str) -> Answer {
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    send(router, "POST", "/token", &kind, form.to_owned()).await
}

#[tokio::test]
async fn an_identity_token_stands_for_the_password_until_that_changes() {
    let registry = Fixture::with(&users());
    let outside = registry.router_from("192.0.2.1:1");
    // Only who asks for it gets one, and only with a password.
    let plain = get(&outside, "/token?service=cirro-registry", &basic("ci", "secret")).await.expect(200);
    assert_eq!(plain.json()["refresh_token"], serde_json::Value::Null);
    let nobody = get(&outside, "/token?offline_token=true", "").await.expect(200);
    assert_eq!(nobody.json()["refresh_token"], serde_json::Value::Null);
    let asked = get(&outside, "/token?offline_token=true&client_id=docker", &basic("ci", "secret")).await;
    let identity = asked.expect(200).json()["refresh_token"].as_str().unwrap().to_owned();
    let form =
        format!("grant_type=refresh_token&refresh_token={identity}&service=cirro-registry&client_id=docker");
    let scope = "&scope=repository%3Ateam%2Fa%3Apull%2Cpush+repository:other:push";
    let traded = trade(&outside, &format!("{form}{scope}")).await.expect(200).json();
    assert_eq!(traded["scope"], "repository:team/a:pull,push repository:other:");
    assert_eq!(
        (&traded["refresh_token"], traded["expires_in"].as_u64()),
        (&identity.clone().into(), Some(300))
    );
    let bearer = format!("Bearer {}", traded["access_token"].as_str().unwrap());
    let path = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(b"x"));
    post(&outside, &path, &bearer).await.expect(201);
    // It is no access token, and no password.
    get(&outside, "/v2/", &format!("Bearer {identity}")).await.expect(401);
    get(&outside, "/v2/", &basic("ci", &identity)).await.expect(401);
    // By a form with the password, as other clients ask.
    let password = "grant_type=password&username=ci&password=secret&access_type=offline&client_id=x";
    let again = trade(&outside, password).await.expect(200).json();
    assert_eq!(again["refresh_token"].as_str(), Some(identity.as_str()));
    let once = trade(&outside, &password.replace("&access_type=offline", "")).await.expect(200).json();
    assert_eq!(once["refresh_token"], serde_json::Value::Null);
    for wrong in [
        "grant_type=password&username=ci&password=no".to_owned(),
        "grant_type=refresh_token&refresh_token=a.b".to_owned(),
        format!("{form}x").replace("&service=cirro-registry&client_id=dockerx", "x"),
    ] {
        trade(&outside, &wrong).await.expect(401);
    }
    trade(&outside, "grant_type=magic").await.expect(400);
    trade(&outside, &format!("x={}", "y".repeat(70_000))).await.expect(400);
    // The same after a restart; not after the password's hash changed.
    let registry = registry.again();
    trade(&registry.router_from("192.0.2.1:1"), &form).await.expect(200);
    let changed = Fixture::with(&users().replace("pbkdf2-sha256:1:", "pbkdf2-sha256:2:"));
    trade(&changed.router_from("192.0.2.1:1"), &form).await.expect(401);
}

/// The attacks on registries that are replayed, one by one. Those on clients (realms and redirects that lead inside) are
/// in the client's tests.
#[tokio::test]
async fn known_attacks_are_denied() {
    let text = users()
        + "[[access]]\nrepositories = \"eves/*\"\nusers = [\"eve\"]\nactions = [\"pull\", \"push\"]\n\
           [[immutable]]\nrepositories = \"eves/*\"\ntags = \"v*\"\n";
    let registry = Fixture::with(&text);
    registry.distribution.put_blob(&"team/a".parse().unwrap(), b"secret").unwrap();
    let digest = sha256(b"secret");
    let outside = registry.router_from("192.0.2.1:1");
    let eve = basic("eve", "secret");
    // A token for one repository used on another, asked for with and without both scopes.
    let own = token(&outside, "repository:eves/x:pull,push", &eve).await;
    get(&outside, &format!("/v2/team/a/blobs/{digest}"), &own).await.refused(403, "DENIED");
    let both = token(&outside, "repository:eves/x:pull%20repository:team/a:pull", &eve).await;
    get(&outside, &format!("/v2/team/a/blobs/{digest}"), &both).await.refused(403, "DENIED");
    // A push by nobody.
    post(&outside, "/v2/public/x/blobs/uploads/", "").await.expect(401);
    let anonymous = token(&outside, "repository:public/x:pull,push", "").await;
    post(&outside, "/v2/public/x/blobs/uploads/", &anonymous).await.expect(401);
    // A blob of others mounted into one's own repository begins an upload, and does not say that it is there.
    for digest in [&digest, &sha256(b"not there")] {
        let mount = format!("/v2/eves/x/blobs/uploads/?mount={digest}&from=team/a");
        let answer = post(&outside, &mount, &eve).await.expect(202);
        assert!(answer.header("location").starts_with("/v2/eves/x/blobs/uploads/"));
    }
    get(&outside, &format!("/v2/eves/x/blobs/{digest}"), &eve).await.refused(404, "BLOB_UNKNOWN");
    // Others' repositories in the catalog.
    registry.distribution.put_blob(&"eves/x".parse().unwrap(), b"own").unwrap();
    let catalog = get(&outside, "/v2/_catalog", &eve).await.expect(200).json();
    assert_eq!(catalog["repositories"], serde_json::json!(["eves/x"]));
    // An upload of others, by its id, below one's own repository and theirs.
    let started = post(&outside, "/v2/team/a/blobs/uploads/", &basic("ci", "secret")).await.expect(202);
    let id = started.header("location").rsplit('/').next().unwrap().to_owned();
    for (method, repository, status) in [
        ("GET", "eves/x", 404),
        ("PATCH", "eves/x", 404),
        ("DELETE", "eves/x", 404),
        ("PATCH", "team/a", 403),
    ] {
        let path = format!("/v2/{repository}/blobs/uploads/{id}");
        send(&outside, method, &path, &[("authorization", &eve)], "x").await.expect(status);
    }
    let path = format!("/v2/team/a/blobs/uploads/{id}");
    get(&outside, &path, &basic("ci", "secret")).await.expect(204);
    assert!(id.len() >= 32, "an id that cannot be guessed: {id}");
    // Ranges that ask for more than there is, or for the same again and again.
    let blob = format!("/v2/eves/x/blobs/{}", sha256(b"own"));
    for (range, status) in [
        ("bytes=9-", 416),
        ("bytes=0-0,0-0,0-0", 200),
        ("bytes=2-1", 200),
        ("bytes=0-99999999999999999999", 200),
    ] {
        let headers = [("authorization", eve.as_str()), ("range", range)];
        let answer = send(&outside, "GET", &blob, &headers, "").await;
        assert!(answer.status == status || answer.status == 206, "{range}: {answer:?}");
        assert!(answer.body.len() <= 200, "{range}");
    }
    // A tag that may not move.
    registry.distribution.put_blob(&"eves/x".parse().unwrap(), b"{}").unwrap();
    let headers = [("authorization", eve.as_str()), ("content-type", crate::fixture::OCI)];
    let (config, layer) = (sha256(b"{}"), sha256(b"own"));
    let first = crate::fixture::manifest(&[(&config, 2), (&layer, 3)], None).to_string();
    send(&outside, "PUT", "/v2/eves/x/manifests/v1", &headers, first).await.expect(201);
    let other = crate::fixture::manifest(&[(&config, 2)], None).to_string();
    send(&outside, "PUT", "/v2/eves/x/manifests/v1", &headers, other).await.refused(403, "DENIED");
}
