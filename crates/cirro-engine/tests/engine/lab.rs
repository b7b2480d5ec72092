//! A cloud of one test: an engine with a busybox image, and a check that it leaves nothing.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cirro_engine::{Engine, EngineOptions, Event, WaitCondition};
use cirro_net::NetworkOptions;
use cirro_seams::container::{Container, ContainerSpec, NetworkMode, Phase};
use cirro_seams::node::{Output, Session};
use cirro_sys::netns::Netns;
use cirro_types::{ContainerConfig, ImageConfig};
use tokio::sync::mpsc;

/// Longest wait for anything; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const STACK: usize = 16 << 20;

/// What a test works with.
pub(crate) struct Lab {
    pub(crate) engine: Engine,
    options: EngineOptions,
    directory: tempfile::TempDir,
}

/// Runs a test with an engine of its own, then takes everything down and looks for what is left.
pub(crate) fn with_engine<F: Future<Output = Lab>>(test: impl FnOnce(Lab) -> F + Send) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("e{}{number}", std::process::id() % 100_000);
    let host = Netns::fresh().unwrap();
    // A thread of its own has room for a test's whole future; it and all that it makes stay on the test's host.
    let on_host = || {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            thread.spawn_scoped(scope, || run_test(&name, test)).unwrap().join()
        })
    };
    if let Err(panic) = host.run(on_host).unwrap() {
        std::panic::resume_unwind(panic);
    }
}

fn run_test<F: Future<Output = Lab>>(name: &str, test: impl FnOnce(Lab) -> F) {
    up_loopback();
    let directory = tempfile::tempdir().unwrap();
    // Ends after the runtime, so that nothing is started again.
    let _sweeper = Sweeper { name, directory: directory.path().to_owned() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let options = options(name, directory.path());
        let engine = Engine::start(options.clone()).await.expect("engine");
        load_busybox(&engine).await;
        let lab = test(Lab { engine, options, directory }).await;
        assert_eq!(lab.engine.leaks().await.unwrap(), Vec::<String>::new());
        lab.engine.tear_down().await.expect("tear down");
        lab.check_nothing_left(name);
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
}

/// A test that fails leaves no process, cgroup or namespace either.
struct Sweeper<'a> {
    name: &'a str,
    directory: PathBuf,
}

impl Drop for Sweeper<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::sweep::sweep(self.name, &self.directory);
        }
    }
}

fn up_loopback() {
    let mut netlink = cirro_sys::netlink::Netlink::open().unwrap();
    let lo = netlink.index("lo").unwrap();
    netlink.set_up(lo, true).unwrap();
}

fn options(name: &str, directory: &std::path::Path) -> EngineOptions {
    let run_dir = directory.join("run");
    EngineOptions {
        name: name.to_owned(),
        data_dir: directory.join("data"),
        run_dir: run_dir.clone(),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_cirro-engine-test")),
        network: NetworkOptions {
            name: name.to_owned(),
            run_dir,
            docker_subnets: vec!["172.17.0.0/16".parse().unwrap(), "172.18.0.0/15".parse().unwrap()],
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            dns_address: Ipv4Addr::new(10, 43, 0, 10),
            transit_cidr: "100.64.0.0/16".parse().unwrap(),
        },
        registries: Default::default(),
        disk: cirro_engine::DiskOptions { low_water: Some(0), reserve: Some(0) },
        guest_kernel: Some(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/kernel")),
    }
}

const APPLETS: [&str; 27] = [
    "sh", "true", "false", "sleep", "cat", "echo", "id", "hostname", "ls", "env", "pwd", "wc", "nc", "httpd",
    "ip", "head", "touch", "mkdir", "rm", "stty", "kill", "ping", "wget", "seq", "timeout", "stat", "test",
];

/// Makes an image of the host's static busybox.
async fn load_busybox(engine: &Engine) {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |tar: &mut tar::Builder<Vec<u8>>, path: &str, kind, mode, bytes: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_700_000_000);
        if link.is_empty() {
            tar.append_data(&mut header, path, bytes).unwrap();
        } else {
            tar.append_link(&mut header, path, link).unwrap();
        }
    };
    use tar::EntryType::{Directory, Regular, Symlink};
    for dir in ["bin/", "etc/", "tmp/", "data/"] {
        header(&mut tar, dir, Directory, if dir == "tmp/" { 0o1777 } else { 0o755 }, b"", "");
    }
    let busybox = std::fs::read("/bin/busybox").expect("/bin/busybox");
    header(&mut tar, "bin/busybox", Regular, 0o755, &busybox, "");
    for applet in APPLETS {
        header(&mut tar, &format!("bin/{applet}"), Symlink, 0o777, b"", "busybox");
    }
    header(
        &mut tar,
        "etc/passwd",
        Regular,
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        "",
    );
    header(&mut tar, "etc/group", Regular, 0o644, b"root:x:0:\nweb:x:34:\nextra:x:77:web\n", "");
    header(&mut tar, "data/file", Regular, 0o640, b"from the image", "");
    header(&mut tar, "etc/plain", Regular, 0o644, b"", "");
    let bytes = tar.into_inner().unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let feed = tokio::spawn(async move { sender.send(Ok(Bytes::from(bytes))).await.unwrap() });
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        config: ContainerConfig {
            cmd: vec!["sh".into()],
            env: vec!["FROM=image".into()],
            ..Default::default()
        },
        ..Default::default()
    };
    engine.import_image(receiver, config, Some("busybox".parse().unwrap())).await.expect("import");
    feed.await.unwrap();
}

/// A request that runs a command without a network.
pub(crate) fn command(args: &[&str]) -> ContainerSpec {
    ContainerSpec {
        image: "busybox".into(),
        command: Some(args.iter().map(|arg| (*arg).to_owned()).collect()),
        network: NetworkMode::None,
        ..ContainerSpec::default()
    }
}

/// A request that runs a shell script without a network.
pub(crate) fn script(text: &str) -> ContainerSpec {
    command(&["sh", "-c", text])
}

/// Fails when it takes too long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

/// What a session gave: standard output, standard error, exit code.
pub(crate) async fn collect(mut session: Session) -> (String, String, Option<i32>) {
    drop(session.input.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(chunk) = within(session.output.recv()).await {
        match chunk {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    let code = within(session.exit).await.ok();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(out), text(err), code)
}

impl Lab {
    /// Makes and starts a container; returns its id.
    pub(crate) async fn run(&self, spec: ContainerSpec) -> String {
        let (id, _) = within(self.engine.create_container(spec)).await.expect("create");
        within(self.engine.start_container(&id)).await.expect("start");
        id
    }

    /// Runs a container to its end; what it wrote, and its exit code.
    pub(crate) async fn output(&self, spec: ContainerSpec) -> (String, String, Option<i32>) {
        let (id, _) = within(self.engine.create_container(spec)).await.expect("create");
        let session = within(self.engine.attach_container(&id, false)).await.expect("attach");
        within(self.engine.start_container(&id)).await.expect("start");
        let output = collect(session).await;
        // The streams end before the exit is recorded.
        if let Ok(ended) = self.engine.wait_container(&id, WaitCondition::NotRunning).await {
            within(ended).await.expect("exit");
        }
        output
    }

    /// Waits for an event of an object.
    pub(crate) async fn event(
        events: &mut tokio::sync::broadcast::Receiver<Event>,
        action: &str,
        id: &str,
    ) -> Event {
        within(async {
            loop {
                let event = events.recv().await.expect("event");
                if event.action == action && event.id == id {
                    return event;
                }
            }
        })
        .await
    }

    /// Waits until a container is in a phase.
    pub(crate) async fn phase(&self, id: &str, phase: Phase) -> Container {
        let mut events = self.engine.events();
        within(async {
            loop {
                let container = self.engine.container(id).expect("container");
                if container.phase == phase {
                    return container;
                }
                // Each phase comes with an event; the short wait is for the change after it.
                let _ = tokio::time::timeout(Duration::from_millis(20), events.recv()).await;
            }
        })
        .await
    }

    /// Ends the engine and starts another one over the same directories.
    pub(crate) async fn restarted(self) -> Self {
        self.replaced(async |_, _| {}).await
    }

    /// Ends the engine, lets `meanwhile` run over its directories, and starts another one.
    pub(crate) async fn replaced(self, meanwhile: impl AsyncFnOnce(&std::path::Path, &str)) -> Self {
        within(self.engine.stop()).await;
        let Self { engine, options, directory } = self;
        drop(engine);
        // The database is given back when the last task and thread with a handle on it have ended.
        let database = options.data_dir.join("node.redb");
        within(async {
            while cirro_store::RedbNodeDb::open(&database).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        meanwhile(directory.path(), &options.name).await;
        let engine = within(Engine::start(options.clone())).await.expect("engine");
        Self { engine, options, directory }
    }

    pub(crate) fn name(&self) -> &str {
        &self.options.name
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn check_nothing_left(&self, name: &str) {
        let netns = std::fs::read_dir(self.options.run_dir.join("netns")).into_iter().flatten().flatten();
        let netns: Vec<_> = netns.map(|entry| entry.file_name()).collect();
        assert!(netns.is_empty(), "network namespaces left: {netns:?}");
        let here = self.directory.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&here)).collect();
        assert!(left.is_empty(), "mounts left: {left:?}");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let own = hierarchy.path().join(name);
            assert!(!own.exists(), "cgroup left: {}", own.display());
        }
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            assert!(!command.contains(&here), "process left: {command}");
        }
        let containers: Vec<_> =
            std::fs::read_dir(self.options.data_dir.join("containers")).unwrap().flatten().collect();
        assert!(containers.is_empty(), "container directories left");
    }
}
