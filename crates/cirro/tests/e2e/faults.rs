//! What survives when processes of the cloud are killed.

use std::time::{Duration, Instant};

use crate::cloud::Cloud;
use crate::commands::{program, wait_for};

const COUNTER: &str = "i=0; while true; do echo line $i; i=$((i+1)); usleep 10000; done";

fn kill(pid: i32) {
    program("kill", ["-9", &pid.to_string()]).ok();
}

/// Every line from 0 on, none missing, none twice.
fn assert_unbroken(log: &str, at_least: usize) {
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.len() >= at_least, "only {} lines", lines.len());
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {number}"));
    }
}

#[test]
fn a_killed_daemon_costs_no_container_and_no_line_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    cloud.docker(&["run", "-d", "--name", "writer", "busybox", "sh", "-c", COUNTER]).ok();
    cloud.docker(&["run", "-d", "--name", "brief", "busybox", "sh", "-c", "sleep 1; exit 5"]).ok();
    let pid = cloud.docker(&["inspect", "-f", "{{.State.Pid}}", "writer"]).ok();
    kill(cloud.daemon_pid());
    std::thread::sleep(Duration::from_millis(1500));
    let begun = Instant::now();
    cloud.start();
    assert!(begun.elapsed() < Duration::from_secs(5), "back after {:?}", begun.elapsed());
    assert_eq!(cloud.docker(&["inspect", "-f", "{{.State.Pid}}", "writer"]).ok(), pid);
    let brief = cloud.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "brief"]).ok();
    assert_eq!(brief, "exited 5\n");
    cloud.docker(&["stop", "-t", "0", "writer"]).ok();
    assert_unbroken(&cloud.docker(&["logs", "writer"]).ok(), 100);
    cloud.end();
}

#[test]
fn a_killed_supervisor_costs_no_container_and_no_line_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    cloud.docker(&["run", "-d", "--name", "writer", "busybox", "sh", "-c", COUNTER]).ok();
    cloud.docker(&["run", "-d", "--name", "brief", "busybox", "sh", "-c", "sleep 1; exit 5"]).ok();
    let before = cloud.role_pid("supervisor");
    kill(before);
    wait_for("another supervisor", Duration::from_secs(10), || {
        let answer = cloud.docker(&["exec", "writer", "echo", "here"]);
        (answer.code == 0 && answer.stdout == "here\n").then_some(())
    });
    assert_ne!(cloud.role_pid("supervisor"), before);
    assert_eq!(cloud.docker(&["wait", "brief"]).ok(), "5\n");
    cloud.docker(&["stop", "-t", "0", "writer"]).ok();
    assert_unbroken(&cloud.docker(&["logs", "writer"]).ok(), 100);
    cloud.end();
}
