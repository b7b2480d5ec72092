//! `docker load` and `docker pull` of an image of 200 MB, beside dockerd: 8 layers of the files that this machine has.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::cloud::Cloud;
use super::peer::{DockerRegistry, Dockerd};
use super::{Times, docker, row, said, timed};

const NAME: &str = "bench:v1";
const LAYERS: usize = 8;
const LAYER_BYTES: u64 = 25_000_000;
/// Larger files than that would make layers of one file.
const LARGEST_FILE: u64 = 2_000_000;

/// Measures both in turns; an image is loaded, removed, pulled and removed again, each time into an engine that has nothing.
pub(super) fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let archive = make_archive(work.path())?;
    let files = work.path().join("registry");
    let dockerd = Dockerd::start_with_bridge()?;
    // One for each network, over the same files.
    let near = DockerRegistry::start_over(&files, None)?;
    let far = DockerRegistry::start_over(&files, Some(&dockerd.namespace))?;
    let target = format!("docker://{}/{NAME}", near.address);
    let source = format!("docker-archive:{}", archive.display());
    said(Command::new("skopeo").args([
        "copy",
        "-q",
        "--insecure-policy",
        "--dest-tls-verify=false",
        &source,
        &target,
    ]))?;
    let (mut loads, mut pulls) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for round in 0..=rounds {
        let cloud = Cloud::new(binary)?;
        cloud.start_roles("engine,faces")?;
        let ours = load_and_pull(&cloud.docker_host(), &archive, &near.address)?;
        drop(cloud);
        let theirs = load_and_pull(&dockerd.host, &archive, &far.address)?;
        // The first round warms the page cache up.
        if round > 0 {
            loads.0.push(ours.0);
            loads.1.push(theirs.0);
            pulls.0.push(ours.1);
            pulls.1.push(theirs.1);
        }
    }
    let size = format!("{} MB, {LAYERS} layers", LAYERS as u64 * LAYER_BYTES / 1_000_000);
    row(&format!("`docker load`, {size}"), &Times(loads.0), Some((&dockerd.version, &Times(loads.1))));
    row(&format!("`docker pull`, {size}"), &Times(pulls.0), Some((&dockerd.version, &Times(pulls.1))));
    Ok(())
}

fn load_and_pull(host: &str, archive: &Path, registry: &str) -> anyhow::Result<(Duration, Duration)> {
    let archive = archive.to_str().context("a path in UTF-8")?;
    let load = timed(|| docker(host, &["load", "-q", "-i", archive]))?;
    docker(host, &["rmi", "-f", NAME])?;
    // What the engine still collects in the background is not part of the pull.
    said(Command::new("sync").arg("-f").arg(archive))?;
    let name = format!("{registry}/{NAME}");
    let pull = timed(|| docker(host, &["pull", "-q", &name]))?;
    docker(host, &["rmi", "-f", &name])?;
    Ok((load, pull))
}

/// Makes the archive as `docker save` writes it.
fn make_archive(work: &Path) -> anyhow::Result<PathBuf> {
    let directory = work.join("image");
    std::fs::create_dir(&directory)?;
    let mut files = files_of(Path::new("/usr"))?.into_iter();
    let (mut diff_ids, mut names) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let name = format!("{number}.tar");
        let list = work.join("list");
        let mut list_file = std::fs::File::create(&list)?;
        let mut bytes = 0;
        while bytes < LAYER_BYTES {
            let (path, size) = files.next().context("/usr has too few files")?;
            writeln!(list_file, "{}", path.strip_prefix("/").expect("absolute").display())?;
            bytes += size;
        }
        let layer = directory.join(&name);
        said(Command::new("tar").args(["--sort=none", "-C", "/", "-cf"]).arg(&layer).arg("-T").arg(&list))?;
        let digest = said(Command::new("sha256sum").arg(&layer))?;
        diff_ids.push(format!("sha256:{}", digest.split_whitespace().next().context("a digest")?));
        names.push(name);
    }
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    std::fs::write(directory.join("config.json"), config.to_string())?;
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": names }]);
    std::fs::write(directory.join("manifest.json"), manifest.to_string())?;
    let archive = work.join("image.tar");
    said(Command::new("tar").arg("-C").arg(&directory).arg("-cf").arg(&archive).arg("."))?;
    std::fs::remove_dir_all(&directory)?;
    Ok(archive)
}

/// Regular files below a directory with their sizes, in an order of their own but the same each time.
fn files_of(directory: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let listed = said(Command::new("find").arg(directory).args([
        "-xdev",
        "-type",
        "f",
        "-links",
        "1",
        "-size",
        &format!("-{}c", LARGEST_FILE + 1),
        "-printf",
        r"%s %p\n",
    ]))?;
    let mut files: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, path)| path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'))
        .filter_map(|(size, path)| Some((PathBuf::from(path), size.parse().ok()?)))
        .collect();
    ensure!(!files.is_empty(), "{}: no files", directory.display());
    files.sort();
    Ok(files)
}
