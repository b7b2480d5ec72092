//! An engine that is killed in the middle of anything leaves nothing that the next one does not put right.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use cirro_seams::container::Phase;

use super::lab::{with_engine, within};

const KILLS: u64 = 8;
const QUIET_LOOKS: u32 = 8;

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
            // What the supervisor was still making for the killed daemon comes to be, and goes, a little later.
            // Between two helpers, and between a helper's end and its report's reading, all looks quiet for a moment.
            within(async {
                let mut quiet = 0;
                while quiet < QUIET_LOOKS {
                    let restless =
                        is_making(&lab.path("run")) || !lab.engine.leaks().await.unwrap().is_empty();
                    quiet = if restless { 0 } else { quiet + 1 };
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
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

/// Whether a helper of the supervisor with this run directory is at work.
fn is_making(run_dir: &std::path::Path) -> bool {
    let run_dir = run_dir.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let read = |path: std::path::PathBuf| std::fs::read(path).unwrap_or_default();
    let helper = |process: std::path::PathBuf| {
        read(process.join("comm")) == b"cirro-helper\n"
            && String::from_utf8_lossy(&read(process.join("cmdline"))).contains(&run_dir)
    };
    processes.into_iter().any(helper)
}
