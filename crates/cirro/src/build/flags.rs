//! Flags of `cirro build`: those of `docker build`, with their meaning.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use cirro_types::ImageReference;
use clap::Args;

use super::context::{Source, is_remote};
use super::order::{Order, Secret};

/// Bytes of a secret, as with BuildKit.
const MAX_SECRET: u64 = 500 << 10;
const MAX_DOCKERFILE: u64 = 4 << 20;
const DOCKERFILE: &str = "Dockerfile";

/// Flags of `cirro build`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Flags {
    /// Directory, git repository or address of the context; `-` reads a tar or a Dockerfile from standard input
    context: String,
    /// Dockerfile; `-` reads it from standard input [default: CONTEXT/Dockerfile]
    #[arg(long, short, value_name = "FILE")]
    file: Option<String>,
    /// Name of the image; may be repeated
    #[arg(long, short, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// Value of an ARG, without one the variable's of that name; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Stage to stop at
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Carry every step out
    #[arg(long)]
    no_cache: bool,
    /// Fetch the images to build on even when they are here
    #[arg(long)]
    pull: bool,
    /// Label of the image; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Network of RUN: default, none or host
    #[arg(long, default_value = "default", value_name = "MODE")]
    network: String,
    /// Line of /etc/hosts for RUN; may be repeated
    #[arg(long, value_name = "HOST:ADDRESS")]
    add_host: Vec<String>,
    /// Memory of each RUN, such as 512m
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,
    /// Platform of the image; only this host's can be built
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Secret that RUN --mount=type=secret may see: id=NAME[,src=FILE|,env=VARIABLE]; may be repeated
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Agent that RUN --mount=type=ssh may ask: default or NAME[=SOCKET]; may be repeated
    #[arg(long, value_name = "AGENT")]
    ssh: Vec<String>,
    /// File that gets the image's id
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,
    /// Say for each step that is carried out why it was not cached
    #[arg(long)]
    pub(super) why: bool,
    /// How to say what is done
    #[arg(long, value_enum, default_value = "plain")]
    progress: Form,
    /// Say nothing but the image's id
    #[arg(long, short)]
    quiet: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// Steps, their output, times.
    #[default]
    #[value(alias = "auto", alias = "tty")]
    Plain,
    /// Only the image's id.
    Quiet,
}

impl Flags {
    /// Returns how progress is shown.
    pub(super) fn progress(&self) -> Form {
        if self.quiet { Form::Quiet } else { self.progress }
    }

    /// Turns flags and environment into what the daemon is asked for, and where the context comes from.
    pub(super) fn order(&self) -> anyhow::Result<(Order, Source)> {
        for tag in &self.tag {
            let parsed = tag.parse::<ImageReference>();
            ensure!(parsed.is_ok_and(|tag| tag.digest.is_none()), "--tag {tag}: invalid reference format");
        }
        let mut order = Order {
            tags: self.tag.clone(),
            build_args: build_args(&self.build_arg),
            labels: self.label.iter().map(|label| pair(label)).collect(),
            target: self.target.clone(),
            pull: self.pull,
            no_cache: self.no_cache,
            network: self.network.clone(),
            extra_hosts: self.add_host.clone(),
            memory: self.memory.as_deref().map(memory).transpose()?,
            secrets: self.secret.iter().map(|text| secret(text)).collect::<Result<_, _>>()?,
            ssh: self.ssh.iter().map(|text| agent(text)).collect::<Result<_, _>>()?,
            ..Order::default()
        };
        if let Some(platform) = &self.platform {
            // BuildKit's automatic arguments follow it; what cannot be built is refused by the daemon.
            order.build_args.insert("TARGETPLATFORM".into(), Some(platform.clone()));
            check_platform(platform)?;
        }
        let source = self.place(&mut order)?;
        Ok((order, source))
    }

    /// Finds context and Dockerfile.
    fn place(&self, order: &mut Order) -> anyhow::Result<Source> {
        let from_stdin = self.file.as_deref() == Some("-");
        order.dockerfile = self.file.clone().filter(|_| !from_stdin).unwrap_or_else(|| DOCKERFILE.to_owned());
        if from_stdin {
            ensure!(self.context != "-", "standard input cannot be both the Dockerfile and the context");
            order.dockerfile_text = Some(text("standard input", std::io::stdin())?);
        }
        order.origin.clone_from(&self.context);
        if self.context == "-" {
            return Ok(Source::Stdin);
        }
        if is_remote(&self.context) {
            order.remote = Some(self.context.clone());
            return Ok(Source::None);
        }
        let dir =
            std::fs::canonicalize(&self.context).with_context(|| format!("context {}", self.context))?;
        ensure!(dir.is_dir(), "context {}: not a directory", self.context);
        order.origin = dir.display().to_string();
        if let Some(file) = self.file.as_ref().filter(|_| !from_stdin) {
            find_dockerfile(order, &dir, Path::new(file))?;
        }
        Ok(Source::Directory(dir))
    }
}

/// Takes the Dockerfile from the context if it is in there, else its text.
fn find_dockerfile(order: &mut Order, dir: &Path, file: &Path) -> anyhow::Result<()> {
    let shown = file.display();
    let real = std::fs::canonicalize(file).with_context(|| format!("Dockerfile {shown}"))?;
    // A link in the context may lead out of it: what it leads to is sent as text.
    if let Ok(inside) = real.strip_prefix(dir) {
        order.dockerfile =
            inside.to_str().with_context(|| format!("{shown}: the name is not UTF-8"))?.to_owned();
        return Ok(());
    }
    let open = |path: &Path| std::fs::File::open(path);
    order.dockerfile_text = Some(text(&shown.to_string(), open(&real)?)?);
    let mut ignore = file.as_os_str().to_owned();
    ignore.push(".dockerignore");
    if let Ok(file) = open(Path::new(&ignore)) {
        order.ignore_text = Some(text(&ignore.to_string_lossy(), file)?);
    }
    order.dockerfile = file.to_string_lossy().into_owned();
    Ok(())
}

fn text(name: &str, source: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    source.take(MAX_DOCKERFILE + 1).read_to_string(&mut text).with_context(|| format!("read {name}"))?;
    ensure!(text.len() as u64 <= MAX_DOCKERFILE, "{name}: more than {MAX_DOCKERFILE} bytes");
    Ok(text)
}

/// A name without a value gets the variable's of that name; without that it is not given.
fn build_args(texts: &[String]) -> BTreeMap<String, Option<String>> {
    let arg = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.clone(), std::env::var(text).ok()),
    };
    texts.iter().map(arg).collect()
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

fn memory(text: &str) -> anyhow::Result<i64> {
    let bytes = cirro_types::parse_byte_size(text).and_then(|bytes| i64::try_from(bytes).ok());
    bytes.with_context(|| format!("--memory {text}: not a size"))
}

fn check_platform(platform: &str) -> anyhow::Result<()> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let known = [format!("linux/{architecture}"), architecture.to_owned(), "linux".to_owned()];
    ensure!(
        known.iter().any(|known| known == platform),
        "--platform {platform}: not supported, images are built for linux/{architecture}"
    );
    Ok(())
}

/// Reads `id=NAME[,src=FILE|,env=VARIABLE]`.
fn secret(text: &str) -> anyhow::Result<(String, Secret)> {
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .with_context(|| format!("--secret {text}: {field:?} is not a key=value pair"))?;
        match key.to_ascii_lowercase().as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            "type" if ["file", "env"].contains(&value) => kind = Some(value),
            _ => bail!("--secret {text}: unexpected {field:?}"),
        }
    }
    let id = id.filter(|id| !id.is_empty()).with_context(|| format!("--secret {text}: it has no id"))?;
    // With type=env, `src` names a variable.
    if kind == Some("env") {
        variable = variable.or(file.take()).or(Some(id));
    }
    let content = match (file, variable) {
        (Some(file), None) => secret_file(file)?,
        (None, Some(name)) => {
            secret_variable(name).with_context(|| format!("--secret {text}: {name} is not set"))?
        }
        (None, None) => match secret_variable(id).filter(|_| kind != Some("file")) {
            Some(content) => content,
            None => secret_file(id)?,
        },
        (Some(_), Some(_)) => bail!("--secret {text}: both a file and a variable"),
    };
    ensure!(content.len() as u64 <= MAX_SECRET, "--secret id={id}: more than {MAX_SECRET} bytes");
    Ok((id.to_owned(), Secret(content)))
}

fn secret_file(path: &str) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("secret {path}"))?;
    file.take(MAX_SECRET + 1).read_to_end(&mut content).with_context(|| format!("secret {path}"))?;
    Ok(content)
}

fn secret_variable(name: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;
    std::env::var_os(name).map(std::ffi::OsString::into_vec)
}

/// Reads `default` or `NAME[=SOCKET]`.
fn agent(text: &str) -> anyhow::Result<(String, PathBuf)> {
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id, PathBuf::from(path)),
        None => {
            let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
            (
                text,
                socket
                    .with_context(|| format!("--ssh {text}: SSH_AUTH_SOCK is not set: start an agent"))?
                    .into(),
            )
        }
    };
    let kind = std::fs::metadata(&path).with_context(|| format!("--ssh {text}"))?.file_type();
    ensure!(
        kind.is_socket(),
        "--ssh {text}: {} is not an agent's socket; private keys are not supported, add them to an agent",
        path.display()
    );
    Ok((id.to_owned(), std::fs::canonicalize(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(context: &Path) -> Flags {
        Flags { context: context.to_str().unwrap().into(), network: "default".into(), ..Flags::default() }
    }

    #[test]
    fn a_dockerfile_is_found_in_the_context_and_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("context");
        std::fs::create_dir_all(context.join("deep")).unwrap();
        std::fs::write(context.join("deep/file"), "FROM scratch").unwrap();
        std::fs::write(dir.path().join("other"), "FROM outside").unwrap();
        std::fs::write(dir.path().join("other.dockerignore"), "*").unwrap();
        let at = |path: PathBuf| Flags { file: Some(path.to_str().unwrap().into()), ..flags(&context) };
        let (order, source) = at(context.join("deep/file")).order().unwrap();
        assert_eq!((order.dockerfile.as_str(), order.dockerfile_text), ("deep/file", None));
        assert!(matches!(source, Source::Directory(_)));
        let (order, _) = at(dir.path().join("other")).order().unwrap();
        assert_eq!(order.dockerfile_text.as_deref(), Some("FROM outside"));
        assert_eq!(order.ignore_text.as_deref(), Some("*"));
        assert!(at(context.join("gone")).order().is_err());
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "s3cret").unwrap();
        let (id, content) = secret(&format!("id=a,src={}", path.display())).unwrap();
        assert_eq!((id.as_str(), content.0.as_slice()), ("a", b"s3cret".as_slice()));
        let home = std::env::var("PATH").unwrap().into_bytes();
        for text in ["id=x,env=PATH", "id=PATH", "type=env,id=x,src=PATH"] {
            assert_eq!(secret(text).unwrap().1.0, home, "{text}");
        }
        for text in ["src=x", "id=", "id=x", "id=x,colour=red", "x", "id=x,env=CIRRO_NO_SUCH_VARIABLE"] {
            assert!(secret(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |flags: Flags| flags.order().unwrap_err().to_string();
        let here = || flags(dir.path());
        assert!(refused(Flags { tag: vec!["UPPER".into()], ..here() }).contains("invalid reference format"));
        assert!(refused(Flags { platform: Some("linux/s390x".into()), ..here() }).contains("not supported"));
        assert!(refused(Flags { memory: Some("many".into()), ..here() }).contains("not a size"));
        let key = dir.path().join("id_rsa");
        std::fs::write(&key, "").unwrap();
        let ssh = vec![format!("default={}", key.display())];
        assert!(refused(Flags { ssh, ..here() }).contains("not an agent's socket"));
        let both = Flags { context: "-".into(), file: Some("-".into()), ..Flags::default() };
        assert!(refused(both).contains("standard input cannot be both"));
    }

    #[test]
    fn arguments_without_a_value_come_from_the_environment() {
        let args = build_args(&["A=b=c".into(), "PATH".into(), "CIRRO_NO_SUCH_VARIABLE".into()]);
        assert_eq!(args["A"].as_deref(), Some("b=c"));
        assert_eq!(args["PATH"], std::env::var("PATH").ok());
        assert_eq!(args["CIRRO_NO_SUCH_VARIABLE"], None);
        assert_eq!(memory("512m").unwrap(), 512 << 20);
    }
}
