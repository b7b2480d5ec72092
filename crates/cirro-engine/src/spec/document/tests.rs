use cirro_seams::container::{ContainerSpec, Phase};
use cirro_seams::node::ExecRequest;

use super::*;
use crate::spec::capabilities::of_bits;

/// A container that nobody started.
pub(crate) fn container(spec: ContainerSpec) -> Container {
    Container {
        id: "0123456789abcdef".into(),
        name: "web".into(),
        spec,
        image_id: String::new(),
        args: vec!["sleep".into(), "1".into()],
        env: vec!["A=1".into(), "PATH=/own".into()],
        working_dir: "/app".into(),
        user: String::new(),
        labels: Default::default(),
        exposed_ports: vec![],
        phase: Phase::Created,
        pid: None,
        exit_code: None,
        oom_killed: false,
        error: None,
        created_at: String::new(),
        started_at: None,
        finished_at: None,
        health_check: None,
        health: None,
        restart_count: 0,
        endpoints: Vec::new(),
        ports: vec![],
        log_path: PathBuf::new(),
        mounts: vec![],
    }
}

fn host() -> HostFacts {
    HostFacts { capabilities: of_bits(u64::MAX), lowest_oom_score: -1000, ..HostFacts::default() }
}

fn user() -> User {
    User { uid: 33, gid: 34, groups: vec![6], home: "/var/www".into() }
}

fn made(spec: ContainerSpec) -> Value {
    let container = container(spec);
    let hostname = hostname(&container);
    let input = DocumentInput {
        container: &container,
        user: &user(),
        hostname: &hostname,
        joined: Joined { network: Some("/run/netns/x".into()), ..Joined::default() },
        files: "/c".into(),
        devices: HostDevices::default(),
        injection: Injection {
            env: vec!["GPU=0".into()],
            gids: vec![44],
            hooks: vec![("prestart".into(), json!({ "path": "/bin/true" }))],
            ..Injection::default()
        },
        links_env: vec!["DB_NAME=/web/db".into(), "A=never".into()],
        init: "/usr/bin/cirro".into(),
        host: &host(),
    };
    serde_json::to_value(document(&input).unwrap()).unwrap()
}

fn namespace_types(document: &Value) -> Vec<&str> {
    let all = document["linux"]["namespaces"].as_array().unwrap();
    all.iter().map(|namespace| namespace["type"].as_str().unwrap()).collect()
}

#[test]
fn a_plain_container_is_confined_as_docker_confines_it() {
    let document = made(ContainerSpec::default());
    assert_eq!(namespace_types(&document), ["mount", "ipc", "uts", "pid", "network"]);
    assert_eq!(document["hostname"], "0123456789ab");
    assert_eq!(document["linux"]["maskedPaths"].as_array().unwrap().len(), 12);
    assert_eq!(document["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(document["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(document["process"]["user"]["uid"], 33);
    assert_eq!(document["process"]["cwd"], "/app");
    assert_eq!(document["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
    let env = document["process"]["env"].as_array().unwrap();
    let expected = ["DB_NAME=/web/db", "A=1", "PATH=/own", "HOSTNAME=0123456789ab", "HOME=/var/www", "GPU=0"];
    assert_eq!(env, &expected);
    assert_eq!(document["hooks"]["prestart"][0]["path"], "/bin/true");
    assert_eq!(document["process"]["user"]["additionalGids"], json!([6, 44]));
    assert!(!document.to_string().contains("/proc/self/fd"));
}

#[test]
fn a_privileged_container_is_not() {
    let document = made(ContainerSpec { privileged: true, tty: true, ..ContainerSpec::default() });
    assert!(document["linux"].get("seccomp").is_none());
    assert!(document["linux"].get("maskedPaths").is_none_or(Value::is_null));
    assert_eq!(document["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    assert_eq!(document["linux"]["resources"]["devices"][0]["allow"], true);
    assert!(document["process"]["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
}

#[test]
fn the_hosts_processes_and_name_are_shared_on_request() {
    let spec = ContainerSpec {
        pid_mode: cirro_seams::container::PidMode::Host,
        namespaces: cirro_seams::container::Namespaces { host_uts: true, ..Default::default() },
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        ..ContainerSpec::default()
    };
    let document = made(spec);
    assert_eq!(namespace_types(&document), ["mount", "ipc", "network"]);
    assert!(document.get("hostname").is_none_or(Value::is_null));
    assert_eq!(document["annotations"]["a"], "b");
}

#[test]
fn an_init_of_ours_goes_before_the_command() {
    let document = made(ContainerSpec { init: true, ..ContainerSpec::default() });
    assert_eq!(document["process"]["args"], json!(["/sbin/docker-init", "--", "sleep", "1"]));
    let mounts = document["mounts"].as_array().unwrap();
    let init = mounts.iter().find(|mount| mount["destination"] == "/sbin/docker-init").unwrap();
    assert_eq!(init["source"], "/usr/bin/cirro");
    assert!(init["options"].as_array().unwrap().contains(&json!("ro")));
}

#[test]
fn an_exec_takes_the_containers_process_and_overrides_it() {
    let request = ExecRequest {
        command: vec!["id".into()],
        env: vec!["A=2".into()],
        working_dir: Some("/tmp".into()),
        tty: true,
        privileged: true,
        ..ExecRequest::default()
    };
    let process = exec_process(&container(ContainerSpec::default()), &request, &user(), &host()).unwrap();
    let process = serde_json::to_value(process).unwrap();
    assert_eq!(process["args"], json!(["id"]));
    assert_eq!(process["cwd"], "/tmp");
    assert!(process["env"].as_array().unwrap().contains(&json!("A=2")));
    assert_eq!(process["capabilities"]["effective"].as_array().unwrap().len(), 41);
}

#[test]
fn kernel_parameters_of_the_host_are_refused() {
    let with = |name: &str, network: NetworkMode| ContainerSpec {
        sysctls: [(name.to_owned(), "1".to_owned())].into(),
        network,
        ..ContainerSpec::default()
    };
    assert!(check_sysctls(&with("net.core.somaxconn", NetworkMode::Default)).is_ok());
    assert!(check_sysctls(&with("kernel.shmmax", NetworkMode::Host)).is_ok());
    assert!(check_sysctls(&with("net.core.somaxconn", NetworkMode::Host)).is_err());
    assert!(check_sysctls(&with("kernel.panic", NetworkMode::Default)).is_err());
    assert!(check_sysctls(&with("net.../../kernel/panic", NetworkMode::Default)).is_err());
}
