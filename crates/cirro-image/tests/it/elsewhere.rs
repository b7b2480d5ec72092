//! A registry that points elsewhere: at this machine, at a metadata service, at a host that would like a password.

use cirro_image::{Credentials, ProgressSink, RegistryError, RegistryOptions};
use cirro_types::ImageReference;

use crate::archive::{Fixture, Tar, docker_archive};
use crate::server::{Request, Response, Server, pull_as, registry, remote, run};

fn me() -> Credentials {
    Credentials { username: "me".into(), password: "secret".into(), ..Credentials::default() }
}

fn layer() -> Vec<u8> {
    Tar::new().file("file", b"text").end()
}

/// A server under a name that does not say that it is this machine; plain HTTP is allowed there.
fn outside(server: &Server) -> (String, RegistryOptions) {
    let host = format!("elsewhere:{}", server.address.port());
    (host.clone(), RegistryOptions { insecure: vec![host], mirrors: vec![] })
}

fn has_authorization(request: &Request) -> bool {
    request.headers.contains_key("authorization")
}

/// Pulls from a registry that answers 401 with this challenge to everybody.
fn challenged(challenge: String) -> String {
    let server =
        Server::start(move |_| Response::new(401, "{}").header("WWW-Authenticate", challenge.clone()));
    let (host, options) = outside(&server);
    let fixture = Fixture::new();
    let error = pull_as(&fixture, &format!("{host}/app"), me(), options).unwrap_err();
    fixture.assert_empty();
    error.to_string()
}

#[test]
fn a_realm_does_not_lead_to_this_machine_or_a_metadata_service() {
    let inside = Server::start(|_| Response::new(200, r#"{"token":"x"}"#));
    let port = inside.address.port();
    let metadata = "169.254.169.254/latest/meta-data";
    for realm in [
        format!("https://127.0.0.1:{port}/token"),
        format!("https://rebound:{port}/token"),
        format!("https://[::ffff:127.0.0.1]:{port}/token"),
        format!("https://{metadata}"),
        "https://[fd00:ec2::254]/".to_owned(),
    ] {
        let error = challenged(format!("Bearer realm=\"{realm}\""));
        assert!(error.contains("a registry may not send us there"), "{realm}: {error}");
    }
    // A password would go there in plain text: not even asked.
    for realm in
        [format!("http://127.0.0.1:{port}/token"), format!("http://{metadata}"), "ftp://x/".to_owned()]
    {
        let error = challenged(format!("Bearer realm=\"{realm}\""));
        assert!(error.contains("a token server must speak https"), "{realm}: {error}");
    }
    assert!(inside.paths().is_empty());
}

#[test]
fn a_registry_may_be_its_own_token_server_whatever_its_name() {
    let bytes = layer();
    let stored = remote(&[&bytes]).stored;
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            return Response::new(200, r#"{"token":"the-token"}"#);
        }
        if request.headers.get("authorization").is_some_and(|header| header == "Bearer the-token") {
            return stored.get(&request.path).cloned().unwrap_or_else(Response::missing);
        }
        let realm = format!("http://{}/token", request.headers["host"]);
        Response::new(401, "{}").header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    });
    let (host, options) = outside(&server);
    pull_as(&Fixture::new(), &format!("{host}/app"), me(), options).unwrap();
}

#[test]
fn a_token_server_that_redirects_does_not_pass_the_password_on() {
    let thief = Server::start(|_| Response::new(200, r#"{"token":"x"}"#));
    let target = format!("http://{}/token", thief.address);
    let tokens = Server::start(move |_| Response::new(307, "").header("Location", target.clone()));
    let realm = format!("http://{}/token", tokens.address);
    let server = Server::start(move |_| {
        Response::new(401, "{}").header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    });
    let name = server.reference("app");
    pull_as(&Fixture::new(), &name, me(), RegistryOptions::default()).unwrap_err();
    assert!(tokens.seen.lock().unwrap().iter().all(has_authorization));
    let seen = thief.seen.lock().unwrap();
    assert!(!seen.is_empty() && !seen.iter().any(has_authorization));
}

#[test]
fn a_way_back_to_the_registry_has_no_authorization_any_more() {
    let bytes = layer();
    let stored = remote(&[&bytes]).stored;
    // The bouncer learns from the path where it is to send to.
    let bouncer = Server::start(|request| {
        let (port, path) = request.path.trim_start_matches('/').split_once('/').unwrap();
        Response::new(307, "").header("Location", format!("http://127.0.0.1:{port}/back/{path}"))
    });
    let through = bouncer.address;
    let server = Server::start(move |request| {
        if request.path.starts_with("/back/") {
            return Response::new(403, "{}");
        }
        if !has_authorization(request) {
            return Response::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.path.contains("/blobs/") {
            let port = request.headers["host"].rsplit(':').next().unwrap().to_owned();
            return Response::new(307, "")
                .header("Location", format!("http://{through}/{port}{}", request.path));
        }
        stored.get(&request.path).cloned().unwrap_or_else(Response::missing)
    });
    let name = server.reference("app");
    pull_as(&Fixture::new(), &name, me(), RegistryOptions::default()).unwrap_err();
    let back: Vec<_> = server
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|request| request.path.starts_with("/back/"))
        .cloned()
        .collect();
    assert!(!back.is_empty() && !back.iter().any(has_authorization));
    assert!(!bouncer.seen.lock().unwrap().iter().any(has_authorization));
}

#[test]
fn a_redirect_by_a_name_of_this_machine_is_not_followed() {
    let bytes = layer();
    let inside = Server::of(remote(&[&bytes]).stored);
    let port = inside.address.port();
    for target in ["rebound", "localhost", "[::ffff:127.0.0.1]"] {
        let stored = remote(&[&bytes]).stored;
        let server = Server::start(move |request| match request.path.as_str() {
            path if path.contains("/blobs/") => {
                Response::new(307, "").header("Location", format!("http://{target}:{port}{path}"))
            }
            path => stored.get(path).cloned().unwrap_or_else(Response::missing),
        });
        let (host, options) = outside(&server);
        let error =
            pull_as(&Fixture::new(), &format!("{host}/app"), Credentials::default(), options).unwrap_err();
        assert!(error.to_string().contains("a registry may not send us there"), "{target}: {error}");
    }
    assert!(inside.paths().is_empty());
}

fn push(server: &Server) -> Result<(), RegistryError> {
    let fixture = Fixture::new();
    let (host, options) = outside(server);
    let name = format!("{host}/app:latest");
    fixture.load(&docker_archive(&[&name], &[&layer()])).unwrap();
    let reference: ImageReference = name.parse().unwrap();
    let push = registry(options);
    run(async { push.push(&fixture.library, &reference, false, &me(), &ProgressSink::nowhere()).await })
        .map(drop)
}

#[test]
fn an_upload_is_not_sent_to_where_only_this_machine_gets() {
    let inside = Server::start(|_| Response::new(201, ""));
    let port = inside.address.port();
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => Response::new(202, "")
            .header("Location", format!("http://127.0.0.1:{port}/v2/app/blobs/uploads/1")),
        "HEAD" => Response::new(404, ""),
        _ => Response::new(200, "{}"),
    });
    let error = push(&server).unwrap_err().to_string();
    assert!(error.contains("a registry may not send us there"), "{error}");
    assert!(inside.paths().is_empty());
}
