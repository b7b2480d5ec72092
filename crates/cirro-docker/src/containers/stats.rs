//! `GET /containers/{name}/stats`: one document, or one each second.
//!
//! Source: moby `daemon/stats.go`, `daemon/stats_unix.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cirro_container::{BlockCount, CgroupVersion};
use cirro_engine::{Engine, InterfaceCounts, Sample};
use cirro_seams::container::Container;
use futures_util::Stream;
use serde_json::{Value, json};

use crate::Face;
use crate::error::ApiError;
use crate::line_stream;
use crate::query::Params;
use crate::time::ZERO_TIME;

/// What clients ask for: a document per second.
const INTERVAL: Duration = Duration::from_secs(1);

/// Answers with what a container uses.
pub(crate) async fn stats(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let stream = params.flag_or("stream", true);
    let one_shot = params.flag("one-shot");
    if stream && one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let container = face.engine.container(&name)?;
    let total = face.host.memory_bytes;
    if stream {
        return Ok(line_stream::json_lines(&face, flow(face.engine.clone(), container, total)));
    }
    let mut before = None;
    let mut now = face.engine.container_sample(&container.id).await?;
    if !one_shot && now.is_some() {
        // Clients compute rates from two samples.
        tokio::time::sleep(INTERVAL).await;
        before = now;
        now = face.engine.container_sample(&container.id).await?;
    }
    Ok(Json(document(&container, before.as_ref(), now.as_ref(), total)).into_response())
}

/// One document each second until the container is gone.
fn flow(engine: Engine, container: Container, total: u64) -> impl Stream<Item = Bytes> + Send {
    let ticker = tokio::time::interval(INTERVAL);
    futures_util::stream::unfold(
        (engine, container, ticker, None::<Sample>),
        move |(engine, container, mut ticker, before)| async move {
            ticker.tick().await;
            let now = engine.container_sample(&container.id).await.ok()?;
            let line = line_stream::line(&document(&container, before.as_ref(), now.as_ref(), total));
            Some((line, (engine, container, ticker, now)))
        },
    )
}

/// Writes a document; one without numbers when the container does not run. `total` is the host's memory.
fn document(container: &Container, before: Option<&Sample>, now: Option<&Sample>, total: u64) -> Value {
    let read = |sample: Option<&Sample>| sample.map_or(ZERO_TIME.to_owned(), |sample| sample.read.clone());
    let mut document = json!({
        "id": container.id,
        "name": format!("/{}", container.name),
        "read": read(now),
        "preread": read(before),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": now.map_or_else(|| json!({}), pids),
        "blkio_stats": now.map_or_else(|| block(&[], &[]), |sample| {
            block(&sample.cgroups.block.service_bytes, &sample.cgroups.block.serviced)
        }),
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": now.map_or_else(|| json!({}), |sample| memory(sample, total)),
    });
    if let Some(networks) = now.and_then(|sample| sample.networks.as_ref()).filter(|all| !all.is_empty()) {
        document["networks"] = interfaces(networks);
    }
    document
}

fn pids(sample: &Sample) -> Value {
    let pids = &sample.cgroups.pids;
    // As docker has it: the largest number stands for "no limit".
    json!({ "current": pids.current, "limit": pids.limit.unwrap_or(u64::MAX) })
}

fn cpu(sample: Option<&Sample>) -> Value {
    let Some(sample) = sample else {
        return json!({
            "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
            "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
        });
    };
    let cpu = &sample.cgroups.cpu;
    let mut usage = json!({
        "total_usage": cpu.usage_nanoseconds,
        "usage_in_kernelmode": cpu.system_nanoseconds,
        "usage_in_usermode": cpu.user_nanoseconds,
    });
    if !cpu.per_cpu_nanoseconds.is_empty() {
        usage["percpu_usage"] = json!(cpu.per_cpu_nanoseconds);
    }
    json!({
        "cpu_usage": usage,
        "system_cpu_usage": sample.system_nanoseconds,
        "online_cpus": sample.online_cpus,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled_nanoseconds,
        },
    })
}

fn memory(sample: &Sample, total: u64) -> Value {
    let memory = &sample.cgroups.memory;
    let mut document = json!({
        "usage": memory.usage_bytes,
        "stats": memory.breakdown,
        "limit": memory.limit_bytes.filter(|limit| *limit < total).unwrap_or(total),
    });
    if let Some(most) = memory.max_usage_bytes.filter(|_| sample.cgroups.version == CgroupVersion::V1) {
        document["max_usage"] = json!(most);
    }
    if memory.fail_count > 0 {
        document["failcnt"] = json!(memory.fail_count);
    }
    document
}

fn block(bytes: &[BlockCount], requests: &[BlockCount]) -> Value {
    let list = |counts: &[BlockCount]| {
        let entry = |count: &BlockCount| json!({ "major": count.major, "minor": count.minor, "op": count.operation, "value": count.value });
        if counts.is_empty() { Value::Null } else { counts.iter().map(entry).collect() }
    };
    json!({
        "io_service_bytes_recursive": list(bytes),
        "io_serviced_recursive": list(requests),
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}

fn interfaces(networks: &BTreeMap<String, InterfaceCounts>) -> Value {
    let one = |counts: &InterfaceCounts| {
        json!({
            "rx_bytes": counts.rx_bytes, "rx_packets": counts.rx_packets,
            "rx_errors": counts.rx_errors, "rx_dropped": counts.rx_dropped,
            "tx_bytes": counts.tx_bytes, "tx_packets": counts.tx_packets,
            "tx_errors": counts.tx_errors, "tx_dropped": counts.tx_dropped,
        })
    };
    networks.iter().map(|(name, counts)| (name.clone(), one(counts))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::inspect::tests::sample as container;
    use cirro_container::{BlockStatistics, CpuStatistics, MemoryStatistics, PidsStatistics, Statistics};

    fn sample() -> Sample {
        let count = BlockCount { major: 8, minor: 0, operation: "Read".into(), value: 4096 };
        Sample {
            read: "2024-05-01T10:00:05Z".into(),
            cgroups: Statistics {
                version: CgroupVersion::V1,
                cpu: CpuStatistics {
                    usage_nanoseconds: 30,
                    user_nanoseconds: 20,
                    system_nanoseconds: 10,
                    per_cpu_nanoseconds: vec![10, 20],
                    ..CpuStatistics::default()
                },
                memory: MemoryStatistics {
                    usage_bytes: 1000,
                    max_usage_bytes: Some(2000),
                    breakdown: [("total_inactive_file".to_owned(), 10)].into(),
                    ..MemoryStatistics::default()
                },
                pids: PidsStatistics { current: 2, limit: None },
                block: BlockStatistics { service_bytes: vec![count], serviced: Vec::new() },
            },
            networks: Some(
                [("eth0".to_owned(), InterfaceCounts { rx_bytes: 7, ..Default::default() })].into(),
            ),
            system_nanoseconds: 1000,
            online_cpus: 2,
        }
    }

    #[test]
    fn a_document_has_what_clients_compute_with() {
        let found = document(&container(), None, Some(&sample()), 1 << 30);
        assert_eq!(found["cpu_stats"]["cpu_usage"]["percpu_usage"], json!([10, 20]));
        assert_eq!(found["cpu_stats"]["system_cpu_usage"], 1000);
        assert_eq!(found["precpu_stats"]["cpu_usage"]["total_usage"], 0);
        assert!(found["precpu_stats"].get("system_cpu_usage").is_none());
        assert_eq!(found["memory_stats"]["limit"], 1 << 30);
        assert_eq!(found["memory_stats"]["stats"]["total_inactive_file"], 10);
        assert_eq!(found["networks"]["eth0"]["rx_bytes"], 7);
        let read = json!([{ "major": 8, "minor": 0, "op": "Read", "value": 4096 }]);
        assert_eq!(found["blkio_stats"]["io_service_bytes_recursive"], read);
        assert_eq!(found["blkio_stats"]["io_serviced_recursive"], Value::Null);
        assert_eq!(found["name"], "/web");
    }

    #[test]
    fn one_that_does_not_run_has_no_numbers() {
        let found = document(&container(), None, None, 1 << 30);
        assert_eq!(found["read"], ZERO_TIME);
        assert_eq!(found["memory_stats"], json!({}));
        assert!(found.get("networks").is_none());
    }
}
