//! Workloads that behave badly harm nobody but themselves.

use std::time::{Duration, Instant};

use cirro_engine::WaitCondition;
use cirro_seams::container::{ContainerSpec, Phase, Resources};
use cirro_seams::node::ExecRequest;
use futures_util::StreamExt;

use super::lab::{Lab, collect, command, script, with_engine, within};

/// Another container does what it is asked to, in good time.
async fn others_are_well(lab: &Lab) {
    let (out, _, code) = lab.output(ContainerSpec { auto_remove: true, ..script("echo well") }).await;
    assert_eq!((out.as_str(), code), ("well\n", Some(0)));
}

async fn remove(lab: &Lab, id: &str) {
    within(lab.engine.remove_container(id, true, true)).await.expect("remove");
}

#[test]
fn a_fork_bomb_stays_in_its_container_as_root() {
    with_engine(|lab| async move {
        let resources = Resources { pids: Some(64), ..Resources::default() };
        let bomb = "b() { b | b & }; while :; do b; done";
        let id = lab.run(ContainerSpec { resources, ..script(bomb) }).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        others_are_well(&lab).await;
        remove(&lab, &id).await;
        lab
    });
}

/// CVE-2022-0492 and CVE-2022-0185: neither the agent that the kernel runs at a cgroup's end nor a namespace in which file systems
/// could be mounted is within reach.
#[test]
fn no_way_leads_to_a_release_agent_or_a_user_namespace_as_root() {
    with_engine(|lab| async move {
        let tries = "for f in $(busybox find /sys/fs/cgroup -name release_agent -o -name notify_on_release); do \
                         (echo 1 > $f) 2>/dev/null && echo written $f; done; \
                     busybox mkdir -p /tmp/c; \
                     for t in cgroup cgroup2 tmpfs; do busybox mount -t $t none /tmp/c 2>/dev/null && echo mounted $t; done; \
                     for n in -U -Ur -m -n; do busybox unshare $n busybox true 2>/dev/null && echo unshared $n; done; \
                     echo over";
        let (out, err, code) = lab.output(ContainerSpec { auto_remove: true, ..script(tries) }).await;
        assert_eq!((out.as_str(), code), ("over\n", Some(0)), "{err}");
        lab
    });
}

#[test]
fn a_container_without_a_limit_of_processes_gets_the_hosts_default_as_root() {
    with_engine(|lab| async move {
        let find = "cat /proc/self/cgroup";
        let id = lab.run(script(&format!("{find}; sleep 1000"))).await;
        let limits: Vec<String> = std::fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|hierarchy| hierarchy.path().join(lab.name()).join(&id).join("pids.max"))
            .chain([std::path::Path::new("/sys/fs/cgroup").join(lab.name()).join(&id).join("pids.max")])
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .collect();
        assert!(!limits.is_empty());
        assert!(limits.iter().all(|limit| limit.trim() == "16384"), "{limits:?}");
        remove(&lab, &id).await;
        lab
    });
}

#[test]
fn who_ignores_sigterm_closes_its_streams_or_leaves_daemons_behind_ends_all_the_same_as_root() {
    with_engine(|lab| async move {
        let deaf = lab.run(script("trap '' TERM; echo deaf; while :; do sleep 1; done")).await;
        within(lab.engine.stop_container(&deaf, None, Some(1))).await.expect("stop");
        assert_eq!(lab.engine.container(&deaf).unwrap().exit_code, Some(137));

        let closed = script("exec 0<&- 1>&- 2>&-; sleep 1; exit 7");
        let (out, err, code) = lab.output(closed).await;
        assert_eq!((out.as_str(), err.as_str(), code), ("", "", Some(7)));

        let daemons = script(
            "for n in 1 2 3; do (busybox setsid sh -c 'busybox nohup sleep 1000 >/dev/null 2>&1 &' &); done; sleep 0.3; exit 9",
        );
        let (_, _, code) = lab.output(daemons).await;
        assert_eq!(code, Some(9));
        others_are_well(&lab).await;
        for container in lab.engine.containers() {
            remove(&lab, &container.id).await;
        }
        lab
    });
}

#[test]
fn shared_memory_is_bounded_as_root() {
    with_engine(|lab| async move {
        let fill = script(
            "busybox dd if=/dev/zero of=/dev/shm/fill bs=1M count=100 2>&1 | busybox tail -1; stat -c %s /dev/shm/fill",
        );
        let (out, _, _) = lab.output(ContainerSpec { shm_size: Some(8 << 20), ..fill }).await;
        let size: u64 = out.lines().last().unwrap().parse().expect("a size");
        assert_eq!(size, 8 << 20, "{out}");
        others_are_well(&lab).await;
        for container in lab.engine.containers() {
            remove(&lab, &container.id).await;
        }
        lab
    });
}

#[test]
fn clients_that_never_read_and_a_flood_stall_nobody_else_as_root() {
    with_engine(|lab| async move {
        let (flood, _) = lab.engine.create_container(command(&["busybox", "yes", "flood"])).await.unwrap();
        let mut deaf = Vec::new();
        for _ in 0..5 {
            deaf.push(lab.engine.attach_container(&flood, false).await.unwrap());
        }
        lab.engine.start_container(&flood).await.unwrap();
        let wild = lab.run(command(&["busybox", "yes", "wild"])).await;
        for _ in 0..5 {
            others_are_well(&lab).await;
        }
        // It is stopped however full its streams are.
        let begun = Instant::now();
        within(lab.engine.stop_container(&flood, Some("KILL"), Some(5))).await.expect("stop");
        within(lab.engine.stop_container(&wild, Some("KILL"), Some(5))).await.expect("stop");
        eprintln!("both floods ended in {:?}", begun.elapsed());
        drop(deaf);
        // Its log is rotated: the disk does not fill.
        let log = lab.engine.container(&wild).unwrap().log_path;
        let size: u64 = std::fs::read_dir(log.parent().unwrap())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("json.log"))
            .map(|entry| entry.metadata().unwrap().len())
            .sum();
        assert!(size < 80 << 20, "{size} bytes of log");
        remove(&lab, &flood).await;
        remove(&lab, &wild).await;
        lab
    });
}

#[test]
fn many_commands_and_many_containers_at_once_all_come_to_their_end_as_root() {
    const COMMANDS: usize = 400;
    const CONTAINERS: usize = 100;
    with_engine(|lab| async move {
        let id = lab.run(command(&["sleep", "1000"])).await;
        let execs = (0..COMMANDS).map(|number| {
            let (lab, id) = (&lab, &id);
            async move {
                let script = format!("echo {number}; exit {}", number % 50);
                let request = ExecRequest {
                    command: vec!["sh".into(), "-c".into(), script],
                    stdout: true,
                    ..ExecRequest::default()
                };
                let exec = lab.engine.create_exec(id, request).await.expect("create exec");
                let session = lab.engine.start_exec(&exec).await.expect("start exec");
                let (out, _, code) = collect(session).await;
                assert_eq!((out, code), (format!("{number}\n"), Some((number % 50) as i32)));
            }
        });
        within(futures_util::stream::iter(execs).buffer_unordered(40).collect::<Vec<()>>()).await;

        // As a hundred `docker run --rm` at once.
        let runs = (0..CONTAINERS).map(|number| {
            let lab = &lab;
            async move {
                let spec = ContainerSpec { auto_remove: true, ..script(&format!("exit {}", number % 100)) };
                let (id, _) = lab.engine.create_container(spec).await.expect("create");
                let ended = lab.engine.wait_container(&id, WaitCondition::NextExit).await.expect("wait");
                lab.engine.start_container(&id).await.expect("start");
                assert_eq!(ended.await.expect("end").0, (number % 100) as i64);
            }
        });
        within(futures_util::future::join_all(runs)).await;
        assert_eq!(lab.engine.container(&id).unwrap().phase, Phase::Running);
        remove(&lab, &id).await;
        lab
    });
}

#[test]
fn who_takes_all_memory_descriptors_or_inodes_harms_only_itself_as_root() {
    with_engine(|lab| async move {
        let resources =
            Resources { memory: Some(32 << 20), memory_swap: Some(32 << 20), ..Resources::default() };
        let eater = script("busybox tail /dev/zero; echo code $?; exec busybox tail /dev/zero");
        let id = lab.run(ContainerSpec { resources, ..eater }).await;
        let container = lab.phase(&id, Phase::Exited).await;
        assert!(container.oom_killed, "{container:?}");
        assert_eq!(container.exit_code, Some(137));
        others_are_well(&lab).await;
        remove(&lab, &id).await;

        // More than it may have open: the next one fails, and only here.
        let ulimits = vec![("nofile".to_owned(), 64, 64)];
        let text = "f() { [ $1 -eq 0 ] && echo all && return; f $(($1-1)) 3</dev/null; }; f 20; (f 200) 2>/dev/null || echo bounded";
        let (out, err, _) = lab.output(ContainerSpec { ulimits, ..script(text) }).await;
        assert_eq!(out, "all\nbounded\n", "{err}");
        others_are_well(&lab).await;

        // Inodes of a tmpfs are counted as its bytes are.
        let mut memory = cirro_seams::container::Mount {
            source: cirro_seams::container::MountSource::Tmpfs { size: Some(1 << 20), mode: None },
            target: "/full".into(),
            read_only: false,
            options: Default::default(),
        };
        memory.options.tmpfs = vec!["nr_inodes=1000".into()];
        let text = "n=0; while [ $n -lt 5000 ] && (: > /full/$n) 2>/dev/null; do n=$((n+1)); done; test $n -lt 1000 && echo bounded";
        let (out, err, _) = lab.output(ContainerSpec { mounts: vec![memory], ..script(text) }).await;
        assert_eq!(out, "bounded\n", "{err}");

        // A hundred thousand in the root go with the container, in the background of nobody's work.
        let text =
            "mkdir /many; cd /many; busybox seq 1 50000 | busybox xargs touch; echo made; exec sleep 1000";
        let id = lab.run(script(text)).await;
        let log = lab.engine.container(&id).unwrap().log_path;
        within(async {
            while !std::fs::read_to_string(&log).unwrap_or_default().contains("made") {
                others_are_well(&lab).await;
            }
        })
        .await;
        others_are_well(&lab).await;
        remove(&lab, &id).await;
        for container in lab.engine.containers() {
            remove(&lab, &container.id).await;
        }
        lab
    });
}

#[test]
fn zombies_remounts_and_thousands_of_mounts_end_with_the_container_as_root() {
    with_engine(|lab| async move {
        // Its first process never reaps.
        let zombies = "n=0; while [ $n -lt 300 ]; do (busybox setsid sh -c ':' &); n=$((n+1)); done; echo made; exec sleep 1000";
        // Privileged: it may mount, and over its own root too.
        let mounts = "mkdir /m; n=0; while [ $n -lt 2000 ]; do busybox mount -t tmpfs none /m; n=$((n+1)); done; \
                      busybox mount -o remount,ro /; busybox mount --bind /m /proc; echo made; exec sleep 1000";
        for (text, privileged) in [(zombies, false), (mounts, true)] {
            let id = lab.run(ContainerSpec { privileged, ..script(text) }).await;
            let log = lab.engine.container(&id).unwrap().log_path;
            within(async {
                while !std::fs::read_to_string(&log).unwrap_or_default().contains("made") {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            others_are_well(&lab).await;
            within(lab.engine.stop_container(&id, None, Some(1))).await.expect("stop");
            assert_eq!(lab.engine.container(&id).unwrap().exit_code, Some(137));
            remove(&lab, &id).await;
        }
        lab
    });
}

/// What is outside and must neither be read nor changed, and what was done to it.
struct Canary {
    directory: std::path::PathBuf,
    watch: std::os::fd::OwnedFd,
}

impl Canary {
    fn new(directory: std::path::PathBuf) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("secret"), "the host's").unwrap();
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        for path in [directory.clone(), directory.join("secret")] {
            add_watch(&watch, &path, WatchFlags::ALL_EVENTS).unwrap();
        }
        Self { directory, watch }
    }

    /// Nobody has opened, listed, changed or added anything.
    fn check(&self) {
        let next = || rustix::io::read(&self.watch, &mut [0; 4096]).map(drop);
        assert_eq!(next(), Err(rustix::io::Errno::AGAIN), "somebody was there");
        let names: Vec<_> =
            std::fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        // That were we.
        while next().is_ok() {}
    }
}

/// A process inside swaps a directory for links to the host's, without end, under everything that takes a path in a container:
/// copies both ways, commands' working directories, places in volumes, targets of mounts, what a commit packs.
#[test]
fn no_operation_on_a_path_that_changes_leads_out_as_root() {
    with_engine(|lab| async move {
        let canary = Canary::new(lab.path("canary"));
        let (engine, outside) = (&lab.engine, canary.directory.display());
        let volume = || cirro_seams::container::MountSource::Volume { name: Some("shared".into()) };
        let mount = |target: &str| cirro_seams::container::Mount {
            source: volume(),
            target: target.into(),
            read_only: false,
            options: Default::default(),
        };
        let text = format!(
            "for at in / /shared/; do mkdir -p ${{at}}swap/sub; echo ours > ${{at}}swap/secret; ln -s {outside} ${{at}}link; \
             ln -s /proc/1/root{outside} ${{at}}far; done; \
             while :; do for at in / /shared/; do for link in link far; do busybox mv ${{at}}swap ${{at}}x; \
             busybox mv ${{at}}$link ${{at}}swap; busybox mv ${{at}}swap ${{at}}$link; busybox mv ${{at}}x ${{at}}swap; done; done; done"
        );
        let id = lab.run(ContainerSpec { mounts: vec![mount("/shared")], ..script(&text) }).await;
        for round in 0..6 {
            // What comes of each is a matter of luck; that it does not come of the host is not.
            let request = ExecRequest {
                command: vec!["cat".into(), "secret".into()],
                stdout: true,
                working_dir: Some("/swap".into()),
                ..ExecRequest::default()
            };
            if let Ok(exec) = engine.create_exec(&id, request).await
                && let Ok(session) = within(engine.start_exec(&exec)).await
            {
                let (out, _, _) = collect(session).await;
                assert!(!out.contains("the host's"), "{out}");
            }
            let _ = within(engine.look_at_path(&id, "/swap/secret")).await;
            for path in ["/swap/secret", "/swap/sub", "/shared/swap/secret"] {
                let Ok((_, mut pieces)) = within(engine.get_archive(&id, path)).await else { continue };
                while let Some(Ok(piece)) = within(pieces.recv()).await {
                    assert!(!String::from_utf8_lossy(&piece).contains("the host's"), "{path}");
                }
            }
            let _ = within(engine.container_changes(&id)).await;
            // Others that have the same volume: a place in it, and a target below what changes.
            let mut below = mount("/data");
            below.options.subpath = Some("swap/sub".into());
            below.options.no_copy = true;
            let deep = cirro_seams::container::Mount {
                source: cirro_seams::container::MountSource::Tmpfs { size: Some(4096), mode: None },
                target: "/shared/swap/made".into(),
                read_only: false,
                options: Default::default(),
            };
            for mounts in [vec![below], vec![mount("/shared"), deep]] {
                let other =
                    ContainerSpec { mounts, ..script(&format!("test ! -e /data/secret; exit {round}")) };
                if let Ok((other, _)) = within(engine.create_container(other)).await {
                    let _ = within(engine.start_container(&other)).await;
                    remove(&lab, &other).await;
                }
            }
            canary.check();
        }
        remove(&lab, &id).await;
        within(engine.remove_volume("shared", false)).await.expect("remove volume");
        canary.check();
        lab
    });
}
