//! What a document asks for, one thing after the other.

use serde_json::{Value, json};

use super::{container, refused, said};
use crate::cloud::{Cloud, changed_spec, collect, until, within};

fn mount(spec: &mut Value, destination: &str, kind: &str, source: &str, options: &[&str]) {
    let mounts = spec["mounts"].as_array_mut().expect("mounts");
    mounts.push(json!({"destination": destination, "type": kind, "source": source, "options": options}));
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_what_their_options_say() {
    let mut cloud = Cloud::start().await;
    let data = cloud.path("data");
    std::fs::create_dir_all(data.join("sub")).expect("directory");
    std::fs::write(data.join("file"), "from the host\n").expect("file");
    let source = data.display().to_string();
    let script = "
        cat /bound/file; echo x > /bound/new && echo writable
        echo x > /fixed/new || echo fixed; echo x > /fixed/sub/new || echo deep fixed
        cat /one; echo y > /one || echo one fixed
        ls /copied/busybox; echo x > /copied/new && echo copied; busybox stat -c %a /copied /plain
        busybox awk '$2 == \"/plain\" { print $1, $4 }' /proc/mounts
        ls /sys/fs/cgroup | busybox wc -l; echo 1 > /sys/fs/cgroup/pids/pids.max || echo cgroup fixed
        busybox mkdir /sys/fs/cgroup/x || echo holder fixed";
    let request = container(&cloud, "mounts", script, |spec| {
        mount(spec, "/bound", "bind", &source, &["rbind", "rw"]);
        mount(spec, "/fixed", "none", &source, &["rbind", "rro", "rprivate"]);
        mount(spec, "/one", "bind", &format!("{source}/file"), &["bind", "ro"]);
        mount(spec, "/bin", "tmpfs", "x", &["tmpcopyup"]);
        mount(spec, "/copied", "bind", "/bin", &["bind", "ro"]);
        mount(spec, "/plain", "tmpfs", "words", &["nosuid", "nodev", "noexec", "mode=1770", "size=64k"]);
        spec["mounts"].as_array_mut().expect("mounts").retain(|one| one["destination"] != "/copied");
        mount(spec, "/copied", "tmpfs", "x", &[]);
    });
    let script = script.replace("ls /copied/busybox", "ls /bin/busybox");
    let mut request = request;
    request.spec = {
        let mut json = serde_json::to_value(&request.spec).expect("json");
        json["process"]["args"] = json!(["sh", "-c", script]);
        serde_json::from_value(json).expect("spec")
    };
    let text = said(&mut cloud, request).await;
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("sh: ") && !line.starts_with("mkdir")).collect();
    let hierarchies = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let separate = hierarchies.lines().filter(|line| line.split(' ').nth(2) == Some("cgroup")).count();
    let expected = [
        "from the host",
        "writable",
        "fixed",
        "deep fixed",
        "from the host",
        "one fixed",
        "/bin/busybox",
        "copied",
        "1777",
        "1770",
        "words rw,nosuid,nodev,noexec,relatime,size=64k,mode=1770",
    ];
    assert_eq!(lines[..expected.len()], expected, "{text}");
    if separate > 0 {
        assert_eq!(
            lines[expected.len()..],
            [&*separate.to_string(), "cgroup fixed", "holder fixed"],
            "{text}"
        );
    }
    assert!(data.join("new").exists() && !data.join("sub/new").exists());
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_new_or_anothers() {
    let mut cloud = Cloud::start().await;
    let home = cloud.run("home", "exec sleep 1000").await.pid.expect("pid");
    let script = "for n in net pid uts ipc mnt cgroup time; do busybox readlink /proc/self/ns/$n; done; busybox hostname;
                  cat /proc/self/timens_offsets; cat /proc/self/cgroup | grep -v ':/$' | busybox wc -l";
    let request = container(&cloud, "joined", script, |spec| {
        let path = |kind: &str| format!("/proc/{home}/ns/{kind}");
        spec["hostname"] = json!("other");
        spec["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "cgroup"}, {"type": "time"}, {"type": "uts"}, {"type": "network", "path": path("net")},
            {"type": "pid", "path": path("pid")}, {"type": "ipc", "path": path("ipc")}
        ]);
        spec["linux"]["timeOffsets"] =
            json!({"monotonic": {"secs": 1000}, "boottime": {"secs": 2000, "nanosecs": 5}});
    });
    let text = said(&mut cloud, request).await;
    let lines: Vec<&str> = text.lines().collect();
    let link = |pid: &str, kind: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace").display().to_string()
    };
    let home = home.to_string();
    for (index, kind) in ["net", "pid", "uts", "ipc", "mnt", "cgroup", "time"].into_iter().enumerate() {
        let joined = matches!(kind, "net" | "pid" | "ipc");
        assert_eq!(lines[index] == link(&home, kind), joined, "{kind}: {text}");
        assert_ne!(lines[index], link("self", kind), "{kind}: {text}");
    }
    assert_eq!(lines[7], "other");
    let offsets: Vec<Vec<&str>> = lines[8..10].iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(offsets, [["monotonic", "1000", "0"], ["boottime", "2000", "5"]]);
    assert_eq!(lines[10], "0", "every group is the root of its namespace");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_namespace_maps_users() {
    let mut cloud = Cloud::start().await;
    let root = cloud.path("users");
    std::fs::create_dir_all(&root).expect("directory");
    let source = root.display().to_string();
    std::os::unix::fs::chown(&root, Some(100_007), Some(100_007)).expect("owner");
    let script = "cat /proc/self/uid_map; id; echo x > /bound/file; busybox stat -c %u /bound /bound/file /mapped; ls -l /dev/null;
                  echo y > /dev/null && echo null; busybox hostname";
    let request = container(&cloud, "users", script, |spec| {
        spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        spec["process"]["user"] = json!({"uid": 7, "gid": 7});
        mount(spec, "/bound", "bind", &source, &["bind"]);
    });
    // The layer and what is written over it belong to the host's root: readable, which is enough here.
    let upper = request.rootfs.upper.clone();
    std::os::unix::fs::chown(&upper, Some(100_000), Some(100_000)).expect("owner");
    for place in ["bound", "mapped"] {
        std::fs::create_dir_all(cloud.path("layer").join(place)).expect("place");
    }
    let mut request = request;
    request.spec = {
        let mut json = serde_json::to_value(&request.spec).expect("json");
        let mounts = json["mounts"].as_array_mut().expect("mounts");
        mounts.push(
            json!({"destination": "/mapped", "type": "bind", "source": source, "options": ["bind", "idmap"],
            "uidMappings": [{"containerID": 100_007, "hostID": 100_003, "size": 1}],
            "gidMappings": [{"containerID": 100_007, "hostID": 100_003, "size": 1}]}),
        );
        serde_json::from_value(json).expect("spec")
    };
    let text = said(&mut cloud, request).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
    assert!(lines[1].starts_with("uid=7 gid=7"), "{text}");
    assert_eq!(lines[2..5], ["7", "7", "3"], "{text}");
    assert_eq!(lines[6..], ["null", "box"], "{text}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(root.join("file")).expect("file"));
    assert_eq!(owner, 100_007);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_names_and_devices_are_set() {
    let mut cloud = Cloud::start().await;
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax /proc/sys/kernel/domainname;
                  busybox stat -c '%F %t %T %a %u' /dev/deep/zero; echo x > /dev/deep/zero && echo used;
                  busybox mknod /tmp/null c 1 11 && (: < /tmp/null) || echo no log";
    let request = container(&cloud, "set", script, |spec| {
        spec["domainname"] = json!("example.org");
        spec["linux"]["sysctl"] =
            json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shmmax": "12345"});
        spec["linux"]["devices"] = json!([{"path": "/dev/deep/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3}]);
        spec["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
        let sets = spec["process"]["capabilities"].as_object_mut().expect("sets");
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.push(json!("CAP_MKNOD"));
            set.push(json!("CAP_DAC_OVERRIDE"));
        }
    });
    let text = said(&mut cloud, request).await;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("sh:")).collect();
    let expected = ["77", "12345", "example.org", "character special file 1 5 640 3", "used", "no log"];
    assert_eq!(lines, expected, "{text}");
    for (name, value) in [("kernel.core_pattern", "|/x"), ("net/../kernel/core_pattern", "|/x")] {
        let request =
            container(&cloud, "refused", "true", |spec| spec["linux"]["sysctl"] = json!({ name: value }));
        let error = within(cloud.supervisor.create(request)).await.expect_err("refused");
        assert!(error.to_string().contains("sysctl"), "{error}");
    }
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_in_their_order_and_stop_what_they_fail() {
    let mut cloud = Cloud::start().await;
    let notes = cloud.path("notes").display().to_string();
    let hook = |name: &str| {
        let script =
            format!("read state; echo {name} $(echo $state | grep -o '\"status\":\"[a-z]*\"') >> {notes}");
        json!({"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin"]})
    };
    let request = container(&cloud, "hooked", "cat /note; busybox id -u", |spec| {
        let inside = json!({"path": "/bin/busybox", "args": ["sh", "-c", "cat > /note; echo >> /note"], "env": ["PATH=/bin"]});
        spec["hooks"] = json!({"prestart": [hook("prestart")], "createRuntime": [hook("createRuntime"), hook("again")],
            "createContainer": [hook("createContainer")], "startContainer": [inside]});
    });
    let text = said(&mut cloud, request).await;
    assert!(
        text.contains("\"id\":\"hooked\"") && text.contains("\"pid\":") && text.ends_with("\n0\n"),
        "{text}"
    );
    let order = std::fs::read_to_string(&notes).expect("notes");
    let names: Vec<&str> = order.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["prestart", "createRuntime", "again", "createContainer"], "{order}");
    within(cloud.supervisor.delete("hooked", false)).await.expect("delete");
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let request = container(&cloud, "failing", "true", |spec| {
            let fail = json!({"path": "/bin/busybox", "args": ["sh", "-c", "echo because >&2; exit 9"]});
            spec["hooks"] = json!({ moment: [fail] });
        });
        let error = refused(&cloud, request).await.to_string();
        assert!(error.contains("exit status: 9") && error.contains("because"), "{moment}: {error}");
    }
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_the_console() {
    let mut cloud = Cloud::start().await;
    let script = "tty; stty size; busybox stat -c '%F %t %u' /dev/console; test /dev/console -ef $(tty) && echo same; \
                  echo to the console > /dev/console; ls /proc/self/fd | busybox wc -l";
    let mut request = container(&cloud, "tty", script, |spec| {
        spec["process"]["user"] = json!({"uid": 9, "gid": 9});
    });
    request.stdio.tty = true;
    request.stdio.size = Some((77, 33));
    cloud.start_container(request).await;
    assert_eq!(cloud.exit("tty").await.code, Some(0));
    let text = cloud.text("tty").await.replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        ["/dev/pts/0", "33 77", "character special file 88 9", "same", "to the console", "4"],
        "{text}"
    );
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_mounts_later_comes_in_where_asked_for() {
    let cloud = Cloud::start().await;
    let shared = cloud.path("shared");
    std::fs::create_dir_all(shared.join("sub")).expect("directory");
    let status = |args: &[&str]| {
        assert!(
            std::process::Command::new("mount").args(args).status().expect("mount").success(),
            "{args:?}"
        );
    };
    let path = shared.display().to_string();
    status(&["-t", "tmpfs", "x", &path]);
    status(&["--make-shared", &path]);
    std::fs::create_dir(shared.join("sub")).expect("directory");
    let request = container(&cloud, "slave", "exec sleep 1000", |spec| {
        mount(spec, "/slave", "bind", &path, &["rbind", "rslave"]);
        mount(spec, "/private", "bind", &path, &["rbind"]);
        spec["linux"]["rootfsPropagation"] = json!("rslave");
        let mounts = spec["mounts"].as_array_mut().expect("mounts");
        mounts.last_mut().expect("mount")["options"] = json!(["rbind", "rprivate"]);
    });
    cloud.start_container(request).await;
    status(&["-t", "tmpfs", "y", &format!("{path}/sub")]);
    std::fs::write(shared.join("sub/late"), "").expect("file");
    let process = changed_spec(&["sh", "-c", "ls /slave/sub /private/sub"], |_| ()).process().clone();
    let request = cirro_container::ExecProcess {
        process: process.expect("process"),
        stdio: cirro_container::Stdio::default(),
    };
    let (_, session) = within(cloud.supervisor.exec("slave", request)).await.expect("exec");
    let (text, errors, _) = collect(session).await;
    let unmounted = std::process::Command::new("umount").args(["-R", &path]).status().expect("umount");
    assert!(unmounted.success());
    assert_eq!(text, "/private/sub:\n\n/slave/sub:\nlate\n", "{errors}");
    let gone = cloud.path("shared/sub/late");
    until(|| !gone.exists()).await;
    cloud.end().await;
}
