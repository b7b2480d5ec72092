//! Stands for the `cirro` binary in this crate's tests: guardian and supervisor, and a daemon that is there to be killed.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use cirro_engine::{Engine, EngineOptions};
use cirro_net::NetworkOptions;
use cirro_seams::container::{ContainerSpec, NetworkMode};

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

fn options(name: &str, directory: &std::path::Path) -> EngineOptions {
    let run_dir = directory.join("run");
    EngineOptions {
        name: name.to_owned(),
        data_dir: directory.join("data"),
        run_dir: run_dir.clone(),
        executable: std::env::current_exe().expect("executable"),
        registries: Default::default(),
        guest_kernel: None,
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
