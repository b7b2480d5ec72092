//! What an image comes to, in lines that can be compared.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use crate::bench::{Buildah, docker, said};

/// What an engine puts into every container, and what its own differs in.
const ENGINES: &str = "-path ./proc -o -path ./sys -o -path ./dev -o -path ./run/.containerenv -o -path ./.dockerenv \
    -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf -o -path ./etc/mtab";
/// Configuration that is compared.
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

/// What is built.
pub(super) struct Subject<'a> {
    pub(super) name: &'a str,
    pub(super) context: &'a Path,
    pub(super) arguments: &'a [String],
}

/// Builds with the docker CLI; returns the tag.
pub(super) fn build(subject: &Subject<'_>, host: &str) -> anyhow::Result<String> {
    let tag = format!("corpus-{}", subject.name);
    let mut command = Command::new("docker");
    command.env("DOCKER_HOST", host).env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", &tag]);
    if !subject.arguments.iter().any(|word| word.starts_with("--network")) {
        command.args(["--network", "none"]);
    }
    // A relative `--file` is of the caller's directory.
    command.current_dir(subject.context);
    said(command.args(subject.arguments).arg(subject.context)).with_context(|| format!("build on {host}"))?;
    Ok(tag)
}

/// An image in lines.
pub(super) struct Built {
    tree: BTreeSet<String>,
    config: BTreeSet<String>,
}

impl Built {
    /// Builds over the Docker API and takes the image apart.
    pub(super) fn by_docker(subject: &Subject<'_>, host: &str, into: &Path) -> anyhow::Result<Self> {
        let tag = build(subject, host)?;
        let container = docker(host, &["create", &tag, "none"])?;
        let script = r#"mkdir "$3"; docker -H "$1" export "$2" | tar -C "$3" -x"#;
        said(Command::new("bash").args(["-euc", script, "export", host, container.trim()]).arg(into))?;
        docker(host, &["rm", "-v", container.trim()])?;
        let image: Value = serde_json::from_str(&docker(host, &["inspect", &tag])?)?;
        let mut config = fields(&image[0]["Config"], &image[0]["Author"]);
        let history = docker(host, &["history", "-q", &tag])?.lines().count();
        config.insert(format!("history={history}"));
        Ok(Self { tree: tree(into)?, config })
    }

    /// Builds with buildah and takes the image apart.
    pub(super) fn by_buildah(subject: &Subject<'_>, buildah: &Buildah) -> anyhow::Result<Self> {
        let tag = format!("localhost/corpus-{}", subject.name);
        buildah.build_as(&tag, subject.arguments, subject.context)?;
        let container = said(buildah.command().args(["from", "--pull-never", &tag]))?;
        let root = said(buildah.command().args(["mount", container.trim()]))?;
        let tree = tree(Path::new(root.trim()));
        said(buildah.command().args(["rm", container.trim()]))?;
        let image: Value =
            serde_json::from_str(&said(buildah.command().args(["inspect", "--type", "image", &tag]))?)?;
        let mut config = image["Docker"]["config"].clone();
        // Its own mark.
        config["Labels"].as_object_mut().and_then(|labels| labels.remove("io.buildah.version"));
        Ok(Self { tree: tree?, config: fields(&config, &image["Docker"]["author"]) })
    }

    /// Forgets the number of history entries, where builders are not to agree.
    pub(super) fn without_history(mut self) -> Self {
        self.config.retain(|line| !line.starts_with("history="));
        self
    }

    /// Whether a line begins like that.
    pub(super) fn has(&self, line: &str) -> bool {
        self.tree.iter().chain(&self.config).any(|found| found.starts_with(line))
    }

    /// Returns lines that only one of the two has.
    pub(super) fn differences(&self, theirs: &Self, name: &str) -> Vec<String> {
        let sides = [("cirro", self, theirs), (name, theirs, self)];
        let only = sides.into_iter().flat_map(|(who, a, b)| {
            a.tree
                .difference(&b.tree)
                .chain(a.config.difference(&b.config))
                .map(move |line| format!("only {who}: {line}"))
        });
        only.collect()
    }
}

/// The configuration, a field in a line. What is not there, null and empty are the same.
fn fields(config: &Value, author: &Value) -> BTreeSet<String> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let fields = FIELDS.iter().map(|name| (*name, &config[*name])).chain([("Author", author)]);
    fields.filter(|(_, value)| !is_empty(value)).map(|(name, value)| format!("{name}={value}")).collect()
}

/// Kind, mode, owner, size, link and content of each file; times where they are not of today.
fn tree(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let script = format!(
        r#"cd "$1"
        find . -mindepth 1 \( {ENGINES} \) -prune -o \( -type f -printf '%P %y %m %U %G %s %n sha:' -exec sh -c 'sha256sum <"$1" | cut -c1-64' sh {{}} \; \) \
            -o \( -type d -printf '%P %y %m %U %G\n' \) -o -printf '%P %y %m %U %G %l\n'
        find . -mindepth 1 \( {ENGINES} \) -prune -o ! -type d ! -newermt 2020-01-01 -printf '%P at %Ts\n'"#
    );
    let lines = said(Command::new("bash").args(["-euc", &script, "tree"]).arg(root))?;
    Ok(lines.lines().map(str::to_owned).collect())
}
