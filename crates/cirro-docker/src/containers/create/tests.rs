use std::net::Ipv4Addr;

use cirro_seams::container::MountSource;

use super::*;

/// What the CLI 28.2.2 sends for `docker run -p 8080:80 -v cache:/data -e A=b --restart on-failure:3 …`.
const CLI_REQUEST: &str = include_str!("cli_request.json");

fn without_nulls(text: &str) -> Value {
    let mut value: Value = serde_json::from_str(text).unwrap();
    fn strip(value: &mut Value) {
        if let Value::Object(map) = value {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip);
        }
    }
    strip(&mut value);
    value
}

fn translated(document: Value) -> Result<ContainerSpec, ApiError> {
    translate(Some("web".into()), document, || Some(Ipv4Addr::new(172, 17, 0, 1).into()))
        .map(|(spec, _)| spec)
}

fn with(member: &str, value: Value) -> Result<ContainerSpec, ApiError> {
    translated(json!({ "Image": "busybox", "HostConfig": { member: value } }))
}

#[test]
fn the_clis_request_is_understood() {
    let spec = translated(without_nulls(CLI_REQUEST)).unwrap();
    assert_eq!(spec.name.as_deref(), Some("web"));
    assert_eq!(spec.image, "busybox");
    assert_eq!(spec.command, Some(vec!["sleep".to_owned(), "60".to_owned()]));
    assert_eq!(spec.entrypoint, None);
    assert_eq!(spec.env, ["A=b"]);
    assert_eq!(spec.network, NetworkMode::Default);
    assert_eq!(spec.restart, RestartPolicy::OnFailure(3));
    assert_eq!((spec.publish[0].host_port, spec.publish[0].port), (Some(8080), 80));
    assert_eq!(spec.mounts[0].source, MountSource::Volume { name: Some("cache".into()) });
    assert_eq!(spec.resources.memory, Some(64 << 20));
    assert_eq!(spec.face["HostConfig"]["Binds"][0], "cache:/data");
}

#[test]
fn an_entrypoint_silences_the_images_command() {
    let argv_of = |document: Value| {
        let spec = translated(document).unwrap();
        (spec.entrypoint, spec.command)
    };
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!(argv_of(json!({"Image": "x"})), (None, None));
    assert_eq!(argv_of(json!({"Image": "x", "Cmd": []})), (None, None));
    assert_eq!(argv_of(json!({"Image": "x", "Cmd": "ls"})), (None, words(&["ls"])));
    assert_eq!(argv_of(json!({"Image": "x", "Entrypoint": ["sh"]})), (words(&["sh"]), words(&[])));
    assert_eq!(
        argv_of(json!({"Image": "x", "Entrypoint": [""], "Cmd": ["ls"]})),
        (words(&[]), words(&["ls"]))
    );
}

#[test]
fn fields_that_are_not_there_yet_are_refused() {
    for (member, value) in [("LogConfig", json!({"Type": "journald"})), ("Cgroup", json!("container:x"))] {
        let error = with(member, value.clone()).unwrap_err();
        assert_eq!(error.status, 501, "{member} {value}: {error}");
    }
    let health = translated(json!({"Image": "x", "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5}}));
    assert_eq!(health.unwrap_err().message, "Interval in Healthcheck cannot be less than 1ms");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (member, value) in [
        ("Dns", json!(["dns.example"])),
        ("ExtraHosts", json!(["only-a-name"])),
        ("ShmSize", json!(-1)),
        ("PidMode", json!("sometimes")),
        ("OomScoreAdj", json!(5000)),
        ("Ulimits", json!([{"Name": "nofile", "Soft": 5, "Hard": 1}])),
        ("LogConfig", json!({"Config": {"max-size": "big"}})),
        ("Binds", json!([5])),
        ("VolumesFrom", json!(["a:odd"])),
    ] {
        assert_eq!(with(member, value.clone()).unwrap_err().status, 400, "{member} {value}");
    }
    assert_eq!(translated(json!({})).unwrap_err().status, 400);
    assert_eq!(translated(json!([])).unwrap_err().status, 400);
}

#[test]
fn what_cannot_be_together_is_refused() {
    let host = json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}});
    let error = translated(json!({"Image": "x", "HostConfig": host})).unwrap_err();
    assert_eq!(error.message, "can't create 'AutoRemove' container with restart policy");
    let host = json!({"NetworkMode": "container:a", "PublishAllPorts": true});
    assert!(translated(json!({"Image": "x", "HostConfig": host})).is_err());
}

#[test]
fn ports_are_discarded_on_the_hosts_network() {
    let host = json!({"NetworkMode": "host", "PortBindings": {"80/tcp": [{"HostPort": "80"}]}});
    let (spec, warnings) = translate(None, json!({"Image": "x", "HostConfig": host}), || None).unwrap();
    assert!(spec.publish.is_empty());
    assert_eq!(warnings, [PORTS_DISCARDED]);
}

#[test]
fn small_forms_are_parsed() {
    let spec = with("ExtraHosts", json!(["db:10.0.0.1", "six:[::1]", "gw:host-gateway"])).unwrap();
    assert_eq!(spec.extra_hosts[0], ("db".into(), [10, 0, 0, 1].into()));
    assert_eq!(spec.extra_hosts[2].1.to_string(), "172.17.0.1");
    let spec = with("Ulimits", json!([{"Name": "nofile", "Soft": 1024, "Hard": -1}])).unwrap();
    assert_eq!(spec.ulimits, [("nofile".to_owned(), 1024, u64::MAX)]);
    let spec = with("SecurityOpt", json!(["no-new-privileges:true", "seccomp=unconfined", "label=disable"]))
        .unwrap();
    assert_eq!(spec.security_opt.len(), 3);
}

#[test]
fn a_console_size_is_rows_then_columns() {
    assert_eq!(console_size(&json!([24, 80])), Ok(Some((80, 24))));
    assert_eq!(console_size(&json!([0, 0])), Ok(None));
    assert_eq!(console_size(&Value::Null), Ok(None));
    assert!(console_size(&json!([1])).is_err());
    assert!(console_size(&json!([70000, 1])).is_err());
}

#[test]
fn names_and_platforms_are_checked() {
    assert_eq!(container_name("/web-1"), Ok("web-1".to_owned()));
    for name in ["", "a", "-web", "we b", "a/b", &"x".repeat(300)] {
        assert!(container_name(name).is_err(), "{name}");
    }
    let here = go_architecture();
    for platform in
        ["linux", &format!("linux/{here}"), here, &format!(r#"{{"os":"linux","architecture":"{here}"}}"#)]
    {
        assert_eq!(check_platform(Some(platform)), Ok(()), "{platform}");
    }
    assert_eq!(check_platform(Some("windows/amd64")).unwrap_err().status, 501);
    assert_eq!(check_platform(Some("linux/s390x")).unwrap_err().status, 501);
}
