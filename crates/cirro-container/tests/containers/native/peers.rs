//! The same document by our own way and by libcontainer: the same view from inside.

use serde_json::{Value, json};

use super::{by_libcontainer, container, said};
use crate::cloud::Cloud;

/// One line per fact. Of mounts: place, kind, and whether it is read-only; cgroups are left out, which libcontainer is not asked for.
const LOOK: &str = "
    busybox awk '$2 !~ \"^/sys/fs/cgroup\" { split($4, o, \",\"); print \"mount\", $2, $3, o[1] }' /proc/mounts | busybox sort
    grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups|NSpid)' /proc/self/status
    busybox env | busybox sort; pwd; busybox hostname; umask
    ls -la /dev | busybox awk '{ print \"dev\", $1, $3, $4, $NF }' | grep -v -E ' (\\.|\\.\\.|[0-9]+)$'
    for i in /dev/ptmx /dev/fd /dev/core; do busybox readlink $i; done
    ls /proc/self/fd | grep -v 3
    cat /proc/self/oom_score_adj
    for i in 0 1 2; do test -p /proc/self/fd/$i && echo pipe $i; done
    busybox stat -c '%F %t %T' /proc/keys; busybox wc -c /proc/keys
    (echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo read-only sys
    ulimit -a
    cat /proc/self/attr/current 2>/dev/null; cat /proc/self/cgroup | busybox sed 's/(own|other)$//;s/own$//;s/peer$//' | busybox sort";

async fn both(change: impl Fn(&mut Value)) -> (String, String) {
    let mut cloud = Cloud::start().await;
    let own = container(&cloud, "own", LOOK, &change);
    let own = said(&mut cloud, own).await;
    let peer = container(&cloud, "peer", LOOK, |spec| {
        change(spec);
        by_libcontainer(spec);
    });
    let peer = said(&mut cloud, peer).await;
    cloud.end().await;
    (own, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_container_looks_the_same_from_inside() {
    let (own, peer) = both(|_| ()).await;
    assert_eq!(own, peer);
    assert!(own.contains("mount /proc proc rw") && own.contains("mount /sys sysfs ro"), "{own}");
    assert!(own.contains("character special file 1 3"), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rich_container_looks_the_same_from_inside() {
    let (own, peer) = both(|spec| {
        spec["root"]["readonly"] = json!(true);
        spec["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [5, 9], "umask": 0o27});
        spec["process"]["noNewPrivileges"] = json!(true);
        spec["process"]["oomScoreAdj"] = json!(321);
        spec["process"]["env"] = json!(["PATH=/bin", "A=b", "HOME=/x"]);
        let sets = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
        spec["process"]["capabilities"] =
            json!({"bounding": sets, "effective": sets, "permitted": sets, "inheritable": sets, "ambient": sets});
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 500, "soft": 400},
                                            {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]);
        spec["linux"]["maskedPaths"] =
            json!(["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/nothing"]);
        spec["linux"]["readonlyPaths"] = json!(["/proc/bus", "/proc/sys", "/proc/irq", "/proc/sysrq-trigger"]);
        let mounts = spec["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "size=1m"]}));
        mounts.push(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid"]}));
        mounts.push(json!({"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "ro"]}));
    })
    .await;
    assert_eq!(own, peer);
    assert!(own.contains("CapAmb:\t0000000000000420"), "{own}");
    assert!(own.contains("mount / overlay ro") && own.contains("mount /etc/hosts"), "{own}");
}

/// docker's rule: `clone` is allowed unless it makes namespaces.
fn filter(spec: &mut Value) {
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["unshare", "no_such_call"], "action": "SCMP_ACT_ERRNO"}
        ]
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_confine_programs_and_commands_alike() {
    let mut cloud = Cloud::start().await;
    let script = "busybox mkdir /tmp/a 2>&1; busybox unshare -n true 2>&1; grep Seccomp: /proc/self/status";
    let expected = "mkdir: can't create directory '/tmp/a': Function not implemented\n\
                    unshare: unshare(0x40000000): Operation not permitted\nSeccomp:\t2\n";
    for (id, privileges) in [("own", false), ("confined", true), ("again", false)] {
        let request = container(&cloud, id, script, |spec| {
            filter(spec);
            spec["process"]["noNewPrivileges"] = json!(privileges);
        });
        assert_eq!(said(&mut cloud, request).await, expected, "{id}");
    }
    // Compiled once, kept beside the workloads.
    let kept = std::fs::read_dir(cloud.run_dir().join("supervisor/.filters")).expect("cache").count();
    assert_eq!(kept, 1);
    let request = container(&cloud, "home", "exec sleep 1000", filter);
    cloud.start_container(request).await;
    let process = crate::cloud::spec(&["sh", "-c", script]).process().clone().expect("process");
    let request = cirro_container::ExecProcess { process, stdio: cirro_container::Stdio::default() };
    let (_, session) = crate::cloud::within(cloud.supervisor.exec("home", request)).await.expect("exec");
    assert_eq!(crate::cloud::collect(session).await.0, expected);
    cloud.end().await;
}
