//! A cloud for one test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::commands::{Said, program, run, run_with_input, wait_for};

/// Ranges and names on one host are shared by all tests that run at once: each takes a slot.
const SLOTS: u32 = 12;

/// A running cloud with everything of its own; it is ended and checked for leaks when dropped.
pub(crate) struct Cloud {
    pub(crate) name: String,
    pub(crate) directory: tempfile::TempDir,
    /// Directory of images, store, logs; another one may be set before the start.
    pub(crate) data: PathBuf,
    kubernetes: String,
    slot: u32,
    _slot_lock: File,
    world: Option<String>,
    ended: bool,
}

impl Cloud {
    /// Starts a cloud.
    pub(crate) fn up() -> Self {
        let cloud = Self::prepare();
        let said = cloud.start();
        assert!(said.starts_with("ready"), "{said}");
        cloud
    }

    /// Takes a slot and makes directories; nothing runs yet.
    pub(crate) fn prepare() -> Self {
        let (slot, lock) = take_slot();
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let directory = tempfile::tempdir().expect("a directory");
        Self {
            name: format!("ct{slot}"),
            data: directory.path().join("data"),
            directory,
            kubernetes: format!("127.0.0.1:{port}"),
            slot,
            _slot_lock: lock,
            world: None,
            ended: false,
        }
    }

    /// Starts (again) the daemon; returns what `up` printed.
    pub(crate) fn start(&self) -> String {
        run(&mut self.up_command()).ok()
    }

    /// The command line that starts this cloud.
    pub(crate) fn up_command(&self) -> Command {
        let second = 100 + self.slot * 10;
        let mut command =
            self.cirro(&["up", "--detach", "--name", &self.name, "--kubernetes-listen", &self.kubernetes]);
        command
            .args(["--registry-listen", "127.0.0.1:0"])
            .args(["--node-name", "node-1", "--log-level", "debug", "--guest-kernel"])
            .arg(guest_kernel())
            .args(["--docker-subnets", &format!("10.{second}.0.0/16,10.{}.0.0/16", second + 1)])
            .args(["--pod-cidr", &format!("10.{}.0.0/24", second + 2)])
            .args(["--service-cidr", &format!("10.{}.0.0/16", second + 3)])
            .args(["--transit-cidr", &format!("10.{}.0.0/24", second + 4)])
            .args([
                "--node-port-range",
                &format!("{}-{}", 20_000 + self.slot * 100, 20_099 + self.slot * 100),
            ]);
        command
    }

    /// A command of the binary for this cloud.
    pub(crate) fn cirro(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cirro"));
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).arg("--run-dir").arg(self.run_dir());
        command
    }

    /// Directory of images, store, logs.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    /// Directory of sockets.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Runs the docker CLI.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Said {
        run(&mut self.docker_command(arguments))
    }

    /// Runs the docker CLI with something on its standard input.
    pub(crate) fn docker_with_input(&self, arguments: &[&str], input: &[u8]) -> Said {
        run_with_input(&mut self.docker_command(arguments), input)
    }

    /// A docker command.
    pub(crate) fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_HOST", format!("unix://{}", self.run_dir().join("docker.sock").display()))
            .env("DOCKER_CONFIG", self.directory.path().join("docker-config"))
            .args(arguments);
        command
    }

    /// Runs kubectl.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", self.data_dir().join("admin.kubeconfig"))
            .env("HOME", self.directory.path())
            .args(arguments);
        run(&mut command)
    }

    /// Loads a base image that a script under `images/` makes.
    pub(crate) fn load(&self, image: &str) {
        let archive = base_image(image);
        let said = self.docker(&["load", "-i", archive.to_str().expect("a plain path")]).ok();
        assert!(said.contains(&format!("Loaded image: {image}:latest")), "{said}");
    }

    /// Process id of the daemon.
    pub(crate) fn daemon_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.run_dir().join("cirro.pid")).expect("the pid file");
        text.trim().parse().expect("a process id")
    }

    /// Process id of a helper process of this cloud by its role (`supervisor`, `guardian`).
    pub(crate) fn role_pid(&self, role: &str) -> i32 {
        let wanted = self.run_dir().into_os_string().into_string().expect("a plain path");
        let found = processes().into_iter().find(|(_, words)| {
            words.iter().any(|word| word == role) && words.iter().any(|word| word.starts_with(&wanted))
        });
        found.unwrap_or_else(|| panic!("no {role} runs")).0
    }

    /// Makes a network namespace that reaches the host by one link, as another machine would.
    /// Returns the words that start a command in it, and the host's address on the link.
    pub(crate) fn world(&mut self) -> (Vec<String>, String) {
        let name = format!("world-{}", self.name);
        let net = format!("10.{}.0", 105 + self.slot * 10);
        let link = format!("w{}", self.slot);
        let ip = |words: &str| program("ip", words.split(' ')).ok();
        ip(&format!("netns add {name}"));
        self.world = Some(name.clone());
        ip(&format!("link add {link} type veth peer name eth0 netns {name}"));
        ip(&format!("addr add {net}.1/24 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {name} addr add {net}.2/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} route add default via {net}.1"));
        (["ip", "netns", "exec", &name].map(str::to_owned).to_vec(), format!("{net}.1"))
    }

    /// Ends daemon and workloads; nothing may be left on the host.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.remove_world();
        run(&mut self.cirro(&["down", "--workloads"])).ok();
        let left = self.left_on_host();
        assert!(left.is_empty(), "left on the host: {left:#?}");
        run(&mut self.cirro(&["doctor"])).ok();
    }

    fn remove_world(&mut self) {
        if let Some(name) = self.world.take() {
            program("ip", ["netns", "del", &name]).ok();
        }
    }

    /// Everything of this cloud that the host still has.
    pub(crate) fn left_on_host(&self) -> Vec<String> {
        let mut left = Vec::new();
        let directory = self.directory.path().to_string_lossy().into_owned();
        let me = std::process::id().cast_signed();
        let ours = |words: &[String]| words.iter().any(|word| word.contains(&directory));
        left.extend(
            processes()
                .into_iter()
                .filter(|(pid, words)| *pid != me && ours(words))
                .map(|found| format!("process {found:?}")),
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        left.extend(
            mounts.lines().filter(|line| line.contains(&directory)).map(|line| format!("mount {line}")),
        );
        let prefix =
            |name: &str| name.starts_with(&format!("{}-", self.name)) || name == format!("{}0", self.name);
        for entry in std::fs::read_dir("/sys/class/net").expect("links").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if prefix(&name) {
                left.push(format!("link {name}"));
            }
        }
        let tables = program("nft", ["list", "tables"]).ok();
        left.extend(
            tables.lines().filter(|line| line.split(' ').next_back() == Some(&self.name)).map(str::to_owned),
        );
        let cgroups =
            program("find", ["/sys/fs/cgroup", "-maxdepth", "2", "-type", "d", "-name", &self.name]);
        left.extend(cgroups.stdout.lines().map(|line| format!("cgroup {line}")));
        left
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.remove_world();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data_dir().join("cirro.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "last lines of the daemon's log:\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
            let _ = self.cirro(&["down", "--workloads"]).output();
            return;
        }
        self.end();
    }
}

/// Path of the archive of a base image; made when it is not in the cache.
pub(crate) fn base_image(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images").join(format!("{name}.sh"));
    let said = run(Command::new("bash").arg(script)).ok();
    PathBuf::from(said.trim())
}

/// Directory of the kernel that machines boot; fetched when it is not in the cache.
pub(crate) fn guest_kernel() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest-kernel");
    PathBuf::from(run(Command::new("bash").arg(script)).ok().trim())
}

/// Every process: id and argument vector.
fn processes() -> Vec<(i32, Vec<String>)> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some((pid, words.collect()))
    })
    .collect()
}

fn take_slot() -> (u32, File) {
    wait_for("a free slot for a cloud", Duration::from_secs(600), || {
        (0..SLOTS).find_map(|slot| {
            let path = std::env::temp_dir().join(format!("cirro-test-slot-{slot}"));
            let file =
                File::options().create(true).truncate(false).write(true).open(path).expect("a slot's file");
            file.try_lock().ok().map(|()| (slot, file))
        })
    })
}
