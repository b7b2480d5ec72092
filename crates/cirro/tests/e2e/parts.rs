//! Parts of a running pod that change: a container is added for a look at it, and it gets other resources.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::wait_for;
use crate::walk_kubernetes::manifest;

const PATIENCE: Duration = Duration::from_secs(60);
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, 'exec sleep 100000']
    resources:
      requests: {cpu: 20m, memory: 16Mi}
      limits: {cpu: 200m, memory: 32Mi}
  - name: picky
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, 'trap exit TERM; sleep 100000 & wait']
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
    resources:
      requests: {cpu: 20m, memory: 16Mi}
      limits: {cpu: 200m, memory: 64Mi}
";

/// What a container's cgroup allows, by either form of cgroups: bytes, and microseconds in each tenth of a second.
fn limits(id: &str) -> Option<[String; 2]> {
    let files = [["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us"], ["memory.max", "cpu.max"]];
    files.into_iter().find_map(|names| {
        let read = |name: &str| {
            let (root, file) = name.split_once('/').map_or(("", name), |(root, file)| (root, file));
            let clouds = fs::read_dir(Path::new("/sys/fs/cgroup").join(root)).ok()?.flatten();
            let text = clouds
                .map(|cloud| cloud.path().join(id).join(file))
                .find_map(|path| fs::read_to_string(path).ok())?;
            Some(text.split_whitespace().next()?.to_owned())
        };
        Some([read(names[0])?, read(names[1])?])
    })
}

#[test]
fn a_running_pod_is_looked_at_and_resized_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let file = manifest(&cloud, "web.yaml", POD);
    let kubectl = |words: &[&str]| cloud.kubectl(words);
    kubectl(&["create", "-f", &file]).ok();
    kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).ok();
    look(&cloud);
    resize(&cloud);
    kubectl(&["delete", "pod", "web", "--timeout=60s"]).ok();
    cloud.end();
}

/// What `kubectl debug` adds sees the processes of its target, speaks, is reached, and is not started again.
fn look(cloud: &Cloud) {
    let kubectl = |words: &[&str]| cloud.kubectl(words);
    let debug =
        ["debug", "web", "--image=busybox", "--image-pull-policy=Never", "--target=main", "--container=look"];
    let script = ["--", "sh", "-c", "echo here; ps; until test -e /end; do sleep 1; done"];
    kubectl(&[&debug[..], &script[..]].concat()).ok();
    let state = |path: &str| {
        let path = format!("jsonpath={{.status.ephemeralContainerStatuses[0].{path}}}");
        kubectl(&["get", "pod", "web", "-o", &path]).ok()
    };
    wait_for("the look to run", PATIENCE, || (!state("state.running").is_empty()).then_some(()));
    let log = wait_for("what it says", PATIENCE, || {
        let log = kubectl(&["logs", "web", "-c", "look"]).ok();
        log.contains("sleep 100000").then_some(log)
    });
    assert!(log.starts_with("here\n"), "{log}");
    let seen = kubectl(&["exec", "web", "-c", "look", "--", "cat", "/proc/1/cmdline"]).ok();
    assert!(seen.replace('\0', " ").contains("sleep 100000"), "it does not see its target: {seen:?}");
    assert_eq!(kubectl(&["exec", "web", "-c", "look", "--", "hostname"]).ok().trim(), "web");
    // It ends, and that is all.
    kubectl(&["exec", "web", "-c", "look", "--", "touch", "/end"]).ok();
    wait_for("its end", PATIENCE, || (!state("state.terminated").is_empty()).then_some(()));
    assert_eq!(state("restartCount"), "0");
    let ready = ["get", "pod", "web", "-o", "jsonpath={.status.phase} {.status.containerStatuses[*].ready}"];
    assert_eq!(kubectl(&ready).ok(), "Running true true");
}

/// New limits reach the cgroup of the running container; where the pod asks for it, the container starts again.
fn resize(cloud: &Cloud) {
    let kubectl = |words: &[&str]| cloud.kubectl(words);
    let limits = |index: usize| {
        let path = format!("jsonpath={{.status.containerStatuses[{index}].containerID}}");
        let id = kubectl(&["get", "pod", "web", "-o", &path]).ok();
        limits(id.trim_start_matches("cirro://"))
    };
    let are = |memory: &str, processors: &str| Some([memory.to_owned(), processors.to_owned()]);
    assert_eq!(limits(0), are("33554432", "20000"));
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"30m"},"limits":{"cpu":"300m","memory":"48Mi"}}}]}}"#;
    kubectl(&["patch", "pod", "web", "--subresource", "resize", "-p", patch]).ok();
    wait_for("the new limits", PATIENCE, || (limits(0) == are("50331648", "30000")).then_some(()));
    let told =
        |path: &str| kubectl(&["get", "pod", "web", "-o", &format!("jsonpath={{.status.{path}}}")]).ok();
    wait_for("the status to tell", PATIENCE, || {
        (told("containerStatuses[0].resources.limits.memory") == "48Mi").then_some(())
    });
    assert_eq!(told("containerStatuses[0].allocatedResources.cpu"), "30m");
    assert_eq!(told("containerStatuses[0].restartCount"), "0");

    let patch = r#"{"spec":{"containers":[{"name":"picky","resources":{"limits":{"memory":"40Mi"}}}]}}"#;
    kubectl(&["patch", "pod", "web", "--subresource", "resize", "-p", patch]).ok();
    wait_for("another start", PATIENCE, || (told("containerStatuses[1].restartCount") == "1").then_some(()));
    wait_for("its limits", PATIENCE, || (limits(1) == are("41943040", "20000")).then_some(()));

    // More than the host has is told, and nothing changes.
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"5000"},"limits":{"cpu":"5000"}}}]}}"#;
    kubectl(&["patch", "pod", "web", "--subresource", "resize", "-p", patch]).ok();
    let pending = r#"conditions[?(@.type=="PodResizePending")].reason"#;
    wait_for("the refusal", PATIENCE, || (told(pending) == "Infeasible").then_some(()));
    assert_eq!(limits(0), are("50331648", "30000"));
}
