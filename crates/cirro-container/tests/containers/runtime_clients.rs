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
    a_pod_of_podman_shares_what_it_shares(&podman, &run, &parent);
    line.end();
}

/// A pod: one container holds the namespaces, the others join them; all are stopped, paused and removed together.
fn a_pod_of_podman_shares_what_it_shares(
    podman: &impl Fn(&[&str]) -> Command,
    run: &impl Fn(&[&str], &[&str]) -> Command,
    parent: &str,
) {
    let create = ["pod", "create", "--name", "pod1", "--hostname", "podhost", "--network", "none"];
    let infra = ["--infra-image", "box", "--infra-command", "/bin/infra", "--cgroup-parent", parent];
    say(&mut podman(&[&create[..], &infra].concat())).ok();
    let member = |flags: &[&str], command: &[&str]| {
        let mut arguments = vec!["run", "--pod", "pod1"];
        arguments.extend(flags);
        arguments.push("box");
        arguments.extend(command);
        podman(&arguments)
    };
    say(&mut member(&["--detach", "--name", "m1"], &["sh", "-c", TRAP])).ok();
    let namespaces = ["sh", "-c", "readlink /proc/self/ns/net /proc/self/ns/ipc; hostname"];
    let mut exec = vec!["exec", "m1"];
    exec.extend(namespaces);
    let first = say(&mut podman(&exec)).ok();
    assert!(first.ends_with("podhost\n"), "{first}");
    assert_eq!(say(&mut member(&["--rm"], &namespaces)).ok(), first);
    assert_ne!(say(&mut run(&["--rm"], &namespaces)).ok(), first);
    let state = || say(&mut podman(&["inspect", "--format", "{{.State.Status}}", "m1"])).ok();
    say(&mut podman(&["pod", "pause", "pod1"])).ok();
    assert_eq!(state(), "paused\n");
    say(&mut podman(&["pod", "unpause", "pod1"])).ok();
    assert_eq!(state(), "running\n");
    say(&mut podman(&["pod", "stop", "pod1"])).ok();
    assert_eq!(say(&mut podman(&["inspect", "--format", "{{.State.ExitCode}}", "m1"])).ok(), "9\n");
    say(&mut podman(&["pod", "start", "pod1"])).ok();
    assert_eq!(say(&mut podman(&exec)).ok().lines().last(), Some("podhost"));
    say(&mut podman(&["pod", "rm", "--force", "--time", "0", "pod1"])).ok();
    assert_eq!(say(&mut podman(&["ps", "--all", "--quiet"])).ok(), "");
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
    dockerds_options_act_through_it(&docker);
    dockerd_watches_and_restarts_through_it(&docker);
    daemon.stop();
    line.end();
}

fn dockerds_options_act_through_it(docker: &impl Fn(&[&str]) -> Command) {
    let detach =
        ["run", "--detach", "--name", "d2", "--network", "none", "--hostname", "named", "--user", "12:34"];
    let limits = [
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--cap-drop",
        "ALL",
        "--ulimit",
        "nofile=77:77",
        "--pids-limit",
        "50",
    ];
    let last = [
        "--security-opt",
        "no-new-privileges",
        "--sysctl",
        "kernel.msgmax=9000",
        "--shm-size",
        "1m",
        "box",
        "sh",
        "-c",
        TRAP,
    ];
    say(&mut docker(&[&detach[..], &limits, &last].concat())).ok();
    let look = "hostname; id -u; id -g; ulimit -n; cat /proc/sys/kernel/msgmax; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; \
                touch /x 2>/dev/null || echo read-only; touch /scratch/x && echo writable; df -k /dev/shm | tail -n 1";
    let said = say(&mut docker(&["exec", "d2", "sh", "-c", look])).ok();
    let words: Vec<&str> = said.split_whitespace().collect();
    let wanted =
        "named 12 34 77 9000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 read-only writable shm 1024";
    assert_eq!(words[..words.len().min(15)].join(" "), wanted, "{said}");
    assert!(say(&mut docker(&["top", "d2"])).ok().contains("sleep"));
    let said = say(&mut docker(&[
        "exec",
        "--user",
        "0",
        "--workdir",
        "/etc",
        "--env",
        "A=b",
        "d2",
        "sh",
        "-c",
        "pwd; echo $A; id -u",
    ]));
    assert_eq!(said.stdout, "/etc\nb\n0\n", "{said:?}");
    let said = on_terminal(&docker(&["exec", "-it", "d2", "sh", "-c", "tty; exit 6"]));
    assert!(said.code == 6 && said.stdout.contains("/dev/pts/"), "{said:?}");
    let joined = [
        "run",
        "--rm",
        "--network",
        "none",
        "--pid",
        "container:d2",
        "box",
        "sh",
        "-c",
        "kill -0 1 && echo seen",
    ];
    assert_eq!(say(&mut docker(&joined)).ok(), "seen\n");
    say(&mut docker(&["kill", "d2"])).ok();
    assert_eq!(say(&mut docker(&["wait", "d2"])).ok(), "137\n");
    say(&mut docker(&["start", "d2"])).ok();
    say(&mut docker(&["restart", "--time", "5", "d2"])).ok();
    assert_eq!(say(&mut docker(&["inspect", "--format", "{{.State.Running}}", "d2"])).ok(), "true\n");
    say(&mut docker(&["rm", "--force", "d2"])).ok();
}

fn dockerd_watches_and_restarts_through_it(docker: &impl Fn(&[&str]) -> Command) {
    let run = ["run", "--detach", "--network", "none"];
    let health = [
        "--name",
        "d3",
        "--health-cmd",
        "test -e /ok",
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
    ];
    say(&mut docker(&[&run[..], &health, &["box", "sh", "-c", TRAP]].concat())).ok();
    let status = |wanted: &str| {
        let said = say(&mut docker(&["inspect", "--format", "{{.State.Health.Status}}", "d3"])).ok();
        (said.trim_end() == wanted).then_some(())
    };
    wait_for("its illness", || status("unhealthy"));
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("ok");
    std::fs::write(&file, "it is\n").expect("file");
    say(&mut docker(&["cp", &file.to_string_lossy(), "d3:/ok"])).ok();
    wait_for("its health", || status("healthy"));
    let back = directory.path().join("back");
    say(&mut docker(&["cp", "d3:/ok", &back.to_string_lossy()])).ok();
    assert_eq!(std::fs::read_to_string(&back).expect("copy"), "it is\n");
    say(&mut docker(&["rm", "--force", "d3"])).ok();

    let again = ["--name", "d4", "--restart", "on-failure:2", "box", "sh", "-c", "echo again; exit 7"];
    say(&mut docker(&[&run[..], &again].concat())).ok();
    let state = "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}";
    wait_for("its last end", || {
        let said = say(&mut docker(&["inspect", "--format", state, "d4"])).ok();
        (said == "2 exited 7\n").then_some(())
    });
    assert_eq!(say(&mut docker(&["logs", "d4"])).ok(), "again\n".repeat(3));
    say(&mut docker(&["rm", "d4"])).ok();
}

/// The root with busybox as an archive, and in it what holds the namespaces of a pod.
fn archive(line: &Line) -> String {
    let (archive, root): (PathBuf, PathBuf) = (line.path("box.tar"), line.rootfs("box"));
    let infra = root.join("bin/infra");
    std::fs::write(&infra, "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.05; done\n").expect("infra");
    std::fs::set_permissions(&infra, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    say(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg(".")).ok();
    archive.to_string_lossy().into_owned()
}
