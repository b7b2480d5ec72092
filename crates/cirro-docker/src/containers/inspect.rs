//! `GET /containers/{name}/json`: everything about one container, in dockerd's shape.

use axum::Json;
use axum::extract::{Path, State};
use cirro_seams::container::{CgroupNamespace, Container, ContainerSpec, Phase, RestartPolicy};
use serde_json::{Map, Value, json};

use super::changes::add_size;
use super::create::face_document;
use super::{network, options, places, ports, status};
use crate::Face;
use crate::error::ApiError;
use crate::query::Params;
use crate::time::ZERO_TIME;

/// Answers with the container's document.
pub(crate) async fn inspect(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let container = face.engine.container(&name)?;
    let mut document = document(&container);
    if params.flag("size") {
        add_size(&face, &container.id, &mut document).await?;
    }
    let execs = face.engine.execs_of(&container.id);
    if !execs.is_empty() {
        document["ExecIDs"] = json!(execs);
    }
    Ok(Json(document))
}

/// Writes the container's document.
pub(crate) fn document(container: &Container) -> Value {
    let (path, args) =
        container.args.split_first().map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    json!({
        "Id": container.id,
        "Created": container.created_at,
        "Path": path,
        "Args": args,
        "State": state(container),
        "Image": container.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": if container.spec.log.keep { container.log_path.to_string_lossy() } else { "".into() },
        "Name": format!("/{}", container.name),
        "RestartCount": container.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": apparmor_profile(&container.spec),
        "ExecIDs": null,
        "HostConfig": host_config(container),
        "GraphDriver": { "Name": "overlay2", "Data": null },
        "Mounts": mounts(container),
        "Config": config(container),
        "NetworkSettings": places::network_settings(container),
    })
}

fn state(container: &Container) -> Value {
    let moment = |moment: &Option<String>| moment.clone().unwrap_or_else(|| ZERO_TIME.to_owned());
    let phase = container.phase;
    let mut state = json!({
        "Status": status::state(phase),
        "Running": matches!(phase, Phase::Running | Phase::Paused | Phase::Restarting),
        "Paused": phase == Phase::Paused,
        "Restarting": phase == Phase::Restarting,
        "OOMKilled": container.oom_killed,
        "Dead": phase == Phase::Dead,
        "Pid": container.pid.unwrap_or_default(),
        "ExitCode": container.exit_code.unwrap_or_default(),
        "Error": container.error.clone().unwrap_or_default(),
        "StartedAt": moment(&container.started_at),
        "FinishedAt": moment(&container.finished_at),
    });
    if let Some(health) = &container.health {
        state["Health"] = status::health(health);
    }
    state
}

fn apparmor_profile(spec: &ContainerSpec) -> &str {
    let profile = |option: &'_ String| option.strip_prefix("apparmor=").is_some();
    let option = spec.security_opt.iter().rfind(|option| profile(option));
    option.map_or("", |option| &option["apparmor=".len()..])
}

/// Returns `Config`: what was asked for, with the image's defaults merged.
fn config(container: &Container) -> Value {
    let spec = &container.spec;
    let hostname = spec.hostname.clone().unwrap_or_else(|| container.id.chars().take(12).collect());
    let mut config = face_document(spec, "Config");
    let defaults = json!({
        "AttachStdin": false, "AttachStdout": true, "AttachStderr": true, "Domainname": "", "OnBuild": null,
        "Entrypoint": spec.entrypoint, "Cmd": spec.command, "Volumes": null,
    });
    fill(&mut config, defaults);
    let merged = json!({
        "Hostname": hostname,
        "User": container.user,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": container.env,
        "Image": spec.image,
        "WorkingDir": container.working_dir,
        "Labels": container.labels,
    });
    overlay(&mut config, merged);
    if let Some(check) = &container.health_check {
        config.insert("Healthcheck".into(), cirro_engine::health_check_document(check));
    }
    // The image's command, when the request had none of its own.
    if config["Cmd"].is_null() && config["Entrypoint"].is_null() {
        config.insert("Cmd".into(), json!(container.args));
    }
    if !container.exposed_ports.is_empty() {
        let exposed = container.exposed_ports.iter();
        let exposed: Map<String, Value> = exposed
            .map(|(number, protocol)| (format!("{number}/{}", protocol.as_str()), json!({})))
            .collect();
        config.insert("ExposedPorts".into(), Value::Object(exposed));
    }
    Value::Object(config)
}

/// Returns `HostConfig`: as it was asked for, with what `update` and defaults changed.
fn host_config(container: &Container) -> Value {
    let spec = &container.spec;
    let mut host = face_document(spec, "HostConfig");
    fill(&mut host, host_defaults(container));
    let resources = &spec.resources;
    let (masked, read_only) = cirro_engine::system_paths(spec);
    let current = json!({
        "NetworkMode": network::mode_text(&spec.network),
        "RestartPolicy": restart_policy(spec.restart),
        "Memory": resources.memory.unwrap_or_default(),
        "MemorySwap": resources.memory_swap.unwrap_or_default(),
        "MemoryReservation": resources.memory_reservation.unwrap_or_default(),
        "NanoCpus": resources.nano_cpus.unwrap_or_default(),
        "CpuShares": resources.cpu_shares.unwrap_or_default(),
        "CpuQuota": resources.cpu_quota.unwrap_or_default(),
        "CpuPeriod": resources.cpu_period.unwrap_or_default(),
        "CpusetCpus": resources.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.clone().unwrap_or_default(),
        "PidsLimit": resources.pids,
        "IpcMode": options::ipc_text(&spec.namespaces.ipc),
        "CgroupnsMode": cgroup_namespace(container),
        "MaskedPaths": masked,
        "ReadonlyPaths": read_only,
        "Runtime": "cirro",
        "MemorySwappiness": resources.memory_swappiness,
        "OomKillDisable": resources.oom_kill_disable,
        "BlkioWeight": resources.block_io.weight.unwrap_or_default(),
        "ShmSize": spec.shm_size.unwrap_or(64 << 20),
        "LogConfig": log_config(container),
        "Links": links(container),
    });
    overlay(&mut host, current);
    Value::Object(host)
}

fn cgroup_namespace(container: &Container) -> &'static str {
    match container.spec.namespaces.cgroup {
        Some(CgroupNamespace::Private) => "private",
        Some(CgroupNamespace::Host) => "host",
        None => cirro_engine::default_cgroup_namespace(),
    }
}

/// A list that nobody gave is `null`, as Go writes it.
fn list_or_null(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// Returns links as docker writes them: `/CONTAINER:/OWN NAME/ALIAS`.
fn links(container: &Container) -> Value {
    let link = |(other, alias): &(String, String)| format!("/{other}:/{}/{alias}", container.name);
    let links: Vec<String> = container.spec.links.iter().map(link).collect();
    if links.is_empty() { Value::Null } else { json!(links) }
}

/// What clients expect to find even when the request did not have it.
fn host_defaults(container: &Container) -> Value {
    let spec = &container.spec;
    json!({
        "Binds": null, "ContainerIDFile": "", "PortBindings": ports::bindings(&spec.publish),
        "AutoRemove": spec.auto_remove, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0],
        "CapAdd": list_or_null(&spec.cap_add), "CapDrop": list_or_null(&spec.cap_drop), "Dns": spec.dns,
        "DnsOptions": spec.dns_options, "DnsSearch": spec.dns_search, "ExtraHosts": null, "GroupAdd": null,
        "Cgroup": "", "OomScoreAdj": spec.oom_score_adj.unwrap_or_default(),
        "PidMode": "", "Privileged": spec.privileged, "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": spec.read_only_root, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
        "Isolation": "", "CgroupParent": "", "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [], "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "Devices": [],
        "DeviceCgroupRules": null, "DeviceRequests": null,
        "Ulimits": [], "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
    })
}

fn restart_policy(policy: RestartPolicy) -> Value {
    let (name, count) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure(count) => ("on-failure", count),
    };
    json!({ "Name": name, "MaximumRetryCount": count })
}

fn log_config(container: &Container) -> Value {
    let asked = &container.spec.face["HostConfig"]["LogConfig"];
    let options = asked.get("Config").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let kind = match asked.get("Type").and_then(Value::as_str) {
        _ if !container.spec.log.keep => "none",
        Some("local") => "local",
        _ => "json-file",
    };
    json!({ "Type": kind, "Config": options })
}

/// Puts members in that are not there yet.
fn fill(map: &mut Map<String, Value>, members: Value) {
    let Value::Object(members) = members else { return };
    for (name, value) in members {
        map.entry(name).or_insert(value);
    }
}

/// Puts members in, over what is there.
fn overlay(map: &mut Map<String, Value>, members: Value) {
    let Value::Object(members) = members else { return };
    map.extend(members);
}

/// Returns `Mounts`.
pub(crate) fn mounts(container: &Container) -> Vec<Value> {
    let mount = |mount: &cirro_seams::container::ResolvedMount| {
        let mut value = json!({
            "Type": mount.kind,
            "Source": mount.source.to_string_lossy(),
            "Destination": mount.target,
            "Mode": if mount.read_only { "ro" } else { "" },
            "RW": !mount.read_only,
            "Propagation": if mount.kind == "bind" { mount.options.propagation.as_str() } else { "" },
        });
        if let Some(name) = &mount.name {
            value["Name"] = json!(name);
            value["Driver"] = json!("local");
        }
        value
    };
    container.mounts.iter().map(mount).collect()
}

#[cfg(test)]
pub(crate) mod tests;
