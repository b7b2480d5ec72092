//! A real client over a real socket.

use std::path::Path;
use std::process::Command;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, sha256};

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(arguments).output().expect("skopeo is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes an image as skopeo's `dir:` keeps it.
fn write_image(dir: &Path) {
    let tar = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "file", &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        sha256(&tar)
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        sha256(config.as_bytes()),
        config.len(),
        sha256(&tar),
        tar.len()
    );
    for (name, bytes) in [
        ("version", &b"Directory Transport Version: 1.1\n"[..]),
        ("manifest.json", manifest.as_bytes()),
        (sha256(config.as_bytes()).trim_start_matches("sha256:"), config.as_bytes()),
        (sha256(&tar).trim_start_matches("sha256:"), &tar),
    ] {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_pushes_lists_copies_pulls_and_deletes() {
    let registry = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(cirro_registry::serve(
        registry.registry.clone(),
        listener,
        stop.clone().cancelled_owned(),
    ));
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| format!("dir:{}", dir.path().join(name).display());
    std::fs::create_dir(dir.path().join("image")).unwrap();
    write_image(&dir.path().join("image"));
    let image = |name: &str| format!("docker://{host}/{name}");
    let done = {
        let (from, copied, pulled) = (place("image"), place("copied"), place("pulled"));
        let (one, two, all) = (image("a/one:v1"), image("a/two:v1"), image("a/one"));
        tokio::task::spawn_blocking(move || {
            let copy = [
                "copy",
                "-q",
                "--insecure-policy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--preserve-digests",
            ];
            let copy = |from: &str, to: &str| skopeo(&[&copy[..], &[from, to]].concat());
            copy(&from, &one);
            // Within the registry the blob is mounted.
            copy(&one, &two);
            copy(&two, &pulled);
            assert!(skopeo(&["list-tags", "--tls-verify=false", &all]).contains("v1"));
            let found = skopeo(&["inspect", "--tls-verify=false", "--raw", &one]);
            // Converted on the way: the client compresses and writes Docker's manifest.
            skopeo(&[
                "copy",
                "-q",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--format",
                "v2s2",
                &from,
                &one,
            ]);
            skopeo(&["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &one, &copied]);
            skopeo(&["delete", "--tls-verify=false", &two]);
            found
        })
    };
    let found = done.await.unwrap();
    let original = std::fs::read_to_string(dir.path().join("image/manifest.json")).unwrap();
    assert_eq!(found, original);
    assert_eq!(std::fs::read_to_string(dir.path().join("pulled/manifest.json")).unwrap(), original);
    registry.get("/v2/a/two/manifests/v1").await.expect(404);
    stop.cancel();
    serving.await.unwrap();
}
