//! An engine that is killed in the middle of anything leaves nothing that the next one does not put right.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use cirro_engine::WaitCondition;
use cirro_seams::container::{ContainerSpec, Phase};
use cirro_seams::node::NodeEvent;

use super::lab::{script, with_engine, within};

const KILLS: u64 = 8;

#[test]
fn what_a_kill_leaves_half_done_is_put_right_as_root() {
    with_engine(|mut lab| async move {
        for kill in 0..KILLS {
            lab = lab
                .replaced(async |directory, name| {
                    let mut daemon = Command::new(env!("CARGO_BIN_EXE_cirro-engine-test"))
                        .arg("churn")
                        .arg(directory)
                        .arg(name)
                        .stdin(Stdio::null())
                        .process_group(0)
                        .spawn()
                        .unwrap();
                    // Spread over start-up and many steps of many containers.
                    tokio::time::sleep(Duration::from_millis(150 + kill * 237)).await;
                    assert!(daemon.try_wait().unwrap().is_none(), "it ended by itself");
                    daemon.kill().unwrap();
                    daemon.wait().unwrap();
                })
                .await;
            assert_eq!(lab.engine.leaks().await.unwrap(), Vec::<String>::new());
            for container in lab.engine.containers() {
                let process =
                    container.pid.is_some_and(|pid| std::fs::exists(format!("/proc/{pid}/root")).unwrap());
                assert_eq!(process, container.phase == Phase::Running, "{container:?}");
                lab.engine.remove_container(&container.id, true, true).await.unwrap();
            }
            assert!(lab.engine.networks().len() == 1);
        }
        lab
    });
}

/// Finds the process of this name with this run directory.
pub(crate) fn process(comm: &str, run_dir: &std::path::Path) -> Option<i32> {
    let run_dir = run_dir.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let text = |path: std::path::PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    };
    let mut found = processes.filter(|process| {
        text(process.join("comm")).trim() == comm && text(process.join("cmdline")).contains(&run_dir)
    });
    found.next()?.file_name()?.to_str()?.parse().ok()
}

#[test]
fn containers_go_on_when_the_supervisor_is_killed_as_root() {
    with_engine(|lab| async move {
        let text = "echo ready; read word; echo $word; exit 6";
        let spec = ContainerSpec { open_stdin: true, ..script(text) };
        let (id, _) = lab.engine.create_container(spec).await.unwrap();
        let mut session = lab.engine.attach_container(&id, true).await.unwrap();
        lab.engine.start_container(&id).await.unwrap();
        within(session.output.recv()).await.expect("ready");
        let before = lab.engine.container(&id).unwrap();
        let mut changes = lab.engine.node().events();
        let supervisor = process("cirro-supervise", &lab.path("run")).expect("supervisor");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(supervisor).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        within(async { while changes.recv().await.unwrap() != NodeEvent::Everything {} }).await;
        let after = lab.engine.container(&id).unwrap();
        assert_eq!((after.phase, after.pid), (Phase::Running, before.pid));
        let ended = lab.engine.wait_container(&id, WaitCondition::NextExit).await.unwrap();
        let mut session = lab.engine.attach_container(&id, true).await.unwrap();
        session.input.take().unwrap().send("later\n".into()).await.unwrap();
        assert_eq!(within(ended).await.unwrap().0, 6);
        let mut log = lab.engine.container_logs(&id, Default::default()).await.unwrap();
        let mut lines = Vec::new();
        while let Some(entry) = within(log.recv()).await {
            lines.push(entry.line);
        }
        assert_eq!(lines, ["ready\n", "later\n"]);
        lab
    });
}
