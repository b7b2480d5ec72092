//! Options that the kernel has to carry out: an init, shared memory, devices, links, limits that change.

use cirro_container::CgroupVersion;
use cirro_seams::container::{
    CgroupNamespace, ContainerSpec, DevicePath, Devices, IpcMode, Namespaces, NetworkMode, Resources,
    SystemPaths,
};

use super::lab::{Lab, command, script, with_engine, within};

fn ipc(mode: IpcMode) -> Namespaces {
    Namespaces { ipc: mode, ..Namespaces::default() }
}

#[test]
fn an_init_reaps_forwards_signals_and_ends_as_its_command_does_as_root() {
    with_engine(|lab| async move {
        // The orphan's end is nobody's but the init's to see; a process that is a zombie still has a directory.
        let text = "sh -c 'sleep 0.1 & echo $!' > /tmp/pid; while test -e /proc/$(cat /tmp/pid); do sleep 0.05; done; exit 5";
        let (out, _, code) = lab.output(ContainerSpec { init: true, ..script(text) }).await;
        assert_eq!((out.as_str(), code), ("", Some(5)));
        let spec = ContainerSpec {
            init: true,
            ..script("trap 'echo asked; exit 9' TERM; echo $$; while :; do sleep 0.05; done")
        };
        let mut events = lab.engine.events();
        let id = lab.run(spec).await;
        // Not before the trap is set.
        within(async {
            while std::fs::read_to_string(lab.engine.container(&id).unwrap().log_path)
                .is_ok_and(|log| log.is_empty())
            {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        within(lab.engine.stop_container(&id, None, Some(60))).await.unwrap();
        Lab::event(&mut events, "die", &id).await;
        assert_eq!(lab.engine.container(&id).unwrap().exit_code, Some(9));
        let (_, err, code) = lab.output(ContainerSpec { init: true, ..command(&["/no/such"]) }).await;
        assert_eq!(code, Some(127), "{err}");
        lab
    });
}

#[test]
fn shared_memory_devices_and_hidden_paths_are_as_asked_for_as_root() {
    with_engine(|lab| async move {
        let donor = ContainerSpec {
            name: Some("donor".into()),
            namespaces: ipc(IpcMode::Shareable),
            shm_size: Some(1 << 20),
            ..script("echo shared > /dev/shm/word; sleep 1000")
        };
        let donor = lab.run(donor).await;
        let reader = ContainerSpec {
            namespaces: ipc(IpcMode::Container("donor".into())),
            ..script("while ! cat /dev/shm/word 2>/dev/null; do sleep 0.05; done")
        };
        assert_eq!(lab.output(reader).await.0, "shared\n");
        within(lab.engine.stop_container(&donor, None, Some(0))).await.unwrap();
        let late =
            ContainerSpec { namespaces: ipc(IpcMode::Container("donor".into())), ..command(&["true"]) };
        let (late, _) = lab.engine.create_container(late).await.unwrap();
        let error = lab.engine.start_container(&late).await.unwrap_err();
        assert!(error.to_string().contains("failed to join IPC namespace"), "{error}");

        let none = ContainerSpec {
            namespaces: ipc(IpcMode::None),
            ..script("busybox grep -c /dev/shm /proc/mounts")
        };
        assert_eq!(lab.output(none).await.0, "0\n");
        let devices = Devices {
            paths: vec![DevicePath {
                host: "/dev/full".into(),
                container: "/dev/mine".into(),
                access: "r".into(),
            }],
            ..Devices::default()
        };
        let spec =
            ContainerSpec { devices, ..script("head -c 1 /dev/mine | wc -c; echo x > /dev/mine || echo no") };
        let (out, _, _) = lab.output(spec).await;
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["1", "no"]);
        let open = ContainerSpec {
            system_paths: SystemPaths { masked: Some(vec![]), read_only: Some(vec![]) },
            namespaces: Namespaces {
                host_uts: true,
                cgroup: Some(CgroupNamespace::Private),
                ..Namespaces::default()
            },
            ..script("busybox grep -c ' /proc/sys ' /proc/mounts; hostname; head -n 1 /proc/self/cgroup")
        };
        let (out, err, _) = lab.output(open).await;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[..2], ["0", host.as_str()], "{err}");
        assert!(lines[2].ends_with(":/"), "{out}");
        lab
    });
}

#[test]
fn limits_change_while_a_container_runs_and_are_kept_over_a_restart_as_root() {
    with_engine(|lab| async move {
        let spec = ContainerSpec {
            name: Some("box".into()),
            network: NetworkMode::Default,
            resources: Resources { memory: Some(64 << 20), pids: Some(50), ..Resources::default() },
            ..command(&["sleep", "1000"])
        };
        lab.run(spec).await;
        let limits = async |lab: &Lab| {
            let sample = lab.engine.container_sample("box").await.unwrap().expect("it runs");
            (sample.cgroups.memory.limit_bytes, sample.cgroups.pids.limit)
        };
        assert_eq!(limits(&lab).await, (Some(64 << 20), Some(50)));
        let sample = lab.engine.container_sample("box").await.unwrap().unwrap();
        assert!(sample.system_nanoseconds > 0 && sample.online_cpus > 0);
        assert!(sample.networks.unwrap().contains_key("eth0"));
        assert!(matches!(sample.cgroups.version, CgroupVersion::V1 | CgroupVersion::V2));
        let change = Resources {
            memory: Some(32 << 20),
            memory_swap: Some(64 << 20),
            pids: Some(20),
            ..Resources::default()
        };
        within(lab.engine.update_container("box", change, None)).await.unwrap();
        assert_eq!(limits(&lab).await, (Some(32 << 20), Some(20)));
        let greedy = Resources { memory: Some(128 << 20), ..Resources::default() };
        let error = lab.engine.update_container("box", greedy, None).await.unwrap_err();
        assert!(error.to_string().contains("already set memoryswap limit"), "{error}");
        within(lab.engine.restart_container("box", None, Some(0))).await.unwrap();
        assert_eq!(limits(&lab).await, (Some(32 << 20), Some(20)));
        within(lab.engine.stop_container("box", None, Some(0))).await.unwrap();
        assert!(lab.engine.container_sample("box").await.unwrap().is_none());
        lab
    });
}

#[test]
fn linked_containers_are_known_by_name_and_variables_as_root() {
    with_engine(|lab| async move {
        let db = ContainerSpec {
            name: Some("db".into()),
            network: NetworkMode::Default,
            env: vec!["PASSWORD=secret".into()],
            ..command(&["sleep", "1000"])
        };
        let db = lab.run(db).await;
        let address = lab.engine.container(&db).unwrap().endpoints[0].address;
        let links = vec![("db".to_owned(), "store".to_owned())];
        let web = ContainerSpec {
            network: NetworkMode::Default,
            links: links.clone(),
            ..script("cat /etc/hosts; echo $STORE_NAME $STORE_ENV_PASSWORD")
        };
        let (out, _, _) = lab.output(web).await;
        assert!(out.contains(&format!("{address}\tstore ")), "{out}");
        assert!(out.contains("/store secret"), "{out}");
        within(lab.engine.stop_container(&db, None, Some(0))).await.unwrap();
        let web = ContainerSpec { links, network: NetworkMode::Default, ..command(&["true"]) };
        let (web, _) = lab.engine.create_container(web).await.unwrap();
        let error = lab.engine.start_container(&web).await.unwrap_err();
        assert!(error.to_string().starts_with("Cannot link to a non running container: /db AS "), "{error}");
        lab
    });
}
