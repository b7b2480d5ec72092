use std::net::Ipv4Addr;

use cirro_seams::container::{Endpoint, NetworkMode, ResolvedMount};
use cirro_seams::network::{PortPublish, Protocol};

use super::*;

/// A container with a bit of everything.
pub(crate) fn sample() -> Container {
    let request = json!({
        "Image": "busybox", "Cmd": ["sh", "-c", "sleep 60"], "Env": ["A=b"], "Labels": {"tier": "front"},
        "Tty": false, "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {
            "Binds": ["cache:/data:ro"], "NetworkMode": "front", "CgroupnsMode": "host", "Memory": 67_108_864,
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "LogConfig": {"Type": "", "Config": {"max-size": "10m"}},
        },
        "NetworkingConfig": {"EndpointsConfig": {"front": {"Aliases": ["site"]}}},
    });
    let (spec, _) = super::super::create::translate(Some("web".into()), request, || None).unwrap();
    Container {
        id: "4f5e6d7c8b9a00112233445566778899aabbccddeeff00112233445566778899".into(),
        name: "web".into(),
        image_id: format!("sha256:{}", "ab".repeat(32)),
        args: ["sh", "-c", "sleep 60"].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".into(), "A=b".into()],
        working_dir: "/srv".into(),
        user: String::new(),
        labels: spec.labels.clone(),
        exposed_ports: vec![(80, Protocol::Tcp), (443, Protocol::Tcp)],
        phase: Phase::Running,
        pid: Some(4711),
        exit_code: None,
        oom_killed: false,
        error: None,
        created_at: "2024-05-01T10:00:00Z".into(),
        started_at: Some("2024-05-01T10:00:01.5Z".into()),
        finished_at: None,
        health_check: None,
        health: None,
        restart_count: 1,
        endpoints: vec![Endpoint {
            network: "front".into(),
            network_id: "aa".repeat(32),
            id: "bb".repeat(32),
            address: Ipv4Addr::new(172, 20, 0, 2),
            prefix: 16,
            gateway: Some(Ipv4Addr::new(172, 20, 0, 1)),
            mac: "02:42:ac:14:00:02".parse().unwrap(),
            address6: None,
            gateway6: None,
        }],
        ports: vec![PortPublish {
            host_address: None,
            host_port: Some(8080),
            last_host_port: None,
            port: 80,
            protocol: Protocol::Tcp,
        }],
        log_path: "/var/lib/cirro/containers/4f5e/log".into(),
        mounts: vec![ResolvedMount {
            kind: "volume".into(),
            name: Some("cache".into()),
            source: "/var/lib/cirro/volumes/cache".into(),
            target: "/data".into(),
            read_only: true,
            options: Default::default(),
        }],
        spec,
    }
}

#[test]
fn the_document_is_the_checked_in_one() {
    let expected: Value = serde_json::from_str(include_str!("expected.json")).unwrap();
    let found = document(&sample());
    assert_eq!(found, expected, "now:\n{}", serde_json::to_string_pretty(&found).unwrap());
}

#[test]
fn a_container_that_never_ran_has_gos_zero_times() {
    let container = Container {
        phase: Phase::Created,
        pid: None,
        started_at: None,
        endpoints: vec![],
        ports: vec![],
        ..sample()
    };
    let document = document(&container);
    assert_eq!(document["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(document["State"]["Running"], false);
    assert_eq!(document["NetworkSettings"]["Ports"], json!({}));
    assert_eq!(document["NetworkSettings"]["Networks"]["front"]["IPAddress"], "");
}

#[test]
fn a_pods_container_has_a_document_though_docker_did_not_ask_for_it() {
    let mut container = sample();
    container.spec.face = Value::Null;
    container.spec.network = NetworkMode::Sandbox("uid".into());
    container.endpoints.clear();
    let document = document(&container);
    assert_eq!(document["HostConfig"]["NetworkMode"], "pod:uid");
    assert_eq!(document["NetworkSettings"]["Networks"], json!({}));
    assert_eq!(document["Config"]["Cmd"], json!(["sh", "-c", "sleep 60"]));
    assert_eq!(document["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
}

#[test]
fn limits_are_shown_as_update_left_them() {
    let mut container = sample();
    container.spec.resources.memory = Some(1 << 30);
    assert_eq!(document(&container)["HostConfig"]["Memory"], 1 << 30);
}
