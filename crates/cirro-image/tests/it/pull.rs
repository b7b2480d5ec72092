//! Pulling from registries that behave, and from those that do not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cirro_image::{Credentials, Limits, Platform, ProgressSink, PullRequest, RegistryOptions};
use cirro_types::Digest;
use serde_json::json;

use crate::archive::{Fixture, Tar, config, gzip, noise, read};
use crate::server::{
    OCI_MANIFEST, Remote, Request, Response, Server, descriptor, found_none, pull, pull_as, registry, remote,
    run,
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, name.as_bytes()).end()
}

#[test]
fn an_image_is_pulled_once_and_keeps_its_digests() {
    let (one, two) = (layer("one"), layer("two"));
    let remote = remote(&[&one, &two, &one]);
    let (id, digest, blobs) = (remote.id, Digest::of(&remote.manifest), remote.blobs.clone());
    let server = Server::of(remote.stored);
    let fixture = Fixture::new();
    let name = server.reference("app");
    let pulled = pull(&fixture, &name).unwrap();
    assert_eq!((pulled[0].id, pulled[0].digest, pulled[0].newer), (id, digest, true));
    let image = fixture.library.find(&name).unwrap();
    let names: Vec<_> = image.tags.iter().map(ToString::to_string).collect();
    assert!(
        names.contains(&format!("{name}:latest")) && names.contains(&format!("{name}@{digest}")),
        "{names:?}"
    );
    assert_eq!(fixture.library.find(&format!("{name}@{digest}")).unwrap().id, id);
    let dirs = fixture.library.layer_dirs(&[Digest::of(&two)]).unwrap();
    assert_eq!(read(dirs[0].join("two")), "two");
    for blob in &blobs {
        assert!(fixture.library.open_blob(blob).is_ok());
    }
    let before = server.paths().len();
    assert!(!pull(&fixture, &name).unwrap()[0].newer);
    assert!(
        !server.paths()[before..]
            .iter()
            .any(|path| blobs.iter().any(|blob| path.contains(&blob.to_string())))
    );
    // Blobs go with their layers.
    fixture.library.remove(&name, false, &|_| None).unwrap();
    fixture.assert_empty();
    assert_eq!(std::fs::read_dir(fixture.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_manifest_that_is_served_as_something_else_is_refused() {
    // CVE-2021-41190: what reads the header and what reads the document would see two images.
    for served in [INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"] {
        let bytes = layer("one");
        let mut remote = remote(&[&bytes]);
        let mut document: serde_json::Value = serde_json::from_slice(&remote.manifest).unwrap();
        document["mediaType"] = json!(OCI_MANIFEST);
        remote.put_manifest("latest", served, document.to_string().as_bytes());
        let server = Server::of(remote.stored);
        let fixture = Fixture::new();
        let error = pull(&fixture, &server.reference("app")).unwrap_err().to_string();
        assert!(error.contains(served) || error.contains("it says that"), "{error}");
        fixture.assert_empty();
    }
}

#[test]
fn an_index_gives_the_image_for_the_platform() {
    let bytes = layer("mine");
    let mut remote = remote(&[&bytes]);
    let mut mine = descriptor(OCI_MANIFEST, &remote.manifest);
    mine["platform"] = json!({"os": "linux", "architecture": cirro_image::ARCHITECTURE});
    let mut other = descriptor(OCI_MANIFEST, b"other");
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let mut attestation = descriptor(OCI_MANIFEST, b"attestation");
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [attestation, other, mine]}).to_string();
    remote.put_manifest("latest", INDEX, index.as_bytes());
    let (id, server) = (remote.id, Server::of(remote.stored));
    let fixture = Fixture::new();
    let pulled = pull(&fixture, &server.reference("app")).unwrap();
    assert_eq!((pulled[0].id, pulled[0].digest), (id, Digest::of(index.as_bytes())));
    let request = PullRequest {
        reference: server.reference("app").parse().unwrap(),
        all_tags: false,
        platform: Some(Platform::parse("linux/riscv64").unwrap()),
        credentials: Credentials::default(),
    };
    let error = run(async {
        registry(RegistryOptions::default()).pull(&fixture.library, request, &ProgressSink::nowhere()).await
    });
    assert!(error.unwrap_err().to_string().contains("no matching manifest for linux/riscv64"));
}

#[test]
fn a_download_goes_on_where_it_broke() {
    // What does not compress, so that there is something to break off in.
    let bytes = Tar::new().file("noise", &noise(2_000_000)).end();
    let remote = remote(&[&bytes]);
    let path = format!("/v2/app/blobs/{}", remote.blobs[0]);
    for ranges in [true, false] {
        let (stored, breaks) = (remote.stored.clone(), AtomicUsize::new(0));
        let blob = path.clone();
        let server = Server::start(move |request| {
            let whole = stored.get(&request.path).cloned().unwrap_or_else(|| found_none(request));
            if request.path != blob {
                return whole;
            }
            let from: usize = request
                .headers
                .get("range")
                .map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
            let cut = (breaks.fetch_add(1, Ordering::Relaxed) < 3).then_some(100_000 + from / 2);
            if !ranges || from == 0 {
                return Response { cut: cut.map(|cut| cut + from), ..whole };
            }
            let range = format!("bytes {from}-{}/{}", whole.body.len() - 1, whole.body.len());
            let body = whole.body[from..].to_vec();
            Response { cut, ..Response::new(206, body).header("Content-Range", range) }
        });
        let fixture = Fixture::new();
        pull(&fixture, &server.reference("app")).unwrap();
        let asked = server.paths().iter().filter(|asked| **asked == path).count();
        assert_eq!(asked, 4, "ranges: {ranges}");
    }
}

/// Pulls what was stored and asserts that it was refused and left nothing.
fn refused(remote: Remote, limits: Limits) -> String {
    let server = Server::of(remote.stored);
    let fixture = Fixture::with(limits);
    let error = pull(&fixture, &server.reference("app")).unwrap_err();
    fixture.assert_empty();
    assert_eq!(std::fs::read_dir(fixture.path().join("blobs")).unwrap().count(), 0);
    error.to_string()
}

fn with_manifest(mut remote: Remote, change: impl FnOnce(&mut serde_json::Value)) -> Remote {
    let mut manifest = serde_json::from_slice(&remote.manifest).unwrap();
    change(&mut manifest);
    remote.put_manifest("latest", OCI_MANIFEST, manifest.to_string().as_bytes());
    remote
}

#[test]
fn bytes_that_are_not_what_they_should_be_are_refused() {
    let bytes = layer("file");
    let blob_path = |remote: &Remote| format!("/v2/app/blobs/{}", remote.blobs[0]);
    // Another blob of the same length under the digest.
    let mut wrong = remote(&[&bytes]);
    let mut other = gzip(&bytes);
    let last = other.len() - 1;
    other[last] ^= 1;
    wrong.stored.insert(blob_path(&wrong), Response::new(200, other));
    refused(wrong, Limits::default());
    // A blob that goes on after the gzip stream.
    let mut trailing = remote(&[&bytes]);
    trailing
        .stored
        .insert(blob_path(&trailing), Response::new(200, [gzip(&bytes), b"more".to_vec()].concat()));
    assert!(refused(trailing, Limits::default()).contains("larger than"));
    let longer = with_manifest(remote(&[&bytes]), |manifest| manifest["layers"][0]["size"] = json!(5));
    assert!(refused(longer, Limits::default()).contains("larger than"));
    // The diff id says something else.
    let mut lying = remote(&[&bytes]);
    let config = config(&[&layer("something else")]);
    lying.put_blob(&config);
    let lying = with_manifest(lying, |manifest| manifest["config"] = descriptor(CONFIG, &config));
    assert!(refused(lying, Limits::default()).contains("invalid diff ID"));
    // The manifest under a digest is another.
    let mut pinned = remote(&[&bytes]);
    let digest = Digest::of(b"what was asked for");
    let response = Response::new(200, pinned.manifest.clone()).header("Content-Type", OCI_MANIFEST);
    pinned.stored.insert(format!("/v2/app/manifests/{digest}"), response);
    let server = Server::of(pinned.stored);
    let fixture = Fixture::new();
    let error = pull(&fixture, &server.reference(&format!("app@{digest}"))).unwrap_err();
    assert!(error.to_string().contains("verification failed"), "{error}");
    fixture.assert_empty();
}

#[test]
fn a_blob_under_another_digest_is_refused_though_it_is_a_good_layer() {
    let bytes = layer("file");
    let mut remote = remote(&[&bytes]);
    // The same tar, compressed otherwise, and stored as long as the first.
    let path = format!("/v2/app/blobs/{}", remote.blobs[0]);
    let plain = bytes.clone();
    let remote = {
        remote.stored.insert(path, Response::new(200, plain.clone()));
        with_manifest(remote, |manifest| manifest["layers"][0]["size"] = json!(plain.len()))
    };
    let error = refused(remote, Limits::default());
    assert!(error.contains("filesystem layer verification failed"), "{error}");
}

#[test]
fn documents_that_are_too_much_are_refused() {
    let bytes = layer("file");
    let mut large = remote(&[&bytes]);
    let padded = [large.manifest.clone(), vec![b' '; 100 << 20]].concat();
    large.put_manifest("latest", OCI_MANIFEST, &padded);
    assert!(refused(large, Limits::default()).contains("larger than"));
    let many = with_manifest(remote(&[&bytes]), |manifest| {
        manifest["layers"] = json!(vec![descriptor(LAYER, b"x"); 10_000]);
    });
    assert!(refused(many, Limits::default()).contains("max depth exceeded"));
    let count = with_manifest(remote(&[&bytes]), |manifest| {
        manifest["layers"] = json!([manifest["layers"][0], manifest["layers"][0]]);
    });
    assert!(refused(count, Limits::default()).contains("layers length mismatch"));
    let mut itself = remote(&[&bytes]);
    // No index has its own digest; a long chain does as well.
    let mut inner =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(OCI_MANIFEST, b"x")]})
            .to_string();
    for _ in 0..20 {
        itself.put_manifest("inner", INDEX, inner.as_bytes());
        inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(INDEX, inner.as_bytes())]}).to_string();
    }
    itself.put_manifest("latest", INDEX, inner.as_bytes());
    assert!(refused(itself, Limits::default()).contains("nested too deep"));
}

#[test]
fn a_document_of_another_kind_than_its_header_is_refused() {
    let bytes = layer("file");
    let mut both = remote(&[&bytes]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&both.manifest).unwrap();
    manifest["manifests"] = json!([descriptor(OCI_MANIFEST, b"x")]);
    both.put_manifest("latest", OCI_MANIFEST, manifest.to_string().as_bytes());
    assert!(refused(both, Limits::default()).contains("both manifest and index"));
    let mut other = remote(&[&bytes]);
    let manifest = other.manifest.clone();
    other.put_manifest("latest", "application/vnd.docker.distribution.manifest.v2+json", &manifest);
    assert!(refused(other, Limits::default()).contains("it came as"));
    let artifact = with_manifest(remote(&[&bytes]), |manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    });
    assert!(refused(artifact, Limits::default()).contains("no image configuration"));
    let encrypted = with_manifest(remote(&[&bytes]), |manifest| {
        manifest["layers"][0]["mediaType"] = json!(format!("{LAYER}+encrypted"));
    });
    assert!(refused(encrypted, Limits::default()).contains("not supported"));
}

#[test]
fn a_bomb_in_a_layer_is_stopped() {
    let bomb = Tar::new().file("zeros", &vec![0; 64 << 20]).end();
    let limits = Limits { ratio: 50, ratio_floor: 1 << 20, ..Limits::default() };
    assert!(refused(remote(&[&bomb]), limits).contains("one compressed byte gives more than"));
}

#[test]
fn errors_are_dockers() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.contains("/secret/") => {
            let denied = json!({"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]});
            Response::new(403, denied.to_string())
        }
        _ => found_none(request),
    });
    let fixture = Fixture::new();
    let name = server.reference("app:1");
    let error = pull(&fixture, &name).unwrap_err().to_string();
    assert_eq!(error, format!("manifest for {name} not found: manifest unknown: manifest unknown"));
    let name = server.reference("secret/app");
    let error = pull(&fixture, &name).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login': denied: \
             requested access to the resource is denied"
        )
    );
    let error = pull(&fixture, "nowhere.invalid/app").unwrap_err().to_string();
    assert!(error.contains("dial tcp: lookup nowhere.invalid: no such host"), "{error}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = pull(&fixture, &format!("{closed}/app")).unwrap_err().to_string();
    assert!(error.contains("connect: connection refused"), "{error}");
}

fn me() -> Credentials {
    Credentials { username: "me".into(), password: "secret".into(), ..Credentials::default() }
}

const BASIC: &str = "Basic bWU6c2VjcmV0";

#[test]
fn a_token_is_fetched_with_the_password_and_used_for_its_repository() {
    let tokens = Server::start(|request| {
        let known = request.headers.get("authorization").is_some_and(|header| header == BASIC);
        if !known {
            return Response::new(401, r#"{"details":"incorrect username or password"}"#);
        }
        Response::new(200, r#"{"token":"the-token"}"#)
    });
    let bytes = layer("file");
    let stored = remote(&[&bytes]).stored;
    let realm = format!("http://{}/token", tokens.address);
    let server = Server::start(move |request| {
        if request.headers.get("authorization").is_some_and(|header| header == "Bearer the-token") {
            return stored.get(&request.path).cloned().unwrap_or_else(Response::missing);
        }
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:other:pull,push\"");
        Response::new(401, "{}").header("WWW-Authenticate", challenge)
    });
    let fixture = Fixture::new();
    let name = server.reference("app");
    let error = pull(&fixture, &name).unwrap_err().to_string();
    assert_eq!(error, "unauthorized: incorrect username or password");
    pull_as(&fixture, &name, me(), RegistryOptions::default()).unwrap();
    let asked = tokens.paths().pop().unwrap();
    assert_eq!(asked, "/token?service=reg&scope=repository%3Aapp%3Apull&account=me");
    // The password stays with the token server.
    let leaked =
        |request: &Request| request.headers.get("authorization").is_some_and(|header| header == BASIC);
    assert!(!server.seen.lock().unwrap().iter().any(leaked));
}

#[test]
fn other_ways_of_authorization_work() {
    let bytes = layer("file");
    let stored = Arc::new(remote(&[&bytes]).stored);
    let guarded = |wanted: &'static str, challenge: String| {
        let stored = Arc::clone(&stored);
        Server::start(move |request| match request.headers.get("authorization") {
            Some(header) if header == wanted => {
                stored.get(&request.path).cloned().unwrap_or_else(Response::missing)
            }
            _ => Response::new(401, "{}").header("WWW-Authenticate", &challenge),
        })
    };
    let options = RegistryOptions::default;
    let basic = guarded(BASIC, "Basic realm=\"x\"".into());
    let fixture = Fixture::new();
    let error = pull(&fixture, &basic.reference("app")).unwrap_err().to_string();
    assert!(error.contains("no basic auth credentials"), "{error}");
    pull_as(&fixture, &basic.reference("app"), me(), options()).unwrap();
    let direct = guarded("Bearer given", "Bearer realm=\"http://unused/\"".into());
    let token = Credentials { registrytoken: "given".into(), ..Credentials::default() };
    pull_as(&Fixture::new(), &direct.reference("app"), token, options()).unwrap();
    let tokens = Server::start(|request| {
        let body = String::from_utf8_lossy(&request.body);
        let good = request.method == "POST"
            && body.contains("refresh_token=identity")
            && body.contains("scope=repository%3Aapp%3Apull");
        if good { Response::new(200, r#"{"access_token":"fresh"}"#) } else { Response::new(401, "{}") }
    });
    let refreshed = guarded("Bearer fresh", format!("Bearer realm=\"http://{}/t\"", tokens.address));
    let identity = Credentials { identitytoken: "identity".into(), ..Credentials::default() };
    pull_as(&Fixture::new(), &refreshed.reference("app"), identity, options()).unwrap();
    run(async {
        let login = Credentials { serveraddress: basic.address.to_string(), ..me() };
        registry(options()).login(&login).await.unwrap();
        let wrong = Credentials { password: "no".into(), ..login };
        assert!(registry(options()).login(&wrong).await.unwrap_err().to_string().contains("unauthorized"));
    });
}

#[test]
fn a_redirect_takes_no_authorization_along() {
    let bytes = layer("file");
    let stored = remote(&[&bytes]).stored;
    let blobs: HashMap<_, _> = stored.clone();
    let storage =
        Server::start(move |request| blobs.get(&request.path).cloned().unwrap_or_else(Response::missing));
    let target = storage.address;
    let server = Server::start(move |request| {
        if !request.headers.contains_key("authorization") {
            return Response::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.path.contains("/blobs/") {
            return Response::new(307, "").header("Location", format!("http://{target}{}", request.path));
        }
        stored.get(&request.path).cloned().unwrap_or_else(Response::missing)
    });
    pull_as(&Fixture::new(), &server.reference("app"), me(), RegistryOptions::default()).unwrap();
    let seen = storage.seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[test]
fn a_registry_cannot_send_us_where_it_cannot_go_itself() {
    let bytes = layer("file");
    let inside = Server::of(remote(&[&bytes]).stored);
    let port = inside.address.port();
    let stored = remote(&[&bytes]).stored;
    let server = Server::start(move |request| match request.path.as_str() {
        path if path.contains("/blobs/") => {
            Response::new(307, "").header("Location", format!("http://127.0.0.1:{port}{path}"))
        }
        path => stored.get(path).cloned().unwrap_or_else(Response::missing),
    });
    // By a name that is not this machine's.
    let name = format!("elsewhere:{}/app", server.address.port());
    let options =
        RegistryOptions { insecure: vec![format!("elsewhere:{}", server.address.port())], mirrors: vec![] };
    let fixture = Fixture::new();
    let error = pull_as(&fixture, &name, Credentials::default(), options).unwrap_err().to_string();
    assert!(error.contains("a registry may not send us there"), "{error}");
    assert!(inside.paths().is_empty());
    fixture.assert_empty();
}

#[test]
fn a_mirror_is_asked_first_and_only_for_the_hub() {
    let bytes = layer("file");
    let stored: HashMap<_, _> = remote(&[&bytes])
        .stored
        .into_iter()
        .map(|(path, response)| (path.replace("/v2/app/", "/v2/library/app/"), response))
        .collect();
    let mirror = Server::of(stored);
    let options = RegistryOptions { mirrors: vec![format!("http://{}", mirror.address)], insecure: vec![] };
    let fixture = Fixture::new();
    pull_as(&fixture, "app", me(), options.clone()).unwrap();
    assert!(fixture.library.find("app:latest").is_ok());
    assert!(mirror.seen.lock().unwrap().iter().all(|request| !request.headers.contains_key("authorization")));
    // What the mirror lacks is asked for at the hub, which cannot be reached from here.
    let error = pull_as(&fixture, "other", me(), options).unwrap_err().to_string();
    assert!(error.contains("registry-1.docker.io"), "{error}");
}

#[test]
fn all_tags_of_a_repository_are_pulled() {
    let (one, two) = (layer("one"), layer("two"));
    let mut all = remote(&[&one]);
    let second = remote(&[&one, &two]);
    all.put_manifest("v2", OCI_MANIFEST, &second.manifest);
    all.stored.extend(second.stored.into_iter().filter(|(path, _)| path.contains("/blobs/")));
    all.stored.insert(
        "/v2/app/tags/list".into(),
        Response::new(200, r#"{"name":"app","tags":["latest"]}"#)
            .header("Link", "</v2/app/tags/list?last=latest>; rel=\"next\""),
    );
    all.stored.insert(
        "/v2/app/tags/list?last=latest".into(),
        Response::new(200, r#"{"name":"app","tags":["v2"]}"#),
    );
    let server = Server::of(all.stored);
    let fixture = Fixture::new();
    let request = PullRequest {
        reference: server.reference("app").parse().unwrap(),
        all_tags: true,
        platform: None,
        credentials: Credentials::default(),
    };
    let pulled = run(async {
        registry(RegistryOptions::default())
            .pull(&fixture.library, request, &ProgressSink::nowhere())
            .await
            .unwrap()
    });
    assert_eq!(pulled.len(), 2);
    assert!(fixture.library.find(&server.reference("app:v2")).is_ok());
}

#[test]
fn two_pulls_of_the_same_image_share_the_work() {
    let bytes = layer("file");
    let remote = remote(&[&bytes]);
    let blob = format!("/v2/app/blobs/{}", remote.blobs[0]);
    let server = Server::of(remote.stored);
    let fixture = Fixture::new();
    let name = server.reference("app");
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| pull(&fixture, &name).unwrap())).collect();
        workers.into_iter().for_each(|worker| drop(worker.join().unwrap()));
    });
    assert_eq!(server.paths().iter().filter(|path| **path == blob).count(), 1);
}
