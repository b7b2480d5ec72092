//! Health checks, from the first result to a restart of the engine.

use cirro_seams::container::{ContainerSpec, HealthCheck, HealthStatus, HealthTest};

use super::lab::{Lab, script, with_engine, within};

const MILLISECOND: i64 = 1_000_000;

fn checked(line: &str, check: HealthCheck) -> ContainerSpec {
    let test = HealthTest::Shell(line.to_owned());
    ContainerSpec { health: Some(HealthCheck { test, ..check }), ..script("sleep 1000") }
}

async fn status(lab: &Lab, id: &str, wanted: HealthStatus) {
    within(async {
        while lab.engine.container(id).unwrap().health.is_none_or(|health| health.status != wanted) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[test]
fn a_container_becomes_unhealthy_and_healthy_again_and_stays_so_over_a_restart_as_root() {
    with_engine(|lab| async move {
        let check =
            HealthCheck { interval: Some(100 * MILLISECOND), retries: Some(2), ..HealthCheck::default() };
        let mut events = lab.engine.events();
        let id = lab.run(checked("echo looked; test -e /tmp/ok", check)).await;
        Lab::event(&mut events, "health_status: unhealthy", &id).await;
        let health = lab.engine.container(&id).unwrap().health.unwrap();
        assert!(health.failing_streak >= 2 && health.log.len() >= 2, "{health:?}");
        assert_eq!(health.log[0].output, "looked\n");
        let touch = cirro_seams::node::ExecRequest {
            command: vec!["touch".into(), "/tmp/ok".into()],
            ..Default::default()
        };
        let exec = lab.engine.create_exec(&id, touch).await.unwrap();
        let session = lab.engine.start_exec(&exec).await.unwrap();
        within(session.exit).await.unwrap();
        Lab::event(&mut events, "health_status: healthy", &id).await;
        let lab = lab.restarted().await;
        status(&lab, &id, HealthStatus::Healthy).await;
        let before = lab.engine.container(&id).unwrap().health.unwrap().log;
        within(async {
            while lab.engine.container(&id).unwrap().health.unwrap().log == before {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        within(lab.engine.stop_container(&id, None, Some(0))).await.unwrap();
        assert_eq!(lab.engine.container(&id).unwrap().health.unwrap().status, HealthStatus::Unhealthy);
        lab
    });
}

#[test]
fn a_check_that_takes_too_long_is_killed_as_root() {
    with_engine(|lab| async move {
        let check = HealthCheck {
            interval: Some(50 * MILLISECOND),
            timeout: Some(300 * MILLISECOND),
            retries: Some(1),
            ..HealthCheck::default()
        };
        let id = lab.run(checked("echo begun; exec sleep 1000", check)).await;
        status(&lab, &id, HealthStatus::Unhealthy).await;
        let health = lab.engine.container(&id).unwrap().health.unwrap();
        assert_eq!(health.log[0].exit_code, -1);
        assert_eq!(health.log[0].output, "Health check exceeded timeout (0.3s): begun\n");
        let (_, rows) = lab.engine.container_top(&id, "-ef").await.unwrap();
        let checks = rows.iter().filter(|row| row[7] == "sleep 1000").count();
        assert!(checks <= 3, "checks are left running: {rows:?}");
        within(lab.engine.remove_container(&id, true, false)).await.unwrap();
        lab
    });
}
