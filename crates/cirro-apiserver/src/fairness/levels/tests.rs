use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::fairness::config;

fn level(name: &str, shares: u32, lendable: u32, borrowing: Option<u32>) -> config::Level {
    let mut spec = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable,
        "limitResponse": {"type": "Queue", "queuing": {"queues": 128, "handSize": 6, "queueLengthLimit": 50}}}});
    if let Some(percent) = borrowing {
        spec["limited"]["borrowingLimitPercent"] = percent.into();
    }
    config::Level::read(&json!({"metadata": {"name": name}, "spec": spec}))
}

fn levels(seats: u32, all: Vec<config::Level>) -> Arc<Levels> {
    let levels = Levels::new(seats);
    levels.configure(&Config::of_levels(all));
    levels
}

fn take(levels: &Arc<Levels>, name: &str, flow: u64) -> Option<Seat> {
    let mut waiting = levels.seat(name, flow)?;
    match &mut waiting.seat {
        Ok(seat) => Some(std::mem::replace(seat, Seat(None))),
        Err(_) => None,
    }
}

#[test]
fn hands_have_no_queue_twice() {
    for flow in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
        let mut dealt = hand(flow, 128, 6);
        dealt.sort_unstable();
        dealt.dedup();
        assert!(dealt.len() == 6 && dealt.iter().all(|queue| *queue < 128));
    }
    assert_eq!(hand(7, 3, 8).len(), 3);
}

#[tokio::test]
async fn seats_are_lent_but_not_those_that_are_kept() {
    let levels = levels(10, vec![level("a", 50, 0, None), level("b", 50, 100, None)]);
    // What b lends a may have; what a keeps b may not.
    let of_a: Vec<_> = (0..10).filter_map(|flow| take(&levels, "a", flow)).collect();
    assert_eq!(of_a.len(), 10);
    drop(of_a);
    let of_b: Vec<_> = (0..10).filter_map(|flow| take(&levels, "b", flow)).collect();
    assert_eq!(of_b.len(), 5);
    assert!(take(&levels, "a", 1).is_some());
    // One that is not limited always has a seat.
    assert!(take(&levels, "exempt", 1).is_some());
}

#[tokio::test]
async fn borrowing_has_its_limit() {
    let levels = levels(10, vec![level("a", 50, 0, Some(20)), level("b", 50, 100, None)]);
    let of_a: Vec<_> = (0..10).filter_map(|flow| take(&levels, "a", flow)).collect();
    assert_eq!(of_a.len(), 6);
}

#[tokio::test]
async fn who_leaves_his_queue_is_not_waited_for() {
    let levels = levels(1, vec![level("a", 1, 0, None)]);
    let first = levels.seat("a", 1).unwrap().await;
    let left = levels.seat("a", 1).unwrap();
    let second = levels.seat("a", 1).unwrap();
    drop(left);
    drop(first);
    drop(second.await);
    let state = levels.lock();
    assert!(!state.levels["a"].is_used());
}

/// Requests of ten milliseconds each: one client sends thousands, another one every tenth of a second. The time is the
/// simulation's own.
#[tokio::test(start_paused = true)]
async fn one_clients_flood_leaves_the_others_p99_under_a_second() {
    let levels = levels(10, vec![level("shared", 10, 0, None)]);
    let work = |levels: Arc<Levels>, flow: u64| async move {
        let asked = Instant::now();
        let seat = levels.seat("shared", flow)?.await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(seat);
        Some(asked.elapsed())
    };
    let flooding = tokio::spawn({
        let levels = levels.clone();
        async move {
            let mut refused = 0;
            let mut running = tokio::task::JoinSet::new();
            for _ in 0..200 {
                for _ in 0..100 {
                    running.spawn(work(levels.clone(), 0x1111_2222_3333_4444));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                while let Some(done) = running.try_join_next() {
                    refused += usize::from(done.unwrap().is_none());
                }
            }
            refused
        }
    });
    let mut times = Vec::new();
    let mut quiet = tokio::task::JoinSet::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        quiet.spawn(work(levels.clone(), 0x9999_8888_7777_6666));
    }
    while let Some(time) = quiet.join_next().await {
        times.push(time.unwrap().expect("the quiet one is never refused"));
    }
    times.sort();
    assert!(times[98] < Duration::from_secs(1), "p99 is {:?}", times[98]);
    assert!(flooding.await.unwrap() > 0, "the flood is bounded");
}
