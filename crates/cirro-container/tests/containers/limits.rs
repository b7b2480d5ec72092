//! Limits that change while a container runs, and what it has used.

use cirro_container::ContainerError;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::cloud::{Cloud, until, within};

fn resources(json: Value) -> LinuxResources {
    serde_json::from_value(json).expect("resources")
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_it_runs_and_can_be_read() {
    let cloud = Cloud::start().await;
    cloud.run("one", "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; echo done; exec sleep 1000").await;
    let log = cloud.log("one");
    until(|| std::fs::metadata(&log).is_ok_and(|data| data.len() > 0)).await;
    let before = within(cloud.supervisor.statistics("one")).await.expect("statistics");
    assert!(before.cpu.usage_nanoseconds > 0, "{before:?}");
    assert!(before.memory.usage_bytes > 0 && before.memory.working_bytes() > 0, "{before:?}");
    assert!(before.pids.current >= 1, "{before:?}");
    assert!(before.memory.limit_bytes.is_none(), "{before:?}");
    let wanted = json!({
        "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
        "pids": {"limit": 33}, "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"}
    });
    within(cloud.supervisor.update("one", resources(wanted))).await.expect("update");
    let after = within(cloud.supervisor.statistics("one")).await.expect("statistics");
    assert_eq!((after.memory.limit_bytes, after.pids.limit), (Some(64 << 20), Some(33)));
    // Both limits of memory at once, up and down, whichever the kernel wants first.
    for (limit, swap) in [(256 << 20, 512 << 20), (16 << 20, 16 << 20), (-1, -1)] {
        let wanted = resources(json!({"memory": {"limit": limit, "swap": swap}}));
        within(cloud.supervisor.update("one", wanted)).await.expect("update");
        let now = within(cloud.supervisor.statistics("one")).await.expect("statistics");
        assert_eq!(now.memory.limit_bytes, u64::try_from(limit).ok());
    }
    // What is not named stays.
    let now = within(cloud.supervisor.statistics("one")).await.expect("statistics");
    assert_eq!(now.pids.limit, Some(33));
    within(cloud.supervisor.update("one", resources(json!({"pids": {"limit": -1}})))).await.expect("update");
    let now = within(cloud.supervisor.statistics("one")).await.expect("statistics");
    assert_eq!(now.pids.limit, None);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_limits_are_refused() {
    let cloud = Cloud::start().await;
    cloud.run("one", "exec sleep 1000").await;
    for wanted in [
        json!({"cpu": {"cpus": "4000"}}),
        json!({"unified": {"cgroup.procs": "0"}}),
        json!({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}),
        json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}),
    ] {
        let refused = within(cloud.supervisor.update("one", resources(wanted.clone()))).await;
        assert!(matches!(refused, Err(ContainerError::State(_) | ContainerError::Runtime(_))), "{wanted}");
    }
    for id in ["none", "../one", ""] {
        let refused = within(cloud.supervisor.statistics(id)).await;
        assert!(matches!(refused, Err(ContainerError::NotFound(_))), "{refused:?}");
        let refused = within(cloud.supervisor.update(id, LinuxResources::default())).await;
        assert!(matches!(refused, Err(ContainerError::NotFound(_))), "{refused:?}");
    }
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_elsewhere_is_used_and_goes_with_the_last_one_below_it() {
    let mut cloud = Cloud::start().await;
    let parent = format!("/{}-parent/deep", cloud.name);
    for id in ["one", "two"] {
        let mut request = cloud.container(id, &["sh", "-c", "cat /proc/self/cgroup; exec sleep 1000"]);
        request.cgroup_parent = Some(parent.clone());
        cloud.start_container(request).await;
    }
    let wanted = format!(":{parent}/one");
    let log = cloud.log("one");
    until(|| std::fs::metadata(&log).is_ok_and(|data| data.len() > 0)).await;
    until(|| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&wanted))).await;
    let used = within(cloud.supervisor.statistics("one")).await.expect("statistics");
    assert!(used.memory.usage_bytes > 0 && used.pids.current >= 1, "{used:?}");
    within(cloud.supervisor.update("one", resources(json!({"pids": {"limit": 21}})))).await.expect("update");
    let used = within(cloud.supervisor.statistics("one")).await.expect("statistics");
    assert_eq!(used.pids.limit, Some(21));
    // A successor knows it, and which groups are to go.
    let before = cloud.supervisor_pid();
    crate::cloud::kill_9(before);
    within(async { while cloud.supervisor.list().await.is_err() {} }).await;
    for id in ["one", "two"] {
        within(cloud.supervisor.kill(id, 9, true)).await.expect("kill");
        cloud.exit(id).await;
        assert!(!groups(&parent).is_empty());
        within(cloud.supervisor.delete(id, false)).await.expect("delete");
    }
    assert_eq!(groups(&format!("/{}-parent", cloud.name)), Vec::<std::path::PathBuf>::new());
    let mut request = cloud.container("three", &["true"]);
    request.cgroup_parent = Some(format!("/{}/one", cloud.name));
    let refused = within(cloud.supervisor.create(request)).await;
    assert!(matches!(refused, Err(ContainerError::State(_))), "{refused:?}");
    cloud.end().await;
}

/// The directories of a group in every hierarchy that has it.
fn groups(path: &str) -> Vec<std::path::PathBuf> {
    let mounts = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let tops = mounts.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    tops.map(|top: std::path::PathBuf| top.join(path.trim_start_matches('/')))
        .filter(|group| group.is_dir())
        .collect()
}
