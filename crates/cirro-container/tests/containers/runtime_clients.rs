//! The runtime in place of runc under those that call it: Debian's containerd, podman and dockerd.
//!
//! Each has directories and cgroups of its own; the daemons live in network and mount namespaces that nobody else sees.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::line::{Line, Said, say, wait_for};

/// A daemon that ends with the test.
struct Daemon(Child);

impl Daemon {
    /// Starts it where it touches nothing of the host's.
    fn start(line: &Line, script: &str) -> Self {
        let log = std::fs::File::create(line.path("daemon.log")).expect("log");
        let child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn();
        Self(child.expect("unshare"))
    }

    /// Ends it as an administrator does and waits for it.
    fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command on a terminal.
fn on_terminal(command: &Command) -> Said {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]);
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    say(&mut script)
}

const TRAP: &str = "trap 'exit 9' TERM; echo line; while :; do sleep 0.05; done";

#[test]
fn containerd_runs_containers_with_it() {
    let line = Line::new();
    let (root, state, socket) = (line.path("c-root"), line.path("c-state"), line.path("c.sock"));
    let config = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = \"{}.ttrpc\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
        socket.display(),
        line.path("opt")
    );
    std::fs::write(line.path("config.toml"), config).expect("config");
    let mut daemon =
        Daemon::start(&line, &format!("exec containerd --config {}", line.path("config.toml").display()));
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&socket).args(arguments);
        command
    };
    wait_for("containerd", || (say(&mut ctr(&["version"])).code == 0).then_some(()));
    let (runtime, state_root) = (line.script(), line.path("root"));
    let (runtime, state_root) = (runtime.to_string_lossy(), state_root.to_string_lossy());
    let run = |id: &str, flags: &[&str], command: &[&str]| {
        let rootfs = line.rootfs(id).to_string_lossy().into_owned();
        let cgroup = format!("/{}/{id}", line.name);
        let mut arguments =
            vec!["run", "--runc-binary", &runtime, "--runc-root", &state_root, "--cgroup", &cgroup];
        arguments.extend(flags);
        arguments.extend(["--rootfs", &rootfs, id]);
        arguments.extend(command);
        ctr(&arguments)
    };
    let said = say(&mut run("c1", &["--rm"], &["/bin/sh", "-c", "echo hello; exit 3"]));
    assert_eq!((said.code, said.stdout.as_str()), (3, "hello\n"), "{said:?}");
    let said = on_terminal(&run("c2", &["--rm", "--tty"], &["/bin/sh", "-c", "tty; exit 4"]));
    assert!(said.code == 4 && said.stdout.contains("/dev/pts/0"), "{said:?}");

    say(&mut run("c3", &["--detach"], &["/bin/sh", "-c", TRAP])).ok();
    let said = say(&mut ctr(&["task", "exec", "--exec-id", "e", "c3", "/bin/sh", "-c", "echo in; exit 5"]));
    assert_eq!((said.code, said.stdout.as_str()), (5, "in\n"), "{said:?}");
    say(&mut ctr(&["task", "pause", "c3"])).ok();
    assert!(say(&mut ctr(&["task", "ls"])).ok().contains("PAUSED"));
    say(&mut ctr(&["task", "resume", "c3"])).ok();
    say(&mut ctr(&["task", "kill", "--signal", "SIGTERM", "c3"])).ok();
    wait_for("the task's end", || say(&mut ctr(&["task", "ls"])).stdout.contains("STOPPED").then_some(()));
    // It has no other way to tell the exit code.
    let removed = say(&mut ctr(&["task", "rm", "c3"]));
    assert!(removed.stderr.contains("exit code 9"), "{removed:?}");
    say(&mut ctr(&["container", "rm", "c3"])).ok();
    daemon.stop();
    let _ = std::fs::remove_dir(line.path("root/default"));
    line.end();
}

#[test]
fn podman_runs_containers_with_it() {
    let line = Line::new();
    let configuration = line.path("containers.conf");
    // Without CAP_SYS_RESOURCE its own default limits cannot be set.
    let text = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
                [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n";
    std::fs::write(&configuration, text).expect("configuration");
    let runtime = line.script();
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", &configuration).args(["--storage-driver", "vfs", "--root"]);
        command.arg(line.path("p-root")).arg("--runroot").arg(line.path("p-run"));
        command.arg("--tmpdir").arg(line.path("p-tmp")).arg("--runtime").arg(&runtime).args(arguments);
        command
    };
    let parent = format!("/{}", line.name);
    let run = |flags: &[&str], command: &[&str]| {
        let mut arguments = vec!["run", "--network", "none", "--cgroup-parent", &parent];
        arguments.extend(flags);
        arguments.push("box");
        arguments.extend(command);
        podman(&arguments)
    };
    say(&mut podman(&["import", &archive(&line), "box"])).ok();
    let said = say(&mut run(&["--rm"], &["sh", "-c", "echo hello; exit 3"]));
    assert_eq!((said.code, said.stdout.as_str()), (3, "hello\n"), "{said:?}");
    let said = on_terminal(&run(&["--rm", "-it"], &["sh", "-c", "tty; exit 4"]));
    assert!(said.code == 4 && said.stdout.contains("/dev/pts/0"), "{said:?}");
    assert_eq!(say(&mut run(&["--rm"], &["nonsense"])).code, 127);
    assert_eq!(say(&mut run(&["--rm"], &["/etc/data"])).code, 126);

    say(&mut run(&["--detach", "--name", "p1", "--memory", "64m"], &["sh", "-c", TRAP])).ok();
    let said = say(&mut podman(&["exec", "p1", "sh", "-c", "echo in; exit 5"]));
    assert_eq!((said.code, said.stdout.as_str()), (5, "in\n"), "{said:?}");
    wait_for("the log", || (say(&mut podman(&["logs", "p1"])).stdout == "line\n").then_some(()));
    say(&mut podman(&["pause", "p1"])).ok();
    assert_eq!(say(&mut podman(&["inspect", "--format", "{{.State.Status}}", "p1"])).ok(), "paused\n");
    say(&mut podman(&["unpause", "p1"])).ok();
    say(&mut podman(&["stop", "p1"])).ok();
    assert_eq!(say(&mut podman(&["inspect", "--format", "{{.State.ExitCode}}", "p1"])).ok(), "9\n");
    say(&mut podman(&["rm", "p1"])).ok();
    line.end();
}

#[test]
fn dockerd_runs_containers_with_it() {
    let line = Line::new();
    let runtime = line.script();
    let at = |name: &str| line.path(name).to_string_lossy().into_owned();
    let script = format!(
        "ip link set lo up; mount -t tmpfs tmpfs /run; exec dockerd --data-root {} --exec-root {} --pidfile {} \
         --host unix://{} --storage-driver vfs --add-runtime cirro={} --default-runtime cirro --cgroup-parent /{} \
         --bip 172.31.99.1/24",
        at("d-data"),
        at("d-exec"),
        at("d.pid"),
        at("d.sock"),
        runtime.display(),
        line.name
    );
    let mut daemon = Daemon::start(&line, &script);
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", at("d.sock"))).env("DOCKER_CONFIG", at("d-config"));
        command.args(arguments);
        command
    };
    wait_for("dockerd", || (say(&mut docker(&["version"])).code == 0).then_some(()));
    say(&mut docker(&["import", &archive(&line), "box"])).ok();
    // With a network: dockerd hands it over by a hook.
    let said = say(&mut docker(&["run", "--rm", "box", "sh", "-c", "ls /sys/class/net; exit 3"]));
    assert!(said.code == 3 && said.stdout.contains("eth0"), "{said:?}");
    let said =
        on_terminal(&docker(&["run", "--rm", "-it", "--network", "none", "box", "sh", "-c", "tty; exit 4"]));
    assert!(said.code == 4 && said.stdout.contains("/dev/pts/0"), "{said:?}");
    assert_eq!(say(&mut docker(&["run", "--rm", "--network", "none", "box", "nonsense"])).code, 127);
    assert_eq!(say(&mut docker(&["run", "--rm", "--network", "none", "box", "/etc/data"])).code, 126);

    say(&mut docker(&["run", "--detach", "--name", "d1", "--network", "none", "box", "sh", "-c", TRAP])).ok();
    let said = say(&mut docker(&["exec", "d1", "sh", "-c", "echo in; exit 5"]));
    assert_eq!((said.code, said.stdout.as_str()), (5, "in\n"), "{said:?}");
    wait_for("the log", || (say(&mut docker(&["logs", "d1"])).stdout == "line\n").then_some(()));
    say(&mut docker(&["pause", "d1"])).ok();
    say(&mut docker(&["unpause", "d1"])).ok();
    say(&mut docker(&["update", "--memory", "64m", "--memory-swap", "64m", "d1"])).ok();
    assert!(say(&mut docker(&["stats", "--no-stream", "d1"])).ok().contains("64MiB"));
    say(&mut docker(&["stop", "d1"])).ok();
    assert_eq!(say(&mut docker(&["inspect", "--format", "{{.State.ExitCode}}", "d1"])).ok(), "9\n");
    say(&mut docker(&["rm", "d1"])).ok();
    daemon.stop();
    line.end();
}

/// The root with busybox as an archive.
fn archive(line: &Line) -> String {
    let archive: PathBuf = line.path("box.tar");
    say(Command::new("tar").arg("-C").arg(line.rootfs("box")).arg("-cf").arg(&archive).arg(".")).ok();
    archive.to_string_lossy().into_owned()
}
