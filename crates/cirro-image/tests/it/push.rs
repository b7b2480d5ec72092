//! Pushing, to Debian's docker-registry and to one that is difficult.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cirro_image::{Credentials, Progress, ProgressSink, RegistryError, RegistryOptions};
use cirro_types::ImageReference;
use tokio::sync::mpsc;

use crate::archive::{Fixture, Tar, docker_archive, noise, read};
use crate::server::{Response, Server, pull, registry, remote, run};

/// Debian's registry on a free port.
pub(crate) struct Distribution {
    pub(crate) address: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Distribution {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let configuration = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: {address}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, configuration).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry is installed (make deps)");
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < end, "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { address, child, _dir: dir }
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes a name and returns the lines that were told.
fn push(fixture: &Fixture, name: &str) -> Result<Vec<Progress>, RegistryError> {
    let reference: ImageReference = name.parse().unwrap();
    let (sender, mut receiver) = mpsc::channel(4096);
    run(async {
        let progress = ProgressSink::new(sender);
        registry(RegistryOptions::default())
            .push(&fixture.library, &reference, false, &Credentials::default(), &progress)
            .await
    })?;
    let mut lines = Vec::new();
    while let Ok(line) = receiver.try_recv() {
        lines.push(line);
    }
    Ok(lines)
}

fn states(lines: &[Progress]) -> Vec<String> {
    let state = |line: &Progress| match line {
        Progress::Layer { status, bytes: None, .. } if status != "Preparing" => Some(status.clone()),
        _ => None,
    };
    let mut states: Vec<_> = lines.iter().filter_map(state).collect();
    states.sort();
    states
}

fn digest_of(lines: &[Progress]) -> String {
    let pushed = |line: &Progress| match line {
        Progress::Pushed { digest, .. } => Some(digest.to_string()),
        _ => None,
    };
    lines.iter().find_map(pushed).unwrap()
}

fn tag(fixture: &Fixture, from: &str, to: &str) {
    let id = fixture.library.find(from).unwrap().id;
    fixture.library.tag(&id, &to.parse().unwrap()).unwrap();
}

#[test]
fn what_was_loaded_is_pushed_and_pulled_again() {
    let distribution = Distribution::start();
    let fixture = Fixture::new();
    let layers = [Tar::new().file("one", &vec![7; 300_000]).end(), Tar::new().file("two", b"2").end()];
    let archive = docker_archive(&["app:1"], &[&layers[0], &layers[1]]);
    let id = fixture.load(&archive).unwrap()[0].id;
    let name = format!("{}/a/app:1", distribution.address);
    tag(&fixture, "app:1", &name);
    let lines = push(&fixture, &name).unwrap();
    assert_eq!(states(&lines), ["Pushed", "Pushed"]);
    let again = push(&fixture, &name).unwrap();
    assert_eq!(states(&again), ["Layer already exists", "Layer already exists"]);
    assert_eq!(digest_of(&lines), digest_of(&again));
    let elsewhere = format!("{}/b/app:1", distribution.address);
    tag(&fixture, "app:1", &elsewhere);
    let mounted = push(&fixture, &elsewhere).unwrap();
    assert_eq!(states(&mounted), ["Mounted from a/app", "Mounted from a/app"]);
    let names: Vec<_> = fixture.library.find("app:1").unwrap().tags.iter().map(ToString::to_string).collect();
    assert!(names.contains(&format!("{}/a/app@{}", distribution.address, digest_of(&lines))), "{names:?}");
    let fresh = Fixture::new();
    let pulled = pull(&fresh, &elsewhere).unwrap();
    assert_eq!((pulled[0].id, pulled[0].digest.to_string()), (id, digest_of(&lines)));
    let image = fresh.library.find(&elsewhere).unwrap();
    let dirs = fresh.library.layer_dirs(&image.config.rootfs.diff_ids).unwrap();
    assert_eq!(read(dirs[0].join("two")), "2");
}

#[test]
fn what_was_pulled_is_pushed_with_its_own_digests() {
    let layer = Tar::new().file("file", b"contents").end();
    let remote = remote(&[&layer]);
    let (manifest, server) = (remote.manifest.clone(), Server::of(remote.stored));
    let fixture = Fixture::new();
    let pulled = pull(&fixture, &server.reference("app")).unwrap();
    let distribution = Distribution::start();
    let name = format!("{}/mine:2", distribution.address);
    tag(&fixture, &server.reference("app"), &name);
    let lines = push(&fixture, &name).unwrap();
    assert_eq!(digest_of(&lines), pulled[0].digest.to_string());
    let fresh = Fixture::new();
    pull(&fresh, &name).unwrap();
    let (_, document) = fresh.library.manifest(&pulled[0].id).unwrap().unwrap();
    assert_eq!(document.as_bytes(), manifest);
}

#[test]
fn a_push_of_nothing_says_so() {
    let fixture = Fixture::new();
    let error = push(&fixture, "localhost:1/absent").unwrap_err().to_string();
    assert_eq!(error, "An image does not exist locally with the tag: localhost:1/absent");
    fixture.load(&docker_archive(&["127.0.0.1:1/app:1"], &[&Tar::new().end()])).unwrap();
    let error = push(&fixture, "127.0.0.1:1/app:1").unwrap_err().to_string();
    assert!(error.contains("connection refused"), "{error}");
}

#[test]
fn a_blob_goes_in_parts_where_one_request_is_too_long() {
    let received = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (taken, failed) = (received.clone(), AtomicBool::new(false));
    let server = Server::start(move |request| {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        match method {
            "HEAD" => Response::new(404, ""),
            "POST" => Response::new(202, "").header("Location", "/v2/app/blobs/uploads/one?state=a"),
            "PATCH" => {
                taken.lock().unwrap().extend_from_slice(&request.body);
                Response::new(202, "").header("Location", "/v2/app/blobs/uploads/one?state=b")
            }
            "PUT" if path.contains("/uploads/") && !request.body.is_empty() && request.body.len() > 5000 => {
                // Once the connection is lost, then the request is too long.
                match failed.swap(true, Ordering::Relaxed) {
                    false => Response { cut: Some(0), ..Response::new(201, "x") },
                    true => Response::new(413, ""),
                }
            }
            "PUT" => Response::new(201, ""),
            _ => Response::new(200, "{}"),
        }
    });
    let fixture = Fixture::new();
    let layer = Tar::new().file("noise", &noise(9_000_000)).end();
    let name = server.reference("app:1");
    fixture.load(&docker_archive(&[&name], &[&layer])).unwrap();
    push(&fixture, &name).unwrap();
    let image = fixture.library.find(&name).unwrap();
    let (digest, _) = fixture.library.blobs_of(&image.config.rootfs.diff_ids[0]).remove(0);
    assert_eq!(cirro_types::Digest::of(&received.lock().unwrap()), digest);
}
