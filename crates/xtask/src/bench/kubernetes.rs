//! The Kubernetes API: durable creates, latency, gets, watchers, memory, start.
//!
//! Client and server share the machine's processors; processor time is the server's own.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::json;
use tokio::task::JoinSet;

mod client;
mod many;

use super::etcd::Etcd;
use super::{Cloud, Times, processes, row};
use client::{Api, Line};

const CLIENTS: usize = 64;
/// How long each round of creates and puts goes on.
const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
/// Bytes in each object that is written.
const VALUE_BYTES: usize = 256;
const GETS: usize = 20_000;
const GET_CONNECTIONS: usize = 4;
const WATCHERS: usize = 1000;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Measures everything.
pub(super) fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cloud = Cloud::new(binary)?;
        serving(&cloud).await?;
        let api = Api::open(&cloud.kubernetes, &cloud.kubeconfig())?;
        writes(&cloud, &api, rounds).await?;
        gets(&cloud, &api).await?;
        watchers(&cloud, &api, rounds.min(20)).await?;
        drop(cloud);
        many::measure(binary, rounds).await
    })
}

/// Time until it serves, and idle memory.
async fn serving(cloud: &Cloud) -> anyhow::Result<()> {
    let begun = Instant::now();
    cloud.start_roles("engine,control")?;
    let api = Api::open(&cloud.kubernetes, &cloud.kubeconfig())?;
    api.connect().await?.get("/readyz").await?;
    row(
        "serving requests after start, new data directory, at most 300 ms",
        &Times(vec![begun.elapsed()]),
        None,
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    let memory = processes::memory(cloud.daemon()?)? as f64 / 1000.0;
    println!("| idle memory (PSS) of the server, engine included, at most 40 MB | {memory:.1} MB | | |");
    Ok(())
}

/// Creates beside etcd's puts, and the latency of one client beside fsync.
async fn writes(cloud: &Cloud, api: &Api, rounds: usize) -> anyhow::Result<()> {
    let etcd = Etcd::start()?;
    let peers = etcd.clients().await?;
    let serial = Arc::new(AtomicU64::new(0));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let daemon = cloud.daemon()?;
    let (mut used, mut made) = (0, 0);
    for _ in 0..ROUNDS {
        let before = (processes::ticks(daemon)?, serial.load(Ordering::Relaxed));
        ours.push(creates(api, &serial).await?);
        used += processes::ticks(daemon)? - before.0;
        made += serial.load(Ordering::Relaxed) - before.1;
        theirs.push(puts(&peers, &serial).await?);
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    // USER_HZ is 100 on every Linux that we run on.
    let each = used as f64 * 10_000.0 / made as f64;
    println!(
        "| durable creates over HTTPS, {CLIENTS} clients, at least etcd's puts | {ours:.0}/s, {each:.0} µs of the server's processors each | {}: {theirs:.0} puts/s | {:.2} |",
        etcd.version,
        ours / theirs
    );
    let mut connection = api.connect().await?;
    let file = File::create(cloud.data_dir().join("bench-fsync"))?;
    let (mut latencies, mut syncs) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(20) * 5 {
        let begun = Instant::now();
        create(&mut connection, &serial).await?;
        latencies.push(begun.elapsed());
        let begun = Instant::now();
        (&file).write_all(&[1; 4096])?;
        file.sync_data()?;
        syncs.push(begun.elapsed());
    }
    let median = |times: Vec<Duration>| Times(times).median();
    let (ours, sync) = (median(latencies), median(syncs));
    println!(
        "| create by one client, at most an fsync and 1 ms | {ours:.2} ms | write of 4 KiB and fdatasync: {sync:.2} ms | {:.2} ms more |",
        ours - sync
    );
    Ok(())
}

async fn create(connection: &mut Line, serial: &AtomicU64) -> anyhow::Result<()> {
    let name = format!("map-{}", serial.fetch_add(1, Ordering::Relaxed));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"value": "x".repeat(VALUE_BYTES)}});
    connection.ask("POST", CONFIG_MAPS, &map.to_string()).await?;
    Ok(())
}

/// Creates per second by all clients.
async fn creates(api: &Api, serial: &Arc<AtomicU64>) -> anyhow::Result<f64> {
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(api.connect().await?);
    }
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for mut connection in connections {
        let serial = serial.clone();
        clients.spawn(async move {
            let mut count = 0;
            while begun.elapsed() < ROUND {
                create(&mut connection, &serial).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    rate(clients, begun).await
}

/// The same of etcd.
async fn puts(peers: &[Arc<cirro_store::EtcdClient>], serial: &Arc<AtomicU64>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, serial) = (peers[number % peers.len()].clone(), serial.clone());
        clients.spawn(async move {
            let mut count = 0;
            while begun.elapsed() < ROUND {
                let key = format!("/map-{}", serial.fetch_add(1, Ordering::Relaxed));
                client.put(&key, Bytes::from(vec![b'x'; VALUE_BYTES])).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    rate(clients, begun).await
}

async fn rate(mut clients: JoinSet<anyhow::Result<u64>>, begun: Instant) -> anyhow::Result<f64> {
    let mut count = 0;
    while let Some(client) = clients.join_next().await {
        count += client??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// The server's processor time for each get of one object.
async fn gets(cloud: &Cloud, api: &Api) -> anyhow::Result<()> {
    let mut connections = Vec::new();
    for _ in 0..GET_CONNECTIONS {
        connections.push(api.connect().await?);
    }
    let daemon = cloud.daemon()?;
    let before = processes::ticks(daemon)?;
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for mut connection in connections {
        clients.spawn(async move {
            for _ in 0..GETS / GET_CONNECTIONS {
                connection.get(&format!("{CONFIG_MAPS}/map-0")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    // USER_HZ is 100 on every Linux that we run on.
    let microseconds = (processes::ticks(daemon)? - before) as f64 * 10_000.0 / GETS as f64;
    println!(
        "| processor time of a get, at most 100 µs | {microseconds:.0} µs (n={GETS}, {:.0}/s by {GET_CONNECTIONS} clients) | | |",
        GETS as f64 / elapsed
    );
    Ok(())
}

/// From the beginning of a create until the last of many watchers has the event.
async fn watchers(cloud: &Cloud, api: &Api, rounds: usize) -> anyhow::Result<()> {
    let (sender, mut seen) = tokio::sync::mpsc::channel(WATCHERS);
    let mut watching = JoinSet::new();
    let mut connection = api.connect().await?;
    let before = processes::memory(cloud.daemon()?)?;
    for _ in 0..WATCHERS {
        let mut connection = api.listen().await?;
        let path = "/api/v1/namespaces/kube-public/configmaps?watch=true&resourceVersion=";
        let answer = connection.send(Method::GET, path, Bytes::new()).await?;
        ensure!(answer.status().is_success(), "watch: {}", answer.status());
        let sender = sender.clone();
        watching.spawn(async move {
            let (_connection, mut body) = (connection, answer.into_body());
            while let Some(Ok(frame)) = body.frame().await {
                let events =
                    frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                for _ in 0..events {
                    let _ = sender.send(Instant::now()).await;
                }
            }
        });
    }
    // Those that are there already.
    while tokio::time::timeout(Duration::from_millis(500), seen.recv()).await.is_ok() {}
    let mut times = Vec::new();
    for round in 0..rounds {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("seen-{round}")}});
        let begun = Instant::now();
        let path = "/api/v1/namespaces/kube-public/configmaps";
        connection.ask("POST", path, &map.to_string()).await?;
        let mut last = begun;
        for _ in 0..WATCHERS {
            let one = tokio::time::timeout(Duration::from_secs(30), seen.recv()).await;
            last = last.max(one.context("every watcher gets the event")?.context("watchers go on")?);
        }
        times.push(last - begun);
    }
    row(&format!("an event at the last of {WATCHERS} watchers, at most 50 ms"), &Times(times), None);
    let each = processes::memory(cloud.daemon()?)?.saturating_sub(before) as f64 / WATCHERS as f64;
    println!("| memory (PSS) of a watcher with its connection | {each:.0} kB | | |");
    watching.shutdown().await;
    Ok(())
}
