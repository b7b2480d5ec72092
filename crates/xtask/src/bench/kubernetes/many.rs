//! A cloud with 100,000 pods: its start, its memory, its lists.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use cirro_store::{EmbeddedStore, ObjectStore, Operation};
use serde_json::json;

use super::client::Api;
use super::{Cloud, Times, processes, row};

const PODS: usize = 100_000;
/// Those that are listed are in a namespace of their own.
const LISTED: usize = 10_000;
const POD_BYTES: usize = 3000;
/// Processor time in 4 s of a server that has nothing to do.
const IDLE_TICKS: u64 = 4;
/// How long a server may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACES: [&str; 2] = ["listed", "rest"];

/// Measures start, memory and lists.
pub(super) async fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let cloud = Cloud::new(binary)?;
    std::fs::create_dir_all(cloud.data_dir())?;
    let bytes = fill(&cloud.data_dir().join("objects.redb")).await.context("write pods")?;
    let begun = Instant::now();
    cloud.start_roles("engine,control")?;
    row("start until ready with 100,000 pods, at most 1 s", &Times(vec![begun.elapsed()]), None);
    let api = Api::open(&cloud.kubernetes, &cloud.kubeconfig())?;
    let mut connection = api.connect().await?;
    let mut times = Vec::new();
    let mut length = 0;
    for _ in 0..rounds.min(10) {
        let begun = Instant::now();
        length = connection.get("/api/v1/namespaces/listed/pods").await?;
        times.push(begun.elapsed());
    }
    let name = format!("list of {LISTED} pods ({:.0} MB), at most 150 ms", length as f64 / 1e6);
    row(&name, &Times(times), None);
    rested(cloud.daemon()?).await?;
    let memory = processes::memory(cloud.daemon()?)? as f64 / 1000.0;
    let bytes = bytes as f64 / 1e6;
    println!(
        "| memory (PSS) with {PODS} pods, at most 3 times their bytes | {memory:.0} MB | their bytes: {bytes:.0} MB | {:.2} |",
        memory / bytes
    );
    Ok(())
}

/// Waits until the controllers have taken everything in, and what that needed for a moment is given back.
async fn rested(daemon: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = processes::ticks(daemon)?;
    loop {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let now = processes::ticks(daemon)?;
        if now - before <= IDLE_TICKS || Instant::now() > deadline {
            return Ok(());
        }
        before = now;
    }
}

/// Writes the store as the server would; returns the pods' bytes.
async fn fill(path: &Path) -> anyhow::Result<usize> {
    let store = EmbeddedStore::open(path)?;
    let namespaces = NAMESPACES.map(|name| {
        let metadata = json!({"name": name, "uid": uid(name.len()), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubernetes.io/metadata.name": name}});
        let value = stored("Namespace", &metadata, r#","spec":{"finalizers":["kubernetes"]},"status":{"phase":"Active"}}"#);
        Operation::Put(format!("/registry/core/namespaces/{name}"), value)
    });
    store.commit(Vec::new(), namespaces.into()).await?;
    let mut bytes = 0;
    for first in (0..PODS).step_by(100) {
        let mut operations = Vec::with_capacity(100);
        for number in first..first + 100 {
            let namespace = NAMESPACES[usize::from(number >= LISTED)];
            let value = pod(number, namespace);
            bytes += value.len();
            operations
                .push(Operation::Put(format!("/registry/core/pods/{namespace}/pod-{number:06}"), value));
        }
        store.commit(Vec::new(), operations).await?;
    }
    Ok(bytes)
}

fn uid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// An object's bytes as they are stored, in the order that the server writes them.
fn stored(kind: &str, metadata: &serde_json::Value, rest: &str) -> Bytes {
    format!(r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{metadata}{rest}"#).into()
}

/// A pod that waits for a scheduler which is not there.
fn pod(number: usize, namespace: &str) -> Bytes {
    let metadata = json!({"name": format!("pod-{number:06}"), "namespace": namespace, "uid": uid(number),
        "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": format!("app-{}", number % 100)}});
    let mut environment: Vec<_> = (0..20)
        .map(|number| json!({"name": format!("VARIABLE_{number}"), "value": format!("value-{number:030}")}))
        .collect();
    let rest = |environment: &[serde_json::Value]| {
        let spec = json!({"schedulerName": "nobody", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "terminationGracePeriodSeconds": 30, "securityContext": {},
            "containers": [{"name": "main", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}, "env": environment}]});
        format!(r#","spec":{spec},"status":{{"phase":"Pending","qosClass":"Burstable"}}}}"#)
    };
    let missing = POD_BYTES.saturating_sub(stored("Pod", &metadata, &rest(&environment)).len());
    if missing > 40 {
        environment.push(json!({"name": "FILL", "value": "x".repeat(missing - 27)}));
    }
    stored("Pod", &metadata, &rest(&environment))
}
