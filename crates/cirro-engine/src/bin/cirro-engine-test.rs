//! Stands for the `cirro` binary in this crate's tests: guardian and supervisor, and a daemon that is there to be killed.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use cirro_engine::{Engine, EngineOptions, WaitCondition};
use cirro_net::NetworkOptions;
use cirro_seams::container::{ContainerSpec, Mount, MountSource, NetworkMode, Phase, RestartPolicy};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if cirro_container::is_init(&args) {
        return cirro_container::init_main(&args[1..]);
    }
    match args.get(1).and_then(|role| role.to_str()) {
        Some("guardian") => cirro_container::guardian_main(&args[2..]),
        Some("supervisor") => cirro_container::supervisor_main(&args[2..]),
        // churn DIRECTORY NAME: makes, starts and removes containers until it is killed.
        Some("churn") => churn(&args[2..]),
        // life DIRECTORY NAME: see `life`.
        Some("life") => life(&args[2..]),
        // undo DIRECTORY NAME POINT...: see `undo`.
        Some("undo") => undo(&args[2..]),
        _ => ExitCode::FAILURE,
    }
}

fn churn(args: &[OsString]) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (directory, name) = (PathBuf::from(&args[0]), args[1].to_string_lossy().into_owned());
    runtime.block_on(async {
        let engine = Engine::start(options(&name, &directory)).await.expect("engine");
        let one = |number: usize| {
            let engine = engine.clone();
            async move {
                for round in 0.. {
                    turn(&engine, number, round).await;
                }
            }
        };
        tokio::join!(one(0), one(1), one(2));
    });
    ExitCode::SUCCESS
}

/// One container of each kind in turn; every one but the kept ones ends at once.
async fn turn(engine: &Engine, number: usize, round: usize) {
    let kept = round % 4 == 3;
    let spec = ContainerSpec {
        image: "busybox".into(),
        command: Some(if kept { vec!["sleep".into(), "1000".into()] } else { vec!["true".into()] }),
        network: if number == 0 { NetworkMode::Default } else { NetworkMode::None },
        auto_remove: number == 1,
        ..ContainerSpec::default()
    };
    let (id, _) = engine.create_container(spec).await.expect("create");
    engine.start_container(&id).await.expect("start");
    if !kept && number != 1 {
        // It may have ended already, or be ending.
        engine.remove_container(&id, true, true).await.expect("remove");
    }
}

/// Looks that what a killed predecessor left has been put right, then takes containers of each kind through their lives.
fn life(args: &[OsString]) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (directory, name) = (PathBuf::from(&args[0]), args[1].to_string_lossy().into_owned());
    runtime.block_on(async {
        let engine = Engine::start(options(&name, &directory)).await.expect("engine");
        equals_reality(&engine).await;
        live(&engine).await;
        engine.stop().await;
    });
    ExitCode::SUCCESS
}

/// Has every step fail in turn: what was done is undone.
fn undo(args: &[OsString]) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (directory, name) = (PathBuf::from(&args[0]), args[1].to_string_lossy().into_owned());
    runtime.block_on(async {
        let engine = Engine::start(options(&name, &directory)).await.expect("engine");
        for point in &args[2..] {
            let point = point.to_string_lossy();
            cirro_sys::fail_point::arm(&format!("{point}=error")).expect("arm");
            let made = engine.create_container(named("life")).await;
            if made.is_ok() && engine.start_container("life").await.is_ok() {
                engine.stop_container("life", None, Some(0)).await.expect("stop");
            }
            cirro_sys::fail_point::arm("").expect("disarm");
            equals_reality(&engine).await;
        }
        engine.stop().await;
    });
    ExitCode::SUCCESS
}

/// Nothing leaks, what is recorded as running runs, and everything can be removed and leaves nothing.
async fn equals_reality(engine: &Engine) {
    assert_eq!(engine.leaks().await.expect("leaks"), Vec::<String>::new(), "after the start");
    for container in engine.containers() {
        if container.spec.restart == RestartPolicy::Always && container.started_at.is_some() {
            runs_again(engine, &container.id).await;
        }
        let container = engine.container(&container.id).expect("container");
        let process =
            container.pid.is_some_and(|pid| std::path::Path::new(&format!("/proc/{pid}/root")).exists());
        assert_eq!(process, container.phase == Phase::Running, "{container:?}");
        engine.remove_container(&container.id, true, true).await.expect("remove");
    }
    assert_eq!(engine.leaks().await.expect("leaks"), Vec::<String>::new(), "after the removal");
}

/// Waits until a container's policy has it run.
async fn runs_again(engine: &Engine, id: &str) {
    let mut events = engine.events();
    let again = async {
        while engine.container(id).expect("container").phase != Phase::Running {
            let _ = tokio::time::timeout(std::time::Duration::from_millis(100), events.recv()).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), again).await.expect("its policy starts it");
}

fn named(name: &str) -> ContainerSpec {
    let volume = |name: Option<&str>, target: &str| Mount {
        source: MountSource::Volume { name: name.map(str::to_owned) },
        target: target.into(),
        read_only: false,
        options: Default::default(),
    };
    ContainerSpec {
        name: Some(name.into()),
        image: "busybox".into(),
        command: Some(vec!["sleep".into(), "1000".into()]),
        mounts: vec![volume(None, "/anonymous"), volume(Some("kept"), "/kept")],
        ..ContainerSpec::default()
    }
}

async fn live(engine: &Engine) {
    engine.create_container(named("life")).await.expect("create");
    engine.start_container("life").await.expect("start");
    engine.stop_container("life", None, Some(0)).await.expect("stop");
    engine.start_container("life").await.expect("start again");
    engine.remove_container("life", true, true).await.expect("remove");

    let brief = ContainerSpec { auto_remove: true, command: Some(vec!["true".into()]), ..named("brief") };
    let (id, _) = engine.create_container(brief).await.expect("create brief");
    let removed = engine.wait_container(&id, WaitCondition::Removed).await.expect("wait");
    engine.start_container("brief").await.expect("start brief");
    removed.await.expect("removed");

    let missing = ContainerSpec { command: Some(vec!["/nonexistent".into()]), ..named("missing") };
    engine.create_container(missing).await.expect("create missing");
    engine.start_container("missing").await.expect_err("start missing");
    engine.remove_container("missing", false, true).await.expect("remove missing");

    let again = ContainerSpec { restart: RestartPolicy::Always, ..named("again") };
    engine.create_container(again).await.expect("create again");
    engine.start_container("again").await.expect("start again");
}

fn options(name: &str, directory: &std::path::Path) -> EngineOptions {
    let run_dir = directory.join("run");
    EngineOptions {
        name: name.to_owned(),
        data_dir: directory.join("data"),
        run_dir: run_dir.clone(),
        executable: std::env::current_exe().expect("executable"),
        registries: Default::default(),
        guest_kernel: None,
        disk: cirro_engine::DiskOptions { low_water: Some(0), reserve: Some(0) },
        network: NetworkOptions {
            name: name.to_owned(),
            run_dir,
            docker_subnets: vec![
                "172.17.0.0/16".parse().expect("range"),
                "172.18.0.0/15".parse().expect("range"),
            ],
            pod_cidr: "10.42.0.0/24".parse().expect("range"),
            service_cidr: "10.43.0.0/16".parse().expect("range"),
            dns_address: Ipv4Addr::new(10, 43, 0, 10),
            transit_cidr: "100.64.0.0/16".parse().expect("range"),
        },
    }
}
