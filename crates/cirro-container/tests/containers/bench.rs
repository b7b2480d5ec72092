//! How long things take and how much memory they hold. Printed; limits are wide, for machines that are busy.

use std::time::{Duration, Instant};

use crate::cloud::{Cloud, within};

#[tokio::test(flavor = "multi_thread")]
async fn making_a_container_is_quick_and_the_supervisor_small() {
    let mut cloud = Cloud::start().await;
    let (mut making, mut whole) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let id = format!("c{number}");
        let request = cloud.container(&id, &["true"]);
        let start = Instant::now();
        cloud.start_container(request).await;
        making.push(start.elapsed());
        cloud.exit(&id).await;
        within(cloud.supervisor.delete(&id, false)).await.expect("delete");
        whole.push(start.elapsed());
    }
    making.sort();
    whole.sort();
    eprintln!("create+start {:?} (least {:?}), whole life {:?}", making[10], making[0], whole[10]);
    assert!(making[10] < Duration::from_millis(500));
    for pid in [cloud.supervisor_pid(), cloud.guardian_pid()] {
        let pss = kilobytes(pid, "Pss:");
        eprintln!("{pid}: PSS {pss} kB, anonymous {} kB", kilobytes(pid, "Anonymous:"));
        assert!(kilobytes(pid, "Anonymous:") < 8 << 10);
    }
    cloud.end().await;
}

fn kilobytes(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("field");
    line.trim().trim_end_matches(" kB").parse().expect("number")
}
