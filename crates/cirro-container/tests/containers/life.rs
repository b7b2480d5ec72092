//! Making, starting, ending, removing.

use cirro_container::{ContainerError, Rootfs, WorkloadPhase};
use serde_json::json;

use crate::cloud::{Cloud, changed_spec, is_alive, spec, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_and_leaves_nothing() {
    let mut cloud = Cloud::start().await;
    let state = within(cloud.supervisor.create(cloud.container("one", &["true"]))).await.expect("create");
    assert_eq!((state.phase, state.exit.is_none()), (WorkloadPhase::Created, true));
    assert!(is_alive(state.pid.expect("pid")));
    within(cloud.supervisor.start("one")).await.expect("start");
    let exit = cloud.exit("one").await;
    assert_eq!((exit.code, exit.oom_killed), (Some(0), false));
    assert_eq!(exit.at.len(), 30);
    let again = cloud.supervisor.create(cloud.container("one", &["true"])).await;
    assert!(matches!(again, Err(ContainerError::State(_))), "{again:?}");
    within(cloud.supervisor.delete("one", false)).await.expect("delete");
    assert!(matches!(cloud.supervisor.delete("one", false).await, Err(ContainerError::NotFound(_))));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals_are_told() {
    let mut cloud = Cloud::start().await;
    cloud.run("seven", "exit 7").await;
    assert_eq!(cloud.exit("seven").await.code, Some(7));
    cloud.run("sleeper", "exec sleep 1000").await;
    assert!(matches!(cloud.supervisor.delete("sleeper", false).await, Err(ContainerError::State(_))));
    within(cloud.supervisor.kill("sleeper", 9, false)).await.expect("kill");
    assert_eq!(cloud.exit("sleeper").await.code, Some(137));
    let late = cloud.supervisor.kill("sleeper", 15, false).await;
    assert!(matches!(late, Err(ContainerError::State(_))), "{late:?}");
    cloud.run("trapper", "trap 'exit 3' TERM; while :; do sleep 0.01; done").await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    within(cloud.supervisor.kill("trapper", 15, false)).await.expect("kill");
    assert_eq!(cloud.exit("trapper").await.code, Some(3));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_forbidden_commands_are_told_apart() {
    let mut cloud = Cloud::start().await;
    for (id, command) in [("a", "nonsense"), ("b", "/bin/nonsense")] {
        let error =
            within(cloud.supervisor.create(cloud.container(id, &[command]))).await.expect_err("refused");
        assert!(
            matches!(&error, ContainerError::CommandNotFound(text) if text.contains(command)),
            "{error:?}"
        );
    }
    let error =
        within(cloud.supervisor.create(cloud.container("c", &["/etc/data"]))).await.expect_err("refused");
    assert_eq!(
        error,
        ContainerError::CommandNotExecutable("exec: \"/etc/data\": permission denied".to_owned())
    );
    assert_eq!(cloud.supervisor.list().await.expect("list"), []);
    // What the kernel refuses after the start is said on stderr, as runc does.
    cloud.start_container(cloud.container("broken", &["/etc/broken"])).await;
    assert_eq!(cloud.exit("broken").await.code, Some(255));
    assert_eq!(cloud.lines("broken").await, [("exec /etc/broken: exec format error\n".to_owned(), true)]);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_inside_is_what_was_asked_for() {
    let mut cloud = Cloud::start().await;
    let script = "echo $HOME; pwd; cat /proc/sys/kernel/hostname; id; ulimit -n >/dev/null && echo limit; \
                  grep CapBnd /proc/self/status; touch /new 2>/dev/null; cat /proc/mounts | grep -c ' / overlay'";
    let mut request = cloud.container("inside", &["sh", "-c", script]);
    request.spec = changed_spec(&["sh", "-c", script], |spec| {
        spec["process"]["cwd"] = json!("/work/deep");
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5]});
    });
    cloud.start_container(request).await;
    assert_eq!(cloud.exit("inside").await.code, Some(0), "{}", cloud.text("inside").await);
    let text = cloud.text("inside").await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["/", "/work/deep", "box"]);
    assert!(lines[3].starts_with("uid=1000 gid=1000 groups=") && lines[3].contains('5'), "{}", lines[3]);
    assert_eq!(lines[4], "limit");
    // CHOWN 0, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10, and SYS_RESOURCE 24 only where the host has it.
    let bounding = u64::from_str_radix(lines[5].trim_start_matches("CapBnd:").trim(), 16).expect("mask");
    assert_eq!(bounding & !(1 << 24), 0b100_1110_0001, "{}", lines[5]);
    // One overlay.
    assert_eq!(lines[6..], ["1"], "{text}");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_layers_fit_and_the_host_sees_no_mount() {
    let mut cloud = Cloud::start().await;
    // Other tests mount what they need meanwhile: only ours are looked at.
    let mounts = |cloud: &Cloud| -> Vec<String> {
        let own = cloud.path("").to_string_lossy().into_owned();
        let all = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        all.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect()
    };
    let long = "x".repeat(200);
    let mut lower = Vec::new();
    for number in (0..126).rev() {
        let layer = cloud.path("layers").join(&long).join(format!("{number}-{long}"));
        std::fs::create_dir_all(&layer).expect("layer");
        std::fs::write(layer.join(format!("file{number}")), number.to_string()).expect("file");
        std::fs::write(layer.join("top"), number.to_string()).expect("file");
        lower.push(layer);
    }
    lower.push(cloud.path("layer"));
    let mut request = cloud.container("many", &["sh", "-c", "cat /file0 /file125 /top; exec sleep 1000"]);
    request.rootfs = Rootfs { lower, ..request.rootfs };
    cloud.start_container(request).await;
    let log = cloud.log("many");
    // Numbers without line ends: the line stays unfinished until the end.
    crate::cloud::until(|| cloud_partial(&cloud, "many") == "0125125").await;
    assert_eq!(mounts(&cloud), Vec::<String>::new());
    within(cloud.supervisor.kill("many", 9, true)).await.expect("kill");
    cloud.exit("many").await;
    assert!(log.exists());
    assert_eq!(cloud.text("many").await, "0125125");
    cloud.end().await;
}

fn cloud_partial(cloud: &Cloud, id: &str) -> String {
    std::fs::read_to_string(cloud.run_dir().join("supervisor").join(id).join("stdout.partial"))
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_want_of_memory_is_told() {
    let mut cloud = Cloud::start().await;
    let script = "dd if=/dev/zero of=/dev/null bs=64M count=1; exit 5";
    let mut request = cloud.container("hungry", &["sh", "-c", script]);
    request.spec = changed_spec(&["sh", "-c", script], |spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 8 << 20, "swap": 8 << 20});
        spec["linux"]["resources"]["pids"] = json!({"limit": 20});
    });
    cloud.start_container(request).await;
    let exit = cloud.exit("hungry").await;
    assert_eq!((exit.code, exit.oom_killed), (Some(5), true));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_container_stands_still() {
    let mut cloud = Cloud::start().await;
    cloud.run("ticker", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done").await;
    let log = cloud.log("ticker");
    let size = || std::fs::metadata(&log).map_or(0, |data| data.len());
    crate::cloud::until(|| size() > 0).await;
    within(cloud.supervisor.set_paused("ticker", true)).await.expect("pause");
    assert_eq!(cloud.state("ticker").await.phase, WorkloadPhase::Paused);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let frozen = size();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(size(), frozen);
    assert!(matches!(cloud.supervisor.set_paused("ticker", true).await, Err(ContainerError::State(_))));
    within(cloud.supervisor.set_paused("ticker", false)).await.expect("go on");
    crate::cloud::until(|| size() > frozen).await;
    within(cloud.supervisor.set_paused("ticker", true)).await.expect("pause");
    // What is frozen can be removed by force.
    within(cloud.supervisor.delete("ticker", true)).await.expect("delete");
    assert!(matches!(cloud.supervisor.kill("ticker", 9, false).await, Err(ContainerError::NotFound(_))));
    cloud.events = cloud.supervisor.events();
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pid_namespace_the_children_die_too() {
    let mut cloud = Cloud::start().await;
    let script = "sleep 1000 & sleep 1000 & echo ready; exec sleep 1000";
    let mut request = cloud.container("shared", &["sh", "-c", script]);
    request.spec = changed_spec(&["sh", "-c", script], |spec| {
        spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]);
    });
    cloud.start_container(request).await;
    let log = cloud.log("shared");
    crate::cloud::until(|| std::fs::metadata(&log).is_ok_and(|data| data.len() > 0)).await;
    within(cloud.supervisor.kill("shared", 9, false)).await.expect("kill");
    assert_eq!(cloud.exit("shared").await.code, Some(137));
    within(cloud.supervisor.delete("shared", false)).await.expect("delete");
    assert!(cloud.cgroups().iter().all(|group| !group.join("shared").exists()));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_and_leave_nothing() {
    let cloud = Cloud::start().await;
    for id in ["", "../x", "a/b", "supervisor", ".hidden"] {
        let mut request = cloud.container("good", &["true"]);
        request.id = id.to_owned();
        let error = cloud.supervisor.create(request).await.expect_err("refused");
        assert!(matches!(error, ContainerError::State(_)), "{id}: {error:?}");
    }
    let mut request = cloud.container("nolayer", &["true"]);
    request.rootfs.lower = vec!["/nonexistent".into()];
    let error = within(cloud.supervisor.create(request)).await.expect_err("refused");
    assert!(matches!(&error, ContainerError::Runtime(text) if text.contains("overlay")), "{error:?}");
    let mut request = cloud.container("hooked", &["true"]);
    request.spec =
        changed_spec(&["true"], |spec| spec["hooks"] = json!({"poststop": [{"path": "/bin/true"}]}));
    assert!(matches!(within(cloud.supervisor.create(request)).await, Err(ContainerError::State(_))));
    // A created container is removed without force.
    within(cloud.supervisor.create(cloud.container("idle", &["true"]))).await.expect("create");
    within(cloud.supervisor.delete("idle", false)).await.expect("delete");
    assert_eq!(cloud.supervisor.list().await.expect("list"), []);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_root_without_layers_can_be_asked_for() {
    let cloud = Cloud::start().await;
    let mut request = cloud.container("scratch", &["/nothing"]);
    request.rootfs.lower = Vec::new();
    request.spec = spec(&["/nothing"]);
    let error = within(cloud.supervisor.create(request)).await.expect_err("nothing is in it");
    assert!(matches!(error, ContainerError::CommandNotFound(_)), "{error:?}");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_containers_at_once_all_run() {
    let mut cloud = Cloud::start().await;
    let mut tasks = Vec::new();
    for number in 0..30 {
        let (supervisor, id) = (cloud.supervisor.clone(), format!("p{number}"));
        let request = cloud.container(&id, &["sh", "-c", &format!("echo {number}; exit {number}")]);
        tasks.push(tokio::spawn(async move {
            supervisor.create(request).await.expect("create");
            supervisor.start(&id).await.expect("start");
        }));
    }
    for task in tasks {
        within(task).await.expect("task");
    }
    for number in 0..30 {
        let id = format!("p{number}");
        assert_eq!(cloud.exit(&id).await.code, Some(number));
        assert_eq!(cloud.text(&id).await, format!("{number}\n"));
    }
    cloud.end().await;
}
