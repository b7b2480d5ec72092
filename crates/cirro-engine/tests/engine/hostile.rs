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
