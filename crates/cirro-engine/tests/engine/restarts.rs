//! Restart policies, and an engine that ends and comes back.

use std::time::Duration;

use cirro_engine::{EngineError, WaitCondition};
use cirro_seams::container::{ContainerSpec, NetworkMode, Phase, RestartPolicy};

use super::kills::process;
use super::lab::{Lab, command, script, with_engine, within};

#[test]
fn a_failing_container_is_started_again_as_often_as_its_policy_says_as_root() {
    with_engine(|lab| async move {
        let mut events = lab.engine.events();
        let spec = ContainerSpec { restart: RestartPolicy::OnFailure(2), ..script("exit 1") };
        let (id, _) = lab.engine.create_container(spec).await.unwrap();
        let stopped = lab.engine.wait_container(&id, WaitCondition::NextExit).await.unwrap();
        lab.engine.start_container(&id).await.unwrap();
        within(stopped).await.unwrap();
        for _ in 0..2 {
            Lab::event(&mut events, "start", &id).await;
        }
        let finally = lab.engine.wait_container(&id, WaitCondition::NotRunning).await.unwrap();
        assert_eq!(within(finally).await.unwrap().0, 1);
        let container = lab.engine.container(&id).unwrap();
        assert_eq!((container.phase, container.restart_count), (Phase::Exited, 2));
        let forever = lab.run(ContainerSpec { restart: RestartPolicy::Always, ..command(&["true"]) }).await;
        lab.phase(&forever, Phase::Restarting).await;
        match within(lab.engine.stop_container(&forever, None, Some(1))).await {
            Ok(()) | Err(EngineError::NotModified(_)) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(lab.engine.container(&forever).unwrap().phase, Phase::Exited);
        lab
    });
}

#[test]
fn workloads_go_on_while_the_engine_is_away_and_it_knows_them_again_as_root() {
    with_engine(|lab| async move {
        let running = lab.run(ContainerSpec {
            name: Some("stays".into()),
            network: NetworkMode::Default,
            open_stdin: true,
            ..command(&["cat"])
        });
        let running = running.await;
        let before = lab.engine.container(&running).unwrap();
        let ends = lab.run(script("sleep 1.5; exit 5")).await;
        let removes = lab.run(ContainerSpec { auto_remove: true, ..script("sleep 1.5") }).await;
        let wanted = lab.run(ContainerSpec { restart: RestartPolicy::Always, ..script("sleep 1.5") }).await;
        let wanted_before = lab.engine.container(&wanted).unwrap();
        let pid = lab.engine.container(&ends).unwrap().pid.unwrap();
        within(lab.engine.stop()).await;
        // The processes end while nobody looks.
        let gone =
            |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty());
        while !gone(pid) || !gone(wanted_before.pid.unwrap()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let lab = lab.restarted().await;
        let after = lab.engine.container("stays").unwrap();
        assert_eq!((after.phase, after.pid, after.endpoints), (Phase::Running, before.pid, before.endpoints));
        let ended = lab.phase(&ends, Phase::Exited).await;
        assert_eq!(ended.exit_code, Some(5));
        assert!(lab.engine.container(&removes).is_err());
        let mut events = lab.engine.events();
        while lab.engine.container(&wanted).unwrap().started_at == wanted_before.started_at {
            within(events.recv()).await.unwrap();
        }
        assert!(lab.engine.leaks().await.unwrap().is_empty());
        within(lab.engine.stop_container("stays", None, Some(0))).await.unwrap();
        lab
    });
}

/// Ends guardian, supervisor and everything in the cloud's cgroups, as a power cut would.
fn cut_power(directory: &std::path::Path, name: &str) {
    let run_dir = directory.join("run");
    let kill = |pid: i32| {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    };
    // The guardian first, which would start another supervisor.
    for role in ["cirro-guardian", "cirro-supervise"] {
        while let Some(pid) = process(role, &run_dir) {
            kill(pid);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let groups = std::fs::read_dir(hierarchy.path().join(name)).into_iter().flatten().flatten();
        for group in groups {
            let path = group.path().join("cgroup.procs");
            let processes = || std::fs::read_to_string(&path).unwrap_or_default();
            while !processes().trim().is_empty() {
                processes().lines().filter_map(|line| line.parse().ok()).for_each(kill);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    // What it noted was in memory.
    std::fs::remove_dir_all(run_dir.join("supervisor")).unwrap();
}

#[test]
fn what_its_policy_wants_comes_back_after_a_reboot_as_root() {
    with_engine(|lab| async move {
        let with = |name: &str, restart: RestartPolicy| ContainerSpec {
            name: Some(name.into()),
            restart,
            network: NetworkMode::Default,
            ..command(&["sleep", "1000"])
        };
        let mut pids = Vec::new();
        for (name, restart) in [
            ("always", RestartPolicy::Always),
            ("unless", RestartPolicy::UnlessStopped),
            ("failure", RestartPolicy::OnFailure(0)),
            ("never", RestartPolicy::No),
            ("stopped", RestartPolicy::UnlessStopped),
        ] {
            let id = lab.run(with(name, restart)).await;
            pids.push(lab.engine.container(&id).unwrap().pid);
        }
        within(lab.engine.stop_container("stopped", None, Some(0))).await.unwrap();
        let lab = lab.replaced(async |directory, name| cut_power(directory, name)).await;
        for name in ["always", "unless", "failure"] {
            let container = lab.phase(name, Phase::Running).await;
            assert!(!pids.contains(&container.pid), "{name} is the old one");
            assert!(!container.endpoints.is_empty(), "{name} has no network");
        }
        let never = lab.engine.container("never").unwrap();
        assert_eq!((never.phase, never.exit_code), (Phase::Exited, Some(255)));
        assert_eq!(lab.engine.container("stopped").unwrap().phase, Phase::Exited);
        for name in ["always", "unless", "failure"] {
            within(lab.engine.stop_container(name, None, Some(0))).await.unwrap();
        }
        lab
    });
}
