//! Every option of `docker run` that acts, by hand as a user would try it: what the command sees, or what the kernel was told.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::wait_for;

const PATIENCE: Duration = Duration::from_secs(60);

/// Options, a script, what it says.
type Case = (&'static str, &'static str, &'static str);

/// What the command sees. Without a network, unless the options say otherwise.
const SEEN: &[Case] = &[
    ("-e A=1 -e B=2", "echo $A$B", "12"),
    ("-u 12:34 --group-add 56", "id -u; id -g; id -G", "12 34 34 56"),
    ("-w /made/here", "pwd", "/made/here"),
    ("-h box --domainname example.org", "hostname; cat /proc/sys/kernel/domainname", "box example.org"),
    ("--network bridge --add-host db:10.9.8.7", "grep -c 10.9.8.7.*db /etc/hosts", "1"),
    (
        "--network bridge --dns 192.0.2.9 --dns-search example.org --dns-option ndots:3",
        "grep -v ^# /etc/resolv.conf",
        "nameserver 192.0.2.9 search example.org options ndots:3",
    ),
    ("--tmpfs /t:size=64k,mode=700", "df -k /t | tail -n 1 | awk '{print $2}'; stat -c %a /t", "64 700"),
    ("--read-only", "touch /x 2>/dev/null || echo refused", "refused"),
    ("--ulimit nofile=77:88", "ulimit -S -n; ulimit -H -n", "77 88"),
    ("--shm-size 2m", "df -k /dev/shm | tail -n 1 | awk '{print $2}'", "2048"),
    ("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"),
    (
        "--cap-drop ALL --cap-add CHOWN",
        "grep CapEff /proc/self/status | awk '{print $2}'",
        "0000000000000001",
    ),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status | awk '{print $2}'", "1"),
    ("", "grep Seccomp: /proc/self/status | awk '{print $2}'", "2"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status | awk '{print $2}'", "0"),
    (
        "--privileged",
        "mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs none /mnt && echo mounted",
        "mounted",
    ),
    (
        "--device /dev/fuse:/dev/other:r",
        "(: </dev/other) && echo opened; (: >/dev/other) 2>/dev/null || echo refused",
        "opened refused",
    ),
    (
        "--device-cgroup-rule 'c 10:229 r'",
        "mknod /k c 10 229 && (: </k) 2>/dev/null && echo opened",
        "opened",
    ),
    ("", "mknod /k c 10 229 && (: </k) 2>/dev/null || echo refused", "refused"),
    ("--sysctl net.core.somaxconn=77", "cat /proc/sys/net/core/somaxconn", "77"),
    ("--pid host", "test $$ -gt 1 && test -e /proc/2 && echo many", "many"),
    ("", "echo $$", "1"),
    ("--init", "cat /proc/1/cmdline | tr '\\0' ' ' | cut -d ' ' -f 1", "/sbin/docker-init"),
    ("--userns host", "cat /proc/self/uid_map | awk '{print $1 $2}'", "00"),
    ("--cgroupns private", "grep -c ':/$' /proc/self/cgroup | awk '{print ($1 > 0)}'", "1"),
    ("--entrypoint /bin/echo", "", "-c"),
    (
        "--mac-address 02:42:c0:a8:01:02 --network bridge",
        "cat /sys/class/net/eth0/address",
        "02:42:c0:a8:01:02",
    ),
    ("--isolation default --runtime cirro --platform linux/amd64 --pull never", "echo well", "well"),
    ("-v /etc/hostname:/seen:ro", "(echo x >/seen) 2>/dev/null || echo refused", "refused"),
    ("--expose 80 --stop-signal INT --stop-timeout 3 --annotation a=b --label c=d", "echo well", "well"),
    ("--memory-swappiness 10 --kernel-memory 64m", "echo well", "well"),
];

/// Options, a controller, its file in version 1 and in version 2, what is in it.
const TOLD: &[(&str, &str, &str, &str, &str)] = &[
    ("-m 64m --memory-swap 64m", "memory", "memory.limit_in_bytes", "memory.max", "67108864"),
    ("--memory-reservation 32m", "memory", "memory.soft_limit_in_bytes", "memory.low", "33554432"),
    ("--cpus 0.5", "cpu", "cpu.cfs_quota_us", "cpu.max", "50000"),
    ("--cpu-period 50000 --cpu-quota 10000", "cpu", "cpu.cfs_period_us", "cpu.max", "50000"),
    ("--cpu-shares 512", "cpu", "cpu.shares", "cpu.weight", "512"),
    ("--cpuset-cpus 0 --cpuset-mems 0", "cpuset", "cpuset.cpus", "cpuset.cpus", "0"),
    ("--pids-limit 33", "pids", "pids.max", "pids.max", "33"),
    ("--memory-swappiness 10", "memory", "memory.swappiness", "", "10"),
    ("-m 64m --oom-kill-disable", "memory", "memory.oom_control", "", "oom_kill_disable 1"),
    ("--device-cgroup-rule 'c 42:7 rm'", "devices", "devices.list", "", "c 42:7 rm"),
];

#[test]
fn every_option_of_docker_run_acts_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    for case in SEEN {
        is_seen(&cloud, case);
    }
    for (options, controller, one, two, wanted) in TOLD {
        is_told(&cloud, options, controller, [one, two], wanted);
    }
    block_devices_are_limited(&cloud);
    parents_of_cgroups_are_used(&cloud);
    namespaces_are_shared(&cloud);
    files_of_options_are_read(&cloud);
    health_is_watched(&cloud);
    graphics_cards_come_by_cdi(&cloud);
    logs_are_kept_as_asked(&cloud);
    what_makes_no_sense_is_refused(&cloud);
    cloud.end();
}

/// Splits options at blanks; quotes keep them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, piece) in text.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(piece.split_whitespace().map(str::to_owned)),
            _ => words.push(piece.to_owned()),
        }
    }
    words
}

fn docker(cloud: &Cloud, before: &[&str], options: &str, after: &[&str]) -> crate::commands::Said {
    let own = words(options);
    let network: &[&str] = if options.contains("--network") { &[] } else { &["--network", "none"] };
    let all = [before, network, &own.iter().map(String::as_str).collect::<Vec<_>>(), after].concat();
    cloud.docker(&all)
}

fn is_seen(cloud: &Cloud, (options, script, wanted): &Case) {
    let command: &[&str] =
        if options.contains("--entrypoint") { &["busybox", "-c"] } else { &["busybox", "sh", "-c", script] };
    let said = docker(cloud, &["run", "--rm"], options, command);
    let seen: Vec<&str> = said.stdout.split_whitespace().collect();
    assert_eq!(seen.join(" "), *wanted, "{options}: {}", said.stderr);
}

/// The directory of a running container's cgroup in the hierarchy of a controller, and whether that is version 1.
fn group(cloud: &Cloud, container: &str, controller: &str) -> Option<(PathBuf, bool)> {
    let pid = cloud.docker(&["inspect", "-f", "{{.State.Pid}}", container]).ok();
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).expect("cgroups");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let find = |wanted: &str| {
        let line = text.lines().find(|line| {
            line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == wanted))
        })?;
        Some(line.splitn(3, ':').nth(2)?.trim_start_matches('/').to_owned())
    };
    let mount = |wanted: &str, kind: &str| {
        let line = mounts.lines().find(|line| {
            let (_, right) = line.split_once(" - ").unwrap_or_default();
            right.starts_with(&format!("{kind} "))
                && (wanted.is_empty() || right.split([',', ' ']).any(|word| word == wanted))
        })?;
        line.split(' ').nth(4).map(PathBuf::from)
    };
    match find(controller) {
        Some(path) => Some((mount(controller, "cgroup")?.join(path), true)),
        None => Some((mount("", "cgroup2")?.join(find("")?), false)),
    }
}

fn is_told(cloud: &Cloud, options: &str, controller: &str, files: [&str; 2], wanted: &str) {
    let id = docker(cloud, &["run", "-d"], options, &["busybox", "sleep", "1000"]).ok();
    let (directory, first) = group(cloud, id.trim(), controller).expect("a cgroup");
    let file = files[usize::from(!first)];
    if !file.is_empty() && directory.join(file).exists() && (first || controller != "cpu") {
        let text = std::fs::read_to_string(directory.join(file)).expect("a file of the cgroup");
        assert!(text.lines().any(|line| line.trim() == wanted), "{options}: {text}");
    }
    cloud.docker(&["rm", "-f", id.trim()]).ok();
}

/// A whole block device of this host.
fn block_device() -> Option<(PathBuf, String)> {
    let entries = std::fs::read_dir("/sys/block").ok()?.flatten();
    entries.into_iter().find_map(|entry| {
        let path = Path::new("/dev").join(entry.file_name());
        let number = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        std::fs::metadata(&path).is_ok_and(|data| data.rdev() != 0).then(|| (path, number.trim().to_owned()))
    })
}

fn block_devices_are_limited(cloud: &Cloud) {
    let Some((device, number)) = block_device() else {
        eprintln!("no block device here: its limits are not tried");
        return;
    };
    let device = device.display();
    let options = format!(
        "--device-read-bps {device}:1mb --device-write-bps {device}:2mb --device-read-iops {device}:10 --device-write-iops {device}:20"
    );
    let id = docker(cloud, &["run", "-d"], &options, &["busybox", "sleep", "1000"]).ok();
    let (directory, first) = group(cloud, id.trim(), "blkio").expect("a cgroup");
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).expect("a file of the cgroup");
    if first {
        assert_eq!(read("blkio.throttle.read_bps_device").trim(), format!("{number} 1048576"));
        assert_eq!(read("blkio.throttle.write_bps_device").trim(), format!("{number} 2097152"));
        assert_eq!(read("blkio.throttle.read_iops_device").trim(), format!("{number} 10"));
        assert_eq!(read("blkio.throttle.write_iops_device").trim(), format!("{number} 20"));
    } else {
        assert!(read("io.max").contains("rbps=1048576 wbps=2097152 riops=10 wiops=20"));
    }
    cloud.docker(&["rm", "-f", id.trim()]).ok();
}

fn parents_of_cgroups_are_used(cloud: &Cloud) {
    let parent = format!("/{}-parent/inner", cloud.name);
    let options = format!("--cgroup-parent {parent} -m 64m");
    let id = docker(cloud, &["run", "-d"], &options, &["busybox", "sleep", "1000"]).ok();
    let id = id.trim();
    let (directory, _) = group(cloud, id, "memory").expect("a cgroup");
    assert!(directory.ends_with(format!("{}/{id}", &parent[1..])), "{}", directory.display());
    assert!(cloud.docker(&["stats", "--no-stream", id]).ok().contains("64MiB"));
    cloud.docker(&["update", "--pids-limit", "44", id]).ok();
    let inspected = cloud.docker(&["inspect", "-f", "{{.HostConfig.CgroupParent}}", id]).ok();
    assert_eq!(inspected.trim(), parent);
    cloud.docker(&["rm", "-f", id]).ok();
    let top = directory.ancestors().nth(2).expect("a parent");
    assert!(!top.exists(), "{} is left", top.display());
}

fn namespaces_are_shared(cloud: &Cloud) {
    let run = |name: &str, options: &str| {
        docker(cloud, &["run", "-d", "--name", name], options, &["busybox", "sleep", "1000"]).ok()
    };
    let link = |container: &str, kind: &str| {
        let pid = cloud.docker(&["inspect", "-f", "{{.State.Pid}}", container]).ok();
        std::fs::read_link(format!("/proc/{}/ns/{kind}", pid.trim())).expect("a namespace")
    };
    let host = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
    run("giver", "--ipc shareable");
    run("taker", "--ipc container:giver --pid container:giver --network container:giver");
    for kind in ["ipc", "pid", "net"] {
        assert_eq!(link("taker", kind), link("giver", kind), "{kind}");
        assert_ne!(link("giver", kind), host(kind), "{kind}");
    }
    cloud.docker(&["exec", "giver", "sh", "-c", "echo shared >/dev/shm/x"]).ok();
    assert_eq!(cloud.docker(&["exec", "taker", "cat", "/dev/shm/x"]).ok(), "shared\n");
    run("guest", "--ipc host --uts host --pid host --cgroupns host");
    for kind in ["ipc", "uts", "pid", "cgroup"] {
        assert_eq!(link("guest", kind), host(kind), "{kind}");
    }
    let never = ["run", "--rm", "--pull", "never"];
    let refused = docker(cloud, &never, "--ipc container:guest2", &["busybox", "true"]).fails();
    assert!(refused.contains("No such container: guest2"), "{refused}");
    cloud.docker(&["rm", "-f", "guest", "taker", "giver"]).ok();
}

fn files_of_options_are_read(cloud: &Cloud) {
    let path = |name: &str| cloud.directory.path().join(name).display().to_string();
    std::fs::write(path("env"), "# remark\nA=from a file\n").expect("a file");
    std::fs::write(path("labels"), "tier=front\n").expect("a file");
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(path("profile.json"), profile).expect("a file");
    let options = format!(
        "--env-file {} --label-file {} --security-opt seccomp={} --cidfile {}",
        path("env"),
        path("labels"),
        path("profile.json"),
        path("cid")
    );
    let script = "echo $A; mkdir /x 2>/dev/null || echo refused";
    let said = docker(cloud, &["run", "--name", "files"], &options, &["busybox", "sh", "-c", script]).ok();
    assert_eq!(said, "from a file\nrefused\n");
    let format = "{{.Id}} {{index .Config.Labels \"tier\"}}";
    let inspected = cloud.docker(&["inspect", "-f", format, "files"]).ok();
    let id = std::fs::read_to_string(path("cid")).expect("the id");
    assert_eq!(inspected.trim(), format!("{id} front"));
    cloud.docker(&["rm", "files"]).ok();
}

fn health_is_watched(cloud: &Cloud) {
    let options = "--health-cmd 'test -e /ok' --health-interval 200ms --health-timeout 5s --health-retries 2 --health-start-period 1ms";
    docker(cloud, &["run", "-d", "--name", "patient"], options, &["busybox", "sleep", "1000"]).ok();
    let status = |wanted: &str| {
        wait_for(wanted, PATIENCE, || {
            let said = cloud.docker(&["inspect", "-f", "{{.State.Health.Status}}", "patient"]).ok();
            (said.trim() == wanted).then_some(())
        });
    };
    status("unhealthy");
    cloud.docker(&["exec", "patient", "touch", "/ok"]).ok();
    status("healthy");
    cloud.docker(&["rm", "-f", "patient"]).ok();
    docker(cloud, &["run", "-d", "--name", "patient"], "--no-healthcheck", &["busybox", "sleep", "1000"])
        .ok();
    assert_eq!(cloud.docker(&["inspect", "-f", "{{.State.Health}}", "patient"]).ok().trim(), "<nil>");
    cloud.docker(&["rm", "-f", "patient"]).ok();
}

/// A CDI file of the host that goes with the test.
struct Cdi(PathBuf);

impl Drop for Cdi {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn graphics_cards_come_by_cdi(cloud: &Cloud) {
    let kind = format!("{}.example.com/gpu", cloud.name);
    std::fs::create_dir_all("/var/run/cdi").expect("a directory");
    let file = Cdi(PathBuf::from(format!("/var/run/cdi/{}.json", cloud.name)));
    let document = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": kind,
        "devices": [{ "name": "card0", "containerEdits": {
            "env": ["CARD=zero"],
            "deviceNodes": [{ "path": "/dev/card0", "hostPath": "/dev/zero" }],
        }}],
    });
    std::fs::write(&file.0, document.to_string()).expect("a file");
    let script = "echo $CARD; head -c 2 /dev/card0 | od -An -tx1";
    let command = ["busybox", "sh", "-c", script];
    let by_name = docker(cloud, &["run", "--rm"], &format!("--device {kind}=card0"), &command).ok();
    assert_eq!(by_name.split_whitespace().collect::<Vec<_>>(), ["zero", "00", "00"]);
    let asked = docker(cloud, &["run", "--rm"], "--gpus all", &command);
    // Another test's card may be there at the same moment.
    assert!(asked.code == 0 && asked.stdout.contains("00 00"), "{}", asked.stderr);
    let missing = docker(cloud, &["run", "--rm"], &format!("--device {kind}=card9"), &command).fails();
    assert!(missing.contains("card9"), "{missing}");
}

fn logs_are_kept_as_asked(cloud: &Cloud) {
    let many = "seq 1 20000; echo last";
    let run = |name: &str, options: &str| {
        docker(cloud, &["run", "-d", "--name", name], options, &["busybox", "sh", "-c", many]).ok();
        cloud.docker(&["wait", name]).ok();
    };
    let lines = |name: &str| cloud.docker(&["logs", "--tail", "3", name]).ok();
    run(
        "packed",
        "--log-driver json-file --log-opt max-size=100k --log-opt max-file=20 --log-opt compress=true",
    );
    run("local", "--log-driver local --log-opt max-size=100k --log-opt max-file=3");
    run("loose", "--log-opt mode=non-blocking --log-opt max-buffer-size=4m");
    for name in ["packed", "local", "loose"] {
        assert_eq!(lines(name), "19999\n20000\nlast\n", "{name}");
    }
    assert_eq!(cloud.docker(&["logs", "packed"]).ok().lines().count(), 20_001);
    docker(cloud, &["run", "-d", "--name", "silent"], "--log-driver none", &["busybox", "echo", "x"]).ok();
    let refused = cloud.docker(&["logs", "silent"]).fails();
    assert!(refused.contains("configured logging driver does not support reading"), "{refused}");
    cloud.docker(&["rm", "-f", "packed", "local", "loose", "silent"]).ok();
}

fn what_makes_no_sense_is_refused(cloud: &Cloud) {
    for (options, text) in [
        ("--userns keep-id", "invalid"),
        ("--pid container:absent", "No such container: absent"),
        ("--oom-score-adj 2000", "range for oom score adj is [-1000, 1000]"),
        ("--memory 1m", "Minimum memory limit allowed is 6MB"),
        ("--cpus 100000", "range of CPUs is from"),
        ("--cpuset-cpus 4000", "not available"),
        ("--security-opt nonsense=1", "nonsense"),
        ("--runtime absent", "unknown or invalid runtime name: absent"),
        (
            "--log-opt compress=true --log-opt max-file=1",
            "compress cannot be true when max-file is less than 2",
        ),
        ("--volume-driver absent -v x:/y", "plugin \"absent\" not found"),
        ("--cgroup-parent /", "cgroup"),
    ] {
        // Of a 404 the client thinks that the image is missing.
        let said = docker(cloud, &["run", "--rm", "--pull", "never"], options, &["busybox", "true"]).fails();
        assert!(said.contains(text), "{options}: {said}");
    }
}
