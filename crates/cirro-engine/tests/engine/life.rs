//! The life of a container: made, started, ended, removed.

use cirro_engine::{EngineError, WaitCondition};
use cirro_seams::container::{ContainerSpec, Phase, PidMode, Resources};

use super::lab::{Lab, command, script, with_engine, within};

#[test]
fn a_container_lives_from_create_to_removal_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let spec = ContainerSpec { name: Some("web".into()), ..script("echo out; echo err >&2; exit 3") };
        let (id, warnings) = engine.create_container(spec.clone()).await.unwrap();
        assert!(warnings.is_empty());
        assert_eq!(engine.container("web").unwrap().phase, Phase::Created);
        let conflict = engine.create_container(spec).await.unwrap_err();
        assert!(matches!(conflict, EngineError::Conflict(_)), "{conflict}");
        let session = engine.attach_container(&id[..12], false).await.unwrap();
        let waiting = engine.wait_container("web", WaitCondition::NextExit).await.unwrap();
        engine.start_container("/web").await.unwrap();
        assert_eq!(super::lab::collect(session).await, ("out\n".into(), "err\n".into(), Some(3)));
        assert_eq!(within(waiting).await.unwrap(), (3, None));
        let container = lab.phase(&id, Phase::Exited).await;
        assert_eq!(container.exit_code, Some(3));
        assert!(container.pid.is_none() && container.started_at.is_some() && container.finished_at.is_some());
        let mut log = engine.container_logs(&id, Default::default()).await.unwrap();
        let mut lines = Vec::new();
        while let Some(entry) = within(log.recv()).await {
            lines.push((entry.stderr, entry.line));
        }
        lines.sort();
        assert_eq!(lines, [(false, "out\n".into()), (true, "err\n".into())]);
        engine.remove_container("web", false, false).await.unwrap();
        assert!(matches!(engine.container(&id), Err(EngineError::NotFound(_))));
        let actions: Vec<_> = engine.past_events(0).into_iter().filter(|event| event.id == id).collect();
        let actions: Vec<_> = actions.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(actions, ["create", "start", "die", "destroy"]);
        lab
    });
}

#[test]
fn a_container_that_removes_itself_is_gone_when_the_wait_is_answered_as_root() {
    with_engine(|lab| async move {
        for round in 0..5 {
            let spec = ContainerSpec { name: Some("once".into()), auto_remove: true, ..command(&["true"]) };
            let (id, _) = lab.engine.create_container(spec).await.unwrap();
            let waiting = lab.engine.wait_container(&id, WaitCondition::Removed).await.unwrap();
            lab.engine.start_container(&id).await.unwrap();
            assert_eq!(within(waiting).await.unwrap(), (0, None), "round {round}");
            assert!(lab.engine.container("once").is_err());
        }
        lab
    });
}

#[test]
fn a_missing_command_is_exit_code_127_and_leaves_nothing_as_root() {
    with_engine(|lab| async move {
        let (id, _) = lab.engine.create_container(command(&["nothere"])).await.unwrap();
        let error = lab.engine.start_container(&id).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("failed to create task for container: "), "{text}");
        assert!(text.ends_with("exec: \"nothere\": executable file not found in $PATH: unknown"), "{text}");
        let container = lab.engine.container(&id).unwrap();
        assert_eq!((container.phase, container.exit_code), (Phase::Created, Some(127)));
        assert_eq!(container.error.as_deref(), Some(text.as_str()));
        let (id, _) = lab.engine.create_container(command(&["/etc/passwd"])).await.unwrap();
        lab.engine.start_container(&id).await.unwrap_err();
        assert_eq!(lab.engine.container(&id).unwrap().exit_code, Some(126));
        assert!(lab.engine.leaks().await.unwrap().is_empty());
        let missing = ContainerSpec { image: "nothere".into(), ..ContainerSpec::default() };
        let error = lab.engine.create_container(missing).await.unwrap_err();
        assert!(
            matches!(error, EngineError::NotFound(_))
                && error.to_string().starts_with("No such image: nothere")
        );
        lab
    });
}

#[test]
fn a_container_is_stopped_killed_paused_and_restarted_as_root() {
    with_engine(|lab| async move {
        let engine = &lab.engine;
        let spec = ContainerSpec {
            name: Some("loop".into()),
            ..script("trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done")
        };
        let (id, _) = engine.create_container(spec).await.unwrap();
        let mut session = engine.attach_container(&id, false).await.unwrap();
        engine.start_container(&id).await.unwrap();
        assert!(matches!(engine.start_container(&id).await, Err(EngineError::NotModified(_))));
        within(session.output.recv()).await.expect("ready");
        engine.pause_container(&id).await.unwrap();
        assert_eq!(engine.container(&id).unwrap().phase, Phase::Paused);
        assert!(engine.pause_container(&id).await.is_err());
        engine.unpause_container(&id).await.unwrap();
        within(engine.stop_container(&id, None, Some(20))).await.unwrap();
        assert_eq!(engine.container(&id).unwrap().exit_code, Some(7));
        assert!(matches!(engine.stop_container(&id, None, None).await, Err(EngineError::NotModified(_))));
        within(engine.restart_container(&id, None, None)).await.unwrap();
        assert_eq!(engine.container(&id).unwrap().phase, Phase::Running);
        let refused = engine.remove_container(&id, false, false).await.unwrap_err();
        assert!(refused.to_string().contains("container is running"), "{refused}");
        let waiting = engine.wait_container(&id, WaitCondition::NotRunning).await.unwrap();
        engine.kill_container(&id, "KILL").await.unwrap();
        assert_eq!(within(waiting).await.unwrap().0, 137);
        let refused = engine.kill_container(&id, "TERM").await.unwrap_err();
        assert!(refused.to_string().contains("is not running"), "{refused}");
        engine.start_container(&id).await.unwrap();
        within(engine.remove_container(&id, true, true)).await.unwrap();
        assert!(engine.container(&id).is_err());
        lab
    });
}

#[test]
fn a_process_is_who_where_and_as_confined_as_asked_as_root() {
    with_engine(|lab| async move {
        let spec = ContainerSpec {
            user: Some("web".into()),
            working_dir: Some("/made/here".into()),
            hostname: Some("inside".into()),
            env: vec!["OWN=1".into()],
            ..script(
                "id -u; id -g; id -G; pwd; hostname; echo $HOME $FROM $OWN; cat /proc/sys/kernel/hostname",
            )
        };
        let (out, err, code) = lab.output(spec).await;
        assert_eq!(out, "33\n34\n34 77\n/made/here\ninside\n/srv image 1\ninside\n", "{err}");
        assert_eq!(code, Some(0));
        // No capability to mount, no system call for it either; the files of the host are hidden.
        let (out, _, _) =
            lab.output(script("grep -E 'CapEff|Seccomp:' /proc/self/status || cat /proc/self/status")).await;
        assert!(out.contains("Seccomp:\t2"), "{out}");
        assert!(out.contains("CapEff:\t00000000a80425fb"), "{out}");
        let (out, _, _) = lab
            .output(script(
                "cat /proc/kcore | wc -c; touch /proc/sys/kernel/x 2>&1; ls /sys/firmware | wc -l",
            ))
            .await;
        assert!(out.starts_with("0\n"), "{out}");
        let (out, _, _) = lab
            .output(ContainerSpec {
                read_only_root: true,
                ..script("touch /x 2>&1; touch /dev/shm/x && echo shm")
            })
            .await;
        assert!(out.contains("Read-only file system") && out.contains("shm"), "{out}");
        let (out, _, _) = lab
            .output(ContainerSpec {
                pid_mode: PidMode::Host,
                ..script("test -d /proc/1 && ls -d /proc/[0-9]* | wc -l")
            })
            .await;
        assert!(out.trim().parse::<u32>().unwrap() > 3, "{out}");
        lab
    });
}

#[test]
fn limits_reach_the_kernel_as_root() {
    with_engine(|lab| async move {
        let spec = ContainerSpec {
            resources: Resources {
                memory: Some(64 << 20),
                nano_cpus: Some(500_000_000),
                pids: Some(20),
                ..Resources::default()
            },
            ..command(&["sleep", "100"])
        };
        let id = lab.run(spec).await;
        let pid = lab.engine.container(&id).unwrap().pid.unwrap();
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let value = |controller: &str, file: &str| {
            let line = cgroups.lines().find(|line| {
                line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller))
            });
            let path = line?.split(':').nth(2)?;
            std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{path}/{file}")).ok()
        };
        if let Some(limit) = value("memory", "memory.limit_in_bytes") {
            assert_eq!(limit.trim(), (64 << 20).to_string());
            assert_eq!(value("cpu", "cpu.cfs_quota_us").unwrap().trim(), "50000");
            assert_eq!(value("pids", "pids.max").unwrap().trim(), "20");
        } else {
            let path = cgroups.trim().rsplit(':').next().unwrap();
            let max = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).unwrap();
            assert_eq!(max.trim(), (64 << 20).to_string());
        }
        lab
    });
}

#[test]
fn processes_are_listed_and_stopped_containers_pruned_as_root() {
    with_engine(|lab| async move {
        let (id, _) = lab.engine.create_container(script("echo ready; sleep 1000; true")).await.unwrap();
        let mut session = lab.engine.attach_container(&id, false).await.unwrap();
        lab.engine.start_container(&id).await.unwrap();
        within(session.output.recv()).await.expect("ready");
        let (titles, rows) = lab.engine.container_top(&id, "").await.unwrap();
        assert_eq!(titles[7], "CMD");
        assert!((1..=2).contains(&rows.len()), "{rows:?}");
        assert_eq!(
            (rows[0][0].as_str(), rows[0][7].as_str()),
            ("root", "sh -c echo ready; sleep 1000; true")
        );
        let (titles, rows) = lab.engine.container_top(&id, "-e -o pid,args").await.unwrap();
        assert_eq!(titles, ["PID", "COMMAND"]);
        assert!(rows.iter().any(|row| row[1] == "sh -c echo ready; sleep 1000; true"), "{rows:?}");
        let (stopped, _) = lab.engine.create_container(command(&["true"])).await.unwrap();
        let (ids, _) = lab.engine.prune_containers(|_| true).await.unwrap();
        assert_eq!(ids, [stopped]);
        let renamed = lab.engine.rename_container(&id, "sleeper").await;
        renamed.unwrap();
        assert_eq!(lab.engine.container("sleeper").unwrap().id, id);
        assert!(lab.engine.rename_container("sleeper", "bad name").await.is_err());
        let in_use = lab.engine.remove_image("busybox", false).await;
        assert!(matches!(in_use, Err(EngineError::Conflict(_))), "{in_use:?}");
        lab
    });
}

#[test]
fn many_containers_at_once_do_not_mind_each_other_as_root() {
    with_engine(|lab: Lab| async move {
        let runs = (0..20).map(|number| {
            let spec = ContainerSpec { auto_remove: number % 2 == 0, ..script(&format!("exit {number}")) };
            let engine = lab.engine.clone();
            async move {
                let (id, _) = engine.create_container(spec).await.unwrap();
                let waiting = engine.wait_container(&id, WaitCondition::NextExit).await.unwrap();
                engine.start_container(&id).await.unwrap();
                assert_eq!(within(waiting).await.unwrap().0, number);
            }
        });
        futures_util::future::join_all(runs).await;
        lab
    });
}
