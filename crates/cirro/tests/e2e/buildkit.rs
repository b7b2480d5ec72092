//! BuildKit's protocol with a client of its own making: Debian's docker CLI (20.10) has BuildKit's client built in, and
//! speaks over `POST /session` and `POST /build?version=2`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{Said, run, run_with_input, wait_for};

/// Debian's package `docker.io`.
const CLI: &str = "/usr/bin/docker";
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

fn command(cloud: &Cloud, flags: &[&str]) -> Command {
    let mut command = bare_command(cloud);
    command.env("DOCKER_BUILDKIT", "1").args(["build", "--progress", "plain"]).args(flags);
    command
}

/// The CLI without a word about BuildKit.
fn bare_command(cloud: &Cloud) -> Command {
    let like = cloud.docker_command(&[]);
    let mut command = Command::new(CLI);
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env_remove("DOCKER_BUILDKIT");
    command
}

fn build(cloud: &Cloud, dir: &Path, flags: &[&str]) -> Said {
    run(command(cloud, flags).arg(dir))
}

/// Returns what a build that went well told.
#[track_caller]
fn built(said: Said) -> String {
    assert_eq!(said.code, 0, "{}", said.stderr);
    said.stderr
}

#[test]
fn a_client_of_buildkit_builds_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    builds_and_tells(&cloud);
    shows_failures(&cloud);
    lends_secrets_and_agents(&cloud);
    takes_contexts_from_everywhere(&cloud);
    gives_files_out(&cloud);
    is_what_the_cli_takes_by_itself(&cloud);
    ends_with_its_client(&cloud);
    cloud.end();
}

fn builds_and_tells(cloud: &Cloud) {
    let text = "# syntax=docker/dockerfile:1\nFROM busybox AS base\nARG VERSION=1\nCOPY . /files\nFROM base\nRUN echo made $VERSION && find /files | sort > /list\nENV A=b\n";
    let dir = context(
        cloud,
        "bk",
        &[
            ("Dockerfile", text),
            ("a/deep/file", "one\n"),
            ("skip/x", "x"),
            ("a/skip.o", "x"),
            (".dockerignore", "skip\n**/*.o\n"),
        ],
    );
    std::os::unix::fs::symlink("a/deep", dir.join("link")).unwrap();
    std::fs::hard_link(dir.join("a/deep/file"), dir.join("a/same")).unwrap();
    for number in 0..300 {
        std::fs::write(dir.join(format!("a/n{number:03}")), vec![b'n'; number * 400]).unwrap();
    }
    let id = cloud.directory.path().join("bk-id");
    let flags = ["-t", "bk:v1", "-t", "bk:v2", "--label", "tier=front", "--iidfile", id.to_str().unwrap()];
    let said = built(build(cloud, &dir, &flags));
    for expected in [
        "[internal] load build definition from Dockerfile",
        "[internal] load .dockerignore",
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[internal] load build context",
        "[base 1/2] FROM docker.io/library/busybox:latest",
        "[base 2/2] COPY . /files",
        "[stage-1 1/1] RUN echo made $VERSION",
        "made 1",
        "exporting to image",
        "naming to docker.io/library/bk:v1",
        "naming to docker.io/library/bk:v2",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing in:\n{said}");
    }
    let id = std::fs::read_to_string(id).unwrap();
    assert_eq!(cloud.docker(&["inspect", "-f", "{{.Id}}", "bk:v2"]).ok().trim(), id);
    let run =
        |script: &str| cloud.docker(&["run", "--rm", "--network", "none", "bk:v1", "sh", "-c", script]).ok();
    let list = run("cat /list");
    assert!(list.contains("/files/a/deep/file\n") && !list.contains("skip"), "{list}");
    assert_eq!(
        run("cat /files/link/file; wc -c < /files/a/n299; readlink /files/link"),
        "one\n119600\na/deep\n"
    );
    assert_eq!(cloud.docker(&["inspect", "-f", "{{.Config.Labels.tier}}", "bk:v1"]).ok(), "front\n");
    let again = built(build(cloud, &dir, &["-t", "bk:v1"]));
    assert_eq!(again.matches(" CACHED").count(), 2, "{again}");
    let changed = built(build(cloud, &dir, &["--build-arg", "VERSION=2", "--target", "base"]));
    assert!(!changed.contains("made"), "{changed}");
}

fn shows_failures(cloud: &Cloud) {
    let dir = context(
        cloud,
        "bk-failing",
        &[
            ("Dockerfile", "FROM busybox\nRUN echo last words && exit 7\n"),
            ("wrong", "FROM busybox\nNOPE x\n"),
        ],
    );
    let said = build(cloud, &dir, &[]).fails();
    assert!(said.contains("last words"), "{said}");
    let expected =
        "process \"/bin/sh -c echo last words && exit 7\" did not complete successfully: exit code: 7";
    assert!(said.contains(expected), "{said}");
    let said = build(cloud, &dir, &["-f", dir.join("wrong").to_str().unwrap()]).fails();
    assert!(said.contains("dockerfile parse error on line 2: unknown instruction: NOPE"), "{said}");
    let said = build(cloud, &dir, &["--platform", "linux/s390x"]).fails();
    assert!(said.contains("linux/s390x is not supported"), "{said}");
}

fn lends_secrets_and_agents(cloud: &Cloud) {
    let text = "FROM busybox\nRUN --mount=type=secret,id=key,required wc -c < /run/secrets/key > /count\nRUN --mount=type=ssh,required test -S \"$SSH_AUTH_SOCK\" && echo there > /agent\n";
    let dir = context(cloud, "bk-secret", &[("Dockerfile", text)]);
    let key = cloud.directory.path().join("bk-key");
    std::fs::write(&key, "s3cret-value").unwrap();
    let socket = cloud.directory.path().join("bk-agent.sock");
    let _agent = UnixListener::bind(&socket).unwrap();
    let (secret, ssh) = (format!("id=key,src={}", key.display()), format!("default={}", socket.display()));
    let without = build(cloud, &dir, &["--ssh", &ssh]).fails();
    assert!(without.contains("secret key: not found"), "{without}");
    let said = built(build(cloud, &dir, &["--secret", &secret, "--ssh", &ssh, "-t", "bk-secret"]));
    assert!(!said.contains("s3cret-value"), "{said}");
    let run = ["run", "--rm", "--network", "none", "bk-secret", "cat", "/count", "/agent"];
    assert_eq!(cloud.docker(&run).ok(), "12\nthere\n");
    assert!(!cloud.docker(&["history", "--no-trunc", "bk-secret"]).ok().contains("s3cret-value"));
}

fn takes_contexts_from_everywhere(cloud: &Cloud) {
    let dir = context(cloud, "bk-places", &[("x", "X"), ("sub/other", "FROM scratch\nCOPY x /\n")]);
    built(build(cloud, &dir, &["-f", dir.join("sub/other").to_str().unwrap()]));
    let mut from_stdin = command(cloud, &["-f", "-"]);
    built(run_with_input(from_stdin.arg(&dir), b"FROM scratch\nCOPY x /z\n"));
    built(run_with_input(command(cloud, &[]).arg("-"), b"FROM scratch\nLABEL a=b\n"));
    let tar = Command::new("tar").arg("-C").arg(&dir).args(["-cz", "."]).output().unwrap().stdout;
    built(run_with_input(command(cloud, &["-f", "sub/other"]).arg("-"), &tar));
}

fn gives_files_out(cloud: &Cloud) {
    let text = "FROM scratch\nCOPY a /out/a\nCOPY link /out/link\n";
    let dir = context(cloud, "bk-out", &[("Dockerfile", text), ("a", "content\n")]);
    std::os::unix::fs::symlink("a", dir.join("link")).unwrap();
    let into = cloud.directory.path().join("bk-into");
    let images = || cloud.docker(&["images", "-aq"]).ok();
    let before = images();
    built(build(cloud, &dir, &["-o", &format!("type=local,dest={}", into.display())]));
    assert_eq!(std::fs::read_to_string(into.join("out/a")).unwrap(), "content\n");
    assert!(into.join("out/link").symlink_metadata().is_ok());
    let tar = cloud.directory.path().join("bk.tar");
    built(build(cloud, &dir, &["-o", &format!("type=tar,dest={}", tar.display())]));
    let listed = run(Command::new("tar").arg("-tf").arg(&tar)).ok();
    assert!(listed.contains("out/a\n"), "{listed}");
    assert_eq!(images(), before, "an output of files leaves no image");
}

/// Without a word the CLI asks what the daemon prefers; with `DOCKER_BUILDKIT=0` the classic builder is still there.
fn is_what_the_cli_takes_by_itself(cloud: &Cloud) {
    let dir = context(cloud, "bk-default", &[("Dockerfile", "FROM busybox\nLABEL x=y\n")]);
    let by_itself = built(run(bare_command(cloud).arg("build").arg(&dir)));
    assert!(by_itself.contains("exporting to image"), "{by_itself}");
    let said = run(bare_command(cloud).env("DOCKER_BUILDKIT", "0").arg("build").arg(&dir));
    assert!(said.stdout.contains("Step 1/2 : FROM busybox"), "{}{}", said.stdout, said.stderr);
    // A CLI of today without buildx takes the classic builder, whatever the daemon prefers.
    let today = cloud.docker(&["build", "--label", "a=b", dir.to_str().unwrap()]).ok();
    assert!(today.contains("Step 1/2 : FROM busybox"), "{today}");
}

fn ends_with_its_client(cloud: &Cloud) {
    let text = "FROM busybox\nRUN echo begun && sleep 10873\n";
    let dir = context(cloud, "bk-hang", &[("Dockerfile", text)]);
    let mut hanging = command(cloud, &["--no-cache"]);
    let spawned = hanging.arg(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    // The step's name has the word too; its output comes as a line of its own.
    while !String::from_utf8_lossy(&said).contains(" begun\n") {
        let length = stderr.read(&mut piece).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&said));
        said.write_all(&piece[..length]).unwrap();
    }
    let sleeping = || run(Command::new("pgrep").args(["-fx", "sleep 10873"])).code == 0;
    assert!(sleeping());
    let interrupted = run(Command::new("kill").args(["-INT", &child.id().to_string()]));
    assert_eq!(interrupted.code, 0);
    assert!(!child.wait().unwrap().success());
    wait_for("the step's end", PATIENCE, || (!sleeping()).then_some(()));
}
