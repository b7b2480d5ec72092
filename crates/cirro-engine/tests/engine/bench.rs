//! Where the time of a short container goes; run by hand (`--run-ignored only --no-capture`).

use std::time::{Duration, Instant};

use cirro_engine::WaitCondition;
use cirro_seams::container::ContainerSpec;

use super::lab::{command, with_engine, within};

const ROUNDS: usize = 30;

#[test]
#[ignore = "prints times"]
fn a_short_container_is_quick_as_root() {
    with_engine(|lab| async move {
        let mut times: Vec<[Duration; 4]> = Vec::new();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let spec = ContainerSpec { auto_remove: true, ..command(&["true"]) };
            let (id, _) = lab.engine.create_container(spec).await.unwrap();
            let created = begin.elapsed();
            let session = lab.engine.attach_container(&id, false).await.unwrap();
            let removed = lab.engine.wait_container(&id, WaitCondition::Removed).await.unwrap();
            lab.engine.start_container(&id).await.unwrap();
            let started = begin.elapsed();
            super::lab::collect(session).await;
            let ended = begin.elapsed();
            within(removed).await.unwrap();
            times.push([created, started - created, ended - started, begin.elapsed() - ended]);
        }
        for (place, name) in ["create", "start", "exit", "removal"].iter().enumerate() {
            let mut column: Vec<_> = times.iter().map(|row| row[place]).collect();
            column.sort();
            eprintln!("{name:8} p50 {:?} p90 {:?}", column[ROUNDS / 2], column[ROUNDS * 9 / 10]);
        }
        lab
    });
}
