//! The node object and its heartbeat.

use std::sync::Arc;
use std::time::Duration;

use cirro_client::seconds;
use cirro_seams::api::{ObjectKey, Resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Kubelet;

/// The lease is renewed so often, as upstream's is.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The status is written so often even when nothing changed.
const STATUS_PERIOD: u32 = 30;
/// Upstream's default of pods on a node.
const MAX_PODS: u32 = 110;

/// Creates or updates the node object.
pub(crate) async fn register(kubelet: &Kubelet) {
    let name = &kubelet.options.node_name;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "node-role.kubernetes.io/control-plane": "",
            },
        },
        "spec": {"podCIDR": kubelet.options.pod_cidr, "podCIDRs": [kubelet.options.pod_cidr]},
    });
    match kubelet.api.create(&Resource::new("", "nodes"), object).await {
        Err(error) if !error.is_already_exists() => warn!(%error, "cannot register the node"),
        _ => {}
    }
    write_status(kubelet).await;
}

/// Renews the lease, and now and then the status.
pub(crate) async fn run(kubelet: Arc<Kubelet>, stop: CancellationToken) {
    let mut beats = 0_u32;
    loop {
        renew_lease(&kubelet).await;
        if stop.run_until_cancelled(tokio::time::sleep(HEARTBEAT)).await.is_none() {
            return;
        }
        beats = beats.wrapping_add(1);
        if beats.is_multiple_of(STATUS_PERIOD) {
            write_status(&kubelet).await;
        }
    }
}

async fn renew_lease(kubelet: &Kubelet) {
    let name = &kubelet.options.node_name;
    let leases = Resource::new("coordination.k8s.io", "leases");
    let key = ObjectKey { resource: leases.clone(), namespace: "kube-node-lease".into(), name: name.clone() };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now});
    let patched = kubelet.api.merge_patch(&key, false, json!({"spec": spec})).await;
    let result = match patched {
        Err(error) if error.is_not_found() => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec});
            kubelet.api.create(&leases, lease).await.map(drop)
        }
        other => other.map(drop),
    };
    if let Err(error) = result {
        warn!(%error, "cannot renew the node's lease");
    }
}

async fn write_status(kubelet: &Kubelet) {
    let nodes = Resource::new("", "nodes");
    let key =
        ObjectKey { resource: nodes, namespace: String::new(), name: kubelet.options.node_name.clone() };
    let earlier = kubelet.api.get(&key).await.ok();
    let status = status(kubelet, earlier.as_deref(), Timestamp::now());
    if let Err(error) = kubelet.api.merge_patch(&key, true, json!({"status": status})).await {
        warn!(%error, "cannot write the node's status");
    }
}

fn status(kubelet: &Kubelet, earlier: Option<&Value>, now: Timestamp) -> Value {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = format!("{}Ki", memory_kilobytes());
    let capacity = json!({"cpu": cores.to_string(), "memory": memory, "pods": MAX_PODS.to_string()});
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let conditions = earlier.and_then(|node| node.pointer("/status/conditions")?.as_array());
        let same =
            conditions.into_iter().flatten().find(|one| one["type"] == kind && one["status"] == status);
        let since = same.map_or_else(|| seconds(now).into(), |one| one["lastTransitionTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": since})
    };
    json!({
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "addresses": [
            {"type": "InternalIP", "address": kubelet.options.address},
            {"type": "Hostname", "address": kubelet.options.node_name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": node_info(&kubelet.options.version),
    })
}

fn node_info(version: &str) -> Value {
    let read =
        |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    json!({
        "machineID": read("/etc/machine-id"),
        "systemUUID": read("/sys/class/dmi/id/product_uuid"),
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "osImage": pretty.unwrap_or("Linux").trim_matches('"'),
        "containerRuntimeVersion": format!("cirro://{}", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": version,
        "kubeProxyVersion": version,
        "operatingSystem": "linux",
        "architecture": "amd64",
    })
}

/// Returns what the pods of this host may use: thousandths of processors, and bytes.
pub(crate) fn capacity() -> [i64; 2] {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = i64::try_from(memory_kilobytes() * 1024).unwrap_or(i64::MAX);
    [i64::try_from(cores * 1000).unwrap_or(i64::MAX), memory]
}

fn memory_kilobytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
