//! `POST /containers/create`: docker's three documents become one [`ContainerSpec`].

use std::net::IpAddr;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cirro_seams::container::{
    ContainerSpec, NetworkMode, Owner, PidMode, RestartPolicy, clean_cgroup_parent,
};
use http::{Request, StatusCode};
use serde_json::{Map, Value, json};

use super::request::{Config, HostConfig, NetworkingConfig, Words};
use super::{fields, log_config, mounts, network, options, ports, request, resources, storage};
use crate::Face;
use crate::body;
use crate::error::ApiError;
use crate::info::go_architecture;
use crate::query::Params;

const MAX_NAME: usize = 255;
const HOST_GATEWAY: &str = "host-gateway";
const PORTS_DISCARDED: &str = "Published ports are discarded when using host network mode";

/// Makes a container; answers with its id.
pub(crate) async fn create(
    State(face): State<Face>,
    params: Params,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let name = params.text("name").map(container_name).transpose()?;
    check_platform(params.text("platform"))?;
    let document = body::read_json(request.into_body()).await?;
    let gateway = || face.engine.host_gateway();
    let (spec, mut warnings) = translate(name, document, gateway)?;
    let size = spec.tty.then(|| console_size(&spec.face["HostConfig"]["ConsoleSize"])).transpose()?.flatten();
    let (id, more) = face.engine.create_container(spec).await?;
    warnings.extend(more);
    if let Some((columns, rows)) = size {
        // Told before the start, so that the process finds it from its first instruction on.
        face.engine.resize_container(&id, columns, rows).await?;
    }
    Ok((StatusCode::CREATED, Json(json!({ "Id": id, "Warnings": warnings }))).into_response())
}

/// Checks a container's name and takes the slash off its front.
pub(crate) fn container_name(name: &str) -> Result<String, ApiError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let fits = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && (2..=MAX_NAME).contains(&bare.len());
    match fits {
        true => Ok(bare.to_owned()),
        false => Err(ApiError::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))),
    }
}

/// Refuses a platform that is not this host's.
pub(crate) fn check_platform(platform: Option<&str>) -> Result<(), ApiError> {
    let Some(platform) = platform else { return Ok(()) };
    // Newer clients write the platform as a document.
    let (os, architecture) = match serde_json::from_str::<Value>(platform) {
        Ok(Value::Object(document)) => {
            let member =
                |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            (member("os"), member("architecture"))
        }
        _ => {
            let (os, rest) = platform.split_once('/').unwrap_or((platform, ""));
            (os.to_owned(), rest.split('/').next().unwrap_or_default().to_owned())
        }
    };
    let architecture = match architecture.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    match (os.as_str(), architecture) {
        ("" | "linux", architecture) if architecture.is_empty() || architecture == go_architecture() => {
            Ok(())
        }
        (same, "") if same == go_architecture() => Ok(()),
        _ => Err(ApiError::not_supported(format!(
            "the platform {platform} (this host is linux/{})",
            go_architecture()
        ))),
    }
}

/// Reads `[rows, columns]`; returns columns and rows.
pub(crate) fn console_size(value: &Value) -> Result<Option<(u16, u16)>, ApiError> {
    if fields::is_zero(value) || *value == json!([0, 0]) {
        return Ok(None);
    }
    let (rows, columns): (u16, u16) = body::decode(value.clone())?;
    Ok(Some((columns, rows)))
}

/// Translates a create request; returns the spec and warnings. `gateway` tells what `host-gateway` means.
pub(crate) fn translate(
    name: Option<String>,
    document: Value,
    gateway: impl Fn() -> Option<IpAddr>,
) -> Result<(ContainerSpec, Vec<String>), ApiError> {
    let Value::Object(mut config) = document else {
        return Err(ApiError::invalid("config cannot be empty in order to create a container"));
    };
    let host = config.remove("HostConfig").unwrap_or_else(|| json!({}));
    let networking = config.remove("NetworkingConfig").unwrap_or_else(|| json!({}));
    let config = Value::Object(config);
    fields::check(fields::CONFIG, "", &config)?;
    fields::check(fields::HOST_CONFIG, "HostConfig.", &host)?;
    options::check_windows(&host)?;
    let face = json!({ "Config": config, "HostConfig": host, "NetworkingConfig": networking });
    let host: HostConfig = body::decode(host)?;
    let mut warnings = resources::discarded(&host.limits);
    let mut spec = merge(body::decode(config)?, host, &body::decode(networking)?, gateway)?;
    spec.name = name;
    spec.face = face;
    warnings.extend(discard_ports(&mut spec));
    check_conflicts(&spec)?;
    Ok((spec, warnings))
}

fn merge(
    config: Config,
    host: HostConfig,
    networking: &NetworkingConfig,
    gateway: impl Fn() -> Option<IpAddr>,
) -> Result<ContainerSpec, ApiError> {
    if config.image.is_empty() {
        return Err(ApiError::invalid("no image specified: Config.Image is empty"));
    }
    let place = network::parse(&host.network_mode, networking, &config.mac_address)?;
    let mounts = mounts::parse(&config, &host)?;
    let (entrypoint, command) = argv(config.entrypoint, config.cmd);
    let text = |value: String| (!value.is_empty()).then_some(value);
    let mut spec = ContainerSpec {
        image: config.image,
        entrypoint,
        command,
        env: checked_env(config.env)?,
        labels: config.labels,
        user: text(config.user),
        additional_groups: host.group_add,
        working_dir: working_dir(config.working_dir)?,
        hostname: text(config.hostname),
        domainname: text(config.domainname),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        stop_signal: text(config.stop_signal),
        stop_timeout_seconds: config.stop_timeout,
        network: if config.network_disabled { NetworkMode::None } else { place.mode },
        networks: if config.network_disabled { None } else { place.networks },
        publish: ports::parse_bindings(&host.port_bindings)?,
        publish_all: host.publish_all_ports,
        exposed_ports: config
            .exposed_ports
            .keys()
            .map(|port| ports::parse_port(port))
            .collect::<Result<_, _>>()?,
        dns: host.dns.iter().map(|address| parse_address(address)).collect::<Result<_, _>>()?,
        dns_search: host.dns_search,
        dns_options: host.dns_options,
        extra_hosts: host
            .extra_hosts
            .iter()
            .map(|host| extra_host(host, &gateway))
            .collect::<Result<_, _>>()?,
        mounts,
        volumes_from: host
            .volumes_from
            .iter()
            .map(|text| mounts::parse_from(text))
            .collect::<Result<_, _>>()?,
        resources: resources::parse(&host.limits)?,
        restart: resources::parse_restart(&host.restart_policy)?,
        auto_remove: host.auto_remove,
        privileged: host.privileged,
        read_only_root: host.readonly_rootfs,
        cap_add: host.cap_add,
        cap_drop: host.cap_drop,
        security_opt: host.security_opt,
        sysctls: host.sysctls,
        storage_size: storage::size(&host.storage_opt)?,
        cgroup_parent: cgroup_parent(&host.cgroup_parent)?,
        shm_size: shm_size(host.shm_size)?,
        init: host.init.unwrap_or(false),
        pid_mode: pid_mode(&host.pid_mode)?,
        oom_score_adj: oom_score_adj(host.oom_score_adj)?,
        ulimits: host.ulimits.into_iter().map(ulimit).collect::<Result<_, _>>()?,
        log: log_config::parse(&host.log_config)?,
        health: config.healthcheck.as_ref().map(cirro_engine::parse_health_check).transpose()?,
        owner: Owner::Docker,
        ..ContainerSpec::default()
    };
    host.options.apply(&mut spec)?;
    Ok(spec)
}

/// Returns entrypoint and command. A given entrypoint means that the image's command does not count, and
/// `[""]` is how the CLI writes an entrypoint that is taken away.
fn argv(entrypoint: Option<Words>, cmd: Option<Words>) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let entrypoint = entrypoint.map(Words::into_vec);
    let command = cmd.map(Words::into_vec).filter(|words| !words.is_empty());
    let replaced = entrypoint.as_ref().is_some_and(|words| !words.is_empty());
    let entrypoint = entrypoint.map(|words| if words == [""] { Vec::new() } else { words });
    let command = if replaced { Some(command.unwrap_or_default()) } else { command };
    (entrypoint, command)
}

fn checked_env(env: Vec<String>) -> Result<Vec<String>, ApiError> {
    match env.iter().find(|entry| entry.is_empty() || entry.starts_with('=') || entry.contains('\0')) {
        Some(entry) => Err(ApiError::invalid(format!("invalid environment variable: {entry}"))),
        None => Ok(env),
    }
}

fn working_dir(dir: String) -> Result<Option<String>, ApiError> {
    match dir.as_str() {
        "" => Ok(None),
        absolute if absolute.starts_with('/') => Ok(Some(dir)),
        _ => Err(ApiError::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        ))),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, ApiError> {
    text.parse().map_err(|_| ApiError::invalid(format!("invalid IP address: {text}")))
}

/// Parses `name:address`; `host-gateway` stands for the address of the host on the default bridge.
fn extra_host(text: &str, gateway: &impl Fn() -> Option<IpAddr>) -> Result<(String, IpAddr), ApiError> {
    let invalid = || ApiError::invalid(format!("bad format for add-host: \"{text}\""));
    let (name, address) =
        text.split_once([':', '=']).filter(|(name, _)| !name.is_empty()).ok_or_else(invalid)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = match address {
        HOST_GATEWAY => {
            gateway().ok_or_else(|| ApiError::failed("unable to derive the IP value for host-gateway"))?
        }
        address => address
            .parse()
            .map_err(|_| ApiError::invalid(format!("invalid IP address in add-host: \"{address}\"")))?,
    };
    Ok((name.to_owned(), address))
}

/// Reads the path of a cgroup; nothing is the cloud's.
pub(crate) fn cgroup_parent(path: &str) -> Result<Option<String>, ApiError> {
    if path.is_empty() {
        return Ok(None);
    }
    let clean = clean_cgroup_parent(path);
    clean.map(Some).ok_or_else(|| ApiError::invalid(format!("invalid cgroup parent: {path}")))
}

/// Reads a size of shared memory; 0 is the default.
pub(crate) fn shm_size(size: i64) -> Result<Option<u64>, ApiError> {
    let size = u64::try_from(size).map_err(|_| ApiError::invalid("SHM size can not be less than 0"))?;
    Ok((size != 0).then_some(size))
}

fn pid_mode(mode: &str) -> Result<PidMode, ApiError> {
    match mode {
        "" | "private" => Ok(PidMode::Private),
        "host" => Ok(PidMode::Host),
        other => match other.strip_prefix("container:").filter(|container| !container.is_empty()) {
            Some(container) => Ok(PidMode::Container(container.to_owned())),
            None => Err(ApiError::invalid(format!("invalid PID mode: {other}"))),
        },
    }
}

fn oom_score_adj(score: i32) -> Result<Option<i32>, ApiError> {
    match score {
        0 => Ok(None),
        -1000..=1000 => Ok(Some(score)),
        _ => {
            Err(ApiError::invalid(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]")))
        }
    }
}

/// Translates a limit of a process: name, soft, hard.
pub(crate) fn ulimit(limit: request::Ulimit) -> Result<(String, u64, u64), ApiError> {
    // -1 is "unlimited".
    let bound = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let (soft, hard) = (bound(limit.soft), bound(limit.hard));
    match soft <= hard {
        true => Ok((limit.name, soft, hard)),
        false => Err(ApiError::invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            limit.soft, limit.hard
        ))),
    }
}

/// Takes published ports off a container on the host's network, as dockerd does.
fn discard_ports(spec: &mut ContainerSpec) -> Vec<String> {
    if spec.network != NetworkMode::Host || (spec.publish.is_empty() && !spec.publish_all) {
        return Vec::new();
    }
    spec.publish.clear();
    spec.publish_all = false;
    vec![PORTS_DISCARDED.to_owned()]
}

/// Refuses what cannot be together.
fn check_conflicts(spec: &ContainerSpec) -> Result<(), ApiError> {
    if spec.auto_remove && spec.restart != RestartPolicy::No {
        return Err(ApiError::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    if !matches!(spec.network, NetworkMode::Container(_)) {
        return Ok(());
    }
    let conflicts = [
        (spec.hostname.is_some(), "hostname and the network mode"),
        (!spec.dns.is_empty(), "dns and the network mode"),
        (!spec.extra_hosts.is_empty(), "custom host-to-IP mapping and the network mode"),
        (!spec.publish.is_empty() || spec.publish_all, "port publishing and the container type network mode"),
        (!spec.exposed_ports.is_empty(), "port exposing and the container type network mode"),
    ];
    match conflicts.iter().find(|(conflict, _)| *conflict) {
        Some((_, what)) => Err(ApiError::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

/// Returns a member of the face's document of a container as an object; empty when the face is not docker's.
pub(crate) fn face_document(spec: &ContainerSpec, member: &str) -> Map<String, Value> {
    spec.face.get(member).and_then(Value::as_object).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests;
