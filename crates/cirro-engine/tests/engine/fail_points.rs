//! Killed between any two steps of a container's life, the engine's next start makes records and reality one again.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use cirro_sys::fail_point;

use super::lab::with_engine;

const KILLED: i32 = 9;

fn child(role: &str, directory: &Path, name: &str) -> Command {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cirro-engine-test"));
    child.arg(role).arg(directory).arg(name).stdin(Stdio::null()).process_group(0);
    child
}

/// Every point that a container's life meets, in order.
fn points(directory: &Path, name: &str) -> Vec<String> {
    let log = directory.join("points");
    let status = child("life", directory, name).env(fail_point::LOG, &log).status().unwrap();
    assert!(status.success(), "{status}");
    let mut points: Vec<String> = Vec::new();
    for point in std::fs::read_to_string(&log).unwrap().lines() {
        if !points.iter().any(|one| one == point) {
            points.push(point.to_owned());
        }
    }
    assert!(points.len() > 25, "{points:?}");
    points
}

#[test]
fn a_kill_at_any_step_is_put_right_by_the_next_start_as_root() {
    with_engine(|lab| async move {
        lab.replaced(async |directory, name| {
            for point in points(directory, name) {
                // It also looks that the kill before it left nothing.
                let mut killed = child("life", directory, name);
                let status = killed.env(fail_point::ARM, format!("{point}=kill")).status().unwrap();
                assert_eq!(status.signal(), Some(KILLED), "{point}: {status}");
            }
            let status = child("life", directory, name).status().unwrap();
            assert!(status.success(), "{status}");
        })
        .await
    });
}

#[test]
fn a_step_that_fails_undoes_those_before_it_as_root() {
    with_engine(|lab| async move {
        lab.replaced(async |directory, name| {
            let points = points(directory, name);
            let fails = |point: &&String| point.starts_with("create.") || point.starts_with("start.");
            let status = child("undo", directory, name).args(points.iter().filter(fails)).status().unwrap();
            assert!(status.success(), "{status}");
        })
        .await
    });
}
