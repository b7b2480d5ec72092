//! Our own Dockerfiles built by cirro and by dockerd's classic builder: file trees, configuration and history must be
//! the same. What the classic builder does not know is compared with lines that are checked in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::bench::{Cloud, Dockerd, docker, image, said};

const CORPUS: &str = "tests/corpus/dockerfiles";
/// What an engine puts into every container, and what its own differs in.
const ENGINES: &str = "-path ./proc -o -path ./sys -o -path ./dev -o -path ./.dockerenv -o -path ./etc/hosts \
    -o -path ./etc/hostname -o -path ./etc/resolv.conf -o -path ./etc/mtab";
/// Configuration that is compared, a field in a line. Of a list that is not there Go says `null`, as of an empty one.
const FIELDS: &[&str] = &[
    "Env",
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "User",
    "Labels",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
];

/// Builds and compares all; prints what differs.
pub(super) fn run(binary: &Path) -> anyhow::Result<()> {
    let archive = image("busybox")?;
    let cloud = Cloud::new(binary)?;
    cloud.start_roles("engine,faces")?;
    let dockerd = Dockerd::start()?;
    for host in [&cloud.docker_host(), &dockerd.host] {
        docker(host, &["load", "-q", "-i", &archive])?;
    }
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(CORPUS)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    cases.retain(|case| case.is_dir());
    cases.sort();
    let mut failed = Vec::new();
    for case in &cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let differences =
            try_case(case, &name, &cloud, &dockerd).unwrap_or_else(|error| vec![format!("{error:#}")]);
        println!("{name}: {}", if differences.is_empty() { "the same" } else { "differs" });
        differences.iter().for_each(|line| println!("    {line}"));
        if !differences.is_empty() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("{} of {} differ: {}", failed.len(), cases.len(), failed.join(" "));
    }
    println!("{} Dockerfiles, all as {}", cases.len(), dockerd.version);
    Ok(())
}

/// Returns what differs in one case.
fn try_case(case: &Path, name: &str, cloud: &Cloud, dockerd: &Dockerd) -> anyhow::Result<Vec<String>> {
    let work = tempfile::tempdir()?;
    let context = work.path().join("context");
    let script = r#"umask 022; mkdir "$2"; cp "$1/Dockerfile" "$2"; cd "$2"; [ ! -e "$1/setup" ] || bash -eu "$1/setup""#;
    let case = std::path::absolute(case)?;
    said(Command::new("bash").args(["-euc", script, "setup"]).args([&case, &context]))?;
    let ours = Built::new(&cloud.docker_host(), name, &context, &work.path().join("ours"))?;
    if let Ok(expected) = std::fs::read_to_string(case.join("expected")) {
        let has = |line: &&str| ours.tree.iter().chain(&ours.config).any(|found| found.starts_with(*line));
        return Ok(expected
            .lines()
            .filter(|line| !has(line))
            .map(|line| format!("missing: {line}"))
            .collect());
    }
    let theirs = Built::new(&dockerd.host, name, &context, &work.path().join("theirs"))?;
    Ok(ours.differences(&theirs))
}

/// What an image comes to, in lines that can be compared.
struct Built {
    tree: BTreeSet<String>,
    config: Vec<String>,
}

impl Built {
    fn new(host: &str, name: &str, context: &Path, into: &Path) -> anyhow::Result<Self> {
        let tag = format!("corpus-{name}");
        let mut build = Command::new("docker");
        build.env("DOCKER_HOST", host).env("DOCKER_BUILDKIT", "0");
        said(build.args(["build", "-q", "-t", &tag]).arg(context))
            .with_context(|| format!("build on {host}"))?;
        let container = docker(host, &["create", &tag, "none"])?;
        let script = format!(
            r#"mkdir "$3"; docker -H "$1" export "$2" | tar -C "$3" -x; cd "$3"
            find . -mindepth 1 \( {ENGINES} \) -prune -o \( -type f -printf '%P %y %m %U %G %s sha:' -exec sh -c 'sha256sum <"$1" | cut -c1-64' sh {{}} \; \) \
                -o \( -type d -printf '%P %y %m %U %G\n' \) -o -printf '%P %y %m %U %G %l\n'
            find . -mindepth 1 \( {ENGINES} \) -prune -o ! -type d ! -newermt 2020-01-01 -printf '%P at %Ts\n'"#
        );
        let tree =
            said(Command::new("bash").args(["-euc", &script, "tree", host, container.trim()]).arg(into))?;
        docker(host, &["rm", container.trim()])?;
        let format: String =
            FIELDS.iter().map(|field| format!("{field}={{{{json .Config.{field}}}}}\n")).collect();
        let config = docker(host, &["inspect", "-f", &format!("{format}Author={{{{json .Author}}}}"), &tag])?;
        let history = docker(host, &["history", "-q", &tag])?.lines().count();
        let plain = |line: &str| {
            let line = line.trim_end_matches("=null").trim_end_matches("={}").trim_end_matches("=[]");
            line.trim_end_matches("=\"\"").to_owned()
        };
        let config = config.lines().map(plain).chain([format!("history={history}")]).collect();
        Ok(Self { tree: tree.lines().map(str::to_owned).collect(), config })
    }

    fn differences(&self, theirs: &Self) -> Vec<String> {
        let mut said: Vec<String> =
            self.tree.difference(&theirs.tree).map(|line| format!("only cirro: {line}")).collect();
        said.extend(theirs.tree.difference(&self.tree).map(|line| format!("only dockerd: {line}")));
        let pairs = self.config.iter().zip(&theirs.config).filter(|(ours, theirs)| ours != theirs);
        said.extend(pairs.map(|(ours, theirs)| format!("cirro {ours}, dockerd {theirs}")));
        said
    }
}
