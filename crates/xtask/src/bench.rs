//! Measurements of what docs/SPECIFICATION.md promises, beside the peers in the same run.
//!
//! Rounds of ours and the peer's alternate, so that a busy machine disturbs both; medians are compared.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

mod api;
mod build;
mod buildah;
mod builders;
pub(crate) mod cloud;
mod engine;
mod etcd;
mod images;
mod interrupted;
mod kubernetes;
mod null_registry;
mod peer;
mod pod;
mod processes;
mod registry;
mod runtime;

pub(crate) use buildah::Buildah;
pub(crate) use builders::Builders;
pub(crate) use cloud::Cloud;
pub(crate) use peer::Dockerd;

/// Which measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Which {
    /// `cirro up` until ready.
    Up,
    /// Idle memory of all processes.
    Memory,
    /// `docker run --rm --network none busybox true`, beside dockerd.
    Run,
    /// The engine beside dockerd: start, exec, many at once, memory, idle processor time.
    Engine,
    /// Loading and pulling an image, beside dockerd.
    Images,
    /// A pod from created to Running.
    Pod,
    /// A container's life by `cirro runtime`, beside libcontainer, crun and runc.
    Runtime,
    /// Push and pull with skopeo, beside docker-registry.
    Registry,
    /// Builds, beside dockerd's classic builder, buildah and tar.
    Build,
    /// The Kubernetes API, beside etcd.
    Api,
    /// All of them.
    All,
}

/// Runs measurements and prints a row for each.
pub(crate) fn run(which: Which, rounds: usize, binary: Option<PathBuf>) -> anyhow::Result<()> {
    ensure!(rounds > 0, "--rounds: want at least 1");
    let binary = binary.map_or_else(release_binary, |binary| Ok(std::path::absolute(binary)?))?;
    println!("| measure | cirro | peer | ratio |\n| --- | --- | --- | --- |");
    let wanted = |one| which == one || which == Which::All;
    if wanted(Which::Up) {
        up(&binary, rounds.min(10))?;
    }
    if wanted(Which::Memory) {
        memory(&binary)?;
    }
    if wanted(Which::Run) {
        docker_run(&binary, rounds)?;
    }
    if wanted(Which::Engine) {
        engine::measure(&binary, rounds)?;
    }
    if wanted(Which::Images) {
        images::measure(&binary, rounds.min(5))?;
    }
    if wanted(Which::Pod) {
        pod::measure(&binary, rounds.min(10))?;
    }
    if wanted(Which::Runtime) {
        runtime::measure(&binary, rounds)?;
    }
    if wanted(Which::Registry) {
        registry::measure(&binary, rounds.min(10))?;
    }
    if wanted(Which::Build) {
        build::measure(&binary, rounds.min(10))?;
    }
    if wanted(Which::Api) {
        kubernetes::measure(&binary, rounds)?;
    }
    Ok(())
}

fn up(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let cloud = Cloud::new(binary)?;
        let begun = Instant::now();
        cloud.start()?;
        times.push(begun.elapsed());
    }
    row("`cirro up --detach`, new data directory", &Times(times), None);
    Ok(())
}

fn memory(binary: &Path) -> anyhow::Result<()> {
    let cloud = Cloud::new(binary)?;
    cloud.start()?;
    std::thread::sleep(Duration::from_secs(5));
    let cpu = cloud.cpu_ticks()?;
    let window = Duration::from_secs(10);
    std::thread::sleep(window);
    let ticks = cloud.cpu_ticks()? - cpu;
    for (role, kilobytes) in cloud.memory()? {
        println!("| idle memory of {role} (PSS) | {:.1} MB | | |", kilobytes as f64 / 1000.0);
    }
    // USER_HZ is 100 on every Linux that we run on.
    println!("| idle processor time in {} s | {} ms | | |", window.as_secs(), ticks * 10);
    Ok(())
}

fn docker_run(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let archive = image("busybox")?;
    let cloud = Cloud::new(binary)?;
    cloud.start()?;
    let ours = cloud.docker_host();
    docker(&ours, &["load", "-q", "-i", &archive])?;
    let dockerd = Dockerd::start()?;
    docker(&dockerd.host, &["load", "-q", "-i", &archive])?;
    let words = ["run", "--rm", "--network", "none", "busybox", "true"];
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (one, two) = (timed(|| docker(&ours, &words))?, timed(|| docker(&dockerd.host, &words))?);
        // The first round warms both up.
        if round > 0 {
            a.push(one);
            b.push(two);
        }
    }
    row("`docker run --rm --network none busybox true`", &Times(a), Some((&dockerd.version, &Times(b))));
    Ok(())
}

/// Durations of one measurement.
struct Times(Vec<Duration>);

impl Times {
    fn sorted_milliseconds(&self) -> Vec<f64> {
        let mut times: Vec<f64> = self.0.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    fn median(&self) -> f64 {
        let times = self.sorted_milliseconds();
        times[times.len() / 2]
    }

    fn describe(&self) -> String {
        let times = self.sorted_milliseconds();
        format!(
            "{:.0} ms ({:.0} to {:.0}, n={})",
            self.median(),
            times[0],
            times[times.len() - 1],
            times.len()
        )
    }
}

fn row(name: &str, ours: &Times, peer: Option<(&str, &Times)>) {
    match peer {
        Some((version, times)) => {
            let ratio = ours.median() / times.median();
            println!("| {name} | {} | {version}: {} | {ratio:.2} |", ours.describe(), times.describe());
        }
        None => println!("| {name} | {} | | |", ours.describe()),
    }
}

fn timed(action: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    action()?;
    Ok(begun.elapsed())
}

/// Runs the docker CLI; returns what it said.
pub(crate) fn docker(host: &str, arguments: &[&str]) -> anyhow::Result<String> {
    said(Command::new("docker").env("DOCKER_HOST", host).args(arguments))
}

/// Runs a command to its end and returns what it said; an error carries its standard error.
pub(crate) fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a base image unless it is there; returns its archive's path.
pub(crate) fn image(name: &str) -> anyhow::Result<String> {
    Ok(said(Command::new("bash").arg(format!("images/{name}.sh")))?.trim().to_owned())
}

/// Builds the executable that is measured.
pub(crate) fn release_binary() -> anyhow::Result<PathBuf> {
    let built = crate::cargo().args(["build", "--release", "--package", "cirro"]).status()?;
    ensure!(built.success(), "cargo build --release failed");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(std::path::absolute(target.join("x86_64-unknown-linux-gnu/release/cirro"))?)
}

/// Ends a child that we started, by its process id.
fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = Command::new("kill").arg(pid.to_string()).status();
    }
    let _ = child.wait();
}
