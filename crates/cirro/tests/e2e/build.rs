//! `cirro build`: what it says, what it makes, what it leaves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{Said, program, run, run_with_input, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

fn context(cloud: &Cloud, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = cloud.directory.path().join(name);
    for (file, text) in files {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn build(cloud: &Cloud, dir: &Path, flags: &[&str]) -> Said {
    let mut command = cloud.cirro(&["build"]);
    run(command.arg(dir).args(flags))
}

/// Returns what a build that went well said on its way.
#[track_caller]
fn built(said: Said) -> String {
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(said.stdout, "");
    said.stderr
}

#[test]
fn images_are_built_without_docker_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    builds_and_explains(&cloud);
    takes_contexts_and_dockerfiles_from_everywhere(&cloud);
    shows_secrets_and_agents_to_one_step(&cloud);
    is_the_same_whenever_it_is_built(&cloud);
    fetches_files_and_repositories(&cloud);
    leaves_nothing_when_interrupted(&cloud);
    cloud.end();
}

fn builds_and_explains(cloud: &Cloud) {
    let text = "FROM busybox AS app\nARG VERSION=1\nCOPY a /a\nRUN echo hello $VERSION && cat /a > /b\n";
    let dir = context(
        cloud,
        "plain",
        &[("Dockerfile", text), ("a", "one\n"), ("skip", "x"), (".dockerignore", "skip")],
    );
    let id = cloud.directory.path().join("id");
    let flags = ["-t", "app:v1", "--label", "tier=front", "--why", "--iidfile", id.to_str().unwrap()];
    let said = built(build(cloud, &dir, &flags));
    assert!(said.contains("[4/4 app] RUN echo hello $VERSION && cat /a > /b\n    not cached: no earlier build of this name is known\n    hello 1\n"), "{said}");
    let id = std::fs::read_to_string(id).unwrap();
    assert!(said.contains(&format!("built {id} in ")) && said.ends_with("tagged app:v1\n"), "{said}");
    assert_eq!(cloud.docker(&["run", "--rm", "--network", "none", "app:v1", "cat", "/b"]).ok(), "one\n");
    assert_eq!(cloud.docker(&["inspect", "-f", "{{.Config.Labels.tier}}", "app:v1"]).ok(), "front\n");

    let said = built(build(cloud, &dir, &["-t", "app:v1", "--why"]));
    assert_eq!(said.matches("    CACHED\n").count(), 2, "{said}");
    std::fs::write(dir.join("a"), "two\n").unwrap();
    let said = built(build(cloud, &dir, &["-t", "app:v1", "--why", "--build-arg", "VERSION=2"]));
    assert!(said.contains("[3/4 app] COPY a /a\n    not cached: file a changed\n"), "{said}");
    assert!(said.contains("    not cached: build arg VERSION changed\n"), "{said}");
    let quiet = build(cloud, &dir, &["-q", "--build-arg", "VERSION=2"]);
    assert!(quiet.stdout.starts_with("sha256:") && quiet.stderr.is_empty(), "{}", quiet.stderr);

    let dir = context(
        cloud,
        "failing",
        &[("Dockerfile", "FROM busybox\n\nRUN echo first && \\\n  echo last && exit 7\n")],
    );
    for flags in [&[][..], &["--progress", "quiet"]] {
        let said = build(cloud, &dir, flags).fails();
        assert!(said.contains("cirro: Dockerfile:3: RUN echo first &&   echo last && exit 7: exit code 7\nlast output:\n    first\n    last\n"), "{said}");
    }
    let said = build(cloud, &context(cloud, "none", &[("x", "")]), &[]).fails();
    assert_eq!(said, "cirro: Cannot locate specified Dockerfile: Dockerfile\n");
}

fn takes_contexts_and_dockerfiles_from_everywhere(cloud: &Cloud) {
    let dir = context(cloud, "places", &[("x", "X"), ("sub/other", "FROM scratch\nCOPY x /\n")]);
    let outside =
        context(cloud, "outside", &[("file", "FROM scratch\nCOPY x /y\n"), ("file.dockerignore", "sub")]);
    let at = |path: PathBuf| path.to_str().unwrap().to_owned();
    for file in [at(dir.join("sub/other")), at(outside.join("file"))] {
        built(build(cloud, &dir, &["-f", &file]));
    }
    let mut from_stdin = cloud.cirro(&["build", "-f", "-"]);
    built(run_with_input(from_stdin.arg(&dir), b"FROM scratch\nCOPY x /z\n"));
    built(run_with_input(&mut cloud.cirro(&["build", "-"]), b"FROM scratch\nLABEL a=b\n"));
    let tar = Command::new("tar").arg("-C").arg(&dir).args(["-cz", "."]).output().unwrap().stdout;
    built(run_with_input(&mut cloud.cirro(&["build", "-", "-f", "sub/other"]), &tar));
    let gone = run(&mut cloud.cirro(&["build", "/no/such/context"])).fails();
    assert!(gone.contains("context /no/such/context: No such file"), "{gone}");
}

fn shows_secrets_and_agents_to_one_step(cloud: &Cloud) {
    let text = "FROM busybox\nRUN --mount=type=secret,id=key,required cat /run/secrets/key | wc -c > /count\nRUN --mount=type=ssh,required test -S \"$SSH_AUTH_SOCK\" && echo \"$SSH_AUTH_SOCK\" > /agent\n";
    let dir = context(cloud, "secret", &[("Dockerfile", text), ("../key", "s3cret-value")]);
    let key = format!("id=key,src={}", cloud.directory.path().join("key").display());
    let without = build(cloud, &dir, &[]).fails();
    assert!(without.contains("secret key: not found"), "{without}");
    let without = build(cloud, &dir, &["--secret", &key]).fails();
    assert!(without.contains("unset ssh forward key default"), "{without}");
    let socket = cloud.directory.path().join("agent.sock");
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let ssh = format!("default={}", socket.display());
    let said = built(build(cloud, &dir, &["--secret", &key, "--ssh", &ssh, "-t", "secret"]));
    assert!(!said.contains("s3cret-value"));
    let run = ["run", "--rm", "--network", "none", "secret", "cat", "/count", "/agent"];
    assert_eq!(cloud.docker(&run).ok(), "12\n/run/buildkit/ssh_agent.0\n");
    let found = program("grep", ["-rl", "s3cret-value", cloud.data_dir().to_str().unwrap()]);
    assert_eq!(found.stdout, "", "the secret is kept");
    let history = cloud.docker(&["history", "--no-trunc", "secret"]).ok();
    assert!(!history.contains("s3cret-value"), "{history}");
}

fn is_the_same_whenever_it_is_built(cloud: &Cloud) {
    let text = "FROM busybox\nWORKDIR /w\nCOPY x .\nRUN mkdir -p a/b && date > a/b/c && echo x > /etc/new && echo 1 > a/b/c\n";
    let dir = context(cloud, "epoch", &[("Dockerfile", text), ("x", "X")]);
    let flags = ["-q", "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let first = build(cloud, &dir, &flags).ok();
    std::fs::write(dir.join("x"), "X").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(build(cloud, &dir, &flags).ok(), first);
}

/// A server of one file; it counts how often it sent it whole.
fn serve_file(content: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/dir/tool", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines =
                BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let known = lines.by_ref().any(|line| line.eq_ignore_ascii_case("if-none-match: \"v1\""));
            lines.for_each(drop);
            let head =
                "ETag: \"v1\"\r\nLast-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nConnection: close\r\n";
            let answer = if known {
                format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n")
            } else {
                count.fetch_add(1, Ordering::Relaxed);
                format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n{content}", content.len())
            };
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    (address, sent)
}

fn fetches_files_and_repositories(cloud: &Cloud) {
    let (url, sent) = serve_file("tool");
    let server = GitServer::start(cloud);
    let text = format!(
        "FROM busybox\nADD {url} /opt/\nADD {}#v1:docs /docs/\nRUN stat -c '%n %a %u %Y' /opt/tool && ls -A /docs\n",
        server.url
    );
    let dir = context(cloud, "remote", &[("Dockerfile", &text)]);
    let said = built(build(cloud, &dir, &[]));
    assert!(said.contains("/opt/tool 600 0 784903526\n    page\n"), "{said}");
    assert_eq!(built(build(cloud, &dir, &[])).matches("CACHED").count(), 3);
    assert_eq!(sent.load(Ordering::Relaxed), 1, "the server said that nothing changed");
    let said = built(run(&mut cloud.cirro(&["build", &format!("{}#main:app", server.url)])));
    assert!(said.contains("COPY page /\n"), "{said}");
    cloud.docker(&["build", "-q", &format!("{}#main:app", server.url)]).ok();
    let missing = run(&mut cloud.cirro(&["build", &format!("{}#nothing", server.url)])).fails();
    assert!(missing.contains("repository does not contain ref nothing"), "{missing}");
}

/// A repository behind git's own daemon.
struct GitServer {
    url: String,
    child: Child,
}

impl GitServer {
    fn start(cloud: &Cloud) -> Self {
        let base = cloud.directory.path().join("git");
        let files = [
            ("repo.git/docs/page", "page"),
            ("repo.git/app/page", "app"),
            ("repo.git/app/Dockerfile", "FROM scratch\nCOPY page /\n"),
        ];
        let repository = context(cloud, "git", &files).join("repo.git");
        let script = "git init -q -b main . && git config user.email a@b && git config user.name a && git add . && git commit -qm one && git tag v1";
        run(Command::new("sh").args(["-ec", script]).current_dir(repository)).ok();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
            .arg(format!("--base-path={}", base.display()))
            .arg(&base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start git daemon");
        let url = format!("git://127.0.0.1:{port}/repo.git");
        wait_for("git daemon", PATIENCE, || (program("git", ["ls-remote", &url]).code == 0).then_some(()));
        Self { url, child }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        // Its worker is a child of `git`.
        let pid = self.child.id().to_string();
        let _ = Command::new("pkill").args(["-P", &pid]).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn leaves_nothing_when_interrupted(cloud: &Cloud) {
    let text = "FROM busybox\nRUN --mount=type=secret,id=key,target=/s echo begun && sleep 98765\n";
    let dir = context(cloud, "interrupted", &[("Dockerfile", text)]);
    let key = format!("id=key,src={}", cloud.directory.path().join("key").display());
    let layers = || std::fs::read_dir(cloud.data_dir().join("layers")).map_or(0, Iterator::count);
    let before = layers();
    let mut command = cloud.cirro(&["build", "--secret", &key]);
    let mut child = command.arg(&dir).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("begun\n") || line.contains("RUN") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the build ended early");
    }
    run(Command::new("kill").args(["-INT", &child.id().to_string()])).ok();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("cirro: the build was interrupted"), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let is_left = || {
        let holds = |dir: PathBuf, prefix: &str| {
            let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        };
        let sleeps = program("pgrep", ["-f", "^sleep 98765"]).code == 0;
        sleeps
            || holds(cloud.run_dir().join("build"), "")
            || holds(cloud.data_dir().join("tmp"), "build-")
            || holds(cloud.data_dir().join("scratch"), "")
    };
    wait_for("the end of the step", PATIENCE, || (!is_left()).then_some(()));
    assert_eq!(layers(), before);
    assert!(cloud.docker(&["ps", "-aq"]).ok().is_empty());
}
