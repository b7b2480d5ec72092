//! Push and pull of an image of 200 MB in 8 layers with skopeo, beside Debian's docker-registry; 64 clients at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::cloud::Cloud;
use super::null_registry::NullRegistry;
use super::peer::DockerRegistry;
use super::{Times, row, said};

const LAYERS: usize = 8;
const LAYER_MEGABYTES: usize = 25;
const CLIENTS: usize = 64;

/// Measures pushes and pulls, each into an empty registry, then many clients at once.
pub(super) fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let image = make_image(work.path())?;
    let (mut pushes, mut pulls) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let mut floor = (Vec::new(), Vec::new());
    let mut version = String::new();
    for round in 0..=rounds {
        let cloud = Cloud::new(binary)?;
        cloud.start()?;
        let ours = push_and_pull(&cloud.registry()?, &image, work.path())?;
        if round == rounds {
            many(&cloud)?;
        }
        drop(cloud);
        let peer = DockerRegistry::start()?;
        let theirs = push_and_pull(&peer.address, &image, work.path())?;
        version.clone_from(&peer.version);
        drop(peer);
        let nothing = NullRegistry::start(&image)?;
        let alone = push_and_pull(&nothing.address, &image, work.path())?;
        // The first round warms the page cache up.
        if round > 0 {
            pushes.0.push(ours.0);
            pushes.1.push(theirs.0);
            pulls.0.push(ours.1);
            pulls.1.push(theirs.1);
            floor.0.push(alone.0);
            floor.1.push(alone.1);
        }
    }
    let size = format!("{} MB, {LAYERS} layers", LAYERS * LAYER_MEGABYTES);
    row(
        &format!("`skopeo copy` to the registry, {size}"),
        &Times(pushes.0),
        Some((&version, &Times(pushes.1))),
    );
    row(
        &format!("`skopeo copy` from the registry, {size}"),
        &Times(pulls.0),
        Some((&version, &Times(pulls.1))),
    );
    row("the push to a server that checks and keeps nothing: what skopeo takes", &Times(floor.0), None);
    row("the pull from it", &Times(floor.1), None);
    Ok(())
}

/// Makes an image whose layers do not compress, as skopeo's directory.
fn make_image(work: &Path) -> anyhow::Result<PathBuf> {
    let script = r#"
        mkdir "$1/image" && cd "$1/image"
        printf 'Directory Transport Version: 1.1\n' >version
        digest() { sha256sum "$1" | cut -d' ' -f1; }
        layers= diffs=
        for i in $(seq "$2"); do
            head -c "$3"M /dev/urandom >data && tar cf layer.tar data && gzip -1 -c layer.tar >layer
            hex=$(digest layer)
            diffs="$diffs${diffs:+,}\"sha256:$(digest layer.tar)\""
            layers="$layers${layers:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:$hex\",\"size\":$(stat -c %s layer)}"
            mv layer "$hex"
        done
        rm data layer.tar
        printf '{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":[%s]}}' "$diffs" >config
        hex=$(digest config)
        size=$(stat -c %s config)
        mv config "$hex"
        printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[%s]}' "$hex" "$size" "$layers" >manifest.json
    "#;
    let (count, size) = (LAYERS.to_string(), LAYER_MEGABYTES.to_string());
    said(Command::new("bash").args(["-euc", script, "image"]).arg(work).args([count, size]))?;
    Ok(work.join("image"))
}

fn push_and_pull(registry: &str, image: &Path, work: &Path) -> anyhow::Result<(Duration, Duration)> {
    let pulled = work.join("pulled");
    let name = format!("docker://{registry}/bench:v1");
    let (from, to) = (format!("dir:{}", image.display()), format!("dir:{}", pulled.display()));
    let copy = |words: &[&str]| {
        let begun = Instant::now();
        said(
            Command::new("skopeo")
                .args(["copy", "-q", "--insecure-policy", "--preserve-digests"])
                .args(words),
        )?;
        anyhow::Ok(begun.elapsed())
    };
    let push = copy(&["--dest-tls-verify=false", &from, &name])?;
    let pull = copy(&["--src-tls-verify=false", &name, &to])?;
    std::fs::remove_dir_all(&pulled)?;
    Ok((push, pull))
}

/// Has many clients pull the same layer at once: what comes through in all, and what it costs in memory.
fn many(cloud: &Cloud) -> anyhow::Result<()> {
    let address = cloud.registry()?;
    let manifest = get(&address, "/v2/bench/manifests/v1")?;
    let text = String::from_utf8_lossy(&manifest);
    let layers = text.split("\"layers\"").nth(1).context("layers in the manifest")?;
    let digest =
        layers.split("\"digest\":\"").nth(1).and_then(|rest| rest.split('"').next()).context("a digest")?;
    let path = format!("/v2/bench/blobs/{digest}");
    let begun = Instant::now();
    let bytes: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| drain(&address, &path))).collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("no client panics"))
            .sum::<anyhow::Result<u64>>()
    })?;
    let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let peak = cloud.daemon_peak()?;
    println!(
        "| {CLIENTS} clients pull {} MB at once | {rate:.0} MB/s, daemon's peak {:.0} MB | | |",
        bytes / 1_000_000,
        peak as f64 / 1000.0
    );
    Ok(())
}

fn ask(address: &str, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    ask(address, path)?.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer));
    Ok(answer)
}

fn drain(address: &str, path: &str) -> anyhow::Result<u64> {
    Ok(std::io::copy(&mut ask(address, path)?, &mut std::io::sink())?)
}
