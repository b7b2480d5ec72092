//! The registry and its clients: mirrored upstreams, podman, skopeo, docker, oras and helm, kills in the middle of a push.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{Said, program, run, run_with_input, wait_for};

/// Of `secret`, with one iteration: the real number takes its time in a debug build.
const HASH: &str = "pbkdf2-sha256:1:BwcHBwcHBwcHBwcHBwcHBw:cxxer4Iqi9zTqJVHRecZxAoVB12ZzXwJ813RD6ATZS0";
const INSECURE: [&str; 3] = ["--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"];

/// Debian's registry.
struct Upstream {
    child: Child,
    port: u16,
}

impl Upstream {
    fn start(directory: &Path) -> Self {
        let port = free_port();
        let file = directory.join("upstream.yml");
        let root = directory.join("upstream");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            root.display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let upstream = Self { child: command.spawn().expect("docker-registry is installed"), port };
        let address = format!("http://127.0.0.1:{port}/v2/");
        wait_for("the upstream", Duration::from_secs(60), || crate::commands::page(&address));
        upstream
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Starts a cloud whose registry has a configuration, at an address that stays.
fn start(cloud: &Cloud, text: &str, port: u16) -> String {
    let file = cloud.directory.path().join("registry.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = cloud.up_command();
    // The last word on where it listens is ours.
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let host = format!("127.0.0.1:{port}");
    command = Command::new(env!("CARGO_BIN_EXE_cirro"));
    let is_any = |word: &std::ffi::OsString| word == "127.0.0.1:0";
    command.args(words.into_iter().map(|word| if is_any(&word) { host.clone().into() } else { word }));
    command.arg("--registry-config").arg(&file);
    let said = run(&mut command).ok();
    assert!(said.starts_with("ready"), "{said}");
    host
}

fn skopeo(arguments: &[&str]) -> Said {
    run(Command::new("skopeo").args(arguments))
}

fn copy(from: &str, to: &str) -> Said {
    skopeo(&[&["copy", "-q"], &INSECURE[..], &[from, to]].concat())
}

fn uploads(cloud: &Cloud) -> usize {
    let found = program(
        "find",
        [cloud.data_dir().to_str().unwrap(), "-path", "*distribution/uploads/*", "-name", "data"],
    );
    found.stdout.lines().count()
}

#[test]
fn a_mirrored_registry_is_pulled_through_and_outlives_its_upstream_as_root() {
    let mut cloud = Cloud::prepare();
    let mut upstream = Upstream::start(cloud.directory.path());
    let text = format!(
        "[[mirror]]\nprefix = \"hub\"\nupstream = \"http://127.0.0.1:{}\"\nrevalidate = \"0s\"\n",
        upstream.port
    );
    let port = free_port();
    let host = start(&cloud, &text, port);
    cloud.load("busybox");
    let there = format!("docker://127.0.0.1:{}/library/tool:latest", upstream.port);
    copy(&format!("docker://{host}/busybox:latest"), &there).ok();
    let name = format!("{host}/hub/library/tool");
    assert!(cloud.docker(&["pull", &name]).ok().contains("Downloaded newer image"));
    let ran = cloud.docker(&["run", "--rm", "--network", "none", &name, "echo", "through"]);
    assert_eq!(ran.ok(), "through\n");
    let missing = cloud.docker(&["pull", &format!("{host}/hub/library/none")]).fails();
    assert!(missing.contains("not found") || missing.contains("unknown"), "{missing}");
    // A tag that moved upstream is noticed.
    let image = cloud.docker(&["run", "-d", "--network", "none", "busybox", "touch", "/moved"]).ok();
    cloud.docker(&["wait", image.trim()]).ok();
    cloud.docker(&["commit", image.trim(), "moved"]).ok();
    copy(&format!("docker://{host}/moved:latest"), &there).ok();
    assert!(cloud.docker(&["pull", &name]).ok().contains("Downloaded newer image"));
    cloud.docker(&["run", "--rm", "--network", "none", &name, "test", "-e", "/moved"]).ok();
    // Without its upstream, and after a restart, it is served all the same.
    upstream.stop();
    run(&mut cloud.cirro(&["down"])).ok();
    assert_eq!(start(&cloud, &text, port), host);
    cloud.docker(&["rmi", "-f", &name]).ok();
    cloud.docker(&["pull", &name]).ok();
    cloud.docker(&["run", "--rm", "--network", "none", &name, "test", "-e", "/moved"]).ok();
    skopeo(&["inspect", "--tls-verify=false", &format!("docker://{host}/hub/library/other:v1")]).fails();
    assert_eq!(uploads(&cloud), 0);
    cloud.docker(&["rm", "-f", image.trim()]).ok();
    cloud.end();
}

/// A raw HTTP request; returns head and body.
fn curl(arguments: &[&str]) -> String {
    program("curl", [&["-s", "-i", "-m", "60"], arguments].concat()).stdout
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
}

#[test]
fn a_push_goes_on_after_the_daemon_was_killed_as_root() {
    let mut cloud = Cloud::prepare();
    let port = free_port();
    let host = start(&cloud, "", port);
    cloud.load("busybox");
    let directory = cloud.directory.path().join("oci");
    let layout = format!("oci:{}:v1", directory.display());
    copy(&format!("docker://{host}/busybox:latest"), &layout).ok();
    // A chunk is there, then the daemon is not.
    let layer = largest_blob(&directory);
    let digest = format!("sha256:{}", layer.file_name().unwrap().to_str().unwrap());
    let bytes = std::fs::read(&layer).unwrap();
    let half = bytes.len() / 2;
    let part = cloud.directory.path().join("part");
    let begun = curl(&["-X", "POST", "-d", "", &format!("http://{host}/v2/team/app/blobs/uploads/")]);
    let place = format!("http://{host}{}", header(&begun, "location"));
    std::fs::write(&part, &bytes[..half]).unwrap();
    let data = format!("@{}", part.display());
    let octets = "Content-Type: application/octet-stream";
    let sent = curl(&["-X", "PATCH", "-H", octets, "--data-binary", &data, &place]);
    assert_eq!(header(&sent, "range"), format!("0-{}", half - 1), "{sent}");
    // A client is in the middle of the rest when the daemon is killed.
    std::fs::write(&part, &bytes[half..]).unwrap();
    let slow = Command::new("curl")
        .args(["-s", "-m", "60", "--limit-rate", "20k", "-X", "PATCH", "-H", octets, "--data-binary", &data])
        .arg(&place)
        .stdout(Stdio::null())
        .spawn();
    let mut slow = slow.unwrap();
    wait_for("bytes of the second chunk", Duration::from_secs(60), || {
        let size = |path: PathBuf| path.metadata().map_or(0, |data| data.len());
        let found = program(
            "find",
            [cloud.data_dir().to_str().unwrap(), "-path", "*distribution/uploads/*", "-name", "data"],
        );
        found.stdout.lines().any(|path| size(path.into()) > half as u64).then_some(())
    });
    program("kill", ["-9", &cloud.daemon_pid().to_string()]).ok();
    let _ = slow.wait();
    assert_eq!(start(&cloud, "", port), host);
    // No tag, no blob; the upload knows where to go on, and ends whole.
    assert!(curl(&[&format!("http://{host}/v2/team/app/manifests/v1")]).starts_with("HTTP/1.1 404"));
    assert!(curl(&[&format!("http://{host}/v2/team/app/blobs/{digest}")]).starts_with("HTTP/1.1 404"));
    let status = curl(&[&place]);
    assert!(status.starts_with("HTTP/1.1 204"), "{status}");
    let last: usize = header(&status, "range").split_once('-').unwrap().1.parse().unwrap();
    assert!(last + 1 >= half && last < bytes.len(), "{status}");
    std::fs::write(&part, &bytes[last + 1..]).unwrap();
    let whole = format!("{place}?digest={digest}");
    let ended = curl(&["-X", "PUT", "-H", octets, "--data-binary", &data, &whole]);
    assert!(ended.starts_with("HTTP/1.1 201"), "{ended}");
    assert_eq!(uploads(&cloud), 0);
    // The whole push again, and out again.
    copy(&layout, &format!("docker://{host}/team/app:v1")).ok();
    assert_eq!(uploads(&cloud), 0);
    let name = format!("{host}/team/app:v1");
    assert_eq!(cloud.docker(&["run", "--rm", "--network", "none", &name, "echo", "whole"]).ok(), "whole\n");
    cloud.end();
}

fn largest_blob(layout: &Path) -> PathBuf {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten();
    blobs.map(|entry| entry.path()).max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn clients_push_and_pull_with_and_without_passwords_as_root() {
    let mut cloud = Cloud::prepare();
    let port = free_port();
    let text = format!("trust-loopback = false\n[[user]]\nname = \"ci\"\npassword-hash = \"{HASH}\"\n");
    let host = start(&cloud, &text, port);
    cloud.load("busybox");
    let name = format!("{host}/team/app:v1");
    cloud.docker(&["tag", "busybox", &name]).ok();
    // docker: logged in it has an identity token and no password, also after a restart.
    cloud.docker(&["push", &name]).fails();
    let wrong =
        run_with_input(cloud.docker_command(&["login", "-u", "ci", "--password-stdin"]).arg(&host), b"no");
    assert!(
        wrong.fails().contains("401") || !cloud.directory.path().join("docker-config/config.json").exists()
    );
    run_with_input(cloud.docker_command(&["login", "-u", "ci", "--password-stdin"]).arg(&host), b"secret")
        .ok();
    let config = std::fs::read_to_string(cloud.directory.path().join("docker-config/config.json")).unwrap();
    assert!(config.contains("identitytoken"), "{config}");
    cloud.docker(&["push", &name]).ok();
    run(&mut cloud.cirro(&["down"])).ok();
    start(&cloud, &text, port);
    cloud.docker(&["push", &name]).ok();
    cloud.docker(&["logout", &host]).ok();
    cloud.docker(&["push", &name]).fails();
    // skopeo
    let from = format!("docker://{name}");
    let to = format!("dir:{}", cloud.directory.path().join("copy").display());
    copy(&from, &to).fails();
    let words =
        [&["copy", "-q", "--src-creds", "ci:secret"], &INSECURE[..], &[from.as_str(), to.as_str()]].concat();
    skopeo(&words).ok();
    // podman
    let podman = |words: &[&str]| {
        let at = |name: &str| cloud.directory.path().join(name);
        let mut command = Command::new("podman");
        command.arg("--root").arg(at("podman")).arg("--runroot").arg(at("podman-run"));
        command.args(["--storage-driver", "vfs"]).args(words);
        run(&mut command)
    };
    podman(&["pull", "-q", "--tls-verify=false", &name]).fails();
    podman(&["pull", "-q", "--tls-verify=false", "--creds", "ci:secret", &name]).ok();
    let second = format!("{host}/team/podman:v2");
    podman(&["push", "-q", "--tls-verify=false", "--creds", "ci:secret", &name, &second]).ok();
    cloud.docker(&["rmi", &name]).ok();
    assert!(cloud.docker(&["pull", &second]).ok().contains("Digest: sha256:"));
    podman(&["rmi", "-a", "-f"]).ok();
    artifacts(&cloud, &host);
    cloud.end();
}

/// Pushes a file, lists and pulls it.
const ORAS: &str = r#"
import os, sys, oras.client
host, directory = sys.argv[1:]
os.chdir(directory)
open("artifact.txt", "w").write("hello")
client = oras.client.OrasClient(hostname=host, insecure=True)
client.auth.set_basic_auth("ci", "secret")
client.push(target=f"{host}/team/artifact:v1", files=["artifact.txt"])
assert client.get_tags(f"{host}/team/artifact") == ["v1"]
os.mkdir("pulled")
client.pull(target=f"{host}/team/artifact:v1", outdir="pulled")
print(open("pulled/artifact.txt").read())
"#;

/// Packages a chart, pushes it, lists and pulls it.
const HELM: &str = r#"
import os, sys
from helm_python import chart, registry
host, directory = sys.argv[1:]
chart.Chart.create("demo", directory)
archive = chart.package(f"{directory}/demo", destination=directory)
with registry.RegistryClient(plain_http=True, credentials_file=f"{directory}/helm.json") as client:
    client.login(host, "ci", "secret", plain_http=True)
    registry.push(archive, f"oci://{host}/team/charts", client=client, plain_http=True)
    assert client.tags(f"{host}/team/charts/demo") == ["0.1.0"]
    os.mkdir(f"{directory}/out")
    registry.pull(f"oci://{host}/team/charts/demo", version="0.1.0", client=client,
                  destination=f"{directory}/out", plain_http=True)
print(os.listdir(f"{directory}/out"))
"#;

fn artifacts(cloud: &Cloud, host: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/registry-clients");
    let clients = PathBuf::from(run(Command::new("bash").arg(script)).ok().trim());
    let python = |client: &str, text: &str| {
        let directory = cloud.directory.path().join(client);
        std::fs::create_dir(&directory).unwrap();
        let mut command = Command::new(clients.join(client).join("bin/python3"));
        command.env("HOME", &directory).args(["-c", text, host]).arg(&directory);
        run(&mut command)
    };
    assert_eq!(python("oras", ORAS).ok(), "hello\n");
    if clients.join("helm").exists() {
        assert_eq!(python("helm", HELM).ok(), "['demo-0.1.0.tgz']\n");
    } else {
        eprintln!("skipped: helm-python-sdk needs a Python 3.12, which this host does not have");
    }
}
